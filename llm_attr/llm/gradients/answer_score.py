"""The score of an answer as a function of what passes layers of the model: what gradients of a generation are of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from llm_attr.core.backward import keep_hooks_for_backward
from llm_attr.core.jacobian import Jacobian
from llm_attr.core.problem import ManyOutputs
from llm_attr.core.site import Site, reading, replaced
from llm_attr.core.tensors import Slot, at_least_fp32, split_by
from llm_attr.errors import NoGradient
from llm_attr.llm.gradients.passages import Passage
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.fingerprint import is_part
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import rows_that_fit
from llm_attr.llm.model.precision import GradientScale, computed_in
from llm_attr.llm.target.scalar import Contrast, Scalar
from llm_attr.typing import Tensors

LOG_PROB = Scalar("log_prob")


class AnswerScore:
    """Quantities of the tokens of an answer `(rows, scored tokens)`, as a function of what passes some layers.

    One forward pass for all tokens and quantities, through the model's own head at their positions alone.

    Args:
        language_model: Model and tokenizer, in evaluation mode.
        passage: Prompt, answer and the tokens that are scored.
        sites: The layers whose tensors are moved.
        places: The positions that are moved, of the embedding layer; the others stay as they are. None: all positions
            of other layers.
        scalars: The quantities, bound to the answer.
        counter: Where passes and positions are counted.
        at_prompt: Whether the first point that will be asked for is the prompt itself.
        passing: Whether no other point will be, and derivatives by a layer are those through the other layers too.

    Attributes:
        slots: Which of the moved tensors belong to which layer.
        log_probs: `(scored tokens,)` in nats after the whole prompt, once a pass has shown them.
    """

    runs_model = True
    """Whether the model is run; otherwise its calls are only counted."""

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
        self.language_model, self.passage, self.sites, self.counter = language_model, passage, sites, counter
        self.scalars, self._at_prompt, self._passing = tuple(scalars), at_prompt, passing
        self.log_probs: Tensor | None = None
        self._places = None if places is None else torch.tensor(list(places), device="cpu")
        self._whole, self.slots = self._read(passage.ids)

    @property
    def activations(self) -> Tensors:
        """What passes the layers, `(1, positions, *features)` each, in at least fp32."""
        return self._moved(self._whole)

    def activations_of(self, prompt: Sequence[int]) -> Tensors:
        """The same for another prompt of the same length."""
        return self._moved(self._read((*prompt, *self.passage.ids[len(prompt) :]))[0])

    def __call__(self, *moved: Tensor) -> Tensors:
        """For each quantity, with these in the place of what passes the layers, `(rows, positions, *features)` each."""
        ids = torch.tensor([self.passage.ids], device="cpu").expand(len(moved[0]), -1)
        scale = GradientScale() if computed_in(self.language_model) == torch.float16 else None
        parts = moved if scale is None else tuple(map(scale.leaving, moved))
        put = tuple(self._put(part, whole) for part, whole in zip(parts, self._whole, strict=True))
        with ExitStack() as stack:
            if self._places is not None:
                stack.enter_context(keep_hooks_for_backward())
            for site, part in zip(self.sites, split_by(put, self.slots), strict=True):
                stack.enter_context(replaced(site, part, passing=self._passing))
            logits = self._logits(ids).float()
        if scale is not None:
            logits = scale.entering(logits)
        if self._at_prompt:
            self._note(logits)
        scored = torch.tensor(self.passage.scored, device=logits.device)
        return tuple(scalar.read(logits, scored, self.passage.places) for scalar in self.scalars)

    def logits(self) -> Tensor:
        """`(1, scored tokens, vocabulary)` in fp32, after the whole prompt."""
        with torch.no_grad():
            logits = self._logits(torch.tensor([self.passage.ids], device="cpu")).float()
        self._note(logits)
        return logits

    def _note(self, logits: Tensor) -> None:
        """Reads the log-probabilities off the first logits."""
        if self.log_probs is None:
            scored = torch.tensor(self.passage.scored, device=logits.device)
            self.log_probs = LOG_PROB.read(logits[:1].detach(), scored)[0].cpu()

    def count_backward(self, rows: int) -> None:
        """Notes that so many numbers of the last points went back through the model."""
        self.counter.backward += rows

    def count_forward_mode(self, rows: int) -> None:
        """Notes that so many directions went along with the last point."""
        self.counter.forward_mode += rows

    def _read(self, ids: Sequence[int]) -> tuple[Tensors, tuple[Slot, ...]]:
        """What passes the layers: of the embedding layer what it says of the ids, of others what a pass shows."""
        asked = torch.tensor([list(ids)], device="cpu")
        embedding = self.language_model.embedding
        if self._places is not None and not is_part(embedding):
            with torch.no_grad():
                return (embedding(asked.to(self.language_model.device)),), (Slot(1, single=True),)
        with torch.no_grad(), ExitStack() as stack:
            readings = [stack.enter_context(reading(site, movable=True)) for site in self.sites]
            self._note(self._logits(asked).float())
        return tuple(tensor for found in readings for tensor in found.tensors), tuple(r.slot for r in readings)

    def _moved(self, whole: Tensors) -> Tensors:
        places = self._places
        chosen = whole if places is None else tuple(tensor[:, places.to(tensor.device)] for tensor in whole)
        return tuple(at_least_fp32(tensor) for tensor in chosen)

    def _put(self, moved: Tensor, whole: Tensor) -> Tensor:
        moved = moved.to(whole.dtype)
        if self._places is None:
            return moved
        return whole.expand(len(moved), *whole.shape[1:]).index_copy(1, self._places.to(whole.device), moved)

    def _logits(self, ids: Tensor) -> Tensor:
        rows = self.passage.rows
        self.counter.add(ids.numel(), len(ids) * len(rows))
        ids = ids.to(self.language_model.device)
        mask = torch.ones_like(ids)
        return forward_logits(self.language_model, rows, input_ids=ids, attention_mask=mask, use_cache=False)


class ContrastScore:
    """The score of an answer less that of a foil, token beside token: two passes for each point.

    Args:
        answer: The score of the answer.
        foil: That of the foil, over the same prompt.
        contrast: Which tokens stand beside each other.
    """

    def __init__(self, answer: AnswerScore, foil: AnswerScore, contrast: Contrast) -> None:
        self._foil, self._contrast, self._answer = foil, contrast, answer
        self.passage, self.slots, self.runs_model = answer.passage, answer.slots, answer.runs_model
        self.language_model = answer.language_model
        self.scalars, self.activations, self.activations_of = answer.scalars, answer.activations, answer.activations_of

    @property
    def log_probs(self) -> Tensor | None:
        """Those of the answer."""
        return self._answer.log_probs

    def count_backward(self, rows: int) -> None:
        """Through both passes."""
        self._answer.count_backward(rows)
        self._foil.count_backward(rows)

    def count_forward_mode(self, rows: int) -> None:
        """Along both passes."""
        self._answer.count_forward_mode(rows)
        self._foil.count_forward_mode(rows)

    def __call__(self, *moved: Tensor) -> Tensors:
        """`(rows, answer tokens)` in nats."""
        (own,), (other,) = self._answer(*moved), self._foil(*moved)
        return (self._contrast.rows(own, other),)


class AnswerScores:
    """The scores of an answer and of parts of it, and what they have in common.

    Args:
        language_model: Model and tokenizer, in evaluation mode.
        answer: Token ids of the answer.
        sites: The layers whose tensors are moved.
        places: See `AnswerScore`.
        scalars: The quantities, bound to the answer.
        at_prompt: Whether the scores are asked for at the prompt only.
        make: The class of a score.

    Attributes:
        counter: Passes, positions and backward passes so far.
        log_probs: `(answer tokens,)` in nats, after the whole prompt, as far as they were shown.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        answer: tuple[int, ...],
        sites: Sequence[Site],
        places: Sequence[int] | None,
        scalars: Sequence[Scalar],
        at_prompt: bool,
        make: type[AnswerScore] = AnswerScore,
    ) -> None:
        self.language_model, self.sites, self.places, self.scalars = language_model, sites, places, tuple(scalars)
        self.at_prompt, self.make, self.counter = at_prompt, make, Cost()
        self.log_probs = torch.full((len(answer),), torch.nan, dtype=torch.float32, device="cpu")

    @property
    def waits(self) -> bool:
        """Whether a quantity needs the full answer."""
        return any(scalar.waits for scalar in self.scalars)

    @property
    def contrast(self) -> Contrast | None:
        """The contrast with a foil, which stands alone."""
        return self.scalars[0].contrast

    def of(self, passage: Passage) -> AnswerScore | ContrastScore:
        """The score of a passage, less that of a foil if there is one."""
        if self.contrast is None:
            return self.of_answer(passage)
        foil = Passage(passage.prompt, self.contrast.foil)
        return ContrastScore(self.of_answer(passage), self.of_answer(foil), self.contrast)

    def of_answer(self, passage: Passage) -> AnswerScore:
        """The score of a passage without a foil."""
        unseen, together = bool(self.log_probs.isnan().any()), len(self.sites) > 1
        flags = self.at_prompt and unseen, self.at_prompt and together
        return self.make(self.language_model, passage, self.sites, self.places, self.scalars, self.counter, *flags)

    def look_at(self, prompt: Passage) -> list[Tensor]:
        """Reads what the model says of the answer after the full prompt, and binds references of divergences to it.

        Returns the quantities there, see `worth`; none of a contrast, whose foil has other logits.
        """
        score = self.of_answer(prompt)
        logits = score.logits()
        self.note(score)
        reference = logits[0].log_softmax(-1) if any(scalar.needs_reference for scalar in self.scalars) else None
        self.scalars = tuple(
            replace(scalar, reference=reference) if scalar.needs_reference else scalar for scalar in self.scalars
        )
        if self.contrast is not None:
            return []
        ids = torch.tensor(prompt.answer, device=logits.device)
        return self.worth([scalar.read(logits, ids, prompt.places) for scalar in self.scalars])

    def worth(self, values: Sequence[Tensor]) -> list[Tensor]:
        """What is attributed of each quantity at a single point: `(1 + tokens,)`, or `(1,)` of one number."""
        return [worth_of(scalar, each)[0].float().cpu() for scalar, each in zip(self.scalars, values, strict=True)]

    def note(self, score: AnswerScore | ContrastScore) -> None:
        """Keeps the log-probabilities that a score has shown."""
        if score.log_probs is not None:
            self.log_probs[score.passage.places] = score.log_probs


class Entries:
    """Some numbers of an answer, all from one forward pass.

    Args:
        score: That of the tokens.
        chosen: For each number the place of its quantity, and 0 for the whole answer or 1 + t for scored token t.
        axis: Whether the numbers have an axis; otherwise there is only one.
    """

    def __init__(
        self, score: AnswerScore | ContrastScore, chosen: Sequence[tuple[int, int]], axis: bool = True
    ) -> None:
        self._chosen, self._axis, self.score = tuple(chosen), axis, score

    def __len__(self) -> int:
        return len(self._chosen)

    def __call__(self, *moved: Tensor) -> Tensor:
        """`(points, numbers)`, or `(points,)` without an axis, from tensors of `(points, positions, *features)`."""
        found = list(zip(self.score.scalars, self.score(*moved), strict=True))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in moved):
            _refuse_independent(found)
        worth = [worth_of(scalar, values) for scalar, values in found]
        columns = [worth[scalar][:, entry] for scalar, entry in self._chosen]
        return torch.stack(columns, 1) if self._axis else columns[0]

    def differentiated(self, jacobian: Jacobian) -> ManyOutputs:
        """As a forward function."""
        return ManyOutputs(self, len(self) if self._axis else None, jacobian, self.most)

    def most(self) -> int | None:
        """How many points fit into one call; None on a CPU."""
        passage = self.score.passage
        return rows_that_fit(self.score.language_model, len(passage.ids), len(passage.scored))


def worth_of(scalar: Scalar, values: Tensor) -> Tensor:
    """`(rows, 1 + tokens)`: what is attributed, the whole answer first; `(rows, 1)` of one number for the answer."""
    return values[:, None] if values.dim() == 1 else scalar.payoff(values)


def _refuse_independent(found: Sequence[tuple[Scalar, Tensor]]) -> None:
    for scalar, values in found:
        if not values.requires_grad:
            raise NoGradient(
                f"the scalar {scalar.label} does not depend on what is moved by operations that can be differentiated; "
                "is there a detach(), a no_grad, an argmax or a number without a graph on the way?"
            )
