"""Which gradient methods explain a generation, and how: as methods whose inputs are what passes a layer."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from difflib import get_close_matches
from typing import Any

from torch import nn

from llm_attr.attr.base import Attribution
from llm_attr.attr.baselines import vocabulary
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, Saliency
from llm_attr.attr.gradient_shap import GradientShap, LayerGradientShap
from llm_attr.attr.integrated import IntegratedGradients, LayerIntegratedGradients
from llm_attr.attr.noise_tunnel import NoiseTunnel
from llm_attr.attr.token_paths import DiscretizedIntegratedGradients, SequentialIntegratedGradients
from llm_attr.core.site import Site
from llm_attr.errors import InvalidType, UnknownName, UnsupportedMethod
from llm_attr.llm.model import LanguageModel

AT_INPUTS = (
    Saliency,
    InputXGradient,
    IntegratedGradients,
    GradientShap,
    DiscretizedIntegratedGradients,
    SequentialIntegratedGradients,
)
"""Methods of inputs: those of a generation are what its embedding layer gives."""

AT_LAYERS = (LayerIntegratedGradients, LayerGradientXActivation, LayerGradientShap)
"""Captum's methods for generations."""

RANDOM = (GradientShap, LayerGradientShap, NoiseTunnel)


def supported(method: Any) -> bool:
    """Whether a method explains generations."""
    inner = method.attribution_method if isinstance(method, NoiseTunnel) else method
    return isinstance(inner, (*AT_INPUTS, *AT_LAYERS))


def names() -> list[str]:
    """The classes of methods that explain generations."""
    return [kind.__name__ for kind in (*AT_INPUTS, *AT_LAYERS, NoiseTunnel)]


def at_activations(method: Attribution, score: Callable[..., Any]) -> Attribution:
    """The same method of a function whose inputs are what passes the layers.

    Raises:
        UnsupportedMethod: it is none that explains generations.
    """
    if isinstance(method, NoiseTunnel):
        return NoiseTunnel(at_activations(method.attribution_method, score))
    if isinstance(method, AT_INPUTS):
        made = copy(method)
        made.forward_func = score
        if isinstance(made, DiscretizedIntegratedGradients) and made.vocabulary is None and made.layer is not None:
            made.vocabulary = vocabulary(made.layer.layer)
        if isinstance(made, DiscretizedIntegratedGradients | SequentialIntegratedGradients):
            made.layer = None
        return made
    if isinstance(method, LayerIntegratedGradients):
        return IntegratedGradients(score, method.multiplies_by_inputs)
    if isinstance(method, LayerGradientShap):
        return GradientShap(score, method.multiplies_by_inputs)
    if isinstance(method, LayerGradientXActivation):
        return InputXGradient(score) if method.multiplies_by_inputs else Saliency(score)
    raise UnsupportedMethod(
        f"LLMGradientAttribution does not support {type(method).__name__}; supported: {', '.join(names())}"
    )


def sites_of(method: Attribution, language_model: LanguageModel, to_input: bool = False) -> list[Site]:
    """The layers that a method moves: its own, else the embedding layer."""
    inner = method.attribution_method if isinstance(method, NoiseTunnel) else method
    layer = getattr(inner, "layer", None)
    if layer is None:
        return [Site(language_model.model.get_input_embeddings())]
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
    known = dict(language_model.model.named_modules())
    if layer not in known:
        raise UnknownName("layer", layer, get_close_matches(layer, known, n=5, cutoff=0.4) or list(known)[1:6])
    return known[layer]
