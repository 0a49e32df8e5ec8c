"""`llm-attr insights`: the insights page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def insights(
    result: Annotated[
        list[Path] | None, typer.Argument(help="Folders written by `explain --save`, which the page offers.")
    ] = None,
    model: Annotated[str, typer.Option(help="An embedded model, a folder, or a name on the hub.")] = "smollm2-135m",
    host: Annotated[str, typer.Option(help="The address; any other than loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8420,
    token: Annotated[
        str | None, typer.Option(help="What everyone must show who opens the page; auto makes one.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where requests and results are kept (default: a folder of the user).")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Explore in a browser what in a prompt carried the model's answer."""
    from llm_attr.insights import serve

    serve(model, *(result or ()), host=host, port=port, token=token, folder=folder, open_page=open_page)
