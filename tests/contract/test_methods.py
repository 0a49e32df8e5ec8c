"""What every attribution method promises; the methods are the rows of `methods.ROWS`."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from llm_attr.core.evaluator import Progress, watching
from llm_attr.core.registry import METHODS, snake_case, summary
from llm_attr.errors import Cancelled, InvalidType, LlmAttrError
from tests.contract.methods import ROWS, Row
from tests.contract.models import TwoInputs, assert_same, state, two_inputs

each_method = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@pytest.fixture
def model() -> TwoInputs:
    return two_inputs()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> Tensor:
    return torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(2))


def test_every_registered_method_has_a_row() -> None:
    assert sorted(METHODS) == sorted(row.name for row in ROWS)


@each_method
def test_is_known_by_name_and_says_what_it_is(row: Row) -> None:
    method = row.make(lambda x: x)
    assert METHODS[row.name] is type(method)
    assert snake_case(type(method).__name__) == row.name
    assert summary(type(method)).endswith(".")
    assert "Source:" in (type(method).__doc__ or "")
    assert method.get_name()


@each_method
def test_tensor_in_tensor_out_and_tuple_in_tuple_out(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    method = row.make(model)
    alone = method.attribute(x, target=1, **row.options)
    assert isinstance(alone, Tensor)
    assert alone.shape == x.shape
    single = method.attribute((x,), target=1, **row.options)
    assert isinstance(single, tuple)
    torch.testing.assert_close(single, (alone,))
    both = method.attribute((x, y), target=1, **row.options)
    assert isinstance(both, tuple)
    assert [part.shape for part in both] == [x.shape, y.shape]
    assert all(part.abs().sum() > 0 for part in both)


@each_method
def test_each_example_is_explained_for_itself(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    method = row.make(model)
    whole = method.attribute((x, y), target=[0, 2], **row.options)
    for i, target in enumerate((0, 2)):
        one = method.attribute((x[i : i + 1], y[i : i + 1]), target=target, **row.options)
        torch.testing.assert_close(tuple(part[i : i + 1] for part in whole), one)


@each_method
def test_additional_arguments_are_passed_and_not_attributed(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    result = row.make(model).attribute(x, target=0, additional_forward_args=y, **row.options)
    same = row.make(lambda x, y: model(x, y)).attribute(x, target=0, additional_forward_args=(y,), **row.options)
    expected = torch.cat(
        [
            row.make(lambda x, i=i: model(x, y[i : i + 1].expand(len(x), -1, -1))).attribute(
                x[i : i + 1], target=0, **row.options
            )
            for i in range(2)
        ]
    )
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(same, result)


@each_method
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_chunked_is_unchunked(row: Row, model: TwoInputs, x: Tensor, y: Tensor, size: int) -> None:
    if row.chunk is None:
        pytest.skip("has no chunks")
    method = row.make(model.double())
    inputs = (x.double(), y.double())
    whole = method.attribute(inputs, target=1, **row.options)
    chunked = method.attribute(inputs, target=1, **row.options, **{row.chunk: size})
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


@each_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dtype_and_device_are_kept(row: Row, dtype: torch.dtype, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = torch.nn.Linear(3, 2).to(device, dtype)
    result = row.make(model).attribute(torch.ones(2, 3, device=device, dtype=dtype), target=0, **row.options)
    assert result.dtype == dtype
    assert result.device.type == device


@each_method
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_results_are_detached(row: Row, mode: type, model: TwoInputs, x: Tensor) -> None:
    if row.gradients and mode is torch.inference_mode:
        pytest.skip("there are no gradients in inference mode")
    x.requires_grad_()
    with mode():
        result = row.make(model).attribute(x, target=1, **row.options)
    assert not result.requires_grad
    assert result.grad_fn is None
    assert x.grad is None


@each_method
def test_layout_of_the_inputs_does_not_matter(row: Row, model: TwoInputs, x: Tensor) -> None:
    method = row.make(model)
    strided = x.t().contiguous().t()
    assert not strided.is_contiguous()
    torch.testing.assert_close(
        method.attribute(strided, target=1, **row.options), method.attribute(x, target=1, **row.options)
    )


@each_method
def test_model_and_random_numbers_are_as_before(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    x.requires_grad_()
    before = state(model, x, y)
    row.make(model).attribute((x, y), target=1, show_progress=True, **row.options)
    assert_same(state(model, x, y), before)


@each_method
@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("size", [None, 1, 2])
def test_all_is_as_before_when_the_model_raises(
    row: Row, model: TwoInputs, x: Tensor, y: Tensor, calls: int, error: type[BaseException], size: int | None
) -> None:
    chunk = {row.chunk: size} if row.chunk and size else {}
    before = state(model, x, y)
    model.fuse.calls, model.fuse.error = calls, error
    with pytest.raises(error, match="the fuse has blown"):
        row.make(model).attribute((x, y), target=1, show_progress=True, **row.options, **chunk)
    assert_same(state(model, x, y), before)
    assert not tqdm._instances


@each_method
def test_nothing_keeps_the_model_alive(row: Row, x: Tensor) -> None:
    model = two_inputs()
    gone = weakref.ref(model)
    row.make(model).attribute(x, target=1, **row.options)
    del model
    gc.collect()
    assert gone() is None


@each_method
def test_an_observer_sees_progress_to_the_end(row: Row, model: TwoInputs, x: Tensor) -> None:
    seen: list[Progress] = []
    method = row.make(model)
    with watching(seen.append):
        method.attribute(x, target=1, **row.options)
    done = [progress.done for progress in seen]
    assert done == sorted(set(done))
    assert {progress.total for progress in seen} == {done[-1]}
    assert {progress.description for progress in seen} == {f"{method.get_name()} attribution"}


@each_method
@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_caller_can_stop_it(row: Row, model: TwoInputs, x: Tensor, after: int) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def observe(progress: Progress) -> None:
        seen.append(progress.done)
        if len(seen) >= after:
            stop.set()

    if after == 0:
        stop.set()
    before = state(model, x)
    chunk = {row.chunk: 1} if row.chunk else {}
    with watching(observe, stop), pytest.raises(Cancelled, match="was stopped after"):
        row.make(model).attribute(x, target=1, show_progress=True, **row.options, **chunk)
    assert len(seen) == after
    assert_same(state(model, x), before)
    assert not tqdm._instances


@each_method
def test_threads_may_explain_with_one_model(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    method = row.make(model)

    def explain(target: int) -> tuple[Tensor, Tensor]:
        return method.attribute((x, y), target=target, **row.options)

    expected = [explain(target) for target in (0, 1, 2)]
    with ThreadPoolExecutor(3) as pool:
        for got, want in zip(pool.map(explain, [0, 1, 2] * 5), expected * 5, strict=True):
            torch.testing.assert_close(got, want)


@each_method
def test_one_number_for_the_batch(row: Row, model: TwoInputs, x: Tensor) -> None:
    if not row.aggregates:
        pytest.skip("needs one output for each example")
    result = row.make(lambda x: model(x).sum()).attribute(x, **row.options)
    assert result.shape == (1, 3)


@each_method
def test_bad_arguments_are_refused(row: Row, model: TwoInputs, x: Tensor, y: Tensor) -> None:
    with pytest.raises(InvalidType, match="forward_func must be a model or a callable; got int"):
        row.make(3)  # type: ignore[arg-type]
    method = row.make(model)
    with pytest.raises(TypeError, match="feature_masks"):
        method.attribute(x, target=1, feature_masks=None, **row.options)
    for inputs in ([x], "x", (x, 1.0), (), torch.tensor(1.0), (x, y[:1])):
        with pytest.raises(LlmAttrError, match="inputs must"):
            method.attribute(inputs, target=1, **row.options)
    for target in (3, -4, (0, 0), [0], [0, 3], "0", 1.5, None.__class__, torch.tensor([0, 1, 2])):
        with pytest.raises(LlmAttrError, match="target"):
            method.attribute(x, target=target, **row.options)
    with pytest.raises(InvalidType, match="must give a tensor or a number; got dict"):
        row.make(lambda x: {"logits": x}).attribute(x, **row.options)
