"""What the model was asked and what it answered: everything that attributions are computed from."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.game.driver import Estimator
from llm_attr.core.pickled import PickledWithout
from llm_attr.core.registry import methods
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownKeyword, UnknownName, UnsupportedMethod
from llm_attr.llm.target.scalar import UNITS, payoff
from llm_attr.typing import Coalitions, Values


@dataclass(frozen=True)
class Attributions:
    """What a table says.

    Attributes:
        values: `(1 + output tokens, units)`: those of the whole answer, then those of each token, if it has any.
        stderr: Their standard errors, for sampled methods.
        kind: What these are of: `sampling` or `bootstrap`.
    """

    values: Values
    stderr: Values | None
    kind: str = "sampling"

    @property
    def fields(self) -> dict[str, Any]:
        """As a result has them."""
        seq, tokens = (None, None) if self.stderr is None else (self.stderr[0], self.stderr[1:])
        found = {"seq_attr": self.values[0], "token_attr": self.values[1:], "stderr": seq, "token_stderr": tokens}
        return found if len(self.values) > 1 else found | {"token_attr": None, "token_stderr": None}


@dataclass(frozen=True, eq=False)
class Table(PickledWithout):
    """What each token of an answer is worth for each coalition of features, and how that becomes attributions.

    Attributes:
        coalitions: Bool `(coalitions, features)` in the order of the estimator's design.
        values: fp32 `(trials, coalitions, output tokens)`: the scalar of each token, as `Scalar.read` gives it.
        owner: int64 `(units,)` the feature of each unit.
        whole: fp32 `(output tokens,)` the same after the whole prompt.
        method: The name of the attribution method.
        options: The options of its estimator.
        missing: Options that could not be stored.
        attr_target: The name of the scalar that is attributed.
        per_token: False for a scalar that is one number for the whole answer; `output tokens` is 1 then.
        estimator: The estimator that asked; None: it is made anew from method and options where it is needed.

    Raises:
        InvalidShape: the tensors do not fit each other.
        InvalidType: a tensor has another type.
        InvalidValue: a value is out of its range.
        UnknownName: there is no such attr_target.
    """

    coalitions: Coalitions
    values: Tensor
    owner: Tensor
    whole: Tensor
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    attr_target: str = "log_prob"
    per_token: bool = True
    estimator: Estimator | None = None

    shared = ("estimator",)

    def __post_init__(self) -> None:
        if self.attr_target not in UNITS:
            raise UnknownName("attr_target", self.attr_target, UNITS)
        self._check_types()
        self._check_values()

    def attributions(self) -> Attributions:
        """The attributions of the whole answer and of each token, and their standard errors.

        The value of a coalition for the answer is the sum over its tokens, as `sum_t log p_t` (nats), and for `prob`
        its exponential. Trials are averaged.

        Raises:
            UnknownName: the method is not known here.
            UnknownKeyword: its estimator does not take one of the options.
            UnsupportedMethod: some of the options could not be stored.
            InvalidShape: the coalitions are not those that the estimator asks for.
        """
        found = self._estimator.estimate(self.coalitions, self._payoff)
        if len(found.values) != self.coalitions.shape[1]:
            raise InvalidShape(
                f"the estimator of {self.method} gives {len(found.values)} attributions from {len(self.coalitions)} "
                f"coalitions of {self.coalitions.shape[1]} features: these are not the coalitions of its design"
            )
        errors = None if found.stderr is None else found.stderr[self.owner].T
        return Attributions(found.values[self.owner].T, errors, found.kind)

    def interactions(self) -> Attributions | None:
        """`(1 + output tokens, units, units)`: those of the pairs of units, where the method finds them.

        Units of one feature have the interactions of the feature.
        """
        find = getattr(self._estimator, "interactions", None)
        if find is None:
            return None
        found = find(self.coalitions, self._payoff)
        pairs = self.owner[:, None], self.owner[None]
        errors = None if found.stderr is None else found.stderr[pairs].movedim(-1, 0)
        return Attributions(found.values[pairs].movedim(-1, 0), errors)

    def __getstate__(self) -> dict[str, Any]:
        """Options that cannot be pickled, as functions inside of others, are missing from a pickle."""
        kept = {name: value for name, value in self.options.items() if _is_pickled(value)}
        missing = tuple(sorted({*self.missing, *(self.options.keys() - kept.keys())}))
        return super().__getstate__() | {"options": kept, "missing": missing}

    @property
    def _estimator(self) -> Estimator:
        return self.estimator or self._made()

    @property
    def _payoff(self) -> Values:
        """`(coalitions, 1 + output tokens)`, the mean over the trials."""
        return payoff(self.values, self.attr_target, self.per_token).mean(0)

    def restricted(self, tokens: slice) -> Table:
        """The same for these output tokens alone.

        Raises:
            UnsupportedMethod: the scalar is one number for the whole answer.
        """
        if not self.per_token:
            raise UnsupportedMethod(
                "the scalar of this result is one number for the whole answer, which says nothing about a part of it; "
                "explain a function that gives a number for each token"
            )
        return replace(self, values=self.values[:, :, tokens], whole=self.whole[tokens])

    def _made(self) -> Estimator:
        known = methods()
        if self.method not in known:
            raise UnknownName("method", self.method, sorted(known))
        if self.missing:
            raise UnsupportedMethod(
                f"{', '.join(self.missing)} of {self.method} could not be stored, and without them nothing can be "
                "estimated anew; ask the result that was saved"
            )
        method: Any = known[self.method]
        make = method.estimator
        accepted = signature(make).parameters
        if unknown := set(self.options) - set(accepted):
            raise UnknownKeyword(f"the estimator of {self.method}", unknown, accepted)
        estimator: Estimator = make(**self.options)
        return estimator

    def _check_types(self) -> None:
        expected = {
            "coalitions": (torch.bool, 2),
            "values": (torch.float32, 3),
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
        if not rows or not len(self.values) or self.values.shape[1:] != (rows, len(self.whole)):
            raise InvalidShape(
                f"values of the table must have the shape (trials, {rows}, {len(self.whole)}) with at least one "
                f"trial and coalition; got {tuple(self.values.shape)}"
            )
        if not self.per_token and len(self.whole) != 1:
            raise InvalidShape(f"a table of a number for the whole answer has one column; got {len(self.whole)}")
        if len(self.owner) and not 0 <= int(self.owner.min()) <= int(self.owner.max()) < features:
            raise InvalidValue(f"owner of the table must name features from 0 to {features - 1}")
        if not (self.values.isfinite().all() and self.whole.isfinite().all()):
            raise InvalidValue("the table holds values that are NaN or infinite")


def _is_pickled(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
