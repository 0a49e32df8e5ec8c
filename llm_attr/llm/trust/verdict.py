"""The verdict of a trust report in words."""

from __future__ import annotations

from llm_attr.llm.trust.evidence import Subject
from llm_attr.llm.trust.permutations import LEAST_UNSEEN
from llm_attr.llm.trust.report import TrustReport

LOW_STABILITY = 0.8
"""Below this share of the strongest units that stay, the verdict says so."""

MOST_GROUPS = 3
"""Redundant groups that are named."""


def verdict(report: TrustReport, subject: Subject) -> str:
    """One or two sentences: what was found against chance first, then what else a reader must know."""
    return " ".join([_against_chance(report, subject), *_reservations(report)])


def _against_chance(report: TrustReport, subject: Subject) -> str:
    if report.p_value is None:
        return f"Not judged: {_why_not(report, subject)}."
    found = f"p = {_shown(report.p_value)} over {report.unseen} unseen coalitions"
    if report.lds is not None and report.lds_interval is not None:
        low, high = report.lds_interval
        found += f", LDS {report.lds:.2f} [{low:.2f}, {high:.2f}]"
    if report.better_than_chance:
        return f"Better than chance: {found}."
    if report.better_than_chance is False:
        return f"No better than chance: {found}."
    return f"Too little to tell it from chance: {found}; a larger budget, or more units, may tell."


def _why_not(report: TrustReport, subject: Subject) -> str:
    if subject.features < 2:
        return "one unit has no order"
    if report.unseen >= LEAST_UNSEEN:
        return "the values differ by no more than rounding does"
    if subject.game is None:
        return "there is no model to evaluate coalitions that the explanation has not seen"
    return f"the budget left {report.unseen} unseen coalitions, and {LEAST_UNSEEN} are needed; give trust(budget=32)"


def _reservations(report: TrustReport) -> list[str]:
    found = []
    if report.redundant:
        groups = "; ".join(" and ".join(str(unit + 1) for unit in group) for group in report.redundant[:MOST_GROUPS])
        found.append(f"Redundant: units {groups} matter only together.")
    if report.stability is not None and report.stability < LOW_STABILITY:
        found.append(f"The strongest units change with the sample: {report.stability:.0%} of them stay.")
    return found


def _shown(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.1g}"
