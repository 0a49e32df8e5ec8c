"""Influence functions: gradients multiplied under the inverse Hessian."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import free_bytes
from llm_attr.core.operators.base import Operator
from llm_attr.core.operators.hessian import Hessian
from llm_attr.core.operators.krylov import Eigenpairs, arnoldi
from llm_attr.core.pairing.checkpoints import Load, load_flexible_state_dict
from llm_attr.core.pairing.data import Examples
from llm_attr.core.pairing.methods import CurvaturePairing
from llm_attr.core.pairing.ranking import KMostInfluentialResults
from llm_attr.core.random_state import streams_kept
from llm_attr.errors import InvalidValue, positive
from llm_attr.influence.base import SWITCH, GradientInfluence, losses_of


class InfluenceFunctionBase(GradientInfluence):
    """A method that approximates what retraining without an example would change.

    `influence(test, train) = gradient(test loss)^T H^-1 gradient(train loss)`, with H the Hessian of the summed
    training loss: to first order the test loss grows by so much when the training example is left out.

    Shared arguments, besides those of `GradientInfluence`:

    * `checkpoint`: what `checkpoints_load_func` receives, best a minimum of the training loss. The number that the
      function returns is not used.
    * `hessian_dataset`: the data of the Hessian; None: the training data.
    * `projection_dim`: how many directions of the largest curvature are kept.
    * `seed`: the seed of random numbers, which come from a stream of their own; torch's random state stays as it is.
    * `hessian_reg`: added to each eigenvalue of the Hessian.
    * `hessian_inverse_tol`: directions with a smaller eigenvalue are left out.
    * `projection_on_cpu`: whether the directions are kept, and gradients multiplied with them, on the CPU.
    """


class IntermediateQuantitiesInfluenceFunction(InfluenceFunctionBase):
    """An influence function that writes the inverse Hessian as `R R^T`, so that each example has a short vector.

    Shared arguments: see `InfluenceFunctionBase` and `GradientInfluence`.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        checkpoint: Any,
        checkpoints_load_func: Load,
        layers: Iterable[str] | None,
        loss_fn: Any,
        batch_size: int,
        hessian_dataset: Any,
        test_loss_fn: Any,
        sample_wise_grads_per_batch: bool,
        projection_dim: int,
        seed: int,
        hessian_reg: float,
        hessian_inverse_tol: float,
        projection_on_cpu: bool,
        show_progress: bool,
    ) -> None:
        reduced = bool(sample_wise_grads_per_batch)
        losses = losses_of(loss_fn, test_loss_fn, reduced, SWITCH.format(reduced))
        super().__init__(model, train_dataset, [checkpoint], checkpoints_load_func, layers, losses, batch_size)
        self.checkpoint, self.projection_dim, self.seed = checkpoint, positive("projection_dim", projection_dim), seed
        self.hessian_reg, self.hessian_inverse_tol = float(hessian_reg), float(hessian_inverse_tol)
        data = train_dataset if hessian_dataset is None else hessian_dataset
        self._hessian_data = Examples(data, batch_size, "hessian_dataset")
        with self._pairing.opened(), streams_kept(seed):
            self._pairing.enter(0)
            self.R = self._root(show_progress)
        if projection_on_cpu:
            self.R = self.R.cpu()
        names, sizes = zip(*self._gradients.sizes.items(), strict=True)
        rows = dict(zip(names, self.R.T.split(sizes, 1), strict=True))
        name = f"{self.get_name()} influence"
        self._pairing = CurvaturePairing(name, self._checkpoints, self._gradients, *self._losses, root=rows)

    def _root(self, show_progress: bool) -> Tensor:
        name = f"{self.get_name()} Hessian"
        batches = -(-(self._hessian_data.count or 0) // self.batch_size)
        with Evaluator(name, batches * self._products(), show_progress=show_progress) as evaluator:
            parameters = self._gradients.parameters
            hessian = Hessian(self.model, parameters, self._hessian_data, self._losses[0], evaluator)
            root = self._eigenpairs(hessian).inverse_root(
                self.hessian_reg, self.hessian_inverse_tol, self.projection_dim
            )
            evaluator.finish()
        if not root.shape[1]:
            raise InvalidValue(
                f"no direction of the Hessian has a curvature above hessian_inverse_tol={self.hessian_inverse_tol}; is "
                "the checkpoint near a minimum of the training loss? Else raise hessian_reg"
            )
        return root

    @abstractmethod
    def _products(self) -> int:
        """The expected number of products with the Hessian, a batch of vectors counted as one."""

    @abstractmethod
    def _eigenpairs(self, hessian: Operator) -> Eigenpairs:
        """Eigenvalues of the Hessian, with eigenvectors."""

    def influence(  # type: ignore[override]
        self, inputs: Any, k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """The influence of each training example on each test example.

        Shared arguments: see `GradientInfluence`.

        Returns:
            `(test examples, training examples)`, or with `k` the numbers and the scores of `(test examples, k)`. In
            units of the loss.

        Raises:
            InvalidValue: the labels are missing, data shuffles or is empty, or the model normalises over the batch.
        """
        return self._scores(inputs, k, proponents, show_progress)

    def self_influence(self, inputs_dataset: Any = None, show_progress: bool = False) -> Tensor:
        """The influence of each example on itself, which is large for outliers and wrong labels.

        Args:
            inputs_dataset: The examples, as in `influence`; None: the training data.
            show_progress: Whether to show a progress bar.

        Returns:
            `(examples,)`, never negative.
        """
        return self._self_influence(inputs_dataset, show_progress)

    def compute_intermediate_quantities(
        self,
        inputs_dataset: Any,
        aggregate: bool = False,
        show_progress: bool = False,
        return_on_cpu: bool = True,
        test: bool = False,
    ) -> Tensor:
        """The vector `R^T gradient` of each example: inner products are influences.

        Args:
            inputs_dataset: The examples, as in `influence`.
            aggregate: Whether to sum up over the examples.
            show_progress: Whether to show a progress bar.
            return_on_cpu: Whether the vectors are returned on the CPU, or else on the model's device.
            test: Whether the gradients are those of `test_loss_fn`.

        Returns:
            `(examples or 1, directions)`.
        """
        vectors = self._vectors(inputs_dataset, aggregate, show_progress, test)
        device = next(iter(self._gradients.parameters.values())).device
        return vectors.cpu() if return_on_cpu else vectors.to(device)


class NaiveInfluenceFunction(IntermediateQuantitiesInfluenceFunction):
    """The influence function with the whole Hessian, for models of some thousand parameters.

    The Hessian is written out, `(parameters, parameters)`, and all of its eigenvalues are computed. `seed` makes what
    the model or the loader draw meanwhile repeatable.

    Shared arguments: see `InfluenceFunctionBase` and `GradientInfluence`.

    Raises:
        InvalidValue: the Hessian does not fit into memory or has no direction of positive curvature, a layer does not
            exist or has no parameters, or a loss has another reduction.
        InvalidType: the model is no module, or the data is none.

    Source: P. W. Koh and P. Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017, equation 2.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from llm_attr.influence import NaiveInfluenceFunction
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> train = TensorDataset(torch.ones(2, 1), torch.tensor([[0.0], [2.0]]))
        >>> def load(model, value):
        ...     torch.nn.init.constant_(model.weight, value)
        ...     return 1.0
        >>> function = NaiveInfluenceFunction(model, train, 1.0, load, loss_fn=torch.nn.MSELoss(reduction="none"))
        >>> function.influence((torch.ones(1, 1), torch.zeros(1, 1))).round(decimals=3)
        tensor([[ 1., -1.]])
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        checkpoint: Any,
        checkpoints_load_func: Load = load_flexible_state_dict,
        layers: Iterable[str] | None = None,
        loss_fn: Any = None,
        batch_size: int = 1,
        hessian_dataset: Any = None,
        test_loss_fn: Any = None,
        sample_wise_grads_per_batch: bool = False,
        projection_dim: int = 50,
        seed: int = 42,
        hessian_reg: float = 1e-6,
        hessian_inverse_tol: float = 1e-5,
        projection_on_cpu: bool = True,
        show_progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            train_dataset,
            checkpoint,
            checkpoints_load_func,
            layers,
            loss_fn,
            batch_size,
            hessian_dataset,
            test_loss_fn,
            sample_wise_grads_per_batch,
            projection_dim,
            seed,
            hessian_reg,
            hessian_inverse_tol,
            projection_on_cpu,
            show_progress,
        )

    def _products(self) -> int:
        return -(-self._size // 64)

    @cached_property
    def _size(self) -> int:
        return sum(self._gradients.sizes.values())

    def _eigenpairs(self, hessian: Operator) -> Eigenpairs:
        needed = 3 * 8 * self._size**2
        if needed > (room := free_bytes(hessian.device)):
            raise InvalidValue(
                f"the Hessian of {self._size:,} parameters needs {needed / 1e9:,.0f} GB and {room / 1e9:,.0f} GB are "
                "free; choose layers with fewer, or use ArnoldiInfluenceFunction"
            )
        return Eigenpairs.of(hessian)


class ArnoldiInfluenceFunction(IntermediateQuantitiesInfluenceFunction):
    """The influence function with the largest eigenvalues of the Hessian, from its products with some vectors.

    Shared arguments: see `InfluenceFunctionBase` and `GradientInfluence`.

    Args:
        arnoldi_dim: The most products with the Hessian, each of which passes over `hessian_dataset`.
        arnoldi_tol: It ends early when a product adds a direction shorter than this.

    Raises:
        InvalidValue: the Hessian has no direction of positive curvature, a layer does not exist or has no parameters,
            or a loss has another reduction.
        InvalidType: the model is no module, or the data is none.

    Source: A. Schioppa et al., Scaling Up Influence Functions, AAAI 2022, algorithm 1.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> from llm_attr.influence import ArnoldiInfluenceFunction
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> train = TensorDataset(torch.ones(2, 1), torch.tensor([[0.0], [2.0]]))
        >>> def load(model, value):
        ...     torch.nn.init.constant_(model.weight, value)
        ...     return 1.0
        >>> function = ArnoldiInfluenceFunction(model, train, 1.0, load, loss_fn=torch.nn.MSELoss(reduction="none"))
        >>> function.influence((torch.ones(1, 1), torch.zeros(1, 1))).round(decimals=2)
        tensor([[ 1., -1.]])
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Any,
        checkpoint: Any,
        checkpoints_load_func: Load = load_flexible_state_dict,
        layers: Iterable[str] | None = None,
        loss_fn: Any = None,
        batch_size: int = 1,
        hessian_dataset: Any = None,
        test_loss_fn: Any = None,
        sample_wise_grads_per_batch: bool = False,
        projection_dim: int = 50,
        seed: int = 0,
        arnoldi_dim: int = 200,
        arnoldi_tol: float = 1e-1,
        hessian_reg: float = 1e-3,
        hessian_inverse_tol: float = 1e-4,
        projection_on_cpu: bool = True,
        show_progress: bool = False,
    ) -> None:
        self.arnoldi_dim, self.arnoldi_tol = positive("arnoldi_dim", arnoldi_dim), float(arnoldi_tol)
        super().__init__(
            model,
            train_dataset,
            checkpoint,
            checkpoints_load_func,
            layers,
            loss_fn,
            batch_size,
            hessian_dataset,
            test_loss_fn,
            sample_wise_grads_per_batch,
            projection_dim,
            seed,
            hessian_reg,
            hessian_inverse_tol,
            projection_on_cpu,
            show_progress,
        )

    def _products(self) -> int:
        return min(self.arnoldi_dim, sum(self._gradients.sizes.values()))

    def _eigenpairs(self, hessian: Operator) -> Eigenpairs:
        parameters = self._gradients.parameters.values()
        drawn = (torch.randn_like(value).flatten() for value in parameters)
        start = torch.cat([each.to(hessian.device, hessian.dtype) for each in drawn])
        return arnoldi(hessian, start, self.arnoldi_dim, self.arnoldi_tol)
