"""`explain`: the main entry point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, cast, overload

from llm_attr.core.parallel.region import parallel as shared
from llm_attr.core.parallel.team import current_team
from llm_attr.errors import InvalidType
from llm_attr.llm.attribution import LLMAttribution
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.precision import Precision, computing
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.request import One, is_many, parse_request
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.scoring.prompt_game import PromptGame
from llm_attr.llm.target.answer import Answer
from llm_attr.llm.target.generation import GenArgs
from llm_attr.llm.target.region import Region, RegionName
from llm_attr.llm.target.scalar import Foil, ScalarLike


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
    parallel: bool = False,
    precision: Precision | None = None,
    trust: bool = False,
    engine: str | LanguageModel | None = None,
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
    parallel: bool = False,
    precision: Precision | None = None,
    trust: bool = False,
    engine: str | LanguageModel | None = None,
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
    parallel: bool = False,
    precision: Precision | None = None,
    trust: bool = False,
    engine: str | LanguageModel | None = None,
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
    parallel: bool = False,
    precision: Precision | None = None,
    trust: bool = False,
    engine: str | LanguageModel | None = None,
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
    parallel: bool = False,
    precision: Precision | None = None,
    trust: bool = False,
    engine: str | LanguageModel | None = None,
    **options: Any,
) -> LLMAttributionResult | list[LLMAttributionResult] | list[list[LLMAttributionResult]]:
    """Explains which units of a prompt carried a model's answer.

    Args:
        model: A `LanguageModel`, or a transformers model together with its `tokenizer`.
        prompt: A text, the messages of a chat, or a `Prompt` (which has its own units); or a list of these.
        tokenizer: The tokenizer of a transformers model.
        unit: `token`, `word`, `sentence` (the default), `paragraph` or `message`, for a text or messages.
        method: A name from `llm_attr.methods()`.
        target: The answer to explain: text, token ids, or the return value of `model.generate` for the prompt, or one
            row of it (ids that begin with the full prompt). None lets the model generate it. For a list of prompts, a
            common target or a list with one per prompt.
        scalar: Which quantity of the answer: `log_prob`, `prob`, `logit`, `entropy`, `kl`, `margin`, a function of
            logits `(tokens, vocabulary)` and ids `(tokens,)`, or a `Scalar`; or a list of these, which share the
            passes.
        foil: Another answer, as text or ids: explains the evidence for the answer over the foil, in nats.
        region: The part of the answer that is explained: a substring, `"json:$.name"`, `"after:</think>"`, a `Region`,
            ..., see `LLMAttributionResult.for_output`.
        parallel: Shares the explanation out over all processes of the program, see `llm_attr.parallel`; every process
            makes the same call and gets the same results.
        precision: `fp32`, `bf16` or `fp16`: the type in which the model's products of matrices are computed, by torch's
            autocast; the residual stream and the logits stay in fp32. `weights` computes in the type of the weights
            throughout. None does so for perturbation methods, or as your own autocast says; gradient methods keep their
            sums in fp32.
        trust: Whether each result gets a report of how far it can be trusted, see `LLMAttributionResult.trust`; about a
            quarter more evaluations.
        engine: A server that scores in place of a model in this process: `vllm:URL`, `sglang:URL` or `openai:URL`, or
            what `connect` returns. `model` is then the served model's tokenizer; see docs/engines.md.
        **options: Arguments of `LLMAttribution.attribute` (`gen_args`, `num_trials`, `use_cached_outputs`, `ledger`,
            `show_progress`, ...) and the method's own options. `attr_target` is Captum's name for `scalar`. Gradient
            methods take the arguments of `LLMGradientAttribution.attribute`, and `layer`: the name of a layer (or a
            module, a Site, or a list of them for a list of results), by default the embedding layer; `noise_tunnel`
            takes the name of the inner `attribution_method`. Methods with many points (`integrated_gradients`,
            `gradient_shap`, ...) explain only the full answer unless `token_rows=True` requests each token, or `region`
            a part. Paths start from line breaks in place of the tokens, if the tokenizer has a line-break token and
            neither `baseline` nor the prompt specifies another; `integrated_gradients` uses 64 points of
            `riemann_middle` unless `n_steps`, `method` or `until` is given.

    Returns:
        An `LLMAttributionResult`: `.top(k)`, `.show()`, `.to_html(path)`, `.seq_attr`, `.token_attr`; a list of them
        for a list of prompts or of scalars, and a list per prompt for a list of both.

    Raises:
        UnknownName: there is no such method, unit or scalar.
        InvalidTarget: the foil is the answer, or the region is not in it.
        InvalidValue: `unit` is given, but every prompt is a `Prompt`; or the model cannot compute in the precision.
        UnknownKeyword: one of the options does not exist.
        EmptyPrompt: there is nothing to attribute to.
        EngineFailed: the engine's server does not answer; what it answered before is in the ledger, if there is one.
        EngineRefused: the engine's scores are wrong.
        UnsupportedMethod: an engine is asked for gradients.

    Example:
        >>> result = explain(load_model("smollm2-135m"), "Aksel repairs violins. What does Aksel do?")  # doctest: +SKIP
        >>> result.top(1)  # doctest: +SKIP
    """
    if not isinstance(trust, bool):
        raise InvalidType(f"trust must be True or False; got {type(trust).__name__}; result.trust(...) has options")
    part = None if region is None else Region.of(region)
    asked: dict[str, Any] = {"unit": unit, "method": method, "target": target, "scalar": scalar, "foil": foil}
    if not isinstance(parallel, bool):
        raise InvalidType(f"parallel must be True or False; got {parallel!r} (numbers: llm_attr.parallel)")
    with shared() if parallel and current_team() is None else nullcontext():
        request = parse_request(
            model, prompt, tokenizer=tokenizer, region=part, precision=precision, engine=engine, **asked, **options
        )
        each = request.explainer.attribute_scalars(
            request.inputs, request.target, request.scalars, precision=request.precision, **request.options
        )
    each = [
        results if (own := part or region_of_prompt) is None else [_part(result, own) for result in results]
        for results, region_of_prompt in zip(each, request.regions, strict=True)
    ]
    if trust:
        with computing(request.explainer.language_model, request.precision):
            for result in _flat(each):
                result.trust()
    several = isinstance(options.get("attr_target", scalar), list | tuple)
    results = each if several else [results[0] for results in each]
    return results if is_many(prompt) else results[0]


def prompt_game(
    model: LanguageModel | Any,
    prompt: One,
    *,
    tokenizer: TokenizerLike | None = None,
    unit: str | None = None,
    target: Answer = None,
    scalar: ScalarLike = "log_prob",
    foil: Foil | None = None,
    gen_args: GenArgs | None = None,
    engine: str | LanguageModel | None = None,
) -> PromptGame:
    """A prompt and an answer as a game of units, which judges attributions that were made elsewhere.

    The metrics of `llm_attr.metrics` take it; each result of `explain` has such a `game` already. Games remember the
    values of coalitions, so give the same game to several metrics.

    Shared arguments: see `explain`.

    Args:
        prompt: A single one.
        scalar: A single one.
        gen_args: Arguments of `model.generate`, if there is no target.

    Raises:
        InvalidType: several prompts are given.
        LlmAttrError: as in `explain`.

    Example:
        >>> from llm_attr.metrics import deletion  # doctest: +SKIP
        >>> game = prompt_game(lm, "Aksel repairs violins. What does Aksel do?", unit="word")  # doctest: +SKIP
        >>> deletion(torch.rand(game.features), game)  # doctest: +SKIP
    """
    if is_many(prompt):
        raise InvalidType(f"a game is made of one prompt; got a list of {len(prompt)}")
    asked: dict[str, Any] = {"unit": unit, "target": target, "scalar": scalar, "foil": foil, "engine": engine}
    request = parse_request(model, prompt, tokenizer=tokenizer, **asked)
    explainer = cast(LLMAttribution, request.explainer)
    game = explainer.game(request.inputs[0], request.target[0], gen_args)
    (part,) = request.regions
    return game if part is None else game.of_region(part)


def _flat(results: Any) -> Iterator[LLMAttributionResult]:
    """Every result of nested lists."""
    if isinstance(results, list):
        for each in results:
            yield from _flat(each)
    else:
        yield results


def _part(result: Any, part: Region) -> Any:
    """The result for a part of the answer, or the list of them for several layers."""
    return [one.for_output(part) for one in result] if isinstance(result, list) else result.for_output(part)
