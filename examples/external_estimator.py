"""A game is a plain function of coalitions, so another library's estimator can play it.

    python examples/external_estimator.py

Shapiq (`pip install shapiq`) plays the game where it is installed; else a linear regression of scikit-learn does.
"""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.svm import SVR
from torch import Tensor

from llm_attr.attr import Banzhaf, ShapleyValues
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.features import Features
from llm_attr.core.game.tensor_game import TensorGame
from llm_attr.core.problem import Problem

Masks = NDArray[np.bool_]
Numbers = NDArray[np.float64]


def as_numpy(game: TensorGame) -> Callable[[Masks], Numbers]:
    """`(coalitions, features)` bool -> `(coalitions,)`, as other libraries have their games."""
    return lambda masks: game(torch.from_numpy(np.atleast_2d(masks).astype(bool)))[:, 0].double().numpy()


def by_shapiq(value: Callable[[Masks], Numbers], features: int, budget: int) -> Numbers:
    """Shapley values by shapiq's KernelSHAP."""
    import shapiq

    found = shapiq.KernelSHAP(n=features, random_state=0).approximate(budget=budget, game=value)
    return np.array([found[(i,)] for i in range(features)])


def by_regression(value: Callable[[Masks], Numbers], features: int, budget: int) -> Numbers:
    """Banzhaf values: the weights of the linear fit to random coalitions."""
    masks = np.random.default_rng(0).random((budget, features)) < 0.5
    return LinearRegression().fit(masks, value(masks)).coef_


def main() -> None:
    data = load_diabetes()
    machine = SVR(C=100).fit(data.data, data.target)

    def model(x: Tensor) -> Tensor:
        return torch.from_numpy(machine.predict(x.numpy()))

    patient = torch.from_numpy(data.data[:1])
    problem = Problem.of(model, patient)
    features = Features.of(None, problem.inputs)
    budget = 300
    value = as_numpy(TensorGame(problem, features, Evaluator("an external estimator", budget)))
    try:
        name, found, exact = "shapiq", by_shapiq(value, features.count, budget), ShapleyValues(model).attribute(patient)
    except ImportError:
        name, found = "scikit-learn", by_regression(value, features.count, budget)
        exact = Banzhaf(model).attribute(patient, n_samples=None)
    print(f"{'':6}{name:>14}{'exact':>10}")
    for column, one, other in zip(data.feature_names, found, exact[0].tolist(), strict=True):
        print(f"{column:6}{one:14.2f}{other:10.2f}")
    error = np.abs(found - exact[0].numpy()).max() / exact.abs().max().item()
    print(f"largest error: {100 * error:.1f}% of the largest value, {budget} evaluations instead of 1024")


if __name__ == "__main__":
    main()
