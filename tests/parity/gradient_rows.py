"""Rows of the table: gradients, paths, conductance, expectations and noise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr import SUPPORTED_NOISE_TUNNEL_TYPES
from llm_attr.core.path.walk import QUADRATURES
from tests.parity.cases import IDS, MOVED, Case, random
from tests.parity.models import cnn, made, mlp
from tests.parity.table import Close, Options, Row, at_layers, at_neurons, on_inputs

LAYERED = MOVED | IDS
DELTA_OF_SUMS = Close(1e-6, 1e-6, of_sums=True)
"""Of integrated gradients: Captum's weights are in single precision."""
DELTA_OF_EXPECTATION = Close(1e-6, 1e-12)
DELTA_IN_NOISE = Close(0, 1e-7)
"""Deltas are differences of numbers of order 1 to 100; Captum has its quadrature in single precision."""
KEEP_GRAPH = {"grad_kwargs": {"retain_graph": True}}
CHUNKED: tuple[Options, ...] = ({}, {"internal_batch_size": 7})
SELECTORS = [(1, slice(0, 2), 2), (slice(None), 0, slice(1, 3)), lambda u: u.sum((1, 2, 3))]
COLLECTIONS = [
    ("two inputs", ["left", "right"]),
    ("two inputs", ["right", "left"]),
    ("two inputs", ["left"]),
    ("product of two inputs", ["head"]),
    ("mlp, list", ["1"]),
    ("tuples", ["fork"]),
]
CAPTUMS_TUNNEL_FAILS = ("fork", "join:")
"""Layers of several tensors, around which Captum's tunnel fails."""
LEAF_IN_PLACE = [("cnn", "1"), ("cnn", "2:")]
"""Layers whose activations the next layer changes in place, at which Captum's LayerIntegratedGradients fails."""


def states(case: Case, count: int = 4, seed: int = 11) -> Any:
    """A distribution of baselines for each input, in the form of the inputs; a tuple's have different sizes."""
    if isinstance(case.inputs, Tensor):
        return random(count, *case.inputs.shape[1:], seed=seed)
    return tuple(random(count + i, *x.shape[1:], seed=seed + i) for i, x in enumerate(case.inputs))


def stdevs(case: Case) -> Any:
    """Of the noise of each input."""
    return 0.3 if isinstance(case.inputs, Tensor) else tuple(0.2 * (i + 1) for i in range(len(case.inputs)))


def without_operations_in_place(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """The same model and its layer for Captum, which fails where a layer's output is changed in place."""
    twin = copy.deepcopy(model)
    for part in twin.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    return twin, twin.get_submodule(name.removesuffix(":"))


def gradients() -> Iterator[Row]:
    yield from on_inputs("Saliency", MOVED, lambda _: [{"abs": True}, {"abs": False}])
    yield from on_inputs("InputXGradient", MOVED)
    for made_of in ({}, {"multiply_by_inputs": False}, {"memory_efficient": True}):
        yield from at_layers("LayerGradientXActivation", LAYERED, lambda _: [KEEP_GRAPH], made=made_of)
    more = [{}, {"relu_attributions": True}, {"attr_dim_summation": False}]
    yield from at_layers("LayerGradCam", LAYERED, lambda _: more)
    untargeted = {name: _without_target(case) for name, case in LAYERED.items()}
    yield from at_layers("LayerActivation", untargeted)
    yield from at_neurons("NeuronGradient", MOVED)
    model = made(cnn())
    for selector in SELECTORS:
        chosen = {"neuron_selector": selector}
        yield Row("NeuronGradient", "cnn, a sum", (model, model[0]), random(2, 2, 5, 5), chosen)
    for method, cases in (("LayerGradientXActivation", LAYERED), ("LayerActivation", untargeted)):
        for (name, case), to_input in product(cases.items(), (False, True)):
            layers = [module for module, at_input in map(case.at, case.layers) if at_input == to_input]
            if layers:
                options = {"attribute_to_layer_input": to_input, **case.options}
                yield Row(method, f"{name}, list of layers", (case.model, layers), case.inputs, options)
    for method in ("Saliency", "InputXGradient"):
        yield Row(method, "one number for the batch", (_square,), random(3, 4))


def _square(x: Tensor) -> Tensor:
    return MOVED["mlp, int"].model(x).square().sum()[None]


def _without_target(case: Case) -> Case:
    options = {name: value for name, value in case.options.items() if name != "target"}
    return Case(case.model, case.inputs, options, case.layers)


def integrals() -> Iterator[Row]:
    def of_inputs(case: Case) -> Iterator[Options]:
        for baselines, method in product(_baselines(case), QUADRATURES):
            yield {"baselines": baselines, "method": method, "n_steps": 9, "return_convergence_delta": True}

    def of_neurons(case: Case) -> Iterator[Options]:
        for baselines, method in product(_baselines(case), ("gausslegendre", "riemann_trapezoid")):
            yield {"baselines": baselines, "method": method, "n_steps": 6}

    yield from on_inputs("IntegratedGradients", MOVED, of_inputs, ways=CHUNKED, delta=DELTA_OF_SUMS)
    for multiply in (True, False):
        kind: Options = {"made": {"multiply_by_inputs": multiply}, "ways": CHUNKED}
        yield from at_neurons("NeuronIntegratedGradients", MOVED, of_neurons, **kind)
        for name, case in LAYERED.items():
            for layer, baselines in product(case.layers, _baselines(case)):
                module, to_input = case.at(layer)
                options = {"baselines": baselines, "n_steps": 8, "attribute_to_layer_input": to_input, **case.options}
                options["return_convergence_delta"] = True
                theirs = without_operations_in_place(case.model, layer)
                kind["delta"] = DELTA_OF_SUMS if multiply else None
                args = (case.model, module)
                yield Row(
                    "LayerIntegratedGradients", f"{name}, {layer}", args, case.inputs, options, theirs=theirs, **kind
                )
    for method in QUADRATURES:
        for name, layer in (("cnn", "0"), ("embedding", "embedding"), ("tuples", "fork")):
            case = LAYERED[name]
            options = {"n_steps": 6, "method": method, **KEEP_GRAPH, **case.options}
            args = (case.model, case.at(layer)[0])
            yield Row("LayerIntegratedGradients", f"{name}, {layer}", args, case.inputs, options)
    for name, layers in COLLECTIONS:
        case = MOVED[name]
        options = {"n_steps": 7, "return_convergence_delta": True, **case.options}
        modules = [case.model.get_submodule(layer) for layer in layers]
        delta = None if name == "two inputs" else DELTA_OF_SUMS
        args = (case.model, modules)
        yield Row("LayerIntegratedGradients", f"{name}, {layers}", args, case.inputs, options, delta=delta)
    model = made(cnn())
    selector = {"neuron_selector": SELECTORS[0]}
    yield Row("NeuronIntegratedGradients", "cnn, a slice", (model, model[0]), random(2, 2, 5, 5), selector)
    yield from several_outputs_of_many_axes()


def _baselines(case: Case) -> list[Any]:
    """None, and the case's own where it has some."""
    return [None] if case.baselines is None else [None, case.baselines]


def several_outputs_of_many_axes() -> Iterator[Row]:
    """A function that gives one of the outputs of a model with several, of more axes than classes."""
    trunk, heads = made(mlp()), made(nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 6)]))

    def second(x: Tensor) -> Tensor:
        hidden = trunk(x).tanh()
        return [head(hidden) for head in heads][1].unflatten(1, (3, 2))

    for target in ((1, 1), [(0, 1), (2, 1), (1, 1)]):
        for more in ({"n_steps": 11}, {"n_steps": 11, "method": "riemann_left"}):
            options = {"target": target, **more}
            yield Row("IntegratedGradients", "second output", (second,), random(3, 4), options)
            yield Row("LayerIntegratedGradients", "second output", (second, trunk), random(3, 4), options)


def conductances() -> Iterator[Row]:
    def given(**more: Any) -> Any:
        return lambda case: [{"baselines": case.baselines, "n_steps": 7, **more}]

    deltas = given(return_convergence_delta=True)
    yield from at_layers("LayerConductance", MOVED, deltas, delta=Close())
    yield from at_layers("InternalInfluence", MOVED, given(**KEEP_GRAPH))
    graphs = given(grad_kwargs={"create_graph": True})
    for multiply in (True, False):
        yield from at_neurons("NeuronConductance", MOVED, graphs, target=True, made={"multiply_by_inputs": multiply})
    case = MOVED["mlp, tensor"]
    for method in ("LayerConductance", "InternalInfluence", "NeuronConductance"):
        common = {"target": case.options["target"]} | ({"neuron_selector": 2} if method[0] == "N" else {})
        args = (case.model, case.model[1])
        for rule, steps in product(QUADRATURES, (2, 5, 50)):
            options = {"method": rule, "n_steps": steps, **common}
            yield Row(method, "mlp, tensor", args, random(3, 4), options)
        chunks = tuple({"internal_batch_size": rows} for rows in (None, 1, 4, 7, 100))
        yield Row(method, "mlp, tensor, chunks", args, random(3, 4), common, ways=chunks)


def expectations() -> Iterator[Row]:
    def given(case: Case, **more: Any) -> list[Options]:
        return [{"baselines": states(case), "n_samples": 6, "stdevs": stdevs(case), **more}]

    for multiply in (True, False):
        kind: Options = {"made": {"multiply_by_inputs": multiply}, "seeded": True, "delta": DELTA_OF_EXPECTATION}
        with_delta: Any = lambda case, m=multiply: given(case, return_convergence_delta=m)  # noqa: E731
        yield from on_inputs("GradientShap", MOVED, with_delta, **kind)
        yield from at_layers("LayerGradientShap", MOVED, with_delta, **kind)
        yield from at_neurons("NeuronGradientShap", MOVED, given, **kind)
    case = MOVED["mlp, int"]
    kind = {"seeded": True, "delta": DELTA_OF_EXPECTATION}
    for count, samples in product((1, 3, 40), (1, 5)):
        options = {"baselines": states(case, count), "n_samples": samples, "target": 1}
        options["return_convergence_delta"] = True
        yield Row("GradientShap", f"{count} states", (case.model,), case.inputs, options, **kind)
    for name in ("mlp, list", "two inputs"):
        case = MOVED[name]
        for how, function in (("of the inputs", _flipped), ("of nothing", _drawn(case))):
            options = {**given(case)[0], **case.options, "baselines": function}
            yield Row("GradientShap", f"{name}, baselines {how}", (case.model,), case.inputs, options, **kind)


def _drawn(case: Case) -> Callable[[], Any]:
    return lambda: states(case)


def _flipped(inputs: Any) -> Any:
    assert isinstance(inputs, tuple)
    return tuple(x.flip(0) * 0.5 for x in inputs)


def tunnels() -> Iterator[Row]:
    """NoiseTunnel around every kind of method."""
    kind: Options = {"seeded": True, "delta": DELTA_IN_NOISE}
    for name, case in MOVED.items():
        noise = {"stdevs": stdevs(case)}
        small = {"n_steps": 4, **case.options}

        def row(method: str, *place: Any, more: Options, name: str = name, case: Case = case, **tunnel: Any) -> Row:
            where = ", ".join([name, *place[:1]])
            args = (case.model, *place[1:])
            return Row(method, where, args, case.inputs, more, tunnel=tunnel, **kind)

        for nt_type, at_once in product(SUPPORTED_NOISE_TUNNEL_TYPES, (None, 1, 2, 9)):
            chunk = {"nt_type": nt_type, "nt_samples": 5, "nt_samples_batch_size": at_once}
            yield row("IntegratedGradients", more={"baselines": case.baselines, **small}, **chunk, **noise)
        own = {"baselines": _like(case, 21), "return_convergence_delta": True, **small}
        yield row("IntegratedGradients", more=own, stdevs=0.1)
        for at_once in (None, 3, 7):  # one full chunk and a rest at most: Captum draws once for all full chunks
            drawn = {"draw_baseline_from_distrib": True, "nt_samples_batch_size": at_once, "stdevs": 0.1}
            yield row("IntegratedGradients", more={"baselines": states(case, 6, 31), **small}, **drawn)
        for nt_type in SUPPORTED_NOISE_TUNNEL_TYPES:
            yield row("Saliency", more=case.options, nt_type=nt_type, **noise)
            ablated = {"baselines": case.baselines, **case.options}
            yield row("FeatureAblation", more=ablated, nt_type=nt_type, nt_samples=3, **noise)
        for layer in case.layers:
            module, to_input = case.at(layer)
            if layer not in CAPTUMS_TUNNEL_FAILS:
                said = {"attribute_to_layer_input": to_input, **case.options}
                yield row("LayerGradientXActivation", layer, module, more=said, nt_samples=3, **noise)
                if (name, layer) not in LEAF_IN_PLACE:
                    more = {"n_steps": 4, **said}
                    yield row("LayerIntegratedGradients", layer, module, more=more, nt_samples=3, **noise)
        for layer, neuron in case.neurons.items():
            module, to_input = case.at(layer)
            said = {"attribute_to_neuron_input": to_input, "neuron_selector": neuron, **_without_target(case).options}
            yield row("NeuronIntegratedGradients", layer, module, more={**said, "n_steps": 4}, **noise)
    yield from _tunnels_with_more()


def _like(case: Case, seed: int) -> Any:
    """A baseline for each example, in the form of the inputs."""
    if isinstance(case.inputs, Tensor):
        return random(*case.inputs.shape, seed=seed)
    return tuple(random(*x.shape, seed=seed + i) for i, x in enumerate(case.inputs))


def _tunnels_with_more() -> Iterator[Row]:
    """Masks, additional arguments, and a method that draws by itself."""
    kind: Options = {"seeded": True, "delta": DELTA_IN_NOISE}
    noise = {"stdevs": 0.2, "nt_samples": 3}
    shared = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[3, 3, 3], [1, 4, 4]]]))
    own = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]])
    for name, mask in (("two inputs", shared), ("mlp, list", own)):
        case = MOVED[name]
        options = {"feature_mask": mask, **case.options}
        yield Row("FeatureAblation", f"{name}, mask", (case.model,), case.inputs, options, tunnel=noise, **kind)
    case = MOVED["mlp, tensor"]
    model = case.model

    def forward(x: Tensor, weights: Tensor, factor: float, shared: Tensor) -> Tensor:
        return model(x * weights) * factor + shared.sum()

    extras = (random(3, 4, seed=6), 2.0, random(7, seed=6))
    options = {"target": case.options["target"], "additional_forward_args": extras}
    for method, tunnel in (("Saliency", {}), ("IntegratedGradients", {"nt_samples_batch_size": 2})):
        yield Row(method, "additional arguments", (forward,), case.inputs, options, tunnel=tunnel, **kind)
    for at_once, deltas in ((None, False), (None, True), (2, False)):
        options = {"baselines": random(3, 4, seed=3), "n_samples": 4, **case.options}
        options["return_convergence_delta"] = deltas
        tunnel = {"nt_samples": 3, "nt_samples_batch_size": at_once, "stdevs": 0.3}
        yield Row("GradientShap", "mlp, tensor", (model,), case.inputs, options, tunnel=tunnel, **kind)
