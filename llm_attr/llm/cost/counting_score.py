"""A stand-in for the model used for cost estimates of gradient methods; it returns constants and counts calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.site import Site
from llm_attr.core.tensors import Slot
from llm_attr.llm.gradients.answer_score import AnswerScore
from llm_attr.llm.model.cost import NOTHING, Call
from llm_attr.typing import Tensors

SLOPE = 1e3
"""How much larger derivatives are than changes of the value, so that no quadrature converges early."""


class CountingScore(AnswerScore):
    """Counts the calls of an `AnswerScore` without making them; only the embedding layer is called.

    Activations of other layers are taken to have the layer's own width where it states one, or the model's.
    """

    runs_model = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._last = NOTHING
        super().__init__(*args, **kwargs)
        self.log_probs = torch.zeros(len(self.passage.scored), dtype=torch.float32, device="cpu")

    def __call__(self, *moved: Tensor) -> Tensors:
        """The same value for all tokens and quantities."""
        self._last = self._count(len(moved[0]))
        total = torch.stack([part.flatten(1).mean(1) for part in moved]).sum(0)
        values = (total.detach() + SLOPE * (total.detach() - total))[:, None].expand(-1, len(self.passage.scored))
        return (values,) * len(self.scalars)

    def logits(self) -> Tensor:
        """Zeros `(1, scored tokens, vocabulary)`."""
        self._count(1)
        shape = 1, len(self.passage.scored), self.language_model.text_config.vocab_size
        return torch.zeros((), dtype=torch.float32, device="cpu").expand(shape)

    def count_backward(self, rows: int) -> None:
        """Also counts the call whose graph they go over."""
        super().count_backward(rows)
        self.counter.backward_load.add(self._last, rows)

    def count_forward_mode(self, rows: int) -> None:
        """Also counts the call that they go along with."""
        super().count_forward_mode(rows)
        self.counter.forward_mode_load.add(Call(rows * self._last.positions, rows * self._last.head_rows))

    def _count(self, rows: int) -> Call:
        call = Call(rows * len(self.passage.ids), rows * len(self.passage.rows))
        self.counter.add(*call)
        return call

    def _read(self, ids: Sequence[int]) -> tuple[Tensors, tuple[Slot, ...]]:
        if self._places is not None:
            return super()._read(ids)
        self._count(1)
        embedding = self.language_model.embedding
        with torch.no_grad():
            embedded = embedding(torch.tensor([list(ids)], device=self.language_model.device))
        activations = tuple(embedded if site.layer is embedding else self._like(site, embedded) for site in self.sites)
        return activations, tuple(Slot(1, single=True) for _ in self.sites)

    def _like(self, site: Site, embedded: Tensor) -> Tensor:
        width = getattr(site.layer, "in_features" if site.io == "input" else "out_features", None)
        width = width or self.language_model.text_config.hidden_size
        return torch.ones(1, embedded.shape[1], width, dtype=embedded.dtype, device="cpu")
