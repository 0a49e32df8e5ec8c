"""`llm-attr diff`: what changed between two saved results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_attr.cli.explain import check_outputs


def diff(
    first: Annotated[Path, typer.Argument(help="A folder written by `explain --save` or `result.save`.")],
    second: Annotated[Path, typer.Argument(help="Another one: of another model, precision, answer, seed or prompt.")],
    name: Annotated[list[str] | None, typer.Option(help="A name for each result, in order; given twice.")] = None,
    alpha: Annotated[float, typer.Option(help="The level below which a change is more than noise.")] = 0.05,
    least: Annotated[float, typer.Option(help="The size up to which changes do not matter, e.g. in nats.")] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if anything changed by more than noise.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all numbers as JSON.")] = None,
) -> None:
    """Show what changed between two explanations, and whether it is more than noise. Needs no model."""
    check_outputs(html, json)
    from llm_attr.llm.diff.explanation_diff import diff as compared
    from llm_attr.llm.results.result import LLMAttributionResult

    results = [LLMAttributionResult.load(path) for path in (first, second)]
    found = compared(results[0], results[1], name or ("first", "second"), alpha=alpha, least=least)
    found.show()
    for path, write in ((html, found.to_html), (json, found.to_json)):
        if path is not None:
            write(path)
            typer.echo(f"written: {path}")
    if check and found.changed:
        raise typer.Exit(1)
