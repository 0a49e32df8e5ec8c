"""One explanation of a generation by gradients: the whole answer, then its tokens a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation, Saliency
from llm_attr.attr.noise_tunnel import NoiseTunnel
from llm_attr.core.memory import free_bytes
from llm_attr.core.path import Quadrature, accumulator
from llm_attr.core.site import Site
from llm_attr.core.tensors import split_by
from llm_attr.errors import InvalidShape, InvalidValue, UnknownKeyword
from llm_attr.llm.answer_score import AnswerScore, EachToken, Passage
from llm_attr.llm.forward_mode import ROW_COST, rule_of
from llm_attr.llm.forward_mode import token_rows as forward_mode_rows
from llm_attr.llm.gradient_methods import RANDOM, at_activations, sites_of
from llm_attr.llm.inputs import Placed, token_id
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.passes import Counter
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
        options: Arguments of the method's `attribute`.

    Attributes:
        counter: Passes, positions and backward passes so far.
        deltas: The convergence deltas, if they were asked for.
        log_probs: `(answer tokens,)` in nats, after the whole prompt.
    """

    def __init__(
        self,
        method: Attribution,
        language_model: LanguageModel,
        placed: Placed,
        answer: tuple[int, ...],
        baseline: int | str | None,
        options: Mapping[str, Any],
    ) -> None:
        self.method, self.language_model, self.placed, self.answer = method, language_model, placed, answer
        self._options = ({"seed": 0} if isinstance(method, RANDOM) else {}) | dict(options)
        self.baseline = _absent(language_model, placed.absent if baseline is None else baseline)
        self.counter, self.deltas = Counter(), dict[str, Any]()
        self._sites = sites_of(method, language_model, self._options.pop("attribute_to_layer_input", False))
        self._refuse_unknown()
        embedding = Site(language_model.model.get_input_embeddings())
        moving = [place for place, moves in enumerate(placed.moves) if moves]
        self._places = moving if self._sites == [embedding] else None
        self.log_probs = torch.empty(0)

    def layers(self, token_rows: bool) -> list[tuple[Tensor, Tensor | None]]:
        """For each layer the attributions of the whole answer `(features,)` and of each token `(tokens, features)`."""
        score = self._score(Passage(self.placed.ids, self.answer))
        with torch.no_grad():
            self.log_probs = score(*score.activations)[0].cpu()
        rows = self._token_rows(score) if token_rows else None
        if rows is not None and self._adds_up:
            whole = [each.sum(0) for each in rows]
            self._sum_deltas()
        else:
            found = self._found(score, score.whole, 1, "convergence_delta")
            whole = [each[0] for each in found]
        return list(zip(whole, [None] * len(whole) if rows is None else rows, strict=True))

    @property
    def _adds_up(self) -> bool:
        """Whether the attributions of the tokens sum to those of the answer."""
        return not isinstance(self.method, (*RANDOM, Saliency)) and self._options.get("until") is None

    def _token_rows(self, score: AnswerScore) -> list[Tensor]:
        """For each layer `(tokens, features)`."""
        rule = rule_of(self.method, self._options)
        if rule is not None and self._places is not None and ROW_COST * self._units < 1 + len(self.answer):
            return [self._by_forward_mode(score, rule)]
        found: list[list[Tensor]] = []
        for passage in self._passages():
            score = self._score(passage)
            each = EachToken(score)
            found.append(self._found(score, each, each.tokens, "token_convergence_delta"))
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _by_forward_mode(self, score: AnswerScore, rule: Quadrature) -> Tensor:
        high, low = score.activations, score.activations_of(self._absent_ids())
        if isinstance(self.method, InputXGradient | LayerGradientXActivation):
            low = tuple(torch.zeros_like(tensor) for tensor in high)
        rows = forward_mode_rows(score, low, high, self._owners.tolist(), rule, self._units)
        if self._options.get("return_convergence_delta"):
            with torch.no_grad():
                change = score(*high)[0] - score(*low)[0]
            self.deltas["token_convergence_delta"] = (rows.sum(1) - change.cpu()).tolist()
        return rows

    def _passages(self) -> Iterator[Passage]:
        """The tokens in groups: each pass reads no further than to the last token that it scores."""
        size = self._group_size()
        for first in range(0, len(self.answer), size):
            yield Passage(self.placed.ids, self.answer[: first + size], first)

    def _group_size(self) -> int:
        if isinstance(self.method, RANDOM):
            return 1
        prompt, tokens = len(self.placed.ids), len(self.answer)
        config = self.language_model.text_config
        room = free_bytes(self.language_model.device) // MEMORY_SHARE
        most = max(1, min(tokens, room // (4 * config.hidden_size * (prompt + tokens))))
        return min(range(1, most + 1), key=lambda size: _cost(prompt, tokens, size))

    def _found(self, score: AnswerScore, function: Any, rows: int, delta: str) -> list[Tensor]:
        """For each layer `(rows, features)`: what the method says of a function with so many rows."""
        activations, absent = score.activations, score.activations_of(self._absent_ids())
        method = at_activations(self.method, function)
        inner = method.attribution_method if isinstance(method, NoiseTunnel) else method
        options = dict(self._options)
        if "baselines" in signature(inner.attribute).parameters:
            options["baselines"] = _repeated(absent, 1 if isinstance(inner, RANDOM) else rows)
        found = method.attribute(_repeated(activations, rows), **options)
        if self._options.get("return_convergence_delta"):
            found, gap = found
            self.deltas[delta] = [*self.deltas.get(delta, ()), *gap.tolist()]
        return [self._by_feature(part) for part in split_by(found, score.slots)]

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

    def _score(self, passage: Passage) -> AnswerScore:
        return AnswerScore(self.language_model, passage, self._sites, self._places, self.counter)

    def _absent_ids(self) -> list[int]:
        moved = zip(self.placed.ids, self.placed.moves, strict=True)
        return [self.baseline if moves else token for token, moves in moved]

    def _sum_deltas(self) -> None:
        if "token_convergence_delta" in self.deltas:
            self.deltas["convergence_delta"] = [sum(self.deltas["token_convergence_delta"])]

    def _refuse_unknown(self) -> None:
        inner = self.method.attribution_method if isinstance(self.method, NoiseTunnel) else self.method
        accepted = {*signature(inner.attribute).parameters, *signature(self.method.attribute).parameters}
        accepted -= {"inputs", "baselines", "layer_baselines", "target", "additional_forward_args", "kwargs"}
        accepted -= {"grad_kwargs", "draw_baseline_from_distrib", "return_info"}
        if unknown := set(self._options) - accepted:
            raise UnknownKeyword(f"LLMGradientAttribution with {self.method.get_name()}", unknown, accepted)


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
