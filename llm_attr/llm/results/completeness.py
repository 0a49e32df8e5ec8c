"""How far the attributions of an answer are from the change that they divide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

from llm_attr.core.path.walk import SMALL_CHANGE

LARGE_GAP = 0.05
"""From this gap on an explanation says that it is incomplete."""


@dataclass(frozen=True)
class Completeness:
    """What attributions sum to, and what they would sum to if the path were integrated exactly.

    Attributes:
        total: The sum of the attributions, with the tokens that belong to no unit.
        change: The quantity for the prompt less that for its baseline.
        gap: How far the two are apart, as a share of the change (or of a thousandth of the quantity, where the change
            is smaller).
        stderr: The standard error of the total, for random points.
        token_totals: What those of each token of the answer sum to, where there are such.
        token_changes: The change of each token.
    """

    total: float
    change: float
    gap: float
    stderr: float | None = None
    token_totals: list[float] | None = None
    token_changes: list[float] | None = None

    @classmethod
    def of(cls, total: float, change: float, largest: float = 0.0, stderr: float | None = None) -> Completeness | None:
        """From the sum, the change and the larger end; None where one of them is no finite number."""
        scale = max(abs(change), SMALL_CHANGE * largest, 1e-12)
        gap = abs(total - change) / scale
        return cls(total, change, gap, stderr) if isfinite(gap) else None

    def less(self, other: Completeness) -> Completeness | None:
        """That of a difference of two answers."""
        return self.of(self.total - other.total, self.change - other.change)

    def to_dict(self) -> dict[str, Any]:
        """For a result's provenance."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def warning(about: Mapping[str, Any]) -> str | None:
    """What a picture says first of an incomplete explanation, with the remedy; None of a complete one.

    Args:
        about: A result's provenance.
    """
    found = about.get("completeness")
    if found is None or found["gap"] <= LARGE_GAP:
        return None
    said = f"Incomplete: the attributions sum to {found['total']:.3g}, the change is {found['change']:.3g}"
    if "stderr" in found:
        said += f" (standard error of the sum: {found['stderr']:.2g})"
    far = f"a gap of {found['gap']:.0%}"
    if found["gap"] > 1:
        far = f"{abs(found['total'] - found['change']):.3g} apart, more than the change itself"
    remedy = _REMEDIES.get(str(about.get("method")).removeprefix("layer_"), "more n_steps come closer")
    return f"{said}, {far}; {remedy}."


def of_part(about: Mapping[str, Any], tokens: slice) -> dict[str, Any]:
    """A result's provenance for some tokens of its answer: without what is true of the whole answer alone."""
    whole = {"completeness", "convergence_delta", "token_convergence_delta"}
    found = {name: value for name, value in about.items() if name not in whole}
    known = about.get("completeness", {})
    if "token_totals" in known:
        totals, changes = known["token_totals"][tokens], known["token_changes"][tokens]
        part = Completeness.of(sum(totals), sum(changes))
        if part is not None:
            found["completeness"] = replace(part, token_totals=totals, token_changes=changes).to_dict()
    return found


_REMEDIES = {
    "integrated_gradients": "until=0.01 takes as many steps as it needs, and deep_lift is complete by its rules",
    "gradient_shap": "more n_samples come closer, and deep_lift is complete by its rules",
    "noise_tunnel": "more nt_samples come closer",
    "deep_lift": "an operation of the model is not followed by its rules",
}
"""What helps, by the method."""
