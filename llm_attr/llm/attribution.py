"""Attribution of a language model's answer to its prompt, by methods that play games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from llm_attr.attr.base import Attribution
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.evaluator import Evaluator, Price, priced
from llm_attr.core.registry import METHODS, snake_case
from llm_attr.errors import InvalidType, UnsupportedMethod, about_prompt
from llm_attr.llm.many import answers_of
from llm_attr.llm.model.cost import Call, Cost
from llm_attr.llm.model.fingerprint import identity
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.speed import speed_of
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.alignment import pieces, token_spans
from llm_attr.llm.prompt.interpretable import InterpretableInput, TextTokenInput
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.results.table import Attributions, Table
from llm_attr.llm.scoring.batch import Found, Played, Subject, played
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.options import Options
from llm_attr.llm.scoring.passes import positions_that_fit
from llm_attr.llm.scoring.scorer import Scorer
from llm_attr.llm.scoring.text_game import Inspector, empty_prompt_id, model_input_ids
from llm_attr.llm.target.answer import Answer, answer_ids
from llm_attr.llm.target.generation import GenArgs, arguments_of
from llm_attr.llm.target.scalar import Scalar, ScalarLike, scalar_of

UNSEEN = 4096
"""Variants whose preparation alone takes so long that their price is told before the first pass."""


class LLMAttribution(Attribution):
    """Explains which units of a prompt carried a language model's answer, and each of its tokens.

    `attribution = f(prompt) - f(prompt without the unit)` for FeatureAblation, and so on for each method, where f is
    the log-probability of the answer, or another quantity of it (see `Scalar`). All target tokens are scored in one
    pass over each variant of the prompt, with its shared prefixes computed once; the results equal those of whole
    passes without cache.

    Args:
        attr_method: The method, made for the transformers model itself: `FeatureAblation(model)`.
        tokenizer: The model's tokenizer.
        attr_target: What is explained: `log_prob` (nats), `prob`, `logit`, `entropy`, `kl`, `margin`, a function of
            logits `(tokens, vocabulary)` and ids `(tokens,)`, or a `Scalar` such as `contrast("another answer")`.

    Raises:
        UnsupportedMethod: the method plays no games, or none with a single prompt.
        NotALanguageModel: the method's forward function is no causal language model.
        UnknownName: there is no such attr_target.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (ablation);
    the paper of each method for its estimator.

    Example:
        >>> inp = TextTemplateInput("{} lives in {}.", ["Dave", "Palm Coast"])  # doctest: +SKIP
        >>> LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, target=" He likes fishing.")  # doctest:
        +SKIP
    """

    def __init__(
        self, attr_method: Attribution, tokenizer: TokenizerLike, attr_target: ScalarLike = "log_prob"
    ) -> None:
        if not isinstance(attr_method, PerturbationAttribution) or not attr_method.plays_any_game():
            raise UnsupportedMethod(
                f"LLMAttribution does not support {type(attr_method).__name__}; supported: "
                f"{', '.join(method.__name__ for method in text_methods().values())}: methods that leave out parts of "
                "a single prompt, and neither take gradients nor move a layer nor need other examples"
            )
        self.scalar = scalar_of(attr_target)
        super().__init__(attr_method.forward_func)
        self.attr_method, self.attr_target = attr_method, attr_target
        self.language_model = LanguageModel(attr_method.forward_func, tokenizer)

    def attribute(
        self,
        inp: InterpretableInput | Prompt,
        target: Answer = None,
        num_trials: int = 1,
        gen_args: GenArgs | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Inspector | None = None,
        forward_in_tokens: bool = True,
        **kwargs: Any,
    ) -> LLMAttributionResult:
        """The attribution of the whole answer and of each of its tokens to the features of the input.

        Args:
            inp: `TextTemplateInput`, `TextTokenInput`, a `Prompt`, or an input of your own.
            target: The answer: text, token ids, what `model.generate` returned for this prompt, or None to let the
                model generate it.
            num_trials: Averages over this many samples of the input's random baselines; one sample holds for all
                variants of a trial.
            gen_args: Arguments of `model.generate`, or a GenerationConfig (by default greedy, 25 new tokens). Sampling
                draws from torch's generator, as `generate` does; with `seed` from that, and the generator stays.
            use_cached_outputs: False scores every variant whole and without cache.
            _inspect_forward: Called once for each variant with its text, the answer's text, and the probabilities of
                the whole answer and of each token.
            forward_in_tokens: Accepted for Captum's sake; it chooses nothing, since one pass gives both results.
            **kwargs: `feature_mask` (whole numbers `(1, features)`; equal ones are left out together),
                `perturbations_per_eval` (the most variants of one pass), `show_progress`, and the method's own options.

        Returns:
            `seq_attr` `(features,)` and `token_attr` `(answer tokens, features)`, in nats or what the scalar is in.

        Raises:
            EmptyTarget: there is no answer to explain.
            ContextTooLong: prompt and answer do not fit into the model's context.
            NonFiniteScore: the model answered NaN.
            InvalidTarget: the foil of a contrast is the answer.
            UnknownKeyword: a keyword that neither this call nor the method takes.
        """
        options = self._options(num_trials, gen_args, use_cached_outputs, _inspect_forward, **kwargs)
        return self._attributed([self._subject(inp, options)], [target], options)[0][0]

    def attribute_each(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer] = None,
        **options: Any,
    ) -> list[LLMAttributionResult]:
        """The attribution of each of several inputs, whose variants are scored together.

        What the inputs share (a system message, documents) is computed once, and short ones fill a pass together.
        Answers are generated one after the other, since that is exact. What a result tells of its cost is that of all
        the inputs that were scored with it (`prompts` in its provenance).

        Args:
            inputs: Each as in `attribute`.
            target: One for all, or a list with one for each.
            **options: The other arguments of `attribute`, the same for all.

        Raises:
            InvalidShape: the list of targets is of another length.
            LlmAttrError: as in `attribute`; the message says which input it is about.
        """
        return [found[0] for found in self.attribute_scalars(inputs, target, [self.scalar], **options)]

    def attribute_scalars(
        self,
        inputs: Sequence[InterpretableInput | Prompt],
        target: Answer | Sequence[Answer],
        scalars: Sequence[Scalar],
        **options: Any,
    ) -> list[list[LLMAttributionResult]]:
        """For each input the attributions of several quantities of its answer, from the same passes.

        Args:
            inputs: See `attribute_each`.
            target: See `attribute_each`.
            scalars: What is explained, in place of `attr_target`.
            **options: See `attribute_each`; `until` is reached when all scalars are sure.

        Raises:
            LlmAttrError: as in `attribute_each`.
        """
        answers = answers_of(target, len(inputs))
        subjects, shared = self.posed(inputs, scalars, **options)
        return self._attributed(subjects, answers, shared)

    def posed(
        self, inputs: Sequence[InterpretableInput | Prompt], scalars: Sequence[Scalar], **options: Any
    ) -> tuple[list[Subject], Options]:
        """The prompts in their features, without answers, and how they are to be explained; see `attribute_scalars`.

        Raises:
            LlmAttrError: as in `attribute_each`.
        """
        shared = replace(self._options(**options), scalars=tuple(scalars))
        subjects = []
        for number, inp in enumerate(inputs):
            with about_prompt(number if len(inputs) > 1 else None):
                subjects.append(replace(self._subject(inp, shared), number=number if len(inputs) > 1 else None))
        return subjects, shared

    def engine(self, options: Options) -> ScoreEngine:
        """What scores the prompts' variants."""
        return Scorer(self.language_model, options.cached, options.perturbations_per_eval)

    def _options(
        self,
        num_trials: int = 1,
        gen_args: GenArgs | None = None,
        use_cached_outputs: bool = True,
        _inspect_forward: Inspector | None = None,
        forward_in_tokens: bool = True,
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
        )

    def _subject(self, inp: InterpretableInput | Prompt, options: Options) -> Subject:
        if isinstance(inp, Prompt):
            inp = inp.bind(self.language_model)
        if not isinstance(inp, InterpretableInput):
            raise InvalidType(f"inp must be an InterpretableInput or a Prompt; got {type(inp).__name__}")
        features = options.features(inp)
        prompt = model_input_ids(self.language_model, inp) or [empty_prompt_id(self.language_model)]
        self.language_model.check_length(len(prompt), 1)
        return Subject(inp, features, tuple(prompt))

    def _attributed(
        self, subjects: Sequence[Subject], targets: Sequence[Answer], options: Options
    ) -> list[list[LLMAttributionResult]]:
        total = sum(options.evaluations(subject.features) for subject in subjects)
        name, device = f"{self.attr_method.get_name()} attribution", self.language_model.device
        answered = self._answered(subjects, targets, options, Evaluator(name, total, device=device))
        with (
            self._priced(answered, options) as price,
            Evaluator(name, total, show_progress=options.show_progress, device=device) as evaluator,
        ):
            if total > UNSEEN and not options.stopping.adaptive:
                price.tell(self._foreseen(answered, options), f"{total:,} variants of the prompt")
            known_by = identity(self.language_model)
            groups = played(lambda: self.engine(options), answered, options, evaluator)
            alone = [one for group in groups for one in group]
            return [[self._result(one, found, options, known_by) for found in one.found] for one in alone]

    def _priced(self, subjects: Sequence[Subject], options: Options) -> AbstractContextManager[Price]:
        """Tells what is expected to take long, and what takes less time than these options."""
        stopping, counts = options.stopping, [subject.features.count for subject in subjects]

        def quicker(share: float) -> str:
            return ", or ".join([*options.quicker(self.attr_method, counts, share), "larger or fewer units"])

        seconds = None if stopping.seconds is None else stopping.seconds * len(subjects)
        open_ended = stopping.adaptive and stopping.metered is None
        most = options.trials * sum(map(options.most, counts)) if open_ended else None
        sure = not stopping.wants_certainty and stopping.metered is None
        return priced(f"{self.attr_method.get_name()} attribution", quicker, most, seconds, sure)

    def _foreseen(self, subjects: Sequence[Subject], options: Options) -> float:
        """About the seconds of designs so large that it takes long until the first pass shows it."""
        cost = Cost()
        for subject in subjects:
            new = 2 * len(subject.prompt) // max(1, subject.features.count) + len(subject.answer)
            cost.forward.add(Call(new, len(subject.answer)), options.evaluations(subject.features))
        cost.forward.calls = cost.positions // positions_that_fit(self.language_model)
        return speed_of(self.language_model, backward=False).seconds(cost)

    def _answered(
        self, subjects: Sequence[Subject], targets: Sequence[Answer], options: Options, evaluator: Evaluator
    ) -> list[Subject]:
        """The subjects with their answers; those that are given are looked at before others are generated."""
        answered: dict[int, Subject] = {}
        for i in sorted(range(len(subjects)), key=lambda i: targets[i] is None):
            evaluator.check()
            with about_prompt(subjects[i].number):
                answer = answer_ids(self.language_model, subjects[i].prompt, targets[i], options.gen_args)
                answered[i] = subjects[i].answered(self.language_model, answer, options.scalars)
        return [answered[i] for i in range(len(subjects))]

    @property
    def _method(self) -> str:
        return snake_case(type(self.attr_method).__name__)

    def _result(self, one: Played, found: Found, options: Options, known_by: Mapping[str, Any]) -> LLMAttributionResult:
        """What the table of the features says about the units that the input shows, for one scalar."""
        inp, subject = one.games[0].inp, one.subject
        table = self._table(one, found, options)
        columns = inp.feature_of_value()
        if columns is not None:
            table = replace(table, owner=subject.features.owner[0][0][columns])
        said = table.attributions()
        if columns is None:
            said = Attributions(inp.format_attr(subject.features.spread(said.values.T)[0]), None)
        text, spans = token_spans(self.language_model.tokenizer, subject.answer, subject.prompt)
        return LLMAttributionResult(
            input_tokens=_feature_texts(inp),
            output_tokens=pieces(text, spans),
            **said.fields,
            output_probs=one.log_probs.exp(),
            inp=inp,
            output_ids=subject.answer,
            output_text=text,
            output_spans=spans,
            provenance=self._provenance(one, found.scalar)
            | {"seed": arguments_of(options.gen_args).get("seed"), "errors": None if said.stderr is None else said.kind}
            | {"n_samples": one.n_samples, "until": options.until, "budget": options.budget, "met": one.met}
            | {"method_seed": options.method_seed(self.attr_method)}
            | dict(known_by),
            table=None if columns is None else table,
        )

    def _table(self, one: Played, found: Found, options: Options) -> Table:
        return Table(
            coalitions=one.coalitions,
            values=found.values,
            owner=torch.arange(one.subject.features.count, device="cpu"),
            whole=found.whole,
            method=self._method,
            options=options.method_options,
            attr_target=found.scalar.name,
            per_token=found.per_token,
            estimator=options.estimator,
        )

    def _provenance(self, one: Played, scalar: Scalar) -> dict[str, Any]:
        inp, engine = one.games[0].inp, one.games[0].engine
        stand_in = next((game.stand_in for game in one.games if game.stand_in is not None), None)
        return {
            "method": self._method,
            "attr_target": scalar.name,
            **scalar.about(self.language_model),
            **inp.about(),
            "model": self.language_model.name,
            "dtype": str(self.language_model.dtype).removeprefix("torch."),
            "scoring": engine.how,
            "empty_prompt": None if stand_in is None else self.language_model.decode([stand_in]),
            "prompts": one.prompts,
            "variants": engine.variants,
            **engine.cost.to_dict(),
        }


def text_methods() -> dict[str, type[PerturbationAttribution]]:
    """The methods that can explain a language model, by name."""
    playing = {name: method for name, method in METHODS.items() if issubclass(method, PerturbationAttribution)}
    return {name: method for name, method in playing.items() if method.plays_any_game()}


def _feature_texts(inp: InterpretableInput) -> list[str]:
    return inp.token_texts() if isinstance(inp, TextTokenInput) else [str(value) for value in inp.values]
