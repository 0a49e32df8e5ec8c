"""How much memory calls of a model take, and how large they may be: one model of it for all passes.

A call without gradients keeps the activations of a layer, the keys and values of all layers, and its logits in the type
of the weights and in fp32. With gradients it keeps what the backward pass needs of each layer. On an accelerator the
estimate is scaled by what the first calls of the model took there. Several derivatives that share a backward pass
need attention made of plain operations, which keeps its weights, and a gradient for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from llm_attr.core.memory import allocated_bytes, free_bytes, peak_bytes
from llm_attr.llm.model.attention import Setting, setting
from llm_attr.llm.model.cost import Call
from llm_attr.llm.model.language_model import LanguageModel

CPU_POSITIONS = 256
ACCELERATOR_POSITIONS = 8192
"""New token positions per pass; beyond these a larger pass is no faster."""

MEMORY_SHARE = 4
"""One pass may use a quarter of the free memory."""

LOSS_COPIES = 4
"""Logit-sized tensors in a backward pass: the logits, their fp32 copy, their softmax, and their gradient."""

LEARNING = 64
"""Positions from which on a call says something about larger ones."""

_factors: WeakKeyDictionary[Any, dict[Setting, float]] = WeakKeyDictionary()


def free_for(language_model: LanguageModel) -> int:
    """The bytes that a call may take: those of the tightest device on which the model computes."""
    return min(map(free_bytes, language_model.devices))


def positions_that_fit(language_model: LanguageModel) -> int:
    """How many token positions one pass may have, given the device and its free memory."""
    most = CPU_POSITIONS if language_model.device.type == "cpu" else ACCELERATOR_POSITIONS
    return max(16, min(most, free_for(language_model) // MEMORY_SHARE // call_bytes(language_model, Call(1, 1))))


def call_bytes(language_model: LanguageModel, call: Call) -> int:
    """The approximate bytes of a call without gradients, besides the weights."""
    config, width = language_model.text_config, language_model.dtype.itemsize
    head = config.vocab_size * (width + 8)
    body = config.hidden_size * width * (2 * config.num_hidden_layers + 24)
    estimate = call.positions * body + call.head_rows * head
    return int(estimate * max(1.0, _factors.get(language_model.model, {}).get(setting(language_model), 1.0)))


def kept_bytes(language_model: LanguageModel, positions: int, recompute: bool = False) -> int:
    """What a backward pass over so many positions needs of the forward pass, about.

    Args:
        language_model: The model.
        positions: Of all rows.
        recompute: Whether the blocks keep only their inputs.
    """
    config, width = language_model.text_config, language_model.dtype.itemsize
    inner = getattr(config, "intermediate_size", 0) or 4 * config.hidden_size
    block = (12 * config.hidden_size + 4 * inner) * width
    inputs = config.num_hidden_layers * config.hidden_size * width
    return int(positions * (block + inputs if recompute else block * config.num_hidden_layers))


def attention_bytes(language_model: LanguageModel, positions: int) -> int:
    """What a graph keeps of one row where attention is made of plain operations: its scores and weights, in fp32."""
    return int(8 * language_model.text_config.num_hidden_layers * heads_and_widest(language_model)[0] * positions**2)


def row_bytes(language_model: LanguageModel, positions: int) -> int:
    """What passes through a layer for one derivative of one row, in fp32."""
    heads, widest = heads_and_widest(language_model)
    return int(4 * positions * (widest + heads * positions))


def heads_and_widest(language_model: LanguageModel) -> tuple[int, int]:
    """The number of attention heads, and the width of a layer's widest activation."""
    config = language_model.text_config
    widest = max(getattr(config, "intermediate_size", None) or 0, 4 * config.hidden_size)
    return getattr(config, "num_attention_heads", None) or 1, widest


def loss_bytes(language_model: LanguageModel, head_rows: int) -> int:
    """The logits in fp32 of so many rows, with what their log-probabilities and gradients take beside them."""
    return int(LOSS_COPIES * 4 * head_rows * language_model.text_config.vocab_size)


def rows_that_fit(language_model: LanguageModel, positions: int, head_rows: int) -> int | None:
    """How many rows may go forwards and backwards in one call; None on a CPU, where memory is not what decides.

    Args:
        language_model: The model.
        positions: Of each row.
        head_rows: Positions of each row that go through the output head.
    """
    if language_model.device.type == "cpu":
        return None
    each = kept_bytes(language_model, positions) + loss_bytes(language_model, head_rows)
    return max(1, free_for(language_model) // (2 * each))


@contextmanager
def learning(language_model: LanguageModel, call: Call) -> Iterator[None]:
    """Compares a call with its estimate where the device tells what it took; later estimates are scaled by it.

    Nothing is learned from a call that took less than another one before: the device keeps only the highest peak.
    """
    device = language_model.device
    before, peak = allocated_bytes(device), peak_bytes(device)
    yield
    now = peak_bytes(device)
    if before is None or peak is None or now is None or now <= peak or call.positions < LEARNING:
        return
    known = _factors.setdefault(language_model.model, {})
    factor = known.pop(setting(language_model), 1.0)
    known[setting(language_model)] = max(factor, (now - before) / max(1, call_bytes(language_model, call)))
