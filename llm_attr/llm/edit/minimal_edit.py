"""`MinimalEdit`: the smallest set of units of a prompt without which a model answers differently."""

from __future__ import annotations

from typing import Any

from llm_attr.core.attacks.smallest_set import SmallestSet
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidType, InvalidValue, UnknownName, positive
from llm_attr.llm.cost.estimate import UNKNOWN_TOKEN, CostEstimate
from llm_attr.llm.cost.plan import Plan, plan_of
from llm_attr.llm.edit.edit import Edit
from llm_attr.llm.edit.trial import SEARCHES, EditJob, EditTrial, SearchName
from llm_attr.llm.model.language_model import LanguageModel, as_language_model
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.engine import CountingEngine, ScoreEngine
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.scorer import engine_for
from llm_attr.llm.target.answer import Answer, answer_ids, refuse_one_id
from llm_attr.llm.target.generation import (
    GenArgs,
    arguments_of,
    draws_from_global_stream,
    generate,
    is_beam_search,
    most_new_tokens,
)
from llm_attr.viz.text import edit as drawn


class MinimalEdit:
    """Finds the smallest set of units whose removal or replacement changes a model's answer.

    An answer changes if some token of it is no longer the most probable one, so that greedy decoding gives another
    answer: `min_t (z_t[token] - max of the other z_t) < 0`. With `drop`, a set is searched that lowers the answer's
    log-probability by that many nats instead: `log p(answer | edited) <= log p(answer | prompt) - drop`. The prompt's
    `absence` says what happens to a unit: deleted, replaced by a token, or masked.

    The greedy search ranks units by how near each alone brings the change, scores the first 2, 3, ... of them
    together, and takes the fewest that suffice; if none do, it takes out one unit after the other, each time the one
    that brings the change nearest. The beam search goes on from several sets of each size. Both then put back what the
    change does not need. Neither is sure to find the smallest set; `exhaustive` is, and tries all sets of each size.
    Every set is scored once, many of them in one pass.

    Args:
        model: A `LanguageModel`, or a transformers model together with its `tokenizer`.
        tokenizer: The tokenizer of a transformers model.

    Source: J. Li, W. Monroe and D. Jurafsky, Understanding Neural Networks through Representation Erasure, 2016,
    section 5 (the smallest erasure that changes a decision); S. Feng et al., Pathologies of Neural Models Make
    Interpretations Difficult, EMNLP 2018, section 3 (beam search over removals).

    Example:
        >>> edit = MinimalEdit(lm).find("Aksel repairs violins. He has a dog. Aksel repairs")  # doctest: +SKIP
        >>> edit.show()  # doctest: +SKIP
    """

    def __init__(self, model: LanguageModel | Any, tokenizer: TokenizerLike | None = None) -> None:
        self.language_model = as_language_model(model, tokenizer)

    def find(
        self,
        prompt: str | Messages | Prompt,
        *,
        unit: str | None = None,
        target: Answer = None,
        drop: float | None = None,
        search: SearchName = "greedy",
        width: int = 4,
        most: int | None = None,
        gen_args: GenArgs | None = None,
        show_progress: bool = False,
    ) -> Edit:
        """The smallest edit that the search finds.

        Args:
            prompt: A text, the messages of a chat, or a `Prompt` (which has its own units).
            unit: As in `explain`, for a text or messages; by default `sentence`.
            target: The answer, as in `explain`; a short beginning of it asks for another beginning. None lets the model
                generate it.
            drop: Nats by which the log-probability of the answer is to fall; None: the answer is to change.
            search: `greedy`, `beam` or `exhaustive`.
            width: How many sets of each size the beam search keeps.
            most: The most units to take out; None: all.
            gen_args: As in `explain`; without `drop` the decoding must be greedy.
            show_progress: Whether to show a progress bar.

        Returns:
            The edit; its `found` is False if no set that was tried does it.

        Raises:
            InvalidTarget: the model does not give the target for the full prompt, so that there is nothing to change.
            InvalidValue: `drop` is not above 0, or the answer would be sampled.
            UnknownName: there is no such search or unit.
            EmptyPrompt: there is no unit to take out.
        """
        job = self._job(prompt, unit, drop, search, width, most)
        answer = self._answer(job.inp, target, gen_args, drop)
        engine = engine_for(self.language_model)
        total = job.most_variants
        with Evaluator(
            "MinimalEdit", total, show_progress=show_progress, device=self.language_model.device
        ) as evaluator:
            trial = EditTrial(job, answer, engine, evaluator, self.language_model)
            trial.check_start()
            best = trial.search()
            after = self._generated(trial.variant(best.members), gen_args, engine, evaluator)
            evaluator.finish()
        return self._edit(job, trial, best, answer, after)

    def plan(
        self,
        prompt: str | Messages | Prompt,
        *,
        unit: str | None = None,
        target: Answer = None,
        drop: float | None = None,
        search: SearchName = "greedy",
        width: int = 4,
        most: int | None = None,
        gen_args: GenArgs | None = None,
        measure: bool = True,
    ) -> Plan:
        """The most that `find` with the same arguments may cost, besides generating answers and putting units back.

        Shared arguments: see `MinimalEdit.find`.

        Args:
            target: None counts the longest answer that may be generated.
            measure: Whether to estimate the time too, as in `llm_attr.plan`; False runs no passes.

        Raises:
            LlmAttrError: as in `find`.
        """
        job = self._job(prompt, unit, drop, search, width, most)
        if target is None:
            length = most_new_tokens(self.language_model, arguments_of(gen_args), len(job.whole.tokens))
            answer: tuple[int, ...] = (UNKNOWN_TOKEN,) * length
        else:
            answer = answer_ids(self.language_model, job.whole.tokens, target, gen_args)
        engine = CountingEngine(engine_for(self.language_model))
        trial = EditTrial(job, answer, engine, Evaluator("plan", 0), self.language_model)
        trial.start()
        trial.search()
        estimate = CostEstimate(engine.cost, False, len(answer), engine.variants)
        return plan_of(f"minimal edit, {search}", self.language_model, estimate, measure)

    def _job(
        self,
        prompt: str | Messages | Prompt,
        unit: str | None,
        drop: float | None,
        search: SearchName,
        width: int,
        most: int | None,
    ) -> EditJob:
        if search not in SEARCHES:
            raise UnknownName("search", search, SEARCHES)
        if drop is not None and (
            isinstance(drop, bool) or not isinstance(drop, int | float) or not 0 < drop < float("inf")
        ):
            raise InvalidValue(f"drop must be a number of nats above 0, or None; got {drop!r}")
        if isinstance(prompt, Prompt):
            if unit is not None:
                raise InvalidValue(f"a Prompt has its own units; pass unit={unit!r} to its constructor")
            inp = prompt.bind(self.language_model)
        elif isinstance(prompt, str | list):
            inp = Prompt(prompt, unit=unit or "sentence").bind(self.language_model)
        else:
            raise InvalidType(f"MinimalEdit edits a text, messages or a Prompt; got {type(prompt).__name__}")
        count = len(inp.spans)
        most = count if most is None else min(count, positive("most", most))
        whole = inp.variant([True] * count)
        return EditJob(inp, whole, drop, search, positive("width", width), most)

    def _answer(
        self, inp: BoundPrompt, target: Answer, gen_args: GenArgs | None, drop: float | None
    ) -> tuple[int, ...]:
        refuse_one_id(target)
        if drop is None and draws_from_global_stream(self.language_model, _without_seed(gen_args)):
            raise InvalidValue("an answer that is sampled changes by itself; decode greedily, or ask for a drop")
        if target is None and drop is None and is_beam_search(self.language_model, gen_args):
            raise InvalidValue(
                "a beam search need not give the most probable tokens; decode greedily, or ask for a drop"
            )
        whole = inp.variant([True] * len(inp.spans))
        answer = answer_ids(self.language_model, whole.tokens, target, gen_args if target is None else None)
        self.language_model.check_length(whole.end, len(answer))
        return answer

    def _generated(
        self, variant: Variant, gen_args: GenArgs | None, engine: ScoreEngine, evaluator: Evaluator
    ) -> tuple[int, ...]:
        """The model's own answer to a variant; where positions have gaps, greedily and a token at a time."""
        if not variant.has_gaps:
            return tuple(generate(self.language_model, variant.tokens, gen_args))
        ids: list[int] = []
        length = most_new_tokens(self.language_model, arguments_of(gen_args), variant.end)
        while len(ids) < length and not self.language_model.end_ids.intersection(ids):
            following = engine.distributions(Query(variant, (*ids, 0)), evaluator)[-1]
            ids.append(int(following.argmax()))
        return tuple(ids)

    def _edit(
        self, job: EditJob, trial: EditTrial, best: SmallestSet, answer: tuple[int, ...], after: tuple[int, ...]
    ) -> Edit:
        inp, chosen = job.inp, set(best.members)
        pieces = []
        for number, (context, value) in enumerate(zip(inp.context, [*inp.values, ""], strict=True)):
            pieces += [drawn.Piece(context, is_fixed=True), drawn.Piece(value, number in chosen)]
        (full, _), (log_prob, margin) = trial.read([(), best.members])
        is_text = inp.absence == "delete" and inp.unit != "token"
        present = [number not in chosen for number in range(len(inp.spans))]
        edited = trial.variant(best.members).tokens
        asked = "another answer" if job.drop is None else f"log-probability lower by {full - log_prob:.2f} nats"
        about = {
            "asked": asked,
            "unit": inp.unit,
            "absence": inp.absence,
            "search": job.search,
            "model": self.language_model.name,
        }
        return Edit(
            found=best.flips and (job.drop is not None or after[: len(answer)] != answer),
            units=best.members,
            texts=tuple(str(inp.values[number]) for number in best.members),
            prompt=inp.text,
            edited=inp.without(present) if is_text else self._text(edited),
            answer=self._text(answer),
            edited_answer=self._text(after),
            log_prob=full,
            edited_log_prob=log_prob,
            margin=margin,
            variants=trial.engine.variants,
            cost=trial.engine.cost,
            about=about,
            pieces=tuple(piece for piece in pieces if piece.text),
        )

    def _text(self, ids: tuple[int, ...]) -> str:
        """The text of ids, without the token that ends an answer."""
        ends = self.language_model.end_ids
        return self.language_model.decode(list(ids[:-1] if ids and ids[-1] in ends else ids))


def _without_seed(gen_args: GenArgs | None) -> GenArgs | None:
    return (
        {name: value for name, value in gen_args.items() if name != "seed"} if isinstance(gen_args, dict) else gen_args
    )
