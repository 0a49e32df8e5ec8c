"""Several methods share what a model has answered, and their progress comes to its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr.attr import Banzhaf, FeatureAblation, Owen, PermutationShapley, ShapleyValues, ShapleyValueSampling
from llm_attr.core.evaluator import Progress, watching
from llm_attr.core.game import driver as playing
from llm_attr.core.game.ledger import Ledger
from llm_attr.errors import InvalidValue

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHER = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Counted:
    """A model that counts the coalitions it is asked."""

    def __init__(self) -> None:
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x) // len(X)
        return ((x @ OTHER).tanh() * x).sum(1)

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


class TestLedger:
    def test_the_second_method_costs_only_what_is_new(self) -> None:
        model, ledger = Counted(), Ledger()
        per_call = {"perturbations_per_eval": 4}
        FeatureAblation(model).attribute(X, ledger=ledger, **per_call)
        assert model.rows == 7
        first = ShapleyValueSampling(model).attribute(X, seed=0, n_samples=5, ledger=ledger, **per_call)
        assert model.rows == len(ledger) < 7 + 5 * 6
        exact = ShapleyValues(model).attribute(X, ledger=ledger, **per_call)
        assert model.rows == len(ledger) == 64
        again = ShapleyValueSampling(model).attribute(X, seed=0, n_samples=5, ledger=ledger, **per_call)
        owen = Owen(model).attribute(X, hierarchy=[[0, 1], [2, 3, 4, 5]], ledger=ledger)
        banzhaf = Banzhaf(model).attribute(X, n_samples=None, ledger=ledger)
        assert model.rows == 64
        assert torch.equal(first, again)
        torch.testing.assert_close(exact, ShapleyValues(Counted()).attribute(X))
        torch.testing.assert_close(owen, Owen(Counted()).attribute(X, hierarchy=[[0, 1], [2, 3, 4, 5]]))
        torch.testing.assert_close(banzhaf, Banzhaf(Counted()).attribute(X, n_samples=None))

    def test_a_bound_method_is_the_same_game_each_time(self) -> None:
        model, ledger = Counted(), Ledger()
        for _ in range(2):
            ShapleyValues(model.forward).attribute(X, ledger=ledger, perturbations_per_eval=8)
        assert model.rows == 64

    def test_another_game_is_refused(self) -> None:
        ledger = Ledger()
        model = torch.nn.Linear(6, 2).double()
        given: dict[str, Any] = {"inputs": X, "target": 0, "baselines": 0, "feature_mask": None}
        ShapleyValues(model).attribute(**given, ledger=ledger)
        ShapleyValues(model).attribute(**given, ledger=ledger)
        changes: list[dict[str, Any]] = [
            {"inputs": X + 1},
            {"inputs": X[:1]},
            {"target": 1},
            {"target": torch.tensor([0, 1])},
            {"baselines": 1.0},
            {"feature_mask": torch.arange(6).flip(0)},
            {"feature_mask": torch.tensor([0, 0, 1, 2, 3, 4])},
        ]
        for change in changes:
            with pytest.raises(InvalidValue, match="this ledger holds the values of another game"):
                ShapleyValues(model).attribute(**(given | change), ledger=ledger)
        with pytest.raises(InvalidValue, match="another game"):
            ShapleyValues(torch.nn.Linear(6, 2).double()).attribute(**given, ledger=ledger)

    def test_another_function_at_the_same_address_is_another_game(self) -> None:
        ledger = Ledger()
        for factor in range(3):
            method = ShapleyValues(lambda x, factor=factor: factor * x.sum(1))
            if factor:
                with pytest.raises(InvalidValue, match="another game"):
                    method.attribute(X, ledger=ledger)
            else:
                method.attribute(X, ledger=ledger)
            del method


class TestProgress:
    def seen(self, method: Any, **options: Any) -> list[Progress]:
        seen: list[Progress] = []
        with watching(seen.append):
            method.attribute(X, **options)
        return seen

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"n_samples": 3},
            {"n_samples": 60},
            {"budget": 30},
            {"budget": 1000},
            {"n_samples": 2, "until": 0.2},
            {"until": 0.5, "budget": 64},
        ],
    )
    def test_reaches_its_total(self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(playing, "MAX_ROWS", 3000)
        seen = self.seen(PermutationShapley(Counted()), **options)
        done = [one.done for one in seen]
        assert done == sorted(set(done))
        assert seen[-1].done == seen[-1].total

    def test_reaches_its_total_when_the_ledger_knows_some_or_all(self) -> None:
        model, ledger = Counted(), Ledger()
        FeatureAblation(model).attribute(X, ledger=ledger)
        for _ in range(2):
            *_, last = self.seen(ShapleyValues(model), ledger=ledger)
            assert last.done == last.total == 64
