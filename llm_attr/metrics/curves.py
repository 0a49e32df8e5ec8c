"""Metrics that remove or add features in the order of their attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from llm_attr.core.faithfulness.curves import Walked, density, mean_and_error, normalized, walked
from llm_attr.core.faithfulness.orders import fraction_counts, orders, step_counts
from llm_attr.errors import InvalidValue, UnknownName, positive
from llm_attr.metrics.score import CurveScore, Judged, Score

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of the features at which comprehensiveness and sufficiency are averaged."""


def deletion(
    attributions: Any,
    game: Any,
    *,
    steps: int | None = None,
    normalize: bool = False,
    tie_draws: int = 16,
    seed: int = 0,
) -> CurveScore:
    """The area under the model's value while features are removed, those of the largest attribution first.

    `area = integral_0^1 f(x without the share t of the strongest features) dt` by the trapezoid rule; lower is better.

    Args:
        attributions: What is judged: of the shapes of the inputs for an `InputGame`; `(units,)` for the full answer of
            a text or `(answer tokens, units)` for each token; `(features,)` or `(outputs, features)` for a function.
        game: What judges: an `InputGame`, a result of `llm_attr.explain`, an `llm_attr.prompt_game`, or a function of
            coalitions `(coalitions, features)`. Coalitions that it evaluated before cost nothing.
        steps: The number of steps from all features to none. None: one per feature, at most 64.
        normalize: Whether values are scaled to 0 without features and 1 with all; nan if these are equal.
        tie_draws: The number of random orders that are averaged if attributions are equal.
        seed: Of these orders.

    Returns:
        The area `(outputs,)` in units of the output, with the curve.

    Raises:
        InvalidShape: the attributions do not fit the game.
        NonFiniteValue: attributions or values are NaN or infinite.

    Source: V. Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018
    (deletion metric).

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> score = deletion(weights, lambda present: present.float() @ weights)
        >>> score.curve
        tensor([[4., 1., 0.]], dtype=torch.float64)
        >>> score.values
        tensor([1.5000], dtype=torch.float64)
    """
    judged = Judged.of(attributions, game)
    return _area("deletion", judged, _walk(judged, True, steps, tie_draws, seed), normalize, higher_is_better=False)


def insertion(
    attributions: Any,
    game: Any,
    *,
    steps: int | None = None,
    normalize: bool = False,
    tie_draws: int = 16,
    seed: int = 0,
) -> CurveScore:
    """The area under the model's value while features are added to none, those of the largest attribution first.

    `area = integral_0^1 f(only the share t of the strongest features) dt`; higher is better.

    Shared arguments: see `deletion`.

    Args:
        steps: The number of steps from no feature to all. None: one per feature, at most 64.
        normalize: Whether values are scaled to 0 without features and 1 with all; nan if these are equal.
        tie_draws: The number of random orders that are averaged if attributions are equal.
        seed: Of these orders.

    Returns:
        The area `(outputs,)` in units of the output, with the curve.

    Raises:
        InvalidShape: the attributions do not fit the game.
        NonFiniteValue: attributions or values are NaN or infinite.

    Source: V. Petsiuk et al., RISE, BMVC 2018 (insertion metric).

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> insertion(weights, lambda present: present.float() @ weights).values
        tensor([2.5000], dtype=torch.float64)
    """
    judged = Judged.of(attributions, game)
    return _area("insertion", judged, _walk(judged, False, steps, tie_draws, seed), normalize, higher_is_better=True)


def rise(
    attributions: Any,
    game: Any,
    mode: str = "deletion",
    *,
    steps: int | None = None,
    tie_draws: int = 16,
    seed: int = 0,
) -> CurveScore:
    """The area of the deletion or insertion curve on the scale from 0 (no feature) to 1 (all features).

    Values beyond that scale count as its ends, so that outputs of different size can be averaged.

    Shared arguments: see `deletion`.

    Args:
        mode: `deletion` (lower is better) or `insertion` (higher is better).

    Returns:
        The area `(outputs,)` between 0 and 1, with the curve; nan where removing everything changes nothing.

    Raises:
        UnknownName: there is no such mode.
        InvalidShape: the attributions do not fit the game.

    Source: V. Petsiuk et al., RISE, BMVC 2018 (causal metrics).

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> rise(weights, lambda present: present.float() @ weights).values
        tensor([0.3750], dtype=torch.float64)
    """
    removing = _removing(mode)
    judged = Judged.of(attributions, game)
    path = _walk(judged, removing, steps, tie_draws, seed)
    response = normalized(path.values, judged.nothing(), judged.everything()).clamp(0, 1)
    return _area(f"rise {mode}", judged, Walked(path.fractions, response), False, higher_is_better=not removing)


def mas(
    attributions: Any,
    game: Any,
    mode: str = "deletion",
    *,
    steps: int | None = None,
    tie_draws: int = 16,
    seed: int = 0,
) -> CurveScore:
    """Magnitude aligned scoring: `rise`, with a penalty where the model's response is not that of the attributions.

    With the response r of `rise` and the share d of the positive attribution that is present,
    `mas = integral clip(r + |r - d|, 0, 1)` for deletion (lower is better) and `integral clip(r - |r - d|, 0, 1)` for
    insertion (higher is better).

    Shared arguments: see `deletion`.

    Args:
        attributions: Negative ones count as 0 in d; without positive ones d is a straight line.
        mode: `deletion` or `insertion`.

    Returns:
        The area `(outputs,)` between 0 and 1, with the penalised curve; nan where removing everything changes nothing.

    Raises:
        UnknownName: there is no such mode.
        InvalidShape: the attributions do not fit the game.

    Source: C. Walker et al., Attribution Quality Metrics with Magnitude Alignment, IJCAI 2024.

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> mas(weights, lambda present: present.float() @ weights).values
        tensor([0.3750], dtype=torch.float64)
    """
    removing = _removing(mode)
    judged = Judged.of(attributions, game)
    counts = step_counts(judged.rows.shape[1], steps)
    order = orders(judged.rows, tie_draws, seed)
    path = walked(judged.game, order, counts, removing)
    response = normalized(path.values, judged.nothing(), judged.everything()).clamp(0, 1)
    share = density(judged.rows, order, counts)
    penalty = (response - (1 - share if removing else share)).abs()
    aligned = (response + penalty if removing else response - penalty).clamp(0, 1)
    return _area(f"mas {mode}", judged, Walked(path.fractions, aligned), False, higher_is_better=not removing)


def comprehensiveness(
    attributions: Any,
    game: Any,
    fractions: Sequence[float] = FRACTIONS,
    *,
    tie_draws: int = 16,
    seed: int = 0,
) -> Score:
    """How much the model's value falls when the strongest features are removed, averaged over how many (AOPC).

    `1 / (B + 1) sum_{k=0..B} f(x) - f(x without r_k)`, where r_0 is nothing and r_k are the first `fractions[k]` of the
    features, rounded up; higher is better.

    Shared arguments: see `deletion`.

    Args:
        fractions: The shares of the features that are removed, each between 0 and 1.

    Returns:
        `(outputs,)` in units of the output.

    Raises:
        InvalidValue: a fraction is not between 0 and 1.
        InvalidShape: the attributions do not fit the game.

    Source: J. DeYoung et al., ERASER: A Benchmark to Evaluate Rationalized NLP Models, ACL 2020 (comprehensiveness,
    and its average over bins).

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> comprehensiveness(weights, lambda present: present.float() @ weights, [0.5, 1.0]).values
        tensor([2.3333], dtype=torch.float64)
    """
    return _aopc("comprehensiveness", attributions, game, fractions, True, tie_draws, seed)


def sufficiency(
    attributions: Any,
    game: Any,
    fractions: Sequence[float] = FRACTIONS,
    *,
    tie_draws: int = 16,
    seed: int = 0,
) -> Score:
    """How far the model's value falls when only the strongest features are kept, averaged over how many (AOPC).

    `1 / (B + 1) sum_{k=0..B} f(x) - f(r_k)`, with r_k as in `comprehensiveness`; lower is better.

    Shared arguments: see `deletion`.

    Args:
        fractions: The shares of the features that are kept, each between 0 and 1.

    Returns:
        `(outputs,)` in units of the output.

    Raises:
        InvalidValue: a fraction is not between 0 and 1.
        InvalidShape: the attributions do not fit the game.

    Source: J. DeYoung et al., ERASER, ACL 2020 (sufficiency, and its average over bins).

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> sufficiency(weights, lambda present: present.float() @ weights, [0.5, 1.0]).values
        tensor([1.6667], dtype=torch.float64)
    """
    return _aopc("sufficiency", attributions, game, fractions, False, tie_draws, seed)


def top_k_drop(
    attributions: Any, game: Any, k: int | Sequence[int] = 1, *, tie_draws: int = 16, seed: int = 0
) -> Score:
    """How much the model's value falls when the k strongest features are removed together; higher is better.

    `drop_k = f(x) - f(x without its k strongest features)`; of an answer's log-probability, in nats.

    Shared arguments: see `deletion`.

    Args:
        k: How many features are removed, or several numbers.

    Returns:
        `(outputs,)`, or for several numbers `(outputs, numbers)`, in units of the output.

    Raises:
        InvalidValue: a number is not between 1 and the number of features.
        InvalidShape: the attributions do not fit the game.

    Source: B. Cohen-Wang et al., ContextCite: Attributing Model Generation to Context, NeurIPS 2024 (top-k
    log-probability drop).

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> top_k_drop(weights, lambda present: present.float() @ weights, [1, 2]).values
        tensor([[3., 4.]], dtype=torch.float64)
    """
    judged = Judged.of(attributions, game)
    if not isinstance(k, int | Sequence) or isinstance(k, str) or (isinstance(k, Sequence) and not k):
        raise InvalidValue(f"k must be a whole number, or a list of at least one; got {k!r}")
    numbers = [k] if isinstance(k, int) else list(k)
    for number in numbers:
        if positive("k", number) > judged.rows.shape[1]:
            raise InvalidValue(f"k must be at most the {judged.rows.shape[1]} features; got {number}")
    path = walked(judged.game, orders(judged.rows, tie_draws, seed), numbers, removing=True)
    values, stderr = mean_and_error(judged.everything()[:, None] - path.values)
    if isinstance(k, int):
        values, stderr = values[:, 0], None if stderr is None else stderr[:, 0]
    return Score("top-k drop", values, stderr, True, **judged.cost)


def _removing(mode: str) -> bool:
    if mode not in ("deletion", "insertion"):
        raise UnknownName("mode", mode, ("deletion", "insertion"))
    return mode == "deletion"


def _walk(judged: Judged, removing: bool, steps: int | None, draws: int, seed: int) -> Walked:
    counts = step_counts(judged.rows.shape[1], steps)
    return walked(judged.game, orders(judged.rows, draws, seed), counts, removing)


def _area(name: str, judged: Judged, path: Walked, normalize: bool, higher_is_better: bool) -> CurveScore:
    if normalize:
        path = Walked(path.fractions, normalized(path.values, judged.nothing(), judged.everything()))
    values, stderr = mean_and_error(path.areas())
    curve: Tensor = path.values.mean(0)
    return CurveScore(name, values, stderr, higher_is_better, **judged.cost, fractions=path.fractions, curve=curve)


def _aopc(
    name: str, attributions: Any, game: Any, fractions: Sequence[float], removing: bool, draws: int, seed: int
) -> Score:
    judged = Judged.of(attributions, game)
    counts = [0, *fraction_counts(judged.rows.shape[1], fractions)]
    path = walked(judged.game, orders(judged.rows, draws, seed), counts, removing)
    falls = judged.everything()[:, None] - path.values
    values, stderr = mean_and_error(falls.mean(-1))
    return Score(name, values, stderr, higher_is_better=removing, **judged.cost)
