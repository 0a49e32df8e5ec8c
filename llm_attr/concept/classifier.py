"""Classifiers whose weights are concept activation vectors."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.concepts.directions import Probe, fit_direction
from llm_attr.core.estimators.surrogate import sklearn_model
from llm_attr.core.random_state import AllStreams
from llm_attr.errors import InvalidValue, UnknownKeyword


class Classifier(ABC):
    """Separates the activations of concepts; the abstract base of your own, which take no arguments of `__init__`."""

    @abstractmethod
    def __init__(self) -> None: ...

    @abstractmethod
    def train_and_eval(self, dataloader: Iterable[Any], **kwargs: Any) -> dict[str, Any] | None:
        """Trains the classifier.

        Args:
            dataloader: Batches of activations `(examples, features)` and labels `(examples,)`, the ids of concepts.
            **kwargs: Options, from `TCAV(..., **classifier_kwargs)`.

        Returns:
            What is to be kept in `CAV.stats`, such as `accs`: tensors, numbers, texts; or None.
        """

    @abstractmethod
    def weights(self) -> Tensor:
        """`(classes, features)`: the directions of the classes, a row for each, also if there are two."""

    @abstractmethod
    def classes(self) -> list[int]:
        """The labels in the order of the rows."""


class DefaultClassifier(Classifier):
    """A linear support vector machine, trained by scikit-learn's `SGDClassifier` (extra `surrogates`).

    Needs all activations in memory. Without a seed it draws from the global streams of Python (the held-out examples)
    and numpy (the order of training).

    Example:
        >>> import torch
        >>> from llm_attr.concept import DefaultClassifier
        >>> classifier, x = DefaultClassifier(), torch.arange(8.0)[:, None] - 3.5
        >>> classifier.train_and_eval([(x, (x > 0).long()[:, 0])], seed=0)
        {'accs': tensor(1.)}
    """

    def __init__(self) -> None:
        self._weights: Tensor | None = None
        self._classes: list[int] = []

    def train_and_eval(
        self, dataloader: Iterable[Any], test_split_ratio: float = 0.33, **kwargs: Any
    ) -> dict[str, Any] | None:
        """Trains on some examples and measures the accuracy on the others.

        Args:
            dataloader: Batches of activations and labels.
            test_split_ratio: The share of examples held out, between 0 and 1.
            **kwargs: `seed`, and arguments of `sklearn.linear_model.SGDClassifier`, by default `alpha=0.01`,
                `max_iter=1000`, `tol=0.001`.

        Returns:
            `accs`: the accuracy on held-out examples.

        Raises:
            InvalidValue: the ratio leaves no example to test, or only one class to train on.
            UnknownKeyword: an unknown option.
            MissingExtra: scikit-learn is not installed.
        """
        seed = kwargs.pop("seed", None)
        made = {"alpha": 0.01, "max_iter": 1000, "tol": 1e-3, "random_state": seed, **kwargs}
        model = _sgd_classifier(made)
        rows, labels = gathered(dataloader)
        order = list(range(len(rows)))
        (random if seed is None else random.Random(seed)).shuffle(order)
        held = _held_out(test_split_ratio, len(rows))
        place = torch.tensor(order, device=rows.device)
        tested, trained = place[:held], place[held:]
        self._classes = labels.unique().tolist()
        if len(labels[trained].unique()) < max(2, len(self._classes)):
            raise InvalidValue(
                f"a classifier needs examples of at least two concepts, and of each among those it is trained on; got "
                f"{len(trained)} of the classes {labels[trained].unique().tolist()}, all classes: {self._classes}"
            )
        x = rows.float() if rows.dtype != torch.float64 else rows
        weights, intercepts = _fitted(model, x[trained].cpu(), labels[trained].cpu())
        if len(weights) == 1:
            weights, intercepts = torch.cat([-weights, weights]), torch.cat([-intercepts, intercepts])
        self._weights = weights
        guess = (x[tested].cpu() @ weights.T + intercepts).argmax(1)
        right = torch.tensor(self._classes, device="cpu")[guess] == labels[tested].cpu()
        return {"accs": right.float().mean()}

    def weights(self) -> Tensor:
        """`(classes, features)`."""
        if self._weights is None:
            raise InvalidValue("the classifier has not been trained; call train_and_eval first")
        return self._weights

    def classes(self) -> list[int]:
        """The labels, ascending."""
        return self._classes


class ProbeClassifier(Classifier):
    """A direction from all others to each concept: `mean_difference`, or the weights of a `logistic` regression.

    Draws nothing from global streams: the same activations give the same weights.

    Args:
        probe: `mean_difference` or `logistic`.

    Source: see `llm_attr.core.concepts.directions.fit_direction`.

    Example:
        >>> import torch
        >>> from llm_attr.concept import ProbeClassifier
        >>> classifier, x = ProbeClassifier(), torch.arange(8.0)[:, None] - 3.5
        >>> classifier.train_and_eval([(x, (x > 0).long()[:, 0])])
        {'accs': tensor(1.)}
    """

    def __init__(self, probe: Probe = "mean_difference") -> None:
        self.probe = probe
        self._rows: list[Tensor] = []
        self._classes: list[int] = []

    def train_and_eval(
        self, dataloader: Iterable[Any], test_split_ratio: float = 0.33, **kwargs: Any
    ) -> dict[str, Any] | None:
        """Finds the directions and measures the accuracy on held-out examples.

        Args:
            dataloader: Batches of activations and labels.
            test_split_ratio: The share of each class held out.
            **kwargs: `penalty` of the logistic regression (0.01), and `seed` (0) of the examples held out.

        Returns:
            `accs`: the mean over classes of the accuracy with which each is told from the others.

        Raises:
            InvalidValue: there is one class, or a class has too few examples.
            UnknownKeyword: an unknown option.
        """
        if unknown := kwargs.keys() - {"penalty", "seed"}:
            raise UnknownKeyword("ProbeClassifier.train_and_eval", unknown, ["penalty", "seed", "test_split_ratio"])
        rows, labels = gathered(dataloader)
        self._classes = labels.unique().tolist()
        if len(self._classes) < 2:
            raise InvalidValue(f"a classifier needs examples of at least two concepts; got the classes {self._classes}")
        options: dict[str, Any] = {"held_out": test_split_ratio, **kwargs}
        found = [fit_direction(rows[labels == c], rows[labels != c], self.probe, **options) for c in self._classes]
        self._rows = [each.weights.to(torch.promote_types(rows.dtype, torch.float32)) for each in found]
        return {"accs": torch.tensor(sum(each.accuracy for each in found) / len(found), device="cpu")}

    def weights(self) -> Tensor:
        """`(classes, features)`."""
        if not self._rows:
            raise InvalidValue("the classifier has not been trained; call train_and_eval first")
        return torch.stack(self._rows)

    def classes(self) -> list[int]:
        """The labels, ascending."""
        return self._classes


def gathered(dataloader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """All activations `(examples, features)` and labels `(examples,)`.

    Raises:
        InvalidValue: there is none.
    """
    parts = [(rows.flatten(1), labels) for rows, labels in dataloader]
    if not parts:
        raise InvalidValue("a classifier needs at least one batch of activations; got none")
    rows, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return rows, labels


def _fitted(model: Any, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `(1 or classes, features)` and intercepts.

    With the penalty `|w|^2`, gradient descent from zero stays in the span of the examples, and a rotation changes
    nothing. So where there are more features than examples, it runs on coordinates in that span: `Z` with
    `Z Z^T = X X^T`.
    """
    if rows.shape[1] <= len(rows) or model.penalty not in ("l2", None):
        model.fit(rows.numpy(), labels.numpy())
        return torch.from_numpy(model.coef_).to(rows), torch.from_numpy(model.intercept_).to(rows)
    whole = rows.double()
    values, vectors = torch.linalg.eigh(whole @ whole.T)
    kept = values > values[-1] * len(rows) * 1e-15
    roots, vectors = values[kept].sqrt(), vectors[:, kept]
    model.fit((vectors * roots).numpy(), labels.numpy())
    shares = torch.from_numpy(model.coef_) @ (vectors / roots).T
    return (shares @ whole).to(rows), torch.from_numpy(model.intercept_).to(rows)


def _held_out(ratio: float, count: int) -> int:
    """How many examples are held out."""
    if not 0 < ratio < 1:
        raise InvalidValue(f"test_split_ratio must be between 0 and 1; got {ratio!r}")
    held = int(ratio * count)
    if not held:
        raise InvalidValue(f"test_split_ratio={ratio:g} of {count} examples holds none out; give more examples")
    return held


def _sgd_classifier(options: dict[str, Any]) -> Any:
    """The classifier; the import of scikit-learn, which draws from Python's stream, leaves no trace."""
    before = AllStreams.now()
    model = sklearn_model("linear_model.SGDClassifier")
    known = model.get_params()
    if unknown := options.keys() - known.keys():
        raise UnknownKeyword("DefaultClassifier.train_and_eval", unknown, [*sorted(known), "seed", "test_split_ratio"])
    before.restore()
    return model.set_params(**options)
