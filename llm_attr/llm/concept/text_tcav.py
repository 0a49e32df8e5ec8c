"""Concepts given by sentences, in the decoder blocks of a language model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from llm_attr.attr.gradient import LayerGradientXActivation
from llm_attr.concept.significance import ConceptSignificance, Score, judged
from llm_attr.core.concepts.directions import Direction, Probe, fit_direction
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.random_state import generator
from llm_attr.core.site import Site, reading
from llm_attr.errors import EmptyPrompt, EmptyTarget, InvalidType, InvalidValue, UnknownName, positive
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.language_model import LanguageModel

Pool: TypeAlias = Literal["mean", "last"]
"""Which tokens stand for a text."""

ROWS = 16
"""The most texts in a forward pass."""


def decoder_blocks(lm: LanguageModel) -> dict[str, nn.Module]:
    """The decoder blocks by name, from the first to the last.

    Args:
        lm: The model.

    Raises:
        InvalidValue: the model has no list of as many modules as its configuration has layers.
    """
    count = getattr(lm.text_config, "num_hidden_layers", None)
    for name, module in lm.layers.items():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return {f"{name}.{number}": block for number, block in enumerate(module)}
    raise InvalidValue(f"{lm.name} has no list of {count} decoder blocks; name the layers")


class TextTCAV:
    """Which concepts, given by lists of sentences, move a language model towards an answer.

    A text stands as the mean of its tokens' activations at a layer (without the first token, whose activations hardly
    depend on the text), or as its last token's. A direction tells the texts of a concept from others. The score of a
    prompt is the derivative of `log p(target | prompt) - log p(foil | prompt)` as the activations of the same tokens
    move along the direction. All layers come from the same passes.

    Args:
        lm: The model.
        layers: Names of layers, or numbers of decoder blocks; None: all decoder blocks.
        pool: `mean` or `last`.
        probe: `mean_difference` or `logistic`, see `fit_direction`.

    Raises:
        UnknownName: another pool or probe, or no such layer.

    Source: B. Kim et al., Interpretability Beyond Feature Attribution, ICML 2018, equations 1 and 2.

    Example:
        >>> from llm_attr.llm.concept.text_tcav import TextTCAV
        >>> tcav = TextTCAV(lm, [10, 20])  # doctest: +SKIP
        >>> found = tcav.significance(prompts, formal, others, " Sincerely", " Cheers")  # doctest: +SKIP
    """

    def __init__(
        self,
        lm: LanguageModel,
        layers: Sequence[str | int] | None = None,
        *,
        pool: Pool = "mean",
        probe: Probe = "mean_difference",
    ) -> None:
        if not isinstance(lm, LanguageModel):
            raise InvalidType(f"lm must be a LanguageModel, as load_model gives; got {type(lm).__name__}")
        if pool not in get_args(Pool):
            raise UnknownName("pool", pool, get_args(Pool))
        if probe not in get_args(Probe):
            raise UnknownName("probe", probe, get_args(Probe))
        self.lm, self.pool, self.probe = lm, pool, probe
        self._sites = _sites(lm, layers)
        self.layers = tuple(self._sites)

    def activations(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """`(texts, features)` at each layer, all from the same passes.

        Args:
            texts: The texts.

        Raises:
            EmptyPrompt: there is no text, or one without tokens.
            ContextTooLong: a text is longer than the model's context.
        """
        rows = [self._encoded(text) for text in checked_texts(texts, "texts")]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        back = torch.tensor(order, device="cpu").argsort()
        with self.lm.inference(), Evaluator("activations of texts", len(rows), device=self.lm.device) as run:

            def part(start: int, stop: int) -> dict[str, Tensor]:
                found = self._pooled([rows[place] for place in order[start:stop]])
                run.advance(stop - start)
                return found

            parts = list(run.run(len(rows), ROWS, part))
        return {layer: torch.cat([each[layer] for each in parts])[back] for layer in self.layers}

    def directions(
        self, concept: Iterable[str], others: Iterable[str], *, held_out: float = 0.25, seed: int = 0
    ) -> dict[str, Direction]:
        """The direction of a concept at each layer, with its accuracy on held-out texts.

        Args:
            concept: Texts of the concept.
            others: Other texts, which should differ in nothing else.
            held_out: The share of texts that measures the accuracy; 0: all are fitted.
            seed: Of the texts held out.

        Raises:
            EmptyPrompt: a list has no text.
            InvalidValue: too few texts to hold any out.
        """
        one, two = self.activations(concept), self.activations(others)
        return {
            layer: fit_direction(one[layer], two[layer], self.probe, held_out=held_out, seed=seed)
            for layer in self.layers
        }

    def scores(
        self, prompts: Iterable[str], directions: Mapping[str, Direction], target: str, foil: str | None = None
    ) -> dict[str, Tensor]:
        """`(prompts,)` at each layer: the derivative along the direction, in nats per unit of activation.

        Args:
            prompts: The prompts.
            directions: A direction for each layer.
            target: The answer.
            foil: Another answer; None: none is subtracted.

        Raises:
            EmptyPrompt: there is no prompt, or one without tokens.
            EmptyTarget: an answer has no tokens.
        """
        gradients = self._gradients(checked_texts(prompts, "prompts"), target, foil)
        return {
            layer: gradients[layer] @ direction.unit.to(gradients[layer]) for layer, direction in directions.items()
        }

    def significance(
        self,
        prompts: Iterable[str],
        concept: Iterable[str],
        others: Iterable[str],
        target: str,
        foil: str | None = None,
        *,
        runs: int = 10,
        name: str = "concept",
        score: Score = "sign_count",
        level: float = 0.95,
        seed: int = 0,
    ) -> ConceptSignificance:
        """The score of a concept at each layer beside random draws of other texts, and of such draws beside each other.

        Each run tells the concept from a random half of the other texts; by chance, one random half is told from the
        other. See `TCAV.significance` for the test.

        Args:
            prompts: The prompts.
            concept: Texts of the concept.
            others: Other texts, at least 4, from which random halves are drawn.
            target: The answer.
            foil: Another answer, whose log-probability is subtracted.
            runs: The number of random draws, at least 3.
            name: The name of the concept.
            score: `sign_count` or `magnitude`.
            level: The coverage of the intervals.
            seed: Of the draws; no global stream is touched.

        Raises:
            InvalidValue: fewer than 3 runs, or fewer than 4 other texts.
            UnknownName: another score.
        """
        if score not in get_args(Score):
            raise UnknownName("score", score, get_args(Score))
        if positive("runs", runs) < 3:
            raise InvalidValue(f"a test needs at least 3 runs, better 10 or more; got {runs}")
        pool = checked_texts(others, "others")
        if len(pool) < 4:
            raise InvalidValue(f"others needs at least 4 texts, from which halves are drawn; got {len(pool)}")
        own, random = self.activations(concept), self.activations(pool)
        gradients = self._gradients(checked_texts(prompts, "prompts"), target, foil)
        draws = generator(seed)
        orders = [torch.randperm(len(pool), generator=draws, device="cpu") for _ in range(runs)]
        half = len(pool) // 2

        def one(layer: str, first: Tensor, second: Tensor) -> Tensor:
            direction = fit_direction(first, second, self.probe)
            values = gradients[layer] @ direction.unit.to(gradients[layer])
            return ((values > 0).double() if score == "sign_count" else values.double()).mean().cpu()

        pairs = [(layer, random[layer], order) for layer in self.layers for order in orders]
        beside = [one(layer, own[layer], rest[order[:half]]) for layer, rest, order in pairs]
        chance = [one(layer, rest[order[:half]], rest[order[half:]]) for layer, rest, order in pairs]
        shape = (len(self.layers), runs)
        scores = torch.stack(beside).view(*shape)[:, None]
        return judged(self.layers, (name,), scores, torch.stack(chance).view(*shape), score, level)

    def _encoded(self, text: str) -> list[int]:
        ids = self.lm.encode(text, special_tokens=True)
        if not ids:
            raise EmptyPrompt(f"the text {text!r} has no tokens")
        self.lm.check_length(len(ids), 1)
        return ids

    def _pooled(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.lm.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.lm.device)
        shares = torch.stack([self._shares(len(row), width) for row in rows])
        with ExitStack() as stack:
            read = {layer: stack.enter_context(reading(site, movable=True)) for layer, site in self._sites.items()}
            forward_logits(self.lm, [width - 1], input_ids=ids, attention_mask=mask, use_cache=False)
        found = {layer: each.tensors[0].float() for layer, each in read.items()}
        return {layer: torch.einsum("btf,bt->bf", each, shares.to(each)).cpu() for layer, each in found.items()}

    def _shares(self, tokens: int, width: int) -> Tensor:
        """`(width,)`: how much each token counts."""
        chosen = range(tokens - 1, tokens) if self.pool == "last" else range(min(1, tokens - 1), tokens)
        return torch.tensor([1 / len(chosen) if place in chosen else 0.0 for place in range(width)], device="cpu")

    def _gradients(self, prompts: Sequence[str], target: str, foil: str | None) -> dict[str, Tensor]:
        """`(prompts, features)` at each layer: the derivative as all counted tokens of the prompt move alike."""
        answers = [(1.0, target)] + ([] if foil is None else [(-1.0, foil)])
        found: dict[str, list[Tensor]] = {layer: [] for layer in self.layers}
        with self.lm.evaluating(), Evaluator("gradients of prompts", len(prompts), device=self.lm.device) as run:
            for prompt in prompts:
                run.check()
                ids = self._encoded(prompt)
                parts = [[sign * each for each in self._of_answer(ids, answer)] for sign, answer in answers]
                for layer, *both in zip(self.layers, *parts, strict=True):
                    found[layer].append(torch.stack(both).sum(0))
                run.advance(1)
        return {layer: torch.stack(rows).cpu() for layer, rows in found.items()}

    def _of_answer(self, prompt: list[int], answer: str) -> list[Tensor]:
        """The derivative of an answer's log-probability at each layer, `(features,)`."""
        target = self.lm.encode(answer, special_tokens=False)
        if not target:
            raise EmptyTarget(f"the answer {answer!r} has no tokens")
        self.lm.check_length(len(prompt), len(target))
        rows = list(range(len(prompt) - 1, len(prompt) + len(target) - 1))

        def log_prob(ids: Tensor) -> Tensor:
            mask = torch.ones_like(ids)
            logits = forward_logits(self.lm, rows, input_ids=ids, attention_mask=mask, use_cache=False).float()
            wanted = torch.tensor(target, device=logits.device)[:, None]
            return logits.log_softmax(-1)[0].gather(1, wanted).sum()[None]

        method = LayerGradientXActivation(log_prob, list(self._sites.values()), multiply_by_inputs=False)
        ids = torch.tensor([[*prompt, *target[:-1]]], device=self.lm.device)
        counted = self._shares(len(prompt), ids.shape[1]) > 0
        found: Any = method.attribute(ids)
        return [_first(each)[0, counted.to(_first(each).device)].float().sum(0) for each in found]


def checked_texts(texts: Any, name: str) -> list[str]:
    """Texts in the caller's form.

    Raises:
        InvalidType: they are no list of strings.
        EmptyPrompt: there is none.
    """
    found = None if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if found is None or not all(isinstance(text, str) for text in found):
        raise InvalidType(f"{name} must be a list of strings; got {texts!r}")
    if not found:
        raise EmptyPrompt(f"{name} has no text; at least one is needed")
    return found


def _sites(lm: LanguageModel, layers: Sequence[str | int] | None) -> dict[str, Site]:
    if layers is not None and (isinstance(layers, str) or not layers):
        raise InvalidType(f"layers must be a list of names or numbers, or None for all decoder blocks; got {layers!r}")
    known, blocks = (
        lm.layers,
        list(decoder_blocks(lm)) if layers is None or any(isinstance(n, int) for n in layers) else [],
    )
    names = []
    for layer in blocks if layers is None else layers:
        if isinstance(layer, int) and not -len(blocks) <= layer < len(blocks):
            raise InvalidValue(f"{lm.name} has the decoder blocks 0 to {len(blocks) - 1}; got {layer}")
        names.append(blocks[layer] if isinstance(layer, int) else layer)
        if names[-1] not in known or not names[-1]:
            raise UnknownName("layer", names[-1], filter(None, known))
    return {name: Site.of(known[name]) for name in names}


def _first(tensors: Any) -> Tensor:
    return tensors[0] if isinstance(tensors, tuple) else tensors
