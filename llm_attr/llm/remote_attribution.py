"""`RemoteLLMAttribution`: `LLMAttribution` of a model behind a provider, under Captum's name."""

from __future__ import annotations

from typing import Any

from torch import nn

from llm_attr.attr.base import Attribution
from llm_attr.errors import InvalidType
from llm_attr.llm.attribution import LLMAttribution
from llm_attr.llm.engines.endpoint import Endpoint
from llm_attr.llm.engines.provider import ProviderEndpoint, RemoteLLMProvider, VLLMProvider
from llm_attr.llm.engines.remote_scorer import refuse_scalar
from llm_attr.llm.engines.served_model import ServedModel
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.target.scalar import ScalarLike


class _Placeholder(nn.Module):
    """Stands in the place of a model when a method is made for a remote one."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise InvalidType("placeholder_model has no forward pass; RemoteLLMAttribution asks its provider")


class RemoteLLMAttribution(LLMAttribution):
    """Explains which units of a prompt carried the answer of a model that is behind a provider.

    `attribution = f(prompt) - f(prompt without the unit)` as in `LLMAttribution`, with f from the provider. The scores
    of a `VLLMProvider` are first compared with what it generates. `explain(tokenizer, prompt, engine="vllm:URL")` does
    the same without a class.

    Args:
        attr_method: The method, made for `RemoteLLMAttribution.placeholder_model`.
        tokenizer: The served model's tokenizer.
        provider: A `VLLMProvider`, or your own `RemoteLLMProvider`.
        attr_target: `log_prob` (nats), `prob`, or a contrast.

    Attributes:
        placeholder_model: The model to construct methods with.

    Raises:
        InvalidType: the provider is none.
        InvalidValue: attr_target is read from logits, which providers do not give.
        UnsupportedMethod: see `LLMAttribution`.
        EngineRefused: the server's scores are wrong.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (ablation);
    the paper of each method for its estimator.

    Example:
        >>> method = FeatureAblation(RemoteLLMAttribution.placeholder_model)  # doctest: +SKIP
        >>> remote = RemoteLLMAttribution(method, tokenizer, VLLMProvider("http://127.0.0.1:8000"))  # doctest: +SKIP
        >>> remote.attribute(TextTokenInput("Dave lives in Oslo.", tokenizer), target=" He ski")  # doctest: +SKIP
    """

    placeholder_model: Any = _Placeholder()

    def __init__(
        self,
        attr_method: Attribution,
        tokenizer: TokenizerLike,
        provider: RemoteLLMProvider,
        attr_target: ScalarLike = "log_prob",
    ) -> None:
        if not isinstance(provider, RemoteLLMProvider):
            raise InvalidType(f"provider must be a RemoteLLMProvider; got {type(provider).__name__}")
        endpoint: Endpoint = ProviderEndpoint(provider, tokenizer)
        if isinstance(provider, VLLMProvider) and type(provider) is VLLMProvider:
            endpoint = provider.endpoint
        self.provider = provider
        super().__init__(attr_method, ServedModel(endpoint, tokenizer), attr_target)
        if not self.scalar.is_of_log_probs:
            refuse_scalar(self.scalar.label)
