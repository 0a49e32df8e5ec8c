"""`HttpClient`: requests to a scoring server, with time-outs and retries; its key is in no message."""

from __future__ import annotations

import json
import random
import weakref
from base64 import b64encode
from collections.abc import Mapping
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from llm_attr.errors import EngineFailed, InvalidValue, MissingExtra

WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
"""Statuses after which the same request may succeed."""

LONGEST = 60.0
"""The most seconds between two tries."""

SHOWN = 300
"""How many characters of a server's error are shown."""


class HttpClient:
    """Sends JSON to a server and reads JSON, several requests at a time.

    A request that fails in a way that may pass (no connection, a time-out, status 408, 425, 429, 500 and 502 to 504,
    half an answer) is sent again: after the seconds that the server names in Retry-After, else after `backoff`, twice
    as long each time, times a random number between 0.5 and 1.5.

    Args:
        url: The server's root; a user and password in it are sent as basic authentication.
        key: Sent as a bearer token.
        timeout: Seconds for the answer to a request.
        retries: How often a request is sent again.
        backoff: Seconds before the second try.

    Raises:
        InvalidValue: the URL is not the root of a server.
        MissingExtra: httpx2 is not installed.
    """

    def __init__(
        self, url: str, key: str | None = None, timeout: float = 120.0, retries: int = 5, backoff: float = 0.5
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtra("httpx2", "remote") from error
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InvalidValue(
                "the URL of an engine is the root of its server, such as http://127.0.0.1:8000, without a query; got "
                f"{parts.scheme or 'no scheme'} and {parts.hostname or 'no host'}"
            )
        place = parts.netloc.rpartition("@")[2]
        self.root = f"{parts.scheme}://{place}{parts.path}".rstrip("/").removesuffix("/v1")
        self.requests = 0
        self._retries, self._backoff, self._jitter = retries, backoff, random.Random()
        self._secrets = [secret for secret in (key, parts.password) if secret]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if parts.username and not key:
            pair = b64encode(f"{parts.username}:{parts.password or ''}".encode()).decode()
            headers["Authorization"], self._secrets = f"Basic {pair}", [*self._secrets, pair]
        self._client = httpx2.Client(headers=headers, timeout=timeout)
        weakref.finalize(self, self._client.close)
        self._transport_error = httpx2.TransportError

    def __repr__(self) -> str:
        return f"HttpClient({self.root!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a connection to a server holds its key and is not pickled; connect again")

    def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            EngineFailed: there is none.
        """
        return self._send("GET", path, None, None)

    def post(self, path: str, body: Mapping[str, Any], stop: Event | None = None) -> Any:
        """The answer to a request.

        Raises:
            EngineFailed: the server refuses the request, or fails each time.
        """
        return self._send("POST", path, body, stop)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, stop: Event | None) -> Any:
        stop, problem = stop or Event(), ""
        for tries in range(self._retries + 1):
            if stop.is_set():
                break
            wait = min(LONGEST, self._backoff * 2**tries * self._jitter.uniform(0.5, 1.5))
            self.requests += 1
            try:
                answer = self._client.request(method, self.root + path, json=body)
            except self._transport_error as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code < 400:
                    try:
                        return answer.json()
                    except json.JSONDecodeError:
                        problem = f"an answer of {len(answer.content)} bytes that is not complete JSON"
                else:
                    problem = f"status {answer.status_code}: {answer.text[:SHOWN]}"
                    if answer.status_code not in WORTH_RETRYING:
                        raise EngineFailed(self._clean(f"{method} {self.root}{path} was refused with {problem}"))
                    wait = _asked_for(answer.headers.get("retry-after")) or wait
            if tries < self._retries:
                stop.wait(wait)
        raise EngineFailed(self._clean(f"{method} {self.root}{path} failed {tries + 1} times, the last with {problem}"))

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _asked_for(retry_after: str | None) -> float | None:
    """The seconds that a server asks to wait; None for a date or nothing."""
    try:
        return min(LONGEST, max(0.0, float(retry_after or "")))
    except ValueError:
        return None
