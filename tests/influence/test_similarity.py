"""Similarity of activations equals its definition and Captum; what is kept on disk belongs to its model and data."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import llm_attr.influence
from llm_attr.errors import InvalidShape, InvalidValue, MissingExtra, UnknownKeyword, UnknownName
from llm_attr.influence import (
    AnnoyNearestNeighbors,
    ExactNearestNeighbors,
    FaissNearestNeighbors,
    SimilarityInfluence,
)
from llm_attr.influence import nearest_neighbors as neighbors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.influence as captum
    from captum.influence._core import similarity_influence as captum_similarity

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.parametrize("metric", ["cosine_similarity", "euclidean_distance"])
def test_equals_captum(metric: str, model: nn.Module, tmp_path: Path) -> None:
    x, tests = torch.randn(11, 4), torch.randn(5, 4)
    functions = (getattr(llm_attr.influence, metric), getattr(captum_similarity, metric))
    direction = "max" if metric == "cosine_similarity" else "min"
    mine, its = (
        library.SimilarityInfluence(
            model, ["0", "2"], list(x), str(tmp_path / library.__name__), "m", function, direction, batch_size=4
        ).influence(tests, top_k=3)
        for library, function in zip((llm_attr.influence, captum), functions, strict=True)
    )
    assert mine.keys() == its.keys()
    for layer in mine:
        assert mine[layer][0].equal(its[layer][0])
        torch.testing.assert_close(mine[layer][1], its[layer][1])
    ours, theirs = (function(tests, x) for function in functions)
    torch.testing.assert_close(ours, theirs)


def test_one_layer_and_zeros(model: nn.Module, tmp_path: Path) -> None:
    """Captum fails on one layer, and where an activation is zero."""
    x = torch.cat([torch.zeros(2, 4), torch.randn(3, 4)])
    nn.init.zeros_(model[0].bias)
    found = SimilarityInfluence(model, "0", TensorDataset(x), tmp_path, batch_size=2).influence(x[3:], top_k=9)
    indices, scores = found["0"]
    assert indices.shape == scores.shape == (2, 5)
    assert indices[:, 0].tolist() == [3, 4]
    assert (scores == 0).sum() == 4
    replaced = SimilarityInfluence(
        model, "0", TensorDataset(x), tmp_path, batch_size=2, replace_nan=-3, similarity_metric=plain
    )
    assert replaced.influence(x[3:], top_k=9)["0"][1].min() == -3


def plain(test: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    return (test @ train.T) / (test.norm(dim=1)[:, None] * train.norm(dim=1))


def test_activations_are_kept_for_the_same_model_and_data(model: nn.Module, tmp_path: Path) -> None:
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    x, tests = torch.randn(6, 4), torch.randn(2, 4)

    def run(data: torch.Tensor, **options: bool) -> int:
        calls.clear()
        SimilarityInfluence(model, ["1"], TensorDataset(data), tmp_path, batch_size=2).influence(tests, **options)
        return len(calls)

    assert run(x) == 4
    assert run(x) == 1
    assert run(x, load_src_from_disk=False) == 4
    assert run(x + 1) == 4
    assert run(x + 1) == 1
    with torch.no_grad():
        model[0].bias.add_(1)
    assert run(x + 1) == 4
    assert sorted(path.name for path in (tmp_path / "activations").iterdir()) == [
        *(f"{i}.safetensors" for i in range(3)),
        "manifest.json",
    ]


def test_bad_input(model: nn.Module, tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(3, 4))
    with pytest.raises(InvalidValue, match="no layer 'nope'; its layers: 0, 1, 2"):
        SimilarityInfluence(model, "nope", data, tmp_path)
    with pytest.raises(UnknownName, match="max, min"):
        SimilarityInfluence(model, "0", data, tmp_path, similarity_direction="most")
    with pytest.raises(UnknownKeyword, match="replace_nan"):
        SimilarityInfluence(model, "0", data, tmp_path, replace=1)
    with pytest.raises(InvalidShape, match=r"here \(3, 1\); got \(3,\)"):
        SimilarityInfluence(model, "0", data, tmp_path, similarity_metric=lambda a, b: a.sum(1)).influence(
            data.tensors[0]
        )


def test_exact_neighbors_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "CHUNK", 12)
    torch.manual_seed(0)
    search, data, queries = ExactNearestNeighbors(), torch.randn(17, 5), torch.randn(3, 5)
    with pytest.raises(InvalidValue, match="setup"):
        search.get_nearest_neighbors(queries, 2)
    search.setup(data)
    indices, scores = search.get_nearest_neighbors(queries, 6)
    wanted = (queries @ data.T).topk(6)
    torch.testing.assert_close(scores, wanted.values)
    assert indices.equal(wanted.indices)


@pytest.mark.parametrize("options", [{}, {"lists": 4, "searched": 4}, {"lists": 20, "searched": 1}])
def test_faiss_finds_the_exact_neighbors(options: dict[str, int]) -> None:
    pytest.importorskip("faiss", reason="the extra neighbors is not installed")
    torch.manual_seed(0)
    data, queries = torch.randn(200, 8), torch.randn(3, 8)
    search, exact = FaissNearestNeighbors(**options), ExactNearestNeighbors()
    for each in (search, exact):
        each.setup(data)
    for k in (2, 200, 300) if options.get("searched") != 1 else (200, 300):
        found, wanted = (each.get_nearest_neighbors(queries, k) for each in (search, exact))
        assert found[0].equal(wanted[0])
        torch.testing.assert_close(found[1], wanted[1])
    with pytest.raises(InvalidValue, match=r"lists=300 is more than the 200 vectors"):
        FaissNearestNeighbors(300).setup(data)


@pytest.mark.parametrize(("method", "module"), [(FaissNearestNeighbors, "faiss"), (AnnoyNearestNeighbors, "annoy")])
def test_neighbors_of_other_packages(method: type, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        with pytest.raises(MissingExtra, match=module):
            method()
        return
    search = method()
    data = torch.randn(50, 8)
    search.setup(data)
    assert search.get_nearest_neighbors(data[:3] * 9, 2)[0].shape == (3, 2)
