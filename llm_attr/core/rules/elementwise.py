"""Detection of elementwise modules, such as a GELU implemented with several operations."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor, nn

PROBE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, ArithmeticError)
"""What a module may raise for the tensors it is probed with."""

PERMUTATION = (7, 2, 11, 0, 5, 9, 1, 10, 4, 8, 3, 6)
"""Of twelve numbers."""


def is_elementwise(module: nn.Module) -> bool:
    """Whether a module without submodules and parameters applies one function to each entry of its input.

    The module is probed with small tensors. Modules of torch itself are excluded: the rules know their operations.
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
    x = torch.linspace(-3, 3, len(PERMUTATION), dtype=torch.float32, device="cpu")
    given, order = x.clone(), torch.tensor(PERMUTATION, device="cpu")
    y, mixed, shaped = (module.forward(each) for each in (given, x[order], x.view(1, 3, 2, 2).clone()))
    if not all(isinstance(value, Tensor) for value in (y, mixed, shaped)) or y.shape != x.shape:
        return False
    same = torch.allclose(y[order], mixed) and torch.allclose(y, shaped.reshape(-1))
    return same and torch.equal(given, x) and not torch.allclose(y, x)
