"""Moving a model's activations along a direction while it generates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

from torch import Tensor

from llm_attr.core.concepts.directions import Direction
from llm_attr.core.site import Site, changed
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.concept.text_tcav import checked_texts
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.target.generation import GenArgs, generate


@dataclass(frozen=True)
class Steered:
    """What a model says to a prompt, moved along a direction by several strengths.

    Attributes:
        prompt: The prompt, as the model receives it.
        layer: The name of the layer.
        strengths: How far the activations were moved, in distances between the concept and other texts.
        texts: What the model generated with each.
    """

    prompt: str
    layer: str
    strengths: tuple[float, ...]
    texts: tuple[str, ...]

    def __str__(self) -> str:
        rows = zip(self.strengths, self.texts, strict=True)
        return "\n".join([f"{self.prompt!r}, at {self.layer}", *(f"{by:+.2f}  {text}" for by, text in rows)])


@contextmanager
def steering(lm: LanguageModel, layer: str, direction: Direction, strength: float) -> Iterator[None]:
    """Moves the output of a layer along a direction at every token, in every forward pass inside.

    `u + strength * scale * v / |v|`, where `scale` is the distance between the concept's texts and others along the
    direction. The model itself is not changed.

    Args:
        lm: The model.
        layer: The name of the layer, as in `TextTCAV.layers`.
        direction: The direction, of as many features as the layer has.
        strength: How far; negative: away from the concept; 0: nothing changes.

    Raises:
        UnknownName: the model has no such layer.
        InvalidValue: the strength is not finite.
        InvalidShape: in the forward pass, if the layer has another number of features.

    Source: N. Panickssery et al., Steering Llama 2 via Contrastive Activation Addition, ACL 2024, section 3.

    Example:
        >>> with steering(lm, "model.layers.15", direction, 1.5):  # doctest: +SKIP
        ...     lm.model.generate(ids)
    """
    if layer not in lm.layers or not layer:
        raise UnknownName("layer", layer, filter(None, lm.layers))
    if not isinstance(direction, Direction):
        raise InvalidType(
            f"direction must be a Direction, as TextTCAV.directions gives; got {type(direction).__name__}"
        )
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not isfinite(strength):
        raise InvalidValue(f"strength must be a finite number; got {strength!r}")
    step = direction.unit * direction.scale * strength

    def move(tensor: Tensor) -> Tensor:
        if tensor.shape[-1:] != step.shape:
            raise InvalidShape(f"{layer} has {tensor.shape[-1]} features; the direction has {len(step)}")
        return tensor + step.to(tensor)

    with changed(Site.of(lm.layers[layer]), move):
        yield


def steer(
    lm: LanguageModel,
    prompt: str | Messages | Prompt,
    layer: str,
    direction: Direction,
    strengths: Sequence[float] = (-1.0, 0.0, 1.0),
    gen_args: GenArgs | None = None,
) -> Steered:
    """What a model generates when its activations are moved along a direction, and without.

    Args:
        lm: The model.
        prompt: A text, as the tokenizer takes it; the messages of a chat; or a `Prompt`, with all its units.
        layer: See `steering`.
        direction: The direction of a concept at this layer.
        strengths: How far, see `steering`; 0 is what the model says by itself.
        gen_args: Arguments of `generate`, and `seed`; by default 25 tokens, greedily.

    Raises:
        InvalidValue: there is no strength, or see `steering`.
        EmptyPrompt: the prompt has no text.
        InvalidType: the prompt is neither a text, nor messages, nor a `Prompt`.

    Example:
        >>> print(steer(lm, "Dear Mary,", "model.layers.15", directions["model.layers.15"]))  # doctest: +SKIP
    """
    if not strengths:
        raise InvalidValue("strengths is empty; name at least one, such as 0")
    (text, ids), texts = _received(lm, prompt), []
    for strength in strengths:
        with steering(lm, layer, direction, strength):
            texts.append(lm.decode([each for each in generate(lm, ids, gen_args) if each not in lm.end_ids]))
    return Steered(text, layer, tuple(map(float, strengths)), tuple(texts))


def _received(lm: LanguageModel, prompt: str | Messages | Prompt) -> tuple[str, list[int]]:
    """The text that the model receives, and its tokens."""
    if isinstance(prompt, str):
        [text] = checked_texts([prompt], "prompt")
        return text, lm.encode(text, special_tokens=True)
    bound = (prompt if isinstance(prompt, Prompt) else Prompt(prompt, unit="message")).bind(lm)
    return bound.text, bound.to_model_input()[0].tolist()
