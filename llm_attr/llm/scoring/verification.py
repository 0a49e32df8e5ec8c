"""Verifying that two computations of the same log-probabilities differ only by rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llm_attr.core.site import Site, replaced
from llm_attr.errors import InvalidValue
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel, has_unusual_weights
from llm_attr.llm.model.precision import computed_in
from llm_attr.llm.scoring.passes import WholePass
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.strategy import remember_noise

NEGLIGIBLE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Nats per token below which rounding noise is not measured."""

MULTIPLE = 3
"""The allowed difference, in multiples of the effect of one rounding of the embeddings.

Over eight model families in bf16 and fp16, honest rounding was at most 1.3 times that effect."""

NOISE_PASSES = 4
"""How often the effect of one rounding is measured."""

MATMUL_EPS = {"high": 2.0**-10, "medium": 2.0**-7}
"""The rounding of matrix products for which torch may use less than fp32."""

OTHER = 1
"""A token other than the 0 that fills masked positions."""


class Verification:
    """Comparisons with the model's own forward pass over a full sequence.

    Args:
        language_model: Model and tokenizer, in evaluation mode.

    Attributes:
        cost: The cost of the comparisons.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self._lm, self.cost = language_model, Cost()

    def of_tree(self, query: Query, log_probs: Tensor, dtype: torch.dtype) -> float | None:
        """The nats by which a prefix tree is wrong for a query; None if it is right.

        Args:
            query: The query.
            log_probs: `(answer tokens,)` its log-probabilities from the tree.
            dtype: The dtype in which the model computed.
        """
        return self._difference(log_probs, query, dtype)

    def of_batch(self, query: Query, log_probs: Tensor) -> float | None:
        """The nats by which the other rows of a batch changed this one; None if they did not.

        Raises:
            InvalidValue: the model attends to masked tokens.
        """
        masked, dtype = query.variant.has_gaps, computed_in(self._lm)
        other = OTHER if masked else 0
        difference = self._difference(log_probs, query, dtype, other)
        if difference is None or not masked:
            return difference
        seen = self._difference(self._log_probs(query), query, dtype, other)
        if seen is not None:
            raise sees_what_is_masked(self._lm, f"changing such tokens changed its answer by {seen:.2g} nats")
        return difference

    def _log_probs(self, query: Query, fill: int = 0) -> Tensor:
        """`(answer tokens,)` for the sequence alone; from all its logits if the output head is quantised."""
        head = getattr(self._lm.model, "get_output_embeddings", lambda: None)()
        plain = head is not None and has_unusual_weights(head)
        return WholePass(self._lm, self.cost, plain).batch([replace(query, scalars=())], fill)[0].log_probs

    def _difference(self, log_probs: Tensor, query: Query, dtype: torch.dtype, fill: int = 0) -> float | None:
        """The largest difference from the sequence alone; None if it is only rounding."""
        expected = self._log_probs(query, fill)
        difference = (log_probs - expected).abs()
        if not torch.isfinite(expected).all():
            return None
        is_rounding = bool((difference <= NEGLIGIBLE.get(dtype, 0.01)).all()) or (
            difference.isfinite().all() and _rms(difference) <= MULTIPLE * self._noise(expected, query, dtype, fill)
        )
        if not is_rounding:
            return difference.max().item()
        remember_noise(self._lm, log_probs - expected)
        return None

    def _noise(self, expected: Tensor, query: Query, dtype: torch.dtype, fill: int) -> float:
        """How much the log-probabilities change when each entry of the embeddings is rounded up or down."""
        if self._lm.is_plain:
            return 0.0
        embedding, drawn = self._lm.embedding, torch.Generator(device="cpu").manual_seed(0)
        exact = embedding(WholePass(self._lm, Cost()).ids([query], fill).to(self._lm.device))
        changes = []
        for _ in range(NOISE_PASSES):
            signs = torch.randint(0, 2, exact.shape, generator=drawn, device="cpu") * 2 - 1
            rounded = exact * (1 + _eps(dtype) * signs.to(exact))
            with replaced(Site(embedding), (rounded,)):
                changes.append(self._log_probs(query, fill) - expected)
        return _rms(torch.stack(changes))


def sees_what_is_masked(language_model: LanguageModel, why: str) -> InvalidValue:
    """The error for `absence="mask"` with a model that attends to masked tokens."""
    return InvalidValue(
        f"absence='mask' means nothing to {language_model.name} ({type(language_model.model).__name__}), which sees "
        f"tokens that its attention mask leaves out: {why}; use absence='delete' or absence='replace'"
    )


def probe(shapes: Sequence[frozenset[str]], verified: frozenset[str]) -> int | None:
    """The query that covers most of what is not verified yet; None if everything is."""
    best = max(range(len(shapes)), key=lambda i: len(shapes[i] - verified))
    return best if shapes[best] - verified else None


def _eps(dtype: torch.dtype) -> float:
    eps = torch.finfo(dtype).eps
    return max(eps, MATMUL_EPS.get(torch.get_float32_matmul_precision(), eps)) if dtype == torch.float32 else eps


def _rms(values: Tensor) -> float:
    return values.double().square().mean().sqrt().item()
