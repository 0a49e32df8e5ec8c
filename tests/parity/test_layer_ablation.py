"""LayerFeatureAblation and NeuronFeatureAblation equal the installed Captum's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_attr.attr import FeatureAblation, LayerFeatureAblation, NeuronFeatureAblation
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, LayerNotReached
from tests.parity.cases import IDS, MOVED, assert_equal, captums

pytestmark = pytest.mark.usefixtures("one_thread")


def test_layer_of_several_tensors() -> None:
    case = MOVED["tuples"]
    method = LayerFeatureAblation(case.model, case.at("fork")[0])
    one, each = (method.attribute(case.inputs, layer_baselines=value, **case.options) for value in (0.5, (0.5, 0.5)))
    assert_equal(one, each)
    with pytest.raises(InvalidShape, match="layer_mask must have one mask for each of the 2 inputs; got 1"):
        method.attribute(case.inputs, layer_mask=torch.tensor([[0, 1, 1]]), **case.options)
    with pytest.raises(InvalidShape, match="one for each of the 2 tensors; got 3"):
        method.attribute(case.inputs, layer_baselines=(1, 2, 3), **case.options)


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
