"""Generating the model's own answer to a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from llm_attr.core.evaluator import Watch, current_watch
from llm_attr.errors import Cancelled, InvalidType, InvalidValue, LlmAttrError
from llm_attr.llm.model.language_model import LanguageModel

GenArgs: TypeAlias = Mapping[str, Any] | GenerationConfig
"""Arguments of `model.generate`, and `seed` for sampling; or a `GenerationConfig`."""

DEFAULT_GENERATION: dict[str, Any] = {"max_new_tokens": 25, "do_sample": False, "temperature": None, "top_p": None}
"""Greedy decoding, Captum's default."""


def arguments_of(gen_args: GenArgs | None) -> dict[str, Any]:
    """The arguments of `generate`, and `seed`; greedy decoding by default.

    Raises:
        InvalidType: `gen_args` is neither a dict nor a GenerationConfig.
    """
    if isinstance(gen_args, GenerationConfig):
        return {"generation_config": gen_args}
    if gen_args is not None and not isinstance(gen_args, Mapping):
        raise InvalidType(f"gen_args must be a dict of arguments of generate or a GenerationConfig; got {gen_args!r}")
    return dict(gen_args or DEFAULT_GENERATION)


def most_new_tokens(language_model: LanguageModel, arguments: Mapping[str, Any], prompt: int) -> int:
    """The most tokens that an answer may have, within the model's context.

    Args:
        language_model: Model and tokenizer.
        arguments: Arguments of `generate`.
        prompt: The number of tokens of the prompt.

    Raises:
        InvalidValue: the requested number is less than one.
    """
    most = _effective(language_model, arguments, "max_new_tokens")
    if most is None:
        most = max(1, (_effective(language_model, arguments, "max_length") or 20) - prompt)
    if not isinstance(most, int) or most < 1:
        raise InvalidValue(f"max_new_tokens must be a whole number of at least 1; got {most!r}")
    room = language_model.context_length
    return most if room is None else min(most, room - prompt + 1)


def draws_from_global_stream(language_model: LanguageModel, gen_args: GenArgs | None) -> bool:
    """Whether generating samples from torch's generator, without a seed of its own."""
    arguments = arguments_of(gen_args)
    return arguments.get("seed") is None and bool(_effective(language_model, arguments, "do_sample"))


def is_beam_search(language_model: LanguageModel, gen_args: GenArgs | None) -> bool:
    """Whether generating searches several beams."""
    return (_effective(language_model, arguments_of(gen_args), "num_beams") or 1) > 1


def generate(language_model: LanguageModel, prompt: Sequence[int], gen_args: GenArgs | None = None) -> list[int]:
    """The model's own answer to the prompt: the new tokens only, with the end token if the model gave one.

    With a `seed` in `gen_args` sampling leaves torch's generator untouched; without one it draws from it, as
    `model.generate` does, so `torch.manual_seed` applies and each call gives another answer. The answer never exceeds
    the model's context.

    Raises:
        ContextTooLong: the prompt leaves no room for an answer.
        InvalidType: `gen_args` has another type.
        InvalidValue: `generate` refuses the arguments, or they request several answers.
    """
    language_model.check_length(len(prompt), 1)
    arguments = arguments_of(gen_args)
    seed = arguments.pop("seed", None)
    most = most_new_tokens(language_model, arguments, len(prompt))
    if most < (_effective(language_model, arguments, "max_new_tokens") or 0):
        arguments["max_new_tokens"] = most
    _refuse_several(_effective(language_model, arguments, "num_return_sequences"))
    ids = torch.tensor([list(prompt)], device=language_model.device)
    inputs = {} if language_model.is_plain else {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if inputs and _effective(language_model, arguments, "pad_token_id") is None and language_model.end_ids:
        arguments["pad_token_id"] = min(language_model.end_ids)
    if _effective(language_model, arguments, "stop_strings") is not None:
        arguments.setdefault("tokenizer", language_model.tokenizer)
    if inputs and (watch := current_watch()) != Watch(watch.observer):
        given = arguments.get("stopping_criteria") or []
        arguments["stopping_criteria"] = StoppingCriteriaList([*given, _Watched(watch)])
    try:
        with language_model.inference(), language_model.drawing(seed):
            output = language_model.model.generate(*(() if inputs else (ids,)), **inputs, **arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, LlmAttrError):
            raise
        raise InvalidValue(f"model.generate failed with gen_args of {', '.join(arguments)}: {error}") from error
    sequences = output if isinstance(output, Tensor) else output.sequences
    _refuse_several(len(sequences))
    return until_end(sequences[0, len(prompt) :].tolist(), language_model)


class _Watched(StoppingCriteria):
    """Tells the watch of each token, and ends the generation when the watch says so."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._watch.cancel is not None and self._watch.cancel.is_set():
            raise Cancelled("the generation of the answer was stopped")
        if self._watch.tokens is not None and len(input_ids) == 1:
            self._watch.tokens(int(input_ids[0, -1]))
        return torch.full((len(input_ids),), self._watch.has_enough, dtype=torch.bool, device=input_ids.device)


def until_end(ids: list[int], language_model: LanguageModel) -> list[int]:
    """The ids up to and including the first token that ends a generation."""
    ends = [i for i, token in enumerate(ids) if token in language_model.end_ids]
    return ids[: ends[0] + 1] if ends else ids


def _effective(language_model: LanguageModel, arguments: Mapping[str, Any], name: str) -> Any:
    """The value that `generate` uses: from its argument, the given configuration, or the model's own."""
    if arguments.get(name) is not None:
        return arguments[name]
    own = getattr(language_model.model, "generation_config", None)
    configs = (arguments.get("generation_config"), own)
    return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)


def _refuse_several(answers: int | None) -> None:
    if answers is not None and answers > 1:
        raise InvalidValue(
            f"num_return_sequences={answers} requests {answers} answers, but one is explained at a time; generate them "
            "with model.generate and explain each: target=outputs[i : i + 1]"
        )
