from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import (
    DiscretizedIntegratedGradients,
    IntegratedGradients,
    LayerIntegratedGradients,
    SequentialIntegratedGradients,
)
from llm_attr.core.path.walk import quadrature
from llm_attr.core.path.word_path import WordPaths
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownName
from tests.reference import token_paths as plain

torch.set_num_threads(1)
STRATEGIES = ("greedy", "maxcount")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Transformer(nn.Module):
    """Ids, or embeddings, `(batch, positions)` to `(batch, 2)`."""

    def __init__(self, words: int = 30, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.of_embeddings(self.embedding(ids))

    def of_embeddings(self, embeddings: Tensor) -> Tensor:
        return self.head(self.encoder(embeddings).mean(1))


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(3)
    return Transformer().double().eval()


def quadratic(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    matrix = random(flat.shape[1], flat.shape[1], seed=9)
    return ((flat @ matrix) * flat).sum(1) + flat.sum(1)


def smooth(x: Tensor) -> Tensor:
    return (x.flatten(1) @ random(x[0].numel(), 3, seed=5)).tanh().prod(1)


# sequential


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_trapezoid", "riemann_right"])
def test_sequential_is_its_definition(method: str) -> None:
    x, low = random(2, 4, 3, seed=1), random(2, 4, 3, seed=2)
    rule = quadrature(method, 5)
    expected = [plain.sequential(smooth, a, b, rule.alphas, rule.weights) for a, b in zip(x, low, strict=True)]
    found = SequentialIntegratedGradients(smooth).attribute(x, low, n_steps=5, method=method)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_sequential_is_exact_on_linear_and_quadratic_functions() -> None:
    weights = random(4, 3, seed=7)
    x, low = random(2, 4, 3, seed=1), random(1, 4, 3, seed=2)
    linear = SequentialIntegratedGradients(lambda x: (x * weights).sum((1, 2))).attribute(x, low, n_steps=1)
    torch.testing.assert_close(linear, weights * (x - low))
    found, delta = SequentialIntegratedGradients(quadratic).attribute(x, low, n_steps=1, return_convergence_delta=True)
    assert delta.shape == (2, 4)
    assert delta.abs().max() < 1e-12
    for position in range(4):
        without = x.clone()
        without[:, position] = low[:, position]
        torch.testing.assert_close(found[:, position].sum(1), quadratic(x) - quadratic(without))


def test_sequential_of_one_position_is_integrated_gradients() -> None:
    x, low = random(3, 1, 5, seed=1), random(3, 1, 5, seed=2)
    torch.testing.assert_close(
        SequentialIntegratedGradients(smooth).attribute(x, low), IntegratedGradients(smooth).attribute(x, low)
    )


def test_sequential_of_positions_that_do_not_interact_is_integrated_gradients() -> None:
    def forward(x: Tensor) -> Tensor:
        return x.sin().sum((1, 2))

    x = random(2, 6, 2, seed=3)
    torch.testing.assert_close(
        SequentialIntegratedGradients(forward).attribute(x), IntegratedGradients(forward).attribute(x)
    )


@pytest.mark.parametrize("rows", [None, 1, 2, 7, 1000])
def test_sequential_in_any_chunks(rows: int | None) -> None:
    x = random(2, 5, 3, seed=3)
    whole = SequentialIntegratedGradients(smooth).attribute(x, n_steps=4, internal_batch_size=1000)
    found = SequentialIntegratedGradients(smooth).attribute(x, n_steps=4, internal_batch_size=rows)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


def test_sequential_of_several_inputs() -> None:
    def forward(x: Tensor, y: Tensor, scale: float) -> Tensor:
        return scale * x.flatten(1).sum(1).tanh() * y.sum(1)

    x, y = random(2, 3, 2, seed=1), random(2, 4, seed=2)
    method = SequentialIntegratedGradients(forward)
    found, deltas = method.attribute((x, y), additional_forward_args=2.0, return_convergence_delta=True)
    assert [part.shape for part in found] == [x.shape, y.shape]
    assert [part.shape for part in deltas] == [(2, 3), (2, 4)]
    assert max(delta.abs().max() for delta in deltas) < 1e-10
    without = y.clone()
    without[:, 1] = 0
    torch.testing.assert_close(found[1][:, 1], forward(x, y, 2.0) - forward(x, without, 2.0))


def test_sequential_of_ids_on_a_transformer(model: Transformer) -> None:
    ids, mask = torch.tensor([[3, 7, 7, 12, 4], [1, 2, 29, 6, 4]]), torch.tensor([[3, 0, 0, 0, 4]])
    method = SequentialIntegratedGradients(model, layer=model.embedding)
    found, delta = method.attribute(ids, mask, target=[1, 0], n_steps=50, return_convergence_delta=True)
    assert found.shape == (2, 5, 8)
    assert delta.shape == (2, 5)
    assert delta.abs().max() < 1e-9
    assert not found[:, 4].any()
    assert not found[0, 0].any()
    assert found[1, 0].any()
    by_hand = SequentialIntegratedGradients(model.of_embeddings).attribute(
        model.embedding(ids).detach(), model.embedding(mask).detach(), target=[1, 0], n_steps=50
    )
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-12)


def test_sequential_asks_only_for_positions_that_differ() -> None:
    rows = []

    def forward(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.square().sum((1, 2))

    x, low = random(1, 9, 2), random(1, 9, 2)
    low[:, :2] += 1
    SequentialIntegratedGradients(forward).attribute(x, low, n_steps=10)
    assert sum(rows) == 20


def test_sequential_where_input_is_baseline() -> None:
    assert not SequentialIntegratedGradients(quadratic).attribute(torch.zeros(1, 2, 2, dtype=torch.float64)).any()


def test_half_precision_stays_and_is_summed_in_fp32() -> None:
    x = random(2, 3, 2).to(torch.bfloat16)

    def forward(x: Tensor) -> Tensor:
        return x.float().square().sum((1, 2))

    table = random(30, 2, seed=4).to(torch.bfloat16)
    sequential = SequentialIntegratedGradients(forward).attribute(x, n_steps=3)
    discretized = DiscretizedIntegratedGradients(forward, vocabulary=table).attribute(x, method="riemann_trapezoid")
    for found in (sequential, discretized):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float().sum((1, 2)), forward(x), rtol=2e-2, atol=1e-2)


# discretized


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("words", "neighbours"), [(40, 500), (40, 5), (6, 3), (1, 2)])
def test_paths_are_their_definition(strategy: str, words: int, neighbours: int) -> None:
    table = random(words, 4, seed=words)
    low = torch.cat([table[:1].expand(3, -1), torch.zeros(2, 4, dtype=torch.float64)])
    high = torch.cat([table[torch.tensor([words - 1, words // 2])], random(3, 4, seed=8)])
    found = WordPaths(7, neighbours, strategy).between(low, high, table)
    for row in range(len(high)):
        expected = torch.stack(plain.word_path(high[row], low[row], table, 7, neighbours, strategy))
        torch.testing.assert_close(found[:, row], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_paths_are_monotone_and_near_words(strategy: str) -> None:
    table = random(1000, 6, seed=1)
    low, high = table[:1].expand(20, -1), table[100:120]
    path = WordPaths(10, 100, strategy).between(low, high, table)
    assert path.shape == (12, 20, 6)
    assert torch.equal(path[0], low)
    assert torch.equal(path[-1], high)
    assert ((path.diff(dim=0) * (high - low).sign()) >= -1e-12).all()
    shares = torch.linspace(0, 1, 12, dtype=torch.float64)[1:-1, None, None]
    straight = low + shares * (high - low)
    distances = [torch.cdist(points.flatten(0, 1), table).min(1).values.mean() for points in (path[1:-1], straight)]
    if strategy == "greedy":
        assert distances[0] < distances[1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_discretized_is_its_definition(strategy: str) -> None:
    table = random(50, 3, seed=1)
    x, low = table[torch.tensor([[4, 9], [12, 9]])], table[torch.tensor([[0, 0], [0, 1]])]
    expected = [plain.discretized(smooth, a, b, table, 6, 10, strategy) for a, b in zip(x, low, strict=True)]
    method = DiscretizedIntegratedGradients(smooth, vocabulary=table, strategy=strategy, n_neighbors=10)
    found = method.attribute(x, low, n_steps=6)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_discretized_is_exact_on_linear_and_quadratic_functions(strategy: str) -> None:
    table, weights = random(60, 3, seed=1), random(2, 3, seed=2)
    x = table[torch.tensor([[4, 9], [12, 30]])]
    linear = DiscretizedIntegratedGradients(
        lambda x: (x * weights).sum((1, 2)), vocabulary=table, strategy=strategy
    ).attribute(x, n_steps=5)
    torch.testing.assert_close(linear, weights * x)
    method = DiscretizedIntegratedGradients(quadratic, vocabulary=table, strategy=strategy)
    _, delta = method.attribute(x, n_steps=5, method="riemann_trapezoid", return_convergence_delta=True)
    assert delta.shape == (2,)
    assert delta.abs().max() < 1e-10


def test_shorter_pieces_bring_the_delta_down() -> None:
    table = random(60, 3, seed=1)
    method = DiscretizedIntegratedGradients(smooth, vocabulary=table)
    x = table[torch.tensor([[4, 9], [12, 30]])]
    deltas = [method.attribute(x, factor=f, return_convergence_delta=True)[1].abs().max() for f in (0, 2, 5)]
    assert deltas[2] < deltas[1] < deltas[0]
    assert deltas[2] < 0.1 * deltas[0]


def test_left_and_right_sums_make_the_trapezoid() -> None:
    table = random(60, 3, seed=1)
    method = DiscretizedIntegratedGradients(smooth, vocabulary=table)
    x = table[torch.tensor([[4, 9]])]
    left, right, both = (
        method.attribute(x, method=f"riemann_{kind}", factor=1, n_steps=4) for kind in ("left", "right", "trapezoid")
    )
    torch.testing.assert_close((left + right) / 2, both)


@pytest.mark.parametrize("rows", [None, 1, 3, 1000])
def test_discretized_in_any_chunks(rows: int | None) -> None:
    table = random(60, 3, seed=1)
    method = DiscretizedIntegratedGradients(smooth, vocabulary=table)
    x = table[torch.tensor([[4, 9], [12, 30]])]
    whole = method.attribute(x, n_steps=6, factor=1, internal_batch_size=1000)
    found = method.attribute(x, n_steps=6, factor=1, internal_batch_size=rows)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_discretized_of_ids_with_a_vocabulary_of_1000(strategy: str) -> None:
    torch.manual_seed(4)
    model = Transformer(1000).eval()
    ids = torch.tensor([[3, 700, 700, 999, 4], [1, 2, 29, 6, 4]])
    method = DiscretizedIntegratedGradients(model, layer=model.embedding, strategy=strategy)
    before = model.embedding.weight.clone()
    found, delta = method.attribute(
        ids, torch.tensor([[3, 0, 0, 0, 4]]), 1, method="riemann_trapezoid", factor=4, return_convergence_delta=True
    )
    assert found.shape == (2, 5, 8)
    assert not found[:, 4].any()
    assert delta.abs().max() < 1e-3
    assert torch.equal(model.embedding.weight, before)
    assert not model.embedding._forward_hooks


def test_inputs_of_two_widths_have_a_table_each() -> None:
    tables = (random(20, 3), random(25, 2))
    method = DiscretizedIntegratedGradients(lambda x, y: x.sum(1) * y.sum((1, 2)), vocabulary=tables)
    found = method.attribute((random(2, 3, seed=1), random(2, 4, 2, seed=2)), method="riemann_trapezoid")
    assert [part.shape for part in found] == [(2, 3), (2, 4, 2)]


# both


def test_results_and_model_are_left_clean(model: Transformer) -> None:
    for kind in (SequentialIntegratedGradients, DiscretizedIntegratedGradients):
        found = kind(model, layer=model.embedding).attribute(torch.tensor([[1, 2]]), 0, 1, n_steps=2)
        assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_sequential_differs_from_integrated_gradients_where_words_interact(model: Transformer) -> None:
    ids = torch.tensor([[3, 7, 12]])
    one = SequentialIntegratedGradients(model, layer=model.embedding).attribute(ids, 0, 1)
    other = LayerIntegratedGradients(model, model.embedding).attribute(ids, 0, 1)
    assert not torch.allclose(one, other, rtol=1e-2)


def test_errors(model: Transformer) -> None:
    ids = torch.tensor([[1, 2]])
    with pytest.raises(InvalidType, match="token ids"):
        SequentialIntegratedGradients(model).attribute(ids)
    with pytest.raises(InvalidShape, match="positions"):
        SequentialIntegratedGradients(lambda x: x).attribute(torch.ones(3))
    with pytest.raises(InvalidType, match="module"):
        SequentialIntegratedGradients(model, layer="embedding")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="vocabulary"):
        DiscretizedIntegratedGradients(model)
    with pytest.raises(InvalidType, match=r"nn\.Embedding"):
        DiscretizedIntegratedGradients(model, layer=model.head).attribute(ids)
    with pytest.raises(UnknownName, match="greedy"):
        DiscretizedIntegratedGradients(model, layer=model.embedding, strategy="greedi")
    with pytest.raises(InvalidValue, match="n_neighbors"):
        DiscretizedIntegratedGradients(model, layer=model.embedding, n_neighbors=0)
    method = DiscretizedIntegratedGradients(smooth, vocabulary=random(5, 3))
    with pytest.raises(InvalidShape, match=r"\(words, 4\)"):
        method.attribute(random(1, 2, 4))
    with pytest.raises(UnknownName, match="riemann_left"):
        method.attribute(random(1, 2, 3), method="gausslegendre")
    with pytest.raises(InvalidValue, match="factor"):
        method.attribute(random(1, 2, 3), factor=-1)
    with pytest.raises(InvalidValue, match="n_steps"):
        method.attribute(random(1, 2, 3), n_steps=0)


def test_the_middle_of_each_piece_is_exact_for_quadratic_functions() -> None:
    torch.manual_seed(0)
    words, x, low = torch.randn(20, 3), torch.randn(1, 2, 3), torch.zeros(1, 2, 3)
    seen = []

    def quadratic(point: torch.Tensor) -> torch.Tensor:
        seen.append(point.detach())
        return (point[:, 0] * point[:, 1]).sum(1) + point.square().sum((1, 2))

    for factor in (0, 2):
        method = DiscretizedIntegratedGradients(quadratic, vocabulary=words, n_neighbors=5)
        found, delta = method.attribute(
            x, low, n_steps=4, method="riemann_middle", factor=factor, return_convergence_delta=True
        )
        assert delta.abs().max() < 1e-5
        assert found.shape == x.shape
    gradients = [point for call in seen for point in call if len(call) > 1]
    assert all(point.any() for point in gradients)
