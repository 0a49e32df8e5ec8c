"""What a trust report says, and how it is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from llm_attr.errors import InvalidValue

CERTAIN = 0.03
"""The largest p-value at which an explanation is called better than chance: of random ones, at most 3 in 100 are."""


@dataclass(frozen=True)
class Contrast:
    """A value beside those of random sets of as many units.

    Attributes:
        value: The value for the strongest units.
        random: The mean over random sets of the same size.
        p_value: The share of random sets, this one included, that are at least as good.
        draws: The number of random sets.
    """

    value: float
    random: float
    p_value: float
    draws: int


@dataclass(frozen=True)
class TrustReport:
    """How far an explanation can be trusted.

    Values are those of the explained quantity f, nats for `log_prob`; shares are relative to the change
    `f(all units) - f(no unit)`. What could not be found out is None: the coalitions that were paid for do not say it,
    and the budget, or the lack of a model, allowed no others.

    Attributes:
        better_than_chance: Whether the attributions order the units better than random places would; None where too
            few units or coalitions leave it open, and where the evidence is mixed.
        p_value: The share of orders of the same numbers that predict unseen coalitions at least as well.
        verdict: The verdict in words.
        explained: The sum of the attributions as a share of the change.
        lds: Rank correlation of sums of attributions with the values of unseen coalitions.
        lds_interval: Its 95 % interval.
        necessity: The share of the change that is lost without the strongest units.
        sufficiency: The share of the change that the strongest units have alone.
        stability: The mean share of the strongest units that stay so in random halves of the paid sample; None for
            exact methods.
        redundant: Groups of units that matter only together, by position.
        noise: Nats by which rounding moves the score of the answer.
        passes: Forward passes that the report took.
        evaluations: Coalitions that the report evaluated.
        unseen: Coalitions by which the attributions were judged.
        top: The strongest units, by position, which necessity, sufficiency and stability are about.
        deletion: The value without the stronger half of the units, beside random halves; lower is better.
        insertion: The value of the stronger half alone, beside random halves; higher is better.
        randomised: The rank correlation with the attributions of the model with random weights, where that was asked
            for; near 0 is good.
    """

    better_than_chance: bool | None
    p_value: float | None
    verdict: str
    explained: float | None
    lds: float | None
    lds_interval: tuple[float, float] | None
    necessity: float | None
    sufficiency: float | None
    stability: float | None
    redundant: list[tuple[int, ...]]
    noise: float | None
    passes: int
    evaluations: int = 0
    unseen: int = 0
    top: tuple[int, ...] = ()
    deletion: Contrast | None = None
    insertion: Contrast | None = None
    randomised: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report in plain Python types, as JSON has them."""
        plain = asdict(self)
        interval = self.lds_interval
        return plain | {
            "lds_interval": None if interval is None else list(interval),
            "redundant": [list(group) for group in self.redundant],
            "top": list(self.top),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TrustReport:
        """The report that `to_dict` wrote.

        Raises:
            InvalidValue: it is no such report.
        """
        try:
            _check(cls, plain)
            contrasts = {
                name: None if plain[name] is None else Contrast(**_check(Contrast, plain[name]))
                for name in ("deletion", "insertion")
            }
            interval = plain["lds_interval"]
            low_high = None if interval is None else (float(interval[0]), float(interval[1]))
            groups = [tuple(map(_position, group)) for group in plain["redundant"]]
            top = tuple(map(_position, plain["top"]))
            return cls(**{**plain, **contrasts, "lds_interval": low_high, "redundant": groups, "top": top})
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise InvalidValue(f"this is no trust report: {error}") from error


_PLAIN = {
    "bool | None": (bool, type(None)),
    "float | None": (float, int, type(None)),
    "float": (float, int),
    "int": (int,),
    "str": (str,),
}


def _check(kind: type, plain: Any) -> Any:
    """The fields, if they are all there and of their types."""
    names = {field.name: str(field.type) for field in fields(kind)}
    if not isinstance(plain, Mapping) or plain.keys() != names.keys():
        raise TypeError(f"the fields of {kind.__name__} are {', '.join(names)}; got {plain!r:.80}")
    for name, annotation in names.items():
        value, accepted = plain[name], _PLAIN.get(annotation)
        wrong = accepted is not None and not isinstance(value, accepted)
        if wrong or (isinstance(value, bool) and annotation in ("float", "int", "float | None")):
            raise TypeError(f"{name} must be {annotation}; got {value!r:.40}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    return plain


def _position(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"a position is a whole number; got {value!r:.40}")
    return value
