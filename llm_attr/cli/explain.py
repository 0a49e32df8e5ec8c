"""`llm-attr explain` and `llm-attr view`: which part of a prompt carried a model's answer."""

from __future__ import annotations

import json as json_text
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_attr.errors import InvalidValue

if TYPE_CHECKING:
    from llm_attr.llm.prompt.prompt import Prompt
    from llm_attr.llm.results.result import LLMAttributionResult

PromptFile = Annotated[
    str | None, typer.Option(help="The prompt, or the question, as a text file; - is standard input.")
]
Messages = Annotated[Path | None, typer.Option(help="A JSON file with a list of messages.")]
Documents = Annotated[Path | None, typer.Option(help="A folder of texts, or JSON lines with an id and a text each.")]
Region = Annotated[
    str | None,
    typer.Option(help="Explain only this part of the answer: a text, json:$.a.path or after:</think>."),
]
Html = Annotated[Path | None, typer.Option(help="Write a page that needs nothing from elsewhere.")]
Json = Annotated[Path | None, typer.Option(help="Write all numbers.")]


def explain(
    prompt_file: PromptFile = None,
    messages: Messages = None,
    documents: Documents = None,
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a name on the hub.")] = "smollm2-135m",
    dtype: Annotated[
        str | None, typer.Option(help="Precision of the weights, as bfloat16 or auto [default: the model's own].")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user message of a chat.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before it; goes with --chat.")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="An argument of the chat template, as enable_thinking=false; several times."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(help="token, word, sentence, paragraph, document or message [default: sentence, or document]."),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="A message, by role or number, or a document, by name, always present; several times."),
    ] = None,
    absence: Annotated[str, typer.Option(help="What happens to an absent unit: delete, replace or mask.")] = "delete",
    method: Annotated[str, typer.Option(help="A name from `llm-attr methods`.")] = "feature_ablation",
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the method, as n_samples=100; may be given several times.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Sample until the standard error is this share, as 0.05, or 'top 3 stable'.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="The most evaluations, as 200, '50 passes', '2000 positions' or '30 s'.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The answer to explain; generated if not given.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest answer to generate [default: 25].")
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Sample the answer; by default the likeliest token.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Of the sampling.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Of the sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Of the sampling.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling; that of a method is --option seed=1.")] = None,
    generate: Annotated[
        list[str] | None, typer.Option(help="A further argument of generate, as min_new_tokens=5; several times.")
    ] = None,
    scalar: Annotated[
        str, typer.Option(help="What is explained of it: log_prob, prob, logit, entropy, kl or margin.")
    ] = "log_prob",
    foil: Annotated[str | None, typer.Option(help="Another answer: explain what speaks against it.")] = None,
    region: Region = None,
    html: Html = None,
    json: Json = None,
    save: Annotated[Path | None, typer.Option(help="Save the result to a folder for `llm-attr view`.")] = None,
    progress: Annotated[bool, typer.Option("--progress", help="Show a progress bar.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Tell what it would cost, and explain nothing.")] = False,
) -> None:
    """Generate an answer to a prompt, or take one, and show which units of the prompt carried it."""
    gen_args = generation(
        sample, seed, generate, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k
    )
    if target is not None and gen_args:
        raise typer.BadParameter("--target gives the answer; options of generation are for one that is generated")
    check_outputs(html, json, save)
    from llm_attr.llm.explain import explain as run
    from llm_attr.llm.gradients.methods import gradient_methods
    from llm_attr.llm.model.language_model import load_model
    from llm_attr.llm.request import method_named

    method_named(method)
    rows = {"token_rows": True} if region is not None and method in gradient_methods() else {}
    options = rows | named(option) | _given(until=_number(until), budget=budget)
    pinned = [_number(name) for name in pin] if pin and documents is None else pin
    how = _given(unit=unit, pinned=pinned, absence=absence, template_kwargs=named(template) or None)
    prompt = _prompt(prompt_file, messages, documents, chat, system, how)
    asked: dict[str, Any] = {
        "method": method, "target": target, "scalar": scalar, "foil": foil, "gen_args": gen_args, **options,
    }  # fmt: skip
    loaded = load_model(model, **_given(dtype=dtype))
    if plan:
        from llm_attr.llm.cost.plan import plan as planned

        typer.echo(planned(loaded, prompt, **asked))
        return
    result = run(loaded, prompt, show_progress=progress, **asked)
    if save is not None:
        result.save(save)
        typer.echo(f"saved: {save}")
    _show(result, region, html, json)


def view(
    result: Annotated[Path, typer.Argument(help="A folder written by `explain --save` or `result.save`.")],
    region: Region = None,
    html: Html = None,
    json: Json = None,
) -> None:
    """Show a saved result again, or a part of its answer; needs no model."""
    check_outputs(html, json)
    from llm_attr.llm.results.result import LLMAttributionResult

    _show(LLMAttributionResult.load(result), region, html, json)


def methods() -> None:
    """List what `explain --method` takes."""
    from llm_attr.llm.request import methods as known

    for name, line in known().items():
        typer.echo(f"{name}  {line}")


def _show(result: LLMAttributionResult, region: str | None, html: Path | None, json: Path | None) -> None:
    if region is not None:
        result = result.for_output(region)
    result.show()
    for path, write in ((html, result.to_html), (json, result.to_json)):
        if path is not None:
            write(path)
            typer.echo(f"written: {path}")


def _prompt(
    prompt_file: str | None,
    messages: Path | None,
    documents: Path | None,
    chat: bool,
    system: str | None,
    options: dict[str, Any],
) -> Prompt:
    from llm_attr.llm.prompt.prompt import Prompt

    if (prompt_file is None) == (messages is None):
        raise typer.BadParameter("give either --prompt-file or --messages")
    if messages is not None and (documents is not None or chat or system is not None):
        raise typer.BadParameter("--messages is a whole chat; --documents, --chat and --system go with --prompt-file")
    if not chat and messages is None and (system is not None or "template_kwargs" in options):
        raise typer.BadParameter("--system and --template are for a chat: add --chat")
    if messages is not None:
        return Prompt(_json(_read(str(messages)), str(messages)), **options)
    text = _read(str(prompt_file)).rstrip("\n")
    if documents is not None:
        return Prompt.from_documents(text, dict(_documents(documents)), chat=chat, system=system, **options)
    before = [] if system is None else [{"role": "system", "content": system}]
    return Prompt([*before, {"role": "user", "content": text}] if chat else text, **options)


def named(given: list[str] | None) -> dict[str, Any]:
    """What `name=value` says, each; a value is JSON, or else a text.

    Raises:
        InvalidValue: something is written in another way.
    """
    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise InvalidValue(f"an option is written name=value; got {text!r}")
        found[name] = _number(value)
    return found


def generation(sample: bool, seed: int | None, more: list[str] | None, **given: Any) -> dict[str, Any] | None:
    """The arguments of `generate`; None where nothing is said of it.

    Raises:
        BadParameter: the likeliest answer is wanted, and something that is of samples alone.
    """
    of_samples = {name: value for name, value in given.items() if name != "max_new_tokens"} | {"seed": seed}
    if not sample and (wrong := _given(**of_samples)):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise typer.BadParameter(f"{names}: only where the answer is sampled; add --sample")
    asked = _given(**given, seed=seed) | named(more)
    if not (sample or asked):
        return None
    from llm_attr.llm.target.generation import DEFAULT_GENERATION

    sampled = {"max_new_tokens": DEFAULT_GENERATION["max_new_tokens"], "do_sample": True}
    return {**(sampled if sample else DEFAULT_GENERATION), **asked}


def check_outputs(html: Path | None, json: Path | None, save: Path | None = None) -> None:
    """Refuses what could not be written, before any work is done.

    Raises:
        InvalidValue: a path is a folder, lies in none, or may not be written; or `--save` names something else.
    """
    for option, path in (("--html", html), ("--json", json), ("--save", save)):
        if path is None:
            continue
        folder = path.absolute().parent
        if option != "--save" and path.is_dir():
            raise InvalidValue(f"{option} {path} is a folder; name a file in it")
        if option != "--save" and not folder.is_dir():
            raise InvalidValue(f"{option} {path}: there is no folder {folder}")
        place = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        if not place.is_dir() and place != path.absolute():
            raise InvalidValue(f"{option} {path} cannot be written: {place} is no folder")
        if not os.access(place, os.W_OK):
            raise InvalidValue(f"{option} {path} may not be written")
    if save is not None:
        from llm_attr.llm.results.storage import replaceable

        replaceable(save)


def _number(text: str | None) -> Any:
    """What the text says in JSON, or else the text."""
    try:
        return None if text is None else json_text.loads(text)
    except ValueError:
        return text


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _documents(source: Path) -> Iterator[tuple[str, str]]:
    if source.is_dir():
        files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
        yield from ((path.name, _read(str(path)).rstrip("\n")) for path in files)
        return
    for number, line in enumerate(_read(str(source)).splitlines(), 1):
        if line.strip():
            entry = _json(line, f"{source}, line {number}")
            if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
                raise InvalidValue(f'{source}, line {number}: expected {{"id": ..., "text": ...}}; got {line[:80]}')
            yield str(entry.get("id", number)), entry["text"]


def _json(text: str, where: str) -> Any:
    try:
        return json_text.loads(text)
    except ValueError as error:
        raise InvalidValue(f"{where} is not JSON: {error}") from error


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"{path!r} cannot be read as UTF-8 text: {error}") from error
