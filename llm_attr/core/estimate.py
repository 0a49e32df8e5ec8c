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
