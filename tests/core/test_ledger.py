from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import FeatureAblation, ShapleyValues
from llm_attr.core.game.coalitions import each_left_out
from llm_attr.core.game.ledger import Ledger
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions, Values


class Additive:
    """Pays the sum of the present features' weights and remembers what it was asked."""

    def __init__(self, features: int) -> None:
        self.weights = 2.0 ** torch.arange(features)
        self.asked: list[list[list[bool]]] = []

    def __call__(self, coalitions: Coalitions) -> Values:
        self.asked.append(coalitions.tolist())
        return (coalitions * self.weights).sum(1, keepdim=True)


def test_asks_only_for_what_is_new_and_only_once() -> None:
    game, ledger = Additive(3), Ledger()
    remembered = ledger.remembering(game)
    rows = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 1]]).bool()
    assert remembered(rows).flatten().tolist() == [5, 4, 5, 0, 4]
    assert game.asked == [rows[[0, 1, 3]].tolist()]
    again = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 1]]).bool()
    assert remembered(again).flatten().tolist() == [0, 7, 5]
    assert game.asked[1:] == [again[1:2].tolist()]
    assert (ledger.asked, ledger.evaluated, len(ledger)) == (8, 4, 4)


def test_nothing_new_asks_for_nothing() -> None:
    game = Additive(2)
    remembered = Ledger().remembering(game)
    rows = torch.tensor([[1, 0]]).bool()
    assert torch.equal(remembered(rows), remembered(rows))
    assert len(game.asked) == 1


@pytest.mark.parametrize("features", [1, 7, 8, 9, 64, 65])
def test_every_coalition_has_a_name_of_its_own(features: int) -> None:
    game, ledger = Additive(features), Ledger()
    (rows,) = each_left_out(features)
    values = ledger.remembering(game)(torch.cat([rows, torch.ones(1, features).bool(), rows]))
    assert len(ledger) == features + 1
    assert torch.equal(values, game(torch.cat([rows, torch.ones(1, features).bool(), rows])))


def test_a_failure_leaves_nothing_behind() -> None:
    ledger = Ledger()

    def broken(coalitions: Coalitions) -> Values:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        ledger.remembering(broken)(torch.ones(1, 3).bool())
    assert len(ledger) == ledger.asked == ledger.evaluated == 0
    assert ledger.remembering(Additive(3))(torch.ones(1, 3).bool()).item() == 7


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return torch.stack([x.sum(1) ** 2, x[:, 0] * x[:, 1]], 1)[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_keeps_values_beyond_the_process(dtype: torch.dtype, tmp_path: Path) -> None:
    x, path = torch.arange(8.0).view(2, 4).to(dtype), tmp_path / "values"
    expected = ShapleyValues(Counted()).attribute(x)
    for asked in range(2):
        model, ledger = Counted(), Ledger(path, "model 1")
        found = ShapleyValues(model).attribute(x, ledger=ledger)
        assert torch.equal(found, expected)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert (model.rows == 0, ledger.evaluated) == [(False, 16), (True, 0)][asked]
    other = Counted()
    FeatureAblation(other).attribute(x, ledger=Ledger(path, "model 1"))
    assert other.rows == 0
    for name, inputs in (("model 2", x), ("model 1", x + 1)):
        ledger = Ledger(path, name)
        FeatureAblation(other).attribute(inputs, ledger=ledger)
        assert ledger.evaluated == 5


def test_a_file_needs_a_name(tmp_path: Path) -> None:
    for bad in ({"path": tmp_path / "values"}, {"name": "model"}):
        with pytest.raises(InvalidValue, match="needs the path and a name of the model"):
            Ledger(**bad)  # type: ignore[arg-type]
