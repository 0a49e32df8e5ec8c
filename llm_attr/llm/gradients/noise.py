"""What rounding does to gradients in half precision, measured once for a model."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from llm_attr.core.memory import is_out_of_memory
from llm_attr.core.site import Site
from llm_attr.llm.gradients.answer_score import LOG_PROB, AnswerScore
from llm_attr.llm.gradients.passages import Passage
from llm_attr.llm.model.attention import Setting, setting
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.precision import HALVES, computed_in

_noises: WeakKeyDictionary[Any, dict[Setting, float]] = WeakKeyDictionary()


def gradient_noise(language_model: LanguageModel) -> float | None:
    """The noise of gradients in half precision, relative to the attributions; None where it was not measured."""
    return _noises.get(language_model.model, {}).get(setting(language_model))


def measure_noise(language_model: LanguageModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> None:
    """Compares input x gradient of a prompt alone with that beside another row, once for a model in half precision.

    The relative noise is the root mean square of the difference over that of the attributions of the positions.

    Args:
        language_model: Model and tokenizer, in evaluation mode.
        prompt: Token ids of the prompt.
        answer: Token ids of the answer.
    """
    if computed_in(language_model) not in HALVES or gradient_noise(language_model) is not None:
        return
    site = Site(language_model.embedding)
    score = AnswerScore(language_model, Passage(prompt, answer), [site], range(len(prompt)), [LOG_PROB], Cost())
    (own,) = score.activations

    def attributed(rows: Tensor) -> Tensor:
        moved = rows.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(moved)[0][0].sum(), moved)
        return (gradient[0] * own[0]).sum(-1)

    try:
        with torch.enable_grad():
            alone, beside = attributed(own), attributed(torch.cat([own, own.flip(1)]))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return
    noise = float((alone - beside).square().mean().sqrt() / alone.square().mean().sqrt().clamp_min(1e-30))
    _noises.setdefault(language_model.model, {})[setting(language_model)] = noise


def per_token(relative: float | None, attributions: Tensor, tokens: int) -> float | None:
    """Noise in the unit of the attributions `(units,)`, divided by the root of the number of tokens of the answer."""
    if relative is None or not len(attributions):
        return None
    return relative * float(attributions.double().square().mean().sqrt()) / tokens**0.5
