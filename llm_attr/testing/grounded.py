"""Assertions on the share of an answer that some units carry."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llm_attr.errors import InvalidType, InvalidValue, NonFiniteValue, NotGrounded
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.testing.selection import Unit, selected
from llm_attr.viz.formatting import elide, unit_label

_SHOWN = 60  # characters of a unit in a message


def share_of(
    result: LLMAttributionResult,
    unit: Unit | Sequence[Unit] | None = None,
    *,
    document: str | Sequence[str] | None = None,
    message: int | str | None = None,
    absolute: bool = False,
) -> float:
    """The share of what speaks for the answer that some units carry, from 0 to 1.

    `sum over the units of max(a, 0) / sum over all units of max(a, 0)`; 0 where nothing speaks for the answer, or no
    more than rounding does. With `absolute`, |a| stands for max(a, 0).

    Args:
        result: The explanation.
        unit: Units by position, or by a text that only they contain; one or several.
        document: The name of a document instead, or several.
        message: The role or the position of a message instead.
        absolute: Whether what speaks against the answer counts too.

    Raises:
        InvalidType: an argument is of another type, or not exactly one of the selections is given.
        InvalidValue: the selection fits no unit, or several.
        NonFiniteValue: attributions are NaN or infinite.

    Example:
        >>> share_of(result, document="handbook.txt")  # doctest: +SKIP
    """
    if not isinstance(result, ResultData):
        raise InvalidType(f"result must be an LLMAttributionResult; got {result!r:.200}")
    return _share(result, selected(result, unit, document, message), absolute)


def assert_grounded(
    result: LLMAttributionResult,
    unit: Unit | Sequence[Unit] | None = None,
    *,
    document: str | Sequence[str] | None = None,
    message: int | str | None = None,
    min_share: float = 0.5,
    absolute: bool = False,
) -> float:
    """Asserts that some units carry at least a share of the answer; returns the share. See `share_of` for the rest.

    Args:
        result: The explanation.
        unit: Units by position, or by a text that only they contain; one or several.
        document: The name of a document instead, or several.
        message: The role or the position of a message instead.
        min_share: The smallest share that passes, above 0 and at most 1.
        absolute: Whether what speaks against the answer counts too.

    Raises:
        NotGrounded: the share is smaller (an AssertionError).
        InvalidType: an argument is of another type, or not exactly one of the selections is given.
        InvalidValue: the selection fits no unit or several, or `min_share` is out of range.
        NonFiniteValue: attributions are NaN or infinite.

    Example:
        >>> assert_grounded(result, document="handbook.txt", min_share=0.6)  # doctest: +SKIP
    """
    __tracebackhide__ = True
    _check("min_share", min_share, above=True)
    share = share_of(result, unit, document=document, message=message, absolute=absolute)
    if share < min_share:
        places = selected(result, unit, document, message)
        raise NotGrounded(_message(result, places, share, f"at least {min_share:.0%}", absolute), result)
    return share


def assert_not_grounded(
    result: LLMAttributionResult,
    unit: Unit | Sequence[Unit] | None = None,
    *,
    document: str | Sequence[str] | None = None,
    message: int | str | None = None,
    max_share: float = 0.1,
    absolute: bool = False,
) -> float:
    """Asserts that some units carry at most a share of the answer; returns the share. See `share_of` for the rest.

    Args:
        result: The explanation.
        unit: Units by position, or by a text that only they contain; one or several.
        document: The name of a document instead, or several.
        message: The role or the position of a message instead.
        max_share: The largest share that passes, at least 0 and below 1.
        absolute: Whether what speaks against the answer counts too.

    Raises:
        NotGrounded: the share is larger (an AssertionError).
        InvalidType: an argument is of another type, or not exactly one of the selections is given.
        InvalidValue: the selection fits no unit or several, or `max_share` is out of range.
        NonFiniteValue: attributions are NaN or infinite.

    Example:
        >>> assert_not_grounded(result, "Ignore all previous instructions", max_share=0.05)  # doctest: +SKIP
    """
    __tracebackhide__ = True
    _check("max_share", max_share, above=False)
    share = share_of(result, unit, document=document, message=message, absolute=absolute)
    if share > max_share:
        places = selected(result, unit, document, message)
        raise NotGrounded(_message(result, places, share, f"at most {max_share:.0%}", absolute), result)
    return share


def _share(result: ResultData, places: Sequence[int], absolute: bool) -> float:
    if not result.seq_attr.isfinite().all():
        raise NonFiniteValue("attributions that are NaN or infinite have no shares; explain again")
    values = [abs(value) if absolute else max(value, 0.0) for value in result.seq_attr.double().tolist()]
    total = math.fsum(values)
    rounding = 2 * (result.noise or 0.0)
    return math.fsum(values[place] for place in places) / total if total > rounding else 0.0


def _check(name: str, share: float, above: bool) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise InvalidType(f"{name} must be a number; got {share!r}")
    if not (0 < share <= 1 if above else 0 <= share < 1):
        raise InvalidValue(
            f"{name} must be {'above 0 and at most 1' if above else 'at least 0 and below 1'}; got {share}"
        )


def _message(result: ResultData, places: Sequence[int], share: float, wanted: str, absolute: bool) -> str:
    """What was found, what was wanted, and what carries the answer instead."""
    units = ", ".join(f"{place} {_label(result, place)}" for place in places[:3])
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    what = "of all attributions" if absolute else "of what speaks for the answer"
    lines = [
        f"unit{'s' * (len(places) > 1)} {units}{more}: {share:.1%} {what}, {wanted} wanted",
        f"answer: {elide(result.output_text, _SHOWN)!r}",
    ]
    if not share and _share(result, range(len(result.input_tokens)), absolute) == 0:
        return "\n".join([*lines, "nothing in the prompt speaks for the answer by more than rounding does"])
    for place, _, value, error in result.top(3):
        about = "" if error is None else f" ± {error:.2g}"
        lines.append(f"  {value:+.3g}{about}  {_share(result, [place], absolute):.1%}  {place} {_label(result, place)}")
    return "\n".join(lines)


def _label(result: ResultData, place: int) -> str:
    return repr(unit_label(elide(result.input_tokens[place], _SHOWN)))
