"""Selecting units of a result by position, text, document or message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.results.data import ResultData
from llm_attr.viz.formatting import elide, unit_label

Unit: TypeAlias = int | str
"""A unit: its position, or a text that it contains."""

_SHOWN = 48  # characters of a unit in a message
_LISTED = 8


def selected(
    result: ResultData,
    unit: Unit | Sequence[Unit] | None,
    document: str | Sequence[str] | None,
    message: int | str | None,
) -> tuple[int, ...]:
    """The positions that one of the arguments selects, in ascending order.

    Raises:
        InvalidType: not exactly one argument is given, or it has another type.
        InvalidValue: nothing has this name, position or text, or several units have the text.
    """
    given = {"unit": unit, "document": document, "message": message}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InvalidType(f"give one of unit=, document= and message=; got {', '.join(named) or 'none'}")
    if unit is not None:
        several: list[Unit] = [unit] if isinstance(unit, int | str) else _listed("unit", unit)
        found = {_unit(result, each) for each in several}
    elif document is not None:
        found = {place for each in _listed("document", document) for place in _group(result, "document", each)}
    else:
        found = set(_group(result, "message", message))
    return tuple(sorted(found))


def _listed(name: str, given: object) -> list:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Sequence) or not given:
        raise InvalidType(f"{name} must be one or a sequence of them, not empty; got {given!r:.200}")
    return list(given)


def _unit(result: ResultData, unit: object) -> int:
    texts = result.input_tokens
    if isinstance(unit, bool) or not isinstance(unit, int | str):
        raise InvalidType(f"a unit is selected by its position or by a text in it; got {unit!r:.200}")
    if isinstance(unit, int):
        if not -len(texts) <= unit < len(texts):
            raise InvalidValue(f"unit must be from {-len(texts)} to {len(texts) - 1}; got {unit}")
        return unit % len(texts)
    if not unit.strip():
        raise InvalidValue("unit must be a text that holds more than white space")
    exact = [place for place, text in enumerate(texts) if text.strip() == unit.strip()]
    found = exact or [place for place, text in enumerate(texts) if unit.strip() in text]
    if len(found) != 1:
        shown = [f"{place}: {unit_label(elide(texts[place], _SHOWN))!r}" for place in found or range(len(texts))]
        more = f", and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
        what = f"{len(found)} units have the text" if found else "no unit has the text"
        raise InvalidValue(
            f"{what} {unit!r:.200}; {'they' if found else 'the units'} are {', '.join(shown[:_LISTED])}{more}"
        )
    return found[0]


def _group(result: ResultData, kind: str, name: object) -> range:
    """The units of a document, or of a message by role or by position."""
    groups = [group for group in result.groups if group.kind == kind]
    labels = [group.label for group in groups]
    if not groups:
        raise InvalidValue(f"this result has no {kind}s; select units with unit=, or explain a prompt of {kind}s")
    if isinstance(name, int) and not isinstance(name, bool) and kind == "message":
        if not -len(groups) <= name < len(groups):
            raise InvalidValue(f"message must be from {-len(groups)} to {len(groups) - 1}; got {name}")
        return range(groups[name].first, groups[name].stop)
    if not isinstance(name, str):
        raise InvalidType(f"{kind} must be a name{' or a position' if kind == 'message' else ''}; got {name!r:.200}")
    if labels.count(name) != 1:
        what = f"{labels.count(name)} {kind}s are called" if name in labels else f"no {kind} is called"
        hint = "; give its position" if kind == "message" and name in labels else ""
        raise InvalidValue(f"{what} {name!r:.200}{hint}; the {kind}s are {', '.join(map(repr, labels[:20]))}")
    group = groups[labels.index(name)]
    return range(group.first, group.stop)
