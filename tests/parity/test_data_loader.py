"""DataLoaderAttribution equals the installed Captum's."""

from __future__ import annotations

import random as python_random
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from llm_attr.attr import (
    DataLoaderAttribution,
    FeatureAblation,
    FeaturePermutation,
    InputRole,
    IntegratedGradients,
    LayerFeatureAblation,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from llm_attr.core.evaluator import watching
from llm_attr.errors import Cancelled, InvalidShape, InvalidType, InvalidValue, UnknownKeyword, UnsupportedMethod
from tests.parity.cases import assert_equal, random
from tests.parity.models import TwoInputs, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr
    from captum.attr._core.dataloader_attr import DataLoaderAttribution as CaptumDataLoaderAttribution
    from captum.attr._core.dataloader_attr import InputRole as CaptumInputRole


pytestmark = pytest.mark.usefixtures("one_thread")


X, Y, LABELS = random(7, 4), random(7, 2, 3, seed=1), torch.tensor([0, 1, 0, 1, 1, 0, 1])
MLP, TWO = made(mlp()), made(TwoInputs())


def joined(accum: Any, output: Tensor, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Keeps scores and labels of all batches."""
    if accum is None:
        return output, inputs[-1]
    return torch.cat([accum[0], output]), torch.cat([accum[1], inputs[-1]])


def area_under_curve(accum: tuple[Tensor, Tensor]) -> Tensor:
    """For each output, the share of pairs of examples that it orders as their labels do."""
    scores, labels = accum
    above = scores[labels == 1][:, None] - scores[labels == 0][None]
    return (above > 0).double().mean((0, 1))


def counted(accum: Any, output: Tensor, inputs: tuple[Any, ...]) -> Tensor:
    """Sums, with an input: what the model saw."""
    return (0 if accum is None else accum) + output.sum(0) * inputs[0].sum()


def loader(*tensors: Tensor, size: int = 3) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), size)


CASES: dict[str, tuple[Callable[..., Any], DataLoader, dict[str, Any]]] = {
    "outputs joined": (MLP, loader(X), {}),
    "one number each": (lambda x: x.prod(1), loader(X), {}),
    "baseline": (MLP, loader(X), {"baselines": 0.5}),
    "baseline row, mask": (
        MLP,
        loader(X),
        {"baselines": X[:1], "feature_mask": torch.tensor([[0, 1, 1, 0]])},
    ),
    "mask with gaps": (MLP, loader(X), {"feature_mask": (torch.tensor([[3, 9, 3, 5]]),)}),
    "metric": (MLP, loader(X), {"to_metric": lambda outputs: outputs.mean(0)}),
    "one metric": (MLP, loader(X), {"to_metric": lambda outputs: outputs.sum()}),
    "matrix": (MLP, loader(X), {"reduce": lambda accum, out, _: (0 if accum is None else accum) + out.T @ out}),
    "reduce sees what the model sees": (MLP, loader(X), {"reduce": counted, "baselines": 3}),
    "area under the curve": (
        MLP,
        loader(X, LABELS),
        {"input_roles": (0, 2), "reduce": joined, "to_metric": area_under_curve, "baselines": X[1:2]},
    ),
    "two inputs": (TWO, loader(X, Y), {"to_metric": lambda outputs: outputs.prod(0)}),
    "two inputs, one of them moved": (TWO, loader(X, Y), {"input_roles": (1, 0)}),
    "two inputs, labels, mask": (
        TWO,
        loader(X, Y, LABELS),
        {
            "input_roles": (0, 0, 2),
            "reduce": joined,
            "to_metric": lambda accum: accum[0][accum[1] == 1].mean(0),
            "feature_mask": (torch.tensor([[0, 1, 1, 4]]), torch.tensor([[[2, 2, 1], [0, 2, 4]]])),
            "baselines": (0.5, Y[:1]),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("per_pass", [1, 2, 100])
@pytest.mark.parametrize("return_input_shape", [True, False])
def test_equal(name: str, per_pass: int, return_input_shape: bool) -> None:
    forward, data, options = CASES[name]
    options = {"perturbations_per_pass": per_pass, "return_input_shape": return_input_shape, **options}
    theirs = CaptumDataLoaderAttribution(captum.attr.FeatureAblation(forward))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.attribute(data, **options)
    result = DataLoaderAttribution(FeatureAblation(forward)).attribute(data, **options)
    assert_equal(result, expected, 1e-8)


def test_roles() -> None:
    for name in ("need_attr", "need_forward", "no_forward"):
        assert getattr(InputRole, name) == getattr(CaptumInputRole, name)


def test_the_same_as_all_at_once() -> None:
    whole = FeatureAblation(TWO).attribute((X, Y), baselines=(0.5, Y[:1]))
    result = DataLoaderAttribution(FeatureAblation(TWO)).attribute(loader(X, Y), baselines=(0.5, Y[:1]))
    assert_equal(result, whole)


def test_bare_tensors_give_a_bare_tensor() -> None:
    """Captum mixes up the batches of such loaders."""
    whole = FeatureAblation(MLP).attribute(X)
    assert_equal(DataLoaderAttribution(FeatureAblation(MLP)).attribute([X[:3], X[3:]]), whole)
    (in_tuple,) = DataLoaderAttribution(FeatureAblation(MLP)).attribute([(X[:3],), (X[3:],)])
    assert_equal(in_tuple, whole)


def test_passes_and_memory() -> None:
    """Coalitions, the whole among them, share a pass; a batch is read once for each pass and one."""
    passes: list[int] = []
    sizes: list[int] = []

    class Counted:
        def __iter__(self) -> Iterator[list[Tensor]]:
            passes.append(1)
            for start in range(0, 7, 3):
                yield [X[start : start + 3]]

    def forward(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return MLP(x)

    for per_pass, expected in ((1, 5), (2, 3), (5, 1), (9, 1)):
        passes.clear()
        sizes.clear()
        DataLoaderAttribution(FeatureAblation(forward)).attribute(Counted(), perturbations_per_pass=per_pass)
        assert len(passes) == expected + 1
        assert max(sizes) == 3
        assert len(sizes) == 5 * 3


def test_a_loader_that_shuffles_gives_the_same_batches_in_each_pass() -> None:
    def rows_of(data: DataLoader) -> Tensor:
        return torch.cat([batch for (batch,) in data])

    for generator in (None, torch.Generator().manual_seed(2)):
        data = DataLoader(TensorDataset(X), 3, shuffle=True, generator=generator)
        before = torch.get_rng_state()
        own = None if generator is None else generator.get_state()
        (result,) = DataLoaderAttribution(FeatureAblation(MLP)).attribute(data)
        assert torch.equal(torch.get_rng_state(), before)
        assert generator is None or torch.equal(generator.get_state(), own)
        assert_equal(result, FeatureAblation(MLP).attribute(rows_of(data)))


def test_random_numbers_are_put_back_also_when_the_model_raises() -> None:
    calls: list[int] = []

    def forward(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return x.sum(1) * torch.rand(1)

    before, of_python = torch.get_rng_state(), python_random.getstate()
    with pytest.raises(KeyboardInterrupt):
        DataLoaderAttribution(FeatureAblation(forward)).attribute(loader(X))
    assert torch.equal(torch.get_rng_state(), before)
    assert python_random.getstate() == of_python


def test_other_methods_play_for_the_metric_too() -> None:
    def metric(outputs: Tensor) -> Tensor:
        return outputs.prod(0)

    def over_data(x: Tensor) -> Tensor:
        return metric(MLP(x))

    options = {"to_metric": metric, "baselines": 0.5, "perturbations_per_pass": 4}
    exact = DataLoaderAttribution(ShapleyValues(MLP)).attribute(loader(X), **options)[0]
    assert_equal(exact, ShapleyValues(over_data).attribute(X, baselines=0.5))
    assert_equal(exact.sum(1), metric(MLP(X)).detach() - metric(MLP(torch.full_like(X, 0.5))).detach())
    sampled = DataLoaderAttribution(ShapleyValueSampling(MLP))
    first = sampled.attribute(loader(X), n_samples=3, seed=1, **options)
    assert_equal(first, sampled.attribute(loader(X), n_samples=3, seed=1, **options))
    windows = DataLoaderAttribution(Occlusion(MLP)).attribute(loader(X), window=2, stride=2, **options)[0]
    assert_equal(windows, Occlusion(over_data).attribute(X, (2,), 2, baselines=0.5))
    with pytest.raises(UnknownKeyword, match="with Feature Ablation takes no keyword 'n_samples'"):
        DataLoaderAttribution(FeatureAblation(MLP)).attribute(loader(X), n_samples=3)


def test_progress_and_cancelling(capsys: pytest.CaptureFixture[str]) -> None:
    method = DataLoaderAttribution(FeatureAblation(MLP))
    method.attribute(loader(X), show_progress=True)
    assert "Feature Ablation attribution: 100%" in capsys.readouterr().err
    stop = threading.Event()
    with watching(lambda progress: stop.set(), stop), pytest.raises(Cancelled, match="after 1 of 5 evaluations"):
        method.attribute(loader(X))


def test_numbers_and_truth_values_count() -> None:
    method = DataLoaderAttribution(FeatureAblation(lambda x: x.sum().item()))
    (result,) = method.attribute(loader(X), to_metric=lambda outputs: outputs.sum().item())
    assert_equal(result, X.sum(0, keepdim=True))


@pytest.mark.parametrize("method", [IntegratedGradients(MLP), FeaturePermutation(MLP), LayerFeatureAblation(MLP, MLP)])
def test_methods_that_are_refused(method: Any) -> None:
    with pytest.raises(UnsupportedMethod, match=f"does not support {type(method).__name__}; it takes methods that"):
        DataLoaderAttribution(method)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([], {}, InvalidValue, "gives no batch"),
        (iter([(X,)]), {}, InvalidType, "got a list_iterator, which ends with the first"),
        ([{"x": X}], {}, InvalidType, "must give a tensor, tuple or list each time; got dict"),
        ([(X, "label")], {}, InvalidType, "inputs must be a tensor or a tuple of tensors"),
        ([(X, Y)], {"input_roles": (0,)}, InvalidShape, "one role for each of the 2 elements .*; got 1"),
        ([(X, Y)], {"input_roles": (0, 3)}, InvalidValue, r"2 \(goes to reduce alone\); got \(0, 3\)"),
        ([(X, Y)], {"input_roles": (1, 2)}, InvalidValue, "at least one"),
        ([(X,), (X, Y)], {"input_roles": (0,)}, InvalidShape, "one role for each of the 2 elements"),
        ([(X,), (X[:, :2],)], {}, InvalidShape, r"first have \[\(4,\)\], those of batch 1 \[\(2,\)\]"),
        ([(X,)], {"baselines": X}, InvalidShape, r"baselines must be the same .* got the shapes \[\(7, 4\)\]"),
        ([(X,)], {"baselines": (0, 1)}, InvalidShape, "baselines must be one for each of the 1 inputs; got 2"),
        ([(X,)], {"feature_mask": torch.zeros(7, 4)}, InvalidShape, "feature_mask must be the same for all"),
        ([(X,)], {"feature_mask": torch.zeros(1, 3)}, InvalidShape, "feature_mask 0 must broadcast"),
        ([(X,)], {"perturbations_per_pass": 0}, InvalidValue, "perturbations_per_pass must be a whole number of at"),
        ([(X,)], {"to_metric": lambda out: None}, InvalidType, "to_metric must end in a tensor .*; got NoneType"),
        ([(X,)], {"reduce": lambda *_: "x"}, InvalidType, "reduce must end in a tensor .*; got str"),
        ([(X,)], {"to_metric": lambda out: out[out > 0]}, InvalidShape, "the same shape whatever features are absent"),
        ([(X,)], {"feature_masks": None}, UnknownKeyword, "takes no keyword 'feature_masks'"),
    ],
)
def test_refused(data: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DataLoaderAttribution(FeatureAblation(MLP)).attribute(data, **options)
