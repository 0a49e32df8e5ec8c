"""Whether a sentence has a source: what the context gives it, what its strongest sources give it, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.llm.trust.evidence import Evidence, without

NATS = 2.0
"""What the strongest source or pair of sources must give a sentence, in nats."""

NEEDED = 0.5
"""The share of that which the sentence must lose without that source or pair, or without any."""

STAND_OUT = 2.0
"""How many times the middle of the other units, by size, the strongest source must give."""

CERTAIN = 2.0
"""Standard errors by which it must exceed 0."""

BESIDE = 0.25
"""The share of the strongest source that a further source gives at least."""

MOST = 5
"""The most sources of a sentence."""


@dataclass(frozen=True)
class Rule:
    """What a sentence needs to be supported.

    Attributes:
        nats: What the strongest source or pair gives it at least; half of it is lost without that, or without any.
        stand_out: How many times the middle of the other units, by size, the strongest one gives at least.
        certain: By how many standard errors it exceeds 0.
    """

    nats: float = NATS
    stand_out: float = STAND_OUT
    certain: float = CERTAIN


@dataclass(frozen=True)
class Support:
    """The decision for one sentence.

    Attributes:
        supported: Whether it has sources.
        sources: The features that carry it, the strongest first; empty if nothing does.
        context: Nats that it loses without any unit; None where that is unknown.
        strength: Nats of the strongest source, or those that the strongest pair carries together.
        reason: Why it has no source; "" if it has.
    """

    supported: bool
    sources: tuple[int, ...]
    context: float | None
    strength: float
    reason: str


def asked(attributions: Tensor) -> list[Tensor]:
    """The coalitions by which a sentence is judged: all, none, and all without the two strongest, alone and together.

    Args:
        attributions: `(features,)` of the sentence, in nats.
    """
    size = len(attributions)
    pair = _ranked(attributions)[:2]
    alone = [without(size, (feature,)) for feature in pair]
    return [without(size, ()), without(size, tuple(range(size))), without(size, pair), *alone]


def decide(attributions: Tensor, errors: Tensor | None, evidence: Evidence, rule: Rule) -> Support:
    """The decision for a sentence.

    With `f` the log-probability of the sentence and `a` the attributions, it is supported if the strength is at least
    `rule.nats`, and `rule.stand_out` times the median `|a|` of the units that are not among the strongest, and exceeds
    `rule.certain` standard errors and twice the noise, and `f(all) - f(none)` or `f(all) - f(all without the
    strongest)` is at least half of `rule.nats`. The strength is the largest `a`, or the joint ablation of the two
    strongest, if they are redundant: `f(all) - f(all without both)` where that exceeds what each carries alone by more
    than a third.

    Args:
        attributions: float64 `(features,)` in nats.
        errors: Their standard errors, or None.
        evidence: The values of the sentence's game.
        rule: The thresholds.
    """
    size, ranked = len(attributions), _ranked(attributions)
    full, nothing = (evidence.value(without(size, each)) for each in ((), tuple(range(size))))
    context = None if full is None or nothing is None else full - nothing
    top = float(attributions[ranked[0]])
    pair = _joint(attributions, ranked, evidence, full)
    strength = max(top, pair)
    together = ranked[: 2 if pair > top else 1]
    error = 0.0 if errors is None else float(errors[list(together)].square().sum().sqrt())
    others = attributions[[each for each in range(size) if each not in together]].abs()
    middle = float(others.median()) if len(others) else 0.0
    missing = evidence.value(without(size, together))
    needed = max((full - each for each in (nothing, missing) if full is not None and each is not None), default=None)
    reason = _reason(rule, needed, strength, error, middle, evidence.subject.noise or 0.0)
    floor = BESIDE * top
    sources = tuple(each for each in ranked[:MOST] if each in together or float(attributions[each]) >= max(floor, 1e-9))
    return Support(not reason, sources if not reason else (), context, strength, reason)


def _ranked(attributions: Tensor) -> tuple[int, ...]:
    return tuple(attributions.argsort(descending=True, stable=True).tolist())


def _joint(attributions: Tensor, ranked: Sequence[int], evidence: Evidence, full: float | None) -> float:
    """What the two strongest carry together, if they are redundant; otherwise minus infinity."""
    size, pair = len(attributions), tuple(ranked[:2])
    if full is None or len(pair) < 2 or size < 3 or float(attributions[pair[1]]) <= 0:
        return -torch.inf
    left = [evidence.value(without(size, absent)) for absent in (pair, pair[:1], pair[1:])]
    together, *alone = (full - value for value in left if value is not None)
    if len(alone) < 2:
        return -torch.inf
    extra = together - sum(max(each, 0.0) for each in alone)
    return together if extra > together / 3 > 0 else -torch.inf


def _reason(rule: Rule, needed: float | None, strength: float, error: float, middle: float, noise: float) -> str:
    if needed is not None and needed < NEEDED * rule.nats:
        return f"the context gives it {needed:.2g} nats, less than {NEEDED * rule.nats:g}"
    if strength < rule.nats:
        return f"its strongest source gives it {strength:.2g} nats, less than {rule.nats:g}"
    if strength < max(rule.certain * error, 2 * noise):
        return "its strongest source is within the error"
    if strength < rule.stand_out * middle:
        return f"its strongest source does not stand out: {strength / middle:.2g} times the middle of the others"
    return ""
