"""What a metric gives for the same attributions in random places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.faithfulness.orders import seeded
from llm_attr.errors import InvalidType, InvalidValue, positive
from llm_attr.metrics.score import Score, as_game


@dataclass(frozen=True, eq=False)
class Chance:
    """A score beside those of permuted attributions.

    Attributes:
        score: The score of the attributions.
        permuted: float64 `(permutations, outputs)`: the scores of permuted ones.
        mean: `(outputs,)`: their mean, which is the level of chance.
        stderr: `(outputs,)`: its standard error.
        p_value: `(outputs,)`: the share of permutations, the given order included, that score at least as well.
        evaluations: Coalitions that the model evaluated, for all together.
        passes: Forward passes of a language model; None for other models.
    """

    score: Score
    permuted: Tensor
    mean: Tensor
    stderr: Tensor
    p_value: Tensor
    evaluations: int
    passes: int | None


def chance(
    metric: Callable[..., Score],
    attributions: Any,
    game: Any,
    permutations: int = 32,
    *,
    seed: int = 0,
    **options: Any,
) -> Chance:
    """The score of attributions beside that of the same numbers in random places: a permutation test.

    `p = (1 + #{permutations that score at least as well}) / (1 + permutations)`

    Shared arguments: see `deletion`.

    Args:
        metric: One of the metrics that take a game.
        permutations: The number of random permutations, 2 or more. Outputs share them.
        seed: Of the permutations; no global stream is touched.
        **options: Passed on to the metric.

    Raises:
        InvalidType: the metric does not return a score, or not one number per output.
        InvalidValue: fewer than 2 permutations.

    Source: B. Phipson and G. K. Smyth, Permutation P-values Should Never Be Zero, 2010.

    Example:
        >>> import torch
        >>> from llm_attr.metrics import deletion
        >>> weights = torch.tensor([3.0, 1.0, 2.0, 0.5])
        >>> tested = chance(deletion, weights, lambda present: present.float() @ weights, seed=1)
        >>> bool(tested.score.values < tested.mean)
        True
    """
    generator = seeded(seed)
    count = positive("permutations", permutations)
    if count < 2:
        raise InvalidValue("a permutation test needs at least 2 permutations; got 1")
    judge = as_game(attributions, game)
    before = judge.spent
    rows = judge.rows(attributions)
    score = _scored(metric, rows, judge, options)
    orders = [torch.randperm(rows.shape[1], generator=generator, device="cpu") for _ in range(count)]
    permuted = torch.stack([_scored(metric, rows[:, order], judge, options).values for order in orders])
    as_well = permuted >= score.values if score.higher_is_better else permuted <= score.values
    p_value = (1 + as_well.sum(0)).double() / (1 + count)
    error = permuted.std(0) / count**0.5
    spent = judge.spent.since(before)
    return Chance(score, permuted, permuted.mean(0), error, p_value, spent.evaluations, spent.passes)


def _scored(metric: Callable[..., Score], rows: Tensor, judge: Any, options: dict[str, Any]) -> Score:
    score = metric(rows, judge, **options)
    if not isinstance(score, Score) or score.values.shape != rows.shape[:1]:
        raise InvalidType(
            "the metric must return a Score with one number per output, as those of llm_attr.metrics that take a game"
        )
    return score
