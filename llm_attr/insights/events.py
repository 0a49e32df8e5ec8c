"""The events of a session: numbered, kept for a while, and sent to the page over one stream."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

KEPT = 4096
"""Events that a page which was away can still get."""

HEARTBEAT = 15.0
"""Seconds after which a silent stream sends a comment."""


@dataclass(frozen=True)
class Event:
    """An event: its number, its kind and its content."""

    number: int
    kind: str
    data: dict[str, Any]

    def __str__(self) -> str:
        """The event on the wire."""
        return f"id: {self.number}\nevent: {self.kind}\ndata: {json.dumps(self.data)}\n\n"


class Session:
    """A page: its events, and how many streams read them. Used by the loop's thread only."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=KEPT)
        self.last, self.readers, self.is_closed = 0, 0, False
        self._news = asyncio.Event()

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Adds an event and wakes the streams."""
        self.last += 1
        self.events.append(Event(self.last, kind, data))
        self._wake()

    def close(self) -> None:
        """Ends the streams."""
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def stream(self, after: int | None) -> AsyncIterator[str]:
        """The events after a number, then those to come; from now on if the number is None."""
        seen = self.last if after is None or after > self.last else after
        self.readers += 1
        try:
            yield ": here\n\n"
            while not self.is_closed:
                news = self._news
                for event in [event for event in self.events if event.number > seen]:
                    seen = event.number
                    yield str(event)
                if self._news is not news:
                    continue
                try:
                    await asyncio.wait_for(news.wait(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield ": still here\n\n"
        finally:
            self.readers -= 1


class Sessions:
    """The sessions by id, at most `most`; one without streams makes room for a new one."""

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self._all: dict[str, Session] = {}

    def get(self, name: str) -> Session | None:
        """The session; a new one if there is room, else None."""
        if name not in self._all:
            if len(self._all) >= self.most:
                idle = next((key for key, session in self._all.items() if not session.readers), None)
                if idle is None:
                    return None
                del self._all[idle]
            self._all[name] = Session()
        return self._all[name]

    def close(self) -> None:
        """Ends all streams, so that a server can stop."""
        for session in self._all.values():
            session.close()

    def publish(self, name: str, kind: str, data: dict[str, Any]) -> None:
        """Adds an event to a session, if it is there."""
        if (session := self._all.get(name)) is not None:
            session.publish(kind, data)
