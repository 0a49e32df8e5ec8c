"""The least strength of a perturbation that changes a prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from math import ceil, isfinite
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.attacks.stacked_calls import StackedCalls
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, InvalidValue, UnknownName, positive
from llm_attr.robust.perturbation import attempts_of
from llm_attr.typing import ForwardFunction

ROUNDING = 1e-9
"""The part of a step by which a range of floats may fall short of a whole number of steps."""


class MinParamPerturbationMode(Enum):
    """How the values of the parameter are searched."""

    LINEAR = 0
    BINARY = 1


def drange(min_val: float, max_val: float, step_val: float) -> Iterator[float]:
    """The numbers `min_val + k step_val` below `max_val`, whole if all three are.

    Args:
        min_val: The first.
        max_val: What all of them are below.
        step_val: The distance between them.

    Example:
        >>> list(drange(0, 3, 1))
        [0, 1, 2]
    """
    for number in range(_steps(min_val, max_val, step_val)):
        yield min_val + number * step_val


def default_correct_fn(model_out: Tensor, target: Any) -> bool:
    """Whether the largest output of every example is its target.

    Args:
        model_out: `(batch, classes)`.
        target: A class, or one for each example.

    Raises:
        InvalidShape: the output has other axes.

    Example:
        >>> import torch
        >>> default_correct_fn(torch.tensor([[1.0, 3.0]]), target=1)
        True
    """
    if not isinstance(model_out, Tensor) or model_out.dim() != 2:
        given = tuple(model_out.shape) if isinstance(model_out, Tensor) else type(model_out).__name__
        raise InvalidShape(f"without a correct_fn the output must be (batch, classes); got {given}")
    wanted = torch.as_tensor(target, device=model_out.device)
    if wanted.numel() not in (1, len(model_out)):
        raise InvalidTarget(f"target must be a class or one for each of {len(model_out)} examples; got {target!r}")
    return bool((model_out.argmax(1) == wanted.flatten()).all())


class MinParamPerturbation:
    """Finds the least value of a perturbation's parameter at which the model's prediction is wrong.

    The values are `arg_min`, `arg_min + arg_step`, ... below `arg_max`. The linear search goes up from the first. The
    binary search assumes that a value succeeds if a lesser one does, and takes about as many steps as the number of
    values has binary digits.

    Args:
        forward_func: A model, or any callable; gets the input as its first argument, a tuple too (wrap a model of two
            inputs: `lambda pair: model(*pair)`).
        attack: A `Perturbation` or any callable `attack(inputs, **{arg_name: value}, **attack_kwargs)`.
        arg_name: The name of the parameter.
        arg_min: Its least value.
        arg_max: What all values are below.
        arg_step: The distance between them.
        mode: `linear` or `binary`.
        num_attempts: Attempts for each value; one that succeeds is enough.
        preproc_fn: From the input to what the model takes. None: they are the same.
        apply_before_preproc: Whether the attack comes before `preproc_fn`.
        correct_fn: From the output (and `target` and further keywords) to whether the prediction is right. None:
            `default_correct_fn`.

    Raises:
        InvalidValue: the values are no range.
        UnknownName: there is no such mode.

    Source: the interface of Captum 0.9.0.

    Example:
        >>> import torch
        >>> search = MinParamPerturbation(torch.nn.Softmax(1), lambda x, shift: x + torch.tensor([0.0, shift]),
        ...     arg_name="shift", arg_min=0, arg_max=10, arg_step=1, mode="binary")
        >>> search.evaluate(torch.tensor([[2.5, 0.0]]), target=0)
        (tensor([[2.5000, 3.0000]]), 3)
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        attack: Callable[..., Any],
        arg_name: str,
        arg_min: float,
        arg_max: float,
        arg_step: float,
        mode: str = "linear",
        num_attempts: int = 1,
        preproc_fn: Callable[[Any], Any] | None = None,
        apply_before_preproc: bool = False,
        correct_fn: Callable[..., bool] | None = None,
    ) -> None:
        for name, value in (("forward_func", forward_func), ("attack", attack)):
            if not callable(value):
                raise InvalidType(f"{name} must be a callable; got {type(value).__name__}")
        modes = {each.name.lower(): each for each in MinParamPerturbationMode}
        if not isinstance(mode, str) or mode.lower() not in modes:
            raise UnknownName("mode", mode, modes)
        self.forward_func, self.attack, self.arg_name = forward_func, attack, arg_name
        self.arg_min, self.arg_max, self.arg_step = arg_min, arg_max, arg_step
        self.mode, self.num_attempts = modes[mode.lower()], positive("num_attempts", num_attempts)
        self.preproc_fn, self.apply_before_preproc = preproc_fn, apply_before_preproc
        self.correct_fn = correct_fn or default_correct_fn
        self._count = _steps(arg_min, arg_max, arg_step)

    def evaluate(
        self,
        inputs: Any,
        additional_forward_args: Any = None,
        target: Any = None,
        perturbations_per_eval: int = 1,
        attack_kwargs: Mapping[str, Any] | None = None,
        correct_fn_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Any, float | None]:
        """The first perturbed input whose prediction is wrong, and the value of the parameter there.

        Args:
            inputs: What `preproc_fn` takes, or the model. A batch is one input: its prediction is right if it is right
                for every example.
            additional_forward_args: Further arguments of the model.
            target: The right prediction; passed on to `correct_fn` unless None.
            perturbations_per_eval: Perturbed inputs per call of the model. More than one are perturbed before the
                first is judged, so that a linear search may perturb some for nothing.
            attack_kwargs: Further keywords of the attack.
            correct_fn_kwargs: Further keywords of `correct_fn`.

        Returns:
            The input (before `preproc_fn`, if that comes after the attack) and the value; None twice if no value
            changes the prediction.

        Raises:
            InvalidTarget: the prediction is wrong without any perturbation.
            InvalidShape: the attack changes the shape of the input.
        """
        args = additional_forward_args
        extras = () if args is None else args if isinstance(args, tuple) else (args,)
        judge = dict(correct_fn_kwargs or {}) | ({} if target is None else {"target": target})
        total = 1 + self.num_attempts * (self._count if self.mode.name == "LINEAR" else self._count.bit_length())
        with Evaluator("MinParamPerturbation", total, device=_device(inputs)) as evaluator:
            start = inputs if self.preproc_fn is None else self.preproc_fn(inputs)
            per_call = positive("perturbations_per_eval", perturbations_per_eval)
            calls = StackedCalls(self.forward_func, start, extras, evaluator, per_call)
            if not self.correct_fn(calls.output, **judge):
                raise InvalidTarget(
                    f"the model does not give the target {target!r} for the input as it is, so no perturbation is "
                    "needed to change it; pass what it predicts"
                )
            search = self._linear if self.mode is MinParamPerturbationMode.LINEAR else self._binary
            found = search(_Trial(self, inputs, start, dict(attack_kwargs or {}), judge, calls, per_call))
            evaluator.finish()
        return (None, None) if found is None else found

    def _linear(self, trial: _Trial) -> tuple[Any, float] | None:
        return trial.first_wrong(range(self._count))

    def _binary(self, trial: _Trial) -> tuple[Any, float] | None:
        found, low, high = None, 0, self._count
        while low < high:
            middle = (low + high) // 2
            wrong = trial.first_wrong([middle])
            if wrong is None:
                low = middle + 1
            else:
                found, high = wrong, middle
        return found


class _Trial:
    """The search for one input."""

    def __init__(
        self,
        search: MinParamPerturbation,
        raw: Any,
        start: Any,
        attack_kwargs: dict[str, Any],
        judge: dict[str, Any],
        calls: StackedCalls,
        per_call: int,
    ) -> None:
        self._search, self._raw, self._start = search, raw, start
        self._attack_kwargs, self._judge, self._calls, self._per_call = attack_kwargs, judge, calls, per_call

    def first_wrong(self, numbers: Any) -> tuple[Any, float] | None:
        """The first perturbed input of these values that is predicted wrongly, and its value."""
        waiting: list[tuple[Any, float]] = []
        for output in self._calls.outputs(self._perturbed(numbers, waiting)):
            one = waiting.pop(0)
            if not self._search.correct_fn(output, **self._judge):
                return one
        return None

    def _perturbed(self, numbers: Any, waiting: list[tuple[Any, float]]) -> Iterator[Any]:
        """What the model takes for each attempt at each value; what is returned for it is put into `waiting`."""
        it = self._search
        before = it.apply_before_preproc and it.preproc_fn is not None
        for number in numbers:
            value = it.arg_min + number * it.arg_step
            options = self._attack_kwargs | {it.arg_name: value}
            tries = attempts_of(it.attack, it.num_attempts, self._raw if before else self._start, **options)
            for moved in tries:
                waiting.append((moved, value))
                yield it.preproc_fn(moved) if before and it.preproc_fn is not None else moved


def _device(inputs: Any) -> torch.device | None:
    return inputs.device if isinstance(inputs, Tensor) else None


def _steps(low: float, high: float, step: float) -> int:
    """How many values a range has."""
    numbers = (low, high, step)
    if any(isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) for value in numbers):
        raise InvalidValue(f"the range of the parameter must be finite numbers; got {numbers}")
    if step <= 0 or not low < high:
        raise InvalidValue(f"the range must go up in positive steps; got {low!r} to {high!r} in steps of {step!r}")
    return max(1, ceil((high - low) / step - ROUNDING))
