"""The trust report of an explanation: plans further coalitions within the budget, evaluates them and reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.trust import redundancy
from llm_attr.llm.trust.evidence import Evidence, Subject, limit_of, without
from llm_attr.llm.trust.permutations import (
    LEAST_UNSEEN,
    datamodelling,
    orders,
    p_value,
    smallest_p_value,
)
from llm_attr.llm.trust.report import CERTAIN, Contrast, TrustReport
from llm_attr.llm.trust.stability import stability
from llm_attr.llm.trust.verdict import verdict
from llm_attr.typing import Coalitions

FOR_REDUNDANCY = 0.25
"""The share of the budget that the redundancy probe may take."""

LEAST_PROBED = 4
"""What it may take of a small budget: the joint ablation of three units and the single ones."""

FAIR = 0.6
"""A score that good explanations exceed; those of methods that leave out units are about 0.85 on short prompts."""

MIDDLE = 0.5
"""The p-value of an explanation as good as the median of random orders."""

TOP = 3
"""The most units that count as the strongest."""


@dataclass(frozen=True)
class Plan:
    """What a report asks for.

    Attributes:
        top: The strongest features.
        removed: The stronger half of the features, rounded up.
        kept: The stronger half of the features, rounded down.
        groups: Groups that are probed for redundancy.
        unseen: Bool `(coalitions, features)`: those that judge the attributions.
    """

    top: tuple[int, ...]
    removed: tuple[int, ...]
    kept: tuple[int, ...]
    groups: list[tuple[int, ...]]
    unseen: Coalitions


def judged(subject: Subject, budget: int | float | None = None, k: int | None = None, seed: int = 0) -> TrustReport:
    """The report.

    Args:
        subject: The explanation.
        budget: See `limit_of`.
        k: How many of the strongest features necessity, sufficiency and stability are about; None: a third, up to 3.
        seed: Of the coalitions and orders; no global stream is touched.

    Raises:
        InvalidType: budget, k or seed are no whole numbers.
        InvalidValue: k is not between 1 and the number of features, or the budget is negative.
    """
    _check(subject, k, seed)
    evidence = Evidence(subject, limit_of(budget, subject.paid))
    before = None if subject.game is None else subject.game.spent
    plan = _plan(evidence, max(1, min(TOP, subject.features // 3)) if k is None else k, seed)
    evidence.evaluate()
    report = _read(evidence, plan, seed)
    if subject.game is not None and before is not None:
        spent = subject.game.spent.since(before)
        report = replace(report, passes=spent.passes or 0, evaluations=spent.evaluations)
    return replace(report, verdict=verdict(report, subject))


def _check(subject: Subject, k: int | None, seed: int) -> None:
    for name, value in (("k", k), ("seed", seed)):
        if (value is not None or name == "seed") and (isinstance(value, bool) or not isinstance(value, int)):
            raise InvalidType(f"{name} must be a whole number; got {type(value).__name__}")
    if k is not None and not 1 <= k <= subject.features:
        raise InvalidValue(f"k must be between 1 and the number of units, {subject.features}; got {k}")


def _plan(evidence: Evidence, k: int, seed: int) -> Plan:
    """Plans, in the order of their importance: the ends, a redundant group, the strongest units, unseen halves."""
    subject = evidence.subject
    size, limit = subject.features, evidence.left
    ranked = tuple(subject.attributions.argsort(descending=True, stable=True).tolist())
    top, removed, kept = ranked[:k], ranked[: size - size // 2], ranked[: size // 2]
    evidence.plan(without(size, ()))
    evidence.plan(without(size, tuple(range(size))))
    groups = redundancy.plan(evidence, max(LEAST_PROBED, int(FOR_REDUNDANCY * limit))) if size > 2 else []
    for row in (without(size, top), ~without(size, top), without(size, removed), ~without(size, kept)):
        evidence.plan(row)
    unseen = evidence.plan_unseen(evidence.left, seed) if size > 1 else subject.coalitions[:0]
    return Plan(top, removed, kept, groups, _judges(evidence, unseen))


def _judges(evidence: Evidence, unseen: Coalitions) -> Coalitions:
    """The coalitions that judge: new ones, and those paid for if they did not make the attributions, or are all."""
    subject, paid = evidence.subject, evidence.paid()
    is_complete = subject.features <= 20 and len(paid) == 1 << subject.features
    return unseen if subject.own and not is_complete else torch.cat([paid, unseen])


def _read(evidence: Evidence, plan: Plan, seed: int) -> TrustReport:
    subject, size = evidence.subject, evidence.subject.features
    full, nothing = (evidence.value(without(size, units)) for units in ((), tuple(range(size))))
    change = None if full is None or nothing is None else full - nothing
    better, p, lds, interval = _against_chance(evidence, plan.unseen, seed)
    necessity = sufficiency = explained = None
    redundant: list[tuple[int, ...]] = []
    if full is not None and nothing is not None and change:
        alone, absent = (evidence.value(row) for row in (~without(size, plan.top), without(size, plan.top)))
        necessity = None if absent is None else (full - absent) / change
        sufficiency = None if alone is None else (alone - nothing) / change
        explained = float(subject.attributions.sum()) / change
        redundant = redundancy.found(evidence, plan.groups, full, change)
    return TrustReport(
        better_than_chance=better,
        p_value=p,
        verdict="",
        explained=explained,
        lds=lds,
        lds_interval=interval,
        necessity=necessity,
        sufficiency=sufficiency,
        stability=stability(subject, plan.top, seed),
        redundant=[tuple(sorted(subject.positions(group))) for group in redundant],
        noise=subject.noise,
        passes=0,
        unseen=len(plan.unseen),
        top=subject.positions(plan.top),
        deletion=_contrast(evidence, without(size, plan.removed), plan.unseen, lower=True),
        insertion=_contrast(evidence, ~without(size, plan.kept), plan.unseen, lower=False),
    )


def _against_chance(
    evidence: Evidence, unseen: Coalitions, seed: int
) -> tuple[bool | None, float | None, float | None, tuple[float, float] | None]:
    """Whether the attributions are better than chance, the p-value, the LDS and its interval.

    True: the p-value is at most `CERTAIN`. False: it is not, though the best order of these numbers would have been
    recognised, and half of the random orders do as well or the interval of the score lies below `FAIR`. None: anything
    else.
    """
    subject = evidence.subject
    if len(unseen) < LEAST_UNSEEN or subject.features < 2:
        return None, None, None, None
    values, attributions = evidence.values(unseen), subject.attributions
    score, interval = datamodelling(attributions, unseen, values)
    if float(values.max() - values.min()) <= 2 * (subject.noise or 0.0):
        return None, None, score, interval
    places = orders(subject.features, seed)
    p = p_value(attributions, unseen, values, places)
    if p <= CERTAIN:
        return True, p, score, interval
    effects = _effects(unseen, values)
    could_tell = smallest_p_value(attributions, effects, places) <= CERTAIN
    is_poor = p >= MIDDLE or interval[1] < FAIR
    return (False if could_tell and is_poor else None), p, score, interval


def _effects(unseen: Coalitions, values: Tensor) -> Tensor:
    """float64 `(features,)`: the least-squares effect of each feature."""
    rows = unseen.double()
    return torch.linalg.pinv(rows - rows.mean(0)) @ (values - values.mean())


def _contrast(evidence: Evidence, row: Tensor, unseen: Coalitions, lower: bool) -> Contrast | None:
    """A coalition beside the judges of its size; None if it is not known or there are none of them.

    Judges of one size are random sets, so under a random order of the units all of them, this one included, are equally
    likely to be the best.
    """
    value, peers = evidence.value(row), unseen[unseen.sum(1) == row.sum()]
    if value is None or not len(peers):
        return None
    values = evidence.values(peers)
    as_good = values <= value if lower else values >= value
    p = (1 + int(as_good.sum())) / (1 + len(values))
    return Contrast(value, float(values.mean()), p, len(values))
