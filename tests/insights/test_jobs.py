import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llm_attr.errors import ContextTooLong
from tests.insights.client import Client


def states(client):
    return {job["id"]: job["state"] for job in client.get("/api/history")[2]}


def until(true):
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not become true")


def test_an_explanation_is_accepted_reported_and_kept(serve):
    _, client = serve()
    job = client.explain("Aksel repairs violins. He has a dog.")
    events = client.wait(job)
    assert [number for number, *_ in events] == list(range(1, len(events) + 1))
    assert events[-1][1:] == ("result", {"job": job})
    done = [data for _, kind, data in events if kind == "progress"]
    assert done[-1]["done"] == done[-1]["total"] == 4
    _, _, found = client.get(f"/api/results/{job}")
    assert found["document"]["input_tokens"] == ["Aksel repairs violins.", " He has a dog."]
    assert found["asked"]["prompt"].startswith("Aksel")
    assert "<script" not in found["markup"]
    assert "<style" not in found["markup"]
    assert client.get(f"/api/results/{job}/page")[2].startswith("<!doctype html>")


def test_an_answer_streams_and_enough_keeps_what_there_is(serve):
    engine, client = serve(free=False)
    job = client.post("/api/generate", {"prompt": "Who?"})[2]["job"]
    engine.go(2)
    events = client.events(lambda kind, data: data.get("text") == " repairs", after=0)
    assert [data["text"] for _, kind, data in events if kind == "token"] == ["He", " repairs"]
    client.post(f"/api/jobs/{job}/enough")
    client.wait(job)
    assert client.get(f"/api/results/{job}")[2]["text"] == "He repairs"


def test_a_page_that_was_away_gets_what_it_missed(serve):
    engine, client = serve(free=False)
    job = client.explain()
    engine.go(2)
    seen = client.events(lambda kind, data: kind == "running", after=0)
    engine.release.set()
    client.wait(job)
    rest = client.events(lambda kind, data: kind == "result", after=seen[-1][0])
    assert [number for number, *_ in rest] == list(range(seen[-1][0] + 1, rest[-1][0] + 1))


def test_running_and_waiting_jobs_are_cancelled(serve):
    engine, client = serve(free=False)
    running, waiting = client.explain(), client.explain()
    until(lambda: states(client)[running] == "running")
    client.post(f"/api/jobs/{waiting}/cancel")
    client.post(f"/api/jobs/{running}/cancel")
    assert client.wait(running)[-1][1] == "cancelled"
    assert set(states(client).values()) == {"cancelled"}
    engine.release.set()
    assert client.wait(client.explain())[-1][1] == "result"
    assert Client(client.address.geturl(), "b" * 32).post(f"/api/jobs/{running}/cancel")[0] == 404


def test_failures_say_what_and_where_and_the_server_goes_on(serve):
    engine, client = serve()
    engine.failing = ContextTooLong("the prompt has 9,000 tokens and the model takes 8,192")
    kind, data = client.wait(client.explain())[-1][1:]
    assert (kind, data["kind"], data["place"]) == ("failed", "ContextTooLong", "prompt")
    assert "8,192" in data["message"]
    engine.failing = None
    assert client.wait(client.explain())[-1][1] == "result"


def test_the_log_has_what_the_page_does_not_say(serve, capsys):
    engine, client = serve()
    engine.failing = ZeroDivisionError("no share of Aksel")
    job = client.explain()
    kind, data = client.wait(job)[-1][1:]
    assert (kind, data["kind"], data["place"]) == ("failed", "ZeroDivisionError", "button")
    assert "Aksel" not in data["message"]
    assert "the server's log" in data["message"]
    logged = capsys.readouterr().err
    assert job in logged
    assert "ZeroDivisionError: no share of Aksel" in logged
    engine.failing = None
    assert client.wait(client.explain())[-1][1] == "result"


def test_sessions_take_turns(serve):
    engine, client = serve(free=False)
    other = Client(client.address.geturl(), "b" * 32)
    first = client.explain("First.")
    until(lambda: states(client)[first] == "running")
    jobs = [client.explain("A1."), client.explain("A2."), other.explain("B1."), other.explain("B2.")]
    engine.release.set()
    client.wait(jobs[1])
    other.wait(jobs[3])
    assert engine.started == ["First.", "A1.", "B1.", "A2.", "B2."]


def test_a_session_that_waits_already_is_asked_to_come_back(serve):
    _, client = serve(free=False)
    running = client.explain()
    until(lambda: states(client)[running] == "running")
    client.explain()
    client.explain()
    status, headers, found = client.post("/api/explain", {"prompt": "One.", "target": "x"})
    assert status == 429
    assert int(headers["Retry-After"]) >= 1
    assert found["error"]["place"] == "button"
    assert Client(client.address.geturl(), "b" * 32).explain()


def test_the_same_key_is_the_same_job(serve):
    engine, client = serve()
    asked = {"prompt": "One.", "target": "x"}
    first, second = (client.post("/api/explain", asked, Idempotency_Key="k1")[2]["job"] for _ in range(2))
    client.wait(first)
    assert first == second
    assert len(engine.started) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
        {"prompt": "a", "version": 2},
        {"prompt": "a", "ledger": "/etc/passwd"},
        {"prompt": "a", "options": {"ledger": "/etc/passwd"}},
        {"documents": {"a": "b"}},
        {"prompt": "a", "max_new_tokens": 0},
    ],
)
def test_other_requests_are_refused(serve, body):
    _, client = serve()
    assert client.post("/api/explain", body)[0] == 422
    assert client.get("/api/history")[2] == []


def test_accepted_jobs_come_back_after_a_restart(serve, tmp_path):
    engine, client = serve(free=False)
    running, waiting = client.explain("R."), client.explain("W.")
    until(lambda: states(client)[running] == "running")
    again, other = serve(folder=tmp_path / "kept")
    other.wait(waiting)
    assert again.started == ["R.", "W."]
    assert set(states(other).values()) == {"done"}
    assert engine.started == ["R."]


SERVER = """
import sys
from pathlib import Path
from tests.insights.fake import FakeEngine, serving
import threading
with serving(FakeEngine(free=False), Path(sys.argv[1])) as address:
    print(address, flush=True)
    threading.Event().wait()
"""


@pytest.mark.slow
def test_a_killed_server_loses_no_accepted_job(serve, tmp_path):
    folder = tmp_path / "kept"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        client = Client(process.stdout.readline().strip())
        jobs = [client.explain(f"{number}.") for number in range(2)]
        others = [Client(client.address.geturl(), f"{number:032x}") for number in range(5)]
        jobs += [other.explain("o.") for other in others]
        os.kill(process.pid, signal.SIGKILL)
    kept = [json.loads(path.read_text())["id"] for path in (folder / "jobs").glob("*.json")]
    assert sorted(kept) == sorted(jobs)
    engine, again = serve(folder=folder)
    for other in [again, *(Client(again.address.geturl(), other.session) for other in others)]:
        until(lambda other=other: set(states(other).values()) == {"done"})
    assert len(engine.started) == len(jobs)
