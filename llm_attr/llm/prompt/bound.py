"""A prompt bound to a model: its text, its tokens and its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from llm_attr.core.pickled import PickledWithout
from llm_attr.errors import EmptyPrompt, InvalidValue
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import special_id, special_ids
from llm_attr.llm.prompt.alignment import Alignment, align, first_character, owners
from llm_attr.llm.prompt.interpretable import InterpretableInput, TokenMap, check_width, token_id
from llm_attr.llm.prompt.units import SPLITTERS, Span
from llm_attr.llm.prompt.variant import Variant
from llm_attr.viz.text.groups import Group

Absence = Literal["delete", "replace", "mask"]

Owner = tuple[str, str, int]
"""Kind, label and number of the message, document or name that a unit belongs to; its units form a group."""


@dataclass(frozen=True)
class Scope:
    """A part of the text that is split into units: a document, a text of a message, or the entire text.

    Attributes:
        owner: Kind, label and number of the document or message.
        start: Its first character.
        end: One past its last.
        whole: Whether it is one unit even where the unit is a sentence or paragraph.
    """

    owner: Owner
    start: int
    end: int
    whole: bool = False

    def part_of(self, start: int, end: int) -> Span:
        """The part of a token that is in the scope."""
        return max(start, self.start), min(end, self.end)


class BoundPrompt(PickledWithout, InterpretableInput):
    """A prompt as one text and the spans of its units, ready for a model; made by `Prompt.bind`.

    Attributes:
        text: The full text that the model receives, template included.
        spans: The characters of each unit, in order; a character shared by tokens goes to the last of them.
        values: The text of each unit.
        contents: The user's characters: the text, or the content of each message.
        groups: The document, message or name of each unit.
        unit: The kind of unit.
        absence: What happens to an absent unit.
        changed: What the chat template left out or changed, a line per message.
        marks: Of a trace, what each unit is: role, message, step, name, and whether it is untrusted.

    A pickle does not include the model: a loaded prompt keeps its texts and units and must be bound again for the rest.
    """

    shared = ("_language_model",)

    def __init__(
        self,
        language_model: LanguageModel,
        text: str,
        *,
        contents: Sequence[Span],
        scopes: Sequence[Scope],
        unit: str,
        spans: Sequence[tuple[str, Span]] | None = None,
        pinned: Sequence[Span] = (),
        absence: Absence = "delete",
        replacement: int | str | None = None,
        special_tokens: bool = True,
        changed: Sequence[str] = (),
        marks: Mapping[Owner, Mapping[str, Any]] | None = None,
    ) -> None:
        self.text, self.unit, self.absence, self.changed = text, unit, absence, list(changed)
        self._language_model: LanguageModel | None = language_model
        self.contents, self._scopes = list(contents), list(scopes)
        self._special_tokens, self._pinned = special_tokens, list(pinned)
        self._replacement = self._replacing(replacement) if absence == "replace" else None
        if absence == "mask" and not language_model.takes_mask:
            raise InvalidValue(
                f"absence='mask' needs a model whose forward takes an attention_mask, which "
                f"{language_model.name} does not; use absence='delete' or absence='replace'"
            )
        units = (
            [(span, self._owner_of_span(span, name)) for name, span in spans] if spans is not None else self._units()
        )
        if not units:
            raise EmptyPrompt(f"the prompt holds no {unit} to attribute to")
        self.spans: list[Span] = [span for span, _ in units]
        self.values = [text[start:end] for start, end in self.spans]
        self.groups = _groups([group for _, group in units])
        self.marks = [] if marks is None else [marks.get(owner, {}) for _, owner in units]

    @property
    def _lm(self) -> LanguageModel:
        if self._language_model is None:
            raise InvalidValue("a prompt loaded from a pickle has no model; bind it again: Prompt(...).bind(lm)")
        return self._language_model

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The documents, messages or text that are split into units, in order."""
        return tuple(self._scopes)

    def about(self) -> dict[str, Any]:
        """See `InterpretableInput.about`."""
        changes = {"template_changes": self.changed} if self.changed else {}
        template = {"template_spans": self._template_spans} if self._template_spans else {}
        marks = {name: [mark.get(name) for mark in self.marks] for name in self.marks[0]} if self.marks else {}
        return {"unit": self.unit} | template | changes | ({"trace": marks} if marks else {})

    @property
    def _template_spans(self) -> list[list[int]]:
        """The characters that the chat template wrote: those outside the user's."""
        ends = [0, *(end for _, end in self.contents)]
        starts = [*(start for start, _ in self.contents), len(self.text)]
        return [[end, start] for end, start in zip(ends, starts, strict=True) if end < start]

    @property
    def context(self) -> list[str]:
        """The text before, between and after the units: `units + 1` pieces."""
        ends = [0, *(end for _, end in self.spans)]
        starts = [*(start for start, _ in self.spans), len(self.text)]
        return [self.text[end : max(start, end)] for end, start in zip(ends, starts, strict=True)]

    def to_tensor(self) -> Tensor:
        """`(1, units)` of ones."""
        return torch.ones(1, len(self.spans), dtype=torch.float32, device="cpu")

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Token ids `(1, tokens)` without the absent units; for their positions see `variant`."""
        present = [True] * len(self.spans)
        if perturbed_tensor is not None:
            check_width(perturbed_tensor, len(self.spans))
            present = (perturbed_tensor[0] != 0).tolist()
        return torch.tensor([self.variant(present).tokens], dtype=torch.long, device="cpu")

    def placed(self, language_model: LanguageModel) -> TokenMap:
        """The tokens of the full prompt and the unit of each.

        A baseline replaces all of the user's content that is not pinned, whatever the units are, so that attributions
        by different units have the same sum.
        """
        spans = self._alignment.spans
        moving = tuple(_touches(span, self.contents) and not _touches(span, self._pinned) for span in spans)
        return TokenMap(self._alignment.ids, tuple(self._owners), self._replacement, moving)

    def variant(self, present: Sequence[bool]) -> Variant:
        """The tokens and positions of the prompt with only these units present."""
        if self.absence == "delete" and self.unit != "token":
            return Variant.plain(self._lm.encode(self.without(present), special_tokens=self._special_tokens))
        here = [owner < 0 or present[owner] for owner in self._owners]
        ids = self._alignment.ids
        if self._replacement is not None:
            return Variant.plain([token if kept else self._replacement for token, kept in zip(ids, here, strict=True)])
        kept = [place for place, is_here in enumerate(here) if is_here]
        tokens = tuple(ids[place] for place in kept)
        closed = self.absence == "delete" or len(kept) == len(ids)
        return Variant.plain(tokens) if closed else Variant(tokens, tuple(kept), len(ids))

    def without(self, present: Sequence[bool]) -> str:
        """The text without the absent units and the whitespace that goes with them."""
        pieces, after = [], 0
        for start, end in self.contents:
            inside = [i for i, span in enumerate(self.spans) if start <= span[0] and span[1] <= end]
            pieces += [self.text[after:start], self._rest(start, end, inside, present)]
            after = end
        return "".join([*pieces, self.text[after:]])

    def _rest(self, start: int, end: int, units: Sequence[int], present: Sequence[bool]) -> str:
        """What remains of one content."""
        ends = [self.spans[i][1] for i in units]
        starts = [*(self.spans[i][0] for i in units), end]
        rest = self.text[start : starts[0]]
        for unit, unit_end, following in zip(units, ends, starts[1:], strict=True):
            gap = self.text[unit_end:following]
            rest = rest + self.values[unit] + gap if present[unit] else _closed(rest, gap, last=following == end)
        return rest

    def _units(self) -> list[tuple[Span, Owner]]:
        if self.unit == "token":
            scopes = [(span, self._scope_of_token(span)) for span in self._alignment.spans]
            return _disjoint([(scope.part_of(*span), scope.owner) for span, scope in scopes if scope is not None])
        units = []
        for scope in self._scopes:
            part = self.text[scope.start : scope.end]
            entire = [(0, len(part))] if part.strip() else []
            is_whole = self.unit in ("document", "message", "step") or (scope.whole and self.unit != "word")
            spans = entire if is_whole else SPLITTERS[self.unit](part)
            units += [((scope.start + a, scope.start + b), scope.owner) for a, b in spans]
        return units

    def ended(self, ids: Sequence[int]) -> int:
        """How many tokens of an answer come before the special tokens that end it."""
        special, count = special_ids(self._lm.tokenizer), len(ids)
        while count and ids[count - 1] in special:
            count -= 1
        return count

    @cached_property
    def _alignment(self) -> Alignment:
        return align(self._lm.tokenizer, self.text, special_tokens=self._special_tokens)

    @cached_property
    def _owners(self) -> list[int]:
        """The unit that each token belongs to, or -1."""
        if self.unit == "token":
            numbers = iter(range(len(self.spans)))
            return [-1 if self._scope_of_token(span) is None else next(numbers) for span in self._alignment.spans]
        return owners(self.text, self._alignment.spans, self.spans)

    def _scope_of_token(self, span: Span) -> Scope | None:
        first = first_character(self.text, *span)
        first = span[0] if first is None else first
        return next((s for s in self._scopes if span[0] < span[1] and s.start <= first < s.end), None)

    def _owner_of_span(self, span: Span, name: str) -> Owner:
        if name:
            return "span", name, 0
        return next((s.owner for s in self._scopes if s.start <= span[0] < s.end), ("text", "", 0))

    def _replacing(self, replacement: int | str | None) -> int:
        if replacement is not None:
            return token_id(self._lm.tokenizer, replacement)
        token = special_id(self._lm.tokenizer, "pad", "eos")
        if token is not None:
            return token
        raise InvalidValue(
            f"the tokenizer of {self._lm.name} has neither a pad nor an EOS token; pass the token that stands for "
            "absent ones as replacement=..."
        )


def _closed(before: str, after: str, *, last: bool) -> str:
    """Closes the gap of a deleted unit, keeping the whitespace with more line breaks, and none at either end."""
    if last and not after.strip():
        return (before.rstrip() or before) + after
    if not before.strip():
        return before + after.lstrip()
    left, right = before[len(before.rstrip()) :], after[: len(after) - len(after.lstrip())]
    return before.rstrip() + max(left, right, key=_width) + after.lstrip()


def _width(space: str) -> tuple[int, bool]:
    return space.count("\n"), bool(space)


def _disjoint(units: list[tuple[Span, Owner]]) -> list[tuple[Span, Owner]]:
    """Units without overlaps: a character shared by tokens goes to the last of them."""
    following = [*(span[0] for span, _ in units[1:]), None]
    return [
        ((start, end if after is None else min(end, max(start, after))), owner)
        for ((start, end), owner), after in zip(units, following, strict=True)
    ]


def _touches(span: Span, others: Sequence[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def _groups(owners: Sequence[Owner]) -> list[Group]:
    """Runs of units with the same owner; units of a plain text have no group."""
    edges = [i for i, owner in enumerate(owners) if i == 0 or owner != owners[i - 1]]
    runs = [(*owners[first], first, stop) for first, stop in pairwise([*edges, len(owners)])]
    return [Group(label, kind, first, stop) for kind, label, _, first, stop in runs if kind != "text"]
