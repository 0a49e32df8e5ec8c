"""An explanation that will take over a minute says so soon after its start, once, and what is quicker."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from llm_attr.core import evaluator as running
from llm_attr.core.evaluator import Evaluator, priced, share_of


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(running, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], seconds: float, count: int) -> None:
    run = Evaluator("a method", count)
    for _ in range(count):
        clock[0] += seconds
        run.advance(1)


def test_a_long_one_is_told_once_with_what_is_quicker(clock: list[float]) -> None:
    def run() -> None:
        with priced("a method", lambda share: f"a larger unit ({share:.2f})"):
            work(clock, 2.0, 300)

    with pytest.warns(RuntimeWarning, match="will take about 10 minutes: 300 steps, of which 2 took 4 s") as told:
        run()
    assert len(told) == 1
    assert str(told[0].message).endswith("Quicker: a larger unit (0.10)")
    assert told[0].filename == __file__


@pytest.mark.parametrize(
    ("count", "duration"), [(40, "1 minute:"), (50, "2 minutes:"), (3590, "120 minutes:"), (3600, "2 hours:")]
)
def test_a_duration_is_a_whole_number(clock: list[float], count: int, duration: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"will take about {duration}"), priced("a method", str):
        work(clock, 2.0, count)


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 590), (2.0, 29), (50.0, 1)])
def test_a_short_one_is_not(clock: list[float], seconds: float, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with priced("a method", str):
            work(clock, seconds, count)


def test_pieces_of_a_longer_one_are_told_of_it(clock: list[float]) -> None:
    def run() -> None:
        with priced("the whole", str):
            for piece in range(4):
                with share_of("the whole", piece, piece + 1, 4):
                    work(clock, 2.0, 20)

    with pytest.warns(RuntimeWarning, match="about 3 minutes"):
        run()


def test_observers_go_on_seeing(clock: list[float]) -> None:
    seen: list[Any] = []
    with running.watching(seen.append), priced("a method", str):
        work(clock, 0.1, 3)
    assert [part.done for part in seen] == [1, 2, 3]


def test_a_time_within_a_minute_is_not_told_and_a_longer_one_is_the_most(clock: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with priced("a method", str, most=10**6, seconds=60.0):
            work(clock, 2.0, 30)
    with (
        pytest.warns(RuntimeWarning, match="will take at most about 2 minutes"),
        priced("a method", str, most=10**6, seconds=120.0),
    ):
        work(clock, 2.0, 30)


def test_what_may_end_at_any_time_is_told_late_and_as_the_most(clock: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with priced("a method", str, most=256, sure=False):
            work(clock, 1.0, 29)
    with (
        pytest.warns(RuntimeWarning, match="at most about 4 minutes: at most 256 steps, of which 30 took 30 s"),
        priced("a method", str, most=256, sure=False),
    ):
        work(clock, 1.0, 34)
