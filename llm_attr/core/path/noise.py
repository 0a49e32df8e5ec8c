"""Random draws: noise on inputs, baselines from a distribution, points of a path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_attr.core.memory import sent
from llm_attr.core.tensors import as_baselines, as_tensors, at_least_fp32, can_move
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import BaselineDistribution, TensorOrTensors, Tensors


@dataclass(frozen=True)
class Draws:
    """Where random numbers come from.

    Attributes:
        generator: A generator on the CPU. None: noise is drawn from torch's global generator on the device of the
            inputs, everything else from NumPy's.
    """

    generator: torch.Generator | None = None

    @classmethod
    def of(cls, seed: int | None) -> Draws:
        """Draws determined by the seed; None: draws from the global generators.

        Raises:
            InvalidType: the seed is not a whole number.
        """
        if seed is None:
            return cls()
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InvalidType(f"seed must be a whole number or None; got {type(seed).__name__}")
        return cls(torch.Generator().manual_seed(seed))

    def noise(self, shape: Sequence[int], stdev: float, device: torch.device) -> Tensor:
        """Normally distributed numbers with mean 0."""
        if self.generator is None:
            return torch.normal(0.0, torch.full(tuple(shape), stdev, device=device, dtype=torch.float32))
        drawn = torch.randn(tuple(shape), generator=self.generator, dtype=torch.float32, device="cpu")
        return sent(drawn.mul_(stdev), device)

    def choice(self, among: int, count: int) -> Tensor:
        """`(count,)` uniformly distributed whole numbers below `among`."""
        if self.generator is None:
            return torch.from_numpy(np.random.choice(among, count))
        return torch.randint(among, (count,), generator=self.generator, device="cpu")

    def uniform(self, count: int) -> Tensor:
        """`(count,)` uniformly distributed numbers between 0 and 1, in double precision."""
        if self.generator is None:
            return torch.from_numpy(np.random.uniform(0, 1, count))
        return torch.rand(count, generator=self.generator, dtype=torch.float64, device="cpu")

    def seed(self) -> int | None:
        """A seed for another consumer; None for the global generators."""
        return None if self.generator is None else int(torch.randint(2**62, (), generator=self.generator, device="cpu"))


def as_stdevs(stdevs: float | tuple[float, ...], inputs: Tensors) -> tuple[float, ...]:
    """One standard deviation for each input.

    Raises:
        InvalidShape: a tuple does not have one item per input.
        InvalidValue: an item is not a number of at least 0.
        InvalidType: an integer input, to which noise cannot be added, has a positive standard deviation.
    """
    given = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(inputs)
    if len(given) != len(inputs):
        raise InvalidShape(f"stdevs must be one for each of the {len(inputs)} inputs; got {len(given)}")
    for i, (stdev, x) in enumerate(zip(given, inputs, strict=True)):
        if isinstance(stdev, bool) or not isinstance(stdev, int | float) or not 0 <= stdev < float("inf"):
            raise InvalidValue(f"stdevs must be numbers of at least 0; got {stdev!r}")
        if stdev and not can_move(x):
            raise InvalidType(
                f"input {i} holds {x.dtype}, to which no noise can be added; convert it to floating point, set its "
                "stdevs to 0, or attribute to a layer after the embedding with the embeddings as inputs"
            )
    return tuple(float(stdev) for stdev in given)


def noisy(inputs: Tensors, samples: int, stdevs: Sequence[float], draws: Draws) -> Tensors:
    """Copies of each input with independent noise, `(batch, samples, *features)`. Integers get no noise."""

    def one(x: Tensor, stdev: float) -> Tensor:
        copies = x.detach().repeat_interleave(samples, 0)
        if can_move(x):
            noise = draws.noise(copies.shape, stdev, x.device)
            copies = (copies.to(torch.promote_types(x.dtype, noise.dtype)) + noise).to(x.dtype)
        return copies.unflatten(0, (len(x), samples))

    return tuple(one(x, stdev) for x, stdev in zip(inputs, stdevs, strict=True))


def as_distributions(baselines: BaselineDistribution, inputs: TensorOrTensors) -> Tensors:
    """The states to draw baselines from: `(states, *features)` for each input, in its dtype and on its device.

    Args:
        baselines: A tensor, a number, a tuple of these, or a function that returns one of them; a function that takes
            an argument gets the inputs, in the caller's form.
        inputs: The inputs.

    Raises:
        InvalidType: a baseline is None, or neither a tensor nor a number.
        InvalidShape: the number of baselines, or the shape of one, does not match the inputs.
    """
    given = _called(baselines, inputs) if callable(baselines) else baselines
    if given is None:
        raise InvalidType("baselines must be given: a tensor (states, *features) for each input, or a function")
    tensors = as_tensors(inputs)
    parts = given if isinstance(given, tuple) else (given,)
    if len(parts) != len(tensors):
        raise InvalidShape(f"baselines must be one for each of the {len(tensors)} inputs; got {len(parts)}")
    return tuple(_states(part, x, i) for i, (part, x) in enumerate(zip(parts, tensors, strict=True)))


def _called(function: Callable[..., TensorOrTensors], inputs: TensorOrTensors) -> TensorOrTensors:
    try:
        signature(function).bind(inputs)
    except TypeError:
        return function()
    except ValueError:
        pass
    return function(inputs)


def _states(value: Any, x: Tensor, index: int) -> Tensor:
    if not isinstance(value, Tensor):
        return as_baselines((value,), (x,))[0].expand(1, *x.shape[1:])
    if value.dim() == 0 or not len(value) or value.shape[1:] != x.shape[1:]:
        raise InvalidShape(
            f"baseline {index} must be states of the shape {tuple(x.shape[1:])}, one or more; got {tuple(value.shape)}"
        )
    return value.detach().to(x.device, x.dtype)


def drawn(distributions: Tensors, batch: int, samples: int, draws: Draws) -> Tensors:
    """States drawn uniformly from the distribution of each input, `(batch, samples, *features)`."""
    rows = [draws.choice(len(states), batch * samples).to(states.device) for states in distributions]
    return tuple(x[row].unflatten(0, (batch, samples)) for x, row in zip(distributions, rows, strict=True))


@dataclass(frozen=True)
class Moments:
    """Mean and variance of samples, in at least fp32.

    Attributes:
        count: The number of samples.
        mean: `(batch, *features)`.
        variance: The mean squared distance from the mean, `(batch, *features)`.
    """

    count: int
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, samples: Tensor, axis: int = 1) -> Moments:
        """The moments along this axis of `(batch, samples, *features)`."""
        samples = at_least_fp32(samples)
        mean = samples.mean(axis)
        return cls(samples.shape[axis], mean, (samples - mean.unsqueeze(axis)).square().mean(axis))

    def joined(self, other: Moments) -> Moments:
        """The moments of both sets of samples together.

        Source: T. F. Chan, G. H. Golub and R. J. LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
        Sample Variances, 1979, equation 2.1.
        """
        count = self.count + other.count
        share = other.count / count
        apart = other.mean - self.mean
        variance = self.variance + share * (other.variance - self.variance) + share * (1 - share) * apart.square()
        return Moments(count, self.mean + share * apart, variance)
