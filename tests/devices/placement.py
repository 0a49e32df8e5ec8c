"""Where a model lies: on one device, or cut in two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Module = TypeVar("Module", bound=nn.Module)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Placement:
    """A way to lay a model out.

    Attributes:
        name: What it is called in the table.
        device: Where inputs go, and the first half of the model or all of it.
        rest: Where the second half of the model lies; None: the model is not divided.
        tolerance: How far results may be from those of the CPU, relative to the largest of them.
        within: What holds while methods explain.
        without: What the device does without, from the making of the model on; None: nothing.
    """

    name: str
    device: torch.device = CPU
    rest: torch.device | None = None
    tolerance: float = 1e-6
    within: Callable[[], AbstractContextManager[Any]] = nullcontext
    without: Callable[[], AbstractContextManager[Any]] | None = None

    def put(self, model: Module, first: Sequence[str], second: Sequence[str]) -> Module:
        """The model at its place, with a watch at its door; `first` and `second` name the submodules of its halves."""
        if self.rest is None:
            model.to(self.device)
        else:
            _untie(model)
            places = dict.fromkeys(first, self.device) | dict.fromkeys(second, self.rest)
            for name, device in places.items():
                part = model.get_submodule(name).to(device)
                add_hook_to_module(part, AlignDevicesHook(execution_device=device, io_same_device=False))
            add_hook_to_module(model, AlignDevicesHook(execution_device=self.device, io_same_device=True))
            model.hf_device_map = places
        model.register_forward_pre_hook(self._watch, with_kwargs=True)
        return model

    def tensor(self, values: Tensor) -> Tensor:
        """A tensor where inputs go."""
        return values.to(self.device)

    def _watch(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Accelerate's hooks move what lies on a wrong device, at a price, and what they move may be wanted elsewhere.

        Raises:
            AssertionError: a tensor that the model is given lies elsewhere, or would be moved away from where it is
                used.
        """
        wrong = {tensor.device for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)} - {self.device}
        if wrong:
            raise AssertionError(f"the model lies on {self.device} and was given a tensor on {wrong.pop()}")
        if isinstance(kwargs.get("logits_to_keep"), Tensor):
            raise AssertionError("logits_to_keep is a tensor, and the output head may lie on another device")


def _untie(model: nn.Module) -> None:
    """Gives each module weights of its own: one that two halves share would lie where the last of them is put."""
    seen: set[int] = set()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if id(weight) in seen:
                setattr(module, name, nn.Parameter(weight.detach().clone(), weight.requires_grad))
            seen.add(id(weight))
