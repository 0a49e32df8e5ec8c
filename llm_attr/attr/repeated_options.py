"""Arguments of attribution methods for copies of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm_attr.core.target import tile_target
from llm_attr.core.tensors import tile
from llm_attr.typing import Tensors

_LIKE_INPUTS = ("baselines", "feature_mask")
_LIKE_ROWS = ("additional_forward_args", "layer_baselines", "layer_mask")


def repeated_options(options: Mapping[str, Any], inputs: Tensors, copies: int) -> dict[str, Any]:
    """Arguments of `attribute` with each example's row repeated, its copies adjacent.

    Targets, baselines, masks and additional arguments with one row per example are repeated; all else is left as it is.

    Args:
        options: The keyword arguments.
        inputs: The inputs that are repeated.
        copies: The number of copies of each example.
    """
    return {name: _repeated(name, value, inputs, copies) for name, value in options.items()}


def _repeated(name: str, value: Any, inputs: Tensors, copies: int) -> Any:
    if name == "target":
        return tile_target(value, copies, by_example=True)
    if name == "targets" and value is not None:
        return [tile_target(each, copies, by_example=True) for each in value]
    if name in _LIKE_ROWS:
        return tile(value, copies, len(inputs[0]), by_example=True)
    if name not in _LIKE_INPUTS or callable(value):
        return value
    if not isinstance(value, tuple):
        return _like(inputs[0], value, copies)
    return tuple(_like(x, part, copies) for x, part in zip(inputs, value, strict=False))


def _like(x: Tensor, value: Any, copies: int) -> Any:
    has_rows = isinstance(value, Tensor) and value.dim() == x.dim() and 1 < len(value) == len(x)
    return value.repeat_interleave(copies, 0) if has_rows else value
