"""Modules that are one function of each entry of their input, such as a GELU that a model writes out."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor, nn

PROBE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, ArithmeticError)
"""What a module raises that has no use for the tensors that it is tried with."""

PLACES = (7, 2, 11, 0, 5, 9, 1, 10, 4, 8, 3, 6)
"""Another order of twelve numbers."""


def acts_on_each_entry(module: nn.Module) -> bool:
    """Whether a module without parts and parameters gives each entry of its input the value of one function.

    It is tried with small tensors of its own. (Modules of torch itself are known as operations.)
    """
    if type(module).__module__.startswith("torch.") or type(module).forward is nn.Module.forward:
        return False
    if any(True for _ in (*module.children(), *module.parameters(), *module.buffers())):
        return False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return _is_one_function(copy(module))
    except PROBE_ERRORS:
        return False


def _is_one_function(module: nn.Module) -> bool:
    x = torch.linspace(-3, 3, len(PLACES), dtype=torch.float32, device="cpu")
    given, order = x.clone(), torch.tensor(PLACES, device="cpu")
    y, mixed, shaped = (module.forward(each) for each in (given, x[order], x.view(1, 3, 2, 2).clone()))
    if not all(isinstance(value, Tensor) for value in (y, mixed, shaped)) or y.shape != x.shape:
        return False
    same = torch.allclose(y[order], mixed) and torch.allclose(y, shaped.reshape(-1))
    return same and torch.equal(given, x) and not torch.allclose(y, x)
