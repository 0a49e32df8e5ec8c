"""Linear surrogates: least squares, ridge and lasso for many outputs at once, and their bootstrap."""

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
    """What fits a linear function to each output."""

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """From `(samples, features)`, `(samples, outputs)` and weights `(samples, outputs or 1)`, all in float64."""


@dataclass(frozen=True)
class LeastSquares:
    """The least sum of `weight (value - intercept - row . coefficients)^2 + ridge |coefficients|^2`, in closed form.

    Where several coefficients give the same sum, the shortest.

    Attributes:
        ridge: The penalty, which spares the intercept.
        intercept: Whether there is one; else it is 0.
    """

    ridge: float = 0.0
    intercept: bool = True

    def __post_init__(self) -> None:
        _check_penalty(self.ridge)

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """All outputs at once; outputs that share their weights share a factorisation."""
        weights = weights.T[:, :, None]
        total = weights.sum(1, keepdim=True)
        if not (total > 0).all():
            raise InvalidValue("a surrogate needs samples of positive weight: the similarity of all of them is 0")
        mean = (weights * rows).sum(1, keepdim=True) / total if self.intercept else rows.new_zeros(1, 1, rows.shape[1])
        centred = rows - mean
        gram = centred.mT @ (weights * centred) + self.ridge * torch.eye(
            rows.shape[1], dtype=torch.float32, device="cpu"
        ).to(rows)
        inverse = pseudo_inverse(gram)
        outputs = values.T[:, :, None]
        middle = (weights * outputs).sum(1, keepdim=True) / total if self.intercept else outputs.new_zeros(1, 1, 1)
        found = inverse @ (centred.mT @ (weights * (outputs - middle)))
        return Linear(found[..., 0].T, (middle - mean @ found)[:, 0, 0].expand(values.shape[1]))


@dataclass(frozen=True)
class Lasso:
    """Least squares with a penalty: the mean of `(value - intercept - row . coefficients)^2 / 2`, + `alpha |.|_1`.

    Attributes:
        alpha: The penalty, in units of the values.
    """

    alpha: float = 0.01

    def __post_init__(self) -> None:
        _check_penalty(self.alpha)

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """By scikit-learn; outputs that share their weights go together. Without penalty, least squares.

        Raises:
            MissingExtra: scikit-learn is not installed.
        """
        if self.alpha == 0:
            return LeastSquares().fitted(rows, values, weights)
        model = sklearn_model("linear_model.Lasso", alpha=self.alpha)
        return sklearn_fitted(model, rows, values, weights, together=weights.shape[1] == 1)


@dataclass(frozen=True)
class OneByOne:
    """A model of the caller's that is trained for one output at a time.

    Attributes:
        model: With `fit`, of a DataLoader of batches (rows, values, weights), and `representation`.
    """

    model: Any

    def fitted(self, rows: Tensor, values: Tensor, weights: Tensor) -> Linear:
        """Its representations, flat.

        Raises:
            InvalidShape: a representation has not one number for each feature.
        """
        found = []
        for column, weight in zip(values.T, weights.expand_as(values).T, strict=True):
            self.model.fit(loader(rows.float(), column.float(), weight.float()))
            found.append(
                torch.as_tensor(self.model.representation(), device="cpu").detach().flatten().to(rows, copy=True)
            )
            if len(found[-1]) != rows.shape[1]:
                raise InvalidShape(
                    f"the interpretable model must represent itself by one number for each of the {rows.shape[1]} "
                    f"features; {type(self.model).__name__} gave {len(found[-1])}"
                )
        return Linear(torch.stack(found, 1), rows.new_zeros(values.shape[1]))


def _check_penalty(alpha: float) -> None:
    if not alpha >= 0:
        raise InvalidValue(f"the penalty alpha must be at least 0; got {alpha!r}")


def loader(*tensors: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    """All samples in one batch; going through it draws nothing from torch's global stream."""
    return DataLoader(TensorDataset(*tensors), batch_size=len(tensors[0]), generator=torch.Generator())


def sklearn_fitted(
    model: Any, rows: Tensor, values: Tensor, weights: Tensor, together: bool = False, **options: Any
) -> Linear:
    """What a linear model of scikit-learn makes of the samples; it is left as fitted to the last output.

    Args:
        model: Not yet fitted.
        rows: `(samples, features)`.
        values: `(samples, outputs)`.
        weights: `(samples, outputs or 1)`.
        together: Whether all outputs, which share their weights, are given to it at once.
        options: Further arguments of its `fit`.
    """
    x = rows.cpu().numpy()
    outputs = [values] if together and values.shape[1] > 1 else values.T
    found = []
    for output, weight in zip(outputs, weights.T.expand(len(outputs), -1), strict=True):
        model.fit(x, output.cpu().numpy(), sample_weight=weight.cpu().numpy(), **options)
        found.append(read(model, rows))
    return Linear(torch.cat([each.coefficients for each in found], 1), torch.cat([each.intercepts for each in found]))


def read(model: Any, like: Tensor) -> Linear:
    """The coefficients of a fitted model of scikit-learn."""
    coefficients = torch.as_tensor(model.coef_, device="cpu").to(like)
    intercepts = torch.as_tensor(model.intercept_, device="cpu").to(like)
    coefficients = coefficients.reshape(-1, like.shape[1]).T
    return Linear(coefficients, intercepts.reshape(-1).expand(coefficients.shape[1]))


def sklearn_model(name: str, **options: Any) -> Any:
    """A model of scikit-learn by its place under `sklearn`, as `linear_model.Lasso`; numpy's global stream is spared.

    Raises:
        MissingExtra: scikit-learn is not installed.
        InvalidValue: it has no such class.
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
    """The standard deviation of what a fit gives when its samples are drawn anew, with replacement.

    Args:
        fit: From row numbers `(samples,)` to coefficients `(features, outputs)`.
        samples: How many there are.
        times: How often they are drawn; the draws are always the same.

    Source: B. Efron, Bootstrap Methods: Another Look at the Jackknife, 1979.
    """
    draws = torch.Generator().manual_seed(0)
    drawn = torch.randint(samples, (times, samples), generator=draws, device="cpu")
    return torch.stack([fit(rows) for rows in drawn]).std(0)


def pseudo_inverse(gram: Tensor) -> Tensor:
    """Of symmetric matrices `(..., features, features)`."""
    return torch.linalg.pinv(gram, hermitian=True, rtol=gram.shape[-1] * 1e-14)
