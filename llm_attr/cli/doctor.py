"""`llm-attr doctor`: what is installed, what computes on this machine, and what helps where something does not."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer


def doctor(json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Show versions, devices, kernels, precisions, extras and models, and what does not work here and why."""
    from llm_attr.llm.model.environment import Environment

    found = Environment.here()
    typer.echo(json_text.dumps(found.to_dict(), indent=2) if json else "\n".join(found.lines()))
