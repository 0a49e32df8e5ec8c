"""TracIn: inner products of gradients at the checkpoints of a training run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from llm_attr.core.pairing.checkpoints import Load, load_flexible_state_dict
from llm_attr.core.pairing.ranking import KMostInfluentialResults
from llm_attr.influence.base import SWITCH, GradientInfluence, losses_of


class TracInCPBase(GradientInfluence):
    """A method that sums up over checkpoints.

    Shared arguments, besides those of `GradientInfluence`:

    * `checkpoints`: what `checkpoints_load_func` receives, one for each checkpoint; a folder stands for its files.
    """

    @property
    def checkpoints(self) -> list[Any]:
        """What `checkpoints_load_func` receives, one for each checkpoint."""
        return self._checkpoints.items

    @abstractmethod
    def self_influence(self, inputs: Any = None, show_progress: bool = False) -> Tensor:
        """The influence of each example on itself, which is large for outliers and wrong labels.

        Args:
            inputs: The examples; None: the training data.
            show_progress: Whether to show a progress bar.
        """


class TracInCP(TracInCPBase):
    """How much each training example changed the loss of each test example during training.

    `influence(test, train) = sum over checkpoints of learning rate * <gradient(test loss), gradient(train loss)>`, with
    gradients with respect to the parameters of the chosen layers. Positive for proponents, which lowered the test loss.

    Shared arguments: see `TracInCPBase` and `GradientInfluence`.

    Raises:
        InvalidValue: there is no checkpoint, a layer does not exist or has no parameters, or a loss has a reduction
            other than `sample_wise_grads_per_batch` says.
        InvalidType: the model is no module, or the data is none.

    Source: G. Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020, equation 1.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from llm_attr.influence import TracInCP
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> train = TensorDataset(torch.eye(2), torch.ones(2, 1))
        >>> def load(model, value):
        ...     torch.nn.init.constant_(model.weight, value)
        ...     return 1.0
        >>> tracin = TracInCP(model, train, [0.0, 0.5], load, loss_fn=torch.nn.MSELoss(reduction="none"), batch_size=2)
        >>> tracin.influence((torch.tensor([[1.0, 0.0]]), torch.ones(1, 1)))
        tensor([[5., 0.]])
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        checkpoints: Any,
        checkpoints_load_func: Load = load_flexible_state_dict,
        layers: Iterable[str] | None = None,
        loss_fn: Any = None,
        batch_size: int = 1,
        test_loss_fn: Any = None,
        sample_wise_grads_per_batch: bool = False,
    ) -> None:
        reduced = bool(sample_wise_grads_per_batch)
        losses = losses_of(loss_fn, test_loss_fn, reduced, SWITCH.format(reduced))
        super().__init__(model, train_dataset, checkpoints, checkpoints_load_func, layers, losses, batch_size)

    def influence(  # type: ignore[override]
        self,
        inputs: Any,
        k: int | None = None,
        proponents: bool = True,
        show_progress: bool = False,
        aggregate: bool = False,
    ) -> Tensor | KMostInfluentialResults:
        """The influence of each training example on each test example.

        Shared arguments: see `GradientInfluence`.

        Args:
            aggregate: Whether to explain the sum of the test losses: results have one row.

        Returns:
            `(test examples, training examples)`, or with `k` the numbers and the scores of `(test examples, k)`. In
            units of the loss.

        Raises:
            InvalidValue: a checkpoint does not fit the model, the labels are missing, data shuffles or is empty, or the
                model normalises over the batch.
            InvalidShape: the loss has not the shape that belongs to its reduction.
        """
        return self._scores(inputs, k, proponents, show_progress, aggregate)

    def self_influence(
        self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False
    ) -> Tensor:
        """The influence of each example on itself, which is large for outliers and wrong labels.

        Args:
            inputs: The examples, as in `influence`; None: the training data.
            show_progress: Whether to show a progress bar.
            outer_loop_by_checkpoints: Whether each checkpoint is loaded once and the data read once for each of them;
                else the data is read once, in rounds of at most 4,096 examples and 256 MB, and checkpoints are loaded
                once for each round.

        Returns:
            `(examples,)`, never negative.
        """
        return self._self_influence(inputs, show_progress, outer_loop_by_checkpoints)

    def compute_intermediate_quantities(self, inputs: Any, aggregate: bool = False) -> Tensor:
        """The vector of each example: `<vector(a), vector(b)>` is the influence of one on the other.

        Args:
            inputs: The examples, as in `influence`.
            aggregate: Whether to sum up over the examples.

        Returns:
            `(examples or 1, checkpoints * parameters)`: gradients of `loss_fn`, times the root of the learning rate.
        """
        return self._vectors(inputs, aggregate)
