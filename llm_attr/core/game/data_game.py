"""Games over a data set, read batch by batch: a metric of all data for a coalition of features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.features import Features
from llm_attr.core.game.tensor_game import points
from llm_attr.core.parallel.sharing import share_rows
from llm_attr.core.problem import as_output
from llm_attr.core.random_state import streams_kept
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import Coalitions, ForwardFunction, Tensors, Values

Reduce: TypeAlias = Callable[[Any, Tensor, tuple[Any, ...]], Any]
"""`(accum, current_output, current_inputs) -> accum`, called for each batch, starting from None."""

ToMetric: TypeAlias = Callable[[Any], Tensor]
"""`accum -> metric`, called after the last batch."""


class InputRole:
    """The role of an element of a batch.

    Attributes:
        need_attr: A tensor that is passed to the forward function and attributed.
        need_forward: Passed to the forward function.
        no_forward: Passed only to `reduce`, such as a label.
    """

    need_attr = 0
    need_forward = 1
    no_forward = 2


@dataclass(frozen=True)
class Batch:
    """A batch of a loader.

    Attributes:
        elements: Its elements.
        roles: The `InputRole` of each.
        single: Whether the loader yielded a tensor and not a tuple.
    """

    elements: tuple[Any, ...]
    roles: Sequence[int]
    single: bool

    @property
    def moved(self) -> Tensors:
        """The attributed elements."""
        pairs = zip(self.elements, self.roles, strict=True)
        return as_tensors(tuple(x for x, role in pairs if role == InputRole.need_attr))

    def with_moved(self, moved: Tensors) -> tuple[Any, ...]:
        """The elements, with the attributed ones replaced."""
        rest, pairs = iter(moved), zip(self.elements, self.roles, strict=True)
        return tuple(next(rest) if role == InputRole.need_attr else x for x, role in pairs)


@dataclass(frozen=True)
class DataMetric:
    """A metric of a model on a data set.

    Attributes:
        forward: The model.
        loader: Yields the batches, anew in each pass.
        roles: An `InputRole` for each element of a batch; None: all are attributed.
        reduce: Adds a batch to the accumulator; None concatenates the outputs.
        to_metric: Maps the final accumulator to the metric; None: the accumulator is the metric.
    """

    forward: ForwardFunction
    loader: Iterable[Any]
    roles: Sequence[int] | None = None
    reduce: Reduce | None = None
    to_metric: ToMetric | None = None

    def first(self) -> Batch:
        """The first batch; all others must have the same structure.

        Raises:
            InvalidType: the loader is a one-time iterator, or does not yield tensors, tuples or lists.
            InvalidShape: there is not one role per element.
            InvalidValue: the loader is empty, a role is unknown, or no element is attributed.
        """
        if isinstance(self.loader, Iterator):
            raise InvalidType(
                f"dataloader is iterated once per pass; got a {type(self.loader).__name__}, which ends with the first "
                "pass: give a DataLoader or a list"
            )
        with self.same_draws():
            for given in self.loader:
                batch = self._batch(given)
                self._check_roles(batch.roles)
                return batch
        raise InvalidValue("dataloader gives no batch")

    def batches(self) -> Iterator[Batch]:
        """All batches."""
        return map(self._batch, self.loader)

    @contextmanager
    def same_draws(self) -> Iterator[None]:
        """Restores the state of torch's and the loader's random generators at the end."""
        own = getattr(self.loader, "generator", None)
        with streams_kept():
            before = own.get_state() if isinstance(own, torch.Generator) else None
            try:
                yield
            finally:
                if own is not None and before is not None:
                    own.set_state(before)

    def add(self, accum: Any, elements: tuple[Any, ...], roles: Sequence[int]) -> Any:
        """The accumulator after one more batch."""
        passed = (x for x, role in zip(elements, roles, strict=True) if role != InputRole.no_forward)
        output = as_output(self.forward(*passed)).detach()
        if self.reduce is not None:
            return self.reduce(accum, output, elements)
        outputs = [] if accum is None else accum
        outputs.append(torch.atleast_1d(output))
        return outputs

    def value(self, accum: Any) -> Tensor:
        """The metric of the final accumulator.

        Raises:
            InvalidType: it is not a tensor or a number.
        """
        final = torch.cat(accum) if self.reduce is None else accum
        metric = final if self.to_metric is None else self.to_metric(final)
        if not isinstance(metric, Tensor | int | float):
            source = "reduce" if self.to_metric is None else "to_metric"
            raise InvalidType(f"{source} must end in a tensor of metrics or a number; got {type(metric).__name__}")
        return as_output(metric).detach()

    def _batch(self, given: Any) -> Batch:
        if not isinstance(given, Tensor | tuple | list):
            raise InvalidType(f"dataloader must give a tensor, tuple or list each time; got {type(given).__name__}")
        elements = (given,) if isinstance(given, Tensor) else tuple(given)
        roles = self.roles if self.roles is not None else (InputRole.need_attr,) * len(elements)
        if len(roles) != len(elements):
            raise InvalidShape(
                f"input_roles must have one role for each of the {len(elements)} elements that the dataloader gives; "
                f"got {len(roles)}"
            )
        return Batch(elements, roles, isinstance(given, Tensor))

    def _check_roles(self, roles: Sequence[int]) -> None:
        accepted = (InputRole.need_attr, InputRole.need_forward, InputRole.no_forward)
        if any(role not in accepted for role in roles) or InputRole.need_attr not in roles:
            raise InvalidValue(
                "input_roles must be 0 (is attributed; at least one), 1 (goes to the forward function) or 2 (goes to "
                f"reduce alone); got {tuple(roles)}"
            )


class DataGame:
    """The game whose value is the metric of the data with absent features at their baseline.

    Args:
        metric: The metric.
        features: Which positions are absent together, the same for all examples.
        baselines: The absent state, one row per input.
        evaluator: Runs the passes.
        per_pass: Coalitions per pass over the data.
    """

    def __init__(
        self, metric: DataMetric, features: Features, baselines: Tensors, evaluator: Evaluator, per_pass: int
    ) -> None:
        self.metric, self.features, self.baselines = metric, features, baselines
        self.evaluator, self.per_pass = evaluator, per_pass
        self._shape: torch.Size | None = None

    def __call__(self, coalitions: Coalitions) -> Values:
        """`(coalitions, entries of the metric)`."""
        evaluator, before = self.evaluator, self.evaluator.done
        parts = share_rows(evaluator.description, coalitions, self._values, self.baselines[0].device)
        evaluator.advance(before + len(coalitions) - evaluator.done)
        return torch.cat(parts)

    def _values(self, coalitions: Coalitions) -> Values:
        count = len(coalitions)
        passes = self.evaluator.run(count, self.per_pass, lambda start, stop: self._pass(coalitions[start:stop]))
        return torch.cat(list(passes))

    @torch.no_grad()
    def _pass(self, coalitions: Coalitions) -> Values:
        accums: list[Any] = [None] * len(coalitions)
        with self.metric.same_draws():
            for number, batch in enumerate(self.metric.batches()):
                self.evaluator.check()
                inputs = self._checked(batch.moved, number)
                for i in range(len(coalitions)):
                    moved = points(self.features, coalitions[i : i + 1], inputs, self.baselines)
                    accums[i] = self.metric.add(accums[i], batch.with_moved(moved), batch.roles)
        values = torch.stack([self._entries(self.metric.value(accum)) for accum in accums])
        self.evaluator.advance(len(coalitions))
        return values

    def _checked(self, inputs: Tensors, number: int) -> Tensors:
        shapes, expected = ([tuple(x.shape[1:]) for x in tensors] for tensors in (inputs, self.features.owner))
        if shapes != expected:
            raise InvalidShape(
                f"the features of all batches must have the same shapes: those of the first have {expected}, those of "
                f"batch {number} {shapes}"
            )
        return inputs

    def _entries(self, metric: Tensor) -> Tensor:
        self._shape = self._shape or metric.shape
        if metric.shape != self._shape:
            raise InvalidShape(
                "the metric must have the same shape whatever features are absent; got "
                f"{tuple(self._shape)} and {tuple(metric.shape)}"
            )
        return metric.flatten()
