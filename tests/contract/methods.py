"""The table of the attribution methods: a new method adds a row and passes every test of `test_methods`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import nn

import llm_attr.attr as attr
from llm_attr.attr import Attribution
from llm_attr.typing import ForwardFunction

WORDS = torch.randn(12, 2, generator=torch.Generator().manual_seed(9))
"""The vocabulary of methods whose paths are made of word vectors."""


@dataclass(frozen=True)
class Row:
    """What the contract must know of a method.

    Attributes:
        name: As the registry has it.
        make: The method on a forward function; of a layer or neuron method on a forward function and a layer.
        face: What is attributed to: `input`, `layer` (results have its shape), `neuron` (of a layer, to the inputs) or
            `through` (the inputs, by way of a layer).
        options: Arguments of `attribute` that the method needs or that make it quick and repeatable.
        chunk: The argument that splits the model calls; None if there is none.
        gradients: Whether it asks the model for gradients.
        aggregates: What it gives for a model with one number for the whole batch: a row for each of its `outputs` or
            for each of the `examples`; None: it takes no such model.
        sums_to: What the attributions of an example sum up to: the `change` of the output (or neuron) from baseline to
            input; None: to nothing.
        closely: How far from it the sum may be, relative to the change.
        by_example: Whether an example's result is the same without the others (False: each batch has draws of its own).
        vanishes: Whether results may be zero everywhere.
        shape: Of the result, from the shape of what is attributed to.
    """

    name: str
    make: Callable[..., Attribution]
    face: str = "input"
    options: dict[str, Any] = field(default_factory=dict)
    chunk: str | None = None
    gradients: bool = False
    aggregates: str | None = None
    sums_to: str | None = None
    closely: float = 1e-4
    by_example: bool = True
    vanishes: bool = False
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] = tuple

    def of(self, forward: ForwardFunction, layer: nn.Module) -> Attribution:
        """The method on this forward function, and on this layer of it if it looks at one."""
        return self.make(forward) if self.face == "input" else self.make(forward, layer)

    def takes(self, name: str) -> bool:
        """Whether `attribute` has this argument, itself or by the method that it hands arguments on to."""
        method: Any = self.of(lambda x: x, nn.Identity())
        method = getattr(method, "attribution_method", method)
        return name in signature(method.attribute).parameters

    def ask(self, method: Attribution, inputs: Any, **options: Any) -> Any:
        """What the method answers with the row's options and those of these that it takes."""
        given = {name: value for name, value in options.items() if name != "target" or self.takes("target")}
        return method.attribute(inputs, **(self.options | given))


def steps(count: int, **more: Any) -> dict[str, Any]:
    return {"n_steps": count, **more}


def zeros(inputs: Any) -> Any:
    """One baseline for each input."""
    return tuple(torch.zeros_like(x[:1]) for x in inputs) if isinstance(inputs, tuple) else torch.zeros_like(inputs[:1])


def tunnel(forward: ForwardFunction) -> Attribution:
    return attr.NoiseTunnel(attr.Saliency(forward))


def discretized(forward: ForwardFunction) -> Attribution:
    return attr.DiscretizedIntegratedGradients(forward, vocabulary=WORDS)


NEURON: dict[str, Any] = {"neuron_selector": 2}
SHAP: dict[str, Any] = {"baselines": zeros, "n_samples": 4, "stdevs": 0.1, "seed": 0}
STATES: dict[str, Any] = {"baselines": zeros}
GAMES: dict[str, Any] = {"chunk": "perturbations_per_eval", "aggregates": "outputs"}
GRADIENTS: dict[str, Any] = {"gradients": True, "aggregates": "examples"}
PATHS: dict[str, Any] = GRADIENTS | {"chunk": "internal_batch_size"}
LAYER: dict[str, Any] = {"face": "layer"}
OF_NEURON: dict[str, Any] = {"face": "neuron"}

ROWS = [
    Row("feature_ablation", attr.FeatureAblation, **GAMES),
    Row("shapley_values", attr.ShapleyValues, sums_to="change", **GAMES),
    Row(
        "shapley_value_sampling",
        attr.ShapleyValueSampling,
        options={"n_samples": 3, "seed": 0},
        sums_to="change",
        **GAMES,
    ),
    Row("permutation_shapley", attr.PermutationShapley, options={"n_samples": 4}, sums_to="change", **GAMES),
    Row("owen", attr.Owen, sums_to="change", **GAMES),
    Row("banzhaf", attr.Banzhaf, options={"n_samples": 20}, **GAMES),
    Row("local_shapley", attr.LocalShapley, options={"radius": 1}, **GAMES),
    Row("pairwise_interactions", attr.PairwiseInteractions, sums_to="change", **GAMES),
    Row("group_ablation", attr.GroupAblation, **GAMES),
    Row("kernel_shap", attr.KernelShap, options={"n_samples": 32, "seed": 0}, sums_to="change", **GAMES),
    Row("odd_shap", attr.OddShap, options={"n_samples": 32}, sums_to="change", **GAMES),
    Row("lime", attr.Lime, options={"n_samples": 30, "seed": 0}, **GAMES),
    Row("context_cite", attr.ContextCite, options={"n_samples": 30}, **GAMES),
    Row("occlusion", attr.Occlusion, options={"sliding_window_shapes": 2}, **GAMES),
    Row("feature_permutation", attr.FeaturePermutation, options={"seed": 0}, by_example=False, **GAMES),
    Row("layer_feature_ablation", attr.LayerFeatureAblation, **LAYER, **GAMES),
    Row(
        "layer_feature_permutation",
        attr.LayerFeaturePermutation,
        options={"seed": 0},
        by_example=False,
        **LAYER,
        **GAMES,
    ),
    Row(
        "neuron_feature_ablation",
        attr.NeuronFeatureAblation,
        options=NEURON,
        **OF_NEURON,
        **(GAMES | {"aggregates": "examples"}),
    ),
    Row("saliency", attr.Saliency, **GRADIENTS),
    Row("input_x_gradient", attr.InputXGradient, **GRADIENTS),
    Row("integrated_gradients", attr.IntegratedGradients, options=steps(30), sums_to="change", **PATHS),
    Row("gradient_shap", attr.GradientShap, options=SHAP, by_example=False, **GRADIENTS),
    Row(
        "noise_tunnel",
        tunnel,
        options={"nt_samples": 3, "stdevs": 0.0, "seed": 0},
        chunk="nt_samples_batch_size",
        **GRADIENTS,
    ),
    Row("sequential_integrated_gradients", attr.SequentialIntegratedGradients, options=steps(5), **PATHS),
    Row(
        "discretized_integrated_gradients",
        discretized,
        options=steps(30, method="riemann_trapezoid"),
        sums_to="change",
        closely=0.05,
        **PATHS,
    ),
    Row("layer_activation", attr.LayerActivation, aggregates="examples", **LAYER),
    Row("layer_gradient_x_activation", attr.LayerGradientXActivation, **LAYER, **GRADIENTS),
    Row("layer_grad_cam", attr.LayerGradCam, shape=lambda shape: (shape[0], 1, *shape[2:]), **LAYER, **GRADIENTS),
    Row(
        "layer_integrated_gradients",
        attr.LayerIntegratedGradients,
        options=steps(30),
        sums_to="change",
        **LAYER,
        **PATHS,
    ),
    Row(
        "layer_conductance", attr.LayerConductance, options=steps(60), sums_to="change", closely=0.05, **LAYER, **PATHS
    ),
    Row("layer_gradient_shap", attr.LayerGradientShap, options=SHAP, by_example=False, **LAYER, **GRADIENTS),
    Row("internal_influence", attr.InternalInfluence, options=steps(9), **LAYER, **PATHS),
    Row("neuron_gradient", attr.NeuronGradient, options=NEURON, **OF_NEURON, **GRADIENTS),
    Row(
        "neuron_integrated_gradients",
        attr.NeuronIntegratedGradients,
        options=steps(30, **NEURON),
        sums_to="change",
        **OF_NEURON,
        **PATHS,
    ),
    Row("neuron_conductance", attr.NeuronConductance, options=steps(9, **NEURON), **OF_NEURON, **PATHS),
    Row(
        "neuron_gradient_shap",
        attr.NeuronGradientShap,
        options=SHAP | NEURON,
        by_example=False,
        **OF_NEURON,
        **GRADIENTS,
    ),
    Row("guided_backprop", attr.GuidedBackprop, **GRADIENTS),
    Row("deconvolution", attr.Deconvolution, **GRADIENTS),
    Row(
        "guided_grad_cam",
        attr.GuidedGradCam,
        face="through",
        vanishes=True,
        **GRADIENTS,
    ),
    Row("neuron_guided_backprop", attr.NeuronGuidedBackprop, options=NEURON, **OF_NEURON, **GRADIENTS),
    Row("neuron_deconvolution", attr.NeuronDeconvolution, options=NEURON, **OF_NEURON, **GRADIENTS),
    Row("deep_lift", attr.DeepLift, sums_to="change", **GRADIENTS),
    Row("deep_lift_shap", attr.DeepLiftShap, options=STATES, sums_to="change", **GRADIENTS),
    Row("layer_deep_lift", attr.LayerDeepLift, sums_to="change", **LAYER, **GRADIENTS),
    Row("layer_deep_lift_shap", attr.LayerDeepLiftShap, options=STATES, sums_to="change", **LAYER, **GRADIENTS),
    Row("neuron_deep_lift", attr.NeuronDeepLift, options=NEURON, sums_to="change", **OF_NEURON, **GRADIENTS),
    Row(
        "neuron_deep_lift_shap",
        attr.NeuronDeepLiftShap,
        options=STATES | NEURON,
        sums_to="change",
        **OF_NEURON,
        **GRADIENTS,
    ),
    Row("lrp", attr.LRP, **GRADIENTS),
    Row("layer_lrp", attr.LayerLRP, **LAYER, **GRADIENTS),
]
