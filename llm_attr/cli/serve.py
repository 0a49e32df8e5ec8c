"""`llm-attr serve`: a small server over the local scorer."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from llm_attr.errors import MissingExtra


def serve(
    model: Annotated[str, typer.Argument(help="An embedded model, a folder, or a name on the hub.")] = "smollm2-135m",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for a free one.")] = 8000,
    fault: Annotated[
        str | None,
        typer.Option(
            help="Do something wrong on purpose: off_by_one, truncated, poisoned, none, 429, 500, timeout or half."
        ),
    ] = None,
) -> None:
    """Serve a model in the dialects of SGLang, vLLM and OpenAI, to try engines out; LLM_ATTR_API_KEY is its key."""
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve") from error
    from llm_attr.llm.engines.connect import KEY
    from llm_attr.llm.model.language_model import load_model
    from llm_attr.serve.app import create_app
    from llm_attr.serve.faults import Faults

    Faults(fault)  # before the model is loaded
    app = create_app(load_model(model), fault, os.environ.get(KEY) or None)
    print(f"serving {model}: --engine vllm:http://{host}:{port} (or sglang:, openai:)", file=sys.stderr)
    uvicorn.run(app, host=host, port=port, log_level="warning")
