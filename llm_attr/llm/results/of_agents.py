"""What results say about agents: orders of evaluation, and dominance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_attr.errors import UnsupportedMethod
from llm_attr.llm.agents.dominance import Dominance, Names, dominance, units_named
from llm_attr.llm.agents.orders import Orders, orders

if TYPE_CHECKING:
    from llm_attr.core.faithfulness.feature_game import AnswerGame
    from llm_attr.llm.results.data import ResultData


def orders_of(result: ResultData, names: Sequence[str]) -> Orders:
    """See `LLMAttributionResult.orders`.

    Raises:
        LlmAttrError: as there.
    """
    return orders(_game(result), *names)


def dominance_of(
    result: ResultData, untrusted: Names | None, trusted: Names | None, samples: int, seed: int
) -> Dominance:
    """See `LLMAttributionResult.dominance`.

    Raises:
        LlmAttrError: as there.
    """
    game, about = _game(result), result.provenance.get("trace", {})
    groups = [""] * len(result.input_tokens)
    for group in result.groups:
        groups[group.first : group.stop] = [group.label] * (group.stop - group.first)
    first = units_named(untrusted, about, groups, True)
    second = units_named(trusted, about, groups, False)
    if trusted is None:  # a role that was named untrusted is not trusted as well
        second = [unit for unit in range(len(groups)) if unit not in first] if untrusted is not None else second
    return dominance(game, first, second, result.input_tokens, samples, seed)


def _game(result: ResultData) -> AnswerGame:
    if result.game is None:
        raise UnsupportedMethod(
            "this result has no model that could score other prompts: it was loaded, or its units cannot be left out; "
            "explain the prompt again"
        )
    return result.game
