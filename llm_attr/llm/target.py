"""Which answer is explained: one that is given, or one that the model generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llm_attr.errors import EmptyTarget, InvalidShape, InvalidType, InvalidValue
from llm_attr.llm.model import LanguageModel

DEFAULT_GENERATION: dict[str, Any] = {"max_new_tokens": 25, "do_sample": False, "temperature": None, "top_p": None}
"""Greedy, as Captum's default."""


def answer_ids(
    language_model: LanguageModel,
    prompt: Sequence[int],
    target: str | Tensor | Sequence[int] | None,
    gen_args: Mapping[str, Any] | None = None,
) -> tuple[int, ...]:
    """The token ids of the answer; generated where no target is given.

    Args:
        language_model: Model and tokenizer.
        prompt: Token ids of the whole prompt.
        target: The answer as text (tokenised without special tokens), as ids, or None.
        gen_args: Arguments of `generate`, and `seed` for sampling; only without a target.

    Raises:
        EmptyTarget: there is no token to explain.
        InvalidType: the target has another type.
        InvalidValue: both a target and gen_args were given.
    """
    if target is None:
        ids = generate(language_model, prompt, dict(gen_args or DEFAULT_GENERATION))
    elif gen_args is not None:
        raise InvalidValue("gen_args say how an answer is generated; leave them out where a target is given")
    elif isinstance(target, str):
        ids = language_model.encode(target, special_tokens=False)
    else:
        ids = _ids(target, len(language_model.tokenizer))
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
    with language_model.inference():
        if seed is not None:
            torch.manual_seed(seed)
        output = language_model.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **gen_args)
    sequences = output if isinstance(output, Tensor) else output.sequences
    new = sequences[0, len(prompt) :].tolist()
    ends = [i for i, token in enumerate(new) if token in language_model.end_ids]
    return new[: ends[0] + 1] if ends else new


def _ids(target: Tensor | Sequence[int], vocabulary: int) -> list[int]:
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
        raise InvalidValue(f"target holds {wrong[0]}, which is no token id: the tokenizer has {vocabulary} tokens")
    return list(target)
