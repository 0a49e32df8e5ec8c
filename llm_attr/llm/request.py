"""`Request`: the checked arguments of `explain` and `plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeAlias, TypeGuard

from llm_attr.attr.base import Attribution
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.registry import summary
from llm_attr.errors import InvalidValue, UnknownName, UnsupportedMethod, about_prompt
from llm_attr.llm.attribution import LLMAttribution, text_methods
from llm_attr.llm.engines.connect import as_served
from llm_attr.llm.engines.remote_scorer import refuse_gaps, refuse_scalar
from llm_attr.llm.gradient import LLMGradientAttribution
from llm_attr.llm.gradients.absent_units import line_break
from llm_attr.llm.gradients.methods import by_name, gradient_methods, named
from llm_attr.llm.model.language_model import LanguageModel, as_language_model
from llm_attr.llm.model.precision import Precision, check_precision
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.keywords import refuse_unknown
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.scoring.options import Options
from llm_attr.llm.target.answer import Answer, answers_of, refuse_one_id
from llm_attr.llm.target.region import Region
from llm_attr.llm.target.scalar import Foil, Scalar, ScalarLike, scalars_of

One: TypeAlias = str | Messages | Prompt | InterpretableInput
"""A single prompt: a text, the messages of a chat, or a prompt with its units."""


def methods() -> dict[str, str]:
    """Every name that `explain` accepts as `method`, with a one-line summary."""
    return {name: summary(method) for name, method in sorted(_known().items())}


def method_named(name: str) -> type[Attribution]:
    """The method of this name.

    Raises:
        UnknownName: there is no such method; the message lists the known ones.
    """
    known = _known()
    if name not in known:
        raise UnknownName("method", name, sorted(known))
    return known[name]


def _known() -> dict[str, type[Attribution]]:
    return {**text_methods(), **gradient_methods()}


def is_many(prompt: Any) -> TypeGuard[Sequence[Any]]:
    """Whether this is a list of prompts; a list of messages is a single prompt."""
    return isinstance(prompt, list | tuple) and bool(prompt) and not any(isinstance(item, Mapping) for item in prompt)


@dataclass(frozen=True)
class Request:
    """The arguments of an explanation.

    Attributes:
        explainer: The object that explains.
        inputs: The prompts.
        target: A common target, or a list with one per prompt.
        scalars: The quantities that are explained.
        options: The other arguments of the explainer.
        precision: In which the model computes, see `explain`.
        regions: The part of the answer that each prompt says is explained; None for all of it.
    """

    explainer: LLMAttribution | LLMGradientAttribution
    inputs: list[Prompt | InterpretableInput]
    target: Any
    scalars: list[Scalar]
    options: dict[str, Any]
    precision: Precision | None = None
    regions: tuple[Region | None, ...] = ()


def parse_request(
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
    precision: Precision | None = None,
    engine: Any = None,
    **options: Any,
) -> Request:
    """Parses the arguments of `explain`; does not run the model.

    Raises:
        LlmAttrError: as in `explain`.
    """
    language_model = _model(model, tokenizer, engine)
    check_precision(precision)
    asked = options.pop("attr_target", scalar)
    if asked is not scalar and scalar != "log_prob":
        raise InvalidValue(f"attr_target is another name for scalar; got both {asked!r} and {scalar!r}")
    scalars = scalars_of(asked, foil)
    inputs = _in_units(prompt, unit)
    targets, regions = _with_actions(language_model, inputs, target if is_many(prompt) else [target])
    explainer: LLMAttribution | LLMGradientAttribution
    if issubclass(kind := method_named(method), PerturbationAttribution):
        attr_method = kind(language_model.model)
        _refuse_unknown(options, attr_method)
        explainer = LLMAttribution(attr_method, language_model, scalars[0])
    else:
        if language_model.served_by is not None:
            raise UnsupportedMethod(
                f"{method} needs gradients or activations, and an engine gives log-probabilities only; methods that "
                f"leave units out work: {', '.join(sorted(text_methods()))}"
            )
        at = named(method, language_model, options.pop("layer", None), options.pop("attribution_method", None))
        options = by_name(at, options, region is not None or any(regions))
        explainer = LLMGradientAttribution(at, language_model)
    refuse_one_id(target)
    if language_model.served_by is not None:
        _refuse_for_engines(inputs, scalars, precision)
    if isinstance(explainer, LLMGradientAttribution) and all(map(_has_no_replacement, inputs)):
        options = {"baseline": line_break(language_model)} | options
    return Request(explainer, inputs, targets, scalars, options, precision, regions)


def _with_actions(
    language_model: LanguageModel, inputs: Sequence[Prompt | InterpretableInput], target: Any
) -> tuple[Any, tuple[Region | None, ...]]:
    """The targets, with the actions of traces where none is given, and the part of each that is explained."""
    if not any(isinstance(inp, Prompt) and inp.trace is not None for inp in inputs):
        return target, (None,) * len(inputs)
    targets, regions = answers_of(target, len(inputs)), list[Region | None]()
    for number, (inp, given) in enumerate(zip(inputs, targets, strict=True)):
        with about_prompt(number if len(inputs) > 1 else None):
            action = inp.answer(language_model) if isinstance(inp, Prompt) and given is None else None
        targets[number] = given if action is None else action[0]
        is_whole = action is None or action[1] == (0, len(action[0]))
        regions.append(None if action is None or is_whole else Region(characters=action[1]))
    return targets, tuple(regions)


def _model(model: Any, tokenizer: TokenizerLike | None, engine: Any) -> LanguageModel:
    """The model in this process, or the one behind an engine, for which `model` is its tokenizer."""
    if engine is None:
        return as_language_model(model, tokenizer)
    own = model.tokenizer if isinstance(model, LanguageModel) else model
    return as_served(engine, own if tokenizer is None else tokenizer)


def _refuse_for_engines(
    inputs: Sequence[Prompt | InterpretableInput], scalars: Sequence[Scalar], precision: Precision | None
) -> None:
    """Refuses what needs a model in this process."""
    if precision is not None:
        raise InvalidValue(f"precision={precision!r}: the server decides in which type it computes")
    for scalar in scalars:
        if not scalar.is_of_log_probs:
            refuse_scalar(scalar.label)
    refuse_gaps(any(isinstance(inp, Prompt) and inp.absence == "mask" for inp in inputs))


def _in_units(prompt: One | Sequence[One], unit: str | None) -> list[Prompt | InterpretableInput]:
    """The prompts; those without their own units get `unit`, by default sentences."""
    given: list[Any] = list(prompt) if is_many(prompt) else [prompt]
    many = is_many(prompt)
    if unit is not None and all(isinstance(one, Prompt | InterpretableInput) for one in given):
        raise InvalidValue(f"a {type(given[0]).__name__} has its own units; pass unit={unit!r} to its constructor")
    inputs = []
    for number, one in enumerate(given):
        with about_prompt(number if many else None):
            own = isinstance(one, Prompt | InterpretableInput)
            inputs.append(one if own else Prompt(one, unit=unit or "sentence"))
    return inputs


def _has_no_replacement(inp: Prompt | InterpretableInput) -> bool:
    """Whether an input does not specify the token that replaces absent ones."""
    return isinstance(inp, Prompt) and inp.absence != "replace"


def _refuse_unknown(options: dict[str, Any], attr_method: Any) -> None:
    call = {
        name
        for name in signature(LLMAttribution.attribute).parameters
        if name not in ("self", "inp", "target", "kwargs")
    }
    accepted = call | {"attr_target"} | Options.accepted(attr_method)
    refuse_unknown("explain", options, {name for name in accepted if not name.startswith("_")})
