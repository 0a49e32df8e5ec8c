"""The Hessian of a sum of losses over data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from llm_attr.core.batching import BATCH_ERRORS
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.jacobian import math_attention, no_vmap_fallback
from llm_attr.core.memory import free_bytes, is_out_of_memory
from llm_attr.core.operators.base import Operator
from llm_attr.core.pairing.data import Batch, Examples
from llm_attr.core.pairing.loss import Loss
from llm_attr.core.tensors import at_least_fp32

MOST_KEPT = 1 << 30
"""Bytes of graphs that are kept from one product to the next, if a quarter of the free memory is not less."""


class Hessian(Operator):
    """The second derivatives of the summed loss with respect to chosen parameters, in the order of their names.

    A product costs a backward pass through the graph of the gradient. Graphs are kept for later products as long as
    they fit into memory.

    Args:
        model: The model, at the state whose Hessian is meant.
        parameters: The parameters by their full names.
        examples: The data.
        loss: The loss.
        evaluator: Counts the batches of each product as evaluations.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        examples: Examples,
        loss: Loss,
        evaluator: Evaluator,
    ) -> None:
        self._model, self._examples, self._loss, self._evaluator = model, examples, loss, evaluator
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        first = next(iter(self._leaves.values()))
        self.size = sum(value.numel() for value in self._leaves.values())
        self.dtype, self.device = at_least_fp32(first).dtype, first.device
        self._room = min(MOST_KEPT, free_bytes(self.device) // 4)
        self._kept: list[Tensor] | None = None
        self._one_by_one = False

    def product(self, columns: Tensor) -> Tensor:
        """`(size, columns)`, times the Hessian.

        Raises:
            OutOfMemory: a batch of the data does not fit.
        """
        total = torch.zeros(self.size, columns.shape[1], dtype=self.dtype, device=self.device)
        rows = columns.T.contiguous()
        for gradient in self._gradients():
            self._evaluator.check()
            if gradient.requires_grad:
                total += self._derivatives(gradient, rows.to(gradient.dtype)).T.to(self.dtype)
            self._evaluator.advance(1)
        return total

    def _gradients(self) -> Iterator[Tensor]:
        """The gradient of each batch, on autograd's graph."""
        if self._kept is not None:
            yield from self._kept
            return
        kept, used = list[Tensor](), 0
        for batch in self._examples:
            gradient, size = self._gradient(batch.to(next(self._model.parameters()).device))
            used += size
            if used <= self._room:
                kept.append(gradient)
            else:
                kept.clear()
            yield gradient
        self._kept = kept if used <= self._room else None

    def _gradient(self, batch: Batch) -> tuple[Tensor, int]:
        """A batch's gradient, and the bytes of its graph."""
        storages: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            return tensor

        with torch.inference_mode(False), torch.enable_grad(), math_attention():
            with saved_tensors_hooks(count, lambda tensor: tensor):
                total = self._loss.total(self._forward, batch)
                parts = (
                    torch.autograd.grad(
                        total, list(self._leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
                    )
                    if total.requires_grad
                    else [torch.zeros_like(value) for value in self._leaves.values()]
                )
            return torch.cat([part.flatten().to(self.device) for part in parts]), sum(storages.values())

    def _derivatives(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """`(rows, size)`: each row times the derivative of the gradient."""
        if len(rows) > 1 and not self._one_by_one:
            try:
                with no_vmap_fallback():
                    return self._flat(self._derived(gradient, rows, is_grads_batched=True), len(rows))
            except (*BATCH_ERRORS, UserWarning) as error:
                if is_out_of_memory(error):
                    raise
                self._one_by_one = True
        return torch.cat([self._flat(self._derived(gradient, row), 1) for row in rows])

    def _derived(self, gradient: Tensor, rows: Tensor, **options: Any) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            gradient,
            list(self._leaves.values()),
            rows,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
            **options,
        )

    def _flat(self, parts: tuple[Tensor, ...], rows: int) -> Tensor:
        return torch.cat([part.reshape(rows, -1).to(self.device) for part in parts], 1)

    @property
    def _forward(self) -> Callable[..., Any]:
        return lambda *inputs: functional_call(self._model, self._leaves, inputs)
