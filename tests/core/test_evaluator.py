"""Chunks, back-off, progress and cancellation, without a model."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest
import torch
from tqdm import tqdm

from llm_attr.attr import FeatureAblation
from llm_attr.core.evaluator import Evaluator, Progress, shown, watching
from llm_attr.errors import Cancelled, OutOfMemory

MEMORY_ERRORS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: 12. (12)"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
]


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[tqdm]:
    """Every progress bar that is made."""
    made: list[tqdm] = []

    def bar(*args: object, **options: object) -> tqdm:
        made.append(tqdm(*args, **options))
        return made[-1]

    monkeypatch.setattr("llm_attr.core.evaluator.tqdm", bar)
    return made


def assert_closed(bars: list[tqdm]) -> None:
    assert len(bars) == 1
    assert all(bar.disable for bar in bars)


class Machine:
    """Evaluates ranges of at most `room`; remembers the sizes it was asked for."""

    def __init__(self, room: int, error: BaseException) -> None:
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, start: int, stop: int) -> list[int]:
        self.sizes.append(stop - start)
        if stop - start > self.room:
            raise self.error
        return list(range(start, stop))


class Written:
    """A stream that can do nothing but take texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> None:
        self.texts.append(text)


def closed() -> Any:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Written(), closed()], ids=["none", "only write", "closed"])
def test_progress_where_no_console_is(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    told: list[Progress] = []
    with watching(told.append), Evaluator("an explanation", 2, show_progress=True) as evaluator:
        for piece in evaluator.run(2, 1, Machine(1, MemoryError())):
            evaluator.advance(len(piece))
    with watching(told.append), shown("several"), Evaluator("one of them", 1) as evaluator:
        evaluator.advance(1)
    assert [progress.done for progress in told] == [1, 2, 1]
    if isinstance(stream, Written):
        assert any("2/2" in text for text in stream.texts)


@pytest.mark.parametrize(("count", "chunk", "sizes"), [(0, 4, []), (1, 4, [1]), (9, 4, [4, 4, 1]), (3, 0, [1, 1, 1])])
def test_chunks(count: int, chunk: int, sizes: list[int]) -> None:
    machine = Machine(99, MemoryError())
    with Evaluator("work", count) as evaluator:
        pieces = list(evaluator.run(count, chunk, machine))
    assert machine.sizes == sizes
    assert list(chain(*pieces)) == list(range(count))


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: str(error)[:12] or "MemoryError")
def test_back_off_halves_goes_on_and_warns_once(error: BaseException) -> None:
    machine = Machine(3, error)
    with Evaluator("work", 30) as evaluator, pytest.warns(RuntimeWarning) as caught:
        pieces = [*evaluator.run(20, 16, machine), *evaluator.run(5, 16, machine)]
    assert [str(one.message) for one in caught] == [
        "work: 16 at a time did not fit into memory; going on with half as many"
    ]
    assert machine.sizes == [16, 8, 4, *[2] * 10, 2, 2, 1]
    assert list(chain(*pieces)) == [*range(20), *range(5)]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: str(error)[:12] or "MemoryError")
def test_one_that_does_not_fit(error: BaseException) -> None:
    with (
        Evaluator("work", 4) as evaluator,
        pytest.warns(RuntimeWarning, match="going on with half as many"),
        pytest.raises(OutOfMemory, match="not even one piece of work fits into memory") as caught,
    ):
        list(evaluator.run(4, 4, Machine(0, error)))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("bad"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException) -> None:
    machine = Machine(0, error)
    with Evaluator("work", 4) as evaluator, pytest.raises(type(error)) as caught:
        list(evaluator.run(4, 4, machine))
    assert caught.value is error
    assert machine.sizes == [4]


def test_nothing_of_a_failed_chunk_is_kept() -> None:
    """The frames of the failed call would hold its tensors while the smaller ones run."""
    failed: list[RuntimeError] = []

    def evaluate(start: int, stop: int) -> int:
        if stop - start > 1:
            failed.append(RuntimeError("DefaultCPUAllocator: not enough memory"))
            raise failed[-1]
        assert failed[-1].__traceback__ is None
        return start

    with Evaluator("work", 2) as evaluator, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(evaluator.run(2, 2, evaluate)) == [0, 1]


def explain(forward: Callable[[torch.Tensor], torch.Tensor], features: int = 6, **options: object) -> torch.Tensor:
    return FeatureAblation(forward).attribute(torch.ones(1, features), **options)


@pytest.mark.parametrize("per_call", [None, 1, 4])
def test_progress_grows_to_the_total(per_call: int | None) -> None:
    seen: list[Progress] = []
    with watching(seen.append):
        explain(lambda x: x.sum(1), perturbations_per_eval=per_call)
        halfway = len(seen)
        explain(lambda x: x.sum(1), 2, perturbations_per_eval=per_call)
    explain(lambda x: x.sum(1))
    for part, total in ((seen[:halfway], 7), (seen[halfway:], 3)):
        done = [progress.done for progress in part]
        assert done == sorted(set(done))
        assert done[-1] == total
        assert {(progress.description, progress.total) for progress in part} == {
            ("Feature Ablation attribution", total)
        }


def test_threads_with_their_own_observers() -> None:
    barrier = threading.Barrier(2)

    def watched(features: int) -> set[int]:
        totals: set[int] = set()
        with watching(lambda progress: totals.add(progress.total)):
            barrier.wait(10)
            for _ in range(10):
                explain(lambda x: x.sum(1), features)
        return totals

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(watched, [4, 9])) == [{5}, {10}]


def test_another_thread_stops_it(bars: list[tqdm]) -> None:
    stop, started, stopped = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        started.set()
        assert stopped.wait(10)
        return x.sum(1)

    def press() -> None:
        assert started.wait(10)
        stop.set()
        stopped.set()

    thread = threading.Thread(target=press)
    thread.start()
    with watching(cancel=stop), pytest.raises(Cancelled, match="was stopped after 1 of 7 evaluations"):
        explain(forward, perturbations_per_eval=1, show_progress=True)
    thread.join()
    assert calls == [1]
    assert_closed(bars)
    assert torch.equal(explain(forward), torch.ones(1, 6))


def test_stopped_before_it_began(bars: list[tqdm]) -> None:
    stop = threading.Event()
    stop.set()
    with watching(cancel=stop), pytest.raises(Cancelled, match="after 0 of 7"):
        explain(lambda x: x.sum(1), show_progress=True)
    assert not bars


def test_an_inner_watch_ends_with_its_block() -> None:
    outer: list[Progress] = []
    inner: list[Progress] = []
    with watching(outer.append):
        with watching(inner.append):
            explain(lambda x: x.sum(1), 1)
        assert not outer
        explain(lambda x: x.sum(1), 2)
    assert {progress.total for progress in inner} == {2}
    assert {progress.total for progress in outer} == {3}


def test_promises_tell_the_observer_of_their_maker(bars: list[tqdm]) -> None:
    pending: list[Callable[[], None]] = []

    def promise(x: torch.Tensor) -> torch.futures.Future:
        future: torch.futures.Future = torch.futures.Future()
        pending.append(lambda: future.set_result(x.sum(1)))
        return future

    seen: list[int] = []
    with watching(lambda progress: seen.append(progress.done)):
        future = FeatureAblation(promise).attribute_future(torch.ones(1, 3), show_progress=True)
    assert not bars[0].disable
    thread = threading.Thread(target=lambda: [keep() for keep in pending])
    thread.start()
    thread.join()
    assert torch.equal(future.wait(), torch.ones(1, 3))
    assert seen == [1, 2, 3, 4]
    assert_closed(bars)


def test_promises_can_be_stopped(bars: list[tqdm]) -> None:
    stop = threading.Event()
    asked: list[torch.futures.Future] = []

    def promise(x: torch.Tensor) -> torch.futures.Future:
        asked.append(torch.futures.Future())
        if len(asked) == 2:
            stop.set()
        return asked[-1]

    with watching(cancel=stop), pytest.raises(Cancelled):
        FeatureAblation(promise).attribute_future(torch.ones(1, 3), show_progress=True)
    assert len(asked) == 2
    assert_closed(bars)


def test_a_broken_promise_is_told_and_closes_the_bar(bars: list[tqdm]) -> None:
    def promise(x: torch.Tensor) -> torch.futures.Future:
        future: torch.futures.Future = torch.futures.Future()
        future.set_exception(ConnectionError("the server is gone"))
        return future

    future = FeatureAblation(promise).attribute_future(torch.ones(1, 3), show_progress=True)
    with pytest.raises(Exception, match="the server is gone"):
        future.wait()
    assert_closed(bars)
