"""The dialect of SGLang's `/generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_attr.errors import EngineRefused
from llm_attr.llm.engines.dialect import Dialect, checked
from llm_attr.llm.engines.endpoint import Capabilities, Completion, Scored
from llm_attr.llm.scoring.prefix_tree import Query

NAMES = {"max_tokens": "max_new_tokens", "seed": "sampling_seed"}
"""Options that are called differently here."""


class SGLang(Dialect):
    """`POST /generate` with token ids and `logprob_start_len`: prefixes before it come from the radix cache.

    Entries of `input_token_logprobs` begin at the last token of the prompt, whose value is None.
    """

    name, path = "sglang", "/generate"
    capabilities = Capabilities(reuse_block=1)

    def scoring(self, model: str, queries: Sequence[Query]) -> dict[str, Any]:
        """See `Dialect`."""
        return {
            "input_ids": [[*query.variant.tokens, *query.answer] for query in queries],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": [len(query.variant.tokens) - 1 for query in queries],
        }

    def scored(self, answer: Any, queries: Sequence[Query]) -> list[Scored]:
        """See `Dialect`."""
        try:
            parts = [answer] if isinstance(answer, Mapping) else list(answer)
            return [self._one(part["meta_info"], query) for part, query in zip(parts, queries, strict=True)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self.unexpected(answer, error) from error

    def _one(self, about: Mapping[str, Any], query: Query) -> Scored:
        entries = about["input_token_logprobs"][1:]
        values = checked([entry[0] for entry in entries], len(query.answer), self.name)
        ids = tuple(entry[1] for entry in entries)
        if ids != query.answer:
            raise EngineRefused(
                f"the sglang server's scores are off: they are for the tokens {ids[:8]}, and those of the answer are "
                f"{query.answer[:8]}"
            )
        return Scored(values, int(about.get("cached_tokens") or 0))

    def generating(
        self, model: str, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool
    ) -> dict[str, Any]:
        """See `Dialect`."""
        sampling = {NAMES.get(name, name): value for name, value in options.items()}
        return {"input_ids": list(prompt), "sampling_params": sampling, "return_logprob": True}

    def generated(self, answer: Any) -> Completion:
        """See `Dialect`."""
        try:
            entries = answer["meta_info"]["output_token_logprobs"]
            values = tuple(float(entry[0]) for entry in entries)
            return Completion(answer["text"], tuple(int(entry[1]) for entry in entries), (), values)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self.unexpected(answer, error) from error
