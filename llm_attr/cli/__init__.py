"""The command `llm-attr`. Commands import what they need when they run, so `--help` is fast."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from llm_attr.cli import influence, ledger, models
from llm_attr.cli.benchmark import benchmark
from llm_attr.cli.cite import cite
from llm_attr.cli.compare import compare
from llm_attr.cli.diff import diff
from llm_attr.cli.doctor import doctor
from llm_attr.cli.explain import EXAMPLES, explain, methods, view
from llm_attr.cli.insights import insights
from llm_attr.cli.launch import is_first
from llm_attr.cli.run import merge, run, summary
from llm_attr.cli.serve import serve
from llm_attr.errors import LlmAttrError, Unavailable

app = typer.Typer(
    name="llm-attr",
    help="Which part of a prompt carried a language model's answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(epilog=EXAMPLES)(explain)
app.command()(view)
app.command()(cite)
app.command()(compare)
app.command()(diff)
app.command()(insights)
app.command()(run)
app.command()(merge)
app.command()(summary)
app.command()(methods)
app.command()(doctor)
app.command()(benchmark)
app.command()(serve)
app.add_typer(models.app, name="models")
app.add_typer(influence.app, name="influence")
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Run the command line; an error from llm_attr or the file system is one line on standard error and exit code 1.

    Sets OMP_WAIT_POLICY, which torch reads when it is loaded, so that idle threads sleep instead of spinning.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    before, warnings.formatwarning = warnings.formatwarning, lambda message, *_, **__: f"warning: {message}\n"
    try:
        app(prog_name="llm-attr")
    except (LlmAttrError, OSError) as error:
        if is_first() or isinstance(error, Unavailable):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    finally:
        warnings.formatwarning = before


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llm-attr {version_of('llm_attr')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
