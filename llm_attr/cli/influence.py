"""`llm-attr influence`: which training texts stand behind an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_attr.errors import InvalidValue, MissingExtra

if TYPE_CHECKING:
    from llm_attr.llm.model.language_model import LanguageModel

app = typer.Typer(help="Which training texts stand behind an answer.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="An embedded model, a folder, or a name on the hub.")]
Adapter = Annotated[Path | None, typer.Option(help="The folder of a PEFT adapter of the model, whose weights count.")]


@app.command()
def index(
    data: Annotated[
        Path, typer.Argument(help='The training texts: JSON lines with "text" and perhaps "answer", or plain lines.')
    ],
    folder: Annotated[Path, typer.Argument(help="Where the index is written; a stopped build goes on.")],
    model: Model = "smollm2-135m",
    adapter: Adapter = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="A module whose linear layers count, e.g. 'model.layers.2*'; repeatable (default: all)."),
    ] = None,
    projection_dim: Annotated[int, typer.Option(min=0, help="Dimensions on each side of a layer; 0: all.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in a pass.")] = 8,
    shard_size: Annotated[int, typer.Option(min=1, help="Texts in a file.")] = 64,
    seed: Annotated[int, typer.Option(help="The seed of projections and drawn labels.")] = 0,
    progress: Annotated[bool, typer.Option("--progress", help="Show a progress bar.")] = False,
) -> None:
    """Index the gradients of training texts. The same command in several terminals shares the work."""
    texts = list(_texts(data))
    from llm_attr.llm.influence.index import build_index

    options: dict[str, Any] = {"batch_size": batch_size, "shard_size": shard_size, "seed": seed}
    lm = _loaded(model, adapter)
    build_index(
        lm, texts, folder, layers=layer, projection_dim=projection_dim or None, show_progress=progress, **options
    )
    typer.echo(f"{len(texts)} texts indexed: {folder}")


@app.command()
def query(
    folder: Annotated[Path, typer.Argument(help="A folder written by `llm-attr influence index`.")],
    prompt: Annotated[str, typer.Option(help="What comes before the answer.")],
    answer: Annotated[str, typer.Option(help="The answer, with the space before it.")],
    model: Model = "smollm2-135m",
    adapter: Adapter = None,
    k: Annotated[int, typer.Option(min=1, help="How many proponents and opponents to show.")] = 5,
    damping: Annotated[float, typer.Option(help="Added to each curvature, in units of its layer's mean.")] = 0.1,
    scores: Annotated[Path | None, typer.Option(help="Write the scores of all texts as a NumPy file.")] = None,
) -> None:
    """Show the training texts that made an answer more and less likely, and the tokens that they speak to."""
    from llm_attr.llm.influence.query import InfluenceIndex

    opened = InfluenceIndex(folder, damping)
    found = opened.query(_loaded(model, adapter), prompt, answer)
    typer.echo(found.to_text(k))
    if scores is not None:
        found.save_scores(scores)
        typer.echo(f"written: {scores}")


def _loaded(model: str, adapter: Path | None) -> LanguageModel:
    """The model, with its adapter ready for gradients."""
    from llm_attr.llm.model.language_model import LanguageModel, load_model

    lm = load_model(model)
    if adapter is None:
        return lm
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("peft", "adapters") from error
    return LanguageModel(PeftModel.from_pretrained(lm.model, adapter, is_trainable=True).eval(), lm.tokenizer)


def _texts(path: Path) -> Iterator[Any]:
    """JSON lines or plain lines; empty ones are left out.

    Raises:
        InvalidValue: a line is no JSON.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            yield line
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InvalidValue(f"line {number} of {path} is no JSON: {error}") from error
