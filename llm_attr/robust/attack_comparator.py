"""Metrics of a model under several attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from llm_attr.core.attacks.stacked_calls import StackedCalls
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidType, InvalidValue, positive
from llm_attr.robust.perturbation import attempts_of
from llm_attr.typing import ForwardFunction

ORIGINAL = "Original"
"""The name of the unperturbed input in results."""

MetricResult = TypeVar("MetricResult")

_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(0),
    "min": lambda values: values.amin(0),
    "max": lambda values: values.amax(0),
}


class AttackInfo(NamedTuple):
    """An attack, and how it is run.

    Attributes:
        attack_fn: The attack.
        name: Its name in results.
        num_attempts: How often it is run on an input.
        apply_before_preproc: Whether it comes before the preprocessing.
        attack_kwargs: Its keywords.
        additional_args: The names of the keywords that it takes from `AttackComparator.evaluate`.
    """

    attack_fn: Callable[..., Any]
    name: str
    num_attempts: int
    apply_before_preproc: bool
    attack_kwargs: Mapping[str, Any]
    additional_args: Sequence[str]


def agg_metric(inp: Any) -> Any:
    """The mean over the examples of a metric `(batch, ...)`, of each part of a tuple; numbers stay as they are.

    Example:
        >>> import torch
        >>> agg_metric(torch.tensor([1.0, 3.0]))
        tensor(2.)
    """
    if isinstance(inp, tuple):
        return tuple(agg_metric(part) for part in inp)
    return _floats(inp).mean(0) if isinstance(inp, Tensor) and inp.dim() else inp


class AttackComparator(Generic[MetricResult]):
    """Computes a metric of a model's output for the input and under each of several attacks.

    Attempts and attacks share calls of the model. `FGSM`, and `PGD` without a random start, are computed once for all
    their attempts.

    Args:
        forward_func: A model, or any callable; gets the (preprocessed) input as its first argument, a tuple too (wrap a
            model of two inputs: `lambda pair: model(*pair)`).
        metric: From the output, and the keywords of `evaluate`, to a number, a tensor `(batch, ...)`, or a tuple of
            these. It is called for each attempt by itself.
        preproc_fn: From the input to what the model takes. None: they are the same.

    Source: the interface of Captum 0.9.0.

    Example:
        >>> import torch
        >>> comparator = AttackComparator(torch.nn.Softmax(1), lambda out: out[:, 0])
        >>> comparator.add_attack(lambda x: x.flip(1), "flipped")
        >>> comparator.evaluate(torch.tensor([[3.0, 0.0]]))
        {'Original': tensor([0.9526]), 'flipped': {'mean': tensor([0.0474])}}
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        metric: Callable[..., MetricResult],
        preproc_fn: Callable[[Any], Any] | None = None,
    ) -> None:
        for name, value in (("forward_func", forward_func), ("metric", metric)):
            if not callable(value):
                raise InvalidType(f"{name} must be a callable; got {type(value).__name__}")
        self.forward_func, self.metric, self.preproc_fn = forward_func, metric, preproc_fn
        self.attacks: dict[str, AttackInfo] = {}
        self._sums: dict[str, tuple[Any, Any]] = {}

    def add_attack(
        self,
        attack: Callable[..., Any],
        name: str | None = None,
        num_attempts: int = 1,
        apply_before_preproc: bool = True,
        attack_kwargs: Mapping[str, Any] | None = None,
        additional_attack_arg_names: Sequence[str] | None = None,
    ) -> None:
        """Adds an attack.

        Args:
            attack: A `Perturbation` or any callable `attack(inputs, **keywords)`.
            name: Its name in results; None: that of the function or class.
            num_attempts: How often it is run on each input.
            apply_before_preproc: Whether it comes before `preproc_fn`.
            attack_kwargs: Its keywords.
            additional_attack_arg_names: Keywords of `evaluate` that are passed to it too, such as `target`.

        Raises:
            InvalidValue: another attack has this name.
            InvalidType: the attack cannot be called.
        """
        if not callable(attack):
            raise InvalidType(f"attack must be a Perturbation or a callable; got {type(attack).__name__}")
        name = name or str(getattr(attack, "__name__", type(attack).__name__))
        if name in self.attacks or name == ORIGINAL:
            raise InvalidValue(f"there is an attack named {name!r}; give this one another name")
        names = tuple(additional_attack_arg_names or ())
        info = AttackInfo(
            attack, name, positive("num_attempts", num_attempts), apply_before_preproc, dict(attack_kwargs or {}), names
        )
        self.attacks[name] = info

    def evaluate(
        self,
        inputs: Any,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The metric for the input and under each attack.

        Args:
            inputs: What `preproc_fn` and the attacks before it take, or the model.
            additional_forward_args: Further arguments of the model.
            perturbations_per_eval: Perturbed inputs per call of the model. None: as many as fit if a call of two gives
                the output of the first alone; otherwise one.
            **kwargs: Keywords of the metric, and of the attacks that ask for them.

        Returns:
            The metric under "Original"; under the name of each attack `mean`, and with several attempts `min` and
            `max` over them.

        Raises:
            InvalidValue: an attack takes a keyword that is not given.
            InvalidShape: an attack changes the shape of what the model takes.
        """
        args = additional_forward_args
        extras = () if args is None else args if isinstance(args, tuple) else (args,)
        per_call = (
            None if perturbations_per_eval is None else positive("perturbations_per_eval", perturbations_per_eval)
        )
        options = {name: _options(info, kwargs) for name, info in self.attacks.items()}
        start = inputs if self.preproc_fn is None else self.preproc_fn(inputs)
        total = 1 + sum(info.num_attempts for info in self.attacks.values())
        device = start.device if isinstance(start, Tensor) else None
        with Evaluator("AttackComparator", total, device=device) as evaluator:
            calls = StackedCalls(self.forward_func, start, extras, evaluator, per_call)
            original = self.metric(calls.output, **kwargs)
            outputs = calls.outputs(self._perturbed(inputs, start, options))
            found: dict[str, list[Any]] = {
                name: [self.metric(next(outputs), **kwargs) for _ in range(info.num_attempts)]
                for name, info in self.attacks.items()
            }
        results = {name: _summarized(values) for name, values in found.items()}
        self._count(original, results)
        return {ORIGINAL: _mapped(_floats, original), **results}

    def summary(self) -> dict[str, Any]:
        """The means over all examples of all calls of `evaluate` since the last `reset`.

        Under "Original" and the name of each attack, `{"mean": ...}`; with several attempts under "NAME Mean Attempt",
        "NAME Min Attempt" and "NAME Max Attempt". A call counts as often as its metric has examples.
        """
        return {name: {"mean": _mapped(torch.div, total, weight)} for name, (total, weight) in self._sums.items()}

    def reset(self) -> None:
        """Forgets the calls of `evaluate` so far."""
        self._sums = {}

    def _perturbed(self, raw: Any, start: Any, options: Mapping[str, Mapping[str, Any]]) -> Iterator[Any]:
        """What the model takes, for each attempt of each attack."""
        for name, info in self.attacks.items():
            before = info.apply_before_preproc and self.preproc_fn is not None
            given = raw if before else start
            for moved in attempts_of(info.attack_fn, info.num_attempts, given, **options[name]):
                yield self.preproc_fn(moved) if before and self.preproc_fn is not None else moved

    def _count(self, original: Any, results: Mapping[str, Mapping[str, Any]]) -> None:
        rows = {ORIGINAL: original}
        for name, values in results.items():
            several = len(values) > 1
            rows |= {f"{name} {kind.title()} Attempt" if several else name: value for kind, value in values.items()}
        for name, value in rows.items():
            weight = _mapped(_examples, value)
            total = _mapped(torch.mul, _mapped(_floats, agg_metric(value)), weight)
            old = self._sums.get(name)
            self._sums[name] = (total, weight) if old is None else tuple(map(_added, old, (total, weight)))


def _options(info: AttackInfo, given: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in info.additional_args if name not in given]
    if missing:
        raise InvalidValue(f"the attack {info.name!r} takes {', '.join(missing)} from evaluate; pass {missing[0]}=...")
    return {**info.attack_kwargs, **{name: given[name] for name in info.additional_args}}


def _summarized(values: list[Any]) -> dict[str, Any]:
    """The statistics over the attempts."""
    kinds = _STATISTICS if len(values) > 1 else {"mean": _STATISTICS["mean"]}
    if isinstance(values[0], tuple):
        parts = [_summarized(list(part)) for part in zip(*values, strict=True)]
        return {kind: tuple(part[kind] for part in parts) for kind in kinds}
    stacked = torch.stack([_floats(value) for value in values])
    return {kind: statistic(stacked) for kind, statistic in kinds.items()}


def _mapped(function: Callable[..., Any], *values: Any) -> Any:
    """The function of each part of tuples."""
    if isinstance(values[0], tuple):
        return tuple(_mapped(function, *parts) for parts in zip(*values, strict=True))
    return function(*values)


def _added(first: Any, second: Any) -> Any:
    return _mapped(torch.add, first, second)


def _floats(value: Any) -> Tensor:
    if not isinstance(value, Tensor | int | float):
        raise InvalidType(f"the metric must give a number, a tensor or a tuple of these; got {type(value).__name__}")
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _examples(value: Any) -> Tensor:
    """How many examples a metric is of, as a tensor."""
    tensor = _floats(value)
    return torch.tensor(float(len(tensor)) if tensor.dim() else 1.0, dtype=tensor.dtype, device=tensor.device)
