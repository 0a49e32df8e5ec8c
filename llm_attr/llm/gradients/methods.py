"""Which gradient methods explain a generation, and what a call of one asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from typing import Any, TypeAlias

from torch import Tensor, nn

from llm_attr.attr.base import Attribution, GradientAttribution, InternalAttribution
from llm_attr.attr.deep_lift import DeepLift
from llm_attr.attr.deep_lift_internal import LayerDeepLift
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, Saliency
from llm_attr.attr.gradient_shap import GradientShap, LayerGradientShap
from llm_attr.attr.guided import Deconvolution, GuidedBackprop
from llm_attr.attr.integrated import IntegralAttribution, IntegratedGradients, LayerIntegratedGradients
from llm_attr.attr.lrp import LRP, LayerLRP
from llm_attr.attr.noise_tunnel import NoiseTunnel
from llm_attr.attr.token_paths import (
    DiscretizedIntegratedGradients,
    SequentialIntegratedGradients,
    TokenPathAttribution,
)
from llm_attr.core.path.expectation import Inspect
from llm_attr.core.path.walk import Quadrature
from llm_attr.core.problem import ManyOutputs, Problem
from llm_attr.core.registry import snake_case
from llm_attr.core.site import Site
from llm_attr.core.tensors import as_tensors, leaves
from llm_attr.errors import InvalidType, UnknownName, UnsupportedMethod
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.keywords import refuse_unknown
from llm_attr.typing import Tensors

GradientMethod: TypeAlias = GradientAttribution | NoiseTunnel
"""A method with `attribute_problem`, or a noise tunnel around one."""

LAYER_TWINS: dict[type[Any], type[Any] | None] = {
    Saliency: None,
    IntegratedGradients: LayerIntegratedGradients,
    InputXGradient: LayerGradientXActivation,
    GradientShap: LayerGradientShap,
    DeepLift: LayerDeepLift,
    LRP: LayerLRP,
    GuidedBackprop: None,
    Deconvolution: None,
    DiscretizedIntegratedGradients: None,
    SequentialIntegratedGradients: None,
}
"""The methods of inputs that explain generations, by what the embedding layer gives, and what each is at a layer."""

AT_LAYERS = [twin for twin in LAYER_TWINS.values() if twin is not None]
"""The methods of layers that explain generations."""

KINDS: list[type[Attribution]] = [*LAYER_TWINS, *AT_LAYERS]
"""All of them; each may stand in a noise tunnel too."""

WITH_TUNNEL: list[type] = [*KINDS, NoiseTunnel]

TEXT_DEFAULTS: dict[type, dict[str, Any]] = {
    SequentialIntegratedGradients: {"n_steps": 5},
    DiscretizedIntegratedGradients: {"method": "riemann_middle"},
}
"""Options that generations need otherwise than tensors: each position has a path of its own; baselines may be zero."""

STEPS: dict[str, Any] = {"n_steps": 64, "method": "riemann_middle"}
"""Of integrated gradients that are asked for by name: what is complete to 2 % for chats, see docs/completeness.md."""


def inside(method: Any) -> Any:
    """The method that a noise tunnel is around; any other method itself."""
    return method.attribution_method if isinstance(method, NoiseTunnel) else method


def supported(method: Any) -> bool:
    """Whether a method explains generations; a subclass with an `attribute` of its own does not."""
    inner = inside(method)
    return any(isinstance(inner, kind) and type(inner).attribute is kind.attribute for kind in KINDS)


def names() -> list[str]:
    """The classes of methods that explain generations."""
    return [kind.__name__ for kind in WITH_TUNNEL]


@dataclass(frozen=True)
class MethodCall:
    """A method and what one call of it asks for.

    Attributes:
        method: The method, made for the model.
        options: Arguments of its `attribute_problem`.
        baselines: Which features are present in the baseline, see `AbsentUnits`.
        to_layer_input: Whether the inputs of its layers are explained instead of the outputs.
        wants_deltas: Whether convergence deltas are requested.
    """

    method: GradientMethod
    options: dict[str, Any]
    baselines: Any = 0
    to_layer_input: bool = False
    wants_deltas: bool = False

    @classmethod
    def of(cls, method: GradientMethod, options: Mapping[str, Any], **more: Any) -> MethodCall:
        """From the arguments of the method's `attribute`, and more arguments of `attribute_problem`."""
        inner = inside(method)
        defaults = dict(TEXT_DEFAULTS.get(type(inner), {}))
        if method.is_random:
            defaults["seed"] = 0
        if not inner.starts_at_baseline and not inner.multiplies_by_inputs:
            defaults["abs"] = True  # the sum of a gradient over a vector says nothing: behind a layer norm it is zero
        chosen = defaults | dict(options) | more
        call = chosen.pop("baselines", 0), chosen.pop("attribute_to_layer_input", False)
        wants_deltas = bool(chosen.pop("return_convergence_delta", False))
        return cls(method, chosen, *call, wants_deltas)

    @property
    def inner(self) -> GradientAttribution:
        """The method itself, without a noise tunnel around it."""
        method: GradientAttribution = inside(self.method)
        return method

    @property
    def is_random(self) -> bool:
        """Whether attributions are means over random samples."""
        return self.method.is_random

    @property
    def seed(self) -> int | None:
        """Of a random method; None: of the global streams, or the method draws nothing."""
        return self.options.get("seed") if self.is_random else None

    @property
    def at_prompt(self) -> bool:
        """Whether the method looks at the prompt alone."""
        return not (self.is_random or self.inner.starts_at_baseline)

    @property
    def squares(self) -> bool:
        """Whether attributions are means of squares."""
        return bool(self.options.get("nt_type") == "smoothgrad_sq")

    @property
    def is_mean(self) -> bool:
        """Whether attributions are means of what is found for samples, or of their squares."""
        return self.is_random and self.options.get("nt_type") != "vargrad"

    @property
    def is_linear(self) -> bool:
        """Whether the attributions of a sum of two quantities are the sum of theirs."""
        by_size = not self.inner.starts_at_baseline and not self.inner.multiplies_by_inputs
        return not (self.is_random or by_size) and self.options.get("until") is None

    @property
    def divides(self) -> bool:
        """Whether the attributions divide a change of the quantity from a baseline to the prompt."""
        one_path = self.inner is self.method or not self.inner.by_position
        means = self.options.get("nt_type", "smoothgrad") == "smoothgrad"
        return self.inner.starts_at_baseline and self.method.multiplies_by_inputs and one_path and means

    @property
    def knows_deltas(self) -> bool:
        """Whether the method finds its deltas on the way, or has other changes than that of the whole prompt."""
        return self.inner is self.method and self.divides and (self.inner.by_rules or self.inner.by_position)

    def line_quadrature(self) -> Quadrature | None:
        """See `GradientAttribution`."""
        return self.inner.line_quadrature(**self.options) if self.inner is self.method else None

    def attribute(
        self, score: ManyOutputs, inputs: Tensors, states: Tensors | None, inspect: Inspect | None
    ) -> tuple[Tensors, Tensor | None]:
        """The attributions of what a score depends on, `([numbers,] 1, *shape)`, and the deltas if it gives them.

        Args:
            score: What is explained.
            inputs: Where, `(1, *shape)` each.
            states: The baselines, `(states, *shape)` each; None: the method has none.
            inspect: Called with what is found for samples.
        """
        options = dict(self.options)
        if self.inner.is_random:
            options["baselines"], states = states, None
        if inspect is not None:
            options["inspect"] = inspect
        asks = self.knows_deltas or (self.wants_deltas and not self.divides)
        if asks:
            options["return_convergence_delta"] = True
        attributed = self.method.attribute_problem(Problem.of(score, inputs, states), **options)
        (tensors,) = attributed.forms()
        return as_tensors(tensors), leaves(attributed.more)[0] if asks else None


def defaults_of(method: Attribution) -> dict[str, Any]:
    """The arguments of a method's own `attribute`, and of the method inside a noise tunnel, with their defaults."""
    both = {**signature(inside(method).attribute).parameters, **signature(method.attribute).parameters}
    return {name: parameter.default for name, parameter in both.items() if name not in _SET_HERE}


def named(name: str, language_model: LanguageModel, layer: Any = None, around: str | None = None) -> Attribution:
    """The method of this name for a language model.

    Args:
        name: That of a class, as `integrated_gradients`, or `noise_tunnel`.
        language_model: What is explained.
        layer: Where: the name of a layer, a module or a Site, or a list; None: the embedding layer.
        around: The method that a noise tunnel is around; by default `integrated_gradients`.

    Raises:
        UnknownName: there is no such method or layer.
        UnsupportedMethod: the method takes no layer.
    """
    if name == "noise_tunnel":
        return NoiseTunnel(named(around or "integrated_gradients", language_model, layer))
    if around is not None:
        raise UnsupportedMethod(f"attribution_method is what a noise_tunnel is around; {name} is around nothing")
    kinds = gradient_methods()
    if name not in kinds:
        raise UnknownName("attribution_method", name, sorted(kinds))
    model, kind = language_model.model, kinds[name]
    if issubclass(kind, TokenPathAttribution) and layer is None:
        return kind(model, language_model.embedding)
    if kind not in AT_LAYERS and layer is None:
        return kind(model)
    at_layer = kind if kind in AT_LAYERS else LAYER_TWINS.get(kind)
    if at_layer is None:
        with_layers = [each for each, twin in LAYER_TWINS.items() if twin is not None]
        raise UnsupportedMethod(
            f"{name} explains at the embedding layer alone; methods of any layer: "
            f"{', '.join(snake_case(each.__name__) for each in (*with_layers, *AT_LAYERS))}"
        )
    layer = language_model.embedding if layer is None else layer
    layers = [layer_named(language_model, one) for one in layer] if isinstance(layer, list | tuple) else None
    return at_layer(model, layer_named(language_model, layer) if layers is None else layers)


def by_name(method: Any, options: Mapping[str, Any], in_part: bool) -> dict[str, Any]:
    """The options of a method that was asked for by name: those of an answer that comes soon, and complete if it can.

    Each of many points would take a backward pass for each token, whose rows are left out unless they are asked for.

    Args:
        method: The method.
        options: What was said.
        in_part: Whether a part of the answer is explained, which its tokens make up.
    """
    by_steps = isinstance(method, IntegralAttribution)
    chosen = options.keys() & {"n_steps", "until", "method"}
    steps = STEPS if by_steps and not chosen else {}
    many_points = method.is_random or (method.starts_at_baseline and not method.by_rules)
    rows = {"token_rows": in_part} if many_points else {}
    return steps | rows | dict(options)


def gradient_methods() -> dict[str, type]:
    """The methods of gradients that explain a language model, by name."""
    return {snake_case(kind.__name__): kind for kind in WITH_TUNNEL}


def sites_of(method: Attribution, language_model: LanguageModel, to_input: bool = False) -> list[Site]:
    """The layers that a method moves: its own, else the embedding layer."""
    inner = inside(method)
    layer: Any = getattr(inner, "layer", None)
    if layer is None and not isinstance(inner, InternalAttribution):
        return [Site(language_model.embedding)]
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]
    return [Site.of(one, to_input) for one in layers]


def layer_named(language_model: LanguageModel, layer: Any) -> nn.Module | Site:
    """A layer given by itself or by its name in the model.

    Raises:
        UnknownName: the model has no layer of this name.
        InvalidType: it is neither a name nor a layer.
    """
    if isinstance(layer, nn.Module | Site):
        return layer
    if not isinstance(layer, str):
        raise InvalidType(f"layer must be the name of a layer, a module or a Site; got {type(layer).__name__}")
    known, name = language_model.layers, layer.replace("_orig_mod.", "")
    if name not in known:
        raise UnknownName("layer", layer, get_close_matches(name, known, n=5, cutoff=0.4) or list(known)[1:6])
    return known[name]


def is_embedding(sites: Sequence[Site], language_model: LanguageModel) -> bool:
    """Whether it is the embedding layer that moves, and nothing else."""
    return list(sites) == [Site(language_model.embedding)]


def refuse_unknown_options(method: Attribution, options: Mapping[str, Any]) -> None:
    """Refuses options that the method does not take.

    Raises:
        UnknownKeyword: there is one.
    """
    refuse_unknown(f"LLMGradientAttribution with {method.get_name()}", options, defaults_of(method).keys())


_SET_HERE = {
    *("inputs", "layer_baselines", "target", "targets", "additional_forward_args", "kwargs", "inspect"),
    *("grad_kwargs", "draw_baseline_from_distrib", "return_info"),
}
"""What the text decides."""
