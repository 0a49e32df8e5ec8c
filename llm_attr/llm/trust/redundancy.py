"""Units that matter only together: each can go, because another says the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from llm_attr.llm.trust.evidence import Evidence, without

GRAM = 3
"""Characters of the pieces of words whose overlap is measured, so that inflected forms of a word overlap."""

ALIKE = 0.4
"""Overlap from which more than two units are tried as one group."""

MOST_TOGETHER = 5
"""The largest group that is tried."""

MOST_TRIED = 256
"""The most pairs that are considered."""

MATTERS = 0.2
"""The share of the change that a group must carry together."""

ONLY_TOGETHER = 1 / 3
"""The share of what a group carries that its units must not carry one by one."""


def overlaps(texts: Sequence[str]) -> Tensor:
    """float64 `(units, units)`: how much of their wording units share, from 0 to 1; 0 with themselves.

    The cosine of the counts of pieces of three characters, each weighted by the logarithm of how rare it is.
    """
    counts = [_pieces(text) for text in texts]
    spread = Counter(piece for each in counts for piece in each)
    places = {piece: place for place, piece in enumerate(spread)}
    rows = torch.zeros(len(texts), max(1, len(places)), dtype=torch.float64, device="cpu")
    for row, each in zip(rows, counts, strict=True):
        for piece, count in each.items():
            row[places[piece]] = count * log((len(texts) + 1) / spread[piece])
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (rows @ rows.T).fill_diagonal_(0).clamp(0, 1)


def candidates(texts: Sequence[str], attributions: Tensor) -> list[tuple[int, ...]]:
    """Groups of units that may be redundant, the likeliest first.

    Pairs are ranked by their overlap plus the smaller of their attributions as a share of the largest one; groups of
    more than two that all resemble one another come first.
    """
    alike = overlaps(texts)
    share = attributions.clamp_min(0) / attributions.abs().amax().clamp_min(1e-12)
    first, second = torch.triu_indices(len(texts), len(texts), offset=1, device="cpu")
    scores = alike[first, second] + torch.minimum(share[first], share[second])
    likely = scores.argsort(descending=True, stable=True)[:MOST_TRIED]
    return [*_cliques(alike), *zip(first[likely].tolist(), second[likely].tolist(), strict=True)]


def plan(evidence: Evidence, most: int) -> list[tuple[int, ...]]:
    """Plans the joint ablations of likely groups, and the single ones that they are compared with.

    Args:
        evidence: Where they are planned.
        most: The most coalitions that this may take.
    """
    subject, chosen, before = evidence.subject, list[tuple[int, ...]](), evidence.left
    for group in candidates(subject.texts, subject.attributions):
        rows = [without(subject.features, group), *(without(subject.features, (unit,)) for unit in group)]
        unknown = sum(evidence.value(row) is None for row in rows)
        if unknown <= most - (before - evidence.left) and evidence.plan(*rows):
            chosen.append(group)
    return chosen


def found(evidence: Evidence, groups: Sequence[tuple[int, ...]], full: float, change: float) -> list[tuple[int, ...]]:
    """The groups that matter only together.

    Together they carry `J = f(all) - f(all without the group)`, one by one `s_i = f(all) - f(all without i)`. A group
    is redundant if J is at least a fifth of the change and `J - sum_i s_i` more than a third of J, both beyond noise.

    Args:
        evidence: The values.
        groups: See `plan`.
        full: `f(all)`.
        change: `f(all) - f(none)`.
    """
    size, noise = evidence.subject.features, 2 * (evidence.subject.noise or 0.0)
    kept: list[tuple[int, ...]] = []
    for group in groups:
        together, *single = (
            None if (value := evidence.value(without(size, units))) is None else full - value
            for units in (group, *((unit,) for unit in group))
        )
        if together is None or any(each is None for each in single):
            continue
        extra = together - sum(max(each, 0.0) for each in single if each is not None)
        matters = together >= max(MATTERS * abs(change), noise)
        within = any(set(group) <= set(other) for other in kept)
        if matters and extra > max(ONLY_TOGETHER * together, noise) and not within:
            kept.append(group)
    return kept


def _pieces(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for word in re.findall(r"\w+", text.lower()):
        padded = f" {word} "
        found.update(padded[i : i + GRAM] for i in range(max(1, len(padded) - GRAM + 1)))
    return found


def _cliques(alike: Tensor) -> list[tuple[int, ...]]:
    """Groups of three or more units that all resemble one another, grown from each unit."""
    groups: dict[tuple[int, ...], None] = {}
    for first in range(len(alike)):
        group = [first]
        similar = (alike[first] >= ALIKE).nonzero().flatten()
        for other in similar[alike[first][similar].argsort(descending=True)].tolist():
            if len(group) < MOST_TOGETHER and all(alike[other, unit] >= ALIKE for unit in group):
                group.append(other)
        if len(group) > 2:
            groups[tuple(sorted(group))] = None
    return list(groups)
