"""The abstract bases of all influence methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from llm_attr.core.pairing.checkpoints import Checkpoints, Load, chosen_parameters
from llm_attr.core.pairing.data import Examples
from llm_attr.core.pairing.gradients import PerExample
from llm_attr.core.pairing.loss import Loss
from llm_attr.core.pairing.methods import GradientPairing
from llm_attr.core.pairing.queries import Query
from llm_attr.core.pairing.ranking import KMostInfluentialResults
from llm_attr.errors import InvalidValue

SWITCH = " with sample_wise_grads_per_batch={}"
"""Where the reduction of a loss depends on an argument."""


class DataInfluence(ABC):
    """Explains which training examples stand behind what a model does on test examples."""

    @abstractmethod
    def influence(self, inputs: Any = None, **kwargs: Any) -> Any:
        """The influence of each training example on each test example; each method has its own arguments."""

    @classmethod
    def get_name(cls) -> str:
        """The name of the class."""
        return cls.__name__


class GradientInfluence(DataInfluence):
    """A method that multiplies gradients of test and training examples.

    Shared arguments:

    * `model`: the model. It is as it was after each call, whatever checkpoints were loaded.
    * `train_dataset`: the training data, which yields tuples `(*inputs, labels)`: a Dataset, or a DataLoader that does
      not shuffle. The number of an example is its place in it.
    * `checkpoints_load_func`: `(model, checkpoint) -> learning rate`: loads a checkpoint into the model.
    * `layers`: names of modules whose parameters count; None: all parameters that require gradients.
    * `loss_fn`: `(outputs, labels) -> loss`; None: the model's output is the loss.
    * `batch_size`: examples in a batch, where `train_dataset` is a Dataset. The answer does not depend on it, the time
      does: 64 and more is many times faster than 1.
    * `test_loss_fn`: the loss of test examples; None: `loss_fn`.
    * `sample_wise_grads_per_batch`: whether the losses give one number for a batch (`reduction="sum"` or `"mean"`)
      rather than one for each example (`"none"`).
    * `inputs`: the test examples: one batch as a tuple `(*inputs, labels)`, or a DataLoader or Dataset of them.
    * `k`: how many training examples to name for each test example; None: the scores of all.
    * `proponents`: whether to name those with the largest scores, or the opponents, with the smallest.
    * `show_progress`: whether to show a progress bar on standard error.

    Per-example gradients are never written out where factors do: a linear layer's is an outer product of what the layer
    received and the gradient of what it returned. Linear layers, convolutions, embeddings, LayerNorm and RMSNorm have
    factors; other layers go through `torch.func.vmap`, or one example at a time where that is impossible.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        checkpoints: Any,
        checkpoints_load_func: Load,
        layers: Iterable[str] | None,
        losses: tuple[Loss, Loss],
        batch_size: int,
    ) -> None:
        self._checkpoints = Checkpoints(model, checkpoints, checkpoints_load_func)
        self.model, self.train_dataset, self.batch_size = model, train_dataset, batch_size
        self._losses, self._train = losses, Examples(train_dataset, batch_size, "train_dataset")
        self._gradients = PerExample(model, chosen_parameters(model, layers))
        self._pairing = GradientPairing(f"{self.get_name()} influence", self._checkpoints, self._gradients, *losses)

    def _scores(
        self, inputs: Any, k: int | None, proponents: bool, show_progress: bool, aggregate: bool = False
    ) -> Tensor | KMostInfluentialResults:
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 0):
            raise InvalidValue(f"k must be a whole number from 0, or None for the scores of all examples; got {k!r}")
        tests = Examples(inputs, self.batch_size)
        query = Query(self._pairing, self._expected(tests, self._train), show_progress)
        if k is None:
            return query.influences(tests, self._train, aggregate)
        return query.most_influential(tests, self._train, k, proponents, aggregate)

    def _self_influence(self, inputs: Any, show_progress: bool, by_stage: bool = False) -> Tensor:
        examples = self._train if inputs is None else Examples(inputs, self.batch_size)
        return Query(self._pairing, self._expected(examples), show_progress).self_influences(examples, by_stage)

    def _vectors(self, inputs: Any, aggregate: bool, show_progress: bool = False, test: bool = False) -> Tensor:
        examples = Examples(inputs, self.batch_size)
        return Query(self._pairing, self._expected(examples), show_progress).vectors(examples, aggregate, test)

    def _expected(self, *examples: Examples) -> int:
        return self._pairing.stages * sum(each.count or 0 for each in examples)


def losses_of(loss_fn: Any, test_loss_fn: Any, reduced: bool, switch: str = "") -> tuple[Loss, Loss]:
    """The losses of training and test examples.

    Raises:
        InvalidValue: one of them has another reduction.
    """
    loss = Loss.of(loss_fn, reduced, "loss_fn", switch)
    return loss, loss if test_loss_fn is None else Loss.of(test_loss_fn, reduced, "test_loss_fn", switch)
