"""Who may ask: the right host, origin and token, and a body that is small, quick and JSON."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY = 4_000_000
"""The most bytes of a request."""

PATIENCE = 10.0
"""Seconds in which a request's body must have arrived."""

COOKIE = "llm_attr_token"

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Guard:
    """Stands before an application.

    Attributes:
        app: The application.
        hosts: Names under which the server may be asked; empty: any, where a token protects it.
        token: What everyone must show, as a cookie or once as `/?token=`; None: nobody has to.
    """

    app: App
    hosts: frozenset[str]
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checks a request, then hands it on with the security headers on its answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        guarded = _with_headers(send)
        try:
            if (there := self._entrance(scope)) is not None:
                await _answer(guarded, 303, "", {"location": there[0], "set-cookie": there[1]})
                return
            self._check(scope)
            body = await _body(scope, receive)
        except _Refused as refused:
            await _answer(guarded, refused.status, str(refused))
            return
        await self.app(scope, _replayed(body, receive), guarded)

    def _entrance(self, scope: Scope) -> tuple[str, str] | None:
        """Where to go and the cookie to keep, for someone who brings the token in the address."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if self.token is None or not given or scope["method"] != "GET" or scope["path"] != "/":
            return None
        self._check_host(scope)
        self._check_token(given[0])
        return "/", f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    def _check(self, scope: Scope) -> None:
        self._check_host(scope)
        headers = _headers(scope)
        if self.token is not None:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            self._check_token("" if cookie is None else cookie.value)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise _Refused(403, f"requests from {origin} are not accepted")
        if scope["method"] == "POST" and headers.get("content-type", "").partition(";")[0] != "application/json":
            raise _Refused(415, "the body must be JSON: Content-Type: application/json")

    def _check_host(self, scope: Scope) -> None:
        name = urlsplit(f"//{_headers(scope).get('host', '')}").hostname or ""
        if self.hosts and name not in self.hosts:
            raise _Refused(421, f"this server is not {name!r}; it is {' or '.join(sorted(self.hosts))}")

    def _check_token(self, given: str) -> None:
        if self.token is not None and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise _Refused(401, "open the page with the address that llm-attr insights printed, which has the token")


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def _body(scope: Scope, receive: Receive) -> bytes:
    length = _headers(scope).get("content-length", "0")
    if not length.isdigit() or int(length) > BODY:
        raise _Refused(413, f"a request has at most {BODY:,} bytes")
    try:
        return await asyncio.wait_for(_read(receive), PATIENCE)
    except asyncio.TimeoutError:
        raise _Refused(408, f"the request did not arrive within {PATIENCE:g} s") from None


async def _read(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY:
            raise _Refused(413, f"a request has at most {BODY:,} bytes")
        more = message.get("more_body", False)
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return guarded


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    given = {"content-type": "text/plain; charset=utf-8", **(headers or {})}
    encoded = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": text.encode()})
