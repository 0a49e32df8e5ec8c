"""Rows of the table: DeepLIFT, guided backpropagation, deconvolution and relevance propagation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import captum.attr._utils.lrp_rules as captums_rules
from torch import Tensor, nn

import llm_attr.attr
from tests.parity.cases import DEEP_LIFT, GUIDED, Case, random
from tests.parity.models import LRP_MODELS
from tests.parity.table import Close, Options, Row, at_layers, at_neurons, on_inputs

DELTA = Close(1e-6, 1e-10)
LRP_DELTA = Close(1e-6, 1e-6)
LRP_INPUTS = {"mlp": random(3, 4), "images": random(2, 2, 6, 6)}
RULES: dict[str, tuple[Any, ...]] = {
    "EpsilonRule": (0.05,),
    "GammaRule": (0.3,),
    "GammaRule without bias": (0.3, True),
    "Alpha1_Beta0_Rule": (),
    "Alpha1_Beta0_Rule without bias": (True,),
}


def states(case: Case) -> Any:
    """As many states for every input, in the form of the inputs."""
    if isinstance(case.inputs, Tensor):
        return random(4, *case.inputs.shape[1:], seed=11)
    return tuple(random(4, *x.shape[1:], seed=11) for x in case.inputs)


def differences() -> Iterator[Row]:
    """DeepLIFT."""
    for multiply in (True, False):
        kind: Options = {"made": {"multiply_by_inputs": multiply}, "delta": DELTA}
        given = _of_baselines(return_convergence_delta=multiply), _of_states(return_convergence_delta=multiply)
        for end, options in zip(("", "Shap"), given, strict=True):
            yield from on_inputs(f"DeepLift{end}", DEEP_LIFT, options, **kind)
            yield from at_layers(f"LayerDeepLift{end}", DEEP_LIFT, options, **kind)
    for end, options in (("", _of_baselines()), ("Shap", _of_states())):
        yield from at_neurons(f"NeuronDeepLift{end}", DEEP_LIFT, options, to_input=False)
        for function in OWN_ATTRIBUTIONS:
            own: Any = lambda case, o=options, f=function: [{**o(case)[0], "custom_attribution_func": f}]  # noqa: E731
            yield from on_inputs(f"DeepLift{end}", {"two": DEEP_LIFT["two"]}, own)


OWN_ATTRIBUTIONS = [
    lambda m: tuple(3 * each for each in m),
    lambda m, x: tuple(each * value for each, value in zip(m, x, strict=True)),
    lambda m, x, b: tuple(each * (value + low) for each, value, low in zip(m, x, b, strict=True)),
]


def _of_baselines(**more: Any) -> Any:
    return lambda case: [{"baselines": case.baselines, **more}]


def _of_states(**more: Any) -> Any:
    return lambda case: [{"baselines": states(case), **more}]


def guided() -> Iterator[Row]:
    """Guided backpropagation, deconvolution and guided Grad-CAM."""
    for method in ("GuidedBackprop", "Deconvolution"):
        yield from on_inputs(method, GUIDED)
        yield from at_neurons(f"Neuron{method}", GUIDED, to_input=False)
    modes = [{"interpolate_mode": mode} for mode in ("nearest", "bilinear")]
    for name, case in GUIDED.items():
        for layer, mode in product(case.layers, modes):
            args = (case.model, case.at(layer)[0])
            yield Row("GuidedGradCam", f"{name}, {layer}", args, case.inputs, {**case.options, **mode})


def relevance() -> Iterator[Row]:
    """LRP, with each rule on the linear parts."""
    deltas: Options = {"return_convergence_delta": True}
    for name, rule in product(LRP_MODELS, (None, *RULES)):
        x = LRP_INPUTS[name]
        for inputs, target in ((x, 1), ((x,), [0, 2, 1][: len(x)])):
            own, theirs = _pair(name, rule)  # Captum takes the rules off
            options = {"target": target, **deltas}
            yield Row("LRP", f"{name}, {rule}", (own,), inputs, options, theirs=(theirs,), delta=LRP_DELTA)
    sites = [("mlp", "0"), ("mlp", "2"), ("images", "parts.0"), ("images", "parts.4")]
    for (name, layer), rule, to_input in product(sites, (None, "GammaRule"), (False, True)):
        own, theirs = ((model, model.get_submodule(layer)) for model in _pair(name, rule))
        options = {"target": 1, "attribute_to_layer_input": to_input, **deltas}
        case = f"{name}, {layer}, {rule}"
        yield Row("LayerLRP", case, own, LRP_INPUTS[name], options, theirs=theirs, delta=LRP_DELTA)
    model = LRP_MODELS["mlp"]()
    args = (model, [model[0], model[2]])
    options = {"target": 0, **deltas}
    yield Row("LayerLRP", "mlp, list of layers", args, LRP_INPUTS["mlp"], options, delta=Close())


def _pair(name: str, rule: str | None) -> tuple[nn.Module, nn.Module]:
    """A model for each library, with its rule."""
    models = LRP_MODELS[name](), LRP_MODELS[name]()
    if rule is not None:
        for model, library in zip(models, (llm_attr.attr, captums_rules), strict=True):
            for part in model.modules():
                if isinstance(part, nn.Linear | nn.Conv2d):
                    part.rule = getattr(library, rule.split()[0])(*RULES[rule])  # type: ignore[assignment]
    return models
