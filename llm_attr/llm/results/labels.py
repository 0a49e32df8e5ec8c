"""Labels of results: in which aspects explanations of the same text differ, and names that distinguish them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_attr.llm.target.scalar import UNITS

if TYPE_CHECKING:
    from llm_attr.llm.results.data import ResultData
    from llm_attr.llm.results.unit_alignment import CommonUnits

Aspect: TypeAlias = "Callable[[ResultData], str]"
"""A label for one aspect of a result; "" for none."""

_SHOWN = 32  # characters of an answer or a foil in a name


def distinct_names(results: Sequence[ResultData]) -> list[str]:
    """A name for each result: its method, then what distinguishes it from others of that method, finally a number.

    Attributes shared by a majority of results are omitted.
    """
    names = [method(result) for result in results]
    for aspect in (*_ASPECTS, *_of_options(results), *_ASPECTS_OF_COST):
        labels = [aspect(result) for result in results]
        for name in {name for name in names if names.count(name) > 1}:
            same = [place for place, other in enumerate(names) if other == name]
            if len({labels[place] for place in same}) > 1:
                for place in same:
                    usual = 2 * labels.count(labels[place]) > len(labels)
                    names[place] = name if usual or not labels[place] else f"{name}, {labels[place]}"
    seen: dict[str, int] = {}
    numbered = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        numbered.append(f"{name} ({seen[name]})" if names.count(name) > 1 else name)
    return numbered


def differences(results: Sequence[ResultData], units: CommonUnits | None = None) -> dict[str, list[str]]:
    """The aspects other than the method in which results differ, each with a text per result.

    Args:
        results: The results.
        units: Their common units, to say how their own are summed; None: units are left out.
    """
    texts = {name: [aspect(result) for result in results] for name, aspect in _DIFFERENCES.items()}
    if units is not None:
        texts["units"] = [_units(result, units, place) for place, result in enumerate(results)]
    return {name: each for name, each in texts.items() if len(set(each)) > 1}


def method(result: ResultData) -> str:
    """The display name of a result's method."""
    return str(result.provenance.get("method", "attribution")).replace("_", " ")


def quantity(result: ResultData) -> str:
    """What the attributions measure, with the unit."""
    scalar = str(result.provenance.get("attr_target", "log_prob"))
    return f"value of {result.provenance.get('function')}" if scalar == "callable" else UNITS.get(scalar, scalar)


def _field(name: str, form: str = "{}", default: str = "") -> Aspect:
    """An aspect that is a field of the provenance."""
    return lambda result: form.format(result.provenance[name]) if name in result.provenance else default


def _answer(result: ResultData) -> str:
    return repr(_short(result.output_text.strip()))


def _foil(result: ResultData) -> str:
    return f"against {_short(str(result.provenance['foil']).strip())!r}" if "foil" in result.provenance else ""


def _scalar(result: ResultData) -> str:
    scalar = str(result.provenance.get("attr_target", "log_prob"))
    if scalar == "callable":
        return f"of {result.provenance.get('function')}"
    return "" if scalar in ("log_prob", "contrast") else scalar


def _part(result: ResultData) -> str:
    return f"part {_short(result.output_text.strip())!r}" if result.region else ""


def _of_options(results: Sequence[ResultData]) -> list[Aspect]:
    """An aspect for each method option that was set."""

    def aspect(name: str) -> Aspect:
        return lambda result: f"{name} {_short(str(_options(result)[name]))}" if name in _options(result) else ""

    return [aspect(name) for name in sorted({name for result in results for name in _options(result)})]


def _options(result: ResultData) -> Mapping[str, Any]:
    own = {name: result.provenance[name] for name in ("layer",) if name in result.provenance}
    return {**own, **result.provenance.get("options", {}), **({} if result.table is None else result.table.options)}


_ASPECTS: tuple[Aspect, ...] = (
    *(_field("model"), _foil, _scalar, _part, _answer),
    *(_field("unit", "by {}"), _field("dtype")),
)
_ASPECTS_OF_COST: tuple[Aspect, ...] = (_field("variants", "{} variants"), _field("passes", "{} passes"))


def _around(result: ResultData) -> str:
    """The text outside the units, without white space."""
    return "not known" if result.context is None else "".join("".join(result.context).split())


_DIFFERENCES: dict[str, Aspect] = {
    "model": _field("model", default="not known"),
    "precision": _field("dtype", default="not known"),
    "answer": lambda result: result.output_text,
    "foil": _field("foil", default="none"),
    "quantity": quantity,
    "text around the units": _around,
}


def _units(result: ResultData, units: CommonUnits, place: int) -> str:
    own, kind = len(result.input_tokens), str(result.provenance.get("unit", "unit"))
    summed = "" if own == len(units.texts) else f", summed to {len(units.texts)}"
    return f"{own} {kind}{'s' * (own != 1)}{summed}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1].rstrip() + "…"
