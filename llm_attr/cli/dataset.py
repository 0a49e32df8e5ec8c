"""`llm-attr merge` and `llm-attr summary`: the results of `llm-attr run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_attr.cli.explain import check_outputs


def merge(
    runs: Annotated[list[str], typer.Argument(help="Folders of parts of the same run.")],
    out: Annotated[str, typer.Option(help="The folder of the merged run, which must be new.")],
    rows_per_shard: Annotated[int, typer.Option(min=1, help="How many rows a shard has at most.")] = 4096,
) -> None:
    """Merge parts of a run into one folder with few shards, in the order of the rows. Needs no model."""
    from llm_attr.llm.jobs.merge import merge as merged

    done = merged(runs, out, rows_per_shard=rows_per_shard)
    missing = 0 if done.total is None else done.total - len(done)
    typer.echo(f"{len(done):,} rows in {out}" + (f"; {missing:,} rows of the data set are missing" if missing else ""))


def summary(
    run: Annotated[str, typer.Argument(help="A folder written by `llm-attr run`.")],
    by: Annotated[
        str | None,
        typer.Option(help="slot, document, role, kind or position (default: the first that the rows have)."),
    ] = None,
    interval: Annotated[str, typer.Option(help="How intervals are made: normal or bootstrap.")] = "normal",
    errors: Annotated[bool, typer.Option("--errors", help="List the rows that failed, and why.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all numbers as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the picture (.png, .svg or .pdf).")] = None,
) -> None:
    """Show which slot, document, role or position matters on average over the rows. Needs no model."""
    check_outputs(plot, json)
    from llm_attr.llm.jobs.dataset_run import DatasetRun

    found = DatasetRun(run)
    if errors:
        for row, error in found.errors():
            typer.echo(f"row {row}: {error}")
        return
    averages = found.summary(by, interval=interval)  # type: ignore[arg-type]
    typer.echo(averages)
    if json is not None:
        averages.to_json(json)
        typer.echo(f"written: {json}")
    if plot is not None:
        averages.plot()[0].savefig(plot, dpi=140)
        typer.echo(f"written: {plot}")
