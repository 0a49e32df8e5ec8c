"""Derivatives of several numbers over one graph, or in several directions: together in one pass, or one by one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_attr.core.backward import derivatives
from llm_attr.core.memory import free_bytes
from llm_attr.core.shared_context import reference_counted
from llm_attr.errors import NoGradient
from llm_attr.llm.model.attention import Setting, setting
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.typing import Tensors

MEMORY_SHARE = 16
"""What goes back through a layer together, and the attention weights of all layers, may each take this part."""

LARGE_ATTENTION = 1.5
"""Attention weights that are so much larger than a layer's widest activation cost more to write than a pass each."""

NO_RULE = re.compile(
    r"forward( mode)? AD\b|forward gradient|\bjvp\b|functorch|FuncTorch|\bvmap\b|[Bb]atching rule|"
    "ZeroTensors are immutable|Cannot access (data pointer|storage) of"
)
"""In what torch says of an operation that has no derivative in a direction, or takes no batch."""

_unbatched: WeakKeyDictionary[Any, set[Setting]] = WeakKeyDictionary()
"""The settings in which a model has an operation whose backward pass takes no batch."""


def lacks_a_rule(error: BaseException) -> bool:
    """Whether an exception says that an operation has no derivative in a direction, or takes no batch."""
    return isinstance(error, RuntimeError | UserWarning) and NO_RULE.search(str(error)) is not None


def takes_batches(language_model: LanguageModel) -> bool:
    """Whether no operation of a model, as it is configured now, is known whose backward pass takes no batch."""
    return setting(language_model) not in _unbatched.get(language_model.model, ())


def attention_share(language_model: LanguageModel, positions: int) -> float:
    """How large the attention weights of a layer are, in widest activations."""
    heads, widest = _heads_and_widest(language_model)
    return heads * positions / widest


def _heads_and_widest(language_model: LanguageModel) -> tuple[int, int]:
    config = language_model.text_config
    widest = max(getattr(config, "intermediate_size", None) or 0, 4 * config.hidden_size)
    return getattr(config, "num_attention_heads", None) or 1, widest


class Together:
    """Whether, and how many, numbers go back through a model in one pass.

    Args:
        language_model: Model and tokenizer.
        positions: How many positions its passes have.
        wanted: Whether the graph may be used so; not by rules, nor where activations are computed again.
        plain: Whether all operations in it are the model's, of which is remembered that one takes no batch.
    """

    def __init__(self, language_model: LanguageModel, positions: int, wanted: bool, plain: bool = True) -> None:
        self._device, self._wanted = language_model.device, wanted and takes_batches(language_model)
        self._unbatched = _unbatched.setdefault(language_model.model, set()) if plain else set()
        self._setting = setting(language_model)
        heads, widest = _heads_and_widest(language_model)
        self._small = attention_share(language_model, positions) <= LARGE_ATTENTION
        self._weights = 8 * language_model.text_config.num_hidden_layers * heads * positions**2
        self._row = 4 * positions * (widest + heads * positions)

    def fits(self, points: int) -> bool:
        """Whether the numbers of so many points may go together: their attention weights are written and held."""
        room = free_bytes(self._device) // MEMORY_SHARE
        return self._wanted and self._small and self._weights * points < room

    def directions(self) -> int:
        """How many derivatives in a direction may go forward together, from one point."""
        return max(1, free_bytes(self._device) // (MEMORY_SHARE * self._row))

    def derivatives(self, values: Tensor, points: Sequence[Tensor], directions: Tensor) -> Tensors:
        """`(rows, points, ...)` for each of the points, along `directions` `(rows, *values)` of the values."""
        size = max(1, free_bytes(self._device) // (MEMORY_SHARE * self._row * len(values)))
        try:
            with no_loops():
                return _joined([_gradients(values, points, part, True) for part in directions.split(size)])
        except (RuntimeError, UserWarning) as error:
            if not lacks_a_rule(error):
                raise
            self._wanted = False
            self._unbatched.add(self._setting)
            return one_by_one(values, points, directions)


def kernels(batched: bool) -> AbstractContextManager[Any]:
    """The attention of a forward pass: the fused kernels' backward pass takes no batch."""
    return plain_attention() if batched else nullcontext()


@reference_counted
@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by the kernel that is made of plain operations."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@reference_counted
@contextmanager
def no_loops() -> Iterator[None]:
    """An operation that takes no batch, over whose rows torch would loop, raises a UserWarning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        warnings.filterwarnings("error", "There is a performance drop", UserWarning)
        yield


def one_by_one(values: Tensor, points: Sequence[Tensor], directions: Tensor) -> Tensors:
    """See `Together.derivatives`; a pass for each row."""
    return _joined([_gradients(values, points, row, False) for row in directions])


def _gradients(values: Tensor, points: Sequence[Tensor], direction: Tensor, batched: bool) -> Tensors:
    options = {"retain_graph": True, "allow_unused": True, "is_grads_batched": batched}
    found = derivatives(values, points, direction, **options)
    if all(tensor is None for tensor in found):
        raise NoGradient("the answer does not depend on what is moved by operations that can be differentiated")
    rows = direction.shape[:1] if batched else (1,)
    shapes = [(*rows, *point.shape) for point in points]
    return tuple(
        point.new_zeros(shape) if tensor is None else tensor.view(shape)
        for tensor, point, shape in zip(found, points, shapes, strict=True)
    )


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
