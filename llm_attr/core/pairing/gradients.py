"""Gradients of each example's loss with respect to chosen parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from llm_attr.caller import warn_caller
from llm_attr.core.batching import BATCH_ERRORS, uses_batch_statistics
from llm_attr.core.jacobian import math_attention, no_vmap_fallback
from llm_attr.core.memory import is_out_of_memory
from llm_attr.core.pairing.blocks import Block, Dense
from llm_attr.core.pairing.data import Batch
from llm_attr.core.pairing.layers import Rule, Visit, rule_for
from llm_attr.core.pairing.loss import SummedLoss
from llm_attr.core.pairing.recording import recorded
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import InvalidValue


@dataclass(frozen=True)
class Embedding:
    """One vector for each example of a batch, in blocks.

    Attributes:
        blocks: Mostly the same layers in the same order for every batch.
        order: The names of the parameters in the order in which their entries are written out.
    """

    blocks: tuple[Block, ...]
    order: tuple[str, ...]

    @classmethod
    def of(cls, rows: Tensor) -> Embedding:
        """Vectors that are written out, `(examples, entries)`."""
        return cls((Dense(("",), (rows,)),), ("",))

    @property
    def count(self) -> int:
        """The number of examples."""
        return self.blocks[0].count

    def product(self, other: Embedding) -> Tensor:
        """The inner products: `(examples, other examples)`."""
        if not self._is_like(other):
            return self.written_out() @ other.written_out().T
        return _summed([mine.product(its) for mine, its in zip(self.blocks, other.blocks, strict=True)])

    def _is_like(self, other: Embedding) -> bool:
        return [block.names for block in self.blocks] == [block.names for block in other.blocks]

    def squares(self) -> Tensor:
        """The squared norms."""
        return _summed([block.squares() for block in self.blocks])

    def total(self) -> Embedding:
        """The sum over the examples, as one example."""
        return Embedding(tuple(Dense(block.names, block.totals()) for block in self.blocks), self.order)

    def plus(self, other: Embedding) -> Embedding:
        """The sum with another batch of as many examples."""
        if not self._is_like(other):
            return Embedding.of(self.written_out() + other.written_out())
        blocks = []
        for mine, its in zip(self.blocks, other.blocks, strict=True):
            pairs = zip(mine.pieces(), its.pieces(), strict=True)
            blocks.append(Dense(mine.names, [one + two for one, two in pairs]))
        return Embedding(tuple(blocks), self.order)

    def written_out(self) -> Tensor:
        """`(examples, entries)`."""
        found = {name: piece for block in self.blocks for name, piece in zip(block.names, block.pieces(), strict=True)}
        device = found[self.order[0]].device
        return torch.cat([found[name].to(device) for name in self.order], 1)

    def against(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The inner products with vectors, `(vectors, entries)` for each parameter: `(examples, vectors)`."""
        return _summed([block.against([rows[name] for name in block.names]) for block in self.blocks]).T


@dataclass
class _Layer:
    """A layer whose gradients are taken by factors; `names` maps its parameters' own names to their full names."""

    module: nn.Module
    names: dict[str, str]
    rule: Rule
    is_checked: bool = field(default=False)


class PerExample:
    """Gradients of each example's loss, by factors where a layer has a rule and by `vmap` or one by one elsewhere.

    Factors are used for a layer only after they gave, for one example within a batch, the gradient that autograd gives
    for it alone: a weight that the model also uses elsewhere, or examples that are not the leading axis, are noticed.

    Args:
        model: The model.
        parameters: The parameters by their full names.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        self.model, self.parameters = model, dict(parameters)
        self._layers = _layers(model, self.parameters)
        covered = {name for layer in self._layers for name in layer.names.values()}
        self._rest = [name for name in self.parameters if name not in covered]
        self._one_by_one = False

    def check_mode(self) -> None:
        """Warns of random activations.

        Raises:
            InvalidValue: the model has batch norm in training mode.
        """
        if uses_batch_statistics(self.model):
            raise InvalidValue(
                "the model normalises over the batch, so that an example has no gradient of its own; call model.eval()"
            )
        if self._is_random:
            warn_caller("the model drops activations at random (training mode); call model.eval() for one answer")

    @property
    def _is_random(self) -> bool:
        return any(_drops(module) for module in self.model.modules())

    @property
    def sizes(self) -> dict[str, int]:
        """The number of entries of each parameter."""
        return {name: value.numel() for name, value in self.parameters.items()}

    def of(self, batch: Batch, loss: SummedLoss) -> Embedding:
        """The gradients of a batch."""
        batch = batch.to(next(self.model.parameters()).device)
        blocks = self._by_factors(batch, loss) if self._layers else []
        if self._rest:
            values = self._elsewhere(batch, loss, self._rest)
            blocks.append(Dense(self._rest, [values[name] for name in self._rest]))
        return Embedding(tuple(blocks), tuple(self.parameters))

    def _by_factors(self, batch: Batch, loss: SummedLoss) -> list[Block]:
        with recorded([layer.module for layer in self._layers]) as record:
            total = loss.total(self.model, batch)
        visits = record.visits(total)
        blocks = {id(layer): self._block(layer, visits.get(layer.module, []), batch.count) for layer in self._layers}
        refused = {id(layer) for layer in self._layers if blocks[id(layer)] is None}
        unchecked = [layer for layer in self._layers if not layer.is_checked and id(layer) not in refused]
        if unchecked and batch.count > 1 and not self._is_random:
            refused |= self._check(unchecked, blocks, batch, loss)
        for layer in self._layers:
            if id(layer) in refused:
                self._rest += layer.names.values()
        self._layers = [layer for layer in self._layers if id(layer) not in refused]
        found = (blocks[id(layer)] for layer in self._layers)
        return [block for block in found if block is not None]

    def _block(self, layer: _Layer, visits: Sequence[Visit] | None, count: int) -> Block | None:
        if visits is None:
            return None
        if not visits:
            values = [self.parameters[name] for name in layer.names.values()]
            zeros = [at_least_fp32(value.detach()).new_zeros(count, value.numel()) for value in values]
            return Dense(list(layer.names.values()), zeros)
        return layer.rule(layer.module, layer.names, visits, count)

    def _check(
        self, layers: Sequence[_Layer], blocks: Mapping[int, Block | None], batch: Batch, loss: SummedLoss
    ) -> set[int]:
        """Layers whose factors differ from autograd's gradient of an example alone; others are not checked again."""
        norms = _summed([block.squares() for block in blocks.values() if block is not None])
        number = int(norms.argmax())
        names = [name for layer in layers for name in layer.names.values()]
        alone = self._alone(batch.rows(number, number + 1), loss, names)
        wrong = set()
        for layer in layers:
            block = blocks[id(layer)]
            pieces = () if block is None else block.pieces()
            pairs = zip(pieces, block.names if block else (), strict=True)
            layer.is_checked = all(self._agree(piece[number], alone[name], name) for piece, name in pairs)
            wrong |= set() if layer.is_checked else {id(layer)}
        return wrong

    def _agree(self, mine: Tensor, alone: Tensor, name: str) -> bool:
        limit = torch.finfo(self.parameters[name].dtype).eps ** 0.5
        return bool((mine - alone).norm() <= limit * alone.norm().clamp(min=1e-12))

    def _elsewhere(self, batch: Batch, loss: SummedLoss, names: Sequence[str]) -> dict[str, Tensor]:
        if not self._one_by_one:
            try:
                return self._mapped(batch, loss, names)
            except (*BATCH_ERRORS, UserWarning) as error:
                if is_out_of_memory(error):
                    raise
                self._one_by_one = True
        each = [self._alone(batch.rows(i, i + 1), loss, names) for i in range(batch.count)]
        return {name: torch.stack([one[name] for one in each]) for name in names}

    def _mapped(self, batch: Batch, loss: SummedLoss, names: Sequence[str]) -> dict[str, Tensor]:
        weights = {name: self.parameters[name].detach() for name in names}

        def one(weights: dict[str, Tensor], *items: Tensor) -> Tensor:
            example = Batch(tuple(item[None] for item in items), 1)
            return loss.total(self._forward(weights), example)

        with no_vmap_fallback(), math_attention():
            found = vmap(grad(one), (None, *(0 for _ in batch.items)))(weights, *batch.items)
        return {name: at_least_fp32(value.detach().flatten(1)) for name, value in found.items()}

    def _alone(self, example: Batch, loss: SummedLoss, names: Sequence[str]) -> dict[str, Tensor]:
        """Autograd's gradient of one example."""
        with torch.inference_mode(False), torch.enable_grad():
            weights = {name: self.parameters[name].detach().requires_grad_() for name in names}
            total = loss.total(self._forward(weights), example)
            if not total.requires_grad:
                return {name: torch.zeros_like(at_least_fp32(value)).flatten() for name, value in weights.items()}
            found = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
        return {name: at_least_fp32(value).flatten() for name, value in zip(weights, found, strict=True)}

    def _forward(self, weights: Mapping[str, Tensor]) -> Callable[..., Any]:
        return lambda *inputs, **named: functional_call(self.model, dict(weights), inputs, named)


def _layers(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[_Layer]:
    """The layers with a rule, each with those of its parameters that are chosen and that no other layer has."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for value in module._parameters.values():
            if value is not None:
                owners[id(value)] = owners.get(id(value), 0) + 1
    known = {id(value): name for name, value in parameters.items()}
    found = []
    for module in model.modules():
        own = {key: known[id(value)] for key, value in module._parameters.items() if id(value) in known}
        rule = rule_for(module)
        if own and rule is not None and all(owners[id(module._parameters[key])] == 1 for key in own):
            found.append(_Layer(module, own, rule))
    return found


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """The sum, on the device of the first: the layers of a divided model lie on several."""
    return sum((part.to(parts[0].device) for part in parts[1:]), parts[0])


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0
