"""Influence functions: closed form, leaving out for real, Captum; and the operators they are made of."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.operators import hessian as operators
from llm_attr.core.operators.base import Matrix
from llm_attr.core.operators.hessian import Hessian
from llm_attr.core.operators.krylov import Eigenpairs, arnoldi
from llm_attr.core.pairing.data import Examples
from llm_attr.core.pairing.loss import Loss
from llm_attr.influence import ArnoldiInfluenceFunction, NaiveInfluenceFunction
from tests.influence.models import cases, load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.influence as captum
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction as CaptumArnoldi

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*:UserWarning:captum")]
CASES = cases()
WHOLE = partial(ArnoldiInfluenceFunction, arnoldi_tol=1e-9)
METHODS = {"naive": NaiveInfluenceFunction, "arnoldi": WHOLE}


def plain(name: str, number: int = 0) -> tuple[Tensor, Hessian]:
    """A Hessian by autograd over one flat vector, and the operator."""
    case = CASES[name]
    case.model.load_state_dict(case.checkpoints[number])
    named = {key: value.detach() for key, value in case.model.named_parameters()}
    sizes, (x, y) = [value.numel() for value in named.values()], case.train.tensors

    def total(flat: Tensor) -> Tensor:
        parts = zip(named.items(), flat.split(sizes), strict=True)
        weights = {key: part.view_as(value) for (key, value), part in parts}
        return case.loss("sum")(torch.func.functional_call(case.model, weights, (x,)), y)

    flat = torch.cat([value.flatten() for value in named.values()])
    wanted = torch.autograd.functional.hessian(total, flat)
    return wanted, operator(name)


def operator(name: str) -> Hessian:
    case = CASES[name]
    parameters = dict(case.model.named_parameters())
    data, loss = Examples(case.train, 4), Loss.of(case.loss(), False)
    return Hessian(case.model, parameters, data, loss, Evaluator("test", 1))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", ["mlp", "sequence", "tokens"])
def test_products_are_those_of_the_dense_matrix(name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kept:
        monkeypatch.setattr(operators, "MOST_KEPT", 0)
    wanted, hessian = plain(name)
    columns = torch.randn(hessian.size, 3, dtype=torch.float64)
    torch.testing.assert_close(hessian @ columns, wanted @ columns)
    torch.testing.assert_close(hessian @ columns[:, 0], wanted @ columns[:, 0])
    torch.testing.assert_close(hessian.dense(17), wanted)
    assert (hessian._kept is not None) == kept


def test_ritz_pairs_of_a_matrix() -> None:
    torch.manual_seed(0)
    root = torch.randn(12, 12, dtype=torch.float64)
    matrix = root @ root.T
    start = torch.randn(12, dtype=torch.float64)
    pairs = arnoldi(Matrix(matrix), start, 12, 1e-10)
    torch.testing.assert_close(pairs.values, torch.linalg.eigvalsh(matrix))
    torch.testing.assert_close(matrix @ pairs.vectors, pairs.vectors * pairs.values)
    few = arnoldi(Matrix(matrix), start, 8, 1e-10)
    assert few.vectors.shape == (12, 8)
    assert float(few.values[-1]) == pytest.approx(float(pairs.values[-1]), rel=1e-3)
    inverse_root = pairs.inverse_root(0.5, 1e-9, 12)
    torch.testing.assert_close(inverse_root @ inverse_root.T, torch.linalg.inv(matrix + 0.5 * torch.eye(12).double()))
    low = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0])).double()
    assert len(arnoldi(Matrix(low), torch.ones(4).double(), 4, 1e-6).values) == 3
    assert Eigenpairs.of(Matrix(low)).inverse_root(0.0, 1e-6, 1).abs().sum() == pytest.approx(3**-0.5)


@pytest.mark.parametrize("name", METHODS)
def test_a_quadratic_model_in_closed_form(name: str) -> None:
    """Least squares: H = 2 X^T X, gradient = 2 (x w - y) x; leaving one out by the rank-one formula."""
    torch.manual_seed(1)
    x, noise = torch.randn(30, 4, dtype=torch.float64), torch.randn(30, 1, dtype=torch.float64)
    y = x @ torch.arange(1.0, 5.0).double()[:, None] + noise
    w = torch.linalg.lstsq(x, y).solution
    tests, labels = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    function = METHODS[name](
        model,
        TensorDataset(x, y),
        {"weight": w.T},
        load,
        loss_fn=nn.MSELoss(reduction="none"),
        batch_size=7,
        hessian_reg=0.0,
    )
    scores = function.influence((tests, labels))
    hessian = 2 * x.T @ x
    gradients, of_tests = 2 * (x @ w - y) * x, 2 * (tests @ w - labels) * tests
    torch.testing.assert_close(scores, of_tests @ torch.linalg.solve(hessian, gradients.T))
    torch.testing.assert_close(
        function.self_influence(), (gradients * torch.linalg.solve(hessian, gradients.T).T).sum(1)
    )
    leverage = (x * torch.linalg.solve(x.T @ x, x.T).T).sum(1)
    without = w + torch.linalg.solve(x.T @ x, x.T) * ((x @ w - y).T / (1 - leverage))  # column i: trained without i
    change = tests @ (without - w) * of_tests.norm(dim=1, keepdim=True) / tests.norm(dim=1, keepdim=True)
    change = change * torch.sign(tests @ w - labels)  # to first order, in units of the loss
    torch.testing.assert_close(scores / (1 - leverage), change)


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([a.argsort().argsort().double(), b.argsort().argsort().double()])
    return float(torch.corrcoef(ranks)[0, 1])


def fitted(x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Logistic regression with a small penalty on the weights, by Newton's method."""
    w, penalty = start.clone(), torch.eye(x.shape[1]).double()
    for _ in range(12):
        p = torch.sigmoid(x @ w)
        w = w - torch.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, x.T @ (p - y) + w)
    return w


@pytest.mark.parametrize("name", METHODS)
def test_leaving_out_for_real(name: str) -> None:
    torch.manual_seed(2)
    x = torch.randn(60, 5, dtype=torch.float64)
    y = (torch.sigmoid(x @ torch.tensor([2.0, -1.0, 0.5, 0.0, 0.0]).double()) > torch.rand(60).double()).double()
    tests, labels = torch.randn(8, 5, dtype=torch.float64), torch.randint(0, 2, (8,)).double()
    w = fitted(x, y, torch.zeros(5).double())

    def losses(w: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(tests @ w, labels, reduction="none")

    keep = [torch.arange(60) != i for i in range(60)]
    change = torch.stack([losses(fitted(x[rows], y[rows], w)) - losses(w) for rows in keep], 1)
    model = nn.Sequential(nn.Linear(5, 1, bias=False), nn.Flatten(0)).double()
    loss = nn.BCEWithLogitsLoss(reduction="none")
    function = METHODS[name](
        model, TensorDataset(x, y), {"0.weight": w[None]}, load, loss_fn=loss, batch_size=20, hessian_reg=1.0
    )
    scores = function.influence((tests, labels))
    assert min(spearman(*pair) for pair in zip(scores, change, strict=True)) >= 0.95
    assert (scores - change).norm() < 0.2 * change.norm()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("projection_dim", [4, 50])
def test_naive_equals_captum(projection_dim: int, reduction: str) -> None:
    case, batched = CASES["mlp"], reduction != "none"
    options: dict[str, Any] = {
        "loss_fn": case.loss(reduction),
        "batch_size": 4,
        "sample_wise_grads_per_batch": batched,
        "projection_dim": projection_dim,
        "test_loss_fn": nn.MultiMarginLoss(reduction=reduction),
        "hessian_dataset": DataLoader(TensorDataset(*case.train.tensors), batch_size=3),
    }
    place = (case.model, case.train, case.checkpoints[0], load)
    mine, its = NaiveInfluenceFunction(*place, **options), captum.NaiveInfluenceFunction(*place, **options)

    def check(ours: Tensor, theirs: Tensor) -> None:
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)

    check(mine.influence(case.tests), its.influence(case.tests))
    check(mine.self_influence(), its.self_influence())
    best = mine.influence(case.tests, k=3, proponents=False)  # Captum forgets test_loss_fn here
    check(best.influence_scores, its.influence(case.tests).topk(3, largest=False).values)
    for test in (False, True):
        pair = [each.compute_intermediate_quantities(case.tests, test=test) for each in (mine, its)]
        check(pair[0] @ pair[0].T, pair[1] @ pair[1].T)  # directions have no sign
    total = mine.compute_intermediate_quantities(case.tests, aggregate=True)
    check(total, mine.compute_intermediate_quantities(case.tests).sum(0, keepdim=True))


def test_arnoldi_equals_captum_and_naive_where_it_converges() -> None:
    """Captum leaves out the last direction of the Krylov space, which is rounding here."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 3)).double()
    x, tests = torch.randn(12, 4).double(), (torch.randn(5, 4).double(), torch.randint(0, 3, (5,)))
    place = (model, TensorDataset(x, torch.randint(0, 3, (12,))), dict(model.state_dict()), load)
    options: dict[str, Any] = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": 4}
    before = torch.get_rng_state()
    mine = ArnoldiInfluenceFunction(*place, **options, arnoldi_tol=1e-8)
    assert torch.get_rng_state().equal(before)
    its = CaptumArnoldi(*place, **options, arnoldi_tol=1e-12)
    naive = NaiveInfluenceFunction(*place, **options, hessian_reg=1e-3, hessian_inverse_tol=1e-4)
    again = ArnoldiInfluenceFunction(*place, **options, arnoldi_tol=1e-8, seed=7, projection_on_cpu=False)
    for other in (its, naive, again):
        torch.testing.assert_close(mine.influence(tests), other.influence(tests), rtol=1e-6, atol=1e-6)


def test_arnoldi_equals_naive_on_a_network() -> None:
    case = CASES["mlp"]
    place = (case.model, case.train, case.checkpoints[0], load)
    options: dict[str, Any] = {
        "loss_fn": case.loss(),
        "batch_size": 4,
        "hessian_reg": 1e-3,
        "hessian_inverse_tol": 1e-4,
    }
    arnoldi = ArnoldiInfluenceFunction(*place, **options, arnoldi_tol=1e-9)
    naive = NaiveInfluenceFunction(*place, **options)
    torch.testing.assert_close(arnoldi.influence(case.tests), naive.influence(case.tests))
    torch.testing.assert_close(arnoldi.self_influence(), naive.self_influence())
