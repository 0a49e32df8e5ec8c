"""Scores of an answer after variants of a prompt, slow and plain: one whole pass without cache for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def answer_log_probs(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """`(answer tokens,)` log-probabilities in nats."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    rows = logits[-len(answer) - 1 : -1].float().log_softmax(-1)  # from the end: an adapter may put tokens in front
    return rows[torch.arange(len(answer)), torch.tensor(list(answer))]


def text_log_probs(language_model: Any, text: str, answer: Sequence[int]) -> Tensor:
    """The same for a prompt as text; BOS, else EOS, stands for a prompt without tokens."""
    tokenizer = language_model.tokenizer
    placeholder = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return answer_log_probs(language_model.model, tokenizer.encode(text) or [placeholder], answer)


def leave_one_out(whole: Tensor, without: Sequence[Tensor]) -> Tensor:
    """`(1 + answer tokens, units)`: what is lost, for the whole answer first."""
    lost = torch.stack([whole - each for each in without], 1)
    return torch.cat([lost.sum(0, keepdim=True), lost])


def distinct_prefixes(sequences: Sequence[Sequence[Any]]) -> int:
    """How many nodes a tree of these sequences has."""
    return len({tuple(sequence[:length]) for sequence in sequences for length in range(1, len(sequence) + 1)})
