"""The pairings of influence methods: gradients at checkpoints, projected gradients, gradients under a curvature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from llm_attr.core.pairing.blocks import Outer
from llm_attr.core.pairing.checkpoints import Checkpoints
from llm_attr.core.pairing.data import Batch
from llm_attr.core.pairing.gradients import Embedding, PerExample
from llm_attr.core.pairing.loss import Loss
from llm_attr.core.pairing.queries import Pairing
from llm_attr.core.random_state import streams_kept
from llm_attr.errors import UnsupportedMethod


class GradientPairing(Pairing):
    """`sum over checkpoints of learning rate * <gradient of the test loss, gradient of the training loss>`.

    Args:
        name: The label of progress bars.
        checkpoints: The checkpoints.
        gradients: The gradients of each example.
        loss: The loss of training examples.
        test_loss: The loss of test examples.
    """

    def __init__(self, name: str, checkpoints: Checkpoints, gradients: PerExample, loss: Loss, test_loss: Loss) -> None:
        self.name, self.stages = name, len(checkpoints.items)
        self.checkpoints, self.gradients, self.losses = checkpoints, gradients, (loss, test_loss)

    @contextmanager
    def opened(self) -> Iterator[None]:
        with streams_kept(), self.checkpoints.kept():
            self.gradients.check_mode()
            yield

    def enter(self, stage: int) -> float:
        return self.checkpoints.load(self.checkpoints.items[stage])

    def embed(self, batch: Batch, test: bool) -> Embedding:
        return self.gradients.of(batch, self.losses[test])


class LastLayerPairing(GradientPairing):
    """As `GradientPairing` for one linear layer.

    Attributes:
        written_out: Whether embeddings are vectors rather than factors.
        projections: P and Q, `(outputs, few)` and `(inputs, few)`: a gradient `g a^T` is written out as
            `(g P) (a Q)^T`; None: as it is.
    """

    written_out: bool = False
    projections: tuple[Tensor, Tensor] | None = None

    def embed(self, batch: Batch, test: bool) -> Embedding:
        """The embedding of a batch.

        Raises:
            UnsupportedMethod: the layer's gradients are no products of what it receives and gradients.
        """
        embedding = super().embed(batch, test)
        block = embedding.blocks[0]
        if len(embedding.blocks) > 1 or not isinstance(block, Outer):
            raise UnsupportedMethod(
                "final_fc_layer must be a torch.nn.Linear that the model calls with the examples as its leading axis, "
                "and whose weight is used nowhere else; TracInCP takes any layer"
            )
        if not self.written_out:
            return embedding
        g, a = block.g, block.a
        a = torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2) if len(block.names) == 2 else a
        if self.projections is not None:
            left, right = (matrix.to(g) for matrix in self.projections)
            a, g = a @ right, g @ left
        return Embedding.of((g.transpose(1, 2) @ a).flatten(1))


class CurvaturePairing(GradientPairing):
    """`<R^T gradient of the test loss, R^T gradient of the training loss>`, where `R R^T` is the inverse curvature.

    Args:
        name: The label of progress bars.
        checkpoints: One checkpoint.
        gradients: The gradients of each example.
        loss: The loss of training examples.
        test_loss: The loss of test examples.
        root: R, `(directions, entries)` for each parameter.
    """

    def __init__(
        self,
        name: str,
        checkpoints: Checkpoints,
        gradients: PerExample,
        loss: Loss,
        test_loss: Loss,
        root: Mapping[str, Tensor],
    ) -> None:
        super().__init__(name, checkpoints, gradients, loss, test_loss)
        self._root = root
        self._first = next(iter(root.values()))

    def enter(self, stage: int) -> float:
        super().enter(stage)
        return 1.0

    def embed(self, batch: Batch, test: bool) -> Embedding:
        gradients = super().embed(batch, test)
        devices = {value.device for value in self.gradients.parameters.values()}
        if devices != {self._first.device}:
            flat = torch.cat([self._root[name] for name in gradients.order], 1)
            return Embedding.of(gradients.written_out().to(flat) @ flat.T)
        return Embedding.of(gradients.against(self._root))
