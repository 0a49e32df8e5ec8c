"""Perturbations along the gradient of a loss."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from typing import Any, cast

from torch import Tensor

from llm_attr.core.attacks.gradient_attack import GradientAttack, masks_of
from llm_attr.core.attacks.loss import Loss, loss_problem
from llm_attr.core.attacks.steps import DIRECTIONS, ball
from llm_attr.core.problem import Problem
from llm_attr.core.tensors import in_form_of
from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from llm_attr.robust.perturbation import Perturbation
from llm_attr.typing import Form, ForwardFunction, TensorOrTensors, Tensors


class GradientPerturbation(Perturbation, ABC):
    """A perturbation along the gradient of a loss.

    Args:
        forward_func: A model, or any callable from the inputs and the additional arguments to a tensor
            `(batch, ...)`.
        loss_func: From the output and `target` to one number for each example, or one for the batch. None: minus the
            logarithm of the output at `target`, as for probabilities; minus the output where that is not positive, so
            that logits do too.
        lower_bound: The least value of an entry of the inputs.
        upper_bound: The largest.

    Shared arguments of `perturb`:

    * `inputs`: a tensor or tuple of tensors `(batch, *features)` of floating-point numbers within the bounds.
    * `target`: the entry of the output whose loss is raised, or with `targeted` lowered: an int; a tuple for outputs
      with more axes; a list or 1-D tensor with one per example; None for one output per example. A `loss_func` gets it
      as it is, and it may be whatever that takes.
    * `additional_forward_args`: passed on after the inputs and never perturbed.
    * `targeted`: whether to move toward the target rather than away from it.
    * `mask`: what each entry's step is multiplied by, broadcasting to the input: 0 leaves an entry as it is. For
      several inputs a tuple, with None for an input that is perturbed in full.

    The model keeps its mode, gradients and hooks; results have no graph.

    Raises:
        InvalidType: the inputs are whole numbers, such as token ids.
        InvalidValue: an input is outside the bounds, or a length is negative.
        InvalidShape: a mask does not broadcast to its input.
        NoGradient: the loss does not depend on the inputs.
        NonFiniteGradient: the gradient is NaN.
    """

    _posed: Callable[..., tuple[Problem, GradientAttack]]
    """The loss, and the attack on it; arguments as in `perturb`."""

    def __init__(
        self,
        forward_func: ForwardFunction,
        loss_func: Loss | None = None,
        lower_bound: float = float("-inf"),
        upper_bound: float = float("inf"),
    ) -> None:
        if not callable(forward_func):
            raise InvalidType(f"forward_func must be a model or a callable; got {type(forward_func).__name__}")
        if not lower_bound <= upper_bound:
            raise InvalidValue(f"lower_bound must be at most upper_bound; got {lower_bound!r} and {upper_bound!r}")
        self.forward_func, self.loss_func = forward_func, loss_func
        self.lower_bound, self.upper_bound = lower_bound, upper_bound

    def attempts(self, count: int, inputs: TensorOrTensors, **kwargs: Any) -> Iterator[TensorOrTensors]:
        """Perturbs the inputs several times; see `Perturbation`.

        Attempts without a random number are computed once, and attempts that differ only in their random start share
        passes of the model.
        """
        problem, attack = self._posed(inputs, **kwargs)
        for moved in attack.run_several(problem, count, type(self).__name__):
            yield in_form_of(inputs, moved)

    def _run(self, inputs: Form, **kwargs: Any) -> Form:
        problem, attack = self._posed(inputs, **kwargs)
        return cast(Form, in_form_of(inputs, attack.run(problem, type(self).__name__)))

    def _problem(self, inputs: TensorOrTensors, target: Any, additional_forward_args: Any) -> Problem:
        return loss_problem(self.forward_func, self.loss_func, inputs, target, additional_forward_args)

    def _attack(self, inputs: Tensors, step: float, targeted: bool, mask: Any, **options: Any) -> GradientAttack:
        signed = -step if targeted else step
        bounds = (self.lower_bound, self.upper_bound)
        return GradientAttack(signed, bounds=bounds, masks=masks_of(mask, inputs), **options)


class FGSM(GradientPerturbation):
    """The fast gradient sign method: one step along the sign of the loss's gradient.

    `x' = clamp(x + epsilon sign(dL/dx))`, and with `targeted` minus in place of plus.

    Shared arguments: see `GradientPerturbation`.

    Source: I. Goodfellow, J. Shlens and C. Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015,
    section 4.

    Example:
        >>> import torch
        >>> model = torch.nn.Softmax(1)
        >>> FGSM(model).perturb(torch.tensor([[2.0, 1.0]]), epsilon=0.5, target=0)
        tensor([[1.5000, 1.5000]])
    """

    def perturb(
        self,
        inputs: Form,
        epsilon: float,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        mask: TensorOrTensors | None = None,
    ) -> Form:
        """Moves every entry of the inputs by `epsilon` in the direction that raises the loss.

        Shared arguments: see `GradientPerturbation`.

        Args:
            epsilon: The length of the step, in units of the inputs; at least 0.

        Returns:
            The perturbed inputs, in the form of the inputs.
        """
        args = {"epsilon": epsilon, "target": target, "additional_forward_args": additional_forward_args}
        return self._run(inputs, **args, targeted=targeted, mask=mask)

    def _posed(
        self,
        inputs: TensorOrTensors,
        epsilon: float,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        mask: Any = None,
    ) -> tuple[Problem, GradientAttack]:
        problem = self._problem(inputs, target, additional_forward_args)
        return problem, self._attack(problem.inputs, _length("epsilon", epsilon), targeted, mask)


class PGD(GradientPerturbation):
    """Projected gradient descent: several small steps, each followed by a projection onto a ball around the input.

    `x_(t+1) = clamp(x_0 + project(x_t + step_size sign(dL/dx_t) - x_0))`

    The projection cuts the perturbation to the radius: each entry (`Linf`), or the Euclidean norm of each example
    (`L2`).

    Shared arguments: see `GradientPerturbation`.

    Source: A. Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, section 2.1.

    Example:
        >>> import torch
        >>> pgd = PGD(torch.nn.Softmax(1), lower_bound=0.0, upper_bound=2.0)
        >>> pgd.perturb(torch.tensor([[2.0, 1.0]]), radius=0.5, step_size=0.2, step_num=5, target=0)
        tensor([[1.5000, 1.5000]])
    """

    def perturb(
        self,
        inputs: Form,
        radius: float,
        step_size: float,
        step_num: int,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        random_start: bool = False,
        norm: str = "Linf",
        mask: TensorOrTensors | None = None,
        *,
        direction: str = "sign",
    ) -> Form:
        """Moves the inputs within the ball toward a higher loss.

        Shared arguments: see `GradientPerturbation`.

        Args:
            radius: The radius of the ball, in units of the inputs; at least 0.
            step_size: The length of a step: of each entry, or with `direction="gradient"` of an example.
            step_num: The number of steps.
            random_start: Whether to start at a point drawn uniformly from the ball, from torch's stream, rather than
                at the input.
            norm: `Linf` or `L2`.
            direction: `sign`, or `gradient`: the gradient over its Euclidean norm, the steepest direction for `L2`.

        Returns:
            The perturbed inputs, in the form of the inputs.

        Raises:
            UnknownName: there is no such norm or direction.
        """
        args = {"radius": radius, "step_size": step_size, "step_num": step_num, "target": target, "mask": mask}
        more = {"random_start": random_start, "norm": norm, "targeted": targeted, "direction": direction}
        return self._run(inputs, **args, **more, additional_forward_args=additional_forward_args)

    def _posed(
        self,
        inputs: TensorOrTensors,
        radius: float,
        step_size: float,
        step_num: int,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        random_start: bool = False,
        norm: str = "Linf",
        mask: Any = None,
        *,
        direction: str = "sign",
    ) -> tuple[Problem, GradientAttack]:
        if isinstance(step_num, bool) or not isinstance(step_num, int) or step_num < 0:
            raise InvalidValue(f"step_num must be a whole number of at least 0; got {step_num!r}")
        if direction not in DIRECTIONS:
            raise UnknownName("direction", direction, DIRECTIONS)
        inside = ball(norm, _length("radius", radius))
        problem = self._problem(inputs, target, additional_forward_args)
        options = {"steps": step_num, "normalise": DIRECTIONS[direction], "ball": inside, "random_start": random_start}
        return problem, self._attack(problem.inputs, _length("step_size", step_size), targeted, mask, **options)


def _length(name: str, value: float | Tensor) -> float:
    length = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(length, bool) or not isinstance(length, int | float) or not 0 <= length < float("inf"):
        raise InvalidValue(f"{name} must be a finite number of at least 0; got {value!r}")
    return float(length)
