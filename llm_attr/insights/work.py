"""The jobs of the server: accepted, queued round robin between sessions, done by one thread."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from time import monotonic
from typing import Any

from llm_attr.errors import Cancelled, InvalidValue, LlmAttrError
from llm_attr.insights.engine import Controls, Engine
from llm_attr.insights.events import Sessions
from llm_attr.insights.schemas import Explain, Generate
from llm_attr.insights.storage import KEPT, Job, State, Storage

_log = logging.getLogger(__name__)

WAITING = 2
"""The most jobs of a session that wait while others are done."""

ALL_WAITING = 64
"""The most jobs that wait."""

GAP = 0.05
"""The least seconds between two reports of progress."""


class Full(Exception):
    """No room for a job: `status` 429 (this session waits already) or 503 (everyone does), `retry` in seconds."""

    def __init__(self, status: int, retry: int, message: str) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry


class Work:
    """Accepts jobs and does one after the other; called by the loop's thread only.

    Args:
        engine: The model.
        storage: Where jobs and results are kept.
        sessions: Who hears of them.
    """

    def __init__(self, engine: Engine, storage: Storage, sessions: Sessions) -> None:
        self.engine, self.storage, self.sessions = engine, storage, sessions
        self.jobs: OrderedDict[str, Job] = OrderedDict((job.id, job) for job in storage.jobs())
        self._waiting: OrderedDict[str, deque[str]] = OrderedDict()
        self._controls: dict[str, Controls] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llm_attr-work")
        self._news = asyncio.Event()
        self._running: str | None = None
        self._took = 5.0
        for job in self.jobs.values():
            if not job.is_over:
                self._queue(job)

    async def run(self) -> None:
        """Does the jobs until it is cancelled."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self.engine.warm_up)
        while True:
            while (job := self._next()) is None:
                self._news.clear()
                await self._news.wait()
            await self._do(job)

    def stop(self) -> None:
        """Stops the running job where it is; it is queued again when the server comes back."""
        for controls in self._controls.values():
            controls.cancel.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def known(self, session: str, key: str | None) -> Job | None:
        """The job that this session asked for with this key."""
        if key is None:
            return None
        return next((job for job in self.jobs.values() if (job.session, job.key) == (session, key)), None)

    def accept(self, job: Job) -> Job:
        """Writes the job to disk and queues it.

        Raises:
            Full: there is no room.
        """
        own = len(self._waiting.get(job.session, ()))
        if own >= WAITING:
            raise Full(429, self._seconds(1), f"{own} of your requests wait already")
        if sum(map(len, self._waiting.values())) >= ALL_WAITING:
            raise Full(503, self._seconds(ALL_WAITING), "the server is full")
        self.storage.keep(job)
        self.jobs[job.id] = job
        self._queue(job)
        self._tell_places()
        return job

    def cancel(self, name: str) -> None:
        """Ends a job without a result."""
        job = self.jobs[name]
        if name in self._controls:
            self._controls[name].cancel.set()
        elif job.state == "queued":
            self._waiting[job.session].remove(name)
            self._over(job, "cancelled")
            self._tell_places()

    def enough(self, name: str) -> None:
        """Ends a running job with what there is."""
        if name in self._controls:
            self._controls[name].enough.set()

    def history(self, session: str) -> list[dict[str, Any]]:
        """The session's jobs, oldest first."""
        return [asdict(job) for job in self.jobs.values() if job.session == session]

    def _queue(self, job: Job) -> None:
        self._waiting.setdefault(job.session, deque()).append(job.id)
        self._news.set()

    def _next(self) -> Job | None:
        """The first job of the session whose turn it is; the session goes to the end of the round."""
        for session in list(self._waiting):
            waiting = self._waiting.pop(session)
            if waiting:
                name = waiting.popleft()
                if waiting:
                    self._waiting[session] = waiting
                return self.jobs[name]
        return None

    def _order(self) -> list[str]:
        """The waiting jobs in the order in which they will be done."""
        rounds = [list(waiting) for waiting in self._waiting.values()]
        most = max(map(len, rounds), default=0)
        return [waiting[turn] for turn in range(most) for waiting in rounds if turn < len(waiting)]

    def _tell_places(self) -> None:
        order = self._order()
        ahead = 1 if self._running else 0
        for place, name in enumerate(order, 1 + ahead):
            said = {"job": name, "place": place, "of": len(order) + ahead, "seconds": self._seconds(place - 1)}
            self.sessions.publish(self.jobs[name].session, "queued", said)

    def _seconds(self, before: int) -> int:
        return max(1, round(before * self._took))

    async def _do(self, job: Job) -> None:
        self._running = job.id
        job = self._store(replace(job, state="running"))
        self._tell_places()
        loop, start = asyncio.get_running_loop(), monotonic()
        controls = self._controls[job.id] = self._wired(job, loop)
        self.sessions.publish(job.session, "running", {"job": job.id})
        try:
            found = await loop.run_in_executor(self._thread, self._work, job, controls)
        except Cancelled:
            self._over(job, "cancelled")
        except LlmAttrError as error:
            self._over(job, "failed", failure_of(error))
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the server goes on and its log says why
            _log.exception("job %s failed", job.id)
            self._over(job, "failed", failure_of(error))
        else:
            self.storage.keep_result(job.id, found)
            self._over(job, "done")
        finally:
            del self._controls[job.id]
            self._running = None
            self._took = 0.7 * self._took + 0.3 * (monotonic() - start)

    def _work(self, job: Job, controls: Controls) -> dict[str, Any]:
        """Runs in the thread of work."""
        if job.kind == "generate":
            return self.engine.generate(Generate(**job.asked), controls)
        return asdict(self.engine.explain(Explain(**job.asked), controls))

    def _wired(self, job: Job, loop: asyncio.AbstractEventLoop) -> Controls:
        start, last = monotonic(), 0.0

        def publish(kind: str, data: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(self.sessions.publish, job.session, kind, {"job": job.id, **data})

        def progress(done: int, total: int) -> None:
            nonlocal last
            now = monotonic()
            if now - last >= GAP or done == total:
                last = now
                left = (now - start) * (total - done) / done if done else None
                publish("progress", {"done": done, "total": total, "seconds": left})

        return Controls(progress, lambda text: publish("token", {"text": text}))

    def _store(self, job: Job) -> Job:
        self.jobs[job.id] = job
        self.storage.keep(job)
        return job

    def _over(self, job: Job, state: State, failure: dict[str, Any] | None = None) -> None:
        self._store(replace(job, state=state, failure=failure))
        kinds = {"done": "result", "failed": "failed", "cancelled": "cancelled"}
        self.sessions.publish(job.session, kinds[state], {"job": job.id, **(failure or {})})
        over = [each for each in self.jobs.values() if each.is_over]
        for each in over[: max(0, len(over) - KEPT)]:
            del self.jobs[each.id]
            self.storage.forget(each)


def new_id() -> str:
    """The id of a job."""
    return uuid.uuid4().hex


_PLACES = {
    "ContextTooLong": "prompt", "EmptyPrompt": "prompt", "InvalidTarget": "answer", "EmptyTarget": "answer",
    "OutOfMemory": "button", "UnknownName": "controls", "UnknownKeyword": "controls", "UnsupportedMethod": "controls",
}  # fmt: skip


def failure_of(error: Exception) -> dict[str, Any]:
    """What a page shows of an error, and where: errors of llm_attr in their own words, of others only the kind."""
    kind = type(error).__name__
    ours = isinstance(error, LlmAttrError)
    message = str(error) if ours else f"the model failed with {kind}; the server's log has the details"
    place = _PLACES.get(kind, "controls" if isinstance(error, InvalidValue) else "button")
    return {"kind": kind, "place": place, "message": message}
