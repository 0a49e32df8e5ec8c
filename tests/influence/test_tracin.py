"""TracIn equals its definition on every kind of layer, and Captum where Captum has the layer."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from llm_attr.influence import TracInCP, TracInCPFast, TracInCPFastRandProj
from tests.influence.models import Case, cases, load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.influence as captum

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*:UserWarning:captum")]
CASES = cases()


def close(mine: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "batch_size"), [*((name, 4) for name in CASES), ("tokens", 1)])
def test_equals_its_definition(name: str, batch_size: int) -> None:
    case = CASES[name]
    tracin = TracInCP(*case.arguments(), loss_fn=case.loss(), batch_size=batch_size)
    wanted = case.tracin()
    close(tracin.influence(case.tests), wanted)
    close(tracin.influence(case.tests, aggregate=True), wanted.sum(0, keepdim=True))
    vectors = torch.cat([case.gradients(c, *case.train.tensors) for c in case.checkpoints], 1)
    close(tracin.compute_intermediate_quantities(case.train.tensors), vectors)
    close(tracin.compute_intermediate_quantities(case.train.tensors, aggregate=True), vectors.sum(0, keepdim=True))
    for by_checkpoints in (False, True):
        close(tracin.self_influence(outer_loop_by_checkpoints=by_checkpoints), vectors.square().sum(1))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "tokens"])
def test_equals_captum(name: str, reduction: str) -> None:
    case, batched = CASES[name], reduction != "none"
    if name != "mlp" and batched:
        return  # Captum's hooks know Linear and Conv2d without groups
    options: dict[str, Any] = {
        "loss_fn": case.loss(reduction),
        "batch_size": 4,
        "sample_wise_grads_per_batch": batched,
        "test_loss_fn": nn.MultiMarginLoss(reduction=reduction),
    }
    mine, its = TracInCP(*case.arguments(), **options), captum.TracInCP(*case.arguments(), **options)
    for arguments in ({}, {"aggregate": True}, {"k": 3}, {"k": 20, "proponents": False}, {"k": 2, "aggregate": True}):
        ours, theirs = mine.influence(case.tests, **arguments), its.influence(case.tests, **arguments)
        if "k" in arguments:
            assert ours.indices.equal(theirs.indices)
            ours, theirs = ours.influence_scores, theirs.influence_scores
        close(ours, theirs)
    close(mine.self_influence(), its.self_influence())
    close(mine.self_influence(case.tests), its.self_influence(case.tests))
    ours, theirs = (each.compute_intermediate_quantities(case.tests) for each in (mine, its))
    close(ours, theirs)


def test_layers_and_learning_rates() -> None:
    case = CASES["tokens"]

    def slow(model: nn.Module, state: Any) -> float:
        return load(model, state) * 0.25

    tracin = TracInCP(case.model, case.train, case.checkpoints, slow, layers=["mix", "norm"], loss_fn=case.loss())
    wanted = 0.25 * case.tracin(["mix", "norm"])
    close(tracin.influence(case.tests), wanted)
    vectors = [tracin.compute_intermediate_quantities(each) for each in (case.tests, case.train.tensors)]
    close(vectors[0] @ vectors[1].T, wanted)


@pytest.mark.parametrize("name", ["mlp", "convolutions", "tokens"])
def test_fast_is_tracin_of_the_last_layer(name: str) -> None:
    case = CASES[name]
    last = {"mlp": "2", "convolutions": "5", "tokens": "head"}[name]
    options = {"loss_fn": case.loss("sum"), "batch_size": 4}
    fast = TracInCPFast(case.model, case.model.get_submodule(last), *case.arguments()[1:], **options)
    close(fast.influence(case.tests), case.tracin([last]))
    whole = TracInCP(*case.arguments(), layers=[last], loss_fn=case.loss(), batch_size=4)
    close(fast.self_influence(), whole.self_influence())
    assert fast.final_fc_layer is case.model.get_submodule(last)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_fast_without_the_bias_is_captums(name: str, reduction: str) -> None:
    case = CASES[name]
    last = case.model[-1]
    options: dict[str, Any] = {"loss_fn": case.loss(reduction), "batch_size": 4}
    mine = TracInCPFast(case.model, last, *case.arguments()[1:], **options, include_bias=False)
    its = captum.TracInCPFast(case.model, last, *case.arguments()[1:], **options)
    close(mine.influence(case.tests), its.influence(case.tests))
    close(mine.self_influence(), its.self_influence())
    ours, theirs = (each.influence(case.tests, k=2, proponents=False) for each in (mine, its))
    assert ours.indices.equal(theirs.indices)


@pytest.mark.parametrize("projection_dim", [None, 7, 1000])
@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_projections_are_captums(name: str, projection_dim: int | None) -> None:
    from captum.influence._utils.nearest_neighbors import NearestNeighbors

    class Search(NearestNeighbors):
        def setup(self, data: torch.Tensor) -> None:
            self.data = data

        def get_nearest_neighbors(self, query: torch.Tensor, k: int) -> Any:
            scores, indices = (query @ self.data.T).topk(k)
            return indices, scores

    case = CASES[name]
    options: dict[str, Any] = {
        "loss_fn": case.loss("sum"),
        "batch_size": 4,
        "projection_dim": projection_dim,
        "seed": 3,
    }
    place = (case.model, case.model[-1], *case.arguments()[1:])
    torch.manual_seed(11)
    before = torch.get_rng_state()
    mine = TracInCPFastRandProj(*place, **options, include_bias=False)
    assert torch.get_rng_state().equal(before)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # Captum draws in the default type, and multiplies with the model's
    try:
        its = captum.TracInCPFastRandProj(*place, **options, nearest_neighbors=Search())
    finally:
        torch.set_default_dtype(default)
    close(mine.compute_intermediate_quantities(case.tests), its.compute_intermediate_quantities(case.tests))
    close(mine.influence(case.tests, k=None), its.influence(case.tests, k=None))
    ours, theirs = (each.influence(case.tests, k=3) for each in (mine, its))
    assert ours.indices.equal(theirs.indices)
    close(ours.influence_scores, theirs.influence_scores)
    opposed = mine.influence(case.tests, k=3, proponents=False)
    close(opposed.influence_scores, mine.influence(case.tests, k=None).topk(3, largest=False).values)
    close(mine.self_influence(), mine.self_influence(case.train.tensors))


def test_projections_estimate_the_influence() -> None:
    case = CASES["convolutions"]
    place = (case.model, case.model[-1], *case.arguments()[1:])
    exact = TracInCPFast(*place, loss_fn=case.loss("sum"), batch_size=11).influence(case.tests)
    options: dict[str, Any] = {"loss_fn": case.loss("sum"), "batch_size": 11, "projection_dim": 64}
    drawn = [TracInCPFastRandProj(*place, **options, seed=seed).influence(case.tests, k=None) for seed in range(40)]
    draws = torch.stack(drawn)
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / 40**0.5)
    assert error.max() < 4.5
    assert (draws.mean(0) - exact).norm() < 0.4 * exact.norm()


def test_data_in_every_form() -> None:
    case = CASES["mlp"]

    class Plain(Dataset):
        def __len__(self) -> int:
            return len(case.train)

        def __getitem__(self, number: int) -> Any:
            return case.train[number]

    loss = case.loss()
    wanted = case.tracin()
    tests = TensorDataset(*case.tests)
    state = torch.get_rng_state()
    for train in (case.train, Plain(), DataLoader(case.train, batch_size=3)):
        tracin = TracInCP(case.model, train, case.checkpoints, load, loss_fn=loss, batch_size=4)
        for given in (case.tests, tests, DataLoader(tests, batch_size=2), [case.tests]):
            close(tracin.influence(given), wanted)
        best = tracin.influence(DataLoader(tests, batch_size=2), k=4)
        close(best.influence_scores, wanted.topk(4).values)
    assert torch.get_rng_state().equal(state)


def test_one_test_example_before_many() -> None:
    """Factors are checked only where there are several examples; what they refuse is multiplied all the same."""
    for name in ("positions first", "used elsewhere"):
        case = Case.of(type(CASES[name].model)(), *_makers(CASES[name]))
        tracin = TracInCP(*case.arguments(), loss_fn=case.loss(), batch_size=4)
        first = tuple(each[:1] for each in case.tests)
        if name == "positions first":
            close(tracin.influence(first), case.tracin()[:1])
        close(tracin.influence(case.tests), case.tracin())


def _makers(case: Case) -> Any:
    shape = case.tests[0].shape[1:]
    return (lambda size: torch.randn(size, *shape).double()), (lambda size: torch.randint(0, 3, (size,)))


def test_nothing_of_the_callers_changes() -> None:
    case = CASES["convolutions"]
    case.model.load_state_dict(case.checkpoints[0])
    state = {name: value.clone() for name, value in case.model.state_dict().items()}
    for value in case.model.parameters():
        value.grad = torch.ones_like(value)
    seed = torch.get_rng_state()
    tracin = TracInCP(*case.arguments(), loss_fn=case.loss(), batch_size=4)
    tracin.influence(case.tests, k=2)

    def fails(model: nn.Module, number: int) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TracInCP(case.model, case.train, [0], fails, loss_fn=case.loss()).self_influence()
    assert all(value.equal(state[name]) for name, value in case.model.state_dict().items())
    assert all(value.grad is not None and value.grad.eq(1).all() for value in case.model.parameters())
    assert not any(module._forward_hooks for module in case.model.modules())
    assert torch.get_rng_state().equal(seed)
    assert torch.is_grad_enabled()
    for value in case.model.parameters():
        value.grad = None


def test_files_and_folders(tmp_path: Any) -> None:
    case = CASES["mlp"]
    for number, state in zip((10, 9), case.checkpoints, strict=True):
        torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / f"step{number}.pt")
    tracin = TracInCP(case.model, case.train, str(tmp_path), loss_fn=case.loss(), batch_size=4)
    assert [path[-8:] for path in tracin.checkpoints] == ["step9.pt", "tep10.pt"]
    close(tracin.influence(case.tests), case.tracin())
