"""What changed between two explanations, in words."""

from __future__ import annotations

from collections.abc import Sequence

from llm_attr.llm.diff.unit_diff import UnitDiff
from llm_attr.viz.formatting import elide, unit_label

_NAMED = 3  # units that are named
_SHOWN = 60  # characters of each


def verdict(units: Sequence[UnitDiff], alpha: float, least: float, measure: str) -> str:
    """One sentence on what is beyond the noise, and one on the strongest unit."""
    changed = sorted((unit for unit in units if unit.significant), key=lambda unit: -abs(unit.change))
    if not changed:
        return f"{_nothing(units, least, measure)}{_strongest(units)}"
    named = "; ".join(_named(unit, measure) for unit in changed[:_NAMED])
    more = f"; and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
    than = f"{least:g} {measure} beyond noise" if least else "noise"
    count = f"{len(changed)} of {len(units)} units changed by more than {than} (p < {alpha:g} for all together)"
    return f"{count}: {named}{more}.{_strongest(units)}"


def _nothing(units: Sequence[UnitDiff], least: float, measure: str) -> str:
    largest = max(units, key=lambda unit: abs(unit.change))
    edited = sum(unit.status != "same" for unit in units)
    texts = f"{edited} unit{'s' * (edited > 1)} with another text, but no" if edited else "No"
    error = f"{largest.error:.2g}" if largest.error < float("inf") else "unknown"
    beyond = f"that is clearly more than {least:g} {measure}" if least else "beyond the noise"
    return f"{texts} change {beyond}: the largest is {largest.change:+.2g} {measure}, with an error of {error}."


def _named(unit: UnitDiff, measure: str) -> str:
    text = repr(elide(unit_label(unit.text), _SHOWN))
    if unit.first is None or unit.second is None:
        return f"{text} {'came' if unit.first is None else 'went'} with {_value_of(unit):+.2f} {measure}"
    values = f"{unit.first.value:+.2f} to {unit.second.value:+.2f} {measure}"
    return f"{text}{' (rewritten)' if unit.status == 'rewritten' else ''} from {values}"


def _value_of(unit: UnitDiff) -> float:
    """The value of a unit that only one explanation has."""
    side = unit.first or unit.second
    return 0.0 if side is None else side.value


def _strongest(units: Sequence[UnitDiff]) -> str:
    first = next(unit for unit in units if unit.first and unit.first.rank == 1)
    second = next(unit for unit in units if unit.second and unit.second.rank == 1)
    if first is second:
        return ""
    if not (first.significant or second.significant):
        return " The strongest unit is another one, but neither changed by enough to tell."
    return f" The strongest unit is now {elide(unit_label(second.text), _SHOWN)!r}."
