"""`llm-attr ledger`: what files of `explain --ledger` hold, and joining and thinning them."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict
from pathlib import Path
from time import localtime, strftime
from typing import Annotated

import typer

app = typer.Typer(help="Ledgers: files of scores that explanations share.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
File = Annotated[Path, typer.Argument(help="A file of `explain --ledger`.")]


@app.command()
def stats(ledger: File, json: Json = False) -> None:
    """Show the models that a ledger has values of, how many, and since when."""
    from llm_attr.core.game.ledger_file import LedgerFile

    found = LedgerFile(ledger, create=False).stats()
    if json:
        typer.echo(json_text.dumps([asdict(each) for each in found], indent=2))
        return
    typer.echo(f"{sum(each.entries for each in found):,} values of {len(found)} models")
    for each in found:
        about, known = each.about, each.identity
        what = about.get("model", about.get("name", ""))
        detail = [about.get("dtype"), str(known["weights"])[:12] if "weights" in known else None]
        words = " ".join(word for word in (what, *detail) if word)
        typer.echo(
            f"{words}: {each.entries:,} values, {each.bytes / 1e6:,.1f} MB, {_day(each.first)} to {_day(each.last)}"
        )


@app.command()
def merge(
    ledger: Annotated[Path, typer.Argument(help="The file that gets the values; it is made if it is missing.")],
    others: Annotated[list[Path], typer.Argument(help="The files whose values it gets; they stay as they are.")],
) -> None:
    """Add the values of other ledgers, such as those of other machines."""
    from llm_attr.core.game.ledger_file import LedgerFile

    sources = [LedgerFile(path, create=False) for path in others]
    into = LedgerFile(ledger)
    for source in sources:
        typer.echo(f"{source.path}: {into.merge(source):,} new values")


@app.command()
def prune(
    ledger: File,
    older_than: Annotated[float | None, typer.Option(help="Only values written before so many days.")] = None,
    model: Annotated[str | None, typer.Option(help="Only values of models with this name, see stats.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
) -> None:
    """Remove values that are old, or of one model, and give their space back."""
    from llm_attr.core.game.ledger_file import LedgerFile

    count = LedgerFile(ledger, create=False).prune(older_than, model, dry_run)
    typer.echo(f"{count:,} values {'would be removed' if dry_run else 'removed'}")


def _day(seconds: int) -> str:
    return strftime("%Y-%m-%d", localtime(seconds))
