"""Several prompts at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from llm_attr.errors import InvalidShape, about_prompt
from llm_attr.llm.target.answer import Answer, are_ids

One = TypeVar("One")
Found = TypeVar("Found")


def is_many(prompt: Any) -> TypeGuard[Sequence[Any]]:
    """Whether this is a list of prompts; a list of messages is one."""
    return isinstance(prompt, list | tuple) and bool(prompt) and not any(isinstance(one, Mapping) for one in prompt)


def answers_of(target: Any, count: int) -> list[Answer]:
    """The target of each prompt: one for all, or a list with one for each.

    Raises:
        InvalidShape: the list is of another length.
    """
    if not isinstance(target, list | tuple) or are_ids(target):
        return [target] * count
    if len(target) != count:
        raise InvalidShape(f"target must be one for all of the {count} prompts or one for each; got {len(target)}")
    return list(target)


def for_each(do: Callable[[One], Found], prompts: Iterable[One]) -> list[Found]:
    """What `do` gives for each prompt; an error says which prompt it is about."""
    found = []
    for number, prompt in enumerate(prompts):
        with about_prompt(number):
            found.append(do(prompt))
    return found
