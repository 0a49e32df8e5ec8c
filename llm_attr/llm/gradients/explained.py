"""What was found of one quantity of an answer by gradients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from llm_attr.llm.gradients.unit_sums import UnitSums
from llm_attr.llm.results.completeness import Completeness

Ends: TypeAlias = tuple[Tensor, Tensor]
"""A quantity at the baseline and at the prompt: of the whole answer first, then of each token."""


@dataclass
class Explained:
    """What was found of one quantity of an answer.

    Attributes:
        whole: For each layer the attributions of the whole answer, `(features,)`.
        tokens: For each layer those of each token, `(tokens, features)`; empty if there are none.
        errors: For each layer the standard errors of the whole answer's, of random methods.
        token_errors: Those of the tokens'.
        deltas: The convergence deltas by name, if they were asked for.
        completeness: How far the whole answer's are from the change that they divide, of methods that divide one.
    """

    whole: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    token_errors: list[Tensor] = field(default_factory=list)
    deltas: dict[str, list[float]] = field(default_factory=dict)
    completeness: Completeness | None = None

    @classmethod
    def of(cls, whole: UnitSums, tokens: UnitSums | None, ends: Ends | None, divides: bool, deltas: bool) -> Explained:
        """What is told of it.

        Args:
            whole: The sums of the whole answer, a row.
            tokens: Those of the tokens; None: there are none.
            ends: What the attributions should sum to the difference of; None: the sums know it themselves.
            divides: Whether they divide a change.
            deltas: Whether the convergence deltas were asked for.
        """
        asked = {"convergence_delta": _deltas(whole, ends, slice(0, 1))}
        if tokens is not None:
            asked["token_convergence_delta"] = _deltas(tokens, ends, slice(1, None))
        return cls(
            [layer[0] for layer in whole.layers],
            [] if tokens is None else tokens.layers,
            [layer[0] for layer in whole.errors],
            [] if tokens is None else tokens.errors,
            {name: values for name, values in asked.items() if values is not None} if deltas else {},
            _completeness(whole, tokens, ends) if divides else None,
        )


def _deltas(sums: UnitSums, ends: Ends | None, chosen: slice) -> list[float] | None:
    if sums.deltas is None and ends is not None:
        found: list[float] = (sums.totals - (ends[1] - ends[0])[chosen]).tolist()
        return found
    return None if sums.deltas is None else sums.deltas.tolist()


def _completeness(sums: UnitSums, tokens: UnitSums | None, ends: Ends | None) -> Completeness | None:
    """That of the whole answer, with the sums and changes of the tokens."""
    found = _of_whole(sums, ends)
    deltas = None if tokens is None else _deltas(tokens, ends, slice(1, None))
    if found is None or tokens is None or deltas is None:
        return found
    changes = [total - delta for total, delta in zip(tokens.totals.tolist(), deltas, strict=True)]
    return replace(found, token_totals=tokens.totals.tolist(), token_changes=changes)


def _of_whole(sums: UnitSums, ends: Ends | None) -> Completeness | None:
    total = float(sums.totals[0])
    if ends is not None:
        low, high = float(ends[0][0]), float(ends[1][0])
        error = None if sums.total_errors is None else float(sums.total_errors[0])
        return Completeness.of(total, high - low, max(abs(low), abs(high)), error)
    if sums.deltas is None:
        return None
    found = Completeness.of(total, total - float(sums.deltas[0]))
    if found is None or sums.misses is None:
        return found
    missed, changed = sums.misses[0].tolist()
    return replace(found, gap=missed / max(changed, 1e-12))
