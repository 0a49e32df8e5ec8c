"""What every attribution method promises; the methods are the rows of `methods.ROWS`."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from llm_attr.attr import Attribution
from llm_attr.core.evaluator import Progress, watching
from llm_attr.core.registry import METHODS, snake_case, summary
from llm_attr.errors import Cancelled, InvalidType, LlmAttrError
from tests.contract.methods import ROWS, Row
from tests.contract.models import TwoInputs, assert_same, state, two_inputs

Forward = Callable[..., Any]


def each(which: Callable[[Row], Any] = bool) -> Any:
    """Every method that the promise is for."""
    rows = [row for row in ROWS if which(row)]
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


each_method = each()

TAKES_UNEVEN = {"feature_ablation", "shapley_values", "shapley_value_sampling", "permutation_shapley", "occlusion"}
"""Methods whose inputs may be of different lengths, as Captum's may."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> TwoInputs:
    return two_inputs()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> Tensor:
    return torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(2))


def on(row: Row, model: TwoInputs, forward: Forward | None = None) -> Attribution:
    return row.of(forward or model, model.layer)


def tensors(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def calls_of(model: TwoInputs, explain: Callable[[], Any]) -> int:
    """How often an explanation calls the model."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(1))
    explain()
    handle.remove()
    return len(seen)


def some(count: int) -> list[int]:
    """The first, second, a middle and the last of so many."""
    return sorted({k for k in (0, 1, count // 2, count - 1) if 0 <= k < count})


def test_every_registered_method_has_a_row() -> None:
    assert sorted(METHODS) == sorted(row.name for row in ROWS)


@each_method
def test_is_known_by_name_and_says_what_it_is(row: Row) -> None:
    method = row.of(lambda x: x, nn.Identity())
    assert METHODS[row.name] is type(method)
    assert snake_case(type(method).__name__) == row.name
    assert summary(type(method)).endswith(".")
    assert "Source:" in (type(method).__doc__ or "")
    assert method.get_name()


@each_method
def test_results_have_the_form_and_shape_of_what_they_are_for(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    method = on(row, model)
    alone, single, both = (row.ask(method, inputs, target=1) for inputs in (x, (x,), (x, y)))
    if row.face == "layer":
        assert [type(result) for result in (alone, single, both)] == [Tensor] * 3
        assert {result.shape for result in (alone, single, both)} == {row.shape((2, 5))}
        torch.testing.assert_close(single, alone)
    else:
        assert isinstance(alone, Tensor)
        assert alone.shape == x.shape
        assert isinstance(single, tuple)
        torch.testing.assert_close(single, (alone,))
        assert isinstance(both, tuple)
        assert [part.shape for part in both] == [x.shape, y.shape]
    assert row.vanishes or all(part.abs().sum() > 0 for part in tensors(both))


@each(lambda row: row.by_example)
def test_each_example_is_explained_for_itself(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    method = on(row, model)
    whole = row.ask(method, (x, y), target=[0, 2])
    for i, target in enumerate((0, 2)):
        one = row.ask(method, (x[i : i + 1], y[i : i + 1]), target=target)
        torch.testing.assert_close(tuple(part[i : i + 1] for part in tensors(whole)), tensors(one))


@each_method
def test_additional_arguments_are_passed_and_not_attributed(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    result = row.ask(on(row, model), x, target=0, additional_forward_args=y)
    same = row.ask(on(row, model, lambda x, y: model(x, y)), x, target=0, additional_forward_args=(y,))
    torch.testing.assert_close(same, result)
    if row.name == "layer_feature_permutation":
        return
    for i in range(2):
        row_of_y = y[i : i + 1]
        fixed = on(row, model, lambda x, y=row_of_y: model(x, y.expand(len(x), -1, -1)))
        torch.testing.assert_close(result[i], row.ask(fixed, x, target=0)[i])


@each(lambda row: row.chunk)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_chunked_is_unchunked(row: Row, model: TwoInputs, x: Tensor, y: Tensor, size: int) -> None:
    method = on(row, model.double())
    inputs = (x.double(), y.double())
    whole = row.ask(method, inputs, target=1)
    chunked = row.ask(method, inputs, target=1, **{row.chunk: size})
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


@each_method
@pytest.mark.filterwarnings("ignore:no ReLU of the model:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_kept(row: Row, dtype: torch.dtype) -> None:
    """On other devices: `tests/devices`."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    result = row.ask(row.of(model, model[2]), torch.ones(2, 3, 2, dtype=dtype), target=0)
    assert result.dtype == dtype


@each_method
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_results_are_detached_and_the_same_in_every_mode(
    row: Row, mode: type, model: TwoInputs, x: Tensor, y: Tensor
) -> None:
    expected = row.ask(on(row, model), (x, y), target=1)
    with mode():
        inputs = (x.clone(), y.clone()) if mode is torch.inference_mode else (x.requires_grad_(), y)
        result = row.ask(on(row, model), inputs, target=1)
    assert [(part.requires_grad, part.grad_fn) for part in tensors(result)] == [(False, None)] * len(tensors(result))
    assert x.grad is None
    torch.testing.assert_close(result, expected)


@each_method
def test_layout_of_the_inputs_does_not_matter(row: Row, model: TwoInputs, x: Tensor) -> None:
    method = on(row, model)
    strided = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(row.ask(method, strided, target=1), row.ask(method, x, target=1))


@each_method
def test_model_and_random_numbers_are_as_before(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    x.requires_grad_()
    before = state(model, x, y)
    row.ask(on(row, model), (x, y), target=1)
    assert_same(state(model, x, y), before)


@each(lambda row: row.takes("seed"))
def test_a_seed_makes_it_repeatable_and_none_draws_from_the_global_streams(
    row: Row, model: TwoInputs, x: Tensor
) -> None:
    def asked(**options: Any) -> tuple[Tensor, ...]:
        return tensors(row.ask(on(row, model), x, target=1, **options))

    torch.testing.assert_close(asked(seed=3), asked(seed=3), rtol=0, atol=0)
    if row.name == "permutation_shapley":
        return
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        results.append(asked(seed=None))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@each_method
@pytest.mark.parametrize(
    ("error", "size"),
    [(RuntimeError, None), (ValueError, None), (KeyboardInterrupt, None), (RuntimeError, 1), (KeyboardInterrupt, 1)],
)
def test_all_is_as_before_when_the_model_raises(
    row: Row, model: TwoInputs, x: Tensor, y: Tensor, error: type[BaseException], size: int | None
) -> None:
    options = {row.chunk: size} if row.chunk and size else {}
    if row.takes("show_progress"):
        options["show_progress"] = True
    calls = calls_of(model, lambda: row.ask(on(row, model), (x, y), target=1, **options))
    before = state(model, x, y)
    for call in some(calls):
        model.fuse.calls, model.fuse.error = call, error
        with pytest.raises(error, match="the fuse has blown"):
            row.ask(on(row, model), (x, y), target=1, **options)
        assert_same(state(model, x, y), before)
        assert not tqdm._instances


@each_method
def test_nothing_keeps_the_model_alive(row: Row, x: Tensor) -> None:
    model = two_inputs()
    gone = weakref.ref(model)
    row.ask(on(row, model), x, target=1)
    del model
    gc.collect()
    assert gone() is None


@each_method
def test_an_observer_sees_progress_to_the_end(row: Row, model: TwoInputs, x: Tensor) -> None:
    seen: list[Progress] = []
    method = on(row, model)
    with watching(seen.append):
        row.ask(method, x, target=1)
    done = [progress.done for progress in seen]
    assert done == sorted(set(done))
    assert {progress.total for progress in seen} == {done[-1]}
    assert {progress.description for progress in seen} == {f"{method.get_name()} attribution"}


@each_method
def test_the_caller_can_stop_it(row: Row, model: TwoInputs, x: Tensor) -> None:
    chunk = {row.chunk: 1} if row.chunk else {}
    steps: list[Progress] = []
    with watching(steps.append):
        row.ask(on(row, model), x, target=1, **chunk)
    before = state(model, x)
    for after in some(len(steps)):
        stop, seen = threading.Event(), list[int]()

        def observe(progress: Progress, seen: list[int] = seen, after: int = after, stop: Any = stop) -> None:
            seen.append(progress.done)
            if len(seen) == after:
                stop.set()

        if after == 0:
            stop.set()
        with watching(observe, stop), pytest.raises(Cancelled, match="was stopped after"):
            row.ask(on(row, model), x, target=1, **chunk)
        assert len(seen) == after
        assert_same(state(model, x), before)
        assert not tqdm._instances


@each_method
def test_threads_may_explain_with_one_model(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    method = on(row, model)

    def explain(target: int) -> Any:
        return row.ask(method, (x + target, y - target), target=target)

    expected = [explain(target) for target in (0, 1, 2)]
    with ThreadPoolExecutor(3) as pool:
        for got, want in zip(pool.map(explain, [0, 1, 2] * 4), expected * 4, strict=True):
            torch.testing.assert_close(got, want)


@each(lambda row: row.aggregates)
def test_one_number_for_the_batch(row: Row, model: TwoInputs, x: Tensor) -> None:
    result = row.ask(on(row, model, lambda x: model(x).sum()), x)
    if row.aggregates == "outputs":
        assert result.shape in (((1, 5), (5,)) if row.face == "layer" else ((1, 3, 2), (3, 2)))
    else:
        torch.testing.assert_close(result, row.ask(on(row, model, lambda x: model(x).sum(1)), x))


@each(lambda row: row.sums_to)
def test_attributions_sum_up_to_the_change(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    model, x, y = model.double(), x.double(), y.double()
    explained = model.first if row.face == "neuron" else model
    method = row.of(explained, model.first[3] if row.face == "neuron" else model.layer)
    inputs = (x,) if row.face == "neuron" else (x, y)
    result = row.ask(method, inputs, target=1)
    with torch.no_grad():
        high = explained(*(part.clone() for part in inputs))
        low = explained(*(torch.zeros_like(part) for part in inputs))
    change = (high - low)[:, row.options["neuron_selector"] if row.face == "neuron" else 1]
    total = torch.stack([part.flatten(1).sum(1) for part in tensors(result)]).sum(0)
    torch.testing.assert_close(total, change, rtol=row.closely, atol=row.closely * change.abs().max().item())
    if row.takes("return_convergence_delta"):
        assert method.has_convergence_delta()
        same, delta = row.ask(method, inputs, target=1, return_convergence_delta=True)
        torch.testing.assert_close(same, result)
        torch.testing.assert_close(delta, total - change)


@each(lambda row: row.takes("return_convergence_delta"))
def test_deltas_come_behind_the_same_attributions(row: Row, model: TwoInputs, x: Tensor) -> None:
    method = on(row, model)
    plain = row.ask(method, x, target=1)
    if not method.has_convergence_delta():
        return
    result, delta = row.ask(method, x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(result, plain)
    assert len(delta) % len(x) == 0
    assert not delta.requires_grad


@each_method
def test_bad_arguments_are_refused(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    if row.name != "noise_tunnel":
        with pytest.raises(InvalidType, match="forward_func must be a model or a callable; got int"):
            row.of(3, model.layer)  # type: ignore[arg-type]
    method = on(row, model)
    with pytest.raises(TypeError, match="feature_masks"):
        row.ask(method, x, target=1, feature_masks=None)
    for inputs in ([x], "x", (x, 1.0), (), torch.tensor(1.0)):
        with pytest.raises(LlmAttrError, match="inputs must"):
            row.ask(method, inputs, target=1)
    if row.name in TAKES_UNEVEN:
        found = row.ask(method, (x, y[:1]), target=1)
        assert [part.shape for part in found] == [x.shape, y.shape]  # a row for each output
    else:
        alone = row.name == "feature_permutation"  # takes them too, but shuffles no single example
        with pytest.raises(LlmAttrError, match="needs at least 2 of them" if alone else "inputs must"):
            row.ask(method, (x, y[:1]), target=1)


@each(lambda row: row.takes("target"))
def test_bad_targets_are_refused(row: Row, model: TwoInputs, x: Tensor) -> None:
    for target in (3, -4, (0, 0), [0], [0, 3], "0", 1.5, None.__class__, torch.tensor([0, 1, 2]), torch.eye(2)):
        with pytest.raises(LlmAttrError, match="target"):
            row.ask(on(row, model), x, target=target)
    with pytest.raises(InvalidType, match="must give a tensor or a number; got dict"):
        row.ask(on(row, model, lambda x: {"logits": model(x)}), x)


@each(lambda row: row.face != "input")
def test_bad_layers_are_refused(row: Row, model: TwoInputs, x: Tensor) -> None:
    with pytest.raises(LlmAttrError, match="is not reached"):
        row.ask(row.of(model, nn.Tanh()), x, target=1)
    with pytest.raises(InvalidType, match="layer must be a module"):
        row.of(model, "head")  # type: ignore[arg-type]


@each(lambda row: row.face == "neuron")
def test_bad_neurons_are_refused(row: Row, model: TwoInputs, x: Tensor) -> None:
    for neuron in (5, -6, (0, 0), "0", 1.5, None, (), lambda u: u):
        with pytest.raises(LlmAttrError, match="neuron"):
            row.ask(on(row, model), x, target=1, neuron_selector=neuron)
