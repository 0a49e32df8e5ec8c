"""One explanation of a generation by gradients: the whole answer, and its tokens a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.attr.deep_lift import DeepLift
from llm_attr.attr.deep_lift_internal import LayerDeepLift
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, Saliency
from llm_attr.attr.lrp import LRP, LayerLRP
from llm_attr.attr.token_paths import SequentialIntegratedGradients
from llm_attr.core.evaluator import share_of
from llm_attr.core.jacobian import Jacobian, outputs_that_fit
from llm_attr.core.memory import free_bytes
from llm_attr.core.path.walk import Quadrature
from llm_attr.core.tensors import as_tensors, map_tensors, split_by
from llm_attr.errors import NoGradient, UnsupportedMethod
from llm_attr.llm.gradients.absent_units import AbsentUnits
from llm_attr.llm.gradients.answer_score import AnswerScore, ContrastScore, Entries, Passage, worth_of
from llm_attr.llm.gradients.checkpointing import is_short_of_memory
from llm_attr.llm.gradients.explained import Ends, Explained
from llm_attr.llm.gradients.forward_mode import NoRule, entry_rows, has_forward_mode, noting_forward_mode, rule_of
from llm_attr.llm.gradients.jacobian import attention_share, jacobian_of, row_bytes
from llm_attr.llm.gradients.methods import (
    BY_RULES,
    GUIDED,
    RANDOM,
    TEXT_DEFAULTS,
    at_activations,
    inside,
    is_embedding,
    is_linear,
    sites_of,
)
from llm_attr.llm.gradients.unit_sums import Samples, UnitSums, by_unit
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.speed import ROW_COST
from llm_attr.llm.prompt.interpretable import Placed
from llm_attr.llm.target.scalar import ADDITIVE, Scalar
from llm_attr.typing import Tensors

MEMORY_SHARE = 32
"""The rows of the tokens that are explained together may take this part of the free memory."""

AT_PROMPT = (Saliency, InputXGradient, LayerGradientXActivation, LRP, LayerLRP, *GUIDED)
"""Methods that look at the prompt alone, at no baseline."""

Choice = tuple[int, int]
"""The place of a quantity, and 0 for the whole answer or 1 + t for token t."""


class GradientRun:
    """What is asked of a model for one prompt and answer, and what it costs.

    Args:
        method: The method, made for the model.
        language_model: Model and tokenizer, in evaluation mode.
        placed: The tokens of the prompt in their features.
        answer: Token ids of the answer.
        baseline: The token that stands for an absent one; None: that of the input, else pad or EOS.
        scalars: Which quantities of the answer, all from the same forward passes; a contrast stands alone.
        options: Arguments of the method's `attribute`.
        score: Makes the score of a passage, as `AnswerScore` does.
        forward_mode: Whether forward mode may be used where it is quicker.

    Attributes:
        counter: Passes, positions and backward passes so far.
        log_probs: `(answer tokens,)` in nats, after the whole prompt.
        seed: Of a random method; None: of the global streams, or the method draws nothing.
    """

    def __init__(
        self,
        method: Attribution,
        language_model: LanguageModel,
        placed: Placed,
        answer: tuple[int, ...],
        baseline: int | str | None,
        scalars: Sequence[Scalar],
        options: Mapping[str, Any],
        score: Callable[..., Any] = AnswerScore,
        forward_mode: bool = True,
    ) -> None:
        self.method, self.language_model, self.placed, self.answer = method, language_model, placed, answer
        self._make, self.scalars = score, tuple(scalars)
        defaults = TEXT_DEFAULTS.get(type(inside(method)), {}) | ({"seed": 0} if isinstance(method, RANDOM) else {})
        self._options = defaults | dict(options)
        self.seed = self._options.get("seed") if isinstance(method, RANDOM) else None
        self._deltas = bool(self._options.pop("return_convergence_delta", False))
        several, baselines = isinstance(inside(method), RANDOM), self._options.pop("baselines", 0)
        self._absent = AbsentUnits(language_model, placed, baseline, baselines, several)
        self.baseline = self._absent.token
        self.counter = Cost()
        self._sites = sites_of(method, language_model, self._options.pop("attribute_to_layer_input", False))
        moving = [place for place, moves in enumerate(placed.moves) if moves]
        self._places = moving if is_embedding(self._sites, language_model) else None
        self._at_prompt = isinstance(method, AT_PROMPT)
        self.log_probs = torch.full((len(answer),), torch.nan, dtype=torch.float32, device="cpu")
        self._pieces, self._done, self._recomputed = 1, 0, False
        self._at_high: list[Tensor] = []
        self._forward_mode = forward_mode and has_forward_mode(language_model) is not False

    @property
    def uses_baseline(self) -> bool:
        """Whether the method starts from a baseline."""
        return "baselines" in signature(inside(self.method).attribute).parameters

    def recomputes(self, wanted: bool | None) -> bool:
        """Whether activations are computed again for the backward pass: as is wanted, else where memory is short.

        Raises:
            UnsupportedMethod: it is wanted of a method by rules.
        """
        by_rules = isinstance(inside(self.method), BY_RULES)
        if wanted and by_rules:
            raise UnsupportedMethod(
                f"{self.method.get_name()} replaces gradients operation by operation, and so none can be computed "
                "again; leave gradient_checkpointing=True out"
            )
        if wanted is not None:
            return wanted
        return not by_rules and is_short_of_memory(self.language_model, len(self.placed.ids) + len(self.answer))

    def explained(self, token_rows: bool, recomputed: bool = False) -> list[Explained]:
        """What was found of each quantity.

        Args:
            token_rows: Whether of each token too.
            recomputed: Whether activations are computed again for the backward pass.
        """
        self._recomputed = recomputed
        self._look_at_the_prompt(token_rows)
        score = self._score(Passage(self.placed.ids, self.answer))
        rows = self._with_rows(score) if token_rows else []
        rest = [place for place, scalar in enumerate(self.scalars) if place not in rows or not self._adds_up(scalar)]
        self._pieces = self._count(rows, rest)
        of_tokens = dict(zip(rows, self._explain_tokens(score, rows), strict=True)) if rows else {}
        of_whole = self._found(score, [(place, 0) for place in rest]) if rest else None
        ends = self._ends(score) if self._divides else [None] * len(self.scalars)
        found = []
        for place, both in enumerate(ends):
            tokens = of_tokens.get(place)
            if of_whole is not None and place in rest:
                whole = of_whole.rows(slice(rest.index(place), rest.index(place) + 1))
            else:
                whole = of_tokens[place].summed()
            found.append(Explained.of(whole, tokens, both, self._divides, self._deltas))
        return found

    @property
    def _divides(self) -> bool:
        """Whether the attributions divide a change of the quantity from a baseline to the prompt."""
        inner = inside(self.method)
        alone = inner is self.method or not isinstance(inner, SequentialIntegratedGradients)
        means = self._options.get("nt_type", "smoothgrad") == "smoothgrad"
        return self.uses_baseline and self.method.multiplies_by_inputs and alone and means

    @property
    def _knows_deltas(self) -> bool:
        """Whether the method finds its deltas on the way, or has another change than that of the whole prompt."""
        inner = inside(self.method)
        own = isinstance(inner, DeepLift | LayerDeepLift | SequentialIntegratedGradients)
        return own and inner is self.method and self._divides

    def _ends(self, score: AnswerScore | ContrastScore) -> list[Ends | None]:
        """Each quantity at the baseline and at the prompt, `(1 + tokens,)` each, or `(1,)`."""
        if self._knows_deltas:
            return [None] * len(self.scalars)

        def worth(point: Tensors) -> list[Tensor]:
            with torch.no_grad():
                values = score(*point)
            return [worth_of(scalar, each)[0].float().cpu() for scalar, each in zip(self.scalars, values, strict=True)]

        states = self._absent.passing(score)
        each = [worth(tuple(tensor[k : k + 1] for tensor in states)) for k in range(len(states[0]))]
        low = [torch.stack(values).mean(0) for values in zip(*each, strict=True)]
        return list(zip(low, self._at_high or worth(score.activations), strict=True))

    def _look_at_the_prompt(self, token_rows: bool) -> None:
        """The log-probabilities of the answer and the reference of a divergence, where no later pass shows them."""
        wanting = any(scalar.needs_reference for scalar in self.scalars)
        unseen = not self._at_prompt or (token_rows and self.forward_rule(len(self.scalars)) is not None)
        if wanting or (self._places is not None and unseen):
            score = self._one(Passage(self.placed.ids, self.answer))
            logits = score.logits()[0]
            self._hear(score)
            self.scalars = tuple(
                replace(scalar, reference=logits.log_softmax(-1)) if scalar.needs_reference else scalar
                for scalar in self.scalars
            )
            self._at_high = self._worth_at_the_prompt(logits)

    def _worth_at_the_prompt(self, logits: Tensor) -> list[Tensor]:
        """What the quantities are there, `(1 + tokens,)` each; nothing of a contrast, whose foil has other logits."""
        if any(scalar.contrast is not None for scalar in self.scalars):
            return []
        ids, places = torch.tensor(self.answer, device=logits.device), torch.arange(len(self.answer), device="cpu")
        values = [(scalar, scalar.read(logits[None], ids, places)) for scalar in self.scalars]
        return [worth_of(scalar, each)[0].float().cpu() for scalar, each in values]

    def _hear(self, score: AnswerScore | ContrastScore) -> None:
        """Keeps the log-probabilities that a score has shown."""
        if score.log_probs is not None:
            self.log_probs[score.passage.places] = score.log_probs

    def _with_rows(self, score: AnswerScore | ContrastScore) -> list[int]:
        """The places of the quantities that every token has."""
        waiting = any(scalar.waits for scalar in self.scalars)
        with torch.no_grad():
            shapes = [values.dim() for values in score(*score.activations)] if waiting else [2] * len(self.scalars)
        return [place for place, dimensions in enumerate(shapes) if dimensions > 1]

    def _count(self, rows: list[int], rest: list[int]) -> int:
        """How many runs of the method there will be."""
        single = isinstance(self.method, RANDOM)
        of_rows = len(rows) * len(self.answer) if single else len(list(self.passages()))
        each = 1 if self.forward_rule(len(rows)) else of_rows
        return (each if rows else 0) + (len(rest) if single else bool(rest))

    def forward_rule(self, quantities: int) -> Quadrature | None:
        """The points of the method, if forward mode gives the tokens' rows with less work."""
        plain = self._forward_mode and not any(scalar.waits for scalar in self.scalars)
        rule = rule_of(self.method, self._options) if plain else None
        weights = attention_share(self.language_model, len(self.placed.ids) + len(self.answer) - 1)
        less = ROW_COST * max(1.0, weights) * self._units < 1 + quantities * len(self.answer)
        return rule if self._places is not None and less else None

    def _adds_up(self, scalar: Scalar) -> bool:
        """Whether the attributions of the tokens sum to those of the answer."""
        return scalar.name in ADDITIVE and is_linear(self.method, self._options)

    def _explain_tokens(self, score: AnswerScore | ContrastScore, rows: list[int]) -> list[UnitSums]:
        """The rows of the tokens, of every quantity that has them."""
        parts = self._by_forward_mode(score, rows) or [
            self._found(one, tokens_of(one.passage, rows))
            for one in ([score] if isinstance(self.method, RANDOM) else map(self._score, self.passages()))
        ]

        def of(number: int) -> UnitSums:
            sizes = [len(part.totals) // len(rows) for part in parts]
            pairs = zip(parts, sizes, strict=True)
            return UnitSums.joined([part.rows(slice(number * size, (number + 1) * size)) for part, size in pairs])

        return [of(number) for number in range(len(rows))]

    def _by_forward_mode(self, score: AnswerScore | ContrastScore, quantities: list[int]) -> list[UnitSums]:
        """All rows of tokens; nothing where it is more work, or an operation of the model has no forward mode."""
        rule = self.forward_rule(len(quantities))
        if rule is None:
            return []
        high = score.activations
        low = tuple(map(torch.zeros_like, high)) if self._at_prompt else self._absent.passing(score)
        asked = self.language_model if self._make is AnswerScore else None
        entries, positions = Entries(score, tokens_of(score.passage, quantities)), len(score.passage.ids)
        together = outputs_that_fit(self.language_model.device, row_bytes(self.language_model, positions))
        nobody = self._owners < 0
        owners = self._owners.masked_fill(nobody, self._units).tolist()
        try:
            with noting_forward_mode(asked), self._piece():
                units = self._units + int(self._divides and nobody.any())
                rows = entry_rows(entries, low, high, owners, rule, units, together)
        except NoRule:
            self._forward_mode = False
            self._pieces += len(list(self.passages())) - 1
            return []
        self._hear(score)
        return [UnitSums([rows[:, : self._units]], rows.sum(1))]

    def passages(self) -> Iterator[Passage]:
        """The tokens in groups: each pass reads no further than to the last token that it scores."""
        size = self._group_size()
        for first in range(0, len(self.answer), size):
            yield Passage(self.placed.ids, self.answer[: first + size], first)

    def _group_size(self) -> int:
        if any(scalar.waits or scalar.contrast is not None for scalar in self.scalars):
            return len(self.answer)
        prompt, tokens, quantities = len(self.placed.ids), len(self.answer), len(self.scalars)
        config = self.language_model.text_config
        room = free_bytes(self.language_model.device) // MEMORY_SHARE
        most = max(1, min(tokens, room // (4 * config.hidden_size * (prompt + tokens) * quantities)))
        return min(range(1, most + 1), key=lambda size: _cost(prompt, tokens, size, quantities))

    def _found(self, score: AnswerScore | ContrastScore, chosen: Sequence[Choice]) -> UnitSums:
        """What the method says of some entries."""
        if isinstance(self.method, RANDOM) and len(chosen) > 1:
            return UnitSums.joined([self._found(score, [one]) for one in chosen])
        method = at_activations(self.method, Entries(score, chosen).differentiated(self._jacobian(score)))
        inner, options, units = inside(method), dict(self._options), self._units
        if "baselines" in signature(inner.attribute).parameters:
            options["baselines"] = self._absent.passing(score)
        samples = Samples(self._owners, units, lambda given: split_by(given, score.slots), self._squares)
        if isinstance(method, RANDOM) and self._options.get("nt_type") != "vargrad":
            options["inspect"] = samples
        asks = self._knows_deltas or (self._deltas and not self._divides)
        with self._piece():
            found = method.attribute(
                score.activations, **options, **({"return_convergence_delta": True} if asks else {})
            )
        self._hear(score)
        found, delta = found if asks else (found, None)
        if len(chosen) > 1:
            found, delta = map_tensors(lambda tensor: tensor.flatten(0, 1), (found, delta))
        by_site = split_by(found, score.slots)
        self._refuse_shadowed(by_site)
        sums = [by_unit(tensors, self._owners, units) for tensors in by_site]
        errors, total_errors = samples.errors() or ([], None)
        totals = torch.stack([each.sum(1) for each in sums]).sum(0)
        deltas, misses = self._deltas_of(found, delta)
        return UnitSums([each[:, :units] for each in sums], totals, errors, total_errors, deltas, misses)

    @property
    def _squares(self) -> bool:
        return self._options.get("nt_type") == "smoothgrad_sq"

    def _deltas_of(self, found: Any, delta: Any) -> tuple[Tensor | None, Tensor | None]:
        """The delta of each entry, and where each position has its own what the sizes of those and the changes sum to.

        Random methods have a delta for each sample, of which the entry's is the mean.
        """
        if delta is None:
            return None, None
        (gap,) = delta if isinstance(delta, tuple) else (delta,)
        gap = gap.detach().float().cpu()
        if not isinstance(self.method, SequentialIntegratedGradients):
            return (gap.mean(0, keepdim=True) if isinstance(self.method, RANDOM) else gap), None
        changes = as_tensors(found)[0].flatten(2).float().sum(2).cpu() - gap
        return gap.sum(1), torch.stack([gap.abs().sum(1), changes.abs().sum(1)], 1)

    def _refuse_shadowed(self, parts: Sequence[Tensors]) -> None:
        """Refuses layers from which nothing goes on, since another of them is replaced behind them."""
        moved = [any(tensor.any() for tensor in part) for part in parts]
        if self._make is AnswerScore and any(moved) and not all(moved):
            raise NoGradient(
                f"nothing goes on from {self._sites[moved.index(False)]}, the {moved.index(False) + 1}. of the "
                f"{len(moved)} layers: another one behind it is replaced too; explain them one at a time"
            )

    def _jacobian(self, score: AnswerScore | ContrastScore) -> Jacobian:
        batched = not self._recomputed and not isinstance(inside(self.method), BY_RULES)
        plain = not any(scalar.waits for scalar in self.scalars)
        return jacobian_of(self.language_model, len(score.passage.ids), score.count_backward, batched, plain)

    @contextmanager
    def _piece(self) -> Iterator[None]:
        """One run of the method among several, for those who watch the progress."""
        with share_of(f"{self.method.get_name()} attribution", self._done, self._done + 1, self._pieces):
            yield
        self._done += 1

    @property
    def _units(self) -> int:
        return max(self.placed.owners) + 1

    @property
    def _owners(self) -> Tensor:
        """The feature of each position that is moved."""
        owners = torch.tensor(self.placed.owners, device="cpu")
        return owners if self._places is None else owners[self._places]

    def _score(self, passage: Passage) -> AnswerScore | ContrastScore:
        contrast = self.scalars[0].contrast
        if contrast is None:
            return self._one(passage)
        return ContrastScore(self._one(passage), self._one(Passage(passage.prompt, contrast.foil)), contrast)

    def _one(self, passage: Passage) -> AnswerScore:
        made: AnswerScore = self._make(
            self.language_model,
            passage,
            self._sites,
            self._places,
            self.scalars,
            self.counter,
            self._at_prompt and bool(self.log_probs.isnan().any()),
            self._at_prompt and len(self._sites) > 1,
        )
        return made


def tokens_of(passage: Passage, quantities: Sequence[int]) -> list[Choice]:
    """The scored tokens of a passage, of one quantity after the other."""
    return [(place, 1 + token) for place in quantities for token in range(len(passage.scored))]


def _cost(prompt: int, tokens: int, size: int, quantities: int) -> float:
    """Positions that go forwards and backwards where so many tokens are explained together."""
    starts = range(0, tokens, size)
    return sum((prompt + min(at + size, tokens)) * (1 + quantities * min(size, tokens - at)) for at in starts)
