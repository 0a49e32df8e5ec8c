"""One explanation of a generation by gradients: the whole answer, then its tokens a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, Saliency
from llm_attr.core.evaluator import share_of
from llm_attr.core.memory import free_bytes
from llm_attr.core.path import Quadrature, accumulator
from llm_attr.core.site import Site
from llm_attr.core.tensors import split_by
from llm_attr.errors import InvalidShape, InvalidValue, UnknownKeyword, UnsupportedMethod
from llm_attr.llm.answer_score import AnswerScore, ContrastScore, EachToken, Passage, WholeAnswer
from llm_attr.llm.forward_mode import ROW_COST, has_forward_mode, noting_forward_mode, rule_of
from llm_attr.llm.forward_mode import token_rows as forward_mode_rows
from llm_attr.llm.gradient_methods import BY_RULES, RANDOM, at_activations, inside, sites_of
from llm_attr.llm.inputs import Placed, token_id
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.passes import Counter
from llm_attr.llm.recompute import is_short_of_memory
from llm_attr.llm.scalar import ADDITIVE, Scalar
from llm_attr.typing import Tensors

MEMORY_SHARE = 32
"""The rows of the tokens that are explained together may take this part of the free memory."""


class GradientRun:
    """What is asked of a model for one prompt and answer, and what it costs.

    Args:
        method: The method, made for the model.
        language_model: Model and tokenizer, in evaluation mode.
        placed: The tokens of the prompt in their features.
        answer: Token ids of the answer.
        baseline: The token that stands for an absent one; None: that of the input, else pad or EOS.
        scalar: Which quantity of the answer.
        options: Arguments of the method's `attribute`.
        score: Makes the score of a passage, as `AnswerScore` does.

    Attributes:
        counter: Passes, positions and backward passes so far.
        deltas: The convergence deltas, if they were asked for.
        log_probs: `(answer tokens,)` in nats, after the whole prompt.
        forward_mode: Whether forward mode may be used where it is quicker.
    """

    def __init__(
        self,
        method: Attribution,
        language_model: LanguageModel,
        placed: Placed,
        answer: tuple[int, ...],
        baseline: int | str | None,
        scalar: Scalar,
        options: Mapping[str, Any],
        score: Callable[..., Any] = AnswerScore,
    ) -> None:
        self._make = score
        self.scalar = scalar
        self.method, self.language_model, self.placed, self.answer = method, language_model, placed, answer
        self._options = ({"seed": 0} if isinstance(method, RANDOM) else {}) | dict(options)
        self.baseline = _absent(language_model, placed.absent if baseline is None else baseline)
        self.counter, self.deltas = Counter(), dict[str, Any]()
        self._sites = sites_of(method, language_model, self._options.pop("attribute_to_layer_input", False))
        embedding = Site(language_model.model.get_input_embeddings())
        moving = [place for place, moves in enumerate(placed.moves) if moves]
        self._places = moving if self._sites == [embedding] else None
        self.log_probs = torch.empty(0)
        self._pieces, self._done = 1, 0
        self.forward_mode = has_forward_mode(language_model.model) is not False

    @property
    def uses_baseline(self) -> bool:
        """Whether the method starts from a baseline."""
        inner = inside(self.method)
        return not isinstance(inner, Saliency | InputXGradient | LayerGradientXActivation)

    def recomputes(self, wanted: bool | None) -> bool:
        """Whether activations are computed again for the backward pass: as is wanted, else where memory is short."""
        if wanted is not None:
            return wanted
        inner = inside(self.method)
        return not isinstance(inner, BY_RULES) and is_short_of_memory(
            self.language_model, len(self.placed.ids) + len(self.answer)
        )

    def layers(self, token_rows: bool) -> list[tuple[Tensor, Tensor | None]]:
        """For each layer the attributions of the whole answer `(features,)` and of each token `(tokens, features)`."""
        logits = self._one(Passage(self.placed.ids, self.answer), Scalar("log_prob")).logits()
        self.log_probs = Scalar("log_prob").read(logits, torch.tensor(self.answer, device=logits.device))[0].cpu()
        if self.scalar.needs_reference:
            self.scalar = replace(self.scalar, reference=logits[0].log_softmax(-1))
        score = self._score(Passage(self.placed.ids, self.answer))
        self._pieces = self._count(token_rows)
        rows = self._token_rows(score) if token_rows else None
        if rows is not None and self._adds_up:
            whole = [each.sum(0) for each in rows]
            self._sum_deltas()
        else:
            found = self._found(score, WholeAnswer(score), "convergence_delta")
            whole = [each[0] for each in found]
        return list(zip(whole, [None] * len(whole) if rows is None else rows, strict=True))

    def _count(self, token_rows: bool) -> int:
        """How many runs of the method there will be."""
        if not token_rows:
            return 1
        each = len(self.answer) if isinstance(self.method, RANDOM) else len(list(self._passages()))
        return (1 if self._forward_rule() else each) + (0 if self._adds_up else 1)

    def _forward_rule(self) -> Quadrature | None:
        """The points of the method, if forward mode gives the tokens' rows with less work."""
        rule = rule_of(self.method, self._options) if self.forward_mode else None
        return rule if self._places is not None and ROW_COST * self._units < 1 + len(self.answer) else None

    @property
    def _adds_up(self) -> bool:
        """Whether the attributions of the tokens sum to those of the answer."""
        linear = not isinstance(self.method, (*RANDOM, Saliency)) and self._options.get("until") is None
        return linear and self.scalar.name in ADDITIVE

    def _token_rows(self, score: AnswerScore | ContrastScore) -> list[Tensor] | None:
        """For each layer `(tokens, features)`; None for a quantity that only the whole answer has."""
        with torch.no_grad():
            if self.scalar.waits and score(*score.activations).dim() == 1:
                return None
        rule = self._forward_rule()
        if rule is not None and (by_direction := self._by_forward_mode(score, rule)) is not None:
            return [by_direction]
        if isinstance(self.method, RANDOM):
            each = [WholeAnswer(score, token) for token in range(len(self.answer))]
            parts = [self._found(score, one, "token_convergence_delta") for one in each]
            return [torch.cat(rows) for rows in zip(*parts, strict=True)]
        found: list[list[Tensor]] = []
        for passage in self._passages():
            score = self._score(passage)
            found.append(self._found(score, EachToken(score), "token_convergence_delta"))
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _by_forward_mode(self, score: AnswerScore | ContrastScore, rule: Quadrature) -> Tensor | None:
        """`(tokens, features)`; None, from then on, where an operation of the model has no forward mode."""
        high, low = score.activations, score.activations_of(self._absent_ids())
        if isinstance(self.method, InputXGradient | LayerGradientXActivation):
            low = tuple(torch.zeros_like(tensor) for tensor in high)
        asked = self.language_model.model if self._make is AnswerScore else None
        try:
            with noting_forward_mode(asked), self._piece():
                rows = forward_mode_rows(score, low, high, self._owners.tolist(), rule, self._units)
        except NotImplementedError:
            self.forward_mode = False
            self._pieces = self._count(token_rows=True)
            return None
        if self._options.get("return_convergence_delta"):
            with torch.no_grad():
                change = self.scalar.payoff(score(*high) - score(*low))[0, 1:]
            self.deltas["token_convergence_delta"] = (rows.sum(1) - change.cpu()).tolist()
        return rows

    def _passages(self) -> Iterator[Passage]:
        """The tokens in groups: each pass reads no further than to the last token that it scores."""
        size = self._group_size()
        for first in range(0, len(self.answer), size):
            yield Passage(self.placed.ids, self.answer[: first + size], first)

    def _group_size(self) -> int:
        if self.scalar.waits or self.scalar.contrast is not None:
            return len(self.answer)
        prompt, tokens = len(self.placed.ids), len(self.answer)
        config = self.language_model.text_config
        room = free_bytes(self.language_model.device) // MEMORY_SHARE
        most = max(1, min(tokens, room // (4 * config.hidden_size * (prompt + tokens))))
        return min(range(1, most + 1), key=lambda size: _cost(prompt, tokens, size))

    def _found(self, score: AnswerScore | ContrastScore, function: WholeAnswer | EachToken, delta: str) -> list[Tensor]:
        """For each layer `(rows, features)`: what the method says of a function with so many rows."""
        rows = function.tokens
        activations, absent = score.activations, score.activations_of(self._absent_ids())
        method = at_activations(self.method, function)
        inner = inside(method)
        options = dict(self._options)
        if "baselines" in signature(inner.attribute).parameters:
            options["baselines"] = _repeated(absent, 1 if isinstance(inner, RANDOM) else rows)
        with self._piece():
            found = method.attribute(_repeated(activations, rows), **options)
        if self._options.get("return_convergence_delta"):
            found, gap = found
            (gap,) = gap if isinstance(gap, tuple) else (gap,)
            self.deltas[delta] = [*self.deltas.get(delta, ()), *gap.tolist()]
        return [self._by_feature(part) for part in split_by(found, score.slots)]

    @contextmanager
    def _piece(self) -> Iterator[None]:
        """One run of the method among several, for those who watch the progress."""
        with share_of(f"{self.method.get_name()} attribution", self._done, self._done + 1, self._pieces):
            yield
        self._done += 1

    def _by_feature(self, tensors: Tensors) -> Tensor:
        """`(rows, features)`: the sums over the positions of each feature, and over all that a layer gives there."""
        owners = self._owners
        totals = torch.zeros(len(tensors[0]), self._units)
        for tensor in tensors:
            if tensor.dim() < 2 or tensor.shape[1] < len(owners):
                raise InvalidShape(
                    f"a layer must give a vector at each of the {len(owners)} positions of the prompt; got the shape "
                    f"{tuple(tensor.shape)}"
                )
            each = tensor[:, : len(owners)].flatten(2).to(accumulator(tensor.dtype)).sum(2).float().cpu()
            totals.index_add_(1, owners[owners >= 0], each[:, owners >= 0])
        return totals

    @property
    def _units(self) -> int:
        return max(self.placed.owners) + 1

    @property
    def _owners(self) -> Tensor:
        """The feature of each position that is moved."""
        owners = torch.tensor(self.placed.owners)
        return owners if self._places is None else owners[self._places]

    def _score(self, passage: Passage) -> AnswerScore | ContrastScore:
        contrast = self.scalar.contrast
        if contrast is None:
            return self._one(passage, self.scalar)
        if self._places is None:
            raise UnsupportedMethod("a contrast is explained at the embedding layer: leave the layer out")
        foil = Passage(passage.prompt, contrast.foil)
        return ContrastScore(self._one(passage, self.scalar), self._one(foil, self.scalar), contrast)

    def _one(self, passage: Passage, scalar: Scalar) -> AnswerScore:
        made: AnswerScore = self._make(self.language_model, passage, self._sites, self._places, scalar, self.counter)
        return made

    def _absent_ids(self) -> list[int]:
        moved = zip(self.placed.ids, self.placed.moves, strict=True)
        return [self.baseline if moves else token for token, moves in moved]

    def _sum_deltas(self) -> None:
        if "token_convergence_delta" in self.deltas:
            self.deltas["convergence_delta"] = [torch.tensor(self.deltas["token_convergence_delta"]).sum(0).tolist()]


def refuse_unknown(method: Attribution, options: Mapping[str, Any]) -> None:
    """Refuses options that the method does not take.

    Raises:
        UnknownKeyword: there is one.
    """
    inner = inside(method)
    accepted = {*signature(inner.attribute).parameters, *signature(method.attribute).parameters} - _SET_HERE
    if unknown := set(options) - accepted:
        raise UnknownKeyword(f"LLMGradientAttribution with {method.get_name()}", unknown, accepted)


_SET_HERE = {
    *("inputs", "baselines", "layer_baselines", "target", "additional_forward_args", "kwargs"),
    *("grad_kwargs", "draw_baseline_from_distrib", "return_info"),
}
"""What the text decides."""


def _repeated(tensors: Tensors, rows: int) -> Tensors:
    return tuple(tensor.expand(rows, *tensor.shape[1:]) for tensor in tensors)


def _cost(prompt: int, tokens: int, size: int) -> float:
    """Positions that go forwards and backwards where so many tokens are explained together."""
    ends = range(size, tokens + size, size)
    return sum((prompt + min(end, tokens)) * (1 + size) for end in ends)


def _absent(language_model: LanguageModel, token: int | str | None) -> int:
    tokenizer = language_model.tokenizer
    for candidate in (token, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return token_id(tokenizer, candidate)
    raise InvalidValue(
        f"the tokenizer of {language_model.name} has neither a pad nor an EOS token; say which token's embedding "
        "stands for absent ones with baseline=..."
    )
