"""A prompt as a game: a coalition of units is worth the log-probabilities of the answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llm_attr.core.coalitions import keys
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.features import Features
from llm_attr.errors import EmptyPrompt, InvalidType
from llm_attr.llm.bound import BoundPrompt
from llm_attr.llm.inputs import InterpretableInput
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.prefix_tree import Query, Variant
from llm_attr.llm.scoring import Scorer
from llm_attr.typing import Coalitions, Values

Inspector = Callable[[str, str, list[float]], None]


class TextGame:
    """The log-probability of each token of an answer when only the units of a coalition are in the prompt.

    Args:
        inp: The prompt in its units.
        features: Which units form a feature.
        answer: The token ids that are scored.
        scorer: Model, and what is known of it; games of other prompts and answers may share it.
        evaluator: Runs the passes.
        inspect: Called once for each variant: its text, the answer's text, and the probabilities of the whole answer
            and of each token.
        inspected: The variants that have been shown to it; games that share this set show each variant once.

    Attributes:
        stand_in: The token that stood for a prompt without any text, if that came up.
    """

    def __init__(
        self,
        inp: InterpretableInput,
        features: Features,
        answer: tuple[int, ...],
        scorer: Scorer,
        evaluator: Evaluator,
        inspect: Inspector | None = None,
        inspected: set[Variant] | None = None,
    ) -> None:
        self.inp, self.features, self.answer = inp, features, answer
        self.scorer, self.evaluator, self._inspect = scorer, evaluator, inspect
        self._queries: dict[bytes, Query] = {}
        self._tensor = inp.to_tensor()
        self._inspected: set[Variant] = set() if inspected is None else inspected
        self.stand_in: int | None = None

    def __call__(self, coalitions: Coalitions) -> Values:
        """`(coalitions, answer tokens)` log-probabilities in nats."""
        queries = self.queries(coalitions)
        scores = torch.stack(self.scorer.score(queries, self.evaluator))
        if self._inspect is not None:
            self._show(queries, scores, self._inspect)
        return scores

    def queries(self, coalitions: Coalitions) -> list[Query]:
        """What is scored for each coalition."""
        names = keys(coalitions)
        for name, coalition in zip(names, coalitions, strict=True):
            if name not in self._queries:
                self._queries[name] = Query(self.variant(coalition), self.answer)
        return [self._queries[name] for name in names]

    def variant(self, coalition: Coalitions) -> Variant:
        """The tokens of the prompt in which only the features of the coalition `(features,)` are present."""
        present = coalition[self.features.owner[0]]
        language_model = self.scorer.language_model
        if isinstance(self.inp, BoundPrompt):
            variant = self.inp.variant(present.flatten().tolist())
        else:
            tensor = self._tensor * present.to(self._tensor.dtype)
            variant = Variant.plain(model_input_ids(language_model, self.inp, tensor))
        if variant.tokens:
            return variant
        self.stand_in = empty_prompt_id(language_model)
        last = max(0, (variant.length or 0) - 1)
        return Variant((self.stand_in,), (last,), last + 1)

    def _show(self, queries: list[Query], scores: Tensor, inspect: Inspector) -> None:
        language_model, answer = self.scorer.language_model, list(self.answer)
        for query, log_probs in zip(queries, scores, strict=True):
            if query.variant not in self._inspected:
                self._inspected.add(query.variant)
                probabilities = torch.cat([log_probs.sum()[None], log_probs]).exp().tolist()
                inspect(language_model.decode(list(query.variant.tokens)), language_model.decode(answer), probabilities)


def model_input_ids(language_model: LanguageModel, inp: InterpretableInput, present: Tensor | None = None) -> list[int]:
    """Token ids of the prompt with these features present, `(1, features)`."""
    model_input = inp.to_model_input(present)
    if isinstance(model_input, str):
        return language_model.encode(model_input, special_tokens=True)
    if isinstance(model_input, Tensor):
        return list(model_input.flatten().tolist())
    raise InvalidType(f"to_model_input must give a text or token ids; got {type(model_input).__name__}")


def empty_prompt_id(language_model: LanguageModel) -> int:
    """What stands for an empty prompt: the token of the beginning of text, else that of its end.

    Raises:
        EmptyPrompt: the tokenizer has neither.
    """
    for token in (language_model.tokenizer.bos_token_id, language_model.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise EmptyPrompt(
        f"without its units the prompt is empty, and the tokenizer of {language_model.name} has neither a BOS nor "
        "an EOS token that could stand for it; keep some text outside the units"
    )
