"""`llm-attr benchmark`: how well methods find planted truth with a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_attr.cli.explain import without_none


def benchmark(
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a name on the hub.")] = "smollm2-135m",
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="A name from `llm-attr methods`; repeatable.")
    ] = None,
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="A kind of item; repeatable.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="The number of items, from all kinds in turn.")] = None,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Draw the model's weights at random first."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of methods, baselines and ablations.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Precision of the weights (default: set by the model).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every record as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture.")] = None,
    progress: Annotated[bool, typer.Option("--progress/--quiet", help="Show a progress bar.")] = True,
) -> None:
    """Compare methods and baselines on short prompts whose truth is planted."""
    from llm_attr.benchmark import run
    from llm_attr.data import items as planted
    from llm_attr.llm.model.language_model import load_model

    chosen = planted(kinds or None, items)
    lm = load_model(model, **without_none(dtype=dtype))
    if random_weights:
        from llm_attr.core.faithfulness.orders import seeded
        from llm_attr.core.faithfulness.randomised import layers_of, randomise

        generator = seeded(seed)
        for _, layer in layers_of(lm.model, None):
            randomise(layer, generator)
    found = run(lm, methods or None, items=chosen, seed=seed, show_progress=progress)
    typer.echo(found.to_markdown())
    typer.echo(f"\n{len(chosen)} items; chance finds {found.chance:.2f}")
    if markdown is not None:
        markdown.write_text(found.to_markdown() + "\n", encoding="utf-8")
    if json is not None:
        found.to_json(json)
    if plot is not None:
        found.plot().savefig(plot, dpi=140)
    for path in filter(None, (markdown, json, plot)):
        typer.echo(f"written: {path}")
