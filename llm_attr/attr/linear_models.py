"""Interpretable models for surrogates: least squares, ridge, lasso and other linear models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from inspect import signature
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.core.descent import Descent
from llm_attr.core.surrogate import LeastSquares, Linear, Surrogate, sklearn_fitted, sklearn_model
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


class LinearModel(Model):
    """A linear model, trained for one output by `fit` or for many at once by `fitted`."""

    def __init__(self) -> None:
        self._linear: Linear | None = None
        self._classes: Tensor | None = None
        self._has_bias = True

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
        kind = torch.promote_types(batches[0][1].dtype, torch.get_default_dtype())
        doubled = [(rows.double(), values.double(), weights.double()) for rows, values, weights in batches]
        linear, more = self._trained(doubled, kwargs)
        self._linear = Linear(linear.coefficients.to(kind), linear.intercepts.to(kind))
        return {"train_time": perf_counter() - start, **more}

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """Trains it for each output `(samples, outputs)` at once; afterwards it is that of the last one."""
        linear, _ = self._trained([(rows, values, weights)], {})
        self._linear = Linear(linear.coefficients[:, -1:], linear.intercepts[-1:])
        return linear

    @abstractmethod
    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        """The linear functions, and what is told of the training."""

    def representation(self) -> Tensor:
        """`(outputs, features)` coefficients, without the intercept."""
        return self._known().coefficients.T

    def bias(self) -> Tensor | None:
        """`(outputs,)` intercepts; None if it has none."""
        return self._known().intercepts if self._has_bias else None

    def classes(self) -> Tensor | None:
        """The classes of a classifier; None for a regression."""
        return self._classes

    def __call__(self, x: Tensor) -> Tensor:
        """`(samples, outputs)` predictions."""
        linear = self._known()
        return x.to(linear.coefficients) @ linear.coefficients + linear.intercepts.to(x.device)

    def _known(self) -> Linear:
        if self._linear is None:
            raise InvalidValue(f"{type(self).__name__} has not been trained; call fit, or explain with it, first")
        return self._linear


class SkLearnSurrogate(LinearModel):
    """A linear model of scikit-learn; least squares and ridge are solved in closed form where that is the same.

    Args:
        sklearn_module: Its place under `sklearn`, as `linear_model.Lasso`.
        kwargs: Arguments of its constructor.

    `fit` hands further keywords on to scikit-learn's `fit`.
    """

    def __init__(self, sklearn_module: str, **kwargs: Any) -> None:
        super().__init__()
        self._module, self._options = sklearn_module, kwargs
        self._has_bias = kwargs.get("fit_intercept", True)

    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        rows, values, weights = (torch.cat(parts) for parts in zip(*batches, strict=True))
        closed = self._closed_form()
        if closed is not None and not options:
            return closed.fitted(rows, values, weights), {}
        model = sklearn_model(self._module, **self._options)
        if "sample_weight" not in signature(model.fit).parameters:
            raise InvalidValue(f"sklearn.{self._module} takes no sample weights, so it cannot be a surrogate")
        linear = sklearn_fitted(model, rows, values, weights, **options)
        self._classes = torch.as_tensor(model.classes_) if hasattr(model, "classes_") else None
        return linear, {}

    def _closed_form(self) -> Surrogate | None:
        if self._module not in _IN_CLOSED_FORM or self._options.keys() - {"alpha", "fit_intercept"}:
            return None
        return LeastSquares(self._options.get("alpha", _IN_CLOSED_FORM[self._module]), bool(self._has_bias))


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
        self._has_bias, self._options = bias, {"reg_term": reg_term, **options}
        Descent.of(self._options)

    def _trained(self, batches: list[_Batch], options: dict[str, Any]) -> tuple[Linear, dict[str, Any]]:
        found = Descent.of({**self._options, **options}).trained(batches, self._has_bias)
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
    weights = parts[2].reshape(count, 1) if len(parts) == 3 else torch.ones(count, 1, device=parts[0].device)
    return parts[0], parts[1].reshape(count, -1), weights
