"""What an estimator found, and how far from the truth that may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_attr.typing import Values

CONFIDENT = 1.96
"""Standard errors on each side of an estimate that hold the truth in 95 % of the cases."""


@dataclass(frozen=True)
class Estimate:
    """What an estimator found.

    Attributes:
        values: `(features, outputs)` the attributions.
        stderr: `(features, outputs)` their standard errors, infinite where a single sample tells nothing about them;
            None for methods that evaluate all they need.
        kind: What the errors are: of the sampling, or by `bootstrap`, which knows no bias.
    """

    values: Values
    stderr: Values | None = None
    kind: Literal["sampling", "bootstrap"] = "sampling"


def widening(freedom: int) -> float:
    """What makes `CONFIDENT` times a standard error of so few samples an interval of 95 %, by Student's t."""
    return t_quantile(freedom) / CONFIDENT


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.1 %.

    Source: M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 26.7.5; exact for 1 and 2.
    """
    if freedom < 3:
        return (12.7062, 4.3027)[freedom - 1]
    z, n = 1.959964, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
