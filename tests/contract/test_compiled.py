"""Every method on models that torch.compile has compiled before: it says what it says of the model as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr import attr
from tests.contract.methods import ROWS, Row
from tests.contract.models import TwoInputs, two_inputs

Compile = Callable[[nn.Module], Any]


def in_place(backend: str) -> Compile:
    def compiled(model: nn.Module) -> nn.Module:
        model.compile(backend=backend)
        return model

    return compiled


def wrapped(backend: str) -> Compile:
    return lambda model: torch.compile(model, backend=backend)


def layers_alone(model: nn.Module) -> nn.Module:
    """As regional compilation does: the model itself is not compiled."""
    for name in ("first", "head"):
        model.get_submodule(name).compile(backend="eager")
    return model


WAYS: dict[str, Compile] = {
    "in place": in_place("eager"),
    "wrapped": wrapped("eager"),
    "in place, aot": in_place("aot_eager"),
    "wrapped, aot": wrapped("aot_eager"),
    "layers alone": layers_alone,
}


@pytest.fixture(scope="module")
def compiled() -> Iterator[Callable[[str], tuple[Any, TwoInputs]]]:
    """For each way what was compiled, and has run, of a model; and the model."""
    made: dict[str, tuple[Any, TwoInputs]] = {}

    def once(way: str) -> tuple[Any, TwoInputs]:
        if way not in made:
            model = two_inputs()
            made[way] = WAYS[way](model), model
            for rows in (1, 2, 3):
                made[way][0](torch.zeros(rows, 3, 2))
        return made[way]

    yield once
    torch._dynamo.reset()


HOOKED = ("layer_activation", "layer_integrated_gradients", "neuron_gradient", "layer_feature_ablation", "deep_lift")
CASES = [(row, way) for row in ROWS for way in WAYS if way == "wrapped, aot" or row.name in HOOKED]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(("row", "way"), CASES, ids=[f"{row.name} {way}" for row, way in CASES])
def test_a_model_whose_compiled_code_knows_no_hooks(row: Row, way: str, compiled: Any, one_thread: None) -> None:
    x = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1))
    made, model = compiled(way)
    plain = two_inputs()
    torch.manual_seed(3)
    expected = row.ask(row.of(plain, plain.layer), x, target=1)
    torch.manual_seed(3)
    found = row.ask(row.of(made, model.layer), x, target=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch._dynamo.eval_frame._stance.stance == "default"


class Ragged(nn.Module):
    """Its layer runs in a loop that torch.compile unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        for _ in range(2):
            hidden = self.again(hidden).relu()
        return self.last(hidden)


@pytest.mark.parametrize("way", ["in place", "wrapped, aot"])
def test_calls_of_a_layer_in_compiled_code(way: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Ragged()
    x = torch.linspace(-1, 1, 8).view(2, 4)

    def ask(forward: Any) -> list[Any]:
        sites = [attr.Site(model.again, call=call) for call in (0, 1)]
        return [attr.LayerActivation(forward, site).attribute(x) for site in sites]

    expected = ask(model)
    compiled = WAYS[way](model)
    compiled(x)
    for found, right in zip(ask(compiled), expected, strict=True):
        assert torch.equal(found, right)


def test_a_function_around_a_compiled_model() -> None:
    model, x = two_inputs(), torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1))
    expected = attr.LayerIntegratedGradients(model, model.layer).attribute(x, target=1)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    found = attr.LayerIntegratedGradients(lambda x: compiled(x), model.layer).attribute(x, target=1)
    torch.testing.assert_close(found, expected)


def test_the_callers_own_stance_is_put_back() -> None:
    model, x = two_inputs(), torch.zeros(1, 3, 2)
    model.compile(backend="eager")
    with torch.compiler.set_stance("eager_on_recompile"):
        attr.LayerActivation(model, model.layer).attribute(x)
        assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"
