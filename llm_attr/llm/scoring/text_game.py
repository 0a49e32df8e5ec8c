"""A prompt as a game: the value of a coalition of units is a scalar of the answer, such as its log-probability."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.features import Features
from llm_attr.errors import EmptyPrompt, InvalidShape, InvalidType
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import special_id
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading
from llm_attr.llm.target.scalar import Scalar
from llm_attr.typing import Coalitions, Values

Inspector = Callable[[str, str, list[float]], None]


class TextGame:
    """The value of each answer token when only the units of a coalition are in the prompt.

    Args:
        inp: The prompt and its units.
        features: Which units form a feature.
        answer: The token ids that are scored.
        engine: The engine, which several games may share.
        evaluator: Runs the passes.
        inspect: Called once per variant with its text, the answer's text, and the probabilities of the full answer and
            of each token.
        inspected: Variants that were already inspected; games may share this set.
        scalars: The scalars, bound to the answer; the foils of contrasts are scored too.

    Attributes:
        empty_prompt_token: The token that stood for an empty prompt, if that came up.
        per_token: For each scalar that has been read, whether it has a number per token rather than a single one.
    """

    def __init__(
        self,
        inp: InterpretableInput,
        features: Features,
        answer: tuple[int, ...],
        engine: ScoreEngine,
        evaluator: Evaluator,
        inspect: Inspector | None = None,
        inspected: set[Variant] | None = None,
        scalars: Sequence[Scalar] = (Scalar("log_prob"),),
    ) -> None:
        self.inp, self.features, self.answer = inp, features, answer
        self.engine, self.evaluator, self._inspect = engine, evaluator, inspect
        self.scalars, self.per_token = tuple(scalars), tuple[bool, ...]()
        self._read = tuple(scalar for scalar in self.scalars if not scalar.is_of_log_probs)
        self._foils = tuple(scalar.contrast.foil for scalar in self.scalars if scalar.contrast is not None)
        self._tensor = inp.to_tensor()
        self._inspected: set[Variant] = set() if inspected is None else inspected
        self.empty_prompt_token: int | None = None

    def __call__(self, coalitions: Coalitions) -> Values:
        """`(coalitions, entries)`: the values of all scalars, concatenated; see `split`."""
        return self.worth(self.variants(coalitions))

    def worth(self, variants: Sequence[Variant]) -> Values:
        """`(variants, entries)` for variants of the prompt."""
        readings = self.engine.read([query for variant in variants for query in self.asked(variant)], self.evaluator)
        step = 1 + len(self._foils)
        answers = readings[::step]
        foils = iter([torch.stack([reading.log_probs for reading in readings[i::step]]) for i in range(1, step)])
        log_probs = torch.stack([reading.log_probs for reading in answers])
        if self._inspect is not None:
            self._show(variants, log_probs, self._inspect)
        each = {scalar: self._stacked(scalar, answers, i) for i, scalar in enumerate(self._read)}
        for scalar in self.scalars:
            if scalar.contrast is not None:
                each[scalar] = scalar.contrast.rows(log_probs, next(foils))
        parts = [each.get(scalar, log_probs) for scalar in self.scalars]
        self.per_token = tuple(part.dim() == 2 for part in parts)
        return torch.cat([part if part.dim() == 2 else part[:, None] for part in parts], 1)

    def split(self, values: Values) -> list[Values]:
        """`(..., entries)` -> for each scalar `(..., answer tokens)`, or `(..., 1)` for a single number."""
        return list(values.split([len(self.answer) if each else 1 for each in self.per_token], -1))

    def variants(self, coalitions: Coalitions) -> list[Variant]:
        """The variant of the prompt for each coalition."""
        return [self.variant(coalition) for coalition in coalitions]

    def asked(self, variant: Variant) -> list[Query]:
        """The queries for a variant: the answer, then the foils."""
        foils = [Query(variant, foil) for foil in self._foils]
        return [Query(variant, self.answer, self._read), *foils]

    def variant(self, coalition: Coalitions) -> Variant:
        """The tokens of the prompt with only the features of the coalition `(features,)` present."""
        present = coalition[self.features.owner[0]]
        language_model = self.engine.language_model
        if isinstance(self.inp, BoundPrompt):
            variant = self.inp.variant(present.flatten().tolist())
        else:
            tensor = self._tensor * present.to(self._tensor.dtype)
            variant = Variant.plain(model_input_ids(language_model, self.inp, tensor))
        if variant.tokens:
            return variant
        self.empty_prompt_token = empty_prompt_id(language_model)
        last = max(0, (variant.length or 0) - 1)
        return Variant((self.empty_prompt_token,), (last,), last + 1)

    def _stacked(self, scalar: Scalar, readings: Sequence[Reading], number: int) -> Tensor:
        """`(variants, answer tokens)` or `(variants,)` of one scalar."""
        values = [reading.scalars[number] for reading in readings]
        before = self.per_token[self.scalars.index(scalar)] if self.per_token else bool(values[0].dim())
        if any(bool(each.dim()) != before for each in values):
            raise InvalidShape(
                f"the scalar {scalar.label} returns a number for each token after some variants of the prompt, and a "
                "single one after others; it must always return the same shape"
            )
        return torch.stack(values)

    def _show(self, variants: Sequence[Variant], scores: Tensor, inspect: Inspector) -> None:
        language_model, answer = self.engine.language_model, list(self.answer)
        for variant, log_probs in zip(variants, scores, strict=True):
            if variant not in self._inspected:
                self._inspected.add(variant)
                probabilities = torch.cat([log_probs.sum()[None], log_probs]).exp().tolist()
                inspect(language_model.decode(list(variant.tokens)), language_model.decode(answer), probabilities)


def model_input_ids(language_model: LanguageModel, inp: InterpretableInput, present: Tensor | None = None) -> list[int]:
    """Token ids of the prompt with these features present, `(1, features)`."""
    model_input = inp.to_model_input(present)
    if isinstance(model_input, str):
        return language_model.encode(model_input, special_tokens=True)
    if isinstance(model_input, Tensor):
        return list(model_input.flatten().tolist())
    raise InvalidType(f"to_model_input must return a text or token ids; got {type(model_input).__name__}")


def empty_prompt_id(language_model: LanguageModel) -> int:
    """The token that stands for an empty prompt: BOS, else EOS.

    Raises:
        EmptyPrompt: the tokenizer has neither.
    """
    token = special_id(language_model.tokenizer, "bos", "eos")
    if token is not None:
        return token
    raise EmptyPrompt(
        f"without its units the prompt is empty, and the tokenizer of {language_model.name} has neither a BOS nor "
        "an EOS token that could stand for it; keep some text outside the units"
    )
