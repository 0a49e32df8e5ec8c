"""How uncertain attributions are, and how likely noise alone makes a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from llm_attr.core.game.estimate import widening
from llm_attr.llm.results.data import ResultData

_UNMEASURED = {"bfloat16": 0.05, "float16": 0.01, "bf16": 0.05, "fp16": 0.01}
_USUAL = 1e-3
"""Nats for each root of a token of the answer, where the noise of the precision was not measured."""

_MOST = 200
"""Degrees of freedom from which on Student's t is taken for normal."""


@dataclass(frozen=True)
class Error:
    """The standard error of an attribution or of a change.

    Attributes:
        sampling: The part that is due to sampling, scaled by Student's t as `result.stderr` is.
        rounding: The part that is due to the precision.
        freedom: The degrees of freedom of the first part; None where they are unknown or many.
    """

    sampling: float
    rounding: float
    freedom: int | None = None

    @property
    def total(self) -> float:
        """Both parts together."""
        return math.hypot(self.sampling, self.rounding)

    def beside(self, other: Error) -> Error:
        """The error of the difference of two values.

        Source: B. L. Welch, The Generalization of Student's Problem, Biometrika 1947 (degrees of freedom).
        """
        sampling = math.hypot(self.sampling, other.sampling)
        parts = [(each.sampling / sampling) ** 4 / each.freedom for each in (self, other) if each.freedom and sampling]
        known = math.isfinite(sampling) and any(parts)
        freedom = max(1, int(1 / sum(parts))) if known else None
        return Error(sampling, math.hypot(self.rounding, other.rounding), freedom)


NONE = Error(0.0, 0.0)
"""Of a unit that is not there."""


def rounding(result: ResultData) -> float:
    """Nats by which rounding moves an attribution, the difference of two scores."""
    if result.noise is not None:
        return math.sqrt(2) * result.noise
    kind = result.provenance.get("precision") or result.provenance.get("dtype")
    return math.sqrt(2 * len(result.output_tokens)) * _UNMEASURED.get(str(kind), _USUAL)


def freedom_of(result: ResultData) -> int | None:
    """The degrees of freedom of its standard errors, at least: draws less one, and pairs of evaluations less units."""
    sample = None if result.stderr is None or result.table is None else result.table.sample()
    if sample is None or result.table is None:
        return None
    rows, features = result.table.coalitions.shape
    return max(1, min((rows - sample.kept) // sample.period - 1, rows // 2 - features))


def error_of(result: ResultData, units: Sequence[int], freedom: int | None) -> Error:
    """The error of the sum of some attributions.

    Errors of sampling are added up, which is their largest possible sum, since those of one sample are correlated.
    """
    sampled = 0.0 if result.stderr is None else float(result.stderr[list(units)].double().sum())
    return Error(sampled, math.sqrt(len(units)) * rounding(result), freedom)


def p_value(change: float, error: Error, least: float = 0.0) -> float:
    """How likely noise makes so large a change of one of at most `least`, two-sided; 1 where the error is not known."""
    total, size = error.total, max(abs(change) - least, 0.0)
    if not math.isfinite(total):
        return 1.0
    if error.freedom is None or error.freedom > _MOST:
        return 2 * NormalDist().cdf(-size / total)
    return t_tail(size / total * widening(error.freedom), error.freedom)


def t_tail(value: float, freedom: int) -> float:
    """The two-sided tail of Student's t beyond a value of at least 0.

    Source: M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle, odd = math.atan2(value, math.sqrt(freedom)), freedom % 2
    cosine, term, total = math.cos(angle), 1.0, 0.0
    if odd:
        term = math.cos(angle)
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * step / (step + 1)
    inside = (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
    return min(max(1.0 - inside, 0.0), 1.0)
