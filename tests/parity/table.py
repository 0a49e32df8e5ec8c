"""A row of the comparison with Captum: a class of both libraries, asked the same, and how close the answers must be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import llm_attr.attr
from llm_attr.core.tensors import leaves
from tests.parity.cases import Case

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr

Options = dict[str, Any]


@dataclass(frozen=True)
class Close:
    """How close two answers are.

    Attributes:
        relative: Of each entry.
        absolute: Of each entry; None: `relative` times the largest entry.
        single: The two where Captum answers in single precision; None: it does not.
        of_sums: `absolute` is times the largest sum of magnitudes of an example's attributions, where that is over 1.
    """

    relative: float = 1e-6
    absolute: float | None = None
    single: tuple[float, float | None] | None = None
    of_sums: bool = False

    def check(self, result: Any, expected: Any, attributions: Any = ()) -> None:
        """Assert that the two have the same form and no entries further apart than this."""
        if isinstance(expected, list | tuple):
            assert type(result) is type(expected)
            assert len(result) == len(expected)
            for got, want in zip(result, expected, strict=True):
                self.check(got, want)
            return
        assert not result.requires_grad
        relative, absolute = self.relative, self.absolute
        if self.single is not None and expected.dtype == torch.float32:
            result, (relative, absolute) = result.float(), self.single
        if absolute is None:
            absolute = relative * (expected.abs().max().item() if expected.numel() else 0.0)
        if self.of_sums:
            absolute *= max(1.0, sum(part.abs().flatten(1).sum(1).max().item() for part in leaves(attributions)))
        torch.testing.assert_close(result, expected, rtol=relative, atol=absolute, check_dtype=self.single is None)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        method: The class.
        case: What the inputs, the model and the place are called.
        args: What the class is made of: a forward function, a layer.
        inputs: What is explained.
        options: Of `attribute`.
        made: Keywords of the class.
        ways: Options that only llm_attr is given; none of them changes the answer.
        close: Of the attributions.
        delta: Of the convergence deltas; None: they are not compared.
        seeded: Both global streams are seeded first.
        stream: And torch's is left where Captum leaves it.
        theirs: What Captum's class is made of, where it fails on the same.
        tunnel: Options of a NoiseTunnel around the method, if it is in one.
    """

    method: str
    case: str
    args: tuple[Any, ...]
    inputs: Any
    options: Options = field(default_factory=dict)
    made: Options = field(default_factory=dict)
    ways: tuple[Options, ...] = ({},)
    close: Close = Close()
    delta: Close | None = None
    seeded: bool = False
    stream: bool = False
    theirs: tuple[Any, ...] | None = None
    tunnel: Options | None = None

    def __str__(self) -> str:
        options = {**self.made, **(self.tunnel or {}), **self.options}
        plain = {name: value for name, value in options.items() if isinstance(value, bool | int | str) and value}
        method = self.method if self.tunnel is None else f"{self.method} in noise"
        return "-".join([method, self.case, *(f"{name}={value}" for name, value in plain.items())])

    def check(self) -> None:
        """Assert that both libraries give the same."""
        expected, after = self._asked(captum.attr, self.theirs or self.args, {})
        for way in self.ways:
            result, own_after = self._asked(llm_attr.attr, self.args, way)
            assert not self.stream or torch.equal(own_after, after)
            if not self.options.get("return_convergence_delta"):
                self.close.check(result, expected)
                continue
            self.close.check(result[0], expected[0])
            if self.delta is not None:
                self.delta.check(result[1], expected[1], expected[0])

    def _asked(self, library: Any, args: tuple[Any, ...], way: Options) -> tuple[Any, Tensor]:
        """The answer, and torch's stream after it."""
        with warnings.catch_warnings():
            if library is captum.attr:
                warnings.simplefilter("ignore")
            method = getattr(library, self.method)(*args, **self.made)
            if self.tunnel is not None:
                method = library.NoiseTunnel(method)
            if self.seeded:
                torch.manual_seed(7)
                np.random.seed(7)
            answer = method.attribute(self.inputs, **(self.tunnel or {}), **self.options, **way)
        return (detached(answer) if library is captum.attr else answer), torch.get_rng_state()


def detached(value: Any) -> Any:
    """The value without its graph."""
    if isinstance(value, list | tuple):
        return type(value)(detached(item) for item in value)
    return value.detach() if isinstance(value, Tensor) else value


def on_inputs(
    method: str, cases: dict[str, Case], given: Callable[[Case], Iterable[Options]] = lambda _: [{}], **row: Any
) -> Iterator[Row]:
    """A row for each case and each set of options."""
    for name, case in cases.items():
        for options in given(case):
            yield Row(method, name, (case.model,), case.inputs, {**case.options, **options}, **row)


def at_layers(
    method: str,
    cases: dict[str, Case],
    given: Callable[[Case], Iterable[Options]] = lambda _: [{}],
    skip: Iterable[tuple[str, str]] = (),
    **row: Any,
) -> Iterator[Row]:
    """A row for each case, each of its layers, and each set of options."""
    for name, case in cases.items():
        for layer in case.layers:
            if (name, layer) in skip:
                continue
            module, to_input = case.at(layer)
            for options in given(case):
                said = {"attribute_to_layer_input": to_input, **case.options, **options}
                yield Row(method, f"{name}, {layer}", (case.model, module), case.inputs, said, **row)


def at_neurons(
    method: str,
    cases: dict[str, Case],
    given: Callable[[Case], Iterable[Options]] = lambda _: [{}],
    to_input: bool = True,
    target: bool = False,
    **row: Any,
) -> Iterator[Row]:
    """A row for each case, each of its layers with a neuron, and each set of options; most take no target."""
    for name, case in cases.items():
        own = {key: value for key, value in case.options.items() if target or key != "target"}
        for layer, neuron in case.neurons.items():
            module, at_input = case.at(layer)
            for options in given(case):
                said = {"neuron_selector": neuron, **own, **options}
                if to_input:
                    said["attribute_to_neuron_input"] = at_input
                yield Row(method, f"{name}, {layer}", (case.model, module), case.inputs, said, **row)
