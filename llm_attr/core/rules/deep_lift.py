"""DeepLIFT: multipliers for pairs of input and reference, and their mean over the references of each example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from llm_attr.core.path.walk import Attributed, Change, Walk, by_example, per_example, weighted_sum
from llm_attr.core.problem import Gradients
from llm_attr.core.rules.engine import Rules, Tape
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import InvalidTarget
from llm_attr.typing import Tensors

Combine: TypeAlias = Callable[[Tensors, Tensors, Tensors], Tensors]
"""`(multipliers, inputs, baselines) -> attributions`, `(rows, *features)` each."""


def times_change(multipliers: Tensors, inputs: Tensors, baselines: Tensors) -> Tensors:
    """`m (x - b)`, in at least fp32."""
    trios = zip(multipliers, inputs, baselines, strict=True)
    return tuple(at_least_fp32(m) * (at_least_fp32(x) - b) for m, x, b in trios)


def multipliers_only(multipliers: Tensors, inputs: Tensors, baselines: Tensors) -> Tensors:
    """`m`, unchanged."""
    return multipliers


@dataclass(frozen=True)
class ReferencePairs:
    """Every example paired with each of several references.

    Attributes:
        walk: Evaluates the problem, which has no rules yet.
        rules: The rules to apply; they use a run of the reference.
        baselines: The references, `(states, batch or 1, *features)` for each input.
        combine: Computes attributions from multipliers.
    """

    walk: Walk
    rules: Rules
    baselines: Tensors
    combine: Combine = times_change

    @property
    def states(self) -> int:
        """The number of references per example."""
        return len(self.baselines[0])

    def mean(self) -> Attributed:
        """The mean attribution over the references.

        Raises:
            NoRule: the model has an operation that no rule covers.
        """
        return self._mean([])

    def mean_and_delta(self) -> tuple[Attributed, Tensor]:
        """As `mean`, with the delta of each pair, `(batch * states,)`; the pairs of an example are next to each other.

        Raises:
            NoRule: the model has an operation that no rule covers.
            InvalidTarget: the score is not one number per example.
        """
        pairs: list[tuple[Gradients, Gradients]] = []
        mean = self._mean(pairs)
        deltas = torch.cat([self._delta(low, high) for low, high in pairs], -1)
        return mean, by_example(deltas, self.states)

    def _mean(self, pairs: list[tuple[Gradients, Gradients]]) -> Attributed:
        calls = self._attributions(pairs)
        if self.states == 1:
            ((_, only),) = calls
            return replace(Attributed.of_gradients(only), dtypes=tuple(x.dtype for x in only.at))
        return weighted_sum(calls, torch.full((self.states,), 1 / self.states, dtype=torch.float64, device="cpu"))

    def _attributions(self, pairs: list[tuple[Gradients, Gradients]]) -> Iterator[tuple[int, Gradients]]:
        for copies, (low, high) in self.walk.each_call(self._ends, self.states, self._pair):
            pairs.append((low, high))
            yield copies, replace(high, gradients=self._combined(low, high))

    def _combined(self, low: Gradients, high: Gradients) -> Tensors:
        if not high.axis:
            return self.combine(high.gradients, high.at, low.at)
        outputs = zip(*(gradient.unbind() for gradient in high.gradients), strict=True)
        each = [self.combine(gradients, high.at, low.at) for gradients in outputs]
        return tuple(torch.stack(tensors) for tensors in zip(*each, strict=True))

    def _delta(self, low: Gradients, high: Gradients) -> Tensor:
        rows = len(high.at[0])
        total = per_example(times_change(high.gradients, high.at, low.at), rows, high.axis)
        if high.scores.numel() != total.numel():
            raise InvalidTarget(
                f"a delta needs one output for each of the {rows} examples; got {tuple(high.scores.shape)}"
            )
        ends = (at_least_fp32(end.scores.reshape(total.shape)) for end in (low, high))
        return Change(*ends).delta(total)

    def _ends(self, start: int, stop: int) -> Tensors:
        """The inputs, then the references, for the states start to stop."""
        problem = self.walk.problem
        copies = stop - start
        high = tuple(x if copies == 1 else x.repeat(copies, *(1,) * (x.dim() - 1)) for x in problem.inputs)
        pairs = zip(self.baselines, problem.inputs, strict=True)
        return high + tuple(b[start:stop].expand(copies, *x.shape).flatten(0, 1) for b, x in pairs)

    def _pair(self, ends: Tensors, copies: int) -> tuple[Gradients, Gradients]:
        count, tape = len(ends) // 2, Tape()
        low = self.rules.on(self.walk.problem, tape, recording=True).at(ends[count:], copies)
        high = self.rules.on(self.walk.problem, tape).gradients(ends[:count], copies)
        self.walk.evaluator.advance(copies)
        return low, high
