"""`Dominance`: the margin by which untrusted text carries an action."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.faithfulness.feature_game import AnswerGame
from llm_attr.core.faithfulness.orders import seeded
from llm_attr.errors import InvalidType, InvalidValue, UnknownName, UnsupportedMethod
from llm_attr.typing import Coalitions

SURE = 2.0
"""Standard errors by which a margin must differ from zero to be called."""

Names = str | int | Collection[str | int]


@dataclass(frozen=True)
class Dominance:
    """By how much untrusted text carries an answer beyond trusted text.

    Attributes:
        margin: `untrusted - trusted`, in nats (or in the unit of the scalar).
        stderr: Its standard error, over the random contexts.
        untrusted: What all untrusted units add, on average over the contexts.
        trusted: What all trusted units add.
        loo_margin: The largest loss without one untrusted unit, less the largest without one trusted unit, all else
            present; no sampling.
        strongest: The position of the untrusted unit whose absence loses most.
        verdict: The finding in words.
        untrusted_units: The positions of the untrusted units.
        trusted_units: The positions of the trusted units.
        evaluations: How many coalitions the model evaluated for it.
    """

    margin: float
    stderr: float
    untrusted: float
    trusted: float
    loo_margin: float
    strongest: int
    verdict: str
    untrusted_units: tuple[int, ...]
    trusted_units: tuple[int, ...]
    evaluations: int

    @property
    def dominated(self) -> bool | None:
        """Whether untrusted text carries more than trusted text; None within two standard errors."""
        return None if abs(self.margin) <= SURE * self.stderr else self.margin > 0

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON values."""
        return {**asdict(self), "dominated": self.dominated}


def dominance(
    game: AnswerGame, untrusted: Sequence[int], trusted: Sequence[int], texts: Sequence[str], samples: int, seed: int
) -> Dominance:
    """Measures the margin in random contexts.

    Args:
        game: Evaluates coalitions.
        untrusted: The positions of untrusted units.
        trusted: Those of trusted ones.
        texts: The text of each unit.
        samples: How many contexts are drawn, in pairs: a context and its complement.
        seed: Of the contexts.

    Raises:
        InvalidType: `samples` is no number.
        InvalidValue: there are fewer than four samples; a group is empty; or they overlap.
    """
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise InvalidType(f"samples must be a whole number; got {samples!r}")
    if samples < 4:
        raise InvalidValue(f"samples must be at least 4, for a standard error; got {samples}")
    first, second = _features(game, untrusted, "untrusted"), _features(game, trusted, "trusted")
    if both := (first & second).nonzero().flatten().tolist():
        raise InvalidValue(f"a unit is either trusted or untrusted; both have {texts[int(both[0])][:60]!r}")
    before, contexts = game.spent, _contexts(game.features, samples // 2, seed)
    parts = [contexts | first, contexts & ~first, contexts | second, contexts & ~second]
    parts.append(~torch.eye(game.features, dtype=torch.bool, device="cpu"))
    parts.append(torch.ones(1, game.features, dtype=torch.bool, device="cpu"))
    values = game.shared(torch.cat(parts), 1)[0].split([len(part) for part in parts])
    gains = torch.stack([values[0] - values[1], values[2] - values[3]])
    pairs = (gains[0] - gains[1]).view(2, -1).mean(0)  # a context and its complement are one draw
    margin, stderr = pairs.mean().item(), (pairs.var() / len(pairs)).sqrt().item()
    lost = values[5] - values[4]
    loo = (lost[first].max() - lost[second].max()).item()
    top = int(torch.where(first, lost, -torch.inf).argmax())
    unit = int((game.owner == top).nonzero()[0])
    return Dominance(
        margin=margin,
        stderr=stderr,
        untrusted=gains[0].mean().item(),
        trusted=gains[1].mean().item(),
        loo_margin=loo,
        strongest=unit,
        verdict=_verdict(margin, stderr, [gain.mean().item() for gain in gains], texts[unit]),
        untrusted_units=tuple(untrusted),
        trusted_units=tuple(trusted),
        evaluations=game.spent.since(before).evaluations,
    )


def units_named(given: Names | None, about: Mapping[str, Any], groups: Sequence[str], default: bool) -> list[int]:
    """The positions of the units that names stand for.

    Args:
        given: Roles, names of tools, numbers of messages, or names of documents; None for what the trace says.
        about: What each unit of a trace is, from the provenance of its result; empty for other prompts.
        groups: The name of each unit's document or message, or "".
        default: Whether None stands for the untrusted units.

    Raises:
        UnsupportedMethod: None is given, and the prompt is no trace.
        UnknownName: there is no such role, tool, message or document.
    """
    if given is None:
        if not about:
            raise UnsupportedMethod(
                "only a trace says what is untrusted (Prompt.from_trace); for another prompt name its documents or "
                "roles: dominance(untrusted=..., trusted=...)"
            )
        return [unit for unit, is_untrusted in enumerate(about["untrusted"]) if is_untrusted is default]
    names = [given] if isinstance(given, str | int) else list(given)
    own = [_names(about, unit) if about else {group} - {""} for unit, group in enumerate(groups)]
    known = set().union(*own)
    for name in names:
        if isinstance(name, bool) or name not in known:
            raise UnknownName("role, tool, message or document", name, map(str, sorted(known, key=str)))
    return [unit for unit, each in enumerate(own) if not each.isdisjoint(names)]


def _names(about: Mapping[str, Any], unit: int) -> set[str | int]:
    role, name, message = (about[field][unit] for field in ("role", "name", "message"))
    own: set[str | int] = {role} | ({message} if message >= 0 else set())
    return own | {name} if name and role == "tool" else own


def _features(game: AnswerGame, units: Sequence[int], what: str) -> Tensor:
    """Bool `(features,)`: those of some units."""
    if not units:
        raise InvalidValue(f"there is no {what} unit; name them with dominance({what}=...)")
    chosen = torch.zeros(game.features, dtype=torch.bool, device="cpu")
    chosen[game.owner[list(units)]] = True
    return chosen


def _contexts(features: int, pairs: int, seed: int) -> Coalitions:
    """Bool `(2 pairs, features)`: random halves, then their complements."""
    draws = torch.rand(pairs, features, generator=seeded(seed), dtype=torch.float64, device="cpu") < 0.5
    return torch.cat([draws, ~draws])


def _verdict(margin: float, stderr: float, gains: Sequence[float], text: str) -> str:
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    size = f"margin {margin:+.2f} ± {stderr:.2f}"
    if max(gains) <= 0:
        return f"Neither untrusted nor trusted text makes this answer more likely ({size})."
    if abs(margin) <= SURE * stderr:
        return f"It is open whether untrusted or trusted text carries this answer ({size})."
    if margin > 0:
        return f"Untrusted text carries this answer ({size}), most of all “{shown}”."
    return f"Trusted text carries this answer ({size})."
