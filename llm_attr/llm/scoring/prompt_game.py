"""A prompt and its answer as a game that judges attributions; see `llm_attr.metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.faithfulness.feature_game import AnswerGame, Spent, as_rows, distinct, of_features
from llm_attr.core.faithfulness.orders import seeded
from llm_attr.core.faithfulness.randomised import layers_of, randomise, restored
from llm_attr.core.game.driver import finite
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.errors import InvalidShape, UnsupportedMethod
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.alignment import token_spans
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.results.table import Table
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.scorer import engine_for
from llm_attr.llm.scoring.text_game import TextGame
from llm_attr.llm.target.region import Region
from llm_attr.llm.target.scalar import Scalar, payoff
from llm_attr.typing import Coalitions, Values


@dataclass(frozen=True)
class Asked:
    """What a prompt game asks of a model.

    Attributes:
        language_model: Model and tokenizer.
        inp: The prompt and its units, random baselines drawn.
        features: Which units are absent together.
        prompt: Token ids of the full prompt.
        answer: Token ids of the answer.
        scalar: The quantity of the answer, bound to it.
    """

    language_model: LanguageModel
    inp: InterpretableInput
    features: Features
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    scalar: Scalar


class PromptGame(AnswerGame):
    """The quantity of an answer when only some units of its prompt are present.

    Made by `llm_attr.prompt_game`, and the `game` of every result of `explain`. The engine is made, and the model
    called, when a coalition is asked for that is not known yet.

    Args:
        asked: What is asked of the model.
        owner: int64 `(units,)`: the feature of each unit.
        table: Values that are known already; those of several trials are not used.
    """

    def __init__(self, asked: Asked, owner: Tensor, table: Table | None = None) -> None:
        self.asked, self._owner = asked, owner
        self._scores = _Scores(asked)
        self._tokens: slice | None = None
        if table is not None and len(table.values) == 1:
            self._scores.learn(table.coalitions, table.values[0], table.per_token)

    @property
    def features(self) -> int:
        """The number of features: of units, or of groups of units that are absent together."""
        return self.asked.features.count

    @property
    def spent(self) -> Spent:
        """See `FeatureGame`."""
        return self._scores.spent

    @property
    def owner(self) -> Tensor:
        """See `AnswerGame`."""
        return self._owner

    def part(self, tokens: slice) -> PromptGame:
        """The game of a part of the answer, which shares what is known."""
        part = PromptGame(self.asked, self._owner)
        part._scores = self._scores
        before = range(len(self.asked.answer))[self._tokens or slice(None)]
        chosen = before[tokens]
        part._tokens = slice(chosen.start, chosen.stop)
        return part

    def of_region(self, region: Region) -> PromptGame:
        """The game of a region of the answer, which shares what is known.

        Raises:
            InvalidTarget: the region is not in the answer.
        """
        text, spans = token_spans(self.asked.language_model.tokenizer, self.asked.answer, self.asked.prompt)
        tokens = region.tokens(text, spans)
        return self.part(slice(tokens.start, tokens.stop))

    @contextmanager
    def randomised(self, seed: int) -> Iterator[PromptGame]:
        """See `AnswerGame`.

        Raises:
            UnsupportedMethod: the model is behind an engine.
        """
        if self.asked.language_model.served_by is not None:
            raise UnsupportedMethod("layers cannot be made random behind an engine; use a model in this process")
        model, generator = self.asked.language_model.model, seeded(seed)
        with restored(model):
            for _, layer in layers_of(model, None):
                randomise(layer, generator)
            game = PromptGame(self.asked, self._owner)
            game._tokens = self._tokens
            yield game

    def rows(self, attributions: Any) -> Tensor:
        """See `FeatureGame`; `(units,)` explain the full answer, `(answer tokens, units)` each token.

        Units that are absent together have their common attribution if all of a group have the same one, else their
        sum.
        """
        given = getattr(attributions, "seq_attr", attributions)
        return of_features(as_rows(given, len(self._owner)), self._owner, self.features)

    def values(self, coalitions: Coalitions) -> Values:
        """See `FeatureGame`.

        Raises:
            InvalidShape: the attributions explain neither the full answer nor each of its tokens.
            LlmAttrError: as in `LLMAttribution.attribute`.
        """
        outputs, count, features = coalitions.shape
        rows, place = distinct(coalitions.reshape(-1, features))
        per_token = self._scores(rows)
        if self._tokens is not None and self._scores.per_token:
            per_token = per_token[:, self._tokens]
        answers = payoff(per_token, self.asked.scalar.name, self._scores.per_token).double()
        if outputs > 1 and outputs != answers.shape[1] - 1:
            tokens = f", or (answer tokens = {answers.shape[1] - 1}, units)" if answers.shape[1] > 1 else ""
            raise InvalidShape(
                f"attributions of this answer must have the shape (units,){tokens}; got {outputs} rows of units"
            )
        first = 0 if outputs == 1 else 1
        own = torch.arange(first, first + outputs, device="cpu")
        return answers[place.view(outputs, count), own[:, None].expand(outputs, count)]


class _Scores:
    """The values of each answer token for coalitions, remembered."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._ledger = asked, Ledger()
        self._engine: ScoreEngine | None = None
        self._scalar = asked.scalar
        self.per_token = True
        self._remembered = self._ledger.remembering(finite(self._evaluated))

    def __call__(self, coalitions: Coalitions) -> Values:
        return self._remembered(coalitions)

    def learn(self, coalitions: Coalitions, values: Values, per_token: bool) -> None:
        """Takes over the values of coalitions that are known already."""
        self.per_token = per_token
        self._ledger.learn(coalitions, values)

    @property
    def spent(self) -> Spent:
        passes = 0 if self._engine is None else int(self._engine.cost.passes)
        return Spent(self._ledger.evaluated, passes)

    def _evaluated(self, coalitions: Coalitions) -> Values:
        asked = self._asked
        device = asked.language_model.device
        with Evaluator("Faithfulness", len(coalitions), device=device) as evaluator:
            if self._engine is None:
                self._engine = engine_for(asked.language_model)
            if self._scalar.needs_reference:
                whole = Query(Variant.plain(asked.prompt), asked.answer)
                self._scalar = replace(self._scalar, reference=self._engine.distributions(whole, evaluator))
            scalars: Sequence[Scalar] = (self._scalar,)
            game = TextGame(asked.inp, asked.features, asked.answer, self._engine, evaluator, scalars=scalars)
            values = game(coalitions)
            evaluator.finish()
        (self.per_token,) = game.per_token
        return values
