"""What an explanation would ask of a model: the same code runs, and calls are counted instead of made."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import ceil
from operator import add, or_
from typing import Any

import numpy as np

from llm_attr.attr.token_paths import DiscretizedIntegratedGradients
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.coalitions import each_left_out
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.random_state import Streams
from llm_attr.llm.attribution import LLMAttribution
from llm_attr.llm.cost.counting_score import CountingScore
from llm_attr.llm.gradient import OF_CALL, LLMGradientAttribution, check_call, together
from llm_attr.llm.gradients.jacobian import has_forward_mode
from llm_attr.llm.gradients.methods import inside, is_embedding, sites_of
from llm_attr.llm.gradients.run import GradientRun
from llm_attr.llm.model.cost import Call, Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import positions_that_fit
from llm_attr.llm.prompt.interpretable import TokenMap
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.request import Request
from llm_attr.llm.scoring.batch import PromptJob, score_prompts
from llm_attr.llm.scoring.engine import CountingEngine, ScoreEngine
from llm_attr.llm.scoring.options import Options
from llm_attr.llm.scoring.scorer import engine_for
from llm_attr.llm.scoring.text_game import TextGame
from llm_attr.llm.target.answer import Answer, answer_ids, answers_of
from llm_attr.llm.target.generation import GenArgs, arguments_of, most_new_tokens
from llm_attr.llm.target.scalar import Scalar

UNKNOWN_TOKEN = -1
"""The id of answer tokens that have not been generated; never equal to a real token id."""

MAX_CHECKS = 4
"""Comparisons of a new model with the plain forward pass: one for each shape of a tree or batch."""

LENGTHS = 32
"""How many answer lengths are tried when the answer is not generated yet: a longer one may take fewer passes."""


@dataclass(frozen=True)
class CostEstimate:
    """An estimate of what an explanation costs.

    Attributes:
        cost: The model's work.
        exact: Whether the counts are exact (otherwise upper bounds).
        answer_tokens: See `Plan`.
        evaluations: See `Plan`.
        from_ledger: How many of the evaluations the ledger has.
        recompute: Whether activations are recomputed in the backward pass.
        max_seconds: The time limit.
    """

    cost: Cost
    exact: bool
    answer_tokens: int
    evaluations: int = 0
    recompute: bool = False
    max_seconds: float = float("inf")
    from_ledger: int = 0

    def __add__(self, other: CostEstimate) -> CostEstimate:
        """The cost of both, run sequentially."""
        tokens = self.answer_tokens + other.answer_tokens
        return self._with(other, self.cost + other.cost, tokens)

    def __or__(self, other: CostEstimate) -> CostEstimate:
        """An upper bound for either."""
        return self._with(other, self.cost | other.cost, max(self.answer_tokens, other.answer_tokens))

    def _with(self, other: CostEstimate, cost: Cost, answer_tokens: int) -> CostEstimate:
        return CostEstimate(
            cost, self.exact and other.exact, answer_tokens, recompute=self.recompute or other.recompute
        )


def of_games(request: Request, explainer: LLMAttribution) -> CostEstimate:
    """The cost of a perturbation method."""
    language_model = explainer.language_model
    jobs, options = explainer.jobs(request.inputs, request.scalars, **request.options)
    targets = answers_of(request.target, len(jobs))
    answers = [_answer(language_model, s.prompt, t, options.gen_args) for s, t in zip(jobs, targets, strict=True)]
    jobs = [s.answered(language_model, a, options.scalars) for s, a in zip(jobs, answers, strict=True)]
    tokens, stopping = sum(map(len, answers)), options.stopping
    never = "top 1 stable" if stopping.wants_certainty else None  # all values of a dry run are equal
    fixed = replace(options, inspect=None, show_progress=False, until=never)
    if stopping.seconds is not None or (stopping.wants_certainty and not _limited(stopping)):
        return _bounded(language_model, jobs, fixed, stopping, tokens)
    engines: list[ScoreEngine] = []
    stored = explainer.stored(options)

    def counting() -> ScoreEngine:
        engines.append(CountingEngine(explainer.engine(options, stored)))
        return engines[-1]

    with _random_streams() as drawn:
        list(score_prompts(counting, jobs, fixed, Evaluator("plan", 0)))
    if drawn:
        return _bounded(language_model, jobs, fixed, stopping, tokens)
    cost, variants = reduce(add, (engine.cost for engine in engines)), sum(engine.variants for engine in engines)
    certain = all(target is not None for target in targets) and not stopping.wants_certainty
    return CostEstimate(cost, certain, tokens, variants, from_ledger=sum(engine.from_ledger for engine in engines))


def _limited(stopping: Stopping) -> bool:
    return stopping.evaluations is not None or stopping.metered is not None


def _bounded(
    language_model: LanguageModel, jobs: Sequence[PromptJob], options: Options, stopping: Stopping, tokens: int
) -> CostEstimate:
    """An upper bound: all possible coalitions, without shared prefixes."""
    cost, evaluations, longest = Cost(), 0, 0
    with _random_streams():
        for job in jobs:
            length, answer = _longest(language_model, job), len(job.answer)
            foils = [scalar.contrast for scalar in job.scalars if scalar.contrast is not None]
            longer = max([answer, *(len(foil.foil) for foil in foils)])
            rows = longer + longer // 4
            queries = (options.most(job.features.count) * options.trials + 1) * (1 + len(foils))
            packs = ceil((length + longer - 1) / positions_that_fit(language_model))
            cost.forward.add(Call(length + longer - 1, rows), queries)
            cost.forward.calls += queries * (packs - 1) + any(s.needs_reference for s in job.scalars)
            evaluations, longest = evaluations + queries, max(longest, length + longer - 1)
    cost.context, cost.check_positions = longest, MAX_CHECKS * longest
    load = cost.forward
    load.calls = min(load.calls, stopping.passes or load.calls)
    load.positions = min(load.positions, stopping.positions or load.positions)
    return CostEstimate(cost, False, tokens, evaluations, max_seconds=stopping.seconds or float("inf"))


def _longest(language_model: LanguageModel, job: PromptJob) -> int:
    """The most positions of a variant, assuming that the tokens added by each absent feature add up."""
    game = TextGame(job.inp.sampled(), job.features, job.answer, engine_for(language_model), Evaluator("plan", 0))
    prompt = len(job.prompt)
    ends = [v.end for block in each_left_out(job.features.count) for v in game.variants(block)]
    return prompt + sum(max(0, end - prompt) for end in ends)


def of_gradients(request: Request, explainer: LLMGradientAttribution) -> CostEstimate:
    """The cost of a gradient method."""
    options = dict(request.options)
    gen_args = options.pop("gen_args", None)
    of_call = {name: options.pop(name) for name in OF_CALL & options.keys()}
    check_call(of_call)
    if explainer.attr_method.is_random and options.get("seed") is None:
        options["seed"] = 0
    token_rows, ask = of_call.get("token_rows", True), partial(_one, explainer, options, of_call)
    language_model, estimates = explainer.language_model, []
    for inp, target in zip(request.inputs, answers_of(request.target, len(request.inputs)), strict=True):
        bound = inp.bind(language_model) if isinstance(inp, Prompt) else inp
        prompt = bound.placed(language_model)
        answer = _answer(language_model, prompt.ids, target, gen_args, token=0)
        for group in together(request.scalars):
            scalars = [request.scalars[place] for place in group]
            tried = partial(_grouping, explainer, options, of_call, prompt, answer, scalars)
            lengths = [len(answer)] if target is not None else _lengths(len(answer), tried)
            rows = [False, True] if token_rows and any(scalar.waits for scalar in scalars) else [token_rows]
            both = add if len(scalars) > 1 else or_
            estimate = partial(_one_or_two, ask, language_model, prompt)
            ways = [[estimate(answer[:n], scalars, row) for row in rows] for n in lengths]
            each = [replace(reduce(both, way), answer_tokens=way[0].answer_tokens) for way in ways]
            estimates.append(replace(reduce(or_, each), exact=each[-1].exact and target is not None))
    return reduce(add, estimates)


def _one_or_two(ask: Callable[..., CostEstimate], language_model: LanguageModel, *asked: Any) -> CostEstimate:
    """Where nothing is known of the model's forward mode: it may be tried, then done without."""
    estimate = ask(*asked, True)
    if not estimate.cost.forward_mode or has_forward_mode(language_model):
        return estimate
    return replace(estimate + ask(*asked, False), answer_tokens=estimate.answer_tokens, exact=False)


def _one(
    explainer: LLMGradientAttribution,
    options: Mapping[str, Any],
    of_call: Mapping[str, Any],
    prompt: TokenMap,
    answer: tuple[int, ...],
    scalars: Sequence[Scalar],
    token_rows: bool,
    forward_mode: bool,
) -> CostEstimate:
    """Of one prompt, answer and the quantities that share passes."""
    lm = explainer.language_model
    by_words = isinstance(inside(explainer.attr_method), DiscretizedIntegratedGradients)
    # the search for a path is slow; how long the path is does not depend on the vocabulary
    words: dict[str, Any] = {"words": 1} if by_words else {}
    run = explainer.run_for(
        prompt, answer, scalars, of_call.get("baseline"), options, CountingScore, forward_mode, **words
    )
    run.explained(token_rows)
    known = is_embedding(sites_of(explainer.attr_method, lm), lm) and options.get("until") is None
    recompute = run.strategy.recomputes(of_call.get("gradient_checkpointing"))
    exact = known and not any(scalar.waits for scalar in scalars)
    return CostEstimate(run.counter, exact, len(answer), recompute=recompute)


def _answer(
    language_model: LanguageModel,
    prompt: Sequence[int],
    target: Answer,
    gen_args: GenArgs | None,
    token: int = UNKNOWN_TOKEN,
) -> tuple[int, ...]:
    """The answer, or placeholders for as many tokens as it may have."""
    if target is not None:
        return answer_ids(language_model, prompt, target, gen_args)
    language_model.check_length(len(prompt), 1)
    return (token,) * most_new_tokens(language_model, arguments_of(gen_args), len(prompt))


def _grouping(
    explainer: LLMGradientAttribution,
    options: Mapping[str, Any],
    of_call: Mapping[str, Any],
    prompt: TokenMap,
    answer: tuple[int, ...],
    scalars: Sequence[Scalar],
    length: int,
) -> Hashable:
    """How the tokens of an answer of this length are grouped; with equal grouping a longer answer costs no less."""
    run = explainer.run_for(prompt, answer[:length], scalars, of_call.get("baseline"), options, score=CountingScore)
    if not isinstance(run, GradientRun):
        return length
    groups = [len(passage.scored) for passage in run.strategy.passages()]
    return run.strategy.forward_rule(len(scalars)) is not None, len(groups), groups[0] if len(groups) > 1 else 0


def _lengths(most: int, grouping: Callable[[int], Hashable]) -> list[int]:
    """Lengths of the answer to try, in order: the longest one of each grouping."""
    tried = sorted({max(1, round(most * k / LENGTHS)) for k in range(1, LENGTHS + 1)})
    return sorted({grouping(length): length for length in tried}.values())


@contextmanager
def _random_streams() -> Iterator[list[str]]:
    """Restores the global random streams at the end, and names those that were drawn from."""
    drawn: list[str] = []
    before = _states()
    try:
        yield drawn
    finally:
        drawn += [name for name, state in _states().items() if not _same(state, before[name])]
        random.setstate(before["random"])
        np.random.set_state(before["numpy"])
        before["torch"].restore()


def _states() -> dict[str, Any]:
    return {"random": random.getstate(), "numpy": np.random.get_state(), "torch": Streams.now()}


def _same(state: Any, before: Any) -> bool:
    return state == before if isinstance(state, Streams) else pickle.dumps(state) == pickle.dumps(before)
