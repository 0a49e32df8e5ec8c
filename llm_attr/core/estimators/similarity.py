"""The similarity of perturbed inputs to the original: the weights of a local surrogate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from llm_attr.core.game.features import Features
from llm_attr.core.tensors import as_tensors, exact
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.typing import Coalitions, TensorOrTensors, Tensors

Distance = Literal["cosine", "euclidean"]

MIN_NORM_PRODUCT = 1e-8
"""Lower bound for the product of norms by which a cosine is divided."""


@dataclass(frozen=True)
class ExponentialKernel:
    """`exp(-distance^2 / (2 kernel_width^2))`, with the distance over all inputs together.

    Attributes:
        distance_mode: `cosine` (1 minus the cosine) or `euclidean`.
        kernel_width: The distance at which the weight is `exp(-1/2)`.
    """

    distance_mode: Distance = "cosine"
    kernel_width: float = 1.0

    def __post_init__(self) -> None:
        if self.distance_mode not in get_args(Distance):
            raise UnknownName("distance_mode", self.distance_mode, get_args(Distance))
        if not self.kernel_width > 0:
            raise InvalidValue(f"kernel_width must be positive; got {self.kernel_width!r}")

    def __call__(
        self,
        original_input: TensorOrTensors,
        perturbed_input: TensorOrTensors,
        perturbed_interpretable_input: Tensor | None = None,
        **kwargs: Any,
    ) -> float:
        """The similarity of one perturbed input."""
        x, p = (torch.cat([exact(t.flatten()) for t in as_tensors(each)]) for each in (original_input, perturbed_input))
        return self.of_products((x @ x)[None], (x @ p)[None], (p @ p)[None]).item()

    def of_products(self, original: Tensor, mixed: Tensor, perturbed: Tensor) -> Tensor:
        """The similarity from the dot products original.original, original.perturbed and perturbed.perturbed."""
        if self.distance_mode == "cosine":
            distance = 1 - mixed / (original * perturbed).sqrt().clamp_min(MIN_NORM_PRODUCT)
        else:
            distance = (original - 2 * mixed + perturbed).clamp_min(0).sqrt()
        return (-(distance**2) / (2 * self.kernel_width**2)).exp()


@dataclass(frozen=True)
class Products:
    """Dot products of inputs and baselines, by feature; those of a coalition are sums of them.

    Attributes:
        original: `(features, examples)` inputs with themselves.
        mixed: Inputs with baselines.
        absent: Baselines with themselves.
    """

    original: Tensor
    mixed: Tensor
    absent: Tensor

    @classmethod
    def of(cls, features: Features, inputs: Tensors, baselines: Tensors) -> Products:
        """The products of inputs `(examples, *features)`, on the CPU."""

        def by_feature(product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            total = exact(inputs[0].new_zeros(len(inputs[0]), features.count, dtype=torch.float32))
            for owner, x, baseline in zip(features.owner, inputs, baselines, strict=True):
                terms = product(exact(x), exact(baseline)).expand_as(x).flatten(1)
                total.scatter_add_(1, owner.to(terms.device).flatten(1).expand_as(terms), terms)
            return total.T.cpu()

        return cls(by_feature(lambda x, b: x * x), by_feature(lambda x, b: x * b), by_feature(lambda x, b: b * b))

    def similarities(self, kernel: ExponentialKernel, coalitions: Coalitions, outputs: int) -> Tensor:
        """`(coalitions, examples)` if there is one output per example, else `(coalitions, 1)` over all of them."""
        examples = self.original.shape[1] == outputs
        xx, xb, bb = (
            each if examples else each.sum(1, keepdim=True) for each in (self.original, self.mixed, self.absent)
        )
        present = coalitions.to(xx)
        mixed = present @ xx + (1 - present) @ xb
        return kernel.of_products(xx.sum(0), mixed, present @ xx + (1 - present) @ bb)
