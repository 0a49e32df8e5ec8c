"""Whether the strongest units stay the strongest under other draws of the sample."""

from __future__ import annotations

import torch

from llm_attr.core.faithfulness.orders import seeded
from llm_attr.llm.trust.evidence import Subject

DRAWS = 32
"""Random halves."""


def stability(subject: Subject, top: tuple[int, ...], seed: int) -> float | None:
    """The mean share of the strongest units that are so in random halves of the paid draws.

    An estimate from half of a sample differs from that of all of it as much as that of all of it does from a new one's
    mean. Halves that do not determine the attributions are left out. None for methods without draws, for attributions
    that were not computed from the coalitions that are known, and where fewer than half of the halves are left.

    Source: P. J. McCarthy, Pseudo-Replication: Half Samples, 1969.
    """
    sample = subject.sample
    if not subject.own or sample is None:
        return None
    rows = torch.arange(len(subject.coalitions), device="cpu")
    draws = rows[sample.kept :]
    if len(draws) < 2 * sample.period or len(draws) % sample.period:
        return None
    blocks, generator, shares = draws.view(-1, sample.period), seeded(seed), []
    for _ in range(DRAWS):
        chosen = torch.randperm(len(blocks), generator=generator, device="cpu")[: len(blocks) // 2].sort().values
        try:
            again = sample.estimate(torch.cat([rows[: sample.kept], blocks[chosen].flatten()]))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            continue
        strongest = again.argsort(descending=True, stable=True)[: len(top)].tolist()
        shares.append(len(set(strongest) & set(top)) / len(top))
    return sum(shares) / len(shares) if 2 * len(shares) >= DRAWS else None
