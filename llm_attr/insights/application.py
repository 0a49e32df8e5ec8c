"""The application: its routes, over an engine and a folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from llm_attr.errors import LlmAttrError
from llm_attr.insights.engine import Engine, Explained
from llm_attr.insights.events import Session, Sessions
from llm_attr.insights.guard import App, Guard
from llm_attr.insights.schemas import Explain, Generate, Input, Trace
from llm_attr.insights.storage import Job, Storage
from llm_attr.insights.trace import prompt_of_trace
from llm_attr.insights.work import Full, Work, failure_of, new_id
from llm_attr.viz.text.page import style_sheet

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

SessionId = Annotated[str, Header(alias="X-Session", pattern=r"^[0-9a-f]{32}$")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=64)]
Parent = Annotated[str | None, Header(alias="X-Parent", pattern=r"^[0-9a-f]{32}$")]
LastEvent = Annotated[int | None, Header(alias="Last-Event-ID")]


def application(
    engine: Engine,
    folder: Path,
    *,
    saved: tuple[tuple[str, Explained], ...] = (),
    hosts: frozenset[str] = LOOPBACK,
    token: str | None = None,
) -> App:
    """The page and its API as an ASGI application.

    Args:
        engine: The model.
        folder: Where jobs and results are kept.
        saved: Results that were opened, with their names.
        hosts: Names under which the server may be asked; empty: any.
        token: What everyone must show; None: nothing.
    """
    sessions = Sessions()
    opened = {f"{number:032x}": (name, found) for number, (name, found) in enumerate(saved)}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.work = work = Work(engine, Storage(folder), sessions)
        running = asyncio.create_task(work.run())
        yield
        work.stop()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    app = FastAPI(title="llm_attr insights", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.engine, app.state.sessions, app.state.opened = engine, sessions, opened
    app.add_exception_handler(LlmAttrError, _refuse)
    app.add_exception_handler(Full, _full)
    _add_questions(app, engine)
    _add_jobs(app)
    _add_results(app)
    _add_page(app)
    return Guard(cast(App, app), hosts, token)


class Server(uvicorn.Server):
    """Ends the streams of open pages when it is told to stop."""

    async def shutdown(self, sockets: Any = None) -> None:
        """See `uvicorn.Server.shutdown`."""
        cast(Any, self.config.app).app.state.sessions.close()
        await super().shutdown(sockets)


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": failure_of(error)}, status_code=422)


async def _full(request: Request, error: Exception) -> Response:
    full = cast(Full, error)
    said = {"error": {"kind": "Full", "place": "button", "message": str(full)}}
    return JSONResponse(said, status_code=full.status, headers={"Retry-After": str(full.retry)})


def _add_questions(app: FastAPI, engine: Engine) -> None:
    """What is answered at once, while jobs run."""

    @app.get("/api/about")
    async def about() -> dict[str, Any]:
        return engine.about()

    @app.post("/api/units")
    async def units(asked: Input) -> dict[str, Any]:
        return await run_in_threadpool(engine.units, asked)

    @app.post("/api/plan")
    async def plan(asked: Explain) -> dict[str, Any]:
        return await run_in_threadpool(engine.plan, asked)

    @app.post("/api/trace")
    async def trace(asked: Trace) -> dict[str, Any]:
        return prompt_of_trace(asked.trace)


def _add_jobs(app: FastAPI) -> None:
    """What is queued, and the events of it."""

    def accept(kind: Literal["explain", "generate"], asked: Generate, who: str, key: str | None, **more: Any) -> Job:
        work: Work = app.state.work
        _session(app, who)
        if (known := work.known(who, key)) is not None:
            return known
        return work.accept(Job(new_id(), who, kind, asked.model_dump(), key, **more))

    @app.post("/api/explain", status_code=202)
    async def explain(
        asked: Explain, x_session: SessionId, idempotency_key: Key = None, x_parent: Parent = None, note: str = ""
    ) -> dict[str, Any]:
        return {"job": accept("explain", asked, x_session, idempotency_key, parent=x_parent, note=note[:200]).id}

    @app.post("/api/generate", status_code=202)
    async def generate(
        asked: Generate, x_session: SessionId, idempotency_key: Key = None, x_parent: Parent = None
    ) -> dict[str, Any]:
        return {"job": accept("generate", asked, x_session, idempotency_key, parent=x_parent).id}

    @app.get("/api/events")
    async def events(x_session: SessionId, last_event_id: LastEvent = None) -> StreamingResponse:
        stream = _session(app, x_session).stream(last_event_id)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.post("/api/jobs/{name}/cancel", status_code=202)
    async def cancel(name: str, x_session: SessionId) -> dict[str, str]:
        app.state.work.cancel(_own(app, name, x_session).id)
        return {"job": name}

    @app.post("/api/jobs/{name}/enough", status_code=202)
    async def enough(name: str, x_session: SessionId) -> dict[str, str]:
        app.state.work.enough(_own(app, name, x_session).id)
        return {"job": name}

    @app.get("/api/history")
    async def history(x_session: SessionId) -> list[dict[str, Any]]:
        return app.state.work.history(x_session)


def _session(app: FastAPI, name: str) -> Session:
    session: Session | None = app.state.sessions.get(name)
    if session is None:
        raise Full(503, 10, "too many pages are open")
    return session


def _own(app: FastAPI, name: str, session: str) -> Job:
    job: Job | None = app.state.work.jobs.get(name)
    if job is None or job.session != session:
        raise HTTPException(404, "there is no such job")
    return job


def _add_results(app: FastAPI) -> None:
    def found(name: str) -> dict[str, Any]:
        if name in app.state.opened:
            return {"name": app.state.opened[name][0], **asdict(app.state.opened[name][1])}
        result: dict[str, Any] | None = app.state.work.storage.result(name)
        if result is None:
            raise HTTPException(404, "there is no such result")
        job = app.state.work.jobs.get(name)
        return result if job is None else {"asked": job.asked, "parent": job.parent, "note": job.note, **result}

    @app.get("/api/saved")
    async def saved() -> list[dict[str, str]]:
        return [{"id": key, "name": name} for key, (name, _) in app.state.opened.items()]

    @app.get("/api/results/{name}")
    async def result(name: str) -> dict[str, Any]:
        return {key: value for key, value in found(name).items() if key != "page"}

    @app.get("/api/results/{name}/page")
    async def page(name: str) -> HTMLResponse:
        if "page" not in (result := found(name)):
            raise HTTPException(404, "an answer that was not explained has no page")
        return HTMLResponse(result["page"], headers={"Content-Disposition": 'attachment; filename="explanation.html"'})


def _add_page(app: FastAPI) -> None:
    own = Path(str(files("llm_attr.insights"))) / "static"

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(own / "index.html", media_type="text/html")

    @app.get("/attribution.css", include_in_schema=False)
    async def styles() -> Response:
        return Response(style_sheet(), media_type="text/css")

    @app.get("/api", include_in_schema=False)
    async def described() -> FileResponse:
        return FileResponse(own / "api.html", media_type="text/html")

    app.mount("/static", StaticFiles(directory=own))
    app.mount("/viz", StaticFiles(directory=str(files("llm_attr.viz.text") / "static")))
