"""LayerFeatureAblation and NeuronFeatureAblation equal the installed Captum's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import FeatureAblation, LayerFeatureAblation, NeuronFeatureAblation
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, LayerNotReached
from tests.parity.layers import IDS, MOVED, Case, assert_equal, captums, neurons, random, sites

ALL = MOVED | IDS
LARGE = ("encoder:", "model.encoder")


pytestmark = pytest.mark.usefixtures("one_thread")


def layer_ablation(case: Case, layer: str, **options: Any) -> None:
    """Asserts that both libraries agree."""
    module, to_input = case.at(layer)
    asked = {"attribute_to_layer_input": to_input, **case.options, **options}
    expected = captums("LayerFeatureAblation", lambda m: m.attribute(case.inputs, **asked), case.model, module)
    method = LayerFeatureAblation(case.model, module)
    for per_call in (1, None):
        assert_equal(method.attribute(case.inputs, perturbations_per_eval=per_call, **asked), expected, 1e-8)


@pytest.mark.parametrize(("name", "layer"), sites(ALL))
def test_layer(name: str, layer: str) -> None:
    layer_ablation(ALL[name], layer)


@pytest.mark.parametrize(("name", "layer"), [("mlp, int", "0"), ("cnn", "0"), ("cnn", "5:"), ("lstm", "head:")])
def test_layer_baselines_and_masks(name: str, layer: str) -> None:
    case = ALL[name]
    module, to_input = case.at(layer)
    method = LayerFeatureAblation(case.model, module)
    shape = method.attribute(case.inputs, attribute_to_layer_input=to_input, **case.options).shape
    layer_ablation(case, layer, layer_baselines=2)
    layer_ablation(case, layer, layer_baselines=random(1, *shape[1:], seed=7))
    layer_ablation(case, layer, layer_baselines=random(*shape, seed=8), layer_mask=torch.arange(shape[1]).view(
        1, -1, *(1,) * (len(shape) - 2)
    ) // 2)  # fmt: skip


def test_layer_of_several_tensors() -> None:
    case = ALL["tuples"]
    layer_ablation(case, "fork", layer_baselines=(0.5, random(1, 2)))
    layer_ablation(case, "fork", layer_mask=(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2]])))
    layer_ablation(case, "join:", layer_baselines=(random(3, 3), -1))
    method = LayerFeatureAblation(case.model, case.at("fork")[0])
    one, each = (method.attribute(case.inputs, layer_baselines=value, **case.options) for value in (0.5, (0.5, 0.5)))
    assert_equal(one, each)
    with pytest.raises(InvalidShape, match="layer_mask must have one mask for each of the 2 inputs; got 1"):
        method.attribute(case.inputs, layer_mask=torch.tensor([[0, 1, 1]]), **case.options)
    with pytest.raises(InvalidShape, match="one for each of the 2 tensors; got 3"):
        method.attribute(case.inputs, layer_baselines=(1, 2, 3), **case.options)


@pytest.mark.parametrize("target", [None, 1])
def test_layer_of_other_outputs(target: int | None) -> None:
    case = ALL["mlp, int"]
    layer_ablation(Case(case.model, case.inputs, {"target": target}, ()), "0")
    module, _ = case.at("0")

    def total(x: Tensor) -> Tensor:
        return case.model(x).prod()

    expected = captums("LayerFeatureAblation", lambda m: m.attribute(case.inputs), total, module)
    assert_equal(LayerFeatureAblation(total, module).attribute(case.inputs), expected, 1e-8)


def test_layer_whose_first_axis_is_not_the_batch() -> None:
    """Captum's answer is the same; several coalitions do not share a call."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(3, 4).double(), nn.Linear(4, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.transpose(0, 1))[0][-1])

    model = Turned()
    layer_ablation(Case(model, random(2, 5, 3), {"target": 1}, ()), "rnn:")
    layer_ablation(Case(model, random(3, 3, 3), {"target": 1}, ()), "rnn:")


def test_bad_layers() -> None:
    case = IDS["embedding"]
    method = LayerFeatureAblation(case.model, case.model.embedding)
    with pytest.raises(InvalidType, match=r"torch.int64, which cannot be interpolated .* use the output"):
        method.attribute(case.inputs, attribute_to_layer_input=True, **case.options)
    with pytest.raises(LayerNotReached, match="is not reached"):
        LayerFeatureAblation(case.model, nn.Tanh()).attribute(case.inputs, **case.options)
    with pytest.raises(InvalidShape, match=r"layer_mask 0 must broadcast .* \(3, 5, 8\); got \(1, 4\)"):
        method.attribute(case.inputs, layer_mask=torch.zeros(1, 4), **case.options)
    with pytest.raises(InvalidShape, match=r"must broadcast to \(3, 5, 8\); got \(2, 8\)"):
        method.attribute(case.inputs, layer_baselines=torch.zeros(2, 8), **case.options)
    with pytest.raises(InvalidType, match="layer_mask 0 must hold whole numbers"):
        method.attribute(case.inputs, layer_mask=torch.full((1, 5, 8), 0.5), **case.options)
    assert method.attributor is FeatureAblation


@pytest.mark.parametrize(("name", "layer"), neurons(MOVED))
def test_neuron(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    options = {name: value for name, value in case.options.items() if name != "target"}
    asked = {"baselines": case.baselines, "attribute_to_neuron_input": to_input, **options}
    selector = case.neurons[layer]
    expected = captums(
        "NeuronFeatureAblation", lambda m: m.attribute(case.inputs, selector, **asked), case.model, module
    )
    method = NeuronFeatureAblation(case.model, module)
    for per_call in (1, 3, None):
        assert_equal(method.attribute(case.inputs, selector, perturbations_per_eval=per_call, **asked), expected, 1e-8)


@pytest.mark.parametrize("selector", [(slice(0, 2),), (slice(None),), lambda u: u.sum(1)])
def test_neurons_added_up(selector: Any) -> None:
    case = MOVED["mlp, int"]
    module, mask = case.model[0], torch.tensor([[0, 1, 1, 0]])
    expected = captums(
        "NeuronFeatureAblation", lambda m: m.attribute(case.inputs, selector, feature_mask=mask), case.model, module
    )
    method = NeuronFeatureAblation(case.model, module)
    assert_equal(method.attribute(case.inputs, selector, feature_mask=mask), expected, 1e-8)


def test_neuron_of_token_ids_and_its_old_name() -> None:
    case = IDS["embedding"]
    options = {"additional_forward_args": case.options["additional_forward_args"], "baselines": 7}
    method = NeuronFeatureAblation(case.model, case.model.encoder)
    result = method.attribute(case.inputs, (1, 2), **options)
    expected = captums(
        "NeuronFeatureAblation", lambda m: m.attribute(case.inputs, (1, 2), **options), case.model, case.model.encoder
    )
    assert_equal(result, expected, 1e-8)
    with pytest.warns(DeprecationWarning, match="neuron_index= is now neuron_selector="):
        assert_equal(method.attribute(case.inputs, neuron_index=(1, 2), **options), result)
    with pytest.raises(InvalidTarget, match="a neuron of a layer"):
        method.attribute(case.inputs, (1, 2, 3), **options)
