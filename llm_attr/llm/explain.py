"""The one-line way in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeAlias, overload

from llm_attr.attr.base import Attribution
from llm_attr.core.registry import summary
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.llm.attribution import LLMAttribution, text_methods
from llm_attr.llm.gradient import LLMGradientAttribution
from llm_attr.llm.gradients.absent_units import line_break
from llm_attr.llm.gradients.methods import by_name, gradient_methods, named
from llm_attr.llm.many import for_each, is_many
from llm_attr.llm.model.language_model import LanguageModel, as_language_model
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.keywords import refuse_unknown
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.scoring.options import Options
from llm_attr.llm.target.answer import Answer, refuse_one_id
from llm_attr.llm.target.region import Region, RegionName
from llm_attr.llm.target.scalar import Foil, Scalar, ScalarLike, scalars_of


def methods() -> dict[str, str]:
    """Every name that `explain` takes as `method`, with a line that says what it does."""
    return {name: summary(method) for name, method in sorted(_known().items())}


def method_named(name: str) -> type[Attribution]:
    """The method of this name.

    Raises:
        UnknownName: there is none; the message lists those that there are.
    """
    known = _known()
    if name not in known:
        raise UnknownName("method", name, sorted(known))
    return known[name]


def _known() -> dict[str, type[Attribution]]:
    return {**text_methods(), **gradient_methods()}


One: TypeAlias = str | Messages | Prompt | InterpretableInput
"""One prompt: a text, the messages of a chat, or a prompt with its units."""


@overload
def explain(
    model: LanguageModel | Any,
    prompt: One,
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    method: str = "feature_ablation",
    target: Answer = None,
    scalar: ScalarLike = "log_prob",
    foil: Foil | None = None,
    region: RegionName | Region | None = None,
    **options: Any,
) -> LLMAttributionResult: ...


@overload
def explain(
    model: LanguageModel | Any,
    prompt: One,
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    method: str = "feature_ablation",
    target: Answer = None,
    scalar: list[Any],
    foil: Foil | None = None,
    region: RegionName | Region | None = None,
    **options: Any,
) -> list[LLMAttributionResult]: ...


@overload
def explain(
    model: LanguageModel | Any,
    prompt: list[str] | list[Messages] | list[Prompt] | list[One],
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    method: str = "feature_ablation",
    target: Answer | Sequence[Answer] = None,
    scalar: ScalarLike = "log_prob",
    foil: Foil | None = None,
    region: RegionName | Region | None = None,
    **options: Any,
) -> list[LLMAttributionResult]: ...


@overload
def explain(
    model: LanguageModel | Any,
    prompt: list[str] | list[Messages] | list[Prompt] | list[One],
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    method: str = "feature_ablation",
    target: Answer | Sequence[Answer] = None,
    scalar: list[Any],
    foil: Foil | None = None,
    region: RegionName | Region | None = None,
    **options: Any,
) -> list[list[LLMAttributionResult]]: ...


def explain(
    model: LanguageModel | Any,
    prompt: One | Sequence[One],
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    method: str = "feature_ablation",
    target: Answer | Sequence[Answer] = None,
    scalar: ScalarLike | list[Any] = "log_prob",
    foil: Foil | None = None,
    region: RegionName | Region | None = None,
    **options: Any,
) -> LLMAttributionResult | list[LLMAttributionResult] | list[list[LLMAttributionResult]]:
    """Explains which units of a prompt carried a model's answer.

    Args:
        model: A `LanguageModel`, or a transformers model with its `tokenizer` beside it.
        prompt: A text, the messages of a chat, or a `Prompt` (which brings its own units); or a list of these.
        tokenizer: The tokenizer of a transformers model.
        unit: `token`, `word`, `sentence` (the default), `paragraph` or `message`, of a text or messages.
        method: A name out of `llm_attr.methods()`.
        target: The answer to explain: text, token ids, or what `model.generate` returned for the prompt, as a whole or
            one row (ids that begin with the whole prompt are such a row). None lets the model generate it. With a list
            of prompts, one for all or a list with one for each.
        scalar: Which quantity of the answer: `log_prob`, `prob`, `logit`, `entropy`, `kl`, `margin`, a function of
            logits `(tokens, vocabulary)` and ids `(tokens,)`, or a `Scalar`; or a list of these, which share the
            passes.
        foil: Another answer, as text or ids: what speaks for the answer and against the foil is explained, in nats.
        region: The part of the answer that is explained: a text of it, `"json:$.name"`, `"after:</think>"`, a `Region`,
            ..., see `LLMAttributionResult.for_output`.
        **options: What `LLMAttribution.attribute` takes (`gen_args`, `num_trials`, `use_cached_outputs`,
            `show_progress`, ...), and the method's own options. `attr_target` is Captum's name of `scalar`. For methods
            of gradients what `LLMGradientAttribution.attribute` takes, and `layer`: the name of a layer (or a module,
            a Site, a list of them: then a list of results), by default the embedding layer; `noise_tunnel` takes the
            name of the `attribution_method` that it is around. Methods of many points (`integrated_gradients`,
            `gradient_shap`, ...) explain the answer as a whole unless `token_rows=True` asks for each token too, or
            a region for a part. A path starts from line breaks in place of the tokens, where the tokenizer has one
            for it and neither `baseline` nor the prompt says another; `integrated_gradients` takes 64 points of
            `riemann_middle` where nothing is said of `n_steps`, `method` or `until`.

    Returns:
        An `LLMAttributionResult`: `.top(k)`, `.show()`, `.to_html(path)`, `.seq_attr`, `.token_attr`; for a list of
        prompts or of scalars a list of them, and for a list of both a list for each prompt.

    Raises:
        UnknownName: there is no such method, unit or scalar.
        InvalidTarget: the foil is the answer, or the region is not in it.
        InvalidValue: a unit is named, and every prompt is a `Prompt`.
        UnknownKeyword: nothing takes one of the options.
        EmptyPrompt: there is nothing to attribute to.

    Example:
        >>> result = explain(load_model("smollm2-135m"), "Aksel repairs violins. What does Aksel do?")  # doctest: +SKIP
        >>> result.top(1)  # doctest: +SKIP
    """
    part = None if region is None else Region.of(region)
    asked: dict[str, Any] = {"unit": unit, "method": method, "target": target, "scalar": scalar, "foil": foil}
    posed = posed_by(model, prompt, tokenizer=tokenizer, region=part, **asked, **options)
    each = posed.wrapper.attribute_scalars(posed.inputs, posed.target, posed.scalars, **posed.options)
    if part is not None:
        each = [[_part(result, part) for result in results] for results in each]
    several = isinstance(options.get("attr_target", scalar), list | tuple)
    found = each if several else [results[0] for results in each]
    return found if is_many(prompt) else found[0]


@dataclass(frozen=True)
class Posed:
    """What is asked, in the terms of the class that explains.

    Attributes:
        wrapper: That class.
        inputs: The prompts.
        target: One for all, or one for each.
        scalars: What is explained of the answers.
        options: The other arguments.
    """

    wrapper: LLMAttribution | LLMGradientAttribution
    inputs: list[Prompt | InterpretableInput]
    target: Any
    scalars: list[Scalar]
    options: dict[str, Any]


def posed_by(
    model: LanguageModel | Any,
    prompt: One | Sequence[One],
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    method: str = "feature_ablation",
    target: Answer | Sequence[Answer] = None,
    scalar: ScalarLike | list[Any] = "log_prob",
    foil: Foil | None = None,
    region: Region | None = None,
    **options: Any,
) -> Posed:
    """What is asked by the arguments of `explain`; nothing is asked of the model.

    Raises:
        LlmAttrError: as in `explain`.
    """
    language_model = as_language_model(model, tokenizer)
    kind = method_named(method)
    asked = options.pop("attr_target", scalar)
    if asked is not scalar and scalar != "log_prob":
        raise InvalidValue(f"attr_target and scalar are one thing; got {asked!r} and {scalar!r}")
    scalars = scalars_of(asked, foil)
    wrapper: LLMAttribution | LLMGradientAttribution
    if method in gradient_methods():
        at = named(method, language_model, options.pop("layer", None), options.pop("attribution_method", None))
        options = by_name(at, options, region is not None)
        wrapper = LLMGradientAttribution(at, language_model.tokenizer)
    else:
        attr_method = kind(language_model.model)
        _refuse_unknown(options, attr_method)
        wrapper = LLMAttribution(attr_method, language_model.tokenizer, scalars[0])
    wrapper.language_model = language_model

    def with_units(one: Any) -> Prompt | InterpretableInput:
        return one if isinstance(one, Prompt | InterpretableInput) else Prompt(one, unit=unit or "sentence")

    refuse_one_id(target)
    many = is_many(prompt)
    given = list(prompt) if is_many(prompt) else [prompt]
    if unit is not None and all(isinstance(one, Prompt | InterpretableInput) for one in given):
        raise InvalidValue(f"a {type(given[0]).__name__} brings its own units; name unit={unit!r} where it is made")
    inputs = for_each(with_units, given) if many else [with_units(prompt)]
    if isinstance(wrapper, LLMGradientAttribution) and all(map(_says_nothing_of_absence, inputs)):
        options = {"baseline": line_break(language_model)} | options
    return Posed(wrapper, inputs, target if many else [target], scalars, options)


def _says_nothing_of_absence(inp: Prompt | InterpretableInput) -> bool:
    """Whether an input leaves open what stands for a token that is absent."""
    return isinstance(inp, Prompt) and inp.absence != "replace"


def _part(result: Any, part: Region) -> Any:
    """That part of the answer; of the result of each layer, if there are several."""
    return [one.for_output(part) for one in result] if isinstance(result, list) else result.for_output(part)


def _refuse_unknown(options: dict[str, Any], attr_method: Any) -> None:
    call = {
        name
        for name in signature(LLMAttribution.attribute).parameters
        if name not in ("self", "inp", "target", "kwargs")
    }
    accepted = call | {"attr_target"} | Options.accepted(attr_method)
    refuse_unknown("explain", options, {name for name in accepted if not name.startswith("_")})
