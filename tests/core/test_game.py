"""How the tensor game calls the model, and that the values are right however it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import FeatureAblation
from llm_attr.core import batching
from llm_attr.core.game.tensor_game import uses_batch_statistics
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, OutOfMemory

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Counted:
    """A forward function that remembers the batch size of each call."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.sizes: list[int] = []

    def __call__(self, *args: Any) -> Any:
        self.sizes.append(len(args[0]))
        return self.forward(*args)


def linear(x: Tensor) -> Tensor:
    return x @ WEIGHTS


def test_full_once_then_one_doubled_batch_then_the_rest_in_one_call() -> None:
    forward = Counted(linear)
    result = FeatureAblation(forward).attribute(X, target=1)
    assert forward.sizes == [3, 6, 15]
    torch.testing.assert_close(result, X * WEIGHTS[:, 1])


def test_the_rest_comes_in_chunks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "CPU_CALL_BYTES", 2 * (X.numel() + len(X)) * X.element_size())
    forward = Counted(linear)
    torch.testing.assert_close(FeatureAblation(forward).attribute(X, target=1), X * WEIGHTS[:, 1])
    assert forward.sizes == [3, 6, 6, 6, 3]


@pytest.mark.parametrize("features", [1, 2])
def test_few_features(features: int) -> None:
    forward = Counted(lambda x: x.sum(1))
    x = X[:, :features]
    torch.testing.assert_close(FeatureAblation(forward).attribute(x), x)
    assert forward.sizes == [3, 6, 3][: features + 1]


def test_blocks_of_the_design_share_one_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_attr.core.game.coalitions.BLOCK_ENTRIES", 12)
    forward = Counted(linear)
    torch.testing.assert_close(FeatureAblation(forward).attribute(X, target=1), X * WEIGHTS[:, 1])
    assert forward.sizes == [3, 6, 3, 6, 6]


@pytest.mark.parametrize(("per_call", "sizes"), [(1, [3] * 7), (2, [3, 6, 6, 6]), (4, [3, 12, 6]), (99, [3, 18])])
def test_an_int_is_kept_to(per_call: int, sizes: list[int]) -> None:
    forward = Counted(linear)
    result = FeatureAblation(forward).attribute(X, target=1, perturbations_per_eval=per_call)
    assert forward.sizes == sizes
    torch.testing.assert_close(result, X * WEIGHTS[:, 1])


@pytest.mark.parametrize(
    "aggregate",
    [
        lambda x: linear(x).sum(),
        lambda x: linear(x).sum(0),
        lambda x: linear(x).sum().item(),
        lambda x: linear(x)[:3, 0],
        lambda x: torch.cat([linear(x)[:3, 0], torch.zeros(1)]),
    ],
    ids=["scalar", "vector", "number", "first rows", "one row too many"],
)
def test_an_output_that_does_not_double_is_asked_one_coalition_at_a_time(aggregate: Callable[[Tensor], Any]) -> None:
    forward = Counted(aggregate)
    result = FeatureAblation(forward).attribute(X)
    assert [size for size in forward.sizes if size != 6] == [3] * 7
    assert forward.sizes.count(6) <= 1
    torch.testing.assert_close(result, FeatureAblation(aggregate).attribute(X, perturbations_per_eval=1))


def by_hand(forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Each feature left out in a call of its own."""
    whole = forward(X.clone())
    losses = []
    for i in range(X.shape[1]):
        without = X.clone()
        without[:, i] = 0
        losses.append(whole - forward(without))
    return torch.stack(losses, 1)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.sin()).square().sum(1)

    def explained(self, x: Tensor) -> Tensor:
        return self(x)


def test_batch_statistics_in_train_mode_one_at_a_time() -> None:
    model = Normalised()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    assert uses_batch_statistics(model)
    assert uses_batch_statistics(model.explained)
    for forward in (model, model.explained):
        sizes.clear()
        result = FeatureAblation(forward).attribute(X)
        assert sizes == [3] * 7
        torch.testing.assert_close(result, by_hand(model).detach())
    model.eval()
    sizes.clear()
    FeatureAblation(model).attribute(X)
    assert sizes == [3, 6, 15]
    assert not uses_batch_statistics(model)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm1d(3), True),
        (nn.BatchNorm1d(3).eval(), False),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), True),
        (nn.Sequential(nn.Linear(3, 3), nn.SyncBatchNorm(3)), True),
        (nn.Sequential(nn.InstanceNorm1d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3)), False),
        (lambda x: x, False),
    ],
)
def test_which_modules_use_batch_statistics(module: Callable[..., Any], expected: bool) -> None:
    assert uses_batch_statistics(module) is expected


def test_batch_statistics_in_a_function_are_found_by_their_values() -> None:
    model = Normalised()
    forward = Counted(lambda x: model(x))
    assert not uses_batch_statistics(forward)
    result = FeatureAblation(forward).attribute(X)
    assert forward.sizes == [3, 6, *[3] * 6]
    torch.testing.assert_close(result, by_hand(model).detach())


def test_a_model_for_one_batch_size_is_asked_one_at_a_time() -> None:
    forward = Counted(lambda x: linear(x.view(3, 6))[:, 0])
    torch.testing.assert_close(FeatureAblation(forward).attribute(X), X * WEIGHTS[:, 0])
    assert forward.sizes == [3, 6, *[3] * 6]


def test_a_shared_argument_with_as_many_rows_as_examples_is_no_obstacle() -> None:
    x, weight = X[:, :3], WEIGHTS[:3]
    result = FeatureAblation(lambda x, w: x @ w).attribute(x, target=0, additional_forward_args=weight)
    torch.testing.assert_close(result, x * weight[:, 0])


def test_a_random_model_is_not_trusted_with_a_doubled_batch() -> None:
    forward = Counted(lambda x: linear(x)[:, 0] + len(forward.sizes))
    FeatureAblation(forward).attribute(X)
    assert forward.sizes == [3, 6, *[3] * 6]


@pytest.mark.parametrize("rounding", [1e-3, 1e-2])
def test_rounding_of_a_larger_batch_is_no_obstacle(rounding: float) -> None:
    """As products in TF32, or a convolution whose algorithm depends on the size of the batch."""
    forward = Counted(lambda x: linear(x.float().double()) * (1 + rounding * (len(x) > 3)))
    result = FeatureAblation(forward).attribute(X.float(), target=1)
    assert forward.sizes == [3, 6, 6, 15], "the third call is the first coalition twice"
    assert (result - X * WEIGHTS[:, 1]).abs().max() < 20 * rounding


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda h: h - 0.01 * h.mean(0),
    "normalised": lambda h: h / h.square().mean().sqrt() ** 0.01,
    "by the size of the batch": lambda h: h * len(h),
}


@pytest.mark.parametrize("mix", MIXES)
def test_rows_that_change_each_other_a_little_go_alone(mix: str) -> None:
    def forward(x: Tensor) -> Tensor:
        return linear(MIXES[mix](x).double())

    calls, x = Counted(forward), 3 * X.float()
    found = FeatureAblation(calls).attribute(x, target=1)
    assert set(calls.sizes[3:]) == {3}
    full = forward(x)[:, 1]
    for feature in range(6):
        without = x.clone()
        without[:, feature] = 0
        torch.testing.assert_close(
            found[:, feature], (full - forward(without)[:, 1]).to(found.dtype), check_dtype=False
        )


@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning", "ignore:.*quantiz:UserWarning")
@pytest.mark.filterwarnings("ignore:.*reduce_range:UserWarning")
@pytest.mark.parametrize("of_function", [False, True])
def test_dynamic_quantisation_has_one_scale_for_a_batch(of_function: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    net = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    x = X.float()
    found = FeatureAblation((lambda x: net(x)) if of_function else net).attribute(x, target=1)
    for feature in range(6):
        without = x.clone()
        without[:, feature] = 0
        torch.testing.assert_close(found[:, feature], (net(x) - net(without))[:, 1].detach())


@pytest.mark.parametrize("odd", [float("inf"), float("-inf"), float("nan")])
def test_infinite_answers_do_not_hide_that_answers_disagree(odd: float) -> None:
    calls = Counted(lambda x: torch.stack([torch.full((len(x),), odd), linear(x)[:, 0] * len(x)], 1))
    FeatureAblation(calls).attribute(X)
    assert calls.sizes == [3, 6, *[3] * 6]


@pytest.mark.parametrize("odd", [float("inf"), float("-inf")])
def test_infinite_answers_that_agree_are_batched(odd: float) -> None:
    calls = Counted(lambda x: torch.stack([torch.full((len(x),), odd), linear(x)[:, 0]], 1))
    result = FeatureAblation(calls).attribute(X)
    assert calls.sizes == [3, 6, 15]
    torch.testing.assert_close(result[1::2], X * WEIGHTS[:, 0])


def test_the_model_sees_neither_gradients_nor_the_callers_tensors() -> None:
    x = X.clone().requires_grad_()
    seen: list[Tensor] = []

    def forward(points: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not points.requires_grad
        seen.append(points)
        return linear(points.neg_())[:, 0]

    torch.testing.assert_close(FeatureAblation(forward).attribute(x), -X * WEIGHTS[:, 0])
    assert torch.equal(x.detach(), X)
    assert len({points.data_ptr() for points in seen} & {x.data_ptr()}) == 0


def test_bool_outputs_are_counted() -> None:
    x = torch.tensor([[1.0, -1.0]])
    assert FeatureAblation(lambda x: x.sum(1) >= 0).attribute(x).tolist() == [[1.0, 0.0]]
    assert FeatureAblation(lambda x: bool(x.sum() >= 0)).attribute(x).tolist() == [[1, 0]]


def test_a_mask_per_example_is_refused_for_an_aggregate_after_one_call() -> None:
    forward = Counted(lambda x: linear(x).sum())
    mask = torch.arange(18).view(3, 6) % 4
    with pytest.raises(InvalidShape, match=r"between the 3 examples needs outputs .* the model gave 1 outputs"):
        FeatureAblation(forward).attribute(X, feature_mask=mask)
    assert forward.sizes == [3]


@pytest.mark.parametrize("per_call", [0, -1])
def test_per_call_is_at_least_one(per_call: int) -> None:
    with pytest.raises(InvalidValue, match=f"perturbations_per_eval must be at least 1 or None; got {per_call}"):
        FeatureAblation(linear).attribute(X, target=0, perturbations_per_eval=per_call)


@pytest.mark.parametrize("answer", [{"logits": X}, (X, X), None, "text"])
def test_outputs_that_are_refused(answer: object) -> None:
    kind = type(answer).__name__
    with pytest.raises(InvalidType, match=f"must give a tensor or a number; got {kind} .*picks the tensor to explain"):
        FeatureAblation(lambda x: answer).attribute(X)


def out_of_memory_above(rows: int, error: BaseException) -> Counted:
    def forward(x: Tensor) -> Tensor:
        if len(x) > rows:
            raise error
        return linear(x)[:, 0]

    return Counted(forward)


CPU_ERROR = RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory")


def test_a_chunk_that_does_not_fit_is_halved() -> None:
    forward = out_of_memory_above(8, CPU_ERROR)
    with pytest.warns(RuntimeWarning, match="Feature Ablation attribution: 5 at a time did not fit") as caught:
        result = FeatureAblation(forward).attribute(X)
    assert len(caught) == 1
    assert forward.sizes == [3, 6, 15, 6, 6, 3]
    torch.testing.assert_close(result, X * WEIGHTS[:, 0])


def test_a_doubled_batch_that_does_not_fit_means_one_at_a_time() -> None:
    forward = out_of_memory_above(3, CPU_ERROR)
    torch.testing.assert_close(FeatureAblation(forward).attribute(X), X * WEIGHTS[:, 0])
    assert forward.sizes == [3, 6, *[3] * 6]


@pytest.mark.parametrize("error", [CPU_ERROR, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_full_input_that_does_not_fit(error: BaseException) -> None:
    with pytest.raises(OutOfMemory, match="not even one piece of Feature Ablation attribution fits into memory"):
        FeatureAblation(out_of_memory_above(2, error)).attribute(X)
