"""Path methods for text, slow and plain: one position, one point, one entry at a time, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Forward = Callable[[Tensor], Tensor]
"""`(1, positions, features)` to one number `(1,)`."""


def gradient(forward: Forward, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(forward(x).sum(), x)[0]


def sequential(forward: Forward, x: Tensor, low: Tensor, alphas: Tensor, weights: Tensor) -> Tensor:
    """Sequential integrated gradients of one example `(positions, features)`."""
    found = torch.zeros_like(x)
    for position in range(len(x)):
        start = x.clone()
        start[position] = low[position]
        total = torch.zeros_like(x)
        for alpha, weight in zip(alphas, weights, strict=True):
            total += weight * gradient(forward, (start + alpha * (x - start))[None])[0]
        found[position] = (x[position] - low[position]) * total[position]
    return found


def is_between(value: float, one: float, other: float) -> bool:
    return min(one, other) <= value <= max(one, other)


def monotonised(word: Tensor, point: Tensor, low: Tensor, steps: int) -> Tensor:
    """The word, with every coordinate that is not between the point's and the baseline's a step from the point."""
    found = word.clone()
    for j in range(len(word)):
        if not is_between(word[j].item(), point[j].item(), low[j].item()):
            found[j] = point[j] - (point[j] - low[j]) / steps
    return found


def same(one: Tensor, other: Tensor) -> bool:
    return one.tolist() == other.tolist()


def word_path(
    word: Tensor, low: Tensor, vocabulary: Tensor, steps: int, neighbours: int, strategy: str
) -> list[Tensor]:
    """The corners of the path of one word, from the baseline to the word."""
    path, passed, last, point = [word], [word], word, word
    for _ in range(steps):
        others = [i for i in range(len(vocabulary)) if not same(vocabulary[i], last)]
        others.sort(key=lambda i: (vocabulary[i] - last).square().sum().item())
        best, least = None, float("inf")
        for i in others[:neighbours]:
            candidate = vocabulary[i]
            if any(same(candidate, each) for each in [low, *passed]):
                continue
            moved = monotonised(candidate, point, low, steps)
            if strategy == "greedy":
                cost = (moved - candidate).norm().item()
            else:
                cost = -sum(is_between(*(t[j].item() for t in (candidate, point, low))) for j in range(len(word)))
            if cost < least:
                best, least = i, cost
        if best is None:
            point = low
        else:
            last = vocabulary[best]
            passed.append(last)
            point = monotonised(last, point, low, steps)
        path.append(point)
    return [low, *reversed(path)]


def discretized(
    forward: Forward, x: Tensor, low: Tensor, vocabulary: Tensor, steps: int, neighbours: int, strategy: str
) -> Tensor:
    """Discretized integrated gradients of one example `(positions, features)`."""
    paths = [word_path(w, b, vocabulary, steps, neighbours, strategy) for w, b in zip(x, low, strict=True)]
    points = [torch.stack(corners) for corners in zip(*paths, strict=True)]
    found = torch.zeros_like(x)
    for here, following in pairwise(points):
        found += gradient(forward, here[None])[0] * (following - here)
    return found
