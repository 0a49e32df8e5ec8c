"""`explain_dataset`: explanations of every row of a data set, which resume where they were stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from llm_attr.errors import InvalidType, InvalidValue, UnknownName, positive
from llm_attr.llm.jobs.dataset_run import DatasetRun
from llm_attr.llm.jobs.job import Job, Share
from llm_attr.llm.jobs.model_source import ModelSource
from llm_attr.llm.jobs.processes import run_processes
from llm_attr.llm.jobs.progress import RunProgress
from llm_attr.llm.jobs.ray_actors import run_ray
from llm_attr.llm.jobs.row_function import with_seed
from llm_attr.llm.jobs.rows.opened import source_of
from llm_attr.llm.jobs.rows.prompts import RowPrompts
from llm_attr.llm.jobs.rows.source import RowSource
from llm_attr.llm.jobs.rows.template import Messages, Template
from llm_attr.llm.jobs.storage.folder import Folder, checked_path
from llm_attr.llm.jobs.storage.manifest import Manifest
from llm_attr.llm.jobs.storage.record import schema_with
from llm_attr.llm.jobs.storage.shards import Index
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import TokenizerLike

Launcher: TypeAlias = Literal["local", "ray"]

ModelLike: TypeAlias = LanguageModel | str | Path | Callable[[], LanguageModel] | Any
DatasetLike: TypeAlias = Iterable[Mapping[str, Any]] | str | Path


def explain_dataset(
    model: ModelLike,
    dataset: DatasetLike,
    out: str | Path,
    *,
    tokenizer: TokenizerLike | None = None,
    model_options: Mapping[str, Any] | None = None,
    split: str = "train",
    config: str | None = None,
    columns: Mapping[str, str] | None = None,
    template: str | Messages | None = None,
    slots: Sequence[str] | None = None,
    chat: bool = False,
    system: str | None = None,
    unit: str | None = None,
    prompt_options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    rows_per_shard: int = 256,
    seconds_per_shard: float = 60.0,
    shard: str | Sequence[int] | None = None,
    num_processes: int = 1,
    launcher: Launcher = "local",
    retry_failed: bool = False,
    show_progress: bool = False,
    **options: Any,
) -> DatasetRun:
    """Explains every row of a data set and writes the results to Parquet shards; a stopped run goes on where it was.

    A shard appears in `out/rows` whole or not at all, so a crash loses at most the rows since the last one. Calling
    again with the same arguments explains what is missing; other arguments, another model or another data set are
    refused. A row that fails is stored with its error.

    Args:
        model: A `LanguageModel`; a transformers model with its `tokenizer`; a name for `load_model`; or a function of a
            module that returns a `LanguageModel`. Several processes need one of the last two.
        dataset: A list of dicts, a `datasets.Dataset` or `IterableDataset`, an iterator of dicts; a file (`.jsonl`,
            `.json`, `.parquet`, `.csv`, also compressed, as a pattern or a URL); or the name of a data set on the hub.
        out: The folder of the results, or its URL (`s3://...`, opened by fsspec).
        tokenizer: The tokenizer of a transformers model.
        model_options: Arguments of `load_model`, for a name.
        split: The split of a data set on the hub.
        config: The configuration of a data set on the hub.
        columns: The columns of the roles `prompt`, `messages`, `documents` (texts, texts by name, or dicts with `id`
            and `text`) and `target`; by default those of these names. The prompt is the question to the documents.
            Columns without a role are carried along.
        template: A text, or messages, whose slots `{column}` take the values of a row, in place of a prompt.
        slots: The columns of the template that are units; by default all. The rest is always present.
        chat: Whether a text becomes the user's message of a chat.
        system: A system message before it.
        unit: The kind of unit: `slot` (the default for a template), `document` (for documents), `sentence` (otherwise),
            `token`, `word`, `paragraph` or `message`.
        prompt_options: Further arguments of `Prompt` (`absence`, `pinned`, `template_kwargs`, ...).
        limit: The number of rows that are explained at most; a larger one later goes on.
        batch_size: How many rows are explained together, which share their passes. Their answers are generated one
            after the other.
        rows_per_shard: How many rows a shard has at most.
        seconds_per_shard: After how many seconds a shard is written at the latest.
        shard: The share of the rows that this process explains: `"i/n"` or `(i, n)`. By default torchrun's `RANK` and
            `WORLD_SIZE`, else all rows.
        num_processes: How many processes are started, each with a model and a share; with Ray, how many actors.
        launcher: `local`, processes on this machine, or `ray`, actors on a Ray cluster.
        retry_failed: Whether rows that failed before are explained anew.
        show_progress: Whether to show a bar with rate and time left.
        **options: Arguments of `explain` that all rows have: `method`, `target`, `scalar`, `foil`, `region`,
            `gen_args`, and the method's own. Methods that draw get `seed=0` unless it is given, the same for each row.

    Returns:
        The results, read from `out`.

    Raises:
        OtherRun: `out` holds a run with other arguments, another model or another data set; the message says which.
        NotStored: results could not be written; those before are intact.
        InUse: another process is at work on the same rows.
        ProcessLost: a process died; the results of the others are kept.
        InvalidValue: there is no such file, or no column for a prompt.
        MissingExtra: pyarrow, or a package that reads the data set, is not installed.

    Example:
        >>> rows = [{"city": "Odense", "target": " Denmark"}]
        >>> run = explain_dataset(lm, rows, "run", template="{city} is in")  # doctest: +SKIP
        >>> print(run.summary("slot"))  # doctest: +SKIP
    """
    share = _checked(shard, num_processes, launcher, batch_size, rows_per_shard, seconds_per_shard, limit)
    source, known = source_of(dataset, split, config), ModelSource.of(model, tokenizer, model_options)
    filled = _template(template, slots)
    how = {"template": filled, "unit": unit, "chat": chat, "system": system, "options": dict(prompt_options or {})}
    prompts = RowPrompts.of(source.columns, columns, **how)
    arguments, folder = with_seed(options), Folder(checked_path(out))
    folder.make()
    asked = _asked(source, prompts, arguments)
    sizes: dict[str, Any] = {
        "batch_size": batch_size,
        "rows_per_shard": rows_per_shard,
        "seconds_per_shard": seconds_per_shard,
    }
    found = Manifest.read(folder)
    if found is not None:
        found.check(asked, folder)
    carried = found.schema if found is not None else _carried(source, prompts)
    schema_with(carried)
    job = Job(source, prompts, arguments, known, folder, asked, carried, **sizes, limit=limit)
    if num_processes > 1 or launcher == "ray":
        _check_elsewhere(job, launcher)
    if found is not None and retry_failed:
        _forget(job, found, share)
    _launch(job, found, share, num_processes, launcher, show_progress)
    return DatasetRun(out)


def _launch(
    job: Job, found: Manifest | None, share: Share, processes: int, launcher: Launcher, show_progress: bool
) -> None:
    """Explains the rows that are missing, where they are to be explained."""
    before = 0
    if found is not None:
        before = int(share.holds(Index.of((job.folder, found)).rows, job.batch_size).sum())
    total = None if job.total is None else share.rows(job.total, job.batch_size)
    with RunProgress(total, before, show_progress, processes) as progress:
        if launcher == "ray":
            run_ray(job, share, processes, progress.advance)
        elif processes > 1:
            run_processes(job, share, processes, progress.advance)
        else:
            job.run(share, progress.advance)


def _checked(
    shard: Any, processes: int, launcher: str, batch: int, rows: int, seconds: float, limit: int | None
) -> Share:
    """The share, once the numbers are checked."""
    for name, value in (("num_processes", processes), ("batch_size", batch), ("rows_per_shard", rows)):
        positive(name, value)
    if limit is not None:
        positive("limit", limit)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidValue(f"seconds_per_shard must be a number above 0; got {seconds!r}")
    if launcher not in get_args(Launcher):
        raise UnknownName("launcher", launcher, get_args(Launcher))
    if processes > 1 and shard is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidValue("torchrun has started the processes already; leave num_processes out")
    return Share.parsed(shard)


def _template(template: str | Messages | None, slots: Sequence[str] | None) -> Template | None:
    if template is None:
        if slots is not None:
            raise InvalidValue("slots are those of a template; give one")
        return None
    if isinstance(slots, str):
        raise InvalidType(f"slots must be a list of columns; got {slots!r}")
    return Template(template, None if slots is None else tuple(slots))


def _carried(source: RowSource, prompts: RowPrompts) -> Any:
    return source.types([name for name in source.columns if name not in prompts.consumed])


def _asked(source: RowSource, prompts: RowPrompts, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the results, but for the model."""
    template = prompts.template
    return {
        "data set": source.fingerprint,
        "columns": dict(prompts.columns),
        "template": None if template is None else template.content,
        "slots": None if template is None else template.slots,
        "unit": prompts.unit,
        "chat": prompts.chat,
        "system": prompts.system,
        "prompt_options": prompts.options,
        "method": "feature_ablation",
        "scalar": "log_prob",
        **arguments,
    }


def _check_elsewhere(job: Job, launcher: str) -> None:
    job.model.check_elsewhere()
    if not job.source.repeatable:
        raise InvalidType("an iterator gives its rows to one process only: pass a list, a file or a Dataset to several")


def _forget(job: Job, found: Manifest, share: Share) -> None:
    """Takes failed rows out of the shards: of all, or of this share where others have their own."""
    with job.folder.locked(f"{share}", f"another process is at work on this share of {job.folder}"):
        index = Index.of((job.folder, found))
        for number in sorted(set(index.shard[index.failed].tolist())):
            if share.of == 1 or f".{share}." in index.shards[number].name:
                index.shards[number].forget_failures()
