"""Which gradient methods explain a generation, and how: as methods whose inputs are what passes a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any

from torch import nn

from llm_attr.attr.base import Attribution, GradientAttribution, InternalAttribution
from llm_attr.attr.baselines import vocabulary
from llm_attr.attr.deep_lift import DeepLift
from llm_attr.attr.deep_lift_internal import LayerDeepLift
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, Saliency
from llm_attr.attr.gradient_shap import GradientShap, LayerGradientShap
from llm_attr.attr.guided import Deconvolution, GuidedBackprop
from llm_attr.attr.integrated import IntegratedGradients, LayerIntegratedGradients
from llm_attr.attr.lrp import LRP, LayerLRP
from llm_attr.attr.noise_tunnel import NoiseTunnel
from llm_attr.attr.token_paths import DiscretizedIntegratedGradients, SequentialIntegratedGradients
from llm_attr.core.registry import snake_case
from llm_attr.core.site import Site
from llm_attr.core.tensors import as_tensors, in_form_of
from llm_attr.errors import InvalidType, UnknownName, UnsupportedMethod
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.keywords import refuse_unknown
from llm_attr.typing import TensorOrTensors

AT_INPUTS = (
    Saliency,
    InputXGradient,
    IntegratedGradients,
    GradientShap,
    DeepLift,
    LRP,
    GuidedBackprop,
    Deconvolution,
    DiscretizedIntegratedGradients,
    SequentialIntegratedGradients,
)
"""Methods of inputs: those of a generation are what its embedding layer gives."""

AT_LAYERS = (LayerIntegratedGradients, LayerGradientXActivation, LayerGradientShap, LayerDeepLift, LayerLRP)
"""Captum's methods for generations, and those whose rules follow a transformer."""

LAYER_TWINS: dict[type, type] = {
    IntegratedGradients: LayerIntegratedGradients,
    InputXGradient: LayerGradientXActivation,
    GradientShap: LayerGradientShap,
    DeepLift: LayerDeepLift,
    LRP: LayerLRP,
}
"""What a method of inputs is at a layer that a user names."""

TOKEN_PATHS = (DiscretizedIntegratedGradients, SequentialIntegratedGradients)

GUIDED = (GuidedBackprop, Deconvolution)
"""Gradients without what is negative at a ReLU: of a generation their sizes; not linear in what is explained."""

BY_RULES = (DeepLift, LRP, LayerDeepLift, LayerLRP, *GUIDED)
"""Methods whose rules see every operation once, and so none that is computed again."""

RANDOM = (GradientShap, LayerGradientShap, NoiseTunnel)

MANY_POINTS = (IntegratedGradients, LayerIntegratedGradients, *TOKEN_PATHS, *RANDOM)
"""Methods that take gradients at many points."""


TEXT_DEFAULTS: dict[type, dict[str, Any]] = {
    SequentialIntegratedGradients: {"n_steps": 5},
    DiscretizedIntegratedGradients: {"method": "riemann_middle"},
}
"""Options that generations need otherwise than tensors: each position has a path of its own; baselines may be zero."""


STEPS: dict[str, Any] = {"n_steps": 64, "method": "riemann_middle"}
"""Of integrated gradients that are asked for by name: what is complete to 2 % for chats, see docs/completeness.md."""


class _Sizes(GradientAttribution):
    """The absolute values of another method's attributions, as `Saliency` gives them.

    The sum of a gradient over the entries of a vector says nothing: behind a layer norm it is zero.
    """

    def __init__(self, method: GradientAttribution) -> None:
        super().__init__(method.forward_func)
        self._method = method

    def attribute(self, inputs: TensorOrTensors) -> TensorOrTensors:
        """As the other method's."""
        found = as_tensors(self._method.attribute(inputs))
        return in_form_of(inputs, tuple(tensor.abs() for tensor in found))


def inside(method: Any) -> Any:
    """The method that a noise tunnel is around; any other method itself."""
    return method.attribution_method if isinstance(method, NoiseTunnel) else method


def supported(method: Any) -> bool:
    """Whether a method explains generations; a subclass with an `attribute` of its own does not."""
    inner = inside(method)
    kinds: tuple[Any, ...] = (*AT_INPUTS, *AT_LAYERS)
    return any(isinstance(inner, kind) and type(inner).attribute is kind.attribute for kind in kinds)


def names() -> list[str]:
    """The classes of methods that explain generations."""
    return [kind.__name__ for kind in (*AT_INPUTS, *AT_LAYERS, NoiseTunnel)]


def at_activations(method: Attribution, score: Callable[..., Any]) -> Attribution:
    """The method of the same kind and settings for a function of what passes the layers.

    Raises:
        UnsupportedMethod: it is none that explains generations.
    """
    if isinstance(method, NoiseTunnel):
        return NoiseTunnel(at_activations(method.attribution_method, score))
    for kinds, make in _AT_ACTIVATIONS.items():
        if isinstance(method, kinds):
            made = make(method, score)
            if isinstance(method, BY_RULES):
                made.model = method.model
            return _Sizes(made) if isinstance(method, GUIDED) else made
    raise UnsupportedMethod(
        f"LLMGradientAttribution does not support {type(method).__name__}; supported: {', '.join(names())}"
    )


def _discretized(method: Any, score: Callable[..., Any]) -> DiscretizedIntegratedGradients:
    words = vocabulary(method.layer.layer) if method.vocabulary is None else method.vocabulary
    return DiscretizedIntegratedGradients(
        score, vocabulary=words, strategy=method.strategy, n_neighbors=method.n_neighbors
    )


_AT_ACTIVATIONS: dict[tuple[type, ...], Callable[[Any, Callable[..., Any]], Any]] = {
    (Saliency,): lambda method, score: Saliency(score),
    (InputXGradient,): lambda method, score: InputXGradient(score),
    (LayerGradientXActivation,): lambda m, score: (InputXGradient if m.multiplies_by_inputs else Saliency)(score),
    (IntegratedGradients, LayerIntegratedGradients): lambda m, score: IntegratedGradients(
        score, m.multiplies_by_inputs
    ),
    (GradientShap, LayerGradientShap): lambda m, score: GradientShap(score, m.multiplies_by_inputs),
    (DeepLift,): lambda m, score: DeepLift(score, m.multiplies_by_inputs, m.eps),
    (LayerDeepLift,): lambda m, score: DeepLift(score, m.multiplies_by_inputs),
    (LRP, LayerLRP): lambda m, score: LRP(score, rules=m.rules),
    (GuidedBackprop,): lambda m, score: GuidedBackprop(score),
    (Deconvolution,): lambda m, score: Deconvolution(score),
    (SequentialIntegratedGradients,): lambda m, score: SequentialIntegratedGradients(score),
    (DiscretizedIntegratedGradients,): _discretized,
}
"""The method of activations for each kind, from the user's method and the function."""


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
    if issubclass(kind, TOKEN_PATHS) and layer is None:
        return kind(model, language_model.embedding)
    if kind not in AT_LAYERS and layer is None:
        return kind(model)
    at_layer = kind if kind in AT_LAYERS else LAYER_TWINS.get(kind)
    if at_layer is None:
        raise UnsupportedMethod(
            f"{name} explains at the embedding layer alone; methods of any layer: "
            f"{', '.join(snake_case(twin.__name__) for twin in (*LAYER_TWINS, *AT_LAYERS))}"
        )
    layer = language_model.embedding if layer is None else layer
    layers = [layer_named(language_model, one) for one in layer] if isinstance(layer, list | tuple) else None
    return at_layer(model, layer_named(language_model, layer) if layers is None else layers)


def by_name(method: Attribution, options: Mapping[str, Any], in_part: bool) -> dict[str, Any]:
    """The options of a method that was asked for by name: those of an answer that comes soon, and complete if it can.

    Each of many points would take a backward pass for each token, whose rows are left out unless they are asked for.

    Args:
        method: The method.
        options: What was said.
        in_part: Whether a part of the answer is explained, which its tokens make up.
    """
    by_steps = isinstance(method, IntegratedGradients | LayerIntegratedGradients)
    chosen = options.keys() & {"n_steps", "until", "method"}
    steps = STEPS if by_steps and not chosen else {}
    rows = {"token_rows": in_part} if isinstance(method, MANY_POINTS) else {}
    return steps | rows | dict(options)


def gradient_methods() -> dict[str, type]:
    """The methods of gradients that explain a language model, by name."""
    return {snake_case(kind.__name__): kind for kind in (*AT_INPUTS, *AT_LAYERS, NoiseTunnel)}


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


def is_linear(method: Attribution, options: Mapping[str, Any]) -> bool:
    """Whether the attributions of a sum of two quantities are the sum of theirs."""
    inner = inside(method)
    gradients_alone = isinstance(inner, LayerGradientXActivation) and not inner.multiplies_by_inputs
    sized = gradients_alone or isinstance(inner, (Saliency, *GUIDED))
    return not isinstance(method, RANDOM) and not sized and options.get("until") is None


def refuse_unknown_options(method: Attribution, options: Mapping[str, Any]) -> None:
    """Refuses options that the method does not take.

    Raises:
        UnknownKeyword: there is one.
    """
    inner = inside(method)
    accepted = {*signature(inner.attribute).parameters, *signature(method.attribute).parameters} - _SET_HERE
    refuse_unknown(f"LLMGradientAttribution with {method.get_name()}", options, accepted)


_SET_HERE = {
    *("inputs", "layer_baselines", "target", "targets", "additional_forward_args", "kwargs", "inspect"),
    *("grad_kwargs", "draw_baseline_from_distrib", "return_info"),
}
"""What the text decides."""
