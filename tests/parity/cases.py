"""The model table with the layers that are looked at, and both libraries asked the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.models import LSTM, Encoder, Two, TwoImages, TwoInputs, cnn, deep, images, made, mlp, net

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high: int, *shape: int, low: int = 0, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


class Fork(nn.Module):
    """`(batch, features)` -> a tuple `(batch, 3)`, `(batch, 2)`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(features, 3), nn.Linear(features, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x).tanh(), self.right(x).exp()


class Join(nn.Module):
    """`(batch, 3)` and `(batch, 2)` -> `(batch, 2, 2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat([x * x, y], 1)).unflatten(1, (2, 2))


class Tuples(nn.Module):
    """`(batch, 4)` -> `(batch, 2, 2)`, by a layer with two outputs and one with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fork, self.join = nn.Linear(4, 6), Fork(6), Join()

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*self.fork(self.body(x).sigmoid()))


class Product(nn.Module):
    """`(batch, 4)` and `(batch, 2, 3)` -> `(batch, 3)`, by a layer that both inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = TwoInputs(), nn.Softplus(), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
        return self.head(self.act(self.body(x, y, weight)))


class Vectors(nn.Module):
    """`(batch, time, 8)` and a padding mask -> `(batch, time, 3)`: an encoder on embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Encoder()

    def forward(self, vectors: Tensor, padding: Tensor) -> Tensor:
        return self.model.head(self.model.encoder(vectors, src_key_padding_mask=padding))


PADDING = torch.arange(5)[None] >= torch.tensor([[5], [3], [4]])


@dataclass(frozen=True)
class Case:
    """A model, what it is given, and its layers.

    Attributes:
        model: In double precision.
        inputs: A tensor or a tuple.
        options: Target and additional arguments.
        layers: Names of layers; `:` behind one means its input.
        neurons: For some of the layers a neuron.
        baselines: A baseline of the inputs.
    """

    model: nn.Module
    inputs: Any
    options: dict[str, Any]
    layers: tuple[str, ...]
    neurons: dict[str, Any] = field(default_factory=dict)
    baselines: Any = None

    def at(self, name: str) -> tuple[nn.Module, bool]:
        """The layer, and whether its input is meant."""
        return self.model.get_submodule(name.removesuffix(":")), name.endswith(":")


X, Y = random(3, 4), random(3, 2, 3, seed=1)
MLP = ("0", "1", "1:", "2", "2:")
MLP_NEURONS = {"0": 2, "1": (3,), "2:": lambda u: u[:, 4]}
TUPLE_LAYERS = ("body", "fork", "fork:", "join", "join:", "join.head")
TUPLE_NEURONS = {"body": 3, "fork": lambda u: u[1][:, 1], "join:": lambda u: u[0][:, 2], "join": (1, 0)}
CNN = ("0", "1", "1:", "2", "2:", "3", "4", "5:")

MOVED: dict[str, Case] = {
    "mlp, int": Case(made(mlp()), X, {"target": 1}, MLP, MLP_NEURONS, 0.3),
    "mlp, tensor": Case(made(mlp()), X, {"target": torch.tensor([0, 2, 1])}, MLP, MLP_NEURONS),
    "mlp, list": Case(made(mlp()), (X,), {"target": [0, 2, 1]}, MLP, MLP_NEURONS, (random(1, 4, seed=3),)),
    "cnn": Case(made(cnn()), random(2, 2, 5, 5), {"target": 2}, CNN, {"0": (1, 0, 2), "3:": (2, 1, 1), "4": 2}, 0.1),
    "lstm": Case(
        made(LSTM()), random(3, 4, 3), {"target": 0}, ("lstm:", "head", "head:"), {"head": 1, "lstm:": (2, 1)}
    ),
    "encoder": Case(
        made(Vectors()),
        random(3, 5, 8),
        {"target": (2, 1), "additional_forward_args": PADDING},
        ("model.encoder", "model.encoder.layers.0", "model.encoder.layers.1.linear1", "model.head:"),
        {"model.encoder.layers.0": (1, 2), "model.encoder.layers.1.linear1": lambda u: u[:, 0, 3]},
        random(3, 5, 8, seed=4),
    ),
    "encoder, list of tuples": Case(
        made(Vectors()),
        random(3, 5, 8),
        {"target": [(0, 1), (2, 2), (1, 0)], "additional_forward_args": (PADDING,)},
        ("model.encoder.layers.1.norm1", "model.encoder.layers.0.linear2:"),
        {"model.encoder.layers.1.norm1": (4, 7)},
    ),
    "two inputs": Case(
        made(TwoInputs()),
        (X, Y),
        {"target": 3, "additional_forward_args": 2.0},
        ("left", "right", "right:"),
        baselines=(0.5, random(1, 2, 3)),
    ),
    "product of two inputs": Case(
        made(Product()),
        (X, Y),
        {"target": [2, 0, 1]},
        ("body", "act", "head:"),
        {"body": 1, "act": (4,), "head:": lambda u: u[:, 0]},
        (random(3, 4, seed=6), 0),
    ),
    "tuples": Case(made(Tuples()), X, {"target": (1, 0)}, TUPLE_LAYERS, TUPLE_NEURONS, random(3, 4, seed=5)),
    "tuples, list": Case(made(Tuples()), X, {"target": [(1, 0), (0, 0), (1, 1)]}, TUPLE_LAYERS, TUPLE_NEURONS),
    "one number": Case(made(nn.Sequential(mlp(), nn.Linear(3, 1))), X, {}, ("0", "0.1", "1:"), {"0.1": 2}),
}
"""Inputs of floating point."""

IDS: dict[str, Case] = {
    "embedding": Case(
        made(Encoder()),
        whole(11, 3, 5),
        {"target": (2, 1), "additional_forward_args": PADDING},
        ("embedding", "encoder", "encoder:", "encoder.layers.0.linear1", "head"),
    ),
    "embedding, more arguments": Case(
        made(Encoder()),
        whole(11, 3, 5),
        {"target": [(0, 2), (1, 1), (2, 0)], "additional_forward_args": (PADDING, 0.5, random(3, 5, 8))},
        ("embedding", "encoder.layers.1"),
    ),
}
"""Token ids."""


TAIL = random(3, 3, seed=1)
DEEP_LIFT = {
    "relu": Case(net(nn.ReLU(), nn.ReLU()), X, {"target": 1}, ("0", "1", "2"), {"0": 2, "3": (4,)}, 0.3),
    "elu, leaky": Case(
        net(nn.ELU(), nn.LeakyReLU()), X, {"target": [0, 2, 1]}, ("0", "1"), {"2": 1}, random(3, 4, seed=5)
    ),
    "sigmoid, tanh": Case(net(nn.Sigmoid(), nn.Tanh()), X, {"target": 0}, ("1", "2:"), {"1": 3}),
    "softplus": Case(net(nn.Softplus()), (X,), {"target": 2}, ("0",), {"0": 0}, (random(1, 4, seed=6),)),
    "images": Case(made(images()), random(2, 2, 5, 5), {"target": 2}, ("0", "1", "3"), {"0": (1, 0, 2)}, 0.1),
    "two": Case(
        made(Two()),
        (X, TAIL),
        {"target": (1, 0), "additional_forward_args": (2.0,)},
        ("head:", "first"),
        {"head": 3},
        (0.2, TAIL.flip(0)),
    ),
}
"""For DeepLIFT: modules of which Captum follows each."""

GUIDED = {
    "deep": Case(made(deep()), random(2, 2, 5, 5), {"target": [1, 2]}, ("0", "2", "3"), {"2": (1, 2, 0), "5": 2}),
    "cnn": Case(made(cnn()), random(2, 2, 5, 5), {"target": 2}, ("0", "1"), {"0": (1, 0, 2), "5": 1}),
    "two": Case(
        made(TwoImages()), (random(2, 2, 5, 5), random(2, 1, 4, 4)), {"target": 1}, ("one", "two"), {"head": 1}
    ),
}
"""For guided backpropagation and deconvolution."""


def sites(table: dict[str, Case]) -> list[tuple[str, str]]:
    """Each case with each of its layers."""
    return [(name, layer) for name, case in table.items() for layer in case.layers]


def neurons(table: dict[str, Case]) -> list[tuple[str, str]]:
    """Each case with each of its layers that has a neuron."""
    return [(name, layer) for name, case in table.items() for layer in case.neurons]


def captums(name: str, call: Callable[[Any], Any], *args: Any, **kwargs: Any) -> Any:
    """What `call` gives for Captum's class of this name, without graphs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _detached(call(getattr(captum.attr, name)(*args, **kwargs)))


def assert_equal(result: Any, expected: Any, relative: float = 1e-6) -> None:
    """In form, and within `relative` of the largest entry."""
    if isinstance(expected, list | tuple):
        assert type(result) is type(expected)
        assert len(result) == len(expected)
        for got, want in zip(result, expected, strict=True):
            assert_equal(got, want, relative)
        return
    assert not result.requires_grad
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(result, expected, rtol=relative, atol=relative * largest)


def described(method: Any) -> tuple[bool, bool, str]:
    """What a method says of itself."""
    return method.multiplies_by_inputs, method.has_convergence_delta(), method.get_name()


def _detached(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_detached(item) for item in value)
    return value.detach() if isinstance(value, Tensor) else value
