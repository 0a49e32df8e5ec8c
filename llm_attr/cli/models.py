"""`llm-attr models`: the embedded models, listed and fetched."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The embedded models: small real models that need no account and no hub.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """List each model with its summary, licence and whether it has been fetched."""
    from llm_attr.models.catalogue import CATALOGUE, is_fetched

    width = max(map(len, CATALOGUE))
    for model in CATALOGUE.values():
        state = "fetched" if is_fetched(model.name) else "not fetched"
        typer.echo(f"{model.name:{width}}  {model.summary}  ({model.licence}, {state})")


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name from `llm-attr models list`.")]) -> None:
    """Fetch a model, convert it once and print its folder."""
    from llm_attr.models.catalogue import fetch_model

    typer.echo(fetch_model(name))
