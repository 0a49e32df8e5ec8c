"""How a language model is differentiated for several tokens: in one backward pass, in one for each, or forward.

Forward mode takes a row of derivatives for each unit of the prompt in place of a pass for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.jacobian import BatchedJacobian, Jacobian, directional, lacks_a_rule, outputs_that_fit
from llm_attr.core.parallel.sharing import agreed, share_rows
from llm_attr.core.path.walk import Quadrature
from llm_attr.errors import UnsupportedMethod
from llm_attr.llm.gradients.answer_score import AnswerScore, AnswerScores, ContrastScore, Entries
from llm_attr.llm.gradients.checkpointing import is_short_of_memory
from llm_attr.llm.gradients.explained import Units
from llm_attr.llm.gradients.methods import MethodCall
from llm_attr.llm.gradients.passages import Passage, group_size, passages_of
from llm_attr.llm.model.attention import Setting, setting
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import attention_bytes, free_for, heads_and_widest, row_bytes
from llm_attr.llm.model.speed import ROW_COST
from llm_attr.typing import Tensors

LARGE_ATTENTION = 1.5
"""The size of the attention weights relative to a layer's widest activation above which batching is slower."""

_unbatched: WeakKeyDictionary[Any, set[Setting]] = WeakKeyDictionary()
"""The settings in which a model has an operation whose backward pass cannot be batched."""

_forward_mode: WeakKeyDictionary[Any, dict[Setting, bool]] = WeakKeyDictionary()
"""Whether all operations of a model have a derivative in a direction, by its settings, as far as that has come up."""


def takes_batches(language_model: LanguageModel) -> bool:
    """Whether every operation of a model that was met, as it is configured now, can be batched."""
    return setting(language_model) not in _unbatched.get(language_model.model, ())


def attention_share(language_model: LanguageModel, positions: int) -> float:
    """The size of a layer's attention weights relative to its widest activation."""
    heads, widest = heads_and_widest(language_model)
    return heads * positions / widest


def jacobian_of(
    language_model: LanguageModel, positions: int, count: Callable[[int], None], batched: bool, plain: bool
) -> Jacobian:
    """How several numbers of an answer are differentiated.

    Args:
        language_model: Model and tokenizer.
        positions: How many positions a pass has.
        count: Called with the number of derivatives that were taken.
        batched: Whether they may share a backward pass, as by rules and with checkpointing they must not.
        plain: Whether every operation is the model's own, so that it is remembered if one cannot be batched.
    """
    small = attention_share(language_model, positions) <= LARGE_ATTENTION
    if not (batched and small and takes_batches(language_model)):
        return Jacobian(count)
    known = _unbatched.setdefault(language_model.model, set()) if plain else set[Setting]()
    now = setting(language_model)
    return BatchedJacobian(
        count=count,
        free=partial(free_for, language_model),
        row_bytes=row_bytes(language_model, positions),
        kept_bytes=attention_bytes(language_model, positions),
        refused=lambda: known.add(now),
    )


class NoRule(Exception):
    """An operation has no derivative in a direction, or none in several at a time."""


def has_forward_mode(language_model: LanguageModel) -> bool | None:
    """Whether all operations of a model, as it is configured now, have a derivative in a direction.

    None: that has not come up.
    """
    return _forward_mode.get(language_model.model, {}).get(setting(language_model))


@contextmanager
def _noting_forward_mode(language_model: LanguageModel | None) -> Iterator[None]:
    """Remembers whether what is done inside with a model in forward mode worked; None: nothing is done with any.

    Raises:
        NoRule: it did not: an operation has no derivative in a direction, or none in several at a time.
    """

    def note(works: bool) -> None:
        if language_model is not None:
            _forward_mode.setdefault(language_model.model, {})[setting(language_model)] = works

    try:
        yield
    except (RuntimeError, UserWarning) as error:
        if not lacks_a_rule(error):
            raise
        note(False)
        raise NoRule("an operation of the model has no forward mode") from error
    note(True)


def entry_rows(entries: Entries, start: Tensors, end: Tensors, units: Units, rule: Quadrature) -> Tensor:
    """`(entries, units)`: the mean derivative of each entry, along the part of `end - start` that a unit has.

    `sum_k w_k d/dh entry(start + a_k (end - start) + h (end - start)_unit)`, in at least fp32.

    Args:
        entries: Numbers of an answer.
        start: Activations at the baseline, `(1, positions, *features)` each.
        end: Those of the prompt.
        units: The unit of each position.
        rule: Points and weights.

    Raises:
        NoRule: an operation of the model has no forward mode.
    """
    score, model = entries.score, entries.score.language_model
    together = outputs_that_fit(free_for(model), row_bytes(model, len(score.passage.ids)))
    count = len(rule.alphas) * units.count
    evaluator = Evaluator("forward-mode derivatives", count, device=end[0].device)

    def add(totals: Tensor, first: int, stop: int) -> None:
        for at in range(first // units.count, (stop - 1) // units.count + 1):
            begin = at * units.count
            chosen = torch.arange(max(first, begin), min(stop, begin + units.count), device="cpu") - begin
            mine = units.of_position[None] == chosen[:, None]
            points, directions = [], []
            for low, high in zip(start, end, strict=True):
                points.append(low + float(rule.alphas[at]) * (high - low))
                own = mine.to(low).view(len(chosen), 1, -1, *(1,) * (low.dim() - 2))
                directions.append((high - low)[None] * own)
            found = directional(entries, tuple(points), tuple(directions))[:, 0].float().cpu()
            totals[:, chosen] += float(rule.weights[at]) * found.T
            score.count_forward_mode(len(chosen))
            evaluator.advance(len(chosen))

    def total(numbers: Tensor) -> Tensor:
        totals, at = torch.zeros(len(entries), units.count, dtype=torch.float32, device="cpu"), int(numbers[0])
        chunk = min(units.count, together)
        for _ in evaluator.run(len(numbers), chunk, lambda start, stop: add(totals, at + start, at + stop)):
            pass
        return totals

    with _noting_forward_mode(model if score.runs_model else None):
        parts = share_rows(evaluator.description, torch.arange(count, device="cpu"), total, end[0].device)
    return torch.stack(parts).sum(0)


class Strategy:
    """How the tokens of an answer are differentiated: in forward mode, or in groups by backward passes.

    Args:
        call: The method and what is asked of it.
        scores: The scores of the answer.
        prompt: Token ids of the prompt.
        answer: Token ids of the answer.
        units: How many units the prompt has.
        forward_mode: Whether forward mode may be used where it is quicker.
    """

    recomputed = False
    """Whether activations are computed again for the backward pass."""

    def __init__(
        self,
        call: MethodCall,
        scores: AnswerScores,
        prompt: tuple[int, ...],
        answer: tuple[int, ...],
        units: int,
        forward_mode: bool,
    ) -> None:
        self._call, self._scores, self._prompt, self._answer, self._units = call, scores, prompt, answer, units
        self._model = scores.language_model
        works = agreed("forward mode", lambda: has_forward_mode(self._model) is not False)
        self.forward_mode = forward_mode and works

    def recomputes(self, wanted: bool | None) -> bool:
        """Whether activations are computed again for the backward pass: as requested, else where memory is short.

        Raises:
            UnsupportedMethod: it is requested of a method by rules.
        """
        by_rules = self._call.inner.by_rules
        if wanted and by_rules:
            raise UnsupportedMethod(
                f"{self._call.method.get_name()} replaces gradients operation by operation, and so none can be "
                "computed again; leave gradient_checkpointing=True out"
            )
        if wanted is not None:
            return wanted
        return not by_rules and is_short_of_memory(self._model, len(self._prompt) + len(self._answer))

    def passages(self) -> Iterator[Passage]:
        """The tokens in groups that share backward passes: all together where a quantity needs the full answer."""
        prompt, tokens = len(self._prompt), len(self._answer)
        full = self._scores.waits or self._scores.contrast is not None
        best = agreed("group size", lambda: group_size(self._model, prompt, tokens, len(self._scores.scalars)))
        return passages_of(self._prompt, self._answer, tokens if full else best)

    def forward_rule(self, quantities: int) -> Quadrature | None:
        """The points of the method, if forward mode gives the rows of tokens with less work."""
        plain = self.forward_mode and not self._scores.waits
        rule = self._call.line_quadrature() if plain else None
        weights = attention_share(self._model, len(self._prompt) + len(self._answer) - 1)
        less = ROW_COST * max(1.0, weights) * self._units < 1 + quantities * len(self._answer)
        return rule if self._scores.places is not None and less else None

    def runs(self, rows: int, others: int) -> int:
        """How often the method runs for the tokens' rows of so many quantities, and for the full answer of others."""
        if self._call.is_random:
            return rows * len(self._answer) + others
        groups = 1 if self.forward_rule(rows) else len(list(self.passages()))
        return (groups if rows else 0) + bool(others)

    def jacobian(self, score: AnswerScore | ContrastScore) -> Jacobian:
        """How several numbers of a score are differentiated by backward passes."""
        batched, plain = not (self.recomputed or self._call.inner.by_rules), not self._scores.waits
        return jacobian_of(self._model, len(score.passage.ids), score.count_backward, batched, plain)
