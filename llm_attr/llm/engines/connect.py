"""`connect`: a model behind a server, from the engine's address."""

from __future__ import annotations

import os
from typing import Any

from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from llm_attr.llm.engines.completions import VLLM, OpenAI
from llm_attr.llm.engines.dialect import Dialect
from llm_attr.llm.engines.http import HttpClient
from llm_attr.llm.engines.served_model import ServedModel
from llm_attr.llm.engines.server import ServerEndpoint
from llm_attr.llm.engines.sglang import SGLang
from llm_attr.llm.model.tokenizer import TokenizerLike

DIALECTS: dict[str, type[Dialect]] = {dialect.name: dialect for dialect in (SGLang, VLLM, OpenAI)}

KEY = "LLM_ATTR_API_KEY"
"""The environment variable with the key."""


def connect(
    engine: str,
    tokenizer: TokenizerLike,
    *,
    model: str | None = None,
    api_key: str | None = None,
    in_flight: int = 8,
    per_request: int = 8,
    timeout: float = 120.0,
    retries: int = 5,
    backoff: float = 0.5,
    price: float | None = None,
    calibrate: bool = True,
) -> ServedModel:
    """A model behind a server, which takes the place of one in this process.

    Args:
        engine: `sglang:URL`, `vllm:URL` or `openai:URL` (a server whose completions take `echo`), where the URL is the
            server's root: `vllm:http://127.0.0.1:8000`.
        tokenizer: The served model's tokenizer.
        model: The model's name at the server; None: the first one that it serves.
        api_key: Sent as a bearer token; by default the environment variable LLM_ATTR_API_KEY. It appears in no error,
            result or file.
        in_flight: How many requests are sent at a time.
        per_request: How many prompts a request holds at most.
        timeout: Seconds for the answer to a request.
        retries: How often a request that failed is sent again.
        backoff: Seconds before the second try, twice as long before each later one; a server's Retry-After comes first.
        price: The price of a million tokens that are sent, for `plan`.
        calibrate: Whether the server's scores are first compared with what it generates; see docs/engines.md.

    Returns:
        A `LanguageModel` for `explain`, `plan`, `prompt_game` and `explain_dataset`.

    Raises:
        UnknownName: there is no such engine.
        InvalidValue: the URL is not the root of a server, or a number is out of range.
        EngineFailed: the server does not answer.
        EngineRefused: its scores are wrong; the message has the evidence.
        MissingExtra: httpx2 is not installed.

    Example:
        >>> from transformers import AutoTokenizer  # doctest: +SKIP
        >>> served = connect("vllm:http://127.0.0.1:8000", AutoTokenizer.from_pretrained("org/name"))  # doctest: +SKIP
    """
    dialect, url = _parsed(engine)
    numbers = {"in_flight": in_flight, "per_request": per_request, "timeout": timeout, "backoff": backoff}
    for name, value in numbers.items():
        if not value > 0:
            raise InvalidValue(f"{name} must be above 0; got {value!r}")
    if retries < 0:
        raise InvalidValue(f"retries must be at least 0; got {retries!r}")
    client = HttpClient(url, api_key or os.environ.get(KEY) or None, timeout, retries, backoff)
    endpoint = ServerEndpoint(dialect, client, model, in_flight, per_request, price)
    return ServedModel(endpoint, tokenizer, calibrate)


def as_served(engine: Any, tokenizer: TokenizerLike) -> ServedModel:
    """The model of the argument `engine` of `explain`: an address, or a model that is connected already.

    Raises:
        InvalidType: it is neither.
        LlmAttrError: as in `connect`.
    """
    if isinstance(engine, ServedModel):
        return engine
    if not isinstance(engine, str):
        raise InvalidType(
            f"engine must be an address such as 'vllm:http://127.0.0.1:8000', or what connect returns; got "
            f"{type(engine).__name__}"
        )
    return connect(engine, tokenizer)


def _parsed(engine: str) -> tuple[Dialect, str]:
    kind, _, url = engine.partition(":")
    if kind in ("llamacpp", "llama.cpp"):
        raise InvalidValue(
            "llama.cpp's server ignores echo, so it cannot score a given answer "
            "(github.com/ggml-org/llama.cpp/issues/27174); sglang:, vllm: and openai: servers can"
        )
    if kind in ("http", "https"):
        raise InvalidValue("an engine says what its server is: sglang:URL, vllm:URL or openai:URL")
    if kind not in DIALECTS:
        raise UnknownName("engine", kind, sorted(DIALECTS))
    return DIALECTS[kind](), url
