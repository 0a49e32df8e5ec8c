"""What the model was asked and what it answered: everything that attributions are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import llm_attr.attr  # noqa: F401  registers the methods
from llm_attr.core.features import Features
from llm_attr.core.game import Estimator
from llm_attr.core.registry import METHODS
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownKeyword, UnknownName, UnsupportedMethod
from llm_attr.llm.inputs import InterpretableInput
from llm_attr.typing import Coalitions, Values

AttrTarget = Literal["log_prob", "prob"]


@dataclass(frozen=True, eq=False)
class Table:
    """The log-probability of each token of an answer for each coalition of features, and how it becomes attributions.

    Attributes:
        coalitions: Bool `(coalitions, features)` in the order of the estimator's design.
        log_probs: fp32 `(trials, coalitions, output tokens)` in nats.
        owner: int64 `(units,)` the feature of each unit.
        whole: fp32 `(output tokens,)` log-probabilities after the whole prompt.
        method: The name of the attribution method.
        options: The options of its estimator.
        missing: Options that could not be stored.
        attr_target: `log_prob` or `prob`: what is attributed.
        estimator: The estimator that asked; None: it is made anew from method and options where it is needed.

    Raises:
        InvalidShape: the tensors do not fit each other.
        InvalidType: a tensor has another type.
        InvalidValue: a value is out of its range.
        UnknownName: there is no such attr_target.
    """

    coalitions: Coalitions
    log_probs: Tensor
    owner: Tensor
    whole: Tensor
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    attr_target: AttrTarget = "log_prob"
    estimator: Estimator | None = None

    def __post_init__(self) -> None:
        if self.attr_target not in get_args(AttrTarget):
            raise UnknownName("attr_target", self.attr_target, get_args(AttrTarget))
        self._check_types()
        self._check_values()

    def attributions(self) -> Values:
        """`(1 + output tokens, units)`: those of the whole answer, then those of each token.

        The value of a coalition is `sum_t log p_t` (nats) for the answer, or its exponential for `prob`. Trials are
        averaged.

        Raises:
            UnknownName: the method is not known here.
            UnknownKeyword: its estimator does not take one of the options.
            UnsupportedMethod: some of the options could not be stored.
            InvalidShape: the coalitions are not those that the estimator asks for.
        """
        estimator = self.estimator or self._made()
        each = [estimator.estimate(self._payoff(log_probs)) for log_probs in self.log_probs]
        found = torch.stack(each).mean(0)
        if len(found) != self.coalitions.shape[1]:
            raise InvalidShape(
                f"the estimator of {self.method} gives {len(found)} attributions from {len(self.coalitions)} "
                f"coalitions of {self.coalitions.shape[1]} features: these are not the coalitions of its design"
            )
        return found[self.owner].T

    def restricted(self, tokens: slice) -> Table:
        """The same for these output tokens alone."""
        return replace(self, log_probs=self.log_probs[:, :, tokens], whole=self.whole[tokens])

    def _made(self) -> Estimator:
        if self.method not in METHODS:
            raise UnknownName("method", self.method, sorted(METHODS))
        if self.missing:
            raise UnsupportedMethod(
                f"{', '.join(self.missing)} of {self.method} could not be stored, and without them nothing can be "
                "estimated anew; ask the result that was saved"
            )
        method: Any = METHODS[self.method]
        make = method.estimator
        accepted = signature(make).parameters
        if unknown := set(self.options) - set(accepted):
            raise UnknownKeyword(f"the estimator of {self.method}", unknown, accepted)
        estimator: Estimator = make(**self.options)
        return estimator

    def _payoff(self, log_probs: Values) -> Values:
        """`(coalitions, output tokens)` log-probabilities -> `(coalitions, 1 + output tokens)`, the sum first."""
        both = torch.cat([log_probs.sum(1, keepdim=True), log_probs], 1)
        return both if self.attr_target == "log_prob" else both.double().exp().float()

    def _check_types(self) -> None:
        expected = {
            "coalitions": (torch.bool, 2),
            "log_probs": (torch.float32, 3),
            "owner": (torch.int64, 1),
            "whole": (torch.float32, 1),
        }
        for name, (dtype, axes) in expected.items():
            tensor = getattr(self, name)
            if tensor.dtype != dtype:
                raise InvalidType(f"{name} of the table must be {dtype}; got {tensor.dtype}")
            if tensor.dim() != axes:
                raise InvalidShape(f"{name} of the table must have {axes} axes; got the shape {tuple(tensor.shape)}")

    def _check_values(self) -> None:
        rows, features = self.coalitions.shape
        if not rows or not len(self.log_probs) or self.log_probs.shape[1:] != (rows, len(self.whole)):
            raise InvalidShape(
                f"log_probs of the table must have the shape (trials, {rows}, {len(self.whole)}) with at least one "
                f"trial and coalition; got {tuple(self.log_probs.shape)}"
            )
        if len(self.owner) and not 0 <= int(self.owner.min()) <= int(self.owner.max()) < features:
            raise InvalidValue(f"owner of the table must name features from 0 to {features - 1}")
        if not (self.log_probs.isfinite().all() and self.whole.isfinite().all()):
            raise InvalidValue("the table holds log-probabilities that are NaN or infinite")


def owners(inp: InterpretableInput, features: Features) -> Tensor | None:
    """The feature of each unit that an input shows; None if it shows anything else than the value of a feature."""
    values = torch.arange(2.0, features.count + 2, dtype=torch.float64).sqrt()
    own = features.owner[0][0]
    shown = inp.format_attr(values[own][None])
    if shown.shape != (1, len(inp.values)):
        return None
    owner = torch.searchsorted(values, shown[0]).clamp(max=features.count - 1)
    return owner if torch.equal(values[owner], shown[0]) else None
