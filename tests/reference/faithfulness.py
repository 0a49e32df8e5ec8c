"""The metrics of attributions again, slow and plain: one coalition at a time, from the equations of the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, permutations
from math import ceil

Value = Callable[[set[int]], float]
"""The value of a model when only these features are present."""


def infidelity(
    model: Callable[[list[float]], float],
    x: Sequence[float],
    attribution: Sequence[float],
    perturbations: Sequence[Sequence[float]],
) -> float:
    """Yeh et al. 2019, definition 2.1, over given perturbations."""
    total = 0.0
    for perturbation in perturbations:
        predicted = sum(i * a for i, a in zip(perturbation, attribution, strict=True))
        change = model(list(x)) - model([value - i for value, i in zip(x, perturbation, strict=True)])
        total += (predicted - change) ** 2
    return total / len(perturbations)


def sensitivity(
    explain: Callable[[list[float]], list[float]], x: Sequence[float], moved: Sequence[Sequence[float]]
) -> float:
    """Yeh et al. 2019 (max-sensitivity), relative to the norm of the explanation."""
    first = explain(list(x))
    norm = sum(a * a for a in first) ** 0.5 or 1.0
    far = [sum((a - b) ** 2 for a, b in zip(explain(list(y)), first, strict=True)) ** 0.5 for y in moved]
    return max(far) / norm


def ranked(attribution: Sequence[float]) -> list[int]:
    return sorted(range(len(attribution)), key=lambda i: -attribution[i])


def curve(value: Value, order: Sequence[int], removing: bool) -> list[float]:
    """Petsiuk et al. 2018: one feature at a time."""
    n = len(order)
    return [value(set(order[k:]) if removing else set(order[:k])) for k in range(n + 1)]


def area(values: Sequence[float]) -> float:
    return sum((a + b) / 2 for a, b in pairwise(values)) / (len(values) - 1)


def response(value: Value, order: Sequence[int], removing: bool) -> list[float]:
    """The curve from 0 without features to 1 with all of them."""
    n = len(order)
    low, high = value(set()), value(set(range(n)))
    return [min(1.0, max(0.0, (v - low) / (high - low))) for v in curve(value, order, removing)]


def mas(value: Value, attribution: Sequence[float], removing: bool) -> float:
    """Walker et al. 2024: the response with a penalty for its distance from the attribution that is present."""
    order = ranked(attribution)
    positive = [max(0.0, a) for a in attribution]
    if not sum(positive):
        positive = [1.0] * len(attribution)
    aligned = []
    for k, r in enumerate(response(value, order, removing)):
        share = sum(positive[i] for i in order[:k]) / sum(positive)
        penalty = abs(r - (1 - share if removing else share))
        aligned.append(min(1.0, max(0.0, r + penalty if removing else r - penalty)))
    return area(aligned)


def aopc(value: Value, attribution: Sequence[float], fractions: Sequence[float], removing: bool) -> float:
    """DeYoung et al. 2020: the falls, averaged over the bins and the empty rationale."""
    n, order = len(attribution), ranked(attribution)
    full = value(set(range(n)))
    falls = []
    for fraction in (0.0, *fractions):
        count = ceil(round(fraction * n, 9))
        falls.append(full - value(set(order[count:]) if removing else set(order[:count])))
    return sum(falls) / (len(fractions) + 1)


def drop(value: Value, attribution: Sequence[float], k: int) -> float:
    """Cohen-Wang et al. 2024: the top-k drop."""
    order = ranked(attribution)
    return value(set(order)) - value(set(order[k:]))


def ranks(values: Sequence[float]) -> list[float]:
    return [sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    product = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    scale = (sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b)) ** 0.5
    return product / scale if scale else 0.0


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall 1945, tau-b, pair by pair."""

    def sign(value: float) -> int:
        return (value > 0) - (value < 0)

    n = len(first)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    a = [sign(first[i] - first[j]) for i, j in pairs]
    b = [sign(second[i] - second[j]) for i, j in pairs]
    scale = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale else 0.0


def lds(value: Value, attribution: Sequence[float], sets: Sequence[set[int]]) -> float:
    """Park et al. 2023."""
    return spearman([value(kept) for kept in sets], [sum(attribution[i] for i in kept) for kept in sets])


def monotonicity(value: Value, attribution: Sequence[float]) -> float:
    """Nguyen and Martínez 2020: attributions against the changes of single features."""
    everything = set(range(len(attribution)))
    changes = [abs(value(everything) - value(everything - {i})) for i in everything]
    return spearman([abs(a) for a in attribution], changes)


def gini(values: Sequence[float]) -> float:
    """Hurley and Rickard 2009: the mean absolute difference over twice the mean."""
    sizes = [abs(v) for v in values]
    n, total = len(sizes), sum(sizes)
    return sum(abs(a - b) for a in sizes for b in sizes) / (2 * n * total) if total else 0.0


def recovery(attribution: Sequence[float], relevant: set[int], k: int) -> float:
    """The mean over all orders of the features in which ties are broken either way."""
    shares = []
    for shuffled in permutations(range(len(attribution))):
        order = sorted(shuffled, key=lambda i: -attribution[i])
        shares.append(len(set(order[:k]) & relevant) / min(k, len(relevant)))
    return sum(shares) / len(shares)


def over_ties(measure: Callable[[list[int]], float], attribution: Sequence[float]) -> float:
    """The mean of a measure of an order over all orders in which ties are broken either way."""
    orders = [sorted(each, key=lambda i: -attribution[i]) for each in permutations(range(len(attribution)))]
    return sum(map(measure, orders)) / len(orders)


def soft(value: Value, keep: Sequence[float], removing: bool) -> float:
    """Zhao and Aletras 2023, normalised, over every subset instead of a sample of them."""
    n = len(keep)
    full, empty = value(set(range(n))), value(set())
    expected = 0.0
    for code in range(2**n):
        kept = {i for i in range(n) if code >> i & 1}
        chance = 1.0
        for i in range(n):
            chance *= keep[i] if i in kept else 1 - keep[i]
        expected += chance * max(0.0, full - value(kept))
    relative = expected / (full - empty)
    return relative if removing else 1 - relative


def scaled_to_mean(weights: Sequence[float], mean: float) -> list[float]:
    """Probabilities `min(1, factor * weight)` with this mean, the factor by bisection; the rest evenly to zeros."""
    n = len(weights)
    above = [w > 0 for w in weights]
    if mean * n >= sum(above):
        rest = (mean * n - sum(above)) / max(1, n - sum(above))
        return [1.0 if up else rest for up in above]
    low, high = 0.0, 1e9
    for _ in range(200):
        factor = (low + high) / 2
        low, high = (factor, high) if sum(min(1.0, factor * w) for w in weights) < mean * n else (low, factor)
    return [min(1.0, low * w) for w in weights]
