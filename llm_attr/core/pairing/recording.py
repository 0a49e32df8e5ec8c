"""What layers receive and return in one forward pass, for gradients by factors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from llm_attr.core.backward import inference_tensors_named
from llm_attr.core.pairing.layers import Visit
from llm_attr.core.shared_context import uncompiled
from llm_attr.core.tensors import at_least_fp32


@dataclass(frozen=True)
class _Call:
    received: Tensor
    version: int
    edge: GradientEdge


class Record:
    """The calls of some layers in one forward pass."""

    def __init__(self) -> None:
        self._calls: dict[nn.Module, list[_Call]] = defaultdict(list)
        self._thread, self.is_open = get_ident(), True

    def see(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """A forward hook: what comes before the first layer is not recorded on autograd's graph, the rest is."""
        if not self.is_open or get_ident() != self._thread or not isinstance(output, Tensor):
            return None
        torch.set_grad_enabled(True)
        result = None
        if not output.requires_grad:
            output = output.detach().requires_grad_()
            result = output.clone()
        received = args[0] if args else next(iter(kwargs.values()))
        self._calls[layer].append(_Call(received.detach(), received._version, get_gradient_edge(output)))
        return result

    def visits(self, total: Tensor) -> dict[nn.Module, list[Visit] | None]:
        """The calls of each layer with the gradients of `total`; None where an input was changed in place since."""
        edges = [call.edge for calls in self._calls.values() for call in calls]
        if not edges or not total.requires_grad:
            return {}
        gradients = iter(torch.autograd.grad(total, edges, allow_unused=True))
        found: dict[nn.Module, list[Visit] | None] = {}
        for layer, calls in self._calls.items():
            pairs = [(call, next(gradients)) for call in calls]
            unchanged = all(call.received._version == call.version for call in calls)
            found[layer] = [_visit(call.received, g) for call, g in pairs if g is not None] if unchanged else None
        return found


def _visit(received: Tensor, gradient: Tensor) -> Visit:
    return Visit(at_least_fp32(received) if received.is_floating_point() else received, at_least_fp32(gradient))


@contextmanager
def recorded(layers: Sequence[nn.Module]) -> Iterator[Record]:
    """Records the calls of these layers in the forward pass inside."""
    record = Record()
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for layer in layers:
            stack.callback(layer.register_forward_hook(record.see, with_kwargs=True).remove)
        stack.enter_context(inference_tensors_named())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        try:
            yield record
        finally:
            record.is_open = False
