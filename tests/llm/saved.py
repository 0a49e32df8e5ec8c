"""Results that several tests save and load."""

from __future__ import annotations

from typing import Any

import torch

from llm_attr import LLMAttributionResult

TARGET = " He likes fishing 日."
DOCUMENTS = {"mill": "It is white 🙂. It is old.", "<script>lake": "It is blue.\r\nVery."}
Result = LLMAttributionResult


def by_hand(**parts: Any) -> Result:
    given: dict[str, Any] = {
        "input_tokens": ["a", "\ud800", ""],
        "output_tokens": ["x", "\x1b[2J"],
        "seq_attr": torch.tensor([0.1, torch.nan, -0.0], dtype=torch.float64),
    }
    return Result(**given | parts)
