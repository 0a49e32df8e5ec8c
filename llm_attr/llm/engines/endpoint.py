"""`Endpoint`: what scores answers outside this process, and what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from llm_attr.llm.scoring.prefix_tree import Query

TOO_LARGE = 1e-3
"""A log-probability above this is none; rounding may lift one slightly above 0."""


@dataclass(frozen=True)
class Capabilities:
    """What an endpoint can do.

    Attributes:
        token_ids: Whether prompts are sent as token ids rather than as text.
        reuse_block: Shared prefixes are computed once in blocks of this many tokens; 0: they are not, or it is unknown.
        absences: How units can be made absent.
        calibrates: Whether it generates with log-probabilities, so that its scores can be checked.
    """

    token_ids: bool = True
    reuse_block: int = 0
    absences: tuple[str, ...] = ("delete", "replace")
    calibrates: bool = True


@dataclass(frozen=True)
class Scored:
    """The log-probabilities of an answer's tokens.

    Attributes:
        log_probs: One per token, in nats.
        reused: How many positions the endpoint took from its prefix cache; 0 where it does not say.
    """

    log_probs: tuple[float, ...]
    reused: int = 0


@dataclass(frozen=True)
class Completion:
    """What an endpoint generated.

    Attributes:
        text: The text.
        ids: Its token ids; None if the endpoint does not tell them.
        tokens: The text of each token, where it gives log-probabilities.
        log_probs: The log-probability of each token, where it gives them.
    """

    text: str
    ids: tuple[int, ...] | None = None
    tokens: tuple[str, ...] = ()
    log_probs: tuple[float, ...] = ()


class Endpoint(ABC):
    """Scores and generates outside this process.

    Attributes:
        capabilities: What it can do.
        name: The model's name.
        in_flight: How many requests are sent at a time.
        per_request: How many prompts a request holds at most.
        context_length: The most positions; None where it does not say.
        price: The price of a million tokens that are sent, in your currency; None where none is given.
    """

    capabilities = Capabilities()
    name = ""
    in_flight = 1
    per_request = 1
    context_length: int | None = None
    price: float | None = None

    @property
    @abstractmethod
    def about(self) -> Mapping[str, Any]:
        """What identifies it in provenance and in ledgers, without any secret."""

    @abstractmethod
    def score(self, queries: Sequence[Query], stop: Event | None = None) -> list[Scored]:
        """Scores the answers of a request; once `stop` is set, it is not sent again.

        Raises:
            EngineFailed: there is no usable answer.
            EngineRefused: the answer cannot be right.
        """

    @abstractmethod
    def generate(self, prompt: Sequence[int], options: Mapping[str, Any], log_probs: bool = False) -> Completion:
        """Generates after a prompt.

        Args:
            prompt: Token ids.
            options: `max_tokens`, and `temperature`, `top_p`, `top_k`, `seed`, `stop`, `ignore_eos` where given.
            log_probs: Whether those of the tokens are needed.

        Raises:
            EngineFailed: there is no usable answer.
        """
