"""The assertion that an explanation has not changed since it was saved."""

from __future__ import annotations

from pathlib import Path

from llm_attr.errors import ExplanationChanged
from llm_attr.llm.diff.explanation_diff import ExplanationDiff, diff
from llm_attr.llm.results.result import LLMAttributionResult


def assert_unchanged(
    result: LLMAttributionResult,
    reference: LLMAttributionResult | str | Path,
    *,
    alpha: float = 0.05,
    least: float = 0.0,
) -> ExplanationDiff:
    """Asserts that no unit's attribution differs from a reference by more than noise; returns the difference.

    Args:
        result: The explanation of now.
        reference: An earlier one, or the folder to which `result.save` wrote it.
        alpha: The level below which a change is more than noise, for all units together.
        least: Changes up to this size pass, in nats or the unit of the scalar.

    Raises:
        ExplanationChanged: a unit changed (an AssertionError).
        BrokenFile: there is no saved result in the folder.
        InvalidValue: the two cannot be compared.

    Example:
        >>> assert_unchanged(result, "tests/explanations/refund", least=0.5)  # doctest: +SKIP
    """
    __tracebackhide__ = True
    before = LLMAttributionResult.load(reference) if isinstance(reference, str | Path) else reference
    found = diff(before, result, ("reference", "now"), alpha=alpha, least=least)
    if found.changed:
        raise ExplanationChanged(found.verdict, found)
    return found
