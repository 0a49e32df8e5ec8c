"""Every row of the table: our class equals the installed Captum's of the same name."""

from __future__ import annotations

import captum.attr
import pytest
from torch import nn

import llm_attr.attr
from tests.parity import game_rows, gradient_rows, rule_rows
from tests.parity.cases import captums, described
from tests.parity.models import net
from tests.parity.table import Row

TABLE = [
    row
    for rows in (
        gradient_rows.gradients,
        gradient_rows.integrals,
        gradient_rows.conductances,
        gradient_rows.expectations,
        gradient_rows.tunnels,
        rule_rows.differences,
        rule_rows.guided,
        rule_rows.relevance,
        game_rows.all_games,
    )
    for row in rows()
]

ALL, BUT_NAME, BUT_DELTA = (0, 1, 2), (0, 1), (0, 2)
DESCRIBED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        (
            *("Saliency", "InputXGradient", "LayerActivation", "LayerGradientXActivation", "LayerGradCam"),
            *("NeuronGradient", "LayerConductance", "InternalInfluence", "NeuronConductance", "FeatureAblation"),
            *("GradientShap", "LayerGradientShap", "NeuronGradientShap"),
            *("IntegratedGradients", "LayerIntegratedGradients"),
        ),
        ALL,
    ),
    **dict.fromkeys(
        (
            *("GuidedBackprop", "Deconvolution", "GuidedGradCam", "NeuronGuidedBackprop", "NeuronDeconvolution"),
            *("LRP", "LayerLRP"),
        ),
        BUT_NAME,
    ),
    **dict.fromkeys(
        (
            *("NeuronIntegratedGradients", "DeepLift", "LayerDeepLift", "NeuronDeepLift"),
            *("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap"),
        ),
        BUT_DELTA,
    ),
}
"""Which of `described` is the same in Captum."""
OF_INPUTS = {
    *("Saliency", "InputXGradient", "IntegratedGradients", "GradientShap", "FeatureAblation", "DeepLift"),
    *("DeepLiftShap", "GuidedBackprop", "Deconvolution", "LRP"),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_equal(row: Row) -> None:
    row.check()


@pytest.mark.parametrize("name", DESCRIBED)
def test_described_as_in_captum(name: str) -> None:
    model = net(nn.ReLU())
    args = (model,) if name in OF_INPUTS else (model, model[0])
    for made in [{"multiply_by_inputs": value} for value in (True, False)] if "Integrated" in name else [{}]:
        ours = described(getattr(llm_attr.attr, name)(*args, **made))
        theirs = captums(name, described, *args, **made)
        assert [ours[place] for place in DESCRIBED[name]] == [theirs[place] for place in DESCRIBED[name]]


@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "FeatureAblation", "GradientShap"])
def test_noise_tunnels_are_described_as_in_captum(name: str) -> None:
    model = net(nn.ReLU())
    theirs = captum.attr.NoiseTunnel(getattr(captum.attr, name)(model))
    assert described(llm_attr.attr.NoiseTunnel(getattr(llm_attr.attr, name)(model))) == described(theirs)


@pytest.mark.parametrize("method", ["DeepLift", "DeepLiftShap"])
def test_deep_lift_has_a_delta_but_at_neurons(method: str) -> None:
    model = net(nn.ReLU())
    for face in ("", "Layer", "Neuron"):
        args = (model, model[0]) if face else (model,)
        assert getattr(llm_attr.attr, face + method)(*args).has_convergence_delta() == (face != "Neuron")


def test_lrp_is_called_by_its_letters() -> None:
    """Captum's name of it is `L R P`."""
    assert llm_attr.attr.LRP.get_name() == "LRP"
