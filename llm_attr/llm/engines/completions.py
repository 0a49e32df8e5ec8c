"""The dialects of `/v1/completions`: vLLM's `prompt_logprobs`, and the `echo` of OpenAI-compatible servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_attr.errors import EngineFailed, EngineRefused
from llm_attr.llm.engines.dialect import Dialect, checked
from llm_attr.llm.engines.endpoint import Capabilities, Completion, Scored
from llm_attr.llm.scoring.prefix_tree import Query

FORMS = (KeyError, TypeError, ValueError, IndexError, AttributeError)
"""What reading an answer of another form raises."""


class Completions(Dialect):
    """What both dialects share."""

    path = "/v1/completions"

    def _base(self, model: str, queries: Sequence[Query]) -> dict[str, Any]:
        prompts = [[*query.variant.tokens, *query.answer] for query in queries]
        return {"model": model, "prompt": prompts, "max_tokens": 1, "temperature": 0}

    def scored(self, answer: Any, queries: Sequence[Query]) -> list[Scored]:
        """See `Dialect`."""
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
            reused = int(details.get("cached_tokens") or 0) // len(queries)
            pairs = zip(choices, queries, strict=True)
            return [Scored(self._values(choice, query), reused) for choice, query in pairs]
        except FORMS as error:
            raise self.unexpected(answer, error) from error

    def _values(self, choice: Mapping[str, Any], query: Query) -> tuple[float, ...]:
        raise NotImplementedError

    def generating(
        self, model: str, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool
    ) -> dict[str, Any]:
        """See `Dialect`."""
        return {"model": model, "prompt": list(prompt), **options, **({"logprobs": 1} if log_probs else {})}

    def generated(self, answer: Any) -> Completion:
        """See `Dialect`."""
        try:
            choice = answer["choices"][0]
            about, ids = choice.get("logprobs") or {}, choice.get("token_ids")
            values = tuple(map(float, about.get("token_logprobs") or ()))
            tokens = tuple(map(str, about.get("tokens") or ()))
            return Completion(choice["text"], None if ids is None else tuple(map(int, ids)), tokens, values)
        except FORMS as error:
            raise self.unexpected(answer, error) from error


class VLLM(Completions):
    """`prompt_logprobs=0` with token ids; the server computes every position, as it does not read its prefix cache."""

    name = "vllm"
    capabilities = Capabilities()

    def scoring(self, model: str, queries: Sequence[Query]) -> dict[str, Any]:
        """See `Dialect`."""
        return {**self._base(model, queries), "prompt_logprobs": 0}

    def generating(
        self, model: str, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool
    ) -> dict[str, Any]:
        """See `Dialect`."""
        return {**super().generating(model, prompt, options, log_probs), "return_token_ids": True}

    def _values(self, choice: Mapping[str, Any], query: Query) -> tuple[float, ...]:
        rows, start = choice["prompt_logprobs"], len(query.variant.tokens)
        if rows is None:
            raise EngineRefused("the vllm server ignored prompt_logprobs; an OpenAI-compatible one is asked by openai:")
        values = []
        for row, token in zip(rows[start : start + len(query.answer)], query.answer, strict=False):
            if row is not None and str(token) not in row:
                raise EngineRefused(
                    f"the vllm server's scores are off: the entry of the answer's token {token} has {sorted(row)[:4]}"
                )
            values.append(None if row is None else row[str(token)]["logprob"])
        return checked(values, len(query.answer), self.name)


class OpenAI(Completions):
    """`echo=True` with token ids: the log-probabilities of the prompt come back with those of one new token."""

    name = "openai"
    capabilities = Capabilities()

    def scoring(self, model: str, queries: Sequence[Query]) -> dict[str, Any]:
        """See `Dialect`."""
        return {**self._base(model, queries), "echo": True, "logprobs": 1}

    def generating(
        self, model: str, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool
    ) -> dict[str, Any]:
        """See `Dialect`; only options that OpenAI's own interface has."""
        known = {name: value for name, value in options.items() if name not in ("top_k", "ignore_eos")}
        return super().generating(model, prompt, known, log_probs)

    def _values(self, choice: Mapping[str, Any], query: Query) -> tuple[float, ...]:
        about, start = choice.get("logprobs") or {}, len(query.variant.tokens)
        values = about.get("token_logprobs")
        if values is None or len(values) <= 1:
            raise EngineFailed(
                "the server ignored echo=True, so it cannot score a given answer (llama.cpp's server does so: "
                "github.com/ggml-org/llama.cpp/issues/27174); vllm: and sglang: servers can"
            )
        return checked(values[start : start + len(query.answer)], len(query.answer), self.name)
