"""`parallel()`: its processes, their errors, and what it refuses."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from time import monotonic
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import llm_attr
from llm_attr.attr import FeatureAblation, IntegratedGradients
from llm_attr.core.parallel.sharing import cuts, share
from llm_attr.core.parallel.team import Team, current_team
from llm_attr.errors import InvalidValue, OutOfStep, ProcessFailed, ProcessLost
from tests.parallel.processes import launch, needs_gloo, values

pytestmark = [needs_gloo, pytest.mark.usefixtures("one_thread")]

X = torch.linspace(-1, 2, 6, dtype=torch.float64)[None]


def double_sum(x: Tensor) -> Tensor:
    return (x**2).sum(1)


def test_one_process() -> None:
    with llm_attr.parallel() as team:
        assert (team.size, team.rank, team.processes) == (1, 0, 1)
        FeatureAblation(double_sum).attribute(X)
    assert current_team() is None


def test_another_number_of_processes_is_refused() -> None:
    with pytest.raises(InvalidValue, match="runs as 1; start it with `torchrun"), llm_attr.parallel(num_processes=2):
        pass
    with pytest.raises(InvalidValue, match="num_processes must be"):
        llm_attr.parallel(num_processes=0)
    with pytest.raises(InvalidValue, match="shards must divide"), llm_attr.parallel(shards=2):
        pass
    with pytest.raises(InvalidValue, match="nested"), llm_attr.parallel(), llm_attr.parallel():
        pass
    assert current_team() is None


class Broken(RuntimeError):
    pass


class Unpicklable(RuntimeError):
    def __init__(self, one: Any, two: Any) -> None:
        super().__init__("two arguments")


@pytest.mark.parametrize("place", ["model", "between", "end"])
def test_an_error_of_one_process_ends_all(place: str) -> None:
    def work(rank: int) -> None:
        def model(x: Tensor) -> Tensor:
            if place == "model" and rank == 1:
                raise Broken("the model")
            return double_sum(x)

        with llm_attr.parallel():
            if place == "between" and rank == 1:
                raise Broken("between")
            FeatureAblation(model).attribute(X)
            IntegratedGradients(model).attribute(X)
            if place == "end" and rank == 1:
                raise Broken("the end")

    start = monotonic()
    outcomes = launch(work, 3)
    assert monotonic() - start < 60
    assert [type(outcome.error) for outcome in outcomes] == [Broken] * 3
    cause = outcomes[0].error.__cause__ if outcomes[0].error is not None else None
    assert cause is None or "raised by process 1 of 3" in str(cause)  # a cause is not pickled


def test_an_error_that_cannot_be_pickled() -> None:
    def work(rank: int) -> str:
        expected = ProcessFailed if rank else Unpicklable

        def part(i: int) -> int:
            if rank == 0:
                raise Unpicklable(1, 2)
            return i

        with pytest.raises(expected) as raised, llm_attr.parallel():
            share("work", 2, part)
        return str(raised.value)

    assert values(work, 2) == ["two arguments", "Unpicklable: two arguments"]


def test_an_interrupted_process_ends_all() -> None:
    def work(rank: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts without it
        with llm_attr.parallel():
            if rank == 1:
                os.kill(os.getpid(), signal.SIGINT)
            share("work", 2, lambda i: i)

    assert [type(outcome.error) for outcome in launch(work, 2)] == [KeyboardInterrupt] * 2


def test_an_interrupt_in_the_middle_of_a_message_waits_for_its_end() -> None:
    def work(rank: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        whole = dist.all_gather_object

        def interrupted(*args: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            whole(*args, **kwargs)

        with llm_attr.parallel() as team:
            with pytest.MonkeyPatch.context() as patch:
                if rank == 1:
                    patch.setattr(dist, "all_gather_object", interrupted)
                team.exchange("work", rank)
            assert rank == 0
            team.exchange("more work", rank)

    assert [type(outcome.error) for outcome in launch(work, 2)] == [KeyboardInterrupt] * 2


def test_a_killed_process_ends_the_others() -> None:
    def work(rank: int) -> None:
        with llm_attr.parallel():
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            share("work", 2, lambda i: i)

    start = monotonic()
    first, killed, third = launch(work, 3)
    assert monotonic() - start < 60
    assert killed.code == -signal.SIGKILL
    assert isinstance(first.error, ProcessLost)
    assert isinstance(third.error, ProcessLost)


def test_different_inputs_are_refused() -> None:
    def work(rank: int) -> None:
        with llm_attr.parallel():
            IntegratedGradients(double_sum).attribute(X + rank)

    for outcome in launch(work, 2):
        assert isinstance(outcome.error, OutOfStep)
        assert "Integrated Gradients attribution: 50" in str(outcome.error)


def test_other_weights_are_refused() -> None:
    def work(rank: int) -> None:
        torch.manual_seed(rank)
        net = nn.Linear(6, 2).double()
        with llm_attr.parallel():
            FeatureAblation(net).attribute(X, target=0)

    assert [type(outcome.error) for outcome in launch(work, 2)] == [OutOfStep] * 2


def test_other_calls_are_refused() -> None:
    def work(rank: int) -> None:
        with llm_attr.parallel():
            if rank == 0:
                FeatureAblation(double_sum).attribute(X)

    assert [type(outcome.error) for outcome in launch(work, 2)] == [OutOfStep] * 2


def test_several_processes_hold_one_model() -> None:
    def work(rank: int) -> tuple[int, int, int, list[int], int]:
        with llm_attr.parallel(num_processes=4, shards=2) as team:
            found = share("work", 4, lambda i: 10 * rank + i)
            return team.size, team.rank, team.shards, found, team.least(10 - rank)

    assert values(work, 4) == [
        (2, rank // 2, 2, [0, 21, 2, 23], least) for rank, least in zip(range(4), [9, 9, 7, 7], strict=True)
    ]


def test_a_plain_script_starts_its_processes() -> None:
    @llm_attr.parallel(num_processes=2)
    def work(factor: float) -> tuple[int, Tensor]:
        team = current_team()
        assert isinstance(team, Team)
        return team.size, FeatureAblation(double_sum).attribute(factor * X)

    def start(rank: int) -> tuple[int, Tensor]:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
        return work(2.0)

    ((size, found),) = values(start, 1)
    assert size == 2
    torch.testing.assert_close(found, FeatureAblation(double_sum).attribute(2 * X))


def test_an_error_in_a_started_process_reaches_the_caller() -> None:
    def failing() -> None:
        raise Broken("the function")

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def start(rank: int) -> str:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
        with pytest.raises(Broken, match="the function") as raised:
            llm_attr.parallel(num_processes=2)(failing)()
        with pytest.raises(ProcessLost, match="num_processes=2"):
            llm_attr.parallel(num_processes=2)(killed)()
        return str(raised.value.__cause__)

    (cause,) = values(start, 1)
    assert "in failing" in cause


def test_a_decorated_function_in_a_launched_program() -> None:
    @llm_attr.parallel(num_processes=2)
    def work() -> int:
        team = current_team()
        return 0 if team is None else team.size

    assert values(lambda rank: work(), 2) == [2, 2]


@pytest.mark.parametrize(
    ("costs", "alone", "parts", "expected"),
    [
        ([5, 1, 1, 1], [5, 5, 5, 5], 2, [0, 2, 4]),
        ([3, 3, 3, 3], [3, 3, 3, 3], 2, [0, 2, 4]),
        ([9, 1], [9, 9], 3, [0, 1, 2, 2]),
        ([1], [1], 2, [0, 1, 1]),
        ([], [], 2, [0, 0, 0]),
    ],
)
def test_cuts(costs: list[int], alone: list[int], parts: int, expected: list[int]) -> None:
    found = cuts(costs, alone, parts)
    assert (found[0], found[-1], len(found)) == (0, len(costs), parts + 1)

    def most(places: list[int]) -> int:
        return max((alone[a] + sum(costs[a + 1 : b]) for a, b in pairwise(places) if a < b), default=0)

    assert most(found) == most(expected)


def test_modules_are_shared_too() -> None:
    net = nn.Linear(6, 2).double()

    def work(rank: int) -> Tensor:
        with llm_attr.parallel():
            return IntegratedGradients(net).attribute(X, target=0, n_steps=5)

    for found in values(work, 2):
        torch.testing.assert_close(found, IntegratedGradients(net).attribute(X, target=0, n_steps=5))
