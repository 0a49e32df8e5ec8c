"""Quantities of an answer after a prompt, slow and plain: one whole pass for each token of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def next_logits(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """fp64 `(answer tokens, vocabulary)`: the logits behind each beginning of the answer, one pass each, no cache."""
    rows = []
    for place in range(len(answer)):
        ids = torch.tensor([[*prompt, *answer[:place]]])
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1]
        rows.append(found.double())
    return torch.stack(rows)


def quantity(name: str, logits: Tensor, answer: Sequence[int], reference: Tensor | None = None) -> Tensor:
    """`(answer tokens,)` of one quantity, token by token, from `(answer tokens, vocabulary)` logits."""
    values = []
    for place, token in enumerate(answer):
        row = logits[place]
        p = row.exp() / row.exp().sum()
        others = [value for other, value in enumerate(row.tolist()) if other != token]
        r = p if reference is None else reference[place].double()
        found = {
            "log_prob": p[token].log(),
            "logit": row[token],
            "margin": row[token] - max(others),
            "entropy": -(p * p.log()).sum(),
            "kl": (r * (r.log() - p.log())).sum(),
        }
        values.append(found[name])
    return torch.stack(values)
