"""Gradients of a generation, slow and plain: one full run of the model for each token of the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def embeddings(model: Any, ids: Sequence[int]) -> Tensor:
    """`(1, tokens, features)`."""
    return model.get_input_embeddings()(torch.tensor([list(ids)])).detach()


def token_log_prob(model: Any, prompt: Tensor, answer: Sequence[int], token: int) -> Tensor:
    """The log-probability of one token after the prompt's embeddings and the tokens before it."""
    before = embeddings(model, answer[:token]) if token else prompt[:, :0]
    logits = model(inputs_embeds=torch.cat([prompt, before], 1), use_cache=False).logits
    return logits[0, -1].float().log_softmax(-1)[answer[token]]


def integrated(
    model: Any, prompt: Sequence[int], absent: Sequence[int], answer: Sequence[int], token: int, steps: int
) -> Tensor:
    """`(prompt tokens,)` integrated gradients of one token, by Gauss-Legendre points one after the other."""
    high, low = embeddings(model, prompt), embeddings(model, absent)
    total = torch.zeros_like(high)
    roots, weights = np.polynomial.legendre.leggauss(steps)
    for root, weight in zip(roots, weights, strict=True):
        point = (low + (root + 1) / 2 * (high - low)).to(high.dtype).requires_grad_()
        total += weight / 2 * torch.autograd.grad(token_log_prob(model, point, answer, token), point)[0]
    return (total * (high - low)).sum(-1)[0]


def at_prompt(
    model: Any, prompt: Sequence[int], answer: Sequence[int], token: int, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """`(prompt tokens,)`: a combination of embedding and gradient of one token, summed over the features."""
    point = embeddings(model, prompt).requires_grad_()
    gradient = torch.autograd.grad(token_log_prob(model, point, answer, token), point)[0]
    return combine(point.detach(), gradient).sum(-1)[0]


def answer_logits(model: Any, prompt: Tensor, answer: Sequence[int]) -> Tensor:
    """`(tokens, vocabulary)`: what predicts each token of the answer after the prompt's embeddings."""
    whole = torch.cat([prompt, embeddings(model, answer[:-1])], 1) if len(answer) > 1 else prompt
    return model(inputs_embeds=whole, use_cache=False).logits[0, prompt.shape[1] - 1 :].float()
