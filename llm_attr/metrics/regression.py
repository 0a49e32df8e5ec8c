"""Metrics that compare what attributions predict of ablations with what the model does."""

from __future__ import annotations

from typing import Any

import torch

from llm_attr.core.faithfulness.correlation import resampled_error, spearman
from llm_attr.core.faithfulness.orders import random_sets
from llm_attr.core.game.coalitions import each_left_out
from llm_attr.metrics.score import Judged, Score


def linear_datamodelling_score(
    attributions: Any, game: Any, n_ablations: int = 64, keep: float = 0.5, *, seed: int = 0
) -> Score:
    """The rank correlation of predicted and actual values over random ablations (LDS); higher is better.

    `LDS = spearman({f(x_S)}, {sum_{i in S} a_i})` over random sets S with the same number of features.

    Shared arguments: see `deletion`.

    Args:
        n_ablations: The number of random ablations, 3 or more. Outputs share them.
        keep: The share of the features that each keeps, rounded; at least one is kept and one is left out.
        seed: Of the ablations; no global stream is touched.

    Returns:
        `(outputs,)` between -1 and 1, with bootstrap standard errors over the ablations. It is 0 where all
        attributions are equal, or the model's value is constant.

    Raises:
        InvalidValue: `keep` is not between 0 and 1, there are fewer than 3 ablations, or fewer than 2 features.
        InvalidShape: the attributions do not fit the game.

    Source: S. M. Park et al., TRAK: Attributing Model Behavior at Scale, ICML 2023; B. Cohen-Wang et al., ContextCite,
    NeurIPS 2024, which uses it for context.

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0, -2.0, 0.5])
        >>> linear_datamodelling_score(weights, lambda present: present.double() @ weights.double()).values
        tensor([1.], dtype=torch.float64)
    """
    judged = Judged.of(attributions, game)
    coalitions = random_sets(judged.rows.shape[1], n_ablations, keep, seed)
    actual = judged.game.shared(coalitions, judged.outputs)
    predicted = judged.rows @ coalitions.double().T
    values, stderr = spearman(actual, predicted), resampled_error(actual, predicted)
    return Score("linear datamodelling score", values, stderr, True, **judged.cost)


def monotonicity(attributions: Any, game: Any, *, signed: bool = False) -> Score:
    """The rank correlation of each feature's attribution with what leaving it out changes; higher is better.

    `spearman(|a_i|, |f(x) - f(x without i)|)` over the features.

    Shared arguments: see `deletion`.

    Args:
        signed: Whether signs count, so that a feature against the output ranks below one without effect.

    Returns:
        `(outputs,)` between -1 and 1; 0 where all attributions, or all changes, are equal.

    Raises:
        InvalidShape: the attributions do not fit the game.

    Source: A. Nguyen and M. R. Martínez, On quantitative aspects of model interpretability, 2020
    (monotonicity), with the model's change in place of the expected loss.

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0, -2.0])
        >>> monotonicity(weights, lambda present: present.double() @ weights.double()).values
        tensor([1.], dtype=torch.float64)
    """
    judged = Judged.of(attributions, game)
    left_out = torch.cat(list(each_left_out(judged.rows.shape[1])))
    changes = judged.everything()[:, None] - judged.game.shared(left_out, judged.outputs)
    rows = judged.rows
    if not signed:
        rows, changes = rows.abs(), changes.abs()
    return Score("monotonicity", spearman(rows, changes), None, True, **judged.cost)
