"""What is left of a prompt when units are absent, said in another way than the library does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

Span = tuple[int, int]

HOLE = "\ue000"
"""Stands for a unit that is taken out."""


def text_without(text: str, contents: Sequence[Span], spans: Sequence[Span], present: Sequence[bool]) -> str:
    """The text without the absent spans: first a hole for each, then every run of holes and white space is closed."""
    pieces, after = [], 0
    for start, end in contents:
        content, place = "", start
        for (first, stop), here in zip(spans, present, strict=True):
            if start <= first and stop <= end and not here:
                content, place = content + text[place:first] + HOLE, stop
        pieces += [text[after:start], _closed(content + text[place:end])]
        after = end
    return "".join(pieces) + text[after:]


def _closed(content: str) -> str:
    def close(run: re.Match[str]) -> str:
        spaces = run.group().split(HOLE)
        at_start, at_end = run.start() == 0, run.end() == len(content)
        if at_start or at_end:
            return (spaces[0] if at_start else "") + (spaces[-1] if at_end else "")
        return max(spaces, key=lambda space: (space.count("\n"), space != ""))

    return re.sub(rf"\s*(?:{HOLE}\s*)+", close, content)


def owners(tokenizer: Any, text: str, spans: Sequence[Span], *, special_tokens: bool) -> tuple[list[int], list[int]]:
    """Token ids, and for each the number of the span that holds its first character that is no space, or -1.

    The tokens of a tokenizer without offsets are taken to stand in the text as they are.
    """
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    else:
        ids = tokenizer.encode(text, add_special_tokens=special_tokens)
        ends = list(accumulate(len(token) for token in tokenizer.convert_ids_to_tokens(ids)))
        offsets = list(pairwise([0, *ends]))
    found = []
    for start, end in offsets:
        solid = [place for place in range(start, end) if not text[place].isspace()]
        needed = set(solid[:1] or range(start, end))
        found.append(next((i for i, span in enumerate(spans) if needed and needed <= set(range(*span))), -1))
    return list(ids), found


def masked_log_probs(model: Any, ids: Sequence[int], present: Sequence[bool], answer: Sequence[int]) -> Tensor:
    """`(answer tokens,)` log-probabilities of the model's own forward under an attention mask with zeros.

    The others keep their positions, where the forward takes positions. The first token of the answer is read at the
    last token that is present.
    """
    row = torch.tensor([[*ids, *answer]])
    mask = torch.tensor([[*(int(here) for here in present), *(1 for _ in answer)]])
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    learned = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    takes = "position_ids" in inspect.signature(type(base).forward).parameters and not learned
    places = {"position_ids": torch.arange(row.shape[1])[None]} if takes else {}
    with torch.no_grad():
        logits = model(input_ids=row, attention_mask=mask, use_cache=False, **places).logits[0].float().log_softmax(-1)
    front = len(logits) - len(row[0])  # an adapter may put tokens there
    last = max(place for place, here in enumerate(present) if here)
    rows = [front + place for place in (last, *range(len(ids), len(ids) + len(answer) - 1))]
    return logits[rows, list(answer)]
