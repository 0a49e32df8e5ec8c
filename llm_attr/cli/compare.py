"""`llm-attr compare`: saved results for the same text side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_attr.cli.explain import check_outputs


def compare(
    results: Annotated[
        list[Path], typer.Argument(help="Two or more folders written by `explain --save` or `result.save`.")
    ],
    name: Annotated[list[str] | None, typer.Option(help="A name for each result, in order; repeatable.")] = None,
    share_scale: Annotated[
        bool | None,
        typer.Option(
            "--share-scale/--own-scales", help="Draw all results on one scale (default: if they have the same unit)."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers as JSON.")] = None,
) -> None:
    """Show explanations of the same prompt side by side, and how well they agree. Needs no model."""
    check_outputs(html, json)
    from llm_attr.llm.results.comparison import compare as compared
    from llm_attr.llm.results.result import LLMAttributionResult

    comparison = compared([LLMAttributionResult.load(path) for path in results], name or None, share_scale=share_scale)
    comparison.show()
    for path, write in ((html, comparison.to_html), (json, comparison.to_json)):
        if path is not None:
            write(path)
            typer.echo(f"written: {path}")
