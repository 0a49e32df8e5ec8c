"""The score of an answer without the model: a function that is as quick to differentiate as it says nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llm_attr.core.site import Site
from llm_attr.core.tensors import Slot, at_least_fp32
from llm_attr.llm.gradients.answer_score import Passage
from llm_attr.llm.model.cost import NOTHING, Call, Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.target.scalar import Scalar
from llm_attr.typing import Tensors

STEEP = 1e3
"""How much larger the derivatives are than the changes of the function: no path of any length adds up."""


class CountingScore:
    """Stands for an `AnswerScore` and notes the calls that it would make.

    What passes the embedding layer is what it gives; what passes other layers is taken to have the width of the model,
    or of the layer where it says it.

    Args:
        language_model: Model and tokenizer; nothing but the embedding layer is called.
        passage: See `AnswerScore`.
        sites: See `AnswerScore`.
        places: See `AnswerScore`.
        scalars: See `AnswerScore`.
        counter: See `AnswerScore`.
        at_prompt: See `AnswerScore`.
        passing: See `AnswerScore`.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        passage: Passage,
        sites: Sequence[Site],
        places: Sequence[int] | None,
        scalars: Sequence[Scalar],
        counter: Cost,
        at_prompt: bool = False,
        passing: bool = False,
    ) -> None:
        self.language_model, self.passage, self.scalars, self.counter = language_model, passage, scalars, counter
        self.log_probs = torch.zeros(len(passage.scored), dtype=torch.float32, device="cpu")
        self._sites, self._places, self._last = sites, places, NOTHING
        self.slots = tuple(Slot(1, True) for _ in sites)
        self.activations = self._read(passage.ids)

    def activations_of(self, prompt: Sequence[int]) -> Tensors:
        """See `AnswerScore`."""
        return self._read((*prompt, *self.passage.ids[len(prompt) :]))

    def logits(self) -> Tensor:
        """See `AnswerScore`; all alike."""
        self._call(1)
        return torch.zeros((), dtype=torch.float32, device="cpu").expand(
            1, len(self.passage.scored), self.language_model.text_config.vocab_size
        )

    def __call__(self, *moved: Tensor) -> Tensors:
        """See `AnswerScore`; the same for all tokens and quantities."""
        call = self._call(len(moved[0]))
        total = torch.stack([part.flatten(1).mean(1) for part in moved]).sum(0)
        values = (total.detach() + STEEP * (total.detach() - total))[:, None].expand(-1, len(self.passage.scored))
        self._last = call
        return (values,) * len(self.scalars)

    def count_backward(self, rows: int) -> None:
        """See `AnswerScore`."""
        self.counter.backward += rows
        self.counter.backward_load.add(self._last, rows)

    def count_forward_mode(self, rows: int) -> None:
        """See `AnswerScore`."""
        self.counter.forward_mode += rows
        self.counter.forward_mode_load.add(Call(rows * self._last.positions, rows * self._last.head_rows))

    def _call(self, rows: int) -> Call:
        call = Call(rows * len(self.passage.ids), rows * len(self.passage.rows))
        self.counter.add(*call)
        return call

    def _read(self, ids: Sequence[int]) -> Tensors:
        if self._places is None:
            self._call(1)
        embedding = self.language_model.embedding
        chosen = list(ids) if self._places is None else [ids[place] for place in self._places]
        with torch.no_grad():
            embedded = embedding(torch.tensor([chosen], device=self.language_model.device))
        return tuple(self._passing(site, embedded, embedding) for site in self._sites)

    def _passing(self, site: Site, embedded: Tensor, embedding: nn.Module) -> Tensor:
        embedded = at_least_fp32(embedded)
        if site.layer is embedding:
            return embedded
        says = getattr(site.layer, "in_features" if site.io == "input" else "out_features", None)
        return torch.ones(
            1,
            embedded.shape[1],
            says or self.language_model.text_config.hidden_size,
            dtype=embedded.dtype,
            device="cpu",
        )
