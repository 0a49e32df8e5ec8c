"""Captum's providers: an interface of texts, and vLLM behind it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from threading import Event
from typing import Any

from llm_attr.errors import EngineRefused, InvalidType, InvalidValue
from llm_attr.llm.engines.completions import VLLM
from llm_attr.llm.engines.dialect import checked
from llm_attr.llm.engines.endpoint import Capabilities, Completion, Endpoint, Scored
from llm_attr.llm.engines.http import HttpClient
from llm_attr.llm.engines.sampling import sampling
from llm_attr.llm.engines.server import ServerEndpoint
from llm_attr.llm.model.tokenizer import TokenizerLike, decode, encode
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import Query


class RemoteLLMProvider(ABC):
    """A model that is reached by texts; subclass it for a service that `connect` does not know.

    Attributes:
        api_url: Where the service is.

    Example:
        >>> class Echo(RemoteLLMProvider):
        ...     api_url = "http://127.0.0.1:9000"
        ...     def generate(self, prompt, **gen_args):
        ...         return prompt
        ...     def get_logprobs(self, input_prompt, target_str, tokenizer=None):
        ...         return [-1.0] * len(tokenizer.encode(target_str, add_special_tokens=False))
    """

    api_url: str

    @abstractmethod
    def generate(self, prompt: str, **gen_args: Any) -> str:
        """The text that the model generates after a prompt.

        Args:
            prompt: The prompt.
            **gen_args: Arguments of transformers' `generate`.
        """

    @abstractmethod
    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """The log-probability of each token of an answer, in nats.

        Args:
            input_prompt: The prompt.
            target_str: The answer.
            tokenizer: The tokenizer whose tokens of the answer are meant.
        """


class VLLMProvider(RemoteLLMProvider):
    """A vLLM server; prompts and answers are sent as token ids where there is a tokenizer.

    The environment variable OPENAI_API_KEY is sent as its key. `connect("vllm:...")` is the same with more options.

    Args:
        api_url: The server's root, with or without `/v1`.
        model_name: The model's name at the server; None: the first one that it serves.

    Raises:
        EngineFailed: the server does not answer, or serves no such model.
        InvalidValue: the URL is not the root of a server.

    Example:
        >>> provider = VLLMProvider("http://127.0.0.1:8000")  # doctest: +SKIP
    """

    def __init__(self, api_url: str, model_name: str | None = None) -> None:
        if not isinstance(api_url, str) or not api_url.strip():
            raise InvalidValue(f"api_url must be the root of a server, such as http://127.0.0.1:8000; got {api_url!r}")
        client = HttpClient(api_url, os.environ.get("OPENAI_API_KEY") or None)
        self.endpoint = ServerEndpoint(VLLM(), client, model_name)
        self.api_url, self.model_name = client.root, self.endpoint.name

    def generate(self, prompt: str, **gen_args: Any) -> str:
        """See `RemoteLLMProvider`.

        Raises:
            UnknownKeyword: an argument cannot be sent to a server.
        """
        answer = self.endpoint.client.post(
            "/v1/completions", {"model": self.model_name, "prompt": prompt, **sampling(gen_args)}
        )
        return VLLM().generated(answer).text

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        """See `RemoteLLMProvider`.

        Raises:
            InvalidType: there is no tokenizer.
        """
        if tokenizer is None:
            raise InvalidType("get_logprobs needs the tokenizer that divides the answer into tokens")
        prompt = encode(tokenizer, input_prompt, special_tokens=True)
        query = Query(Variant.plain(prompt), tuple(encode(tokenizer, target_str, special_tokens=False)))
        return list(self.endpoint.score([query])[0].log_probs)


class ProviderEndpoint(Endpoint):
    """A provider of one's own as an endpoint: texts, one after the other.

    Args:
        provider: The provider.
        tokenizer: Its tokenizer.
    """

    capabilities = Capabilities(token_ids=False, calibrates=False)

    def __init__(self, provider: RemoteLLMProvider, tokenizer: TokenizerLike) -> None:
        self._provider, self._tokenizer = provider, tokenizer
        self.name = str(getattr(provider, "model_name", None) or type(provider).__name__)

    @property
    def about(self) -> Mapping[str, Any]:
        """See `Endpoint`; the address of a provider of one's own may hold a key and is left out."""
        return {"engine": type(self._provider).__name__, "served": self.name}

    def score(self, queries: Sequence[Query], stop: Event | None = None) -> list[Scored]:
        """See `Endpoint`."""
        return [Scored(self._log_probs(query)) for query in queries]

    def generate(self, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool = False) -> Completion:
        """See `Endpoint`."""
        names = {"max_tokens": "max_new_tokens", "stop": "stop_strings"}
        given = {names.get(name, name): value for name, value in options.items()}
        return Completion(self._provider.generate(decode(self._tokenizer, prompt), **given))

    def _log_probs(self, query: Query) -> tuple[float, ...]:
        prompt, answer = decode(self._tokenizer, query.variant.tokens), decode(self._tokenizer, query.answer)
        values = self._provider.get_logprobs(prompt, answer, self._tokenizer)
        if len(values) != len(query.answer):
            raise EngineRefused(
                f"{self.name}.get_logprobs gave {len(values)} values for the {len(query.answer)} tokens of {answer!r}"
            )
        return checked(values, len(query.answer), self.name)
