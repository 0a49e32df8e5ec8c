"""`serve`: the insights page on this machine."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
import webbrowser
from pathlib import Path
from threading import Timer
from typing import Any

from llm_attr.errors import InvalidValue, MissingExtra
from llm_attr.llm.model.language_model import LanguageModel, as_language_model, load_model
from llm_attr.llm.results.result import LLMAttributionResult

try:
    import uvicorn

    from llm_attr.insights.application import LOOPBACK, Server, application
    from llm_attr.insights.model_engine import ModelEngine, explained
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette", "pydantic"):
        raise
    raise MissingExtra(str(error.name), "serve") from error


def serve(
    model: LanguageModel | Any = "smollm2-135m",
    *results: LLMAttributionResult | str | Path,
    tokenizer: Any = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    folder: str | Path | None = None,
    open_page: bool = True,
) -> None:
    """Serves the insights page until it is stopped with Ctrl-C.

    Args:
        model: A `LanguageModel`, a name for `load_model`, or a transformers model together with its `tokenizer`.
        *results: Results, or folders that `result.save` wrote, which the page offers.
        tokenizer: The tokenizer of a transformers model.
        host: The address to listen at; any other than loopback needs a token.
        port: The port; 0: a free one.
        token: What everyone must show who opens the page; `"auto"` makes one.
        folder: Where requests and results are kept, so that they survive a restart; by default a folder of the user.
        open_page: Whether to open the page in a browser.

    Raises:
        InvalidValue: the host is not loopback and there is no token, or the token is too short or has other characters.
        MissingExtra: fastapi or uvicorn is not installed.
        OSError: the address is taken.

    Example:
        >>> from llm_attr.insights import serve
        >>> serve("smollm2-135m", port=8420)  # doctest: +SKIP
    """
    token = secrets.token_urlsafe(24) if token == "auto" else token
    check_exposure(host, token)
    saved = tuple(_opened(result) for result in results)
    listening = socket.create_server((host, port), family=_family(host))
    name, number = listening.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    address = f"http://{shown}:{number}/" + (f"?token={token}" if token else "")
    loaded = load_model(model) if isinstance(model, str | Path) else as_language_model(model, tokenizer)
    hosts = LOOPBACK if is_loopback(host) else frozenset[str]()
    app = application(
        ModelEngine(loaded), Path(folder) if folder else own_folder(), saved=saved, hosts=hosts, token=token
    )
    print(f"llm_attr insights with {loaded.name}: {address}  (Ctrl-C stops it)", file=sys.stderr, flush=True)
    if open_page:
        Timer(0.5, webbrowser.open, [address]).start()
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, server_header=False)
    Server(config).run(sockets=[listening])


def check_exposure(host: str, token: str | None) -> None:
    """Refuses what others could reach without a token, and tokens that do not protect.

    Raises:
        InvalidValue: see `serve`.
    """
    if token is None and not is_loopback(host):
        raise InvalidValue(
            f"host {host!r} can be reached by others, who could then use the model and read prompts; give a token "
            "(token='auto', or --token auto), or listen at 127.0.0.1"
        )
    if token is not None and (len(token) < 16 or not token.replace("-", "").replace("_", "").isalnum()):
        raise InvalidValue("a token has at least 16 letters, digits, - or _; 'auto' makes one")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_folder() -> Path:
    """Where requests and results of this user are kept."""
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "llm_attr" / "insights"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _opened(result: LLMAttributionResult | str | Path) -> tuple[str, Any]:
    if isinstance(result, LLMAttributionResult):
        return " ".join(result.output_text.split())[:60], explained(result)
    return Path(result).name, explained(LLMAttributionResult.load(result))
