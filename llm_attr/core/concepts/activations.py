"""The activations of several layers from one forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.site import Site, reading
from llm_attr.core.tensors import leaves, map_tensors
from llm_attr.errors import InvalidType, InvalidValue, UnknownName


def sites_of(model: nn.Module, layers: Iterable[str], to_input: bool = False) -> dict[str, Site]:
    """The sites of layers by their names in `model.named_modules()`.

    Raises:
        UnknownName: the model has no such layer.
    """
    known = dict(model.named_modules())
    for layer in layers:
        if not layer or layer not in known:
            raise UnknownName("layer", layer, filter(None, known))
    return {layer: Site.of(known[layer], to_input) for layer in layers}


def joined_features(tensors: tuple[Tensor, ...]) -> Tensor:
    """One tensor as it is; several side by side, flattened to `(batch, features)`."""
    return tensors[0] if len(tensors) == 1 else torch.cat([tensor.flatten(1) for tensor in tensors], 1)


def device_of(model: nn.Module) -> torch.device | None:
    """The device of the model's first parameter; None without parameters."""
    return next((value.device for value in model.parameters()), None)


def activations(
    model: nn.Module, sites: Mapping[str, Site], inputs: tuple[Any, ...], extras: tuple[Any, ...], run: Evaluator
) -> dict[str, Tensor]:
    """`(examples, *features)` of each layer for a batch, in chunks that fit into memory.

    Args:
        model: The model.
        sites: Where to read, by name.
        inputs: The inputs of the batch; tensors are moved to the model's device.
        extras: What the model gets after them.
        run: Counts examples, and backs off.

    Raises:
        InvalidType: the batch has no tensor.
        InvalidValue: the batch is empty.
        LayerNotReached: a layer is not reached in the forward pass.
    """
    tensors = leaves(inputs)
    if not tensors:
        raise InvalidType("a batch needs a tensor for the model; got none")
    count, device = len(tensors[0]), device_of(model)
    if not count:
        raise InvalidValue("a batch of examples is empty")

    def part(start: int, stop: int) -> dict[str, Tensor]:
        def rows(tensor: Tensor) -> Tensor:
            chosen = tensor[start:stop] if tensor.dim() and len(tensor) == count else tensor
            return chosen if device is None else chosen.to(device)

        with torch.no_grad(), ExitStack() as stack:
            readings = {name: stack.enter_context(reading(site)) for name, site in sites.items()}
            model(*map_tensors(rows, inputs), *map_tensors(rows, extras))
        run.advance(stop - start)
        return {name: joined_features(found.tensors).detach() for name, found in readings.items()}

    parts = list(run.run(count, count, part))
    return {name: torch.cat([each[name] for each in parts]) for name in sites}


def fingerprint(values: Iterable[Any], *more: object) -> str:
    """A hash of tensors and of how other things print."""
    digest = hashlib.sha256(repr(more).encode())
    for value in leaves(list(values)):
        digest.update(repr((tuple(value.shape), value.dtype)).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
