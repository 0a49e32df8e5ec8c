"""`llm-attr doctor`: what is installed, what computes on this machine, and what helps where something does not."""

from __future__ import annotations

import json as json_text
from typing import Annotated

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Check a scoring server instead: vllm:URL, sglang:URL or openai:URL.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="With --engine, the tokenizer: an embedded model, a folder, or a name on the hub.")
    ] = "smollm2-135m",
) -> None:
    """Show versions, devices, kernels, precisions, extras and models, and what does not work here and why."""
    if engine is not None:
        _check_engine(engine, model, json)
        return
    from llm_attr.llm.model.environment import Environment

    found = Environment.here()
    typer.echo(json_text.dumps(found.to_dict(), indent=2) if json else "\n".join(found.lines()))


def _check_engine(engine: str, model: str, json: bool) -> None:
    from llm_attr.llm.engines.calibration import report
    from llm_attr.llm.engines.connect import connect
    from llm_attr.llm.model.language_model import load_tokenizer

    served = connect(engine, load_tokenizer(model))
    found = {} if served.calibration is None else served.calibration.to_dict()
    about = {**served.endpoint.about, **found}
    typer.echo(json_text.dumps(about, indent=2) if json else "\n".join(report(served.endpoint, served.calibration)))
