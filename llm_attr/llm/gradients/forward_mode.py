"""All tokens of an answer at once by forward-mode derivatives: a row for each unit, not a pass for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation
from llm_attr.attr.integrated import IntegratedGradients, LayerIntegratedGradients
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.jacobian import directional, lacks_a_rule
from llm_attr.core.path.walk import Quadrature, quadrature
from llm_attr.llm.gradients.answer_score import Entries
from llm_attr.llm.model.attention import Setting, setting
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.typing import Tensors

_known: WeakKeyDictionary[Any, dict[Setting, bool]] = WeakKeyDictionary()


class NoRule(Exception):
    """An operation has no derivative in a direction, or none in several at a time."""


def has_forward_mode(language_model: LanguageModel) -> bool | None:
    """Whether all operations of a model, as it is configured now, have a derivative in a direction.

    None: that has not come up.
    """
    return _known.get(language_model.model, {}).get(setting(language_model))


@contextmanager
def noting_forward_mode(language_model: LanguageModel | None) -> Iterator[None]:
    """Remembers whether what is done inside with a model in forward mode worked; None: nothing is done with any.

    Raises:
        NoRule: it did not: an operation has no derivative in a direction, or none in several at a time.
    """

    def note(works: bool) -> None:
        if language_model is not None:
            _known.setdefault(language_model.model, {})[setting(language_model)] = works

    try:
        yield
    except (RuntimeError, UserWarning) as error:
        if not lacks_a_rule(error):
            raise
        note(False)
        raise NoRule("an operation of the model has no forward mode") from error
    note(True)


def rule_of(method: Attribution, options: dict[str, Any]) -> Quadrature | None:
    """The points of a method whose attributions are derivatives along input minus baseline; None for any other."""
    if not method.multiplies_by_inputs or options.get("until") is not None:
        return None
    if isinstance(method, InputXGradient | LayerGradientXActivation):
        return Quadrature(
            torch.ones(1, dtype=torch.float64, device="cpu"), torch.ones(1, dtype=torch.float64, device="cpu")
        )
    if isinstance(method, IntegratedGradients | LayerIntegratedGradients):
        return quadrature(options.get("method", "gausslegendre"), options.get("n_steps", 50))
    return None


def entry_rows(
    entries: Entries,
    start: Tensors,
    end: Tensors,
    owners: Sequence[int],
    rule: Quadrature,
    units: int,
    together: int,
) -> Tensor:
    """`(entries, units)`: the mean derivative of each entry, along the part of `end - start` that a unit has.

    `sum_k w_k d/dh entry(start + a_k (end - start) + h (end - start)_unit)`, in at least fp32.

    Args:
        entries: Numbers of an answer.
        start: Activations at the baseline, `(1, positions, *features)` each.
        end: Those of the prompt.
        owners: The unit of each position.
        rule: Points and weights.
        units: How many units there are.
        together: The most derivatives that are computed together.
    """
    owned = torch.tensor(owners, device="cpu")
    totals = torch.zeros(len(entries), units, dtype=torch.float32, device="cpu")

    def evaluate(first: int, stop: int) -> None:
        for at in range(first // units, (stop - 1) // units + 1):
            chosen = torch.arange(max(first, at * units), min(stop, (at + 1) * units), device="cpu") - at * units
            mine = owned[None] == chosen[:, None]
            points, directions = [], []
            for low, high in zip(start, end, strict=True):
                points.append(low + float(rule.alphas[at]) * (high - low))
                own = mine.to(low).view(len(chosen), 1, -1, *(1,) * (low.dim() - 2))
                directions.append((high - low)[None] * own)
            found = directional(entries, tuple(points), tuple(directions))[:, 0].float().cpu()
            totals[:, chosen] += float(rule.weights[at]) * found.T
            entries.score.count_forward_mode(len(chosen))
            evaluator.advance(len(chosen))

    count = len(rule.alphas) * units
    evaluator = Evaluator("forward-mode derivatives", count, device=end[0].device)
    for _ in evaluator.run(count, min(units, together), evaluate):
        pass
    return totals
