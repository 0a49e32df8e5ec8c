"""`create_app`: the server as an application that uvicorn runs."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_attr.errors import LlmAttrError, MissingExtra
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.serve.answering import Answering
from llm_attr.serve.dialects import completions, sglang
from llm_attr.serve.faults import Faults

try:
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
except ImportError as error:
    raise MissingExtra("fastapi", "serve") from error


def create_app(
    language_model: LanguageModel, fault: str | None = None, api_key: str | None = None, late: float = 5.0
) -> FastAPI:
    """The server: SGLang's `/generate`, `/v1/completions` of vLLM and OpenAI, `/v1/models` and `/health`.

    Args:
        language_model: Model and tokenizer.
        fault: What it does wrong, see `llm_attr.serve.faults`; None for nothing.
        api_key: The bearer token that requests must have; None for none.
        late: Seconds by which the fault `timeout` is late.

    Returns:
        The application; `app.state.answering.scored` counts the sequences that it scored.

    Raises:
        UnknownName: there is no such fault.
    """
    answering, faults = Answering(language_model), Faults(fault)
    door = _Door(faults, api_key, late)
    app = FastAPI(title="llm-attr serve")
    app.state.answering = answering

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        return await door.answered(request, lambda body: sglang(answering, faults, body))

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        return await door.answered(request, lambda body: completions(answering, faults, body, language_model.name))

    @app.get("/v1/models")
    async def models() -> Response:
        about = {"id": language_model.name, "object": "model", "max_model_len": language_model.context_length}
        return _reply({"object": "list", "data": [about]})

    @app.get("/health")
    async def health() -> Response:
        return _reply({"status": "ok"})

    return app


@dataclass(frozen=True)
class _Door:
    """Checks keys, lets faults strike, and turns errors into answers."""

    faults: Faults
    api_key: str | None
    late: float

    async def answered(self, request: Request, work: Callable[[dict[str, Any]], Any]) -> Response:
        given = request.headers.get("authorization", "")
        if self.api_key is not None and given != f"Bearer {self.api_key}":
            return _refused(401, f"wrong key: {given}")
        struck = self.faults.strikes()
        if struck == "429":
            return _refused(429, "too many requests", {"Retry-After": "0.01"})
        if struck == "500":
            return _refused(500, "out of luck")
        if struck == "timeout":
            await run_in_threadpool(time.sleep, self.late)
            return _refused(504, "late")
        if struck == "half":
            return Response('{"choices": [{"index": 0, "prompt_', 200, None, "application/json")
        try:
            return _reply(await run_in_threadpool(work, await request.json()))
        except (LlmAttrError, ValueError, TypeError, AttributeError) as error:
            return _refused(400, str(error))


def _reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, "application/json")


def _refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    return _reply({"error": {"message": why}}, status, headers)
