"""When a sample is large enough: the requested precision is reached, or the budget is spent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llm_attr.core.game.estimate import CONFIDENT, Estimate
from llm_attr.errors import InvalidValue
from llm_attr.typing import Values


@dataclass(frozen=True)
class Stopping:
    """When sampling ends, if not after a given number of samples.

    Attributes:
        tolerance: The largest standard error allowed, as a fraction of the output's largest attribution.
        top: How many top features must be separated from all others by the 95 % interval of the difference.
        evaluations: The most distinct coalitions.
        seconds: The most time.
        passes: The most passes through a language model.
        positions: The most token positions through a language model.
    """

    tolerance: float | None = None
    top: int | None = None
    evaluations: int | None = None
    seconds: float | None = None
    passes: int | None = None
    positions: int | None = None

    @classmethod
    def of(cls, until: float | str | None = None, budget: int | str | None = None) -> Stopping:
        """Parses the public arguments: `until=0.05` or `"top 3 stable"`, `budget=200`, `"200 evaluations"` or `"30 s"`.

        For text explanations the budget may also be `"50 passes"` or `"2000 positions"`.

        Raises:
            InvalidValue: one of them has another form.
        """
        return cls(*_tolerance(until), **_budget(budget))

    @property
    def metered(self) -> int | None:
        """The limit of a `Meter`."""
        return self.passes if self.positions is None else self.positions

    @property
    def adaptive(self) -> bool:
        """Whether anything but the number of samples ends the sampling."""
        return self != Stopping()

    @property
    def wants_certainty(self) -> bool:
        """Whether the standard error ends the sampling."""
        return self.tolerance is not None or self.top is not None

    @property
    def budget(self) -> str | None:
        """The budget in words."""
        units = ("evaluations", "passes", "positions")
        counted = [f"{limit:,} {unit}" for unit in units if (limit := getattr(self, unit)) is not None]
        return counted[0] if counted else None if self.seconds is None else f"{self.seconds:g} s"

    def satisfied(self, estimate: Estimate) -> bool:
        """Whether an estimate has the requested precision."""
        if estimate.stderr is None:
            return False
        values, errors = estimate.values.double(), estimate.stderr.double()
        if not errors.isfinite().all():
            return False
        if self.tolerance is not None and (errors.amax(0) <= self.tolerance * values.abs().amax(0)).all():
            return True
        return self.top is not None and bool(_separated(values.abs(), errors, self.top).all())

    def lacking(self, estimate: Estimate) -> str:
        """Why an estimate does not have the requested precision, in words."""
        if estimate.stderr is None or not estimate.stderr.isfinite().all():
            return "some attributions have no standard error yet"
        if self.top is not None:
            return f"the 95 % intervals do not yet separate the top {self.top} from the others"
        sizes, errors = estimate.values.double().abs().amax(0), estimate.stderr.double().amax(0)
        share = (errors / sizes).nan_to_num(nan=0.0).amax()
        return f"the largest standard error is {share:.2g} of the largest attribution; until={self.tolerance:g}"


def _separated(sizes: Values, errors: Values, top: int) -> Values:
    """`(outputs,)`: whether the interval of the difference separates the `top` largest features from all others."""
    order = sizes.argsort(0, descending=True)
    sizes, errors = sizes.gather(0, order), errors.gather(0, order)
    difference = sizes[:top, None] - sizes[None, top:]
    noise = (errors[:top, None] ** 2 + errors[None, top:] ** 2).sqrt()
    return (difference > CONFIDENT * noise).flatten(0, 1).all(0)


def _tolerance(until: float | str | None) -> tuple[float | None, int | None]:
    if isinstance(until, str):
        match = re.fullmatch(r"top (\d+)( stable)?", until.strip())
        if match and int(match[1]) > 0:
            return None, int(match[1])
    elif until is None or (isinstance(until, int | float) and not isinstance(until, bool) and until > 0):
        return until, None
    raise InvalidValue(
        "until must be a positive number (the largest standard error as a fraction of the largest attribution, e.g. "
        f"0.05) or a string such as 'top 3 stable'; got {until!r}"
    )


def _budget(budget: int | str | None) -> dict[str, Any]:
    if budget is None:
        return {}
    text = str(budget).strip()
    counted = re.fullmatch(r"(\d+)(?: (evaluations|passes|positions))?", text)
    timed = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:s|seconds)", text)
    if isinstance(budget, bool) or not (counted or timed):
        raise InvalidValue(
            "budget must be a number of evaluations, e.g. 200, or a time, e.g. '30 s' (for text also '50 passes' or "
            f"'2000 positions'); got {budget!r}"
        )
    return {counted[2] or "evaluations": int(counted[1])} if counted else {"seconds": float(timed[1] if timed else 0)}
