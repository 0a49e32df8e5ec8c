"""Units of two explanations side by side: of one text as `compare` aligns them, of two versions by sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby

from llm_attr.errors import InvalidValue
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.unit_alignment import CommonUnits

_ALIKE = 0.5
"""From this share of common words on, a unit that stands where another one stood is taken for its new version."""


@dataclass(frozen=True)
class Pair:
    """Units of both explanations that stand for each other; of a unit in only one, the other side is empty.

    Attributes:
        first: The positions of the units of the first explanation.
        second: Those of the second.
        texts: The text on each side; None where there is none.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    texts: tuple[str | None, str | None]

    @property
    def status(self) -> str:
        """`same`, `rewritten`, `only_first` or `only_second`."""
        if not self.second:
            return "only_first"
        if not self.first:
            return "only_second"
        one, other = (_letters(text or "") for text in self.texts)
        return "same" if one == other else "rewritten"


def paired(results: Sequence[ResultData], names: Sequence[str]) -> tuple[Pair, ...]:
    """The units of two results, in the order of the prompt.

    Results for the same text may have other units each: those of the finer one are summed. Results for two versions of
    a text have units of one kind; each version of a changed unit is paired with the other if they share words.

    Raises:
        InvalidValue: a result has no units, or the texts have no unit in common.
    """
    first, second = results
    letters = [[_letters(text) for text in result.input_tokens] for result in results]
    if not all(letters) or "".join(letters[0]) == "".join(letters[1]):
        units = CommonUnits.of(results, names)
        members = [_members(owner, len(units.texts)) for owner in units.owners]
        return tuple(Pair(a, b, (text, text)) for a, b, text in zip(*members, units.texts, strict=True))
    matcher = SequenceMatcher(None, letters[0], letters[1], autojunk=False)
    found = tuple(pair for code in matcher.get_opcodes() for pair in _of_block(first, second, code))
    if not any(pair.first and pair.second for pair in found):
        raise InvalidValue(
            f"{names[0]!r} and {names[1]!r} have no unit in common, so there is no difference to speak of; explain two "
            "versions of one prompt by the same kind of unit"
        )
    return found


def _letters(text: str) -> str:
    return "".join(text.split())


def _members(owner: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The positions that belong to each common unit."""
    runs = {key: tuple(run) for key, run in groupby(range(len(owner)), key=owner.__getitem__)}
    return [runs.get(unit, ()) for unit in range(count)]


def _of_block(first: ResultData, second: ResultData, code: tuple[str, int, int, int, int]) -> Iterator[Pair]:
    """The pairs of a run of units that are equal, replaced, deleted or inserted."""
    kind, start, stop, other, end = code
    texts = first.input_tokens, second.input_tokens
    if kind == "equal":
        for a, b in zip(range(start, stop), range(other, end), strict=True):
            yield Pair((a,), (b,), (texts[0][a], texts[1][b]))
        return
    for a in range(start, stop):
        twin = next((b for b in range(other, end) if _alike(texts[0][a], texts[1][b])), None)
        for b in range(other, other if twin is None else twin):
            yield Pair((), (b,), (None, texts[1][b]))
        yield Pair((a,), () if twin is None else (twin,), (texts[0][a], None if twin is None else texts[1][twin]))
        other = other if twin is None else twin + 1
    for b in range(other, end):
        yield Pair((), (b,), (None, texts[1][b]))


def _alike(one: str, other: str) -> bool:
    return SequenceMatcher(None, one.split(), other.split(), autojunk=False).ratio() >= _ALIKE
