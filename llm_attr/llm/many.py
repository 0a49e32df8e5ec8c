"""Several prompts at a time, one result each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

from tqdm.auto import tqdm

from llm_attr.errors import InvalidShape, LlmAttrError
from llm_attr.llm.inputs import InterpretableInput
from llm_attr.llm.prompt import Prompt
from llm_attr.llm.result import LLMAttributionResult
from llm_attr.llm.target import Answer


def is_many(prompt: Any) -> TypeGuard[Sequence[Any]]:
    """Whether this is a list of prompts; a list of messages is one."""
    return isinstance(prompt, list | tuple) and bool(prompt) and not any(isinstance(one, Mapping) for one in prompt)


def answers_of(target: Any, count: int) -> list[Answer]:
    """The target of each prompt: one for all, or a list with one for each.

    Raises:
        InvalidShape: the list is of another length.
    """
    if not isinstance(target, list | tuple) or all(isinstance(token, int) for token in target):
        return [target] * count
    if len(target) != count:
        raise InvalidShape(f"target must be one for all of the {count} prompts or one for each; got {len(target)}")
    return list(target)


def for_each(
    prompts: Sequence[Any],
    target: Any,
    bound: Callable[[Any], InterpretableInput | Prompt],
    explain: Callable[[Any, Answer], LLMAttributionResult],
    show_progress: bool = False,
) -> list[LLMAttributionResult]:
    """The result of each prompt, under one progress bar; an error says which prompt it is about.

    All prompts are looked at before the first is explained.
    """
    answers, inputs, results = answers_of(target, len(prompts)), [], []
    for number, prompt in enumerate(prompts):
        with _naming(number):
            inputs.append(bound(prompt))
    pairs = zip(inputs, answers, strict=True)
    for number, (inp, answer) in enumerate(tqdm(pairs, "prompts", len(prompts), disable=not show_progress)):
        with _naming(number):
            results.append(explain(inp, answer))
    return results


@contextmanager
def _naming(number: int) -> Iterator[None]:
    try:
        yield
    except LlmAttrError as error:
        error.args = (f"prompt {number}: {error}", *error.args[1:])
        raise
