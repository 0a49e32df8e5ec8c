"""`Dialect`: how a kind of server is asked for log-probabilities, and how its answers are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from llm_attr.errors import EngineFailed, EngineRefused
from llm_attr.llm.engines.endpoint import TOO_LARGE, Capabilities, Completion, Scored
from llm_attr.llm.scoring.prefix_tree import Query


class Dialect(ABC):
    """The requests and answers of one kind of server.

    Attributes:
        name: Its name in `engine=`.
        path: Where requests are sent.
        capabilities: What such servers can do.
    """

    name: str
    path: str
    capabilities: Capabilities

    @abstractmethod
    def scoring(self, model: str, queries: Sequence[Query]) -> dict[str, Any]:
        """The request for the log-probabilities of the queries' answers."""

    @abstractmethod
    def scored(self, answer: Any, queries: Sequence[Query]) -> list[Scored]:
        """The log-probabilities in the server's answer, in the order of the queries.

        Raises:
            EngineFailed: the answer has another form.
            EngineRefused: its values cannot be those of the queries.
        """

    @abstractmethod
    def generating(
        self, model: str, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool
    ) -> dict[str, Any]:
        """The request for a completion; see `Endpoint.generate`."""

    @abstractmethod
    def generated(self, answer: Any) -> Completion:
        """The completion in the server's answer.

        Raises:
            EngineFailed: the answer has another form.
        """

    def unexpected(self, answer: Any, error: Exception) -> EngineFailed:
        """The error for an answer of another form."""
        keys = f"the keys {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else type(answer).__name__
        return EngineFailed(
            f"the server's answer is not one of the dialect {self.name}: got {keys} ({type(error).__name__}: {error}); "
            "choose the engine that the server is: sglang:, vllm: or openai:"
        )


def checked(values: Sequence[Any], wanted: int, dialect: str) -> tuple[float, ...]:
    """The log-probabilities of an answer.

    Raises:
        EngineRefused: there are fewer than wanted, or one of them is missing or is no log-probability.
    """
    if len(values) != wanted:
        raise EngineRefused(
            f"the {dialect} server cut off its scores: {len(values)} values for the {wanted} tokens of an answer"
        )
    for place, value in enumerate(values):
        if value is None:
            seam = " (at the seam between prompt and answer)" if place == 0 else ""
            raise EngineRefused(f"the {dialect} server gave no value for token {place} of {wanted}{seam}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value > TOO_LARGE:
            raise EngineRefused(
                f"the {dialect} server gave {value!r} for token {place} of {wanted}, which is no log-probability; a "
                "prefix cache without log-probabilities for its rows does this"
            )
    return tuple(float(value) for value in values)
