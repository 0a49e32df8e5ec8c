"""Attribution of a language model's answer to its prompt, by perturbation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from os import PathLike
from typing import Any

from llm_attr.attr.base import Attribution
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.evaluator import Evaluator, Price, priced
from llm_attr.core.parallel.team import current_team
from llm_attr.core.registry import METHODS
from llm_attr.errors import UnsupportedMethod, about_prompt
from llm_attr.llm.model.cost import Call, Cost
from llm_attr.llm.model.fingerprint import identity
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import positions_that_fit
from llm_attr.llm.model.precision import Precision, computing
from llm_attr.llm.model.speed import speed_of
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.results.table import Attributions, Table
from llm_attr.llm.scoring.batch import PromptJob, PromptScores, score_prompts
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.options import Options
from llm_attr.llm.scoring.prompt_game import Asked, PromptGame
from llm_attr.llm.scoring.scorer import engine_for
from llm_attr.llm.scoring.shared_engine import SharedEngine
from llm_attr.llm.scoring.stored import StoredReadings
from llm_attr.llm.scoring.text_game import Inspector, empty_prompt_id, model_input_ids
from llm_attr.llm.target.answer import Answer, answers_of
from llm_attr.llm.target.generation import GenArgs, arguments_of
from llm_attr.llm.target.scalar import Scalar, ScalarLike, scalar_of
from llm_attr.llm.text_attribution import TextAttribution

UNSEEN = 4096
"""Number of variants whose preparation takes so long that the cost is reported before the first pass."""


class LLMAttribution(TextAttribution):
    """Explains which units of a prompt carried a language model's answer, and each of its tokens.

    `attribution = f(prompt) - f(prompt without the unit)` for FeatureAblation, and likewise for the other methods,
    where f is the log-probability of the answer or another quantity (see `Scalar`). All target tokens are scored in one
    pass per variant of the prompt, and shared prefixes are computed once; the results equal those without a cache.

    Args:
        attr_method: The method, constructed with the transformers model itself: `FeatureAblation(model)`.
        tokenizer: The model's tokenizer; or a `LanguageModel`.
        attr_target: What is explained: `log_prob` (nats), `prob`, `logit`, `entropy`, `kl`, `margin`, a function of
            logits `(tokens, vocabulary)` and ids `(tokens,)`, or a `Scalar` such as `contrast("another answer")`.

    Raises:
        UnsupportedMethod: the method is not a perturbation method, or cannot explain a single prompt.
        NotALanguageModel: the method's forward function is not a causal language model.
        UnknownName: there is no such attr_target.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (ablation);
    the paper of each method for its estimator.

    Example:
        >>> inp = TextTemplateInput("{} lives in {}.", ["Dave", "Palm Coast"])  # doctest: +SKIP
        >>> LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, target=" He likes fishing.")  # doctest:
        +SKIP
    """

    def __init__(
        self,
        attr_method: Attribution,
        tokenizer: TokenizerLike | LanguageModel,
        attr_target: ScalarLike = "log_prob",
    ) -> None:
        if not isinstance(attr_method, PerturbationAttribution) or not attr_method.plays_any_game():
            raise UnsupportedMethod(
                f"LLMAttribution does not support {type(attr_method).__name__}; supported: "
                f"{', '.join(method.__name__ for method in text_methods().values())}: methods that leave out parts of "
                "a single prompt, and neither take gradients nor move a layer nor need other examples"
            )
        self.scalar, self.attr_target = scalar_of(attr_target), attr_target
        super().__init__(attr_method, tokenizer)
        self.attr_method: PerturbationAttribution = attr_method

    def attribute(
        self,
        inp: InterpretableInput | Prompt,
        target: Answer = None,
        num_trials: int = 1,
        gen_args: GenArgs | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Inspector | None = None,
        forward_in_tokens: bool = True,
        *,
        ledger: str | PathLike[str] | None = None,
        precision: Precision | None = None,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """The attribution of the full answer and of each of its tokens to the features of the input.

        Args:
            inp: `TextTemplateInput`, `TextTokenInput`, a `Prompt`, or your own `InterpretableInput`.
            target: The answer: text, token ids, the return value of `model.generate` for this prompt, or None to let
                the model generate it.
            num_trials: Averages over this many samples of the input's random baselines; all variants of a trial share
                one sample.
            gen_args: Arguments of `model.generate`, or a GenerationConfig (by default greedy, 25 new tokens). Sampling
                draws from torch's generator, as `generate` does; with `seed` that generator is left untouched.
            use_cached_outputs: False scores every variant in full, without cache.
            _inspect_forward: Called once per variant with its text, the answer's text, and the probabilities of the
                full answer and of each token.
            forward_in_tokens: Ignored; accepted for compatibility with Captum.
            ledger: A file that keeps every score, so that none is computed again: not by another method, for another
                region or a larger sample, by another process, or after a restart; see docs/ledger.md.
            precision: `fp32`, `bf16` or `fp16`: the type of the model's products of matrices, by autocast, with the
                residual stream and the logits in fp32; `weights`: the type of the weights throughout; None: that of the
                weights, or of your own autocast.
            **kwargs: `feature_mask` (integers `(1, features)`; features with equal ones are left out together),
                `perturbations_per_eval` (the most variants per pass), `show_progress`, and the method's own options.

        Returns:
            `seq_attr` `(features,)` and `token_attr` `(answer tokens, features)`, in nats or the scalar's unit.

        Raises:
            EmptyTarget: there is no answer to explain.
            ContextTooLong: prompt and answer do not fit into the model's context.
            NonFiniteScore: the model's output is NaN or infinite.
            InvalidTarget: the foil of a contrast is the answer.
            UnknownKeyword: neither this call nor the method accepts a keyword.
            UnknownName: there is no such precision.
            InvalidValue: the model cannot compute in the precision.
            LedgerFailed: the ledger cannot be read or written.
            BrokenFile: the ledger is damaged, or another kind of file.
        """
        options = self._options(num_trials, gen_args, use_cached_outputs, _inspect_forward, ledger=ledger, **kwargs)
        with computing(self.language_model, precision):
            return self._attributed([self._job(inp, options)], [target], options)[0][0]

    def attribute_each(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer] = None,
        **options: Any,
    ) -> list[LLMAttributionResult]:
        """The attributions of several inputs, whose variants are scored together.

        What the inputs share (a system message, documents) is computed once, and short inputs share a pass. Answers are
        generated sequentially, for exactness. The cost in a result's provenance covers all inputs that were scored
        together (`prompts`).

        Args:
            inputs: Each as in `attribute`.
            target: A common target, or a list with one per input.
            **options: The other arguments of `attribute`, common to all inputs.

        Raises:
            InvalidShape: the list of targets has another length.
            LlmAttrError: as in `attribute`; the message names the input.
        """
        return [results[0] for results in self.attribute_scalars(inputs, target, [self.scalar], **options)]

    def attribute_scalars(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer],
        scalars: Sequence[Scalar],
        *,
        precision: Precision | None = None,
        **options: Any,
    ) -> list[list[LLMAttributionResult]]:
        """See `TextAttribution`; all quantities share the passes, and `until` applies to each of them."""
        answers = answers_of(target, len(inputs))
        jobs, shared = self.jobs(inputs, scalars, **options)
        with computing(self.language_model, precision):
            return self._attributed(jobs, answers, shared)

    def jobs(
        self, inputs: Sequence[InterpretableInput | Prompt], scalars: Sequence[Scalar], **options: Any
    ) -> tuple[list[PromptJob], Options]:
        """The prompts and their features, without answers, and the options; see `attribute_scalars`.

        Raises:
            LlmAttrError: as in `attribute_each`.
        """
        shared = replace(self._options(**options), scalars=tuple(scalars))
        jobs = []
        for number, inp in enumerate(inputs):
            with about_prompt(number if len(inputs) > 1 else None):
                jobs.append(replace(self._job(inp, shared), number=number if len(inputs) > 1 else None))
        return jobs, shared

    def game(
        self, inp: InterpretableInput | Prompt, target: Answer = None, gen_args: GenArgs | None = None
    ) -> PromptGame:
        """The prompt and its answer as a game that judges attributions; see `llm_attr.prompt_game`.

        Raises:
            UnsupportedMethod: the input does more than copy the attributions of its features.
            LlmAttrError: as in `attribute`.
        """
        options = self._options(gen_args=gen_args)
        job = self._job(inp, options)
        (answer,) = self.answers([job.prompt], [target], options.gen_args)
        job = job.answered(self.language_model, answer, [self.scalar])
        sampled = job.inp.sampled()
        columns = sampled.feature_of_value()
        if columns is None:
            raise UnsupportedMethod(
                f"format_attr of {type(sampled).__name__} does more than copy attributions, so its values cannot be "
                "left out one by one"
            )
        asked = Asked(self.language_model, sampled, job.features, job.prompt, job.answer, job.scalars[0])
        return PromptGame(asked, job.features.owner[0][0][columns])

    def stored(self, options: Options) -> StoredReadings | None:
        """The readings of the model in the ledger, if there is one.

        Raises:
            LlmAttrError: as in `StoredReadings.of`.
        """
        if options.ledger is None:
            return None
        return StoredReadings.of(options.ledger, self.language_model, options.cached, options.scalars)

    def engine(self, options: Options, stored: StoredReadings | None = None) -> ScoreEngine:
        """The engine that scores the prompts' variants, as far as the ledger does not have them."""

        def local() -> ScoreEngine:
            return engine_for(self.language_model, options.cached, options.perturbations_per_eval, stored)

        team = current_team()
        return local() if team is None else SharedEngine(local, team)

    def _options(
        self,
        num_trials: int = 1,
        gen_args: GenArgs | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Inspector | None = None,
        forward_in_tokens: bool = True,
        ledger: str | PathLike[str] | None = None,
        **keywords: Any,
    ) -> Options:
        return Options.split(
            self.attr_method,
            keywords,
            trials=num_trials,
            gen_args=gen_args,
            cached=use_cached_outputs,
            inspect=_inspect_forward,
            scalars=(self.scalar,),
            ledger=ledger,
        )

    def _job(self, inp: InterpretableInput | Prompt, options: Options) -> PromptJob:
        inp = self.bound(inp)
        features = options.features(inp)
        prompt = model_input_ids(self.language_model, inp) or [empty_prompt_id(self.language_model)]
        self.language_model.check_length(len(prompt), 1)
        return PromptJob(inp, features, tuple(prompt))

    def _attributed(
        self, jobs: Sequence[PromptJob], targets: Sequence[Answer], options: Options
    ) -> list[list[LLMAttributionResult]]:
        with self.in_step([job.prompt for job in jobs], targets, options.scalars, options):
            return self._in_step(jobs, targets, options)

    def _in_step(
        self, jobs: Sequence[PromptJob], targets: Sequence[Answer], options: Options
    ) -> list[list[LLMAttributionResult]]:
        total = sum(options.evaluations(job.features) for job in jobs)
        name, device = self.title, self.language_model.device
        answered = self._answered(jobs, targets, options, Evaluator(name, total, device=device))
        with (
            self._priced(answered, options) as price,
            Evaluator(name, total, show_progress=options.show_progress, device=device) as evaluator,
        ):
            here = self.language_model.served_by is None
            if here and total > UNSEEN and not options.stopping.adaptive:
                price.tell(self._seconds(answered, options), f"{total:,} variants of the prompt")
            known_by, stored = identity(self.language_model), self.stored(options)
            groups = score_prompts(lambda: self.engine(options, stored), answered, options, evaluator)
            scored = [scores for group in groups for scores in group]
            return [
                [
                    self._result(each, *of_scalar, options, known_by)
                    for of_scalar in zip(each.job.scalars, each.tables, strict=True)
                ]
                for each in scored
            ]

    def _priced(self, jobs: Sequence[PromptJob], options: Options) -> AbstractContextManager[Price]:
        """Warns if the work is expected to take long, and suggests quicker options."""
        stopping, counts = options.stopping, [job.features.count for job in jobs]

        def quicker(share: float) -> str:
            return ", or ".join([*options.quicker(self.attr_method, counts, share), "larger or fewer units"])

        seconds = None if stopping.seconds is None else stopping.seconds * len(jobs)
        open_ended = stopping.adaptive and stopping.metered is None
        most = options.trials * sum(map(options.most, counts)) if open_ended else None
        sure = not stopping.wants_certainty and stopping.metered is None
        return priced(self.title, quicker, most, seconds, sure)

    def _seconds(self, jobs: Sequence[PromptJob], options: Options) -> float:
        """Roughly estimated seconds, for designs so large that the first pass comes late."""
        cost = Cost()
        for job in jobs:
            new = 2 * len(job.prompt) // max(1, job.features.count) + len(job.answer)
            cost.forward.add(Call(new, len(job.answer)), options.evaluations(job.features))
        cost.forward.calls = cost.positions // positions_that_fit(self.language_model)
        return speed_of(self.language_model, backward=False).seconds(cost)

    def _answered(
        self, jobs: Sequence[PromptJob], targets: Sequence[Answer], options: Options, evaluator: Evaluator
    ) -> list[PromptJob]:
        """The jobs with their answers; given answers are checked before others are generated."""
        ids = self.answers([job.prompt for job in jobs], targets, options.gen_args, evaluator.check)
        answered = []
        for job, answer in zip(jobs, ids, strict=True):
            with about_prompt(job.number):
                answered.append(job.answered(self.language_model, answer, options.scalars))
        return answered

    def _result(
        self, scores: PromptScores, scalar: Scalar, table: Table, options: Options, known_by: Mapping[str, Any]
    ) -> LLMAttributionResult:
        """The result for one scalar: the attributions of the features, mapped to the values of the input."""
        inp, job = scores.games[0].inp, scores.job
        attributions, in_table = table.attributions(), inp.feature_of_value() is not None
        if not in_table:
            attributions = Attributions(inp.format_attr(job.features.spread(attributions.values.T)[0]), None)
        about = self._about(scores, scalar, options) | dict(known_by)
        about["errors"] = None if attributions.stderr is None else attributions.kind
        asked = Asked(self.language_model, inp, job.features, job.prompt, job.answer, scalar)
        game = PromptGame(asked, table.owner, table) if in_table else None
        fields = {**attributions.fields, "table": table if in_table else None}
        return self.result(inp, job.prompt, job.answer, scores.log_probs, about, game, **fields)

    def _about(self, scores: PromptScores, scalar: Scalar, options: Options) -> dict[str, Any]:
        inp, engine = scores.games[0].inp, scores.games[0].engine
        empty_prompt_token = next(
            (game.empty_prompt_token for game in scores.games if game.empty_prompt_token is not None), None
        )
        return self.provenance(inp, scalar, engine.cost) | {
            "scoring": engine.how or ("read from the ledger" if engine.from_ledger else None),
            "empty_prompt": None if empty_prompt_token is None else self.language_model.decode([empty_prompt_token]),
            "prompts": scores.prompts,
            "variants": engine.variants,
            "from_ledger": engine.from_ledger if engine.stored is not None else None,
            "processes": engine.processes,
            "seed": arguments_of(options.gen_args).get("seed"),
            "method_seed": options.method_seed(self.attr_method),
            "n_samples": scores.n_samples,
            "until": options.until,
            "budget": options.budget,
            "met": scores.met,
        }


def text_methods() -> dict[str, type[PerturbationAttribution]]:
    """The perturbation methods that can explain a language model, by name."""
    playing = {name: method for name, method in METHODS.items() if issubclass(method, PerturbationAttribution)}
    return {name: method for name, method in playing.items() if method.plays_any_game()}
