"""A contrast of two answers at a layer, where each has activations of its own: each is explained by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from llm_attr.errors import InvalidValue
from llm_attr.llm.gradients.explained import Explained
from llm_attr.llm.gradients.run import GradientRun
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.target.scalar import Scalar


class ContrastRun:
    """The run of an answer less that of a foil, token beside token; of methods that are linear in what they explain.

    Args:
        answer: The run of the answer.
        foil: That of the foil.
        scalar: The contrast of both.
    """

    def __init__(self, answer: GradientRun, foil: GradientRun, scalar: Scalar) -> None:
        self._answer, self._foil, self.scalars = answer, foil, (scalar,)
        self.placed, self.answer, self.baseline = answer.placed, answer.answer, answer.baseline
        self.uses_baseline, self.recomputes, self.seed = answer.uses_baseline, answer.recomputes, answer.seed
        self.forward_rule = answer.forward_rule

    @property
    def log_probs(self) -> Tensor:
        """Those of the answer."""
        return self._answer.log_probs

    @property
    def counter(self) -> Cost:
        """The cost of both."""
        return self._answer.counter + self._foil.counter

    def explained(self, token_rows: bool, recomputed: bool = False) -> list[Explained]:
        """See `GradientRun.explained`."""
        [own], [other] = (run.explained(token_rows, recomputed) for run in (self._answer, self._foil))
        whole = [one - two for one, two in zip(own.whole, other.whole, strict=True)]
        tokens = [self._rows(one.T, two.T).T for one, two in zip(own.tokens, other.tokens, strict=True)]
        deltas: dict[str, list[float]] = {}
        for name, values in own.deltas.items():
            pair = [torch.tensor(each, dtype=torch.float32, device="cpu") for each in (values, other.deltas[name])]
            deltas[name] = (pair[0] - pair[1] if name == "convergence_delta" else self._rows(*pair)).tolist()
        both = own.completeness, other.completeness
        less = None if both[0] is None or both[1] is None else both[0].less(both[1])
        return [Explained(whole, tokens, deltas=deltas, completeness=less)]

    def _rows(self, answer: Tensor, foil: Tensor) -> Tensor:
        contrast = self.scalars[0].contrast
        if contrast is None:
            raise InvalidValue("a contrast must be bound to an answer")
        return contrast.rows(answer, foil)
