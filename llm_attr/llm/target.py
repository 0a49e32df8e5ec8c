"""Which answer is explained: one that is given, or one that the model generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from llm_attr.errors import EmptyTarget, InvalidShape, InvalidTarget, InvalidType, InvalidValue
from llm_attr.llm.model import LanguageModel


class Generated(Protocol):
    """What `model.generate(..., return_dict_in_generate=True)` gives."""

    sequences: Tensor


Answer: TypeAlias = str | Tensor | Sequence[int] | Generated | None
"""Text, token ids, what `model.generate` returned (prompt and answer in one), or None for the model's own answer."""

DEFAULT_GENERATION: dict[str, Any] = {"max_new_tokens": 25, "do_sample": False, "temperature": None, "top_p": None}
"""Greedy, as Captum's default."""


def answer_ids(
    language_model: LanguageModel,
    prompt: Sequence[int],
    target: Answer,
    gen_args: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """The token ids of the answer; generated where no target is given.

    Args:
        language_model: Model and tokenizer.
        prompt: Token ids of the whole prompt.
        target: The answer as text (tokenised without special tokens), as ids, as what `model.generate` returned for
            this prompt, or None.
        gen_args: Arguments of `generate`, and `seed` for sampling; only without a target.

    Raises:
        EmptyTarget: there is no token to explain.
        InvalidType: the target has another type.
        InvalidShape: what was generated is not one sequence, or is shorter than the prompt.
        InvalidTarget: what was generated begins with another prompt.
        InvalidValue: both a target and gen_args were given.
    """
    if target is None:
        ids = generate(language_model, prompt, dict(gen_args or DEFAULT_GENERATION))
    elif gen_args is not None:
        raise InvalidValue("gen_args say how an answer is generated; leave them out where a target is given")
    elif isinstance(target, str):
        ids = language_model.encode(target, special_tokens=False)
    elif (sequences := _sequences(target)) is not None:
        ids = _after(prompt, sequences, language_model)
    else:
        ids = _ids(target, _vocabulary(language_model))
    if not ids:
        raise EmptyTarget(
            f"the target {target!r} holds no token" if target is not None else "the model generated no token"
        )
    return tuple(ids)


def generate(language_model: LanguageModel, prompt: Sequence[int], gen_args: dict[str, Any]) -> list[int]:
    """The model's own answer to the prompt: new tokens only, with the token that ended it if the model gave one.

    Sampling draws from the seed in `gen_args`, else from the current state of torch's generator, which is put back.
    Where `max_new_tokens` would lead beyond the model's context, it ends there.
    """
    language_model.check_length(len(prompt), 1)
    if language_model.context_length is not None and "max_new_tokens" in gen_args:
        room = language_model.context_length - len(prompt) + 1
        gen_args["max_new_tokens"] = min(gen_args["max_new_tokens"], room)
    seed = gen_args.pop("seed", None)
    device = language_model.device
    ids = torch.tensor([list(prompt)], device=device)
    if gen_args.get("pad_token_id") is None and language_model.end_ids:
        gen_args["pad_token_id"] = min(language_model.end_ids)
    with language_model.inference(), language_model.drawing(seed):
        output = language_model.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **gen_args)
    sequences = output if isinstance(output, Tensor) else output.sequences
    return _until_end(sequences[0, len(prompt) :].tolist(), language_model)


def _sequences(target: Any) -> Tensor | None:
    """The prompts and answers of a generation, if the target is one."""
    found = getattr(target, "sequences", target)
    return found if isinstance(found, Tensor) and (found.dim() == 2 or found is not target) else None


def _after(prompt: Sequence[int], sequences: Tensor, language_model: LanguageModel) -> list[int]:
    """What a generation adds to the prompt."""
    if sequences.dim() != 2 or len(sequences) != 1 or sequences.shape[1] < len(prompt):
        raise InvalidShape(
            f"a target that model.generate returned must be of the shape (1, tokens) and begin with the prompt's "
            f"{len(prompt)} tokens; got the shape {tuple(sequences.shape)}"
        )
    ids = _ids(sequences[0], _vocabulary(language_model))
    for place, (expected, given) in enumerate(zip(prompt, ids, strict=False)):
        if expected != given:
            raise InvalidTarget(
                f"the target, a generated sequence, does not begin with the prompt: token {place} is {given} "
                f"({language_model.decode([given])!r}), and in the prompt {expected} "
                f"({language_model.decode([expected])!r}); generate from this very prompt, or pass the answer alone"
            )
    return _until_end(ids[len(prompt) :], language_model)


def _until_end(ids: list[int], language_model: LanguageModel) -> list[int]:
    """Without what follows the first token that ends a generation."""
    ends = [i for i, token in enumerate(ids) if token in language_model.end_ids]
    return ids[: ends[0] + 1] if ends else ids


def _vocabulary(language_model: LanguageModel) -> int:
    """How many tokens the model knows; some models have more of them than their tokenizer."""
    return int(getattr(language_model.text_config, "vocab_size", None) or len(language_model.tokenizer))


def _ids(target: Any, vocabulary: int) -> list[int]:
    if isinstance(target, Tensor):
        if target.dim() != 1:
            raise InvalidShape(
                f"a target of token ids must have one axis (tokens,); got the shape {tuple(target.shape)}"
            )
        target = target.tolist()
    if not isinstance(target, Sequence) or not all(isinstance(token, int) for token in target):
        raise InvalidType(f"target must be a text, a 1-D tensor or a list of token ids, or None; got {target!r}")
    wrong = [token for token in target if not 0 <= token < vocabulary]
    if wrong:
        raise InvalidValue(f"target holds {wrong[0]}, which is no token id: the model has {vocabulary} tokens")
    return list(target)
