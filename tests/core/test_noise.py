from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.core.evaluator import Evaluator, Progress, share_of, watching
from llm_attr.core.memory import is_out_of_memory
from llm_attr.core.path.expectation import RandomLines
from llm_attr.core.path.noise import Draws, Moments, as_distributions, as_stdevs, drawn, noisy
from llm_attr.core.path.walk import Walk
from llm_attr.core.problem import Problem
from llm_attr.core.site import Site
from llm_attr.core.target import tile_target
from llm_attr.core.tensors import tile
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, OutOfMemory, positive
from tests.contract.models import assert_same

CPU = torch.device("cpu")
X, Y = torch.arange(6.0).view(2, 3), torch.zeros(2, 2, 2)
IDS = torch.tensor([[1, 2], [3, 4]])


def global_state() -> list[Any]:
    return [torch.get_rng_state(), list(np.random.get_state()[1:])]


def test_a_seed_repeats_all_draws_and_leaves_the_global_streams_alone() -> None:
    before = global_state()

    def draw(seed: int) -> list[Any]:
        draws = Draws.of(seed)
        return [draws.noise((2, 3), 0.5, CPU), draws.choice(7, 9), draws.uniform(4), draws.seed()]

    assert_same(draw(3), draw(3))
    assert not torch.equal(draw(3)[0], draw(4)[0])
    assert_same(global_state(), before)


def test_without_a_seed_the_global_streams_are_drawn_from() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    draws = Draws.of(None)
    found = [draws.noise((2, 3), 0.5, CPU), draws.choice(7, 9), draws.uniform(4)]
    torch.manual_seed(0)
    np.random.seed(0)
    expected = [torch.normal(0.0, torch.full((2, 3), 0.5)), np.random.choice(7, 9), np.random.uniform(0, 1, 4)]
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, torch.as_tensor(want))
    assert draws.seed() is None


@pytest.mark.parametrize("draws", [Draws.of(1), Draws.of(None)])
def test_distributions_of_the_draws(draws: Draws) -> None:
    noise = draws.noise((200, 100), 2.0, CPU)
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 2) < 0.1
    assert draws.choice(4, 4000).bincount(minlength=5)[:4].min() > 850
    assert draws.choice(4, 4000).max() == 3
    uniform = draws.uniform(4000)
    assert uniform.dtype == torch.float64
    assert 0 <= uniform.min() < 0.01
    assert 0.99 < uniform.max() < 1


@pytest.mark.parametrize("seed", [1.5, "1", True, torch.tensor(1)])
def test_bad_seeds(seed: Any) -> None:
    with pytest.raises(InvalidType, match="seed must be a whole number or None"):
        Draws.of(seed)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
def test_bad_counts(value: Any) -> None:
    with pytest.raises(InvalidValue, match="nt_samples must be a whole number of at least 1"):
        positive("nt_samples", value)


def test_standard_deviations() -> None:
    assert as_stdevs(1, (X, Y)) == (1.0, 1.0)
    assert as_stdevs((0.5, 0), (X, IDS)) == (0.5, 0.0)
    with pytest.raises(InvalidShape, match="one for each of the 2 inputs; got 1"):
        as_stdevs((0.5,), (X, Y))
    for bad in (-0.1, float("nan"), float("inf"), "1", True, None, [1.0]):
        with pytest.raises(InvalidValue, match="stdevs must be numbers of at least 0"):
            as_stdevs(bad, (X,))  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match=r"input 1 holds .*, to which no noise can be added"):
        as_stdevs(0.1, (X, IDS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_noisy_copies_keep_type_and_order(dtype: torch.dtype) -> None:
    x = X.to(dtype).requires_grad_()
    (copies,) = noisy((x,), 4, (0.01,), Draws.of(0))
    assert copies.shape == (2, 4, 3)
    assert copies.dtype == dtype
    assert not copies.requires_grad
    assert torch.allclose(copies, x[:, None].detach().expand(2, 4, 3), atol=0.1)
    assert not torch.equal(copies[:, 0], copies[:, 1])


def test_noise_without_deviation_is_drawn_all_the_same() -> None:
    """As in Captum: the stream moves on."""
    torch.manual_seed(0)
    (copies,) = noisy((X,), 4, (0.0,), Draws.of(None))
    assert torch.equal(copies, X[:, None].expand(2, 4, 3))
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.normal(0.0, torch.ones(8, 3))
    assert torch.equal(after, torch.rand(1))


def test_whole_numbers_stay_and_draw_nothing() -> None:
    torch.manual_seed(0)
    _, copies = noisy((X, IDS), 2, (0.0, 0.0), Draws.of(1))
    assert torch.equal(copies, IDS[:, None].expand(2, 2, 2))
    (copies,) = noisy((IDS,), 2, (0.0,), Draws.of(None))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_states_of_baselines() -> None:
    one, other = as_distributions((torch.ones(5, 3).double(), 2), (X, Y))
    assert one.shape == (5, 3)
    assert one.dtype == X.dtype
    assert torch.equal(other, torch.full((1, 2, 2), 2.0))
    for bad in (torch.ones(3), torch.ones(0, 3), torch.ones(5, 4), torch.tensor(1.0)):
        with pytest.raises(InvalidShape, match="baseline 0 must be states"):
            as_distributions(bad, X)
    with pytest.raises(InvalidShape, match="one for each of the 1 inputs; got 2"):
        as_distributions((torch.ones(5, 3),) * 2, X)
    with pytest.raises(InvalidType, match="baselines must be given"):
        as_distributions(None, X)
    with pytest.raises(InvalidType, match="must be a tensor or a number; got str"):
        as_distributions("zero", X)  # type: ignore[arg-type]


class Method:
    def states(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 0

    def __call__(self) -> torch.Tensor:
        return torch.ones(4, 3)


@pytest.mark.parametrize(
    ("function", "rows"),
    [
        (lambda: torch.ones(4, 3), 4),
        (lambda inputs: inputs[:1], 1),
        (lambda *inputs: inputs[0], 2),
        (lambda inputs=None: inputs, 2),
        (torch.zeros_like, 2),
        (Method().states, 2),
        (Method(), 4),
    ],
)
def test_states_from_a_function(function: Any, rows: int) -> None:
    (found,) = as_distributions(function, X)
    assert found.shape == (rows, 3)


def test_what_a_function_raises_is_not_taken_for_a_missing_argument() -> None:
    def broken(inputs: torch.Tensor) -> torch.Tensor:
        raise TypeError("in the user's code")

    with pytest.raises(TypeError, match="in the user's code"):
        as_distributions(broken, X)


def test_drawn_states_are_rows_of_their_distribution() -> None:
    states = torch.arange(12.0).view(4, 3)
    one, other = drawn((states, states + 100), 2, 50, Draws.of(0))
    assert one.shape == (2, 50, 3)
    assert {tuple(row) for row in one.flatten(0, 1).tolist()} == {tuple(row) for row in states.tolist()}
    assert not torch.equal(one, other - 100)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from([0.0, 1e6]), st.integers(0, 99))
def test_moments_of_parts_are_those_of_the_whole(sizes: list[int], offset: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(2, sum(sizes), 3, generator=generator, dtype=torch.float64) + offset
    parts = [Moments.of(part) for part in whole.split(sizes, 1)]
    joined = functools.reduce(Moments.joined, parts)
    assert joined.count == sum(sizes)
    torch.testing.assert_close(joined.mean, whole.mean(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(joined.variance, whole.var(1, correction=0), rtol=1e-6, atol=1e-9)


def test_moments_of_half_precision_are_in_single() -> None:
    moments = Moments.of(torch.full((1, 3000, 1), 40.0, dtype=torch.float16))
    assert moments.mean.dtype == torch.float32
    assert moments.mean.item() == 40
    assert moments.variance.item() == 0


def test_rows_by_example() -> None:
    value = {"rows": torch.tensor([1, 2]), "shared": torch.tensor([1, 2, 3]), "none": None}
    by_example, by_batch = tile(value, 3, 2, by_example=True), tile(value, 3, 2)
    assert by_example["rows"].tolist() == [1, 1, 1, 2, 2, 2]
    assert by_batch["rows"].tolist() == [1, 2, 1, 2, 1, 2]
    assert by_example["shared"] is value["shared"]
    assert tile_target([4, 5], 2, by_example=True) == [4, 4, 5, 5]
    assert tile_target([(4, 1), (5, 2)], 2) == [(4, 1), (5, 2), (4, 1), (5, 2)]
    assert tile_target(torch.tensor([4, 5]), 2, by_example=True).tolist() == [4, 4, 5, 5]  # type: ignore[union-attr]
    assert tile_target((4, 5), 2, by_example=True) == (4, 5)


def test_lines_are_stacked_by_batches() -> None:
    lines = RandomLines.drawn(X, torch.zeros(1, 3), 3, 0.0, Draws.of(0))
    assert torch.equal(lines.highs(0, 3)[0], X.repeat(3, 1))
    torch.testing.assert_close(lines.points(1, 3)[0], X.repeat(2, 1) * lines.alphas[:, 1:].t().reshape(-1, 1).float())
    assert torch.equal(lines.differences(2, 3)[0], X)


def test_scores_in_calls_that_fit_and_of_a_batch_that_does_not_grow() -> None:
    problem = Problem.of(lambda x: x.sum(1), X)
    points = torch.randn(8, 3)
    walk = Walk(problem, Evaluator("scores", 4), rows=5)
    assert torch.equal(walk.scores(lambda start, stop: (points[2 * start : 2 * stop],), 4), points.sum(1))
    rows: list[int] = []

    def fixed(x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return x[:2].sum(1)

    walk = Walk(Problem.of(fixed, X), Evaluator("scores", 4))
    assert torch.equal(walk.scores(lambda start, stop: (points[2 * start : 2 * stop],), 4), points.sum(1))
    assert rows == [8, 2, 2, 2, 2]


def test_a_rest_whose_rows_are_as_many_as_the_layers_channels() -> None:
    """The batch axis cannot be told there, so that the points of the rest go one by one."""
    layer = torch.nn.Conv1d(1, 4, 1)
    model = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(12, 1))
    problem = Problem.of(model, torch.ones(2, 1, 3)).observed_at([Site(layer)])
    points = torch.randn(10, 1, 3)
    walk = Walk(problem, Evaluator("gradients", 5), rows=6)
    found = list(walk.gradients(lambda start, stop: (points[2 * start : 2 * stop],), 5))
    assert [copies for copies, _ in found] == [3, 1, 1]
    torch.testing.assert_close(torch.cat([part.at[0] for _, part in found]), layer(points).detach())


def test_a_share_tells_of_the_whole() -> None:
    seen: list[Progress] = []
    with watching(seen.append):
        for start, stop in ((0, 2), (2, 3)):
            with share_of("the whole", start, stop, 3):
                part = Evaluator("a part", 10)
                part.advance(5)
                part.advance(5)
    assert seen == [Progress("the whole", done, 30) for done in (10, 20, 25, 30)]


def test_a_share_that_nobody_watches() -> None:
    with share_of("the whole", 0, 1, 1):
        Evaluator("a part", 1).advance(1)


def test_an_error_of_a_part_is_one_of_the_whole() -> None:
    assert is_out_of_memory(OutOfMemory("not even one piece fits"))
