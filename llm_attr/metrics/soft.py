"""Soft comprehensiveness and sufficiency: features are kept at random, with probabilities given by attributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_attr.core.faithfulness.curves import mean_and_error
from llm_attr.core.faithfulness.orders import seeded
from llm_attr.core.faithfulness.retention import keep_probabilities
from llm_attr.errors import InvalidValue, positive
from llm_attr.metrics.score import Judged, Score


def soft_comprehensiveness(
    attributions: Any, game: Any, retained: float | None = None, n_samples: int = 32, *, seed: int = 0
) -> Score:
    """The relative fall of the model's value when strong features are likely to be removed; higher is better.

    `Soft-NC = E[max(0, f(x) - f(x'))] / (f(x) - f(nothing))`, where x' keeps feature i with the probability 1 - p_i;
    see `soft_sufficiency` for p. With `retained`, this is pi-Soft-NC.

    Shared arguments: see `deletion`.

    Args:
        retained: The mean probability pi with which features are kept, the same for all attributions that are
            compared. None: the probabilities are the scaled attributions themselves, so that attributions that are
            large for many features remove more.
        n_samples: The number of random subsets.
        seed: Of the subsets; no global stream is touched.

    Returns:
        `(outputs,)`, 0 or more, without unit; nan where the full input has no larger value than nothing.

    Raises:
        InvalidValue: `retained` is not between 0 and 1.
        InvalidShape: the attributions do not fit the game.

    Source: Z. Zhao and N. Aletras, Incorporating Attribution Importance for Improving Faithfulness Metrics, ACL 2023,
    for whole features in place of entries of embeddings; X. Huang and A. B. Chan, Faithfulness Evaluation
    for Decoder-only LLM Attributions with Controlled Retained Information, 2026 (equal expected retention). How
    probabilities are scaled to the same mean is this library's choice, see `soft_sufficiency`.

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> soft_comprehensiveness(weights, lambda present: present.float() @ weights, retained=0.5).values
        tensor([0.7500], dtype=torch.float64)
    """
    return _soft("soft comprehensiveness", attributions, game, retained, n_samples, seed, removing=True)


def soft_sufficiency(
    attributions: Any, game: Any, retained: float | None = None, n_samples: int = 32, *, seed: int = 0
) -> Score:
    """How much of the model's value is kept when strong features are likely to be kept; higher is better.

    `Soft-NS = 1 - E[max(0, f(x) - f(x'))] / (f(x) - f(nothing))`, where x' keeps feature i with the probability p_i.
    Without `retained`, p are the attributions scaled to the range from 0 to 1. With it, they are scaled further to the
    mean `retained`: multiplied by a common factor and cut off at 1, and once all positive ones are 1, the rest is
    divided evenly among the others. This is pi-Soft-NS.

    Shared arguments: see `deletion`.

    Args:
        retained: The mean probability pi with which features are kept; None: as the scaled attributions have it.
        n_samples: The number of random subsets.
        seed: Of the subsets; no global stream is touched.

    Returns:
        `(outputs,)`, at most 1, without unit; nan where the full input has no larger value than nothing.

    Raises:
        InvalidValue: `retained` is not between 0 and 1.
        InvalidShape: the attributions do not fit the game.

    Source: as `soft_comprehensiveness`.

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> soft_sufficiency(weights, lambda present: present.float() @ weights, retained=0.5).values
        tensor([0.7500], dtype=torch.float64)
    """
    return _soft("soft sufficiency", attributions, game, retained, n_samples, seed, removing=False)


def _soft(
    name: str, attributions: Any, game: Any, retained: float | None, samples: int, seed: int, removing: bool
) -> Score:
    positive("n_samples", samples)
    if retained is not None and (
        isinstance(retained, bool) or not isinstance(retained, int | float) or not 0 <= retained <= 1
    ):
        raise InvalidValue(f"retained must be a number from 0 to 1, or None; got {retained!r}")
    generator = seeded(seed)
    judged = Judged.of(attributions, game)
    share = None if retained is None else 1 - retained if removing else retained
    strong = keep_probabilities(judged.rows, share)
    kept = _drawn(1 - strong if removing else strong, samples, generator)
    full, span = judged.everything(), judged.everything() - judged.nothing()
    falls = (full[:, None] - judged.game.values(kept)).clamp(min=0)
    relative = torch.where(span[:, None] > 0, falls / torch.where(span > 0, span, 1.0)[:, None], torch.nan)
    values, stderr = mean_and_error((relative if removing else 1 - relative).T)
    title = name if retained is None else f"{name} at {retained:g}"
    return Score(title, values, stderr, True, **judged.cost)


def _drawn(probabilities: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Bool `(outputs, samples, features)`: random subsets; outputs share the random numbers."""
    shape = (samples, probabilities.shape[1])
    numbers = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    return numbers[None] < probabilities[:, None]
