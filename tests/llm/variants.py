"""Variants of a prompt that several tests score."""

from __future__ import annotations

from llm_attr.llm.prompt.variant import Variant

ANSWER = (5, 17, 17, 300, 8)
PREFIX = tuple(range(10, 24))
VARIANTS = [
    Variant.plain(tokens)
    for tokens in (
        (*PREFIX, 40, 41, 42, 43),
        (*PREFIX, 41, 42, 43),
        (*PREFIX, 40, 42, 43),
        (*PREFIX[:6], 40, 41),
        (*PREFIX[:6],),
        (*PREFIX[:6], 5, 17),  # goes on like the answer of the one before
        (99, *PREFIX),
        (0,),
    )
]
