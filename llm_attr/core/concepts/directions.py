"""Directions that separate the activations of a concept from others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from llm_attr.core.random_state import generator
from llm_attr.core.tensors import exact
from llm_attr.errors import InvalidShape, InvalidValue, UnknownName

Probe: TypeAlias = Literal["mean_difference", "logistic"]
"""How a direction is found."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A linear function of activations that is positive for a concept.

    Attributes:
        weights: float64 `(features,)`, pointing towards the concept.
        bias: What is added.
        accuracy: The share of held-out examples on the right side, both classes weighing the same; nan without any.
        scale: The distance between the means of both classes along the direction, in units of the activations.
    """

    weights: Tensor
    bias: float
    accuracy: float
    scale: float

    @property
    def unit(self) -> Tensor:
        """The weights with length 1."""
        return self.weights / self.weights.norm()

    def scores(self, activations: Tensor) -> Tensor:
        """`(examples,)`: the linear function of activations `(examples, features)`."""
        return exact(activations).flatten(1) @ self.weights.to(exact(activations).device) + self.bias


def fit_direction(
    positive: Tensor,
    negative: Tensor,
    probe: Probe = "mean_difference",
    *,
    held_out: float = 0.0,
    penalty: float = 0.01,
    seed: int = 0,
) -> Direction:
    """A direction from the activations of others to those of a concept.

    `mean_difference`: `w = mean(positive) - mean(negative)`, and the border in the middle. `logistic`: the minimum of
    the mean logistic loss of activations, scaled to a root mean square distance of 1 from their mean, plus
    `penalty |w|^2 / 2`; both classes weigh the same.

    Args:
        positive: `(examples, features)` of the concept.
        negative: `(other examples, features)`.
        probe: `mean_difference` or `logistic`.
        held_out: The share of examples that is not fitted, and measures the accuracy.
        penalty: See above.
        seed: Of the division into fitted and held-out examples; no global stream is touched.

    Raises:
        InvalidShape: the numbers of features differ, or there are no examples.
        InvalidValue: both classes are the same point, or too few examples to hold any out.
        UnknownName: another probe.

    Source: B. Kim et al., Interpretability Beyond Feature Attribution, ICML 2018, section 3.1 (any linear classifier);
    N. Panickssery et al., Steering Llama 2 via Contrastive Activation Addition, ACL 2024 (difference of means).
    """
    if probe not in get_args(Probe):
        raise UnknownName("probe", probe, get_args(Probe))
    both = [exact(values).flatten(1) for values in (positive, negative)]
    if both[0].shape[1:] != both[1].shape[1:] or not len(both[0]) or not len(both[1]):
        raise InvalidShape(
            f"a direction needs examples of both classes, (examples, features); got {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}"
        )
    fitted, tested = zip(*(_divided(values, held_out, seed) for values in both), strict=True)
    weights = fitted[0].mean(0) - fitted[1].mean(0)
    if not weights.any():
        raise InvalidValue("the activations of both classes have the same mean: there is no direction between them")
    bias = -float(weights @ (fitted[0].mean(0) + fitted[1].mean(0))) / 2
    if probe == "logistic":
        weights, bias = _logistic(fitted[0], fitted[1], penalty)
    scale = float((fitted[0].mean(0) - fitted[1].mean(0)) @ weights / weights.norm())
    right = [
        ((values @ weights + bias) * sign > 0).double().mean() for values, sign in zip(tested, (1, -1), strict=True)
    ]
    return Direction(weights, bias, float(sum(right)) / 2, scale)


def _divided(values: Tensor, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The fitted and the held-out examples."""
    if not 0 <= held_out < 1:
        raise InvalidValue(f"held_out must be from 0 to below 1; got {held_out!r}")
    count = round(held_out * len(values))
    if held_out and not 0 < count < len(values):
        raise InvalidValue(f"{len(values)} examples are too few to hold out {held_out:g} of them")
    order = torch.randperm(len(values), generator=generator(seed), device="cpu").to(values.device)
    return (values[order[count:]], values[order[:count]]) if held_out else (values, values[:0])


def _logistic(positive: Tensor, negative: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Weights and bias of the logistic regression, found in the span of the examples, where its minimum is."""
    if not penalty > 0:
        raise InvalidValue(f"penalty must be above 0; got {penalty!r}")
    rows = torch.cat([positive, negative])
    centre = rows.mean(0)
    scale = (rows - centre).square().sum(1).mean().sqrt()
    rows = (rows - centre) / scale
    left, values, basis = torch.linalg.svd(rows, full_matrices=False)
    small = left * values
    signs = torch.cat([rows.new_ones(len(positive)), -rows.new_ones(len(negative))])
    shares = torch.cat([rows.new_full((len(each),), 0.5 / len(each)) for each in (positive, negative)])
    with torch.inference_mode(False), torch.enable_grad():
        found = small.new_zeros(small.shape[1] + 1).requires_grad_()
        small, signs, shares = (each.detach().clone() for each in (small, signs, shares))
        search = torch.optim.LBFGS([found], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            margins = signs * (small @ found[:-1] + found[-1])
            value = (shares * torch.nn.functional.softplus(-margins)).sum() + penalty / 2 * found[:-1].square().sum()
            value.backward()
            return value

        search.step(loss)
    weights = found.detach()[:-1] @ basis / scale
    return weights, float(found.detach()[-1] - weights @ centre)
