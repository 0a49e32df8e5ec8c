"""Attribution of a language model's answer to its prompt, by methods that play games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm_attr.attr.base import Attribution, PerturbationAttribution
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.features import Features
from llm_attr.core.game import Estimator
from llm_attr.core.ledger import Ledger
from llm_attr.core.registry import METHODS, snake_case
from llm_attr.errors import InvalidType, InvalidValue, UnknownKeyword, UnknownName, UnsupportedMethod
from llm_attr.llm.alignment import pieces, token_spans
from llm_attr.llm.bound import BoundPrompt
from llm_attr.llm.game import Inspector, TextGame, empty_prompt_id, model_input_ids
from llm_attr.llm.identity import identity
from llm_attr.llm.inputs import InterpretableInput, TextTokenInput
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.prefix_tree import Variant
from llm_attr.llm.prompt import Prompt
from llm_attr.llm.result import LLMAttributionResult
from llm_attr.llm.scoring import Scorer
from llm_attr.llm.table import AttrTarget, Table, owners
from llm_attr.llm.target import Answer, answer_ids
from llm_attr.typing import Coalitions, Values


class LLMAttribution(Attribution):
    """Explains which units of a prompt carried a language model's answer, and each of its tokens.

    `attribution = f(prompt) - f(prompt without the unit)` for FeatureAblation, and so on for each method, where f is
    the log-probability (or probability) of the answer. All target tokens are scored in one pass over each variant of
    the prompt, with its shared prefixes computed once; the results equal those of whole passes without cache.

    Args:
        attr_method: The method, made for the transformers model itself: `FeatureAblation(model)`.
        tokenizer: The model's tokenizer.
        attr_target: `log_prob` (nats) or `prob`.

    Raises:
        UnsupportedMethod: the method plays no games.
        NotALanguageModel: the method's forward function is no causal language model.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014 (ablation);
    the paper of each method for its estimator.

    Example:
        >>> inp = TextTemplateInput("{} lives in {}.", ["Dave", "Palm Coast"])  # doctest: +SKIP
        >>> LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, target=" He likes fishing.")  # doctest:
        +SKIP
    """

    def __init__(
        self, attr_method: Attribution, tokenizer: PreTrainedTokenizerBase, attr_target: AttrTarget = "log_prob"
    ) -> None:
        if not isinstance(attr_method, PerturbationAttribution):
            raise UnsupportedMethod(
                f"LLMAttribution does not support {type(attr_method).__name__}; supported: "
                f"{', '.join(method.__name__ for method in text_methods().values())}"
            )
        if attr_target not in get_args(AttrTarget):
            raise UnknownName("attr_target", attr_target, get_args(AttrTarget))
        super().__init__(attr_method.forward_func)
        self.attr_method, self.attr_target = attr_method, attr_target
        self.language_model = LanguageModel(attr_method.forward_func, tokenizer)

    def attribute(
        self,
        inp: InterpretableInput | Prompt,
        target: Answer = None,
        num_trials: int = 1,
        gen_args: Mapping[str, Any] | None = None,
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
            gen_args: Arguments of `model.generate` (by default greedy, 25 new tokens); `seed` seeds sampling.
            use_cached_outputs: False scores every variant whole and without cache.
            _inspect_forward: Called once for each variant with its text, the answer's text, and the probabilities of
                the whole answer and of each token.
            forward_in_tokens: Accepted for Captum's sake; it chooses nothing, since one pass gives both results.
            **kwargs: `feature_mask` (whole numbers `(1, features)`; equal ones are left out together),
                `perturbations_per_eval` (the most variants of one pass), `show_progress`, and the method's own options.

        Returns:
            `seq_attr` `(features,)` and `token_attr` `(answer tokens, features)`, in nats or probability.

        Raises:
            EmptyTarget: there is no answer to explain.
            ContextTooLong: prompt and answer do not fit into the model's context.
            NonFiniteScore: the model answered NaN.
            UnknownKeyword: a keyword that neither this call nor the method takes.
        """
        options = Options.split(
            f"LLMAttribution.attribute with {self.attr_method.get_name()}", kwargs, self.attr_method
        )
        if not isinstance(num_trials, int) or num_trials < 1:
            raise InvalidValue(f"num_trials must be a whole number of at least 1; got {num_trials!r}")
        if isinstance(inp, Prompt):
            inp = inp.bind(self.language_model)
        if not isinstance(inp, InterpretableInput):
            raise InvalidType(f"inp must be an InterpretableInput or a Prompt; got {type(inp).__name__}")
        features = options.features(inp)
        prompt = model_input_ids(self.language_model, inp) or [empty_prompt_id(self.language_model)]
        answer = answer_ids(self.language_model, prompt, target, gen_args)
        self.language_model.check_length(len(prompt), len(answer))
        scorer = Scorer(self.language_model, answer, cached=use_cached_outputs)
        total = num_trials * options.estimator.evaluations(features.count)
        name = f"{self.attr_method.get_name()} attribution"
        with Evaluator(
            name, total, show_progress=options.show_progress, device=self.language_model.device
        ) as evaluator:
            shared = (features, scorer, evaluator, options.perturbations_per_eval, _inspect_forward, set[Variant]())
            games = [TextGame(inp.sampled(), *shared) for _ in range(num_trials)]
            design = list(options.estimator.blocks(features.count))
            log_probs = torch.stack([_log_probs(game, design) for game in games])
            whole = scorer.score([Variant.plain(prompt)], evaluator)[0]
        table = Table(
            coalitions=torch.cat(design),
            log_probs=log_probs,
            owner=torch.arange(features.count),
            whole=whole,
            method=self._method,
            options=options.method_options,
            attr_target=self.attr_target,
            estimator=options.estimator,
        )
        return self._result(games, prompt, table, (gen_args or {}).get("seed"))

    @property
    def _method(self) -> str:
        return snake_case(type(self.attr_method).__name__)

    def _result(
        self, games: Sequence[TextGame], prompt: list[int], table: Table, seed: int | None
    ) -> LLMAttributionResult:
        """What the table of the features says about the units that the input shows."""
        inp, features, answer = games[0].inp, games[0].features, games[0].scorer.answer
        owner = owners(inp, features)
        if owner is None:
            shown = inp.format_attr(features.spread(table.attributions().T)[0])
        else:
            table = replace(table, owner=owner)
            shown = table.attributions()
        text, spans = token_spans(self.language_model.tokenizer, answer, prompt)
        stand_in = next((game.stand_in for game in games if game.stand_in is not None), None)
        return LLMAttributionResult(
            input_tokens=_feature_texts(inp),
            output_tokens=pieces(text, spans),
            seq_attr=shown[0],
            token_attr=shown[1:],
            output_probs=table.whole.exp(),
            inp=inp,
            output_ids=answer,
            output_text=text,
            output_spans=spans,
            provenance=self._provenance(games[0], stand_in) | {"seed": seed} | identity(self.language_model),
            table=None if owner is None else table,
        )

    def _provenance(self, game: TextGame, stand_in: int | None) -> dict[str, Any]:
        counter, way = game.scorer.counter, game.scorer.way
        return {
            "method": self._method,
            "attr_target": self.attr_target,
            "unit": game.inp.unit if isinstance(game.inp, BoundPrompt) else "feature",
            "model": self.language_model.name,
            "dtype": str(self.language_model.model.dtype).removeprefix("torch."),
            "scoring": None if way is None else f"{way.kind} ({way.reason})",
            "variants": game.scorer.variants,
            "empty_prompt": None if stand_in is None else self.language_model.decode([stand_in]),
            **asdict(counter),
        }


def _log_probs(game: TextGame, design: Sequence[Coalitions]) -> Values:
    """`(coalitions, answer tokens)` of one game, which is asked for each coalition once."""
    remembered, found = Ledger().remembering(game), []
    for coalitions in design:
        expected = game.evaluator.done + len(coalitions)
        found.append(remembered(coalitions))
        game.evaluator.advance(expected - game.evaluator.done)
    return torch.cat(found)


def text_methods() -> dict[str, type[PerturbationAttribution]]:
    """The methods that can explain a language model, by name."""
    return {name: method for name, method in METHODS.items() if issubclass(method, PerturbationAttribution)}


def _feature_texts(inp: InterpretableInput) -> list[str]:
    return inp.token_texts() if isinstance(inp, TextTokenInput) else [str(value) for value in inp.values]


@dataclass(frozen=True)
class Options:
    """What the keywords of `attribute` say; those that it does not know itself are the method's."""

    estimator: Estimator
    feature_mask: Tensor | None = None
    perturbations_per_eval: int | None = None
    show_progress: bool = False
    method_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def accepted(cls, method: PerturbationAttribution) -> set[str]:
        """Every keyword that explaining a text with this method takes."""
        return cls._own() | set(signature(method.estimator).parameters)

    @classmethod
    def _own(cls) -> set[str]:
        return {field.name for field in fields(cls)} - {"estimator", "method_options"}

    @classmethod
    def split(cls, where: str, keywords: Mapping[str, Any], method: PerturbationAttribution) -> Options:
        """Sorts keywords into those of the call and those of the method's estimator.

        Raises:
            UnknownKeyword: neither takes one of them.
        """
        if unknown := set(keywords) - cls.accepted(method):
            raise UnknownKeyword(where, unknown, cls.accepted(method))
        own = cls._own()
        of_method = {name: value for name, value in keywords.items() if name not in own}
        of_call = {name: value for name, value in keywords.items() if name in own}
        options = cls(method.estimator(**of_method), method_options=of_method, **of_call)
        most = options.perturbations_per_eval
        if most is not None and most < 1:
            raise InvalidValue(f"perturbations_per_eval must be at least 1 or None; got {most}")
        return options

    def features(self, inp: InterpretableInput) -> Features:
        """The features of an input, grouped by the mask if there is one."""
        tensor = inp.to_tensor()
        return (
            Features.single((tensor,)) if self.feature_mask is None else Features.of_mask(self.feature_mask, (tensor,))
        )
