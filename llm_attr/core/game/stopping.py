"""When a sample is large enough: as sure as was asked for, or as expensive as was allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llm_attr.core.game.estimate import CONFIDENT, Estimate
from llm_attr.errors import InvalidValue
from llm_attr.typing import Values


@dataclass(frozen=True)
class Stopping:
    """When sampling ends, if not after the number of samples that was asked for.

    Attributes:
        tolerance: The largest standard error, as a share of the largest attribution of the same output.
        top: How many features must stand apart from all others by the 95 % interval of the difference.
        evaluations: The most distinct coalitions.
        seconds: The most time.
        passes: The most passes through a language model.
        positions: The most token positions that go through it.
    """

    tolerance: float | None = None
    top: int | None = None
    evaluations: int | None = None
    seconds: float | None = None
    passes: int | None = None
    positions: int | None = None

    @classmethod
    def of(cls, until: float | str | None = None, budget: int | str | None = None) -> Stopping:
        """From the public arguments: `until=0.05` or `"top 3 stable"`, `budget=200`, `"200 evaluations"` or `"30 s"`.

        Of a text the budget may be `"50 passes"` or `"2000 positions"`, too.

        Raises:
            InvalidValue: one of them says something else.
        """
        return cls(*_tolerance(until), **_budget(budget))

    @property
    def metered(self) -> int | None:
        """The most that a `Meter` may show."""
        return self.passes if self.positions is None else self.positions

    @property
    def adaptive(self) -> bool:
        """Whether anything but the number of samples counts."""
        return self != Stopping()

    @property
    def wants_certainty(self) -> bool:
        """Whether the error decides."""
        return self.tolerance is not None or self.top is not None

    @property
    def budget(self) -> str | None:
        """The budget in words."""
        units = ("evaluations", "passes", "positions")
        counted = [f"{limit:,} {unit}" for unit in units if (limit := getattr(self, unit)) is not None]
        return counted[0] if counted else None if self.seconds is None else f"{self.seconds:g} s"

    def satisfied(self, estimate: Estimate) -> bool:
        """Whether an estimate is as sure as was asked for."""
        if estimate.stderr is None:
            return False
        values, errors = estimate.values.double(), estimate.stderr.double()
        if not errors.isfinite().all():
            return False
        if self.tolerance is not None and (errors.amax(0) <= self.tolerance * values.abs().amax(0)).all():
            return True
        return self.top is not None and bool(_apart(values.abs(), errors, self.top).all())

    def lacking(self, estimate: Estimate) -> str:
        """What an estimate lacks that is not as sure as was asked for."""
        if estimate.stderr is None or not estimate.stderr.isfinite().all():
            return "some attributions have no standard error yet"
        if self.top is not None:
            return f"the largest {self.top} are not apart from the others by the 95 % interval of the difference"
        sizes, errors = estimate.values.double().abs().amax(0), estimate.stderr.double().amax(0)
        share = (errors / sizes).nan_to_num(nan=0.0).amax()
        return f"the largest standard error is {share:.2g} of the largest attribution, and until={self.tolerance:g}"


def _apart(sizes: Values, errors: Values, top: int) -> Values:
    """`(outputs,)`: whether the `top` largest features are apart from all others by the interval of the difference."""
    order = sizes.argsort(0, descending=True)
    sizes, errors = sizes.gather(0, order), errors.gather(0, order)
    difference = sizes[:top, None] - sizes[None, top:]
    noise = (errors[:top, None] ** 2 + errors[None, top:] ** 2).sqrt()
    return (difference > CONFIDENT * noise).flatten(0, 1).all(0)


def _tolerance(until: float | str | None) -> tuple[float | None, int | None]:
    if isinstance(until, str):
        found = re.fullmatch(r"top (\d+)( stable)?", until.strip())
        if found and int(found[1]) > 0:
            return None, int(found[1])
    elif until is None or (isinstance(until, int | float) and not isinstance(until, bool) and until > 0):
        return until, None
    raise InvalidValue(
        "until must be the largest standard error as a share of the largest attribution, as 0.05, or a text as "
        f"'top 3 stable'; got {until!r}"
    )


def _budget(budget: int | str | None) -> dict[str, Any]:
    if budget is None:
        return {}
    text = str(budget).strip()
    counted = re.fullmatch(r"(\d+)(?: (evaluations|passes|positions))?", text)
    timed = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:s|seconds)", text)
    if isinstance(budget, bool) or not (counted or timed):
        raise InvalidValue(
            "budget must be evaluations, as 200, or a time, as '30 s' (for a text also '50 passes' or "
            f"'2000 positions'); got {budget!r}"
        )
    return {counted[2] or "evaluations": int(counted[1])} if counted else {"seconds": float(timed[1] if timed else 0)}
