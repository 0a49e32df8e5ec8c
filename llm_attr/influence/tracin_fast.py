"""TracIn for the last linear layer alone, exactly or by random projections."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.pairing.checkpoints import Load, load_flexible_state_dict
from llm_attr.core.pairing.gradients import PerExample
from llm_attr.core.pairing.methods import LastLayerPairing
from llm_attr.core.pairing.ranking import KMostInfluentialResults
from llm_attr.core.random_state import streams_kept
from llm_attr.errors import InvalidType, positive
from llm_attr.influence.base import losses_of
from llm_attr.influence.nearest_neighbors import ExactNearestNeighbors, NearestNeighbors
from llm_attr.influence.tracin import TracInCPBase


class FinalLayerInfluence(TracInCPBase):
    """TracIn with respect to the parameters of the last linear layer.

    Shared arguments, besides those of `TracInCPBase`:

    * `final_fc_layer`: the layer, or its name. What comes before it is computed without gradients.
    * `loss_fn`, `test_loss_fn`: must have `reduction="sum"` or `"mean"`.
    * `vectorize`: accepted as Captum does; one backward pass for a batch is always enough.
    * `include_bias`: whether the layer's bias counts, as it does in `TracInCP`; False gives Captum's numbers, which
      leave it out.
    """

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Any,
        checkpoints: Any,
        checkpoints_load_func: Load,
        loss_fn: Any,
        batch_size: int,
        test_loss_fn: Any,
        vectorize: bool,
        include_bias: bool,
    ) -> None:
        if loss_fn is None:
            raise InvalidType(f'{self.get_name()} needs a loss_fn with reduction="sum" or "mean"; got None')
        name = _name_of(model, final_fc_layer)
        losses = losses_of(loss_fn, test_loss_fn, True)
        super().__init__(model, train_dataset, checkpoints, checkpoints_load_func, [name], losses, batch_size)
        self.vectorize, self._final = vectorize, model.get_submodule(name)
        if not include_bias:
            weights = {key: value for key, value in self._gradients.parameters.items() if key == f"{name}.weight"}
            self._gradients = PerExample(model, weights)
        self._pairing: LastLayerPairing = LastLayerPairing(
            self._pairing.name, self._checkpoints, self._gradients, *losses
        )

    @property
    def final_fc_layer(self) -> nn.Module:
        """The layer."""
        return self._final


class TracInCPFast(FinalLayerInfluence):
    """`TracInCP` for the last linear layer, whose gradients need no backward pass through the rest of the model.

    `influence(test, train) = sum over checkpoints of learning rate * (a . b + 1) (g . h)`, where the layer received `a`
    and `b` and the losses have the gradients `g` and `h` at what it returned; the 1 is the bias.

    Shared arguments: see `FinalLayerInfluence`, `TracInCPBase` and `GradientInfluence`.

    Raises:
        InvalidType: the layer is no linear layer of the model, or there is no loss.
        InvalidValue: there is no checkpoint, or a loss has another reduction.

    Source: G. Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020, section 3.3.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from llm_attr.influence import TracInCPFast
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> train = TensorDataset(torch.eye(2), torch.ones(2, 1))
        >>> def load(model, value):
        ...     torch.nn.init.constant_(model[1].weight, value)
        ...     torch.nn.init.constant_(model[1].bias, value)
        ...     return 1.0
        >>> tracin = TracInCPFast(model, model[1], train, [0.0], load, torch.nn.MSELoss(reduction="sum"), batch_size=2)
        >>> tracin.influence((torch.tensor([[1.0, 0.0]]), torch.ones(1, 1)))
        tensor([[8., 4.]])
    """

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Any,
        checkpoints: Any,
        checkpoints_load_func: Load = load_flexible_state_dict,
        loss_fn: Any = None,
        batch_size: int = 1,
        test_loss_fn: Any = None,
        vectorize: bool = False,
        *,
        include_bias: bool = True,
    ) -> None:
        super().__init__(
            model,
            final_fc_layer,
            train_dataset,
            checkpoints,
            checkpoints_load_func,
            loss_fn,
            batch_size,
            test_loss_fn,
            vectorize,
            include_bias,
        )

    def influence(  # type: ignore[override]
        self, inputs: Any, k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """The influence of each training example on each test example, as in `TracInCP.influence`.

        Shared arguments: see `GradientInfluence`.

        Returns:
            `(test examples, training examples)`, or with `k` the numbers and the scores of `(test examples, k)`.

        Raises:
            UnsupportedMethod: the layer is called several times for an example, or its weight is used elsewhere.
        """
        return self._scores(inputs, k, proponents, show_progress)

    def self_influence(
        self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False
    ) -> Tensor:
        """The influence of each example on itself.

        Args:
            inputs: The examples; None: the training data.
            show_progress: Whether to show a progress bar.
            outer_loop_by_checkpoints: As in `TracInCP.self_influence`.

        Returns:
            `(examples,)`, never negative.
        """
        return self._self_influence(inputs, show_progress, outer_loop_by_checkpoints)


class TracInCPFastRandProj(FinalLayerInfluence):
    """`TracInCPFast` whose training vectors are computed once, and made short by random projections.

    `influence(test, train) = sum over checkpoints of rate * <(g P) (a Q)^T, (h P) (b Q)^T>`, where P and Q
    have independent normal entries, so that the expectation is the influence of `TracInCPFast`. Without
    `projection_dim` it is that influence. Construction computes the vectors of the training data; each query then costs
    its own test examples and a search among them.

    Shared arguments: see `FinalLayerInfluence`, `TracInCPBase` and `GradientInfluence`.

    Args:
        nearest_neighbors: Searches for the largest inner products; None: `ExactNearestNeighbors`.
        projection_dim: The most entries of a vector at one checkpoint; None: no projection.
        seed: The seed of P and Q; torch's random state stays as it is.

    Raises:
        InvalidType: the layer is no linear layer of the model, there is no loss, or `nearest_neighbors` is none.
        InvalidValue: there is no checkpoint, or a loss has another reduction.

    Source: G. Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020, section 3.3.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from llm_attr.influence import TracInCPFastRandProj
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> train = TensorDataset(torch.eye(2), torch.ones(2, 1))
        >>> def load(model, value):
        ...     torch.nn.init.constant_(model[1].weight, value)
        ...     torch.nn.init.constant_(model[1].bias, value)
        ...     return 1.0
        >>> loss = torch.nn.MSELoss(reduction="sum")
        >>> tracin = TracInCPFastRandProj(model, model[1], train, [0.0], load, loss, batch_size=2)
        >>> tracin.influence((torch.tensor([[1.0, 0.0]]), torch.ones(1, 1)), k=1)
        KMostInfluentialResults(indices=tensor([[0]]), influence_scores=tensor([[8.]]))
    """

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Any,
        checkpoints: Any,
        checkpoints_load_func: Load = load_flexible_state_dict,
        loss_fn: Any = None,
        batch_size: int = 1,
        test_loss_fn: Any = None,
        vectorize: bool = False,
        nearest_neighbors: NearestNeighbors | None = None,
        projection_dim: int | None = None,
        seed: int = 0,
        *,
        include_bias: bool = True,
    ) -> None:
        super().__init__(
            model,
            final_fc_layer,
            train_dataset,
            checkpoints,
            checkpoints_load_func,
            loss_fn,
            batch_size,
            test_loss_fn,
            vectorize,
            include_bias,
        )
        if nearest_neighbors is not None and not isinstance(nearest_neighbors, NearestNeighbors):
            raise InvalidType(f"nearest_neighbors must be a NearestNeighbors or None; got {nearest_neighbors!r}")
        self.nearest_neighbors = nearest_neighbors or ExactNearestNeighbors()
        self.projection_dim = None if projection_dim is None else positive("projection_dim", projection_dim)
        self._pairing.written_out = True
        if self.projection_dim is not None:
            self._pairing.projections = _projections(*self._sides(), self.projection_dim, seed)
        self._stored = self._vectors(train_dataset, False)
        self.nearest_neighbors.setup(self._stored)

    def _sides(self) -> tuple[int, int]:
        """The entries of the layer's output and of its input, the bias included."""
        weight, *bias = self._gradients.parameters.values()
        return weight.shape[0], weight.shape[1] + len(bias)

    def influence(  # type: ignore[override]
        self, inputs: Any = None, k: int | None = 5, proponents: bool = True
    ) -> Tensor | KMostInfluentialResults:
        """The influence of the stored training examples on each test example.

        Shared arguments: see `GradientInfluence`.

        Returns:
            With `k` the numbers and the scores of `(test examples, k)`; else `(test examples, training examples)`.
        """
        vectors = self._vectors(inputs, False, test=True)
        if k is None:
            return vectors @ self._stored.T
        positive("k", k)
        sign = 1 if proponents else -1
        indices, scores = self.nearest_neighbors.get_nearest_neighbors(sign * vectors, min(k, len(self._stored)))
        return KMostInfluentialResults(indices, sign * scores)

    def self_influence(
        self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False
    ) -> Tensor:
        """The influence of each example on itself, from its projected vector.

        Args:
            inputs: The examples; None: the training data.
            show_progress: Whether to show a progress bar.
            outer_loop_by_checkpoints: As in `TracInCP.self_influence`.

        Returns:
            `(examples,)`, never negative.
        """
        if inputs is None:
            return self._stored.square().sum(1)
        return self._self_influence(inputs, show_progress, outer_loop_by_checkpoints)

    def compute_intermediate_quantities(self, inputs: Any) -> Tensor:
        """The projected vector of each example: inner products with training vectors are influences.

        Args:
            inputs: The examples, as in `influence`.

        Returns:
            `(examples, checkpoints * entries)`, times the root of the learning rate.
        """
        return self._vectors(inputs, False, test=True)


def _projections(outputs: int, inputs: int, most: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """P and Q; None if a gradient has no more entries than are wanted."""
    if outputs * inputs <= most:
        return None
    sides = [min(int(sqrt(most)), size) for size in (outputs, inputs)]
    with streams_kept(seed):
        torch.empty((), dtype=torch.int64, device="cpu").random_()  # a DataLoader draws one number before
        left, right = (
            torch.normal(torch.zeros(size, side, dtype=torch.float64, device="cpu"), 1 / sqrt(side))
            for size, side in zip((outputs, inputs), sides, strict=True)
        )
    return left, right


def _name_of(model: nn.Module, layer: nn.Module | str) -> str:
    """The name of a linear layer of the model.

    Raises:
        InvalidType: it is no linear layer of the model.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, module in linear.items():
        if module is layer or name == layer:
            return name
    given = repr(layer) if isinstance(layer, str) else type(layer).__name__
    raise InvalidType(
        "final_fc_layer must be a torch.nn.Linear of the model or the name of one "
        f"({', '.join(linear) or 'it has none'}); got {given}"
    )
