"""Interpretable models for surrogates: least squares, ridge, lasso and other linear models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from inspect import signature
from itertools import takewhile
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from llm_attr.core.estimators.descent import Descent
from llm_attr.core.estimators.surrogate import LeastSquares, Linear, Surrogate, sklearn_fitted, sklearn_model
from llm_attr.core.tensors import exact
from llm_attr.errors import InvalidShape, InvalidValue

_IN_CLOSED_FORM = {"linear_model.LinearRegression": 0.0, "linear_model.Ridge": 1.0}
"""Models solved without scikit-learn, and their default penalty."""


_Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Model(ABC):
    """A model that can be trained as a surrogate of another one."""

    @abstractmethod
    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> dict[str, Any] | None:
        """Trains the model from scratch.

        Args:
            train_data: A DataLoader of batches (rows, values) or (rows, values, weights).
            **kwargs: Options of the training.
        """

    @abstractmethod
    def representation(self) -> Tensor:
        """The coefficients, as of a linear model."""

    def __call__(self, x: Tensor) -> Tensor:
        """The predictions for rows `(samples, features)`."""
        raise NotImplementedError(f"{type(self).__name__} does not predict")


class LinearModel(nn.Module, Model):
    """A linear model, trained for one output by `fit` or for many at once by `fitted`.

    Attributes:
        linear: The trained layer; None before training.
    """

    linear: nn.Linear | None

    def __init__(self) -> None:
        super().__init__()
        self.linear = None
        self._classes: Tensor | None = None

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> dict[str, Any]:
        """Trains the model on batches (rows, values) or (rows, values, weights).

        Args:
            train_data: A DataLoader.
            **kwargs: Options of the training, see the class.

        Returns:
            `train_time` in seconds, and further statistics of the training.
        """
        start = perf_counter()
        batches = [_batch(batch) for batch in train_data]
        if not batches:
            raise InvalidShape("train_data must give at least one batch")
        device, dtype = batches[0][1].device, torch.promote_types(batches[0][1].dtype, torch.get_default_dtype())
        doubled = [(exact(rows), exact(values), exact(weights)) for rows, values, weights in batches]
        linear, statistics = self._trained(doubled, kwargs)
        self._set(linear.coefficients.to(dtype).to(device), linear.intercepts.to(dtype).to(device))
        return {"train_time": perf_counter() - start, **statistics}

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """Trains the model for all outputs `(samples, outputs)` at once; it keeps the last one."""
        linear, _ = self._trained([(rows, values, weights)], {})
        self._set(linear.coefficients[:, -1:], linear.intercepts[-1:])
        return linear

    @property
    def has_library_fit(self) -> bool:
        """Whether `fit` and `representation` are not overridden, so that `fitted` is equivalent."""
        subclasses = takewhile(lambda base: base.__module__ != __name__, type(self).__mro__)
        own = self.__dict__.keys() | {name for base in subclasses for name in vars(base)}
        return own.isdisjoint(("fit", "representation"))

    @abstractmethod
    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        """The linear functions, and statistics of the training."""

    def representation(self) -> Tensor:
        """`(outputs, features)` coefficients, without the intercept."""
        return self._trained_layer().weight.detach().clone()

    def bias(self) -> Tensor:
        """`(outputs,)` intercepts; 0 if trained without."""
        return self._trained_layer().bias.detach().clone()

    def classes(self) -> Tensor | None:
        """The classes of a classifier; None for a regression."""
        return self._classes

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, outputs)` predictions."""
        linear = self._trained_layer()
        return linear(x.to(linear.weight))

    def _set(self, coefficients: Tensor, intercepts: Tensor) -> None:
        """Copies coefficients `(features, outputs)` into the layer, which is replaced if its shape or dtype differs."""
        layer, weight = self.linear, coefficients.T
        if layer is None or layer.weight.shape != weight.shape or layer.weight.dtype != weight.dtype:
            features, outputs = coefficients.shape
            layer = nn.utils.skip_init(nn.Linear, features, outputs, dtype=weight.dtype)
            self.linear = layer.train(self.training)
        layer.to(weight.device)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(intercepts)

    def _trained_layer(self) -> nn.Linear:
        if self.linear is None:
            raise InvalidValue(f"{type(self).__name__} has not been trained; call fit, or explain with it, first")
        return self.linear


class SkLearnSurrogate(LinearModel):
    """A linear model of scikit-learn; least squares and ridge are solved in closed form where that is equivalent.

    Args:
        sklearn_module: The class under `sklearn`, such as `linear_model.Lasso`.
        **kwargs: Arguments of its constructor.

    `fit` passes further keywords on to scikit-learn's `fit`.
    """

    def __init__(self, sklearn_module: str, **kwargs: Any) -> None:
        super().__init__()
        self.sklearn_module, self.construct_kwargs = sklearn_module, kwargs

    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        rows, values, weights = (torch.cat(parts) for parts in zip(*batches, strict=True))
        closed = self._closed_form()
        if closed is not None and not options:
            return closed.fitted(rows, values, weights), {}
        model = sklearn_model(self.sklearn_module, **self.construct_kwargs)
        if "sample_weight" not in signature(model.fit).parameters:
            raise InvalidValue(f"sklearn.{self.sklearn_module} takes no sample weights, so it cannot be a surrogate")
        linear = sklearn_fitted(model, rows, values, weights, **options)
        self._classes = torch.as_tensor(model.classes_, device="cpu") if hasattr(model, "classes_") else None
        return linear, {}

    def _closed_form(self) -> Surrogate | None:
        options = self.construct_kwargs
        if self.sklearn_module not in _IN_CLOSED_FORM or options.keys() - {"alpha", "fit_intercept"}:
            return None
        penalty = options.get("alpha", _IN_CLOSED_FORM[self.sklearn_module])
        return LeastSquares(penalty, bool(options.get("fit_intercept", True)))


class SkLearnLinearModel(SkLearnSurrogate):
    """Any linear model of scikit-learn that takes sample weights.

    Args:
        sklearn_module: The class under `sklearn`.
        **kwargs: Arguments of its constructor.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Lime, SkLearnLinearModel
        >>> Lime(lambda x: x.sum(1), SkLearnLinearModel("linear_model.Ridge", alpha=0.0)).attribute(
        ...     torch.tensor([[1.0, 2.0]]), seed=0
        ... ).round(decimals=4)
        tensor([[1., 2.]])
    """


class SkLearnLasso(SkLearnSurrogate):
    """Least squares with a penalty on the absolute coefficients, by scikit-learn.

    Args:
        **kwargs: Arguments of `sklearn.linear_model.Lasso`, such as `alpha` (1.0).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Lasso", **kwargs)


class SkLearnRidge(SkLearnSurrogate):
    """Least squares with a penalty on the squared coefficients.

    Args:
        **kwargs: Arguments of `sklearn.linear_model.Ridge`, such as `alpha` (1.0).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Ridge", **kwargs)


class SkLearnLinearRegression(SkLearnSurrogate):
    """Least squares.

    Args:
        **kwargs: Arguments of `sklearn.linear_model.LinearRegression`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.LinearRegression", **kwargs)


class SGDSurrogate(LinearModel):
    """A linear model trained by gradient descent on the batches of the DataLoader.

    Args:
        reg_term: The norm of the coefficients that is penalised; None: no penalty.
        bias: Whether the model has an intercept.
        **options: Defaults for the options of `fit`, the fields of `Descent`: `alpha` (1.0), `max_epoch` (100),
            `initial_lr` (0.01) and so on.
    """

    def __init__(self, reg_term: int | None, bias: bool = True, **options: Any) -> None:
        super().__init__()
        self._has_bias, self.construct_kwargs = bias, {"reg_term": reg_term, **options}
        Descent.of(self.construct_kwargs)

    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        result = Descent.of({**self.construct_kwargs, **options}).trained(batches, self._has_bias)
        return result.linear, {"train_loss": result.loss, "train_iter": result.steps, "train_epoch": result.epochs}


class SGDLasso(SGDSurrogate):
    """Least squares with a penalty on the absolute coefficients, by gradient descent; coefficients are never exactly 0.

    Args:
        **options: See `SGDSurrogate`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(1, **options)


class SGDRidge(SGDSurrogate):
    """Least squares with a penalty on the length of the coefficients, by gradient descent.

    Args:
        **options: See `SGDSurrogate`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)


class SGDLinearRegression(SGDSurrogate):
    """Least squares by gradient descent.

    Args:
        **options: See `SGDSurrogate`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(None, **options)


def _batch(batch: Any) -> _Batch:
    """Rows, values `(samples, outputs)` and weights `(samples, 1)` of a DataLoader's batch."""
    parts = [part.detach() for part in batch]
    if not 2 <= len(parts) <= 3 or parts[0].dim() != 2:
        raise InvalidShape(
            "train_data must give batches of rows (samples, features) and values, and maybe weights; got shapes "
            f"{[tuple(part.shape) for part in parts]}"
        )
    rows, values, *rest = parts
    weights = rest[0] if rest else torch.ones(len(rows), device=rows.device, dtype=torch.float32)
    return rows, values.reshape(len(rows), -1), weights.reshape(len(rows), 1)
