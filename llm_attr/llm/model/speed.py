"""The speed of a model on this machine, measured once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from llm_attr.core.memory import synchronize
from llm_attr.core.site import Site, replaced
from llm_attr.llm.model.attention import setting
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.cost import Cost, Load
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import positions_that_fit

PROBE = 48
"""Positions of the larger of the two timed passes on a CPU, and rows of the output head everywhere."""

BACKWARD_PROBE = 1024
"""The most positions of the timed backward pass."""

ROUNDS = 2
"""Repetitions of each measurement; the fastest counts."""


@dataclass(frozen=True)
class Speed:
    """Seconds per unit of cost.

    Attributes:
        call: Fixed seconds per call.
        position: Additional seconds per token position.
        head_row: Additional seconds per row of the output head.
        backward: Cost of a backward pass, in forward passes.
    """

    call: float
    position: float
    head_row: float
    backward: float

    def seconds(self, cost: Cost, recompute: bool = False) -> float:
        """The estimated seconds for a cost.

        Args:
            cost: The cost.
            recompute: Whether each backward pass recomputes the forward pass.
        """
        again = self.backward + (1 if recompute else 0)
        loads = ((cost.forward, 1.0), (cost.backward_load, again), (cost.forward_mode_load, ROW_COST))
        return sum(share * self._of(load) for load, share in loads)

    def _of(self, load: Load) -> float:
        return load.calls * self.call + load.positions * self.position + load.head_rows * self.head_row


_known: WeakKeyDictionary[Any, dict[tuple[Any, ...], Speed]] = WeakKeyDictionary()


def speed_of(language_model: LanguageModel, backward: bool) -> Speed:
    """The speed of a model, measured with a few short passes on first use.

    Args:
        language_model: The model.
        backward: Whether to time a backward pass too.
    """
    model = language_model.model
    known = _known.setdefault(model, {})
    key = (setting(language_model), str(language_model.device), torch.get_num_threads(), backward)
    if key not in known:
        known[key] = _measured(language_model, backward)
    return known[key]


def _measured(language_model: LanguageModel, backward: bool) -> Speed:
    length = _probe(language_model)
    rows = min(length, PROBE)
    with language_model.evaluating():
        with torch.no_grad():
            _timed(language_model, 1, 1)
            single, body, full = (_timed(language_model, *size) for size in ((1, 1), (length, 1), (length, rows)))
        share = _backward_share(language_model, min(length, BACKWARD_PROBE)) if backward else 0.0
    position = max(0.0, body - single) / max(1, length - 1)
    row = max(0.0, full - body) / max(1, rows - 1)
    return Speed(max(0.0, single - position - row), position, row, share)


def _probe(language_model: LanguageModel) -> int:
    """Positions of the larger pass: on an accelerator as many as one may have, as small ones only launch kernels."""
    most = PROBE if language_model.device.type == "cpu" else max(PROBE, positions_that_fit(language_model))
    return min(most, language_model.context_length or most)


def _backward_share(language_model: LanguageModel, length: int) -> float:
    """The time of a backward pass, in forward passes of the same length."""
    rows = min(length, PROBE)
    with torch.no_grad():
        forward = _timed(language_model, length, rows)
    return _backward(language_model, length, rows) / max(forward, 1e-9)


def _timed(language_model: LanguageModel, positions: int, rows: int) -> float:
    ids = torch.zeros(1, positions, dtype=torch.long, device=language_model.device)
    return _quickest(lambda: _logits(language_model, rows, ids), ids.device)


def _backward(language_model: LanguageModel, length: int, rows: int) -> float:
    """Seconds of a backward pass to the embeddings."""
    with torch.no_grad():
        ids = torch.zeros(1, length, dtype=torch.long, device=language_model.device)
        embedding = language_model.embedding
        embedded = embedding(ids)
    seconds = []
    for _ in range(ROUNDS):
        with torch.inference_mode(False), torch.enable_grad():
            moved = embedded.detach().clone().requires_grad_()
            with replaced(Site(embedding), (moved,)):
                score = _logits(language_model, rows, ids).float().logsumexp(-1).sum()
            seconds.append(_quickest(partial(torch.autograd.grad, score, moved), ids.device, 1))
    return min(seconds)


def _logits(language_model: LanguageModel, rows: int, ids: Tensor) -> Tensor:
    kept = range(ids.shape[1] - rows, ids.shape[1])
    mask = torch.ones_like(ids)
    return forward_logits(language_model, kept, input_ids=ids, attention_mask=mask, use_cache=False)


def _quickest(run: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    seconds = []
    synchronize(device)
    for _ in range(rounds):
        start = perf_counter()
        run()
        synchronize(device)
        seconds.append(perf_counter() - start)
    return min(seconds)


ROW_COST = 1.8
"""Cost of a directional derivative, in forward (or backward) passes of a row."""
