"""The warning where gradient x input cannot say anything: a norm directly on the vectors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import InputXGradient, LayerGradientXActivation
from tests.zoo import FAMILIES, VOCABULARY, tiny_model

MESSAGE = "does not change when such a vector is scaled"
NORMS = {"LayerNorm": nn.LayerNorm, "RMSNorm": nn.RMSNorm}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Classifier(nn.Module):
    """Token ids or vectors `(batch, time, 16)` -> `(batch, 3)`, with a norm on the embedding or behind a layer."""

    def __init__(self, norm: type[nn.Module], first: nn.Module) -> None:
        super().__init__()
        self.embedding, self.first, self.norm = nn.Embedding(20, 16), first, norm(16)
        self.mix = nn.GRU(16, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        vectors = x if x.is_floating_point() else self.embedding(x)
        return self.head(self.mix(self.norm(self.first(vectors)))[0].tanh().sum(1))


def classifier(norm: str, first: nn.Module | None = None, dtype: torch.dtype = torch.float64) -> Classifier:
    torch.manual_seed(0)
    return Classifier(NORMS[norm], nn.Identity() if first is None else first).to(dtype)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(20, (2, 5), generator=torch.Generator().manual_seed(0))


@contextmanager
def silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_directly_on_the_embedding(norm: str, dtype: torch.dtype, ids: Tensor) -> None:
    model = classifier(norm, dtype=dtype)
    with pytest.warns(UserWarning, match=MESSAGE) as seen:
        LayerGradientXActivation(model, model.embedding).attribute(ids, target=1)
    with pytest.warns(UserWarning, match=MESSAGE):
        InputXGradient(model).attribute(model.embedding(ids).detach(), target=1)
    assert len(seen) == 1
    assert seen[0].filename == __file__


@pytest.mark.parametrize("norm", NORMS)
def test_vectors_that_are_not_used_do_not_hide_it(norm: str, ids: Tensor) -> None:
    model = classifier(norm)
    with pytest.warns(UserWarning, match=MESSAGE):
        InputXGradient(lambda x: model(x[:, :3])).attribute(model.embedding(ids).detach(), target=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [nn.Linear(16, 16), nn.Tanh(), nn.Dropout(0.0)], ids=lambda part: type(part).__name__)
def test_silent_where_something_comes_before_the_norm(
    norm: str, dtype: torch.dtype, first: nn.Module, ids: Tensor
) -> None:
    model = classifier(norm, first, dtype)
    position = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    vectors = model.embedding(ids).detach()
    with silent():
        InputXGradient(lambda x: model(x + position)).attribute(vectors, target=1)
        LayerGradientXActivation(model, model.mix, multiply_by_inputs=False).attribute(ids, target=1)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("bloom", "mamba")])
def test_silent_on_language_models(family: str) -> None:
    """Every layer but the last block, whose output goes into the last norm and nowhere else."""
    model = tiny_model(family, "eager")
    ids = torch.randint(3, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    blocks = next(part for part in model.modules() if isinstance(part, nn.ModuleList))
    layers = [model.get_input_embeddings(), *blocks[:-1]]
    with silent():
        LayerGradientXActivation(lambda x: model(x).logits[:, -1], layers).attribute(ids, target=7)


@pytest.mark.parametrize(("family", "layer"), [("llama", "model.layers.2"), ("bloom", "transformer.word_embeddings")])
def test_language_models_with_a_norm_behind_a_layer(family: str, layer: str) -> None:
    """What the last block gives goes into the last norm only; Bloom has a norm on its embedding."""
    model = tiny_model(family, "eager")
    ids = torch.randint(3, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=MESSAGE):
        LayerGradientXActivation(lambda x: model(x).logits[:, -1], model.get_submodule(layer)).attribute(ids, target=7)


def test_silent_without_gradients_that_cancel() -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    with silent():
        InputXGradient(lambda x: (x * 0 + x.detach()).sum((1, 2))).attribute(x)
        InputXGradient(lambda x: x[:, :, 0].sum(1)).attribute(x)
        InputXGradient(lambda x: x.flatten(1).sum(1)).attribute(x[:0])
        InputXGradient(lambda x: x.sum((1, 2))).attribute(x[:, :, :1])
