"""`llm-attr compare`: saved results of the same text beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_attr.cli.explain import check_outputs


def compare(
    results: Annotated[
        list[Path], typer.Argument(help="Two or more folders written by `explain --save` or `result.save`.")
    ],
    name: Annotated[
        list[str] | None, typer.Option(help="A name for each result, in this order; may be given several times.")
    ] = None,
    share_scale: Annotated[
        bool | None,
        typer.Option(
            "--share-scale/--own-scales", help="Draw all on one scale; by default where all are in the same unit."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that needs nothing from elsewhere.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers.")] = None,
) -> None:
    """Show explanations of the same prompt beside each other, and how far they agree; needs no model."""
    check_outputs(html, json)
    from llm_attr.llm.results.comparison import compare as compared
    from llm_attr.llm.results.result import LLMAttributionResult

    found = compared([LLMAttributionResult.load(path) for path in results], name or None, share_scale=share_scale)
    found.show()
    for path, write in ((html, found.to_html), (json, found.to_json)):
        if path is not None:
            write(path)
            typer.echo(f"written: {path}")
