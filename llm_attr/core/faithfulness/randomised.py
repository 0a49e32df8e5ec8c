"""Layers with random parameters, for as long as that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llm_attr.errors import InvalidType, InvalidValue, UnknownName, UnsupportedMethod


def layers_of(model: nn.Module, names: Sequence[str] | None) -> list[tuple[str, nn.Module]]:
    """The layers whose parameters are made random, the last one first.

    Args:
        model: The model.
        names: Names of its modules, in the order in which they are made random; None: every module that has parameters
            of its own, in reverse order of registration. Parameters that modules share belong to the last of them.

    Raises:
        UnknownName: the model has no module of a name.
        InvalidValue: a module has no parameters.
    """
    modules = dict(model.named_modules())
    if names is None:
        seen: set[int] = set()
        found = []
        for name, module in reversed(list(modules.items())):
            own = {id(parameter) for parameter in module.parameters(recurse=False)}
            if own - seen:
                found.append((name, module))
            seen |= own
        if not found:
            raise InvalidValue("the model has no parameters that could be made random")
        return found
    for name in names:
        if name not in modules:
            raise UnknownName("layer", name, modules)
        if next(modules[name].parameters(), None) is None:
            raise InvalidValue(f"the layer {name!r} has no parameters that could be made random")
    return [(name, modules[name]) for name in names]


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restores the parameters that `randomise` changes inside.

    Raises:
        UnsupportedMethod: parameters are not in memory (offloaded).
        InvalidType: it is not a module.
    """
    if not isinstance(model, nn.Module):
        raise InvalidType(f"model must be a torch.nn.Module; got {type(model).__name__}")
    parameters = {id(parameter): parameter for parameter in model.parameters()}.values()
    if any(parameter.is_meta for parameter in parameters):
        raise UnsupportedMethod("the model's parameters are offloaded; load it whole to make its layers random")
    before = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    finally:
        _put_back(before)


def _put_back(before: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for parameter, kept in before:
            parameter.data.copy_(kept)


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Replaces each parameter of a module by normal draws with its own mean and standard deviation.

    Parameters of whole numbers, and constant ones such as fresh biases, stay as they are.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.is_floating_point() or parameter.numel() < 2:
                continue
            values = parameter.detach().to("cpu").float()
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
            parameter.data.copy_((drawn * values.std() + values.mean()).to(parameter.device, parameter.dtype))
