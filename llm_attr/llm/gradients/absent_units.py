"""What stands in a prompt for units that are absent, as methods of gradients start from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llm_attr.errors import InvalidValue
from llm_attr.llm.gradients.answer_score import AnswerScore, ContrastScore
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import special_id
from llm_attr.llm.prompt.interpretable import TokenMap, token_id
from llm_attr.typing import Tensors


class AbsentUnits:
    """The prompts from which the paths of a method start: all of its units absent, or some of them.

    Args:
        language_model: Model and tokenizer.
        tokens: The tokens of the prompt and their units.
        token: The token that stands for an absent one; None: that of the input, else pad or EOS.
        baselines: Which features are present: a number for all, or `(states, features)` of 0 and 1.
        several: Whether there may be several states, out of which a method draws.

    Attributes:
        token: That token's id.
    """

    def __init__(
        self, language_model: LanguageModel, tokens: TokenMap, token: int | str | None, baselines: Any, several: bool
    ) -> None:
        self.token = _absent(language_model, tokens.absent if token is None else token)
        self._tokens, self._present = tokens, _presence(baselines, tokens.units, several)
        self._read: tuple[Any, Tensors] | None = None

    def passing(self, score: AnswerScore | ContrastScore) -> Tensors:
        """What passes the layers of a score for each of the prompts, `(states, positions, *features)` each."""
        if self._read is None or self._read[0] is not score:
            each = [score.activations_of(self._ids(present)) for present in self._present]
            self._read = score, tuple(torch.cat(tensors) for tensors in zip(*each, strict=True))
        return self._read[1]

    def _ids(self, present: Sequence[bool]) -> list[int]:
        """One of the prompts; tokens of no unit stay where any unit does."""
        some = any(present)
        each = zip(self._tokens.moved, self._tokens.unit_of_token, strict=True)
        gone = [moved and not (some and (unit < 0 or present[unit])) for moved, unit in each]
        return [self.token if absent else token for token, absent in zip(self._tokens.ids, gone, strict=True)]


def _presence(baselines: Any, units: int, several: bool) -> list[list[bool]]:
    """Which units are present in each baseline.

    Raises:
        InvalidValue: the baselines are neither numbers nor rows of 0 and 1 with one for each unit, or several rows
            where the method takes one.
    """
    given = baselines[0] if isinstance(baselines, tuple) and len(baselines) == 1 else baselines
    numbers = torch.as_tensor(given if isinstance(given, Tensor | int | float) else torch.nan, device="cpu")
    rows = numbers.expand(1, units) if numbers.dim() == 0 else numbers.reshape(-1, numbers.shape[-1])
    fits = rows.shape[1:] == (units,) and (several or len(rows) == 1) and numbers.dim() <= 2
    if not fits or not len(rows) or not ((rows == 0) | (rows == 1)).all():
        raise InvalidValue(
            f"baselines say which of the {units} features are present (1) and absent (0): a number or a tensor "
            f"({'states' if several else '1'}, {units}); got {baselines!s:.100}"
        )
    return (rows == 1).tolist()


def line_break(language_model: LanguageModel) -> int | None:
    """The token of a line break, if it is one token."""
    ids = language_model.encode("\n", special_tokens=False)
    return ids[0] if len(ids) == 1 and language_model.decode(ids) == "\n" else None


def _absent(language_model: LanguageModel, token: int | str | None) -> int:
    token = special_id(language_model.tokenizer, "pad", "eos") if token is None else token
    if token is not None:
        return token_id(language_model.tokenizer, token)
    raise InvalidValue(
        f"the tokenizer of {language_model.name} has neither a pad nor an EOS token; say which token's embedding "
        "stands for absent ones with baseline=..."
    )
