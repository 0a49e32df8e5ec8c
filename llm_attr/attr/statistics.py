"""Running statistics of attributions, in constant memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from llm_attr.core.tensors import at_least_fp32, exact_device
from llm_attr.errors import InvalidType, InvalidValue

StatValue: TypeAlias = Tensor | int | float | None
"""The value of a statistic; None before the first update."""

Kind = TypeVar("Kind", bound="Stat")

Accumulate: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Stat(ABC):
    """An elementwise statistic of the tensors passed to `update`.

    A subclass implements `update` and `get`, and requests the statistics it depends on with `_get_stat` in `init`; a
    summarizer updates those first. Two statistics with the same class and parameters are equal and share their state,
    whatever their names.

    Args:
        name: The key in the summary; None: derived from class and parameters.
        **kwargs: The parameters.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        self.params = kwargs
        self._name = name
        self._others: _Bound | None = None

    def init(self) -> None:  # noqa: B027
        """Called when the statistic is added to a summarizer, before the first update."""

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """Adds a tensor."""

    @abstractmethod
    def get(self) -> StatValue:
        """The value for all tensors so far."""

    @property
    def name(self) -> str:
        """The key of this statistic in a summary."""
        return self._name or type(self).__name__.lower()

    def _get_stat(self, stat: Kind) -> Kind:
        """The summarizer's statistic that is equal to this one.

        Raises:
            InvalidValue: the statistic does not belong to a summarizer.
        """
        if self._others is None:
            raise InvalidValue(f"{type(self).__name__} builds on other statistics: use it inside a Summarizer")
        return self._others.of(stat)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stat) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[type, tuple[tuple[str, Any], ...]]:
        return type(self), tuple(sorted(self.params.items()))


class _Bound:
    """The statistics of one tensor, each after those it depends on."""

    def __init__(self, stats: list[Stat]) -> None:
        self._given = {stat: stat for stat in reversed(stats)}
        self.ready: dict[Stat, Stat] = {}
        for stat in stats:
            self.of(stat)

    def of(self, stat: Kind) -> Kind:
        """The statistic equal to this one; added if it is new."""
        if stat not in self.ready:
            own = self._given.get(stat) or copy(stat)
            own._others = self
            own.init()
            self.ready[own] = own
        return self.ready[stat]  # type: ignore[return-value]


class Count(Stat):
    """The number of updates."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.n: int | None = None

    def update(self, x: Tensor) -> None:
        self.n = (self.n or 0) + 1

    def get(self) -> int | None:
        return self.n


class Mean(Stat):
    """The mean, in at least fp32."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.mean: Tensor | None = None

    def init(self) -> None:
        self._count = self._get_stat(Count())

    def update(self, x: Tensor) -> None:
        x = _accumulated(x)
        self.mean = x.clone() if self.mean is None else self.mean + (x - self.mean) / (self._count.get() or 1)

    def get(self) -> Tensor | None:
        return self.mean


class MSE(Stat):
    """The sum of squared distances from the mean (as in Captum, not divided by the count), in at least fp32.

    Source: B. P. Welford, Note on a Method for Calculating Corrected Sums of Squares and Products, 1962.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.mse: Tensor | None = None
        self._before: Tensor | None = None

    def init(self) -> None:
        self._mean = self._get_stat(Mean())

    def update(self, x: Tensor) -> None:
        x, after = _accumulated(x), self._mean.get()
        if after is None or self.mse is None or self._before is None:
            self.mse = torch.zeros_like(x)
        else:
            self.mse = self.mse + (x - self._before) * (x - after)
        self._before = after

    def get(self) -> Tensor | None:
        return self.mse


class Var(Stat):
    """The variance: `MSE / (count - order)`; zero if there are at most `order` updates.

    Args:
        name: See `Stat`; by default `variance`, with order 1 `sample_variance`.
        order: 0 for the variance of the values, 1 for the unbiased estimate from a sample.
    """

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        names = {0: "variance", 1: "sample_variance"}
        super().__init__(name or names.get(order, f"variance({order})"), order=order)
        self.order = order

    def init(self) -> None:
        self._mse, self._count = self._get_stat(MSE()), self._get_stat(Count())

    def update(self, x: Tensor) -> None:
        """Does nothing: the value is computed from other statistics."""

    def get(self) -> Tensor | None:
        mse = self._mse.get()
        return None if mse is None else mse / max(1, (self._count.get() or 0) - self.order)


class StdDev(Stat):
    """The standard deviation, the square root of `Var`.

    Args:
        name: See `Stat`; by default `std_dev`, with order 1 `sample_std_dev`.
        order: See `Var`.
    """

    def __init__(self, name: str | None = None, order: int = 0) -> None:
        names = {0: "std_dev", 1: "sample_std_dev"}
        super().__init__(name or names.get(order, f"std_dev({order})"), order=order)
        self.order = order

    def init(self) -> None:
        self._var = self._get_stat(Var(order=self.order))

    def update(self, x: Tensor) -> None:
        """Does nothing: the value is computed from other statistics."""

    def get(self) -> Tensor | None:
        variance = self._var.get()
        return None if variance is None else variance.sqrt()


class _Reduction(Stat):
    """The running value of `function(value, x)`."""

    def __init__(self, name: str | None, function: Accumulate, promote: bool = False) -> None:
        super().__init__(name, fn=function)
        self._function, self._promote = function, promote
        self.value: Tensor | None = None

    def update(self, x: Tensor) -> None:
        x = _accumulated(x) if self._promote and x.is_floating_point() else x
        self.value = x.clone() if self.value is None else self._function(self.value, x)

    def get(self) -> Tensor | None:
        return self.value


class Min(_Reduction):
    """The smallest value.

    Args:
        min_fn: The smaller of two tensors, entry by entry.
    """

    def __init__(self, name: str | None = None, min_fn: Accumulate = torch.min) -> None:
        super().__init__(name, min_fn)


class Max(_Reduction):
    """The largest value.

    Args:
        max_fn: The larger of two tensors, entry by entry.
    """

    def __init__(self, name: str | None = None, max_fn: Accumulate = torch.max) -> None:
        super().__init__(name, max_fn)


class Sum(_Reduction):
    """The sum; half precision is summed in fp32.

    Args:
        add_fn: The sum of two tensors.
    """

    def __init__(self, name: str | None = None, add_fn: Accumulate = torch.add) -> None:
        super().__init__(name, add_fn, promote=True)


def CommonStats() -> list[Stat]:  # noqa: N802
    """Mean, sample variance, sample standard deviation, minimum and maximum."""
    return [Mean(), Var(order=1), StdDev(order=1), Min(), Max()]


class SummarizerSingleTensor:
    """Statistics of one tensor; use `Summarizer` instead.

    Args:
        stats: The statistics, which become part of this object together with those they depend on.
        summary_stats_indices: The indices of those in `summary`.

    Raises:
        InvalidType: an item of `stats` is not a statistic.
    """

    def __init__(self, stats: list[Stat], summary_stats_indices: list[int]) -> None:
        if not all(isinstance(stat, Stat) for stat in stats):
            raise InvalidType(f"stats must be statistics such as Mean(); got {stats!r}")
        self._bound = _Bound(stats)
        self._shown = {stats[index].name: stats[index] for index in summary_stats_indices}

    def update(self, x: Tensor) -> None:
        """Adds a tensor, detached from its graph."""
        for stat in self._bound.ready.values():
            stat.update(x.detach())

    def get(self, stat: Stat) -> Stat | None:
        """The statistic with the same class and parameters, or None."""
        return self._bound.ready.get(stat)

    @property
    def summary(self) -> dict[str, StatValue]:
        """The values of the statistics by name."""
        return {name: self._bound.of(stat).get() for name, stat in self._shown.items()}


def _accumulated(x: Tensor) -> Tensor:
    """In a dtype for means and sums: at least fp32; integers in fp64 if the device supports it."""
    if x.is_floating_point() or x.is_complex():
        return at_least_fp32(x)
    return x.to(torch.float64 if exact_device(x.device) == x.device else torch.float32)
