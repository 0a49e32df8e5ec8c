"""Linear surrogates: least squares, ridge and lasso for many outputs at once, and the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from llm_attr.errors import InvalidShape, InvalidValue, MissingExtra


@dataclass(frozen=True)
class Linear:
    """Linear functions of the same features.

    Attributes:
        coefficients: `(features, outputs)`.
        intercepts: `(outputs,)`.
    """

    coefficients: Tensor
    intercepts: Tensor


class Surrogate(Protocol):
    """Fits a linear function to each output."""

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """The fit to `(samples, features)`, `(samples, outputs)` and weights `(samples, outputs or 1)` in float64."""


@dataclass(frozen=True)
class LeastSquares:
    """Minimizes the sum of `weight (value - intercept - row . coefficients)^2 + ridge |coefficients|^2` in closed form.

    Among several solutions, the one of minimum norm.

    Attributes:
        ridge: The penalty; not applied to the intercept.
        intercept: Whether to fit an intercept; otherwise it is 0.
    """

    ridge: float = 0.0
    intercept: bool = True

    def __post_init__(self) -> None:
        _check_penalty(self.ridge)

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """Fits all outputs at once; outputs with shared weights share a factorization."""
        weights = weights.T[:, :, None]
        total = weights.sum(1, keepdim=True)
        if not (total > 0).all():
            raise InvalidValue("a surrogate needs samples of positive weight: the similarity of all of them is 0")
        mean = (weights * rows).sum(1, keepdim=True) / total if self.intercept else rows.new_zeros(1, 1, rows.shape[1])
        centred = rows - mean
        identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        inverse = pseudo_inverse(centred.mT @ (weights * centred) + self.ridge * identity)
        outputs = values.T[:, :, None]
        middle = (weights * outputs).sum(1, keepdim=True) / total if self.intercept else outputs.new_zeros(1, 1, 1)
        solution = inverse @ (centred.mT @ (weights * (outputs - middle)))
        return Linear(solution[..., 0].T, (middle - mean @ solution)[:, 0, 0].expand(values.shape[1]))


@dataclass(frozen=True)
class Lasso:
    """Minimizes the mean of `(value - intercept - row . coefficients)^2 / 2`, plus `alpha |coefficients|_1`.

    Attributes:
        alpha: The penalty, in units of the values.
    """

    alpha: float = 0.01

    def __post_init__(self) -> None:
        _check_penalty(self.alpha)

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """Fits by scikit-learn, outputs with shared weights together; without penalty by least squares.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        if self.alpha == 0:
            return LeastSquares().fitted(rows, values, weights)
        model = sklearn_model("linear_model.Lasso", alpha=self.alpha)
        return sklearn_fitted(model, rows, values, weights, together=weights.shape[1] == 1)


@dataclass(frozen=True)
class OneByOne:
    """A custom model, trained for one output at a time.

    Attributes:
        model: An object with `representation` and with `fit`, which takes a DataLoader of (rows, values, weights).
    """

    model: Any

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """The flattened representations as coefficients.

        Raises:
            InvalidShape: a representation does not have one number per feature.
        """
        columns = []
        for column, weight in zip(values.T, weights.expand_as(values).T, strict=True):
            self.model.fit(loader(rows.float(), column.float(), weight.float()))
            representation = torch.as_tensor(self.model.representation(), device="cpu").detach().flatten()
            columns.append(representation.to(rows, copy=True))
            if len(representation) != rows.shape[1]:
                raise InvalidShape(
                    f"the interpretable model must represent itself by one number for each of the {rows.shape[1]} "
                    f"features; {type(self.model).__name__} gave {len(representation)}"
                )
        return Linear(torch.stack(columns, 1), rows.new_zeros(values.shape[1]))


def _check_penalty(alpha: float) -> None:
    if not alpha >= 0:
        raise InvalidValue(f"the penalty alpha must be at least 0; got {alpha!r}")


def loader(*tensors: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    """All samples in one batch; iteration does not draw from torch's global generator."""
    return DataLoader(TensorDataset(*tensors), batch_size=len(tensors[0]), generator=torch.Generator())


def sklearn_fitted(
    model: Any, rows: Tensor, values: Tensor, weights: Tensor, together: bool = False, **options: Any
) -> Linear:
    """The fit of a linear model of scikit-learn, which keeps the fit to the last output.

    Args:
        model: The model.
        rows: `(samples, features)`.
        values: `(samples, outputs)`.
        weights: `(samples, outputs or 1)`.
        together: Whether to fit all outputs at once; they share their weights.
        options: Further arguments of its `fit`.
    """
    x = rows.cpu().numpy()
    outputs = [values] if together and values.shape[1] > 1 else values.T
    fits = []
    for output, weight in zip(outputs, weights.T.expand(len(outputs), -1), strict=True):
        model.fit(x, output.cpu().numpy(), sample_weight=weight.cpu().numpy(), **options)
        fits.append(_fit_of(model, rows))
    return Linear(torch.cat([fit.coefficients for fit in fits], 1), torch.cat([fit.intercepts for fit in fits]))


def _fit_of(model: Any, like: Tensor) -> Linear:
    """The coefficients of a fitted model of scikit-learn."""
    coefficients = torch.as_tensor(model.coef_, device="cpu").to(like)
    intercepts = torch.as_tensor(model.intercept_, device="cpu").to(like)
    coefficients = coefficients.reshape(-1, like.shape[1]).T
    return Linear(coefficients, intercepts.reshape(-1).expand(coefficients.shape[1]))


def sklearn_model(name: str, **options: Any) -> Any:
    """A model of scikit-learn by its name under `sklearn`, such as `linear_model.Lasso`.

    Does not draw from numpy's global generator.

    Raises:
        MissingExtra: scikit-learn is not installed.
        InvalidValue: there is no such class.
    """
    module, _, called = name.rpartition(".")
    try:
        sklearn = import_module("sklearn")
    except ModuleNotFoundError:
        raise MissingExtra("scikit-learn", "surrogates") from None
    try:
        make = getattr(import_module(f"{sklearn.__name__}.{module}"), called)
    except (ImportError, AttributeError):
        raise InvalidValue(
            f"sklearn_module must be a class under sklearn, as 'linear_model.Lasso'; got {name!r}"
        ) from None
    repeatable = {"random_state": 0} if "random_state" in signature(make).parameters else {}
    return make(**{**repeatable, **options})


def bootstrap(fit: Callable[[Tensor], Tensor], samples: int, times: int) -> Tensor:
    """The standard deviation of a fit over resamples with replacement.

    Args:
        fit: From row numbers `(samples,)` to coefficients `(features, outputs)`.
        samples: Number of samples.
        times: Number of resamples; the random numbers are always the same.

    Source: B. Efron, Bootstrap Methods: Another Look at the Jackknife, 1979.
    """
    draws = torch.Generator().manual_seed(0)
    drawn = torch.randint(samples, (times, samples), generator=draws, device="cpu")
    return torch.stack([fit(rows) for rows in drawn]).std(0)


def pseudo_inverse(gram: Tensor) -> Tensor:
    """The pseudo-inverse of symmetric matrices `(..., features, features)`."""
    return torch.linalg.pinv(gram, hermitian=True, rtol=gram.shape[-1] * 1e-14)
