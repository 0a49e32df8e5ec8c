"""The one-line way in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.request import One, is_many, parse_request
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.target.answer import Answer
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
    request = parse_request(model, prompt, tokenizer=tokenizer, region=part, **asked, **options)
    each = request.explainer.attribute_scalars(request.inputs, request.target, request.scalars, **request.options)
    if part is not None:
        each = [[_part(result, part) for result in results] for results in each]
    several = isinstance(options.get("attr_target", scalar), list | tuple)
    found = each if several else [results[0] for results in each]
    return found if is_many(prompt) else found[0]


def _part(result: Any, part: Region) -> Any:
    """That part of the answer; of the result of each layer, if there are several."""
    return [one.for_output(part) for one in result] if isinstance(result, list) else result.for_output(part)
