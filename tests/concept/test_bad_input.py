"""Bad input gets an error that says what is wrong, what was given and what is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import llm_attr.concept as concept
from llm_attr.concept import CAV, TCAV, Concept, DefaultClassifier, ProbeClassifier
from llm_attr.errors import (
    InvalidShape,
    InvalidType,
    InvalidValue,
    LlmAttrError,
    Unavailable,
    UnknownKeyword,
    UnknownName,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def made(number: int, examples: Any = None) -> Concept:
    data = [torch.randn(9, 3) + number] if examples is None else examples
    return Concept(number, f"c{number}", data)


A, B = made(0), made(1)
ODD = (torch.rand(2, 3), torch.rand(2), torch.rand(2))


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ([], InvalidValue, "experimental_sets is empty"),
        ([A, B], InvalidType, "a list of lists of concepts"),
        ([[A]], InvalidValue, "at least two different concepts"),
        ([[A, A, B]], InvalidValue, "names a concept twice"),
        ([[A, B], [B, made(0)]], InvalidValue, "have the same id 0"),
        ([[A, made(2, [])]], InvalidValue, "'c2-2' has no examples"),
        ([[A, made(2, [torch.zeros(0, 3)])]], InvalidValue, "batch of examples is empty"),
        ([[A, Concept(2, "bare", None)]], InvalidValue, "data_iter is None"),
        ([[A, made(2, ["text"])]], InvalidType, "data_iter must give tensors"),
        ([[A, made(2, [ODD])]], InvalidType, "tuple of 3"),
        ([[made(2, [torch.rand(1, 3)]), made(3, [torch.rand(1, 3)])]], InvalidValue, "holds none out"),
    ],
)
def test_sets(sets: Any, error: type[LlmAttrError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        TCAV(network(), "0", save_path=str(tmp_path)).interpret(torch.rand(2, 3), sets, target=0)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": "net"}, InvalidType, "model must be a torch.nn.Module"),
        ({"layers": "9"}, UnknownName, "unknown layer '9'.*accepted: 0, 1, 2"),
        ({"layers": []}, InvalidValue, "at least one layer"),
        ({"classifier": 3}, InvalidType, "classifier must be"),
        ({"layer_attr_method": 3}, InvalidType, r"LayerIntegratedGradients\(model, None\)"),
    ],
)
def test_construction(changed: dict[str, Any], error: type[LlmAttrError], message: str) -> None:
    with pytest.raises(error, match=message):
        TCAV(**{"model": network(), "layers": "0", **changed})


def test_options(tmp_path: Path) -> None:
    path = str(tmp_path)
    with pytest.raises(UnknownKeyword, match=r"no keyword 'alpa' .did you mean 'alpha'"):
        TCAV(network(), "0", save_path=path, alpa=1).compute_cavs([[A, B]])
    with pytest.raises(InvalidValue, match="processes must be"):
        TCAV(network(), "0", save_path=path).compute_cavs([[A, B]], processes=0)
    with pytest.raises(InvalidValue, match=r"at least 3 random concepts.*got 1"):
        TCAV(network(), "0", save_path=path).significance(torch.rand(2, 3), [A], [B], target=0)
    with pytest.raises(InvalidValue, match="ids of their own"):
        TCAV(network(), "0", save_path=path).significance(torch.rand(2, 3), [A], [A, B, made(4)], target=0)
    with pytest.raises(UnknownName, match="unknown score 'mean'"):
        TCAV(network(), "0", save_path=path).significance(torch.rand(2, 3), [A], [B], score="mean")  # type: ignore[arg-type]


def test_inputs_of_another_size(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    wide = [Concept(i, f"w{i}", [torch.randn(9, 1, 8) + i]) for i in range(2)]
    with pytest.raises(InvalidShape, match="6 features, the layer's attributions have 4"):
        TCAV(model, "0", save_path=str(tmp_path)).interpret(torch.rand(2, 1, 6), [wide], target=0)


def test_classifiers() -> None:
    one = [(torch.rand(9, 2), torch.ones(9, dtype=torch.long))]
    for classifier in (DefaultClassifier(), ProbeClassifier()):
        with pytest.raises(InvalidValue, match=r"at least two concepts.*\[1\]"):
            classifier.train_and_eval(one)
        with pytest.raises(InvalidValue, match="at least one batch"):
            classifier.train_and_eval([])
    with pytest.raises(InvalidValue, match="train_and_eval first"):
        DefaultClassifier().weights()
    with pytest.raises(InvalidValue, match="test_split_ratio must be between 0 and 1"):
        DefaultClassifier().train_and_eval(one, 1.0)
    two = [(torch.ones(8, 2), torch.arange(8) % 2)]
    with pytest.raises(InvalidValue, match="no direction between them"):
        ProbeClassifier().train_and_eval(two)
    with pytest.raises(UnknownName, match="unknown probe 'tree'"):
        ProbeClassifier("tree").train_and_eval(two)  # type: ignore[arg-type]


def test_pieces(tmp_path: Path) -> None:
    with pytest.raises(InvalidType, match="whole number"):
        Concept("0", "c", None)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="several times"):
        Concept(0, "c", iter([torch.rand(2)]))
    with pytest.raises(InvalidType, match="a row for each"):
        CAV([A, B], "0", {"weights": torch.rand(1, 3), "classes": [0, 1]}).weights_of([A, B])
    with pytest.raises(InvalidType, match="statistics of a CAV"):
        CAV([A, B], "0", {"weights": torch.rand(2, 3), "model": network()}, str(tmp_path)).save()
    with pytest.raises(InvalidShape, match="one for each of the 1 data sets"):
        concept.LabelledDataset([[torch.rand(2)]], [1, 2])
    with pytest.raises(Unavailable, match="no activations of model 'm'"):
        concept.AV.load(str(tmp_path), "m")
    with pytest.raises(InvalidValue, match="nothing is at"):
        concept.CustomIterableDataset(torch.load, str(tmp_path / "none"))
