"""What is explained: a score of inputs that can be moved, and where its gradient is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from llm_attr.core.backward import inference_tensors_named, keep_hooks_for_backward
from llm_attr.core.jacobian import ONE_BY_ONE, Jacobian
from llm_attr.core.neuron import chosen_neurons, neuron
from llm_attr.core.site import Site, differentiable, joined, reading, replaced
from llm_attr.core.target import Several, TargetOrSeveral, select, tile_target
from llm_attr.core.tensors import (
    Slot,
    as_baselines,
    as_tensors,
    broadcast,
    can_move,
    leaves,
    map_tensors,
    split_by,
    tile,
)
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, NoGradient
from llm_attr.typing import Baselines, ForwardFunction, NeuronSelector, TensorOrTensors, Tensors

Output: TypeAlias = Tensor | torch.futures.Future
"""What a score gives: a tensor, or the promise of one."""

Score: TypeAlias = Callable[[Tensors, tuple[Any, ...], TargetOrSeveral], Output]
"""`(inputs, extras, target) -> (batch,)`, or `(batch, outputs)` at several targets: the model's answer there.

With no target it is whatever the model answers.
"""


class DoesNotGrow(InvalidShape):
    """Several stacked batches got an output that is not one number for each example; one batch might."""


@dataclass(frozen=True)
class Gradients:
    """The derivatives of a score at some points.

    Attributes:
        scores: The score of each row; of several outputs `(outputs, rows)`.
        at: The tensors by which it was differentiated, `(rows, *features)` each.
        gradients: The derivatives, of the same shapes; of several outputs `(outputs, rows, *features)`.
        slots: Which of the tensors belong together.
    """

    scores: Tensor
    at: Tensors
    gradients: Tensors
    slots: tuple[Slot, ...]

    @property
    def axis(self) -> int:
        """The axis of the rows in the gradients: 1 behind the outputs, 0 where there is one without an axis."""
        return self.gradients[0].dim() - self.at[0].dim()


@dataclass(frozen=True)
class ManyOutputs:
    """A forward function all of whose outputs are explained together, each by itself.

    Attributes:
        forward: From inputs and additional arguments to `(batch, outputs)`.
        outputs: How many they are; None: one, `(batch,)`.
        jacobian: How they are differentiated.
        most: How many examples fit into one call that is differentiated; None: that is not known.
    """

    forward: ForwardFunction
    outputs: int | None
    jacobian: Jacobian
    most: Callable[[], int | None] = lambda: None

    def __call__(self, *args: Any) -> Any:
        """What the forward function gives."""
        return self.forward(*args)


@dataclass(frozen=True)
class Problem:
    """One output, or several, of each example as a function of inputs that a method moves.

    Attributes:
        forward: The user's model or function, as it was given.
        score: The model's answer at the target.
        inputs: What is moved, one tensor `(batch, *features)` each; at a layer in other shapes too, such as
            `(time, batch, features)`: then points cannot be stacked.
        baselines: Its absent state, broadcasting to the inputs.
        batch: The number of examples.
        extras: Arguments that go with each example and are never moved.
        target: The entry of the output that is explained.
        slots: Which of the inputs belong together, and the form in which the caller has them.
        observed: Where gradients are read; empty: at the inputs.
        grad_kwargs: Further arguments of `torch.autograd.grad`.
        outputs: How many outputs the score has, `(batch, outputs)`, all from one forward pass; None: one, `(batch,)` or
            a scalar for the batch.
        jacobian: How the outputs are differentiated.
    """

    forward: ForwardFunction
    score: Score
    inputs: Tensors
    baselines: Tensors
    batch: int
    extras: tuple[Any, ...] = ()
    target: TargetOrSeveral = None
    slots: tuple[Slot, ...] = ()
    observed: tuple[Site, ...] = ()
    grad_kwargs: Mapping[str, Any] | None = None
    outputs: int | None = None
    jacobian: Jacobian = ONE_BY_ONE

    @classmethod
    def of(
        cls,
        forward: ForwardFunction,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: TargetOrSeveral = None,
        additional_forward_args: Any = None,
        alike: bool = True,
    ) -> Problem:
        """The problem of explaining `forward(*inputs, *additional_forward_args)` at `target`.

        Inputs that need not be `alike` may differ in their first axis; then batches of them cannot be stacked.
        """
        moved = tuple(tensor.detach() for tensor in as_tensors(inputs, alike))
        args, call = additional_forward_args, forward.forward if isinstance(forward, ManyOutputs) else forward
        extras = () if args is None else args if isinstance(args, tuple) else (args,)

        def score(points: Tensors, extras: tuple[Any, ...], target: TargetOrSeveral) -> Output:
            answer = call(*(point.clone() for point in points), *extras)
            if is_promise(answer):
                return answer.then(lambda done: select(as_output(done.value()), target))
            return answer if target is None else select(as_output(answer), target)

        slot = Slot(len(moved), single=not isinstance(inputs, tuple))
        problem = cls(forward, score, moved, as_baselines(baselines, moved), len(moved[0]), extras, target, (slot,))
        if isinstance(target, Several):
            return replace(problem, outputs=len(target.targets))
        if isinstance(forward, ManyOutputs):
            return replace(problem, outputs=forward.outputs, jacobian=forward.jacobian)
        return problem

    def values(self, points: Tensors, copies: int) -> Output:
        """The score of `copies` stacked batches of points, `(copies * batch, *features)` each, without gradients."""
        with torch.no_grad():
            answer = self._score(points, copies)
        return answer.detach() if isinstance(answer, Tensor) else answer

    def number_each(self, points: Tensors, copies: int = 1) -> Tensor:
        """`(copies * batch,)` in at least fp32: the score of each example of some stacked batches of points.

        Of several outputs `(outputs, copies * batch)`.

        Raises:
            InvalidTarget: the score is not one number for each example.
            DoesNotGrow: the same for several batches, where it may be right for one.
        """
        scores = self.values(points, copies)
        if not isinstance(scores, Tensor) or not self._fits(scores, copies * self.batch):
            if copies > 1 and isinstance(scores, Tensor):
                raise self._does_not_grow(scores, copies)
            raise InvalidTarget(
                f"this needs one output for each of the {self.batch} examples; got "
                f"{tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__}"
            )
        scores = scores.flatten() if self.outputs is None else scores.t()
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def gradients(self, points: Tensors, copies: int) -> Gradients:
        """The score of `copies` stacked batches of points, and its derivatives where the problem is observed.

        Raises:
            InvalidType: the points are token ids or other whole numbers, and nothing else is observed.
            InvalidTarget: the score is not one number for each example, nor one for the whole batch.
            DoesNotGrow: the same for several batches, where it may be right for one.
            NoGradient: the score does not depend on what it is differentiated by.
        """
        jacobian = self.jacobian.for_pass(copies * self.batch, self.outputs or 1)
        with torch.inference_mode(False), torch.enable_grad(), keep_hooks_for_backward(), inference_tensors_named():
            with jacobian.kernels():
                found, scores, groups = self._observed(points, copies)
            gradients = tuple(gradient.detach() for gradient in self._derivatives(jacobian, scores, groups))
        return Gradients(found.scores, found.at, gradients, found.slots)

    def at(self, points: Tensors, copies: int) -> Gradients:
        """As `gradients`, of which there are none: only the scores, and what they would be differentiated by."""
        with torch.inference_mode(False), torch.enable_grad(), keep_hooks_for_backward(), inference_tensors_named():
            return self._observed(points, copies)[0]

    def read(
        self, sites: Sequence[Site], points: Tensors | None = None, movable: bool = False, copies: int = 1
    ) -> tuple[Tensors, tuple[Slot, ...]]:
        """What passes these sites when the model is given stacked batches of points (by default the inputs)."""
        with torch.no_grad(), ExitStack() as stack:
            readings = [stack.enter_context(reading(site, movable)) for site in sites]
            self.score(self.inputs if points is None else points, tile(self.extras, copies, self.batch), None)
        return tuple(tensor for found in readings for tensor in found.tensors), tuple(r.slot for r in readings)

    def cut_at(self, sites: Sequence[Site], baselines: Any = None) -> Problem:
        """The problem of moving what passes these sites; the layers before them run on the original inputs.

        Args:
            sites: Where.
            baselines: The absent state there, broadcasting to what passes: a tensor or number for all of the tensors,
                or a tuple or list with one for each; None: what passes for this problem's baselines.

        Raises:
            InvalidShape: a baseline does not broadcast to what passes a site.
        """
        inputs, slots = self.read(sites, movable=True)
        if baselines is None:
            low = tuple(baseline.expand_as(x) for baseline, x in zip(self.baselines, self.inputs, strict=True))
            absent, _ = self.read(sites, low, movable=True)
        else:
            absent = as_baselines(broadcast(baselines, inputs), inputs)
        inner = self.score

        def score(points: Tensors, extras: tuple[Any, ...], target: TargetOrSeveral) -> Output:
            with ExitStack() as stack:
                for site, part in zip(sites, split_by(points, slots), strict=True):
                    stack.enter_context(replaced(site, part))
                return inner(extras[0], extras[1:], target)

        extras = (self.inputs, *self.extras)
        return replace(self, score=score, inputs=inputs, baselines=absent, extras=extras, slots=slots)

    def observed_at(self, sites: Sequence[Site]) -> Problem:
        """The problem whose gradients are read at these sites, while the inputs move."""
        return replace(self, observed=tuple(sites))

    def of_neuron(self, site: Site, selector: NeuronSelector) -> Problem:
        """The problem of explaining a neuron instead of the output."""
        inner = self.score

        def score(points: Tensors, extras: tuple[Any, ...], target: TargetOrSeveral) -> Output:
            with reading(site) as found:
                inner(points, extras, target)
            return neuron(found.tensors, found.slot, selector)

        return replace(self, score=score, target=None, outputs=None)

    def through(self, site: Site, selector: NeuronSelector) -> Problem:
        """The problem whose gradient is the part of this one's that passes through a neuron: one forward, two backward.

        `dg/dx_i = df/dn dn/dx_i`; of several neurons that the selector adds up, the sum.
        """

        def score(points: Tensors, extras: tuple[Any, ...], target: TargetOrSeveral) -> Output:
            with differentiable(site) as found:
                scores = as_output(self.score(points, extras, target))
            self._check_scores(scores, len(points[0]) // max(1, self.batch))
            gradients = self._derivatives(self.jacobian, scores, [found.parts], retain_graph=True)
            chosen = chosen_neurons(found.tensors, found.slot, selector)
            inner = 1 if self.outputs is None else 2
            passed = [
                (g.detach() * mask * x).flatten(inner)
                for g, mask, x in zip(gradients, chosen, found.tensors, strict=True)
            ]
            total = torch.cat(passed, -1).sum(-1)
            return total if self.outputs is None else total.t()

        return replace(self, score=score, grad_kwargs=None)

    def _score(self, points: Tensors, copies: int) -> Output:
        extras = _outside_inference(tile(self.extras, copies, self.batch))
        answer = self.score(points, extras, tile_target(self.target, copies))
        return answer if is_promise(answer) else as_output(answer)

    def _observed(self, points: Tensors, copies: int) -> tuple[Gradients, Tensor, list[list[Tensors]]]:
        """The checked scores without and with their graph, and what they are differentiated by."""
        scores, groups, slots = self._observed_scores(points, copies)
        at = tuple(tensor.detach() for group in groups for tensor in joined(group))
        self._check_scores(scores, copies)
        self._check_rows(at, copies)
        of_rows = scores.detach() if self.outputs is None else scores.detach().t()
        return Gradients(of_rows, at, (), slots), scores, groups

    def _observed_scores(self, points: Tensors, copies: int) -> tuple[Tensor, list[list[Tensors]], tuple[Slot, ...]]:
        """The scores; what they are differentiated by, in parts for each site; and how that belongs together."""
        if not self.observed:
            check_movable(points)
            moved = tuple(_leaf(tensor) for tensor in points)
            return _at_hand(self._score(moved, copies)), [[moved]], self.slots
        with ExitStack() as stack:
            readings = [stack.enter_context(differentiable(site)) for site in self.observed]
            scores = _at_hand(self._score(points, copies))
        return scores, [found.parts for found in readings], tuple(found.slot for found in readings)

    def _fits(self, scores: Tensor, rows: int) -> bool:
        if self.outputs is not None:
            return scores.shape == (rows, self.outputs)
        return scores.numel() == rows and scores.shape[:1] in ((rows,), ())

    def _check_scores(self, scores: Tensor, copies: int) -> None:
        for_all = copies == 1 and scores.numel() == 1 and self.outputs is None
        if for_all or self._fits(scores, copies * self.batch):
            return
        if copies > 1:
            raise self._does_not_grow(scores, copies)
        raise InvalidTarget(
            f"a gradient needs one output for each of the {self.batch} examples, or one for the whole batch; got the "
            f"shape {tuple(scores.shape)}: " + ("name a target" if self.target is None else "name one more axis")
        )

    def _does_not_grow(self, scores: Tensor, copies: int) -> DoesNotGrow:
        return DoesNotGrow(f"{copies} batches of {self.batch} examples gave scores of shape {tuple(scores.shape)}")

    def _check_rows(self, at: Tensors, copies: int) -> None:
        if copies > 1 and not all(_has_rows(tensor, copies * self.batch) for tensor in at):
            shapes = [tuple(tensor.shape) for tensor in at]
            raise DoesNotGrow(f"{copies} batches of {self.batch} examples gave layers of shapes {shapes}")

    def _derivatives(self, jacobian: Jacobian, scores: Tensor, groups: list[list[Tensors]], **more: Any) -> Tensors:
        by = [tensor for group in groups for part in group for tensor in part]
        options = {"allow_unused": True, **(self.grad_kwargs or {}), **more}
        several = self.outputs is not None
        found = (jacobian.of if several else jacobian.of_one)(scores, by, options)
        if all(gradient is None for gradient in found) and not options.get("materialize_grads"):
            raise NoGradient(_INDEPENDENT)
        outputs = scores.shape[1:] if several else ()
        filled = iter(x.new_zeros((*outputs, *x.shape)) if g is None else g for g, x in zip(found, by, strict=True))
        parts = [[tuple(next(filled) for _ in part) for part in group] for group in groups]
        return tuple(gradient for group in parts for gradient in joined(group, int(several)))


_INDEPENDENT = (
    "the output does not depend on the inputs (or the layer) by operations that can be differentiated; "
    "is there a detach(), an argmax or a rounding on the way, or does the target not use them?"
)


def _at_hand(scores: Output) -> Tensor:
    """Scores that are no promise."""
    if not isinstance(scores, Tensor):
        raise InvalidType("gradients need a forward function that gives a tensor; got a torch.futures.Future")
    return scores


def _has_rows(tensor: Tensor, rows: int) -> bool:
    """Whether the first axis is the batch, and the second one surely is not, as in `(time, batch, features)`."""
    return tensor.shape[:1] == (rows,) and (tensor.dim() < 3 or tensor.shape[1] != rows)


def check_movable(inputs: Tensors) -> None:
    """Raises `InvalidType` for inputs of whole numbers."""
    for index, tensor in enumerate(inputs):
        if can_move(tensor):
            continue
        raise InvalidType(
            f"input {index} holds {tensor.dtype}, by which nothing can be differentiated; for token ids attribute to "
            "the embedding layer (LayerIntegratedGradients(model, embedding)), and pass what is not to be attributed "
            "in additional_forward_args"
        )


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_() if tensor.is_inference() else tensor.detach().requires_grad_()


def _outside_inference(extras: tuple[Any, ...]) -> tuple[Any, ...]:
    """The extras such that autograd may save them: tensors made in inference mode are copied."""
    if torch.is_inference_mode_enabled() or not any(tensor.is_inference() for tensor in leaves(extras)):
        return extras
    return map_tensors(lambda tensor: tensor.clone() if tensor.is_inference() else tensor, extras)


def is_promise(answer: Any) -> TypeGuard[torch.futures.Future]:
    """Whether an answer is still to come; what `then` gives is a future of the base class."""
    return isinstance(answer, torch._C.Future)


def as_output(answer: Any) -> Tensor:
    """The model's answer as a tensor; numbers count as tensors of no axes, truth values as 0 and 1."""
    if isinstance(answer, Tensor):
        return answer.float() if answer.dtype == torch.bool else answer
    if isinstance(answer, int | float):
        return torch.tensor(answer, dtype=torch.float64 if isinstance(answer, float) else torch.int64, device="cpu")
    raise InvalidType(
        f"the forward function must give a tensor or a number; got {type(answer).__name__} "
        "(wrap the model in a function that picks the tensor to explain)"
    )
