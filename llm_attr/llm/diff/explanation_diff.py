"""The difference of two explanations: to read, draw and export."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.diff.pairs import paired
from llm_attr.llm.diff.unit_diff import Side, UnitDiff, unit_diffs
from llm_attr.llm.diff.verdict import verdict
from llm_attr.llm.results import export
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.labels import differences, quantity
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.viz.formatting import elide
from llm_attr.viz.text import diff as picture

SCHEMA = 1
"""The schema of `ExplanationDiff.to_dict`."""

_SHOWN = 80  # characters of what differs, in pictures


def diff(
    first: LLMAttributionResult,
    second: LLMAttributionResult,
    names: Sequence[str] = ("first", "second"),
    *,
    alpha: float = 0.05,
    least: float = 0.0,
) -> ExplanationDiff:
    """What changed between two explanations, and whether it is more than noise. Runs no model.

    For two models, precisions, answers, seeds or methods on one text, or two versions of a prompt. Each change is
    compared with its standard error `sqrt(e_1^2 + e_2^2)`, where `e^2 = sampling^2 + 2 noise^2` holds what the method
    says of its sample and what is known of the rounding of a score; the p-values hold for all units together (Holm).

    Args:
        first: An explanation. It is not modified.
        second: Another one of the same quantity, e.g. nats of log-probability.
        names: What to call them.
        alpha: The level below which a change is called significant.
        least: The size up to which changes do not matter, in nats or the unit of the scalar: it is tested whether a
            change is larger. Exact methods in fp32 have next to no noise, so that any edit changes every unit a little.

    Raises:
        InvalidType: an argument is of another type.
        InvalidValue: the quantities differ, the texts have no unit in common, or another argument cannot be used.
        NonFiniteValue: attributions are NaN or infinite.

    Example:
        >>> found = diff(explain(lm, prompt, target=answer), explain(other, prompt, target=answer))  # doctest: +SKIP
        >>> print(found.verdict)  # doctest: +SKIP
    """
    results = (first, second)
    for result in results:
        if not isinstance(result, ResultData):
            raise InvalidType(f"diff takes two LLMAttributionResults; got {result!r:.200}")
    called = _names(names)
    _check_level("alpha", alpha, 1.0)
    _check_level("least", least, math.inf)
    if not alpha:
        raise InvalidValue("alpha must be above 0; got 0")
    measures = [quantity(result) for result in results]
    if measures[0] != measures[1]:
        raise InvalidValue(f"values of {measures[0]!r} and {measures[1]!r} have no difference; explain one quantity")
    units = unit_diffs(results, paired(results, called), alpha, least)
    return ExplanationDiff(results, called, units, verdict(units, alpha, least, _unit_of(measures[0])), alpha, least)


@dataclass(frozen=True, eq=False)
class ExplanationDiff:
    """Two explanations unit by unit; made by `diff`.

    Attributes:
        results: Both results, as given.
        names: Their names.
        units: The change of each unit, in the order of the prompt.
        verdict: What changed, in words.
        alpha: The level of significance.
        least: The size up to which changes do not matter.
    """

    results: tuple[LLMAttributionResult, LLMAttributionResult]
    names: tuple[str, str]
    units: tuple[UnitDiff, ...]
    verdict: str
    alpha: float
    least: float = 0.0

    @property
    def changed(self) -> tuple[UnitDiff, ...]:
        """The units whose change is more than noise, largest change first."""
        return tuple(sorted((unit for unit in self.units if unit.significant), key=lambda unit: -abs(unit.change)))

    @property
    def differences(self) -> dict[str, tuple[str, str]]:
        """The aspects in which the results differ (model, precision, answer, ...), each with both texts."""
        found = {name: (texts[0], texts[1]) for name, texts in differences(self.results).items()}
        methods = tuple(str(result.provenance.get("method", "not known")) for result in self.results)
        return found if methods[0] == methods[1] else {"method": (methods[0], methods[1]), **found}

    def __repr__(self) -> str:
        return f"ExplanationDiff({len(self.changed)} of {len(self.units)} units changed)"

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and provenance in plain Python types."""
        return {
            "schema": SCHEMA,
            "names": list(self.names),
            "verdict": self.verdict,
            "alpha": self.alpha,
            "least": self.least,
            "quantity": quantity(self.results[0]),
            "differences": {name: list(texts) for name, texts in self.differences.items()},
            "units": [_plain(unit) for unit in self.units],
            "provenance": [result.provenance for result in self.results],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON, also written to `path` if given; NaN and infinity become null."""
        return export.to_json(self.to_dict(), path)

    def view(self) -> picture.DiffView:
        """The view that every picture of this diff is drawn from."""
        notes = [(f"different {name}", " → ".join(_short(text) for text in texts)) for name, texts in self._shown()]
        least = f" that it is larger than {self.least:g}" if self.least else ""
        notes.append(("noise", f"a change is marked where p < {self.alpha:g}{least}, for all units together (Holm)"))
        return picture.DiffView(
            title=f"{self.names[0]} → {self.names[1]}",
            verdict=self.verdict,
            names=self.names,
            value_name=quantity(self.results[0]),
            rows=tuple(_row(unit) for unit in self.units),
            least=self.least,
            notes=tuple(notes),
        )

    def show(self, width: int | None = None) -> None:
        """Prints the verdict and a table of the units, as wide as the terminal."""
        picture.show(self.view(), width=width)

    def render(self, width: int | None = None, colour: bool | None = None) -> str:
        """What `show` prints, as text."""
        return picture.render(self.view(), width=width, colour=colour)

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained HTML page, also written to `path` if given."""
        return export.written(picture.to_html(self.view()), path)

    def _repr_html_(self) -> str:
        return picture.fragment(self.view())

    def _shown(self) -> list[tuple[str, tuple[str, str]]]:
        return [(name, texts) for name, texts in self.differences.items() if name != "text around the units"]


def _check_level(name: str, value: float, end: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"{name} must be a number; got {value!r}")
    if not 0 <= value < end:
        raise InvalidValue(f"{name} must be {'between 0 and 1' if end == 1 else 'at least 0, and finite'}; got {value}")


def _names(names: Sequence[str]) -> tuple[str, str]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InvalidType(f"names must be two texts; got {names!r:.200}")
    if len(names) != 2 or names[0] == names[1] or not all(name.strip() for name in names):
        raise InvalidValue(f"names must be two different texts that are not empty; got {list(names)!r:.200}")
    return names[0], names[1]


def _unit_of(measure: str) -> str:
    return "nats" if "nats" in measure else f"({measure})"


def _short(text: str) -> str:
    return elide(text.strip(), _SHOWN) or "(empty)"


def _plain(unit: UnitDiff) -> dict[str, Any]:
    plain = asdict(unit)
    for name in ("first", "second"):
        if plain[name] is not None:
            plain[name]["units"] = list(plain[name]["units"])
    return plain


def _row(unit: UnitDiff) -> picture.DiffRow:
    return picture.DiffRow(
        text=unit.text,
        before=unit.first.text if unit.first and unit.status == "rewritten" else "",
        status=unit.status,
        values=(_value(unit.first), _value(unit.second)),
        shares=(_share(unit.first), _share(unit.second)),
        ranks=(_rank(unit.first), _rank(unit.second)),
        change=unit.change,
        error=unit.error,
        p_value=unit.p_value,
        significant=unit.significant,
    )


def _value(side: Side | None) -> float | None:
    return None if side is None else side.value


def _share(side: Side | None) -> float | None:
    return None if side is None else side.share


def _rank(side: Side | None) -> int | None:
    return None if side is None else side.rank
