"""Games over a data set that is read batch by batch: what a coalition of features is worth to a metric of all of it."""

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
from llm_attr.core.problem import as_output
from llm_attr.core.random_state import streams_kept
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import Coalitions, ForwardFunction, Tensors, Values

Reduce: TypeAlias = Callable[[Any, Tensor, tuple[Any, ...]], Any]
"""`(accum, current_output, current_inputs) -> accum`, for each batch, at first from None."""

ToMetric: TypeAlias = Callable[[Any], Tensor]
"""`accum -> metric`, once all batches are through."""


class InputRole:
    """What happens with an element of a batch.

    Attributes:
        need_attr: It is a tensor, goes to the forward function and gets attributions.
        need_forward: It goes to the forward function.
        no_forward: It goes to `reduce` alone: a label.
    """

    need_attr = 0
    need_forward = 1
    no_forward = 2


@dataclass(frozen=True)
class Batch:
    """What a loader gives at a time.

    Attributes:
        elements: All of it.
        roles: The `InputRole` of each.
        single: Whether the loader gave a bare tensor.
    """

    elements: tuple[Any, ...]
    roles: Sequence[int]
    single: bool

    @property
    def moved(self) -> Tensors:
        """The elements that get attributions."""
        pairs = zip(self.elements, self.roles, strict=True)
        return as_tensors(tuple(x for x, role in pairs if role == InputRole.need_attr))

    def with_moved(self, moved: Tensors) -> tuple[Any, ...]:
        """The elements, others in the place of those that get attributions."""
        rest, pairs = iter(moved), zip(self.elements, self.roles, strict=True)
        return tuple(next(rest) if role == InputRole.need_attr else x for x, role in pairs)


@dataclass(frozen=True)
class DataMetric:
    """A number or tensor that a model earns with a data set.

    Attributes:
        forward: The model.
        loader: Gives the batches, again for each pass.
        roles: An `InputRole` for each element of a batch; None: all get attributions.
        reduce: Adds a batch to what is known of those before it; None joins the outputs.
        to_metric: From what is known at the end to the metric; None: it is that.
    """

    forward: ForwardFunction
    loader: Iterable[Any]
    roles: Sequence[int] | None = None
    reduce: Reduce | None = None
    to_metric: ToMetric | None = None

    def first(self) -> Batch:
        """The first batch, which all others must be like.

        Raises:
            InvalidType: the loader can be gone through only once, or gives something else than tensors and tuples.
            InvalidShape: there is not one role for each element.
            InvalidValue: there is no batch, a role is unknown, or none gets attributions.
        """
        if isinstance(self.loader, Iterator):
            raise InvalidType(
                f"dataloader is gone through once for each pass; got a {type(self.loader).__name__}, which ends with "
                "the first: give a DataLoader or a list"
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
        """Puts torch's random numbers, and those of the loader, back to where they were before."""
        own = getattr(self.loader, "generator", None)
        with streams_kept():
            before = own.get_state() if isinstance(own, torch.Generator) else None
            try:
                yield
            finally:
                if own is not None and before is not None:
                    own.set_state(before)

    def add(self, accum: Any, elements: tuple[Any, ...], roles: Sequence[int]) -> Any:
        """What is known with one batch more."""
        passed = (x for x, role in zip(elements, roles, strict=True) if role != InputRole.no_forward)
        output = as_output(self.forward(*passed)).detach()
        if self.reduce is not None:
            return self.reduce(accum, output, elements)
        outputs = [] if accum is None else accum
        outputs.append(torch.atleast_1d(output))
        return outputs

    def value(self, accum: Any) -> Tensor:
        """The metric of what is known at the end.

        Raises:
            InvalidType: it is no tensor.
        """
        known = torch.cat(accum) if self.reduce is None else accum
        found = known if self.to_metric is None else self.to_metric(known)
        if not isinstance(found, Tensor | int | float):
            source = "reduce" if self.to_metric is None else "to_metric"
            raise InvalidType(f"{source} must end in a tensor of metrics or a number; got {type(found).__name__}")
        return as_output(found).detach()

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
                "input_roles are 0 (gets attributions; at least one), 1 (goes to the forward function) and 2 (goes to "
                f"reduce alone); got {tuple(roles)}"
            )


class DataGame:
    """The metric of the data with absent features at their baseline; a pass over the data for each few coalitions.

    Args:
        metric: What is played for.
        features: Who owns which position, the same for all examples.
        baselines: The absent state, a row each.
        evaluator: Runs the passes.
        per_pass: Coalitions of one pass.
    """

    def __init__(
        self, metric: DataMetric, features: Features, baselines: Tensors, evaluator: Evaluator, per_pass: int
    ) -> None:
        self.metric, self.features, self.baselines = metric, features, baselines
        self.evaluator, self.per_pass = evaluator, per_pass
        self._shape: torch.Size | None = None

    def __call__(self, coalitions: Coalitions) -> Values:
        """`(coalitions, entries of the metric)`."""
        count = len(coalitions)
        passes = self.evaluator.run(count, self.per_pass, lambda start, stop: self._pass(coalitions[start:stop]))
        return torch.cat(list(passes))

    @torch.no_grad()
    def _pass(self, coalitions: Coalitions) -> Values:
        known: list[Any] = [None] * len(coalitions)
        with self.metric.same_draws():
            for number, batch in enumerate(self.metric.batches()):
                self.evaluator.check()
                inputs = self._checked(batch.moved, number)
                for i in range(len(coalitions)):
                    moved = points(self.features, coalitions[i : i + 1], inputs, self.baselines)
                    known[i] = self.metric.add(known[i], batch.with_moved(moved), batch.roles)
        values = torch.stack([self._entries(self.metric.value(accum)) for accum in known])
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
