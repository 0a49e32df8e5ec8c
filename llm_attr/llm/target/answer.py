"""The answer that is explained: a given one, or one that the model generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any, Protocol, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_attr.core.parallel.sharing import agreed, share
from llm_attr.errors import EmptyTarget, InvalidShape, InvalidTarget, InvalidType, InvalidValue, NotALanguageModel
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import vocabulary_size
from llm_attr.llm.target.generation import GenArgs, draws_from_global_stream, generate, until_end


class Generated(Protocol):
    """What `model.generate(..., return_dict_in_generate=True)` gives."""

    sequences: Tensor


Answer: TypeAlias = str | Tensor | NDArray[Any] | Sequence[int] | Generated | None
"""Text, token ids, what `model.generate` returned (prompt and answer in one), or None for the model's own answer."""


def answer_ids(
    language_model: LanguageModel, prompt: Sequence[int], target: Answer, gen_args: GenArgs | None = None
) -> tuple[int, ...]:
    """The token ids of the answer; generated if there is no target.

    Args:
        language_model: Model and tokenizer.
        prompt: Token ids of the full prompt.
        target: The answer as text (tokenised without special tokens), as ids, as the return value of `model.generate`
            for this prompt, or None. Ids that begin with the full prompt are taken as a generated sequence, such as
            `outputs[0]`, and the answer is what follows the prompt.
        gen_args: Arguments of `generate`, and `seed` for sampling; only without a target.

    Raises:
        EmptyTarget: there is no token to explain.
        InvalidType: the target has another type.
        InvalidShape: the generation is not one sequence, or is shorter than the prompt.
        InvalidTarget: the generation begins with another prompt.
        InvalidValue: both target and gen_args are given, or an id is not a token of the model.
    """
    if target is None:
        ids = generate(language_model, prompt, gen_args)
    elif gen_args is not None:
        raise InvalidValue("gen_args are for generating an answer; leave them out if a target is given")
    elif isinstance(target, str):
        ids = language_model.encode(target, special_tokens=False)
    elif (sequences := _sequences(target)) is not None:
        ids = _after(prompt, sequences, language_model)
    else:
        ids = _ids(target, _vocabulary(language_model))
        if prompt and len(ids) > len(prompt) and ids[: len(prompt)] == list(prompt):
            ids = until_end(ids[len(prompt) :], language_model)
    if not ids:
        raise EmptyTarget(
            f"the target {target!r} holds no token" if target is not None else "the model generated no token"
        )
    return tuple(ids)


def share_answers(
    language_model: LanguageModel, count: int, gen_args: GenArgs | None, answer: Callable[[int], tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Generates several answers; with a team each process generates some, unless they draw from the global stream.

    Args:
        language_model: Model and tokenizer.
        count: How many answers.
        gen_args: Arguments of `generate`.
        answer: Generates one of them.
    """
    if draws_from_global_stream(language_model, gen_args):
        return agreed("answers", lambda: [answer(i) for i in range(count)])
    return share("answers", count, answer)


def is_id(given: Any) -> bool:
    """Whether this is an integer of Python, NumPy or torch, as token ids are."""
    if isinstance(given, bool | np.bool_) or (isinstance(given, Tensor) and (given.dim() or given.dtype == torch.bool)):
        return False
    try:
        index(given)
    except TypeError:
        return False
    return True


def are_ids(given: Any) -> TypeGuard[Sequence[int]]:
    """Whether this is a sequence of token ids."""
    return isinstance(given, Sequence) and not isinstance(given, str) and all(map(is_id, given))


def answers_of(target: Any, count: int) -> list[Answer]:
    """The target of each prompt, from a common one or a list with one per prompt.

    Raises:
        InvalidShape: the list has another length.
    """
    if not isinstance(target, list | tuple) or are_ids(target):
        return [target] * count
    if len(target) != count:
        raise InvalidShape(f"target must be one for all of the {count} prompts or one for each; got {len(target)}")
    return list(target)


def refuse_one_id(target: Any) -> None:
    """Refuses an integer as an answer: it is ambiguous between a token id and a position.

    Raises:
        InvalidType: the target is an integer.
    """
    if is_id(target):
        raise InvalidType(f"target={target!r} is a number; for an answer of this one token pass [{index(target)}]")


def _sequences(target: Any) -> Tensor | None:
    """The sequences (prompt and answer) of a generation, if the target is one."""
    sequences = getattr(target, "sequences", target)
    if isinstance(sequences, np.ndarray):
        sequences = torch.from_numpy(sequences)
    return (
        sequences if isinstance(sequences, Tensor) and (sequences.dim() == 2 or hasattr(target, "sequences")) else None
    )


def _after(prompt: Sequence[int], sequences: Tensor, language_model: LanguageModel) -> list[int]:
    """The tokens that a generation adds to the prompt."""
    if sequences.dim() != 2 or len(sequences) != 1 or sequences.shape[1] < len(prompt):
        raise InvalidShape(
            f"a target that model.generate returned must have shape (1, tokens) and begin with the prompt's "
            f"{len(prompt)} tokens; got shape {tuple(sequences.shape)}"
            + ("; pass one of several answers, outputs[i : i + 1]" if len(sequences) > 1 else "")
        )
    ids = _ids(sequences[0], _vocabulary(language_model))
    for place, (expected, given) in enumerate(zip(prompt, ids, strict=False)):
        if expected != given:
            raise InvalidTarget(
                f"the target, a generated sequence, does not begin with the prompt: token {place} is {given} "
                f"({language_model.decode([given])!r}), and in the prompt {expected} "
                f"({language_model.decode([expected])!r}); generate from exactly this prompt, or pass only the answer"
            )
    return until_end(ids[len(prompt) :], language_model)


def _vocabulary(language_model: LanguageModel) -> int:
    """The size of the model's vocabulary, which may exceed the tokenizer's."""
    size = getattr(language_model.text_config, "vocab_size", None)
    if language_model.is_plain:
        try:
            size = getattr(language_model.embedding, "num_embeddings", None)
        except NotALanguageModel:
            size = None
    return int(size or vocabulary_size(language_model.tokenizer) or 1 << 31)


def _is_integer(dtype: torch.dtype | np.dtype[Any]) -> bool:
    if isinstance(dtype, torch.dtype):
        return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    return np.issubdtype(dtype, np.integer)


def _ids(target: Any, vocabulary: int) -> list[int]:
    refuse_one_id(target)
    if isinstance(target, Tensor | np.ndarray):
        if target.ndim != 1:
            raise InvalidShape(
                f"a target of token ids must have one axis (tokens,); got the shape {tuple(target.shape)}"
            )
        if len(target) and not _is_integer(target.dtype):
            raise InvalidType(
                f"target must be a text or token ids, which are whole numbers; got numbers of {target.dtype}"
            )
        target = target.tolist()
    if not are_ids(target):
        raise InvalidType(f"target must be a text, a 1-D tensor, array or list of token ids, or None; got {target!r}")
    ids = [index(token) for token in target]
    wrong = [token for token in ids if not 0 <= token < vocabulary]
    if wrong:
        raise InvalidValue(f"target holds {wrong[0]}, which is not a token id: the model has {vocabulary} tokens")
    return ids
