"""Orders of evaluation: what units change when they come in, are left out, or are alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.faithfulness.feature_game import AnswerGame
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.typing import Coalitions

ORDERS = ("reveal", "drop", "keep")
"""The orders of evaluation."""


@dataclass(frozen=True, eq=False)
class Orders:
    """What each unit of a prompt changes, in several orders of evaluation.

    Attributes:
        reveal: `(units,)` what changed when the unit came in: `f(units up to it) - f(units before it)`; these sum to
            `f(all) - f(none)`. None if it was not requested, like the others.
        drop: `(units,)` what is lost without the unit: `f(all) - f(all but it)`.
        keep: `(units,)` what the unit adds alone: `f(only it) - f(none)`.
        prefixes: `(units + 1,)` the values of `reveal`: `f` of the first 0, 1, ... units.
        evaluations: How many coalitions the model evaluated for it; known ones are not evaluated again.

    All are float64, in nats or in the unit of the scalar.
    """

    reveal: Tensor | None
    drop: Tensor | None
    keep: Tensor | None
    prefixes: Tensor | None
    evaluations: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as lists."""
        return {
            field.name: value.tolist() if isinstance(value := getattr(self, field.name), Tensor) else value
            for field in fields(self)
        }


def orders(game: AnswerGame, *names: str) -> Orders:
    """Evaluates a prompt's units in several orders, all from one tree of prefixes.

    The prompts of `reveal` begin alike, so their common beginning is computed once: with steps as units they take the
    positions of about one full prompt. Whether a step matters depends on what follows it: `reveal` tells when the model
    made up its mind, `drop` what it cannot do without, `keep` what is enough.

    Args:
        game: The game of a result (`result.game`), or of `llm_attr.prompt_game`. Units that are absent together come in
            together, and have the same value.
        *names: `reveal`, `drop`, `keep`; all by default.

    Raises:
        UnknownName: there is no such order.
        InvalidValue: units that are absent together are apart in the prompt, so that they do not come in one by one.

    Source: AgentDoG, arXiv:2601.15075 (temporal gain; drop and hold).

    Example:
        >>> game = llm_attr.prompt_game(lm, Prompt.from_trace(messages, unit="step"))  # doctest: +SKIP
        >>> orders(game, "reveal").reveal  # doctest: +SKIP
    """
    wanted = names or ORDERS
    for name in wanted:
        if name not in ORDERS:
            raise UnknownName("order of evaluation", name, ORDERS)
    count, before = game.features, game.spent
    rows = {name: _ROWS[name](count) for name in ORDERS if name in wanted}
    if "reveal" in rows and game.owner.sort().values.ne(game.owner).any():
        raise InvalidValue("reveal takes units in the order of the prompt, but the groups of units are in another one")
    values = game.shared(torch.cat(list(rows.values())), 1)[0]
    each = dict(zip(rows, values.split([len(part) for part in rows.values()]), strict=True))
    prefixes = each.get("reveal")
    found = {
        "reveal": None if prefixes is None else prefixes.diff(),
        "drop": each["drop"][0] - each["drop"][1:] if "drop" in each else None,
        "keep": each["keep"][1:] - each["keep"][0] if "keep" in each else None,
    }
    of_units = {name: None if value is None else value[game.owner] for name, value in found.items()}
    return Orders(**of_units, prefixes=prefixes, evaluations=game.spent.since(before).evaluations)


def _prefixes(count: int) -> Coalitions:
    return torch.ones(count + 1, count, dtype=torch.bool, device="cpu").tril(-1)


def _without_one(count: int) -> Coalitions:
    return torch.cat([torch.ones(1, count, dtype=torch.bool, device="cpu"), ~_one(count)])


def _alone(count: int) -> Coalitions:
    return torch.cat([torch.zeros(1, count, dtype=torch.bool, device="cpu"), _one(count)])


def _one(count: int) -> Coalitions:
    return torch.eye(count, dtype=torch.bool, device="cpu")


_ROWS = {"reveal": _prefixes, "drop": _without_one, "keep": _alone}
