"""The table of a game: the value of each answer token for each coalition, from which attributions are estimated."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.game.coalitions import keys
from llm_attr.core.game.driver import Estimator
from llm_attr.core.pickled import PickledWithout
from llm_attr.core.random_state import AllStreams
from llm_attr.core.registry import methods
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownKeyword, UnknownName, UnsupportedMethod
from llm_attr.llm.target.scalar import UNITS, payoff
from llm_attr.llm.trust.evidence import Sample
from llm_attr.typing import Coalitions, Values


@dataclass(frozen=True)
class Attributions:
    """The attributions that an estimator computes from a table.

    Attributes:
        values: `(1 + output tokens, units)`: for the full answer, then for each token, if it has any.
        stderr: Their standard errors, for sampled methods.
        kind: The kind of standard errors: `sampling` or `bootstrap`.
    """

    values: Values
    stderr: Values | None
    kind: str = "sampling"

    @property
    def fields(self) -> dict[str, Any]:
        """The corresponding fields of a result."""
        seq, tokens = (None, None) if self.stderr is None else (self.stderr[0], self.stderr[1:])
        fields = {"seq_attr": self.values[0], "token_attr": self.values[1:], "stderr": seq, "token_stderr": tokens}
        return fields if len(self.values) > 1 else fields | {"token_attr": None, "token_stderr": None}


@dataclass(frozen=True, eq=False)
class Table(PickledWithout):
    """The value of each answer token for each coalition of features, and the estimator that attributes them.

    Attributes:
        coalitions: Bool `(coalitions, features)` in the order of the estimator's design.
        values: fp32 `(trials, coalitions, output tokens)`: the scalar of each token, as returned by `Scalar.read`.
        owner: int64 `(units,)` the feature of each unit.
        whole: fp32 `(output tokens,)` the same for the full prompt.
        method: The name of the attribution method.
        options: The options of its estimator.
        missing: Options that could not be stored.
        attr_target: The name of the attributed scalar.
        per_token: False if the scalar is a single number for the full answer; then `output tokens` is 1.
        estimator: The estimator that chose the coalitions; if None, it is built from method and options when needed.

    Raises:
        InvalidShape: the shapes of the tensors do not match.
        InvalidType: a tensor has another dtype.
        InvalidValue: a value is out of range.
        UnknownName: unknown attr_target.
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
        """The attributions of the full answer and of each token, and their standard errors.

        The value of a coalition for the answer is the sum over its tokens, e.g. `sum_t log p_t` (nats), and for `prob`
        its exponential. Trials are averaged.

        Raises:
            UnknownName: unknown method.
            UnknownKeyword: its estimator does not accept one of the options.
            UnsupportedMethod: some of the options could not be stored.
            InvalidShape: the coalitions are not from the estimator's design.
        """
        estimate = self._estimator.estimate(self.coalitions, self._payoff)
        if len(estimate.values) != self.coalitions.shape[1]:
            raise InvalidShape(
                f"the estimator of {self.method} gives {len(estimate.values)} attributions from {len(self.coalitions)} "
                f"coalitions of {self.coalitions.shape[1]} features: these are not the coalitions of its design"
            )
        errors = None if estimate.stderr is None else estimate.stderr[self.owner].T
        return Attributions(estimate.values[self.owner].T, errors, estimate.kind)

    def interactions(self) -> Attributions | None:
        """The interactions of pairs of units, `(1 + output tokens, units, units)`; None if the method has none.

        Units of the same feature share its interactions.
        """
        estimate_pairs = getattr(self._estimator, "interactions", None)
        if estimate_pairs is None:
            return None
        estimate = estimate_pairs(self.coalitions, self._payoff)
        pairs = self.owner[:, None], self.owner[None]
        errors = None if estimate.stderr is None else estimate.stderr[pairs].movedim(-1, 0)
        return Attributions(estimate.values[pairs].movedim(-1, 0), errors)

    @property
    def answers(self) -> Values:
        """float64 `(coalitions,)`: the value of the full answer, the mean over the trials."""
        return self._payoff[:, 0].double()

    def estimated_from(self, values: Values) -> Values:
        """float64 `(features,)`: the attributions if the coalitions had these values, `(coalitions,)`."""
        return self._estimator.estimate(self.coalitions, values.float()[:, None]).values[:, 0].double()

    def sample(self) -> Sample | None:
        """How the estimator sampled these coalitions.

        None for a fixed design, for all coalitions there are, and if the estimator cannot be made again.
        """
        options = {**self.options, **({"refits": 0} if "refits" in self._accepted else {})}
        if self.missing or self.method not in methods():
            return None
        estimator = replace(self, options=options, estimator=None)._estimator
        features = self.coalitions.shape[1]
        if estimator.fixed or len(set(keys(self.coalitions))) == 1 << features:
            return None
        before = AllStreams.now()
        try:
            first, *second = islice(estimator.rounds(features), 2)
        finally:
            before.restore()
        payoff = self._payoff

        def estimate(rows: Tensor) -> Values:
            return estimator.estimate(self.coalitions[rows], payoff[rows]).values[:, 0].double()

        ends = bool(((first.sum(1) == 0) | first.all(1)).all())
        return Sample(estimate, len(first) if ends else 0, len(second[0] if second else first))

    def options_for(self, storable: Callable[[Any], bool]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The options that can be stored, and the names of those that are missing then."""
        kept = {name: value for name, value in self.options.items() if storable(value)}
        return kept, tuple(sorted({*self.missing, *(self.options.keys() - kept.keys())}))

    def __getstate__(self) -> dict[str, Any]:
        """Omits options that cannot be pickled, such as nested functions."""
        options, missing = self.options_for(_is_picklable)
        return super().__getstate__() | {"options": options, "missing": missing}

    @property
    def _estimator(self) -> Estimator:
        return self.estimator or self._new_estimator()

    @property
    def _payoff(self) -> Values:
        """`(coalitions, 1 + output tokens)`, the mean over the trials."""
        return payoff(self.values, self.attr_target, self.per_token).mean(0)

    def restricted(self, tokens: slice) -> Table:
        """The table for a slice of the output tokens.

        Raises:
            UnsupportedMethod: the scalar is a single number for the full answer.
        """
        if not self.per_token:
            raise UnsupportedMethod(
                "the scalar of this result is one number for the whole answer, which says nothing about a part of it; "
                "explain a function that gives a number for each token"
            )
        return replace(self, values=self.values[:, :, tokens], whole=self.whole[tokens])

    def _new_estimator(self) -> Estimator:
        known = methods()
        if self.method not in known:
            raise UnknownName("method", self.method, sorted(known))
        if self.missing:
            raise UnsupportedMethod(
                f"{', '.join(self.missing)} of {self.method} could not be stored, and the estimator cannot be built "
                "without them; use the original result"
            )
        accepted = self._accepted
        if unknown := set(self.options) - set(accepted):
            raise UnknownKeyword(f"the estimator of {self.method}", unknown, accepted)
        method: Any = known[self.method]
        return method.estimator(**self.options)

    @property
    def _accepted(self) -> Mapping[str, Any]:
        """The options of the method's estimator; none if the method is unknown."""
        method: Any = methods().get(self.method)
        return {} if method is None else signature(method.estimator).parameters

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


def _is_picklable(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
