"""Completeness: whether the attributions of an answer sum to the change they attribute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from llm_attr.core.path.walk import SMALL_CHANGE

LARGE_GAP = 0.05
"""Above this gap an explanation warns that it is incomplete."""


@dataclass(frozen=True)
class Completeness:
    """The sum of attributions, and the sum that an exact integral of the path would have.

    Attributes:
        total: The sum of the attributions, including tokens that belong to no unit.
        change: The quantity at the prompt minus the quantity at its baseline.
        gap: |total - change| / |change|, or relative to a thousandth of the quantity if the change is smaller.
        stderr: The standard error of the total, for random points.
        token_totals: The sum of the attributions of each answer token, if available.
        token_changes: The change of each answer token.
    """

    total: float
    change: float
    gap: float
    stderr: float | None = None
    token_totals: list[float] | None = None
    token_changes: list[float] | None = None

    @classmethod
    def of(cls, total: float, change: float, largest: float = 0.0, stderr: float | None = None) -> Completeness | None:
        """From the sum, the change and the larger endpoint; None if the gap is not finite."""
        scale = max(abs(change), SMALL_CHANGE * largest, 1e-12)
        gap = abs(total - change) / scale
        return cls(total, change, gap, stderr) if isfinite(gap) else None

    def less(self, other: Completeness) -> Completeness | None:
        """The completeness of a difference of two answers."""
        return self.of(self.total - other.total, self.change - other.change)

    def to_dict(self) -> dict[str, Any]:
        """For a result's provenance."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def warning(about: Mapping[str, Any]) -> str | None:
    """The warning that an explanation is incomplete, with a remedy; None if it is complete.

    Args:
        about: A result's provenance.
    """
    known = about.get("completeness")
    if known is None or known["gap"] <= LARGE_GAP:
        return None
    sums = f"the attributions sum to {known['total']:.3g}, the change is {known['change']:.3g}"
    if "stderr" in known:
        sums += f" (standard error of the sum: {known['stderr']:.2g})"
    gap = f"a gap of {known['gap']:.0%}"
    if known["gap"] > 1:
        gap = f"{abs(known['total'] - known['change']):.3g} apart, more than the change itself"
    remedy = _REMEDIES.get(str(about.get("method")).removeprefix("layer_"), "increase n_steps")
    return f"Incomplete: {sums}, {gap}; {remedy}."


def of_part(about: Mapping[str, Any], tokens: slice) -> dict[str, Any]:
    """A result's provenance for some tokens of its answer: without what only holds for the full answer."""
    of_answer = {"trust", "completeness", "convergence_delta", "token_convergence_delta"}
    kept = {name: value for name, value in about.items() if name not in of_answer}
    known = about.get("completeness", {})
    if "token_totals" in known:
        totals, changes = known["token_totals"][tokens], known["token_changes"][tokens]
        part = Completeness.of(sum(totals), sum(changes))
        if part is not None:
            kept["completeness"] = replace(part, token_totals=totals, token_changes=changes).to_dict()
    return kept


_REMEDIES = {
    "integrated_gradients": "until=0.01 takes as many steps as needed, and deep_lift is complete by construction",
    "gradient_shap": "increase n_samples, or use deep_lift, which is complete by construction",
    "noise_tunnel": "increase nt_samples",
    "deep_lift": "the model has an operation that its rules do not cover",
}
"""The remedy, by method."""
