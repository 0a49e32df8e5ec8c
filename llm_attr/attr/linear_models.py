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
"""Least squares that need no scikit-learn, and their penalty by default."""


_Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]


class Model(ABC):
    """A model that can be trained to stand for another one."""

    @abstractmethod
    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> dict[str, Any] | None:
        """Trains it anew.

        Args:
            train_data: A DataLoader of batches (rows, values) or (rows, values, weights).
            kwargs: Options of the training.
        """

    @abstractmethod
    def representation(self) -> Tensor:
        """What it has learned, as the coefficients of a linear model."""

    def __call__(self, x: Tensor) -> Tensor:
        """What it predicts for rows `(samples, features)`."""
        raise NotImplementedError(f"{type(self).__name__} does not predict")


class LinearModel(nn.Module, Model):
    """A linear model, trained for one output by `fit` or for many at once by `fitted`.

    Attributes:
        linear: What it has learned, a layer of its own parameters; None before it is trained.
    """

    linear: nn.Linear | None

    def __init__(self) -> None:
        super().__init__()
        self.linear = None
        self._classes: Tensor | None = None

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> dict[str, Any]:
        """Trains it on batches (rows, values) or (rows, values, weights).

        Args:
            train_data: A DataLoader.
            kwargs: Options of the training, see the class.

        Returns:
            `train_time` in seconds; what else is told of the training.
        """
        start = perf_counter()
        batches = [_batch(batch) for batch in train_data]
        if not batches:
            raise InvalidShape("train_data must give at least one batch")
        place, kind = batches[0][1].device, torch.promote_types(batches[0][1].dtype, torch.get_default_dtype())
        doubled = [(exact(rows), exact(values), exact(weights)) for rows, values, weights in batches]
        linear, more = self._trained(doubled, kwargs)
        self._learn(*(found.to(kind).to(place) for found in (linear.coefficients, linear.intercepts)))
        return {"train_time": perf_counter() - start, **more}

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """Trains it for each output `(samples, outputs)` at once; afterwards it is that of the last one."""
        found, _ = self._trained([(rows, values, weights)], {})
        self._learn(found.coefficients[:, -1:], found.intercepts[-1:])
        return found

    @property
    def trains_as_it_comes(self) -> bool:
        """Whether `fit` and `representation` are this library's, so that `fitted` comes to the same."""
        own = self.__dict__.keys() | {name for base in _between(type(self)) for name in vars(base)}
        return own.isdisjoint(("fit", "representation"))

    @abstractmethod
    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        """The linear functions, and what is told of the training."""

    def representation(self) -> Tensor:
        """`(outputs, features)` coefficients, without the intercept."""
        return self._known().weight.detach().clone()

    def bias(self) -> Tensor:
        """`(outputs,)` intercepts; 0 if it was trained without."""
        return self._known().bias.detach().clone()

    def classes(self) -> Tensor | None:
        """The classes of a classifier; None for a regression."""
        return self._classes

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, outputs)` predictions."""
        linear = self._known()
        return linear(x.to(linear.weight))

    def _learn(self, coefficients: Tensor, intercepts: Tensor) -> None:
        """Takes the coefficients `(features, outputs)` into its layer, which is made anew where it does not fit."""
        layer, weight = self.linear, coefficients.T
        if layer is None or layer.weight.shape != weight.shape or layer.weight.dtype != weight.dtype:
            features, outputs = coefficients.shape
            layer = nn.utils.skip_init(nn.Linear, features, outputs, dtype=weight.dtype)
            self.linear = layer.train(self.training)
        layer.to(weight.device)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(intercepts)

    def _known(self) -> nn.Linear:
        if self.linear is None:
            raise InvalidValue(f"{type(self).__name__} has not been trained; call fit, or explain with it, first")
        return self.linear


def _between(model: type[LinearModel]) -> list[type]:
    """The classes that this library does not know, from a model's own up to the first that it does."""
    return list(takewhile(lambda base: base.__module__ != __name__, model.__mro__))


class SkLearnSurrogate(LinearModel):
    """A linear model of scikit-learn; least squares and ridge are solved in closed form where that is the same.

    Args:
        sklearn_module: Its place under `sklearn`, as `linear_model.Lasso`.
        kwargs: Arguments of its constructor.

    `fit` hands further keywords on to scikit-learn's `fit`.
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
        sklearn_module: Its place under `sklearn`.
        kwargs: Arguments of its constructor.

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
        kwargs: Arguments of `sklearn.linear_model.Lasso`, as `alpha` (1.0).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Lasso", **kwargs)


class SkLearnRidge(SkLearnSurrogate):
    """Least squares with a penalty on the squared coefficients.

    Args:
        kwargs: Arguments of `sklearn.linear_model.Ridge`, as `alpha` (1.0).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Ridge", **kwargs)


class SkLearnLinearRegression(SkLearnSurrogate):
    """Least squares.

    Args:
        kwargs: Arguments of `sklearn.linear_model.LinearRegression`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.LinearRegression", **kwargs)


class SGDSurrogate(LinearModel):
    """A linear model that is trained by gradient descent, batch by batch as the DataLoader gives them.

    Args:
        reg_term: Which norm of the coefficients is penalised; None: there is no penalty.
        bias: Whether it has an intercept.
        options: Defaults for the options of `fit`, which are the fields of `Descent`: `alpha` (1.0), `max_epoch` (100),
            `initial_lr` (0.01) and so on.
    """

    def __init__(self, reg_term: int | None, bias: bool = True, **options: Any) -> None:
        super().__init__()
        self._has_bias, self.construct_kwargs = bias, {"reg_term": reg_term, **options}
        Descent.of(self.construct_kwargs)

    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        found = Descent.of({**self.construct_kwargs, **options}).trained(batches, self._has_bias)
        return found.linear, {"train_loss": found.loss, "train_iter": found.steps, "train_epoch": found.epochs}


class SGDLasso(SGDSurrogate):
    """Least squares with a penalty on the absolute coefficients, by gradient descent; none becomes exactly 0.

    Args:
        options: See `SGDSurrogate`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(1, **options)


class SGDRidge(SGDSurrogate):
    """Least squares with a penalty on the length of the coefficients, by gradient descent.

    Args:
        options: See `SGDSurrogate`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)


class SGDLinearRegression(SGDSurrogate):
    """Least squares by gradient descent.

    Args:
        options: See `SGDSurrogate`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(None, **options)


def _batch(batch: Any) -> _Batch:
    """Rows, values `(samples, outputs)` and weights `(samples, 1)` of what a DataLoader gives."""
    parts = [part.detach() for part in batch]
    if not 2 <= len(parts) <= 3 or parts[0].dim() != 2:
        raise InvalidShape(
            "train_data must give batches of rows (samples, features) and values, and maybe weights; got shapes "
            f"{[tuple(part.shape) for part in parts]}"
        )
    count = len(parts[0])
    weights = (
        parts[2].reshape(count, 1)
        if len(parts) == 3
        else torch.ones(count, 1, device=parts[0].device, dtype=torch.float32)
    )
    return parts[0], parts[1].reshape(count, -1), weights
