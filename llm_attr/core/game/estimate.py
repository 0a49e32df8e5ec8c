"""Estimates of attributions and their standard errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llm_attr.typing import Values

CONFIDENT = 1.96
"""Standard errors on each side of an estimate that contain the exact value in 95 % of cases."""


@dataclass(frozen=True)
class Estimate:
    """Attributions and their standard errors.

    Attributes:
        values: `(features, outputs)` attributions.
        stderr: `(features, outputs)` standard errors, infinite where the sample is too small to estimate them; None for
            methods that evaluate every coalition they need.
        kind: How the errors were estimated; `bootstrap` does not include bias.
    """

    values: Values
    stderr: Values | None = None
    kind: Literal["sampling", "bootstrap"] = "sampling"

    def mapped(self, form: Callable[[Values], Any], return_stderr: bool) -> Any:
        """`form` of the values; with `return_stderr` a pair with that of the errors."""
        return (
            (form(self.values), form(self.stderr)) if return_stderr and self.stderr is not None else form(self.values)
        )


def widening(freedom: int) -> float:
    """The factor by which Student's t of so few degrees of freedom widens an interval of `CONFIDENT` errors."""
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
