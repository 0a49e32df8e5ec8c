"""Selecting neurons of a layer: their value, and which entries of the layer they are."""

from __future__ import annotations

import torch
from torch import Tensor

from llm_attr.core.tensors import Slot
from llm_attr.errors import InvalidTarget
from llm_attr.typing import NeuronSelector, Tensors


def neuron(tensors: Tensors, slot: Slot, selector: NeuronSelector) -> Tensor:
    """The value of the selected neuron for each example; for a range of neurons, their sum.

    Raises:
        InvalidTarget: the selector does not fit the layer.
    """
    if callable(selector):
        value = selector(tensors[0] if slot.single else tensors)
        layer = tensors[0].shape
        rows = layer[: 1 if len(layer) < 3 else 2]
        if isinstance(value, Tensor) and (value.numel() == 1 or (value.shape[:1].numel() == value.numel() in rows)):
            return value
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InvalidTarget(
            f"a neuron_selector function must return one number for each of the {len(tensors[0])} rows of the layer "
            f"{tuple(layer)}, or a scalar; got {given}"
        )
    if len(tensors) > 1:
        raise InvalidTarget(f"the layer has {len(tensors)} tensors; select the neuron with a function of them")
    entry = selector if isinstance(selector, tuple) else (selector,)
    sizes = tuple(tensors[0].shape[1:])
    fits = len(entry) == len(sizes) and all(
        isinstance(index, slice) or (isinstance(index, int) and -size <= index < size)
        for index, size in zip(entry, sizes, strict=True)
    )
    if not fits:
        raise InvalidTarget(
            f"a neuron of a layer of shape {('batch', *sizes)} is selected by {len(sizes)} indices within it; "
            f"got {selector!r}"
        )
    index = (slice(None), *entry)
    return tensors[0][index].reshape(len(tensors[0]), -1).sum(1)


def chosen_neurons(tensors: Tensors, slot: Slot, selector: NeuronSelector) -> Tensors:
    """1 for the neurons that the selector picks or sums, 0 for the others, in the shapes of the layer's tensors.

    Raises:
        InvalidTarget: the selector does not fit the layer, or does more than pick or sum neurons.
    """
    copies = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)
    value = neuron(copies, slot, selector).sum()
    by = copies if value.requires_grad else ()
    gradients = torch.autograd.grad(value, by, allow_unused=True) if by else ()
    chosen = tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, by, strict=True))
    if not chosen or not all(((mask == 0) | (mask == 1)).all() for mask in chosen):
        raise InvalidTarget("conductance is defined only for a neuron_selector function that picks or sums neurons")
    return chosen
