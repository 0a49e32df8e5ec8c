"""Models, inputs and options of the methods that play a game of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.parity.cases import PADDING, random, whole
from tests.parity.models import LSTM, Encoder, TwoInputs, cnn, made, mlp

Options = dict[str, Any]
Games = dict[str, tuple[Callable[..., Any], Any, Options]]

MLP = made(mlp())
X, Y = random(3, 4), random(3, 2, 3, seed=1)
IMAGE, SERIES, IDS = random(2, 2, 5, 5), random(3, 4, 3), whole(11, 3, 5)
PATCHES = (torch.arange(5)[:, None] // 3 * 2 + torch.arange(5) // 3)[None, None]
PAIR_MASK = (torch.tensor([[0, 1, 1, 2]]), torch.tensor([[[2, 3, 3], [3, 1, 1]]]))

ABLATION: Games = {
    "mlp": (made(mlp()), X, {"target": 1}),
    "mlp, target tensor": (made(mlp()), X, {"target": torch.tensor([0, 2, 1])}),
    "mlp, target tensor of one": (made(mlp()), X, {"target": torch.tensor([2])}),
    "mlp, target tensor of no axes": (made(mlp()), X, {"target": torch.tensor(2)}),
    "mlp, target list": (made(mlp()), X, {"target": [0, 2, 1]}),
    "mlp, target tuple": (made(mlp()), X, {"target": (1,)}),
    "mlp, negative target": (made(mlp()), X, {"target": -1}),
    "mlp, one tuple": (made(mlp()), (X,), {"target": 1}),
    "mlp, one example": (made(mlp()), X[:1], {"target": 1}),
    "mlp, no example": (made(mlp()), X[:0], {"target": 1}),
    "mlp, no feature": (lambda x: x.sum(1), X[:, :0], {}),
    "mlp, requires grad": (made(mlp()), X.clone().requires_grad_(), {"target": 1}),
    "mlp, all outputs": (made(mlp()), X, {}),
    "mlp, baseline number": (made(mlp()), X, {"target": 1, "baselines": 0.3}),
    "mlp, baseline int": (made(mlp()), X, {"target": 1, "baselines": 2}),
    "mlp, baseline tensor": (made(mlp()), X, {"target": 1, "baselines": random(3, 4, seed=5)}),
    "mlp, baseline row": (made(mlp()), X, {"target": 1, "baselines": random(1, 4, seed=5)}),
    "mlp, mask": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[0, 1, 1, 0]])}),
    "mlp, mask with gaps": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[7, -3, 100, 7]])}),
    "mlp, mask without batch": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([0, 1, 1, 2])}),
    "mlp, mask of floats": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[0.0, 1.0, 1.0, 2.0]])}),
    "mlp, mask per example": (made(mlp()), X, {"target": 1, "feature_mask": whole(3, 3, 4, low=-1)}),
    "mlp, one column, mask per example": (lambda x: x.prod(1, keepdim=True), X, {"feature_mask": whole(3, 3, 4)}),
    "one axis": (lambda x: x**2, X[:, 0], {}),
    "cnn": (made(cnn()), IMAGE, {"target": 2}),
    "cnn, mask over channels": (made(cnn()), IMAGE, {"target": 2, "feature_mask": whole(6, 1, 1, 5, 5)}),
    "cnn, mask per example": (made(cnn()), IMAGE, {"target": [2, 0], "feature_mask": whole(4, 2, 2, 5, 5)}),
    "cnn, strided": (made(cnn()), IMAGE.transpose(2, 3), {"target": 0, "baselines": IMAGE[:1]}),
    "lstm": (made(LSTM()), SERIES, {"target": 0}),
    "lstm, steps": (made(LSTM()), SERIES, {"target": 0, "feature_mask": torch.arange(4).view(1, 4, 1)}),
    "encoder": (made(Encoder()), IDS, {"target": (4, 1), "additional_forward_args": PADDING}),
    "encoder, more arguments": (
        made(Encoder()),
        IDS,
        {"target": (0, 2), "additional_forward_args": (PADDING, 0.5, random(3, 5, 8)), "baselines": 7},
    ),
    "encoder, an argument is None": (
        made(Encoder()),
        IDS,
        {"target": (0, 2), "additional_forward_args": (PADDING, 2, None)},
    ),
    "encoder, list of tuples": (
        made(Encoder()),
        IDS,
        {"target": [(0, 1), (2, 2), (1, 0)], "additional_forward_args": PADDING, "baselines": IDS.flip(1)},
    ),
    "encoder, a row of outputs": (made(Encoder()), IDS, {"target": 1, "additional_forward_args": PADDING}),
    "two inputs": (made(TwoInputs()), (X, Y), {"target": 3}),
    "two inputs, all outputs": (made(TwoInputs()), (X, Y), {}),
    "two inputs, baselines": (made(TwoInputs()), (X, Y), {"target": 3, "baselines": (0.5, random(1, 2, 3))}),
    "two inputs, baselines of each kind": (made(TwoInputs()), (X, Y), {"target": 3, "baselines": (X.flip(0), 1)}),
    "two inputs, shared features": (
        made(TwoInputs()),
        (X, Y),
        {"target": 3, "feature_mask": (torch.tensor([[0, 5, 5, 9]]), whole(3, 1, 2, 3)), "baselines": (1, -1)},
    ),
    "two inputs, shared features per example": (
        made(TwoInputs()),
        (X, Y),
        {"target": [3, 0, 1], "feature_mask": (whole(4, 3, 4), whole(5, 3, 2, 3))},
    ),
    "two inputs, one argument": (made(TwoInputs()), (X, Y), {"target": 0, "additional_forward_args": 3.0}),
    "whole numbers": (lambda x: x.double() @ X[:2].T, whole(9, 3, 4), {"target": 1}),
    "whole numbers, whole baseline": (lambda x: x.double() @ X[:2].T, whole(9, 3, 4), {"target": 1, "baselines": 4}),
    "whole numbers, half as baseline": (
        lambda x: x.double() @ X[:2].T,
        whole(9, 3, 4),
        {"target": 1, "baselines": 0.5},
    ),
    "truth values": (lambda x: x.double() @ X[:2].T, X > 0, {"target": 1}),
    "truth values, True": (lambda x: x.double() @ X[:2].T, X > 0, {"target": 1, "baselines": True}),
    "half precision": (lambda x: x.double() @ X[:2].T, X.half(), {"target": 1}),
    "whole outputs": (lambda x: (x @ X[:2].T * 10).long(), X, {"target": 1}),
}

AGGREGATES: Games = {
    "scalar": (lambda x: made(mlp())(x).sum(), X, {}),
    "vector": (lambda x: made(mlp())(x).sum(0), X, {}),
    "vector of one": (lambda x: made(mlp())(x).sum()[None], X, {}),
    "float": (lambda x: made(mlp())(x).sum().item(), X, {}),
    "int": (lambda x: int(made(mlp())(x).sum() * 100), X, {}),
    "scalar of two inputs": (
        lambda x, y: made(TwoInputs())(x, y).prod(),
        (X, Y),
        {"feature_mask": (torch.tensor([[1, 1, 2, 0]]), torch.tensor([2, 3, 3])), "baselines": (1, 2.5)},
    ),
    "matrix": (lambda x: x.T @ x, X[:, :2], {}),
}
"""One answer for the whole batch."""

SHAPLEY: Games = {
    "mlp": (made(mlp()), X, {"target": 1}),
    "mlp, targets": (made(mlp()), X, {"target": torch.tensor([0, 2, 1])}),
    "mlp, list": (made(mlp()), X, {"target": [0, 2, 1]}),
    "mlp, tuple": (made(mlp()), (X,), {"target": 1}),
    "mlp, one example": (made(mlp()), X[:1], {"target": 1}),
    "mlp, all outputs": (made(mlp()), X, {}),
    "mlp, number as baseline": (made(mlp()), X, {"target": 1, "baselines": 0.3}),
    "mlp, baselines": (made(mlp()), X, {"target": 1, "baselines": random(3, 4, seed=5)}),
    "mlp, one baseline": (made(mlp()), X, {"target": 1, "baselines": random(1, 4, seed=5)}),
    "mlp, mask": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[0, 1, 1, 2]])}),
    "mlp, one feature": (made(mlp()), X, {"target": 1, "feature_mask": torch.zeros(1, 4).long()}),
    "cnn, patches": (made(cnn()), IMAGE, {"target": 2, "feature_mask": PATCHES}),
    "cnn, channels, all outputs": (made(cnn()), IMAGE, {"feature_mask": torch.arange(2).view(1, 2, 1, 1)}),
    "lstm, steps": (made(LSTM()), SERIES, {"target": 0, "feature_mask": torch.arange(4).view(1, 4, 1)}),
    "encoder": (made(Encoder()), IDS, {"target": (4, 1), "additional_forward_args": PADDING}),
    "encoder, more arguments": (
        made(Encoder()),
        IDS,
        {"target": (0, 2), "additional_forward_args": (PADDING, 0.5, random(3, 5, 8)), "baselines": 7},
    ),
    "encoder, all outputs": (made(Encoder()), IDS, {"additional_forward_args": PADDING}),
    "two inputs, shared features": (
        made(TwoInputs()),
        (X, Y),
        {"target": 3, "feature_mask": PAIR_MASK, "baselines": (1, -1)},
    ),
    "two inputs, one argument": (
        made(TwoInputs()),
        (X, Y),
        {"target": [3, 0, 1], "feature_mask": PAIR_MASK, "additional_forward_args": 3.0},
    ),
    "a number for the batch": (lambda x: (x**2).sum() + x.prod(), X, {}),
    "numbers for the batch": (lambda x: torch.stack([x.sum(), x.prod(), x.exp().sum()]), X, {}),
    "one column": (lambda x: x.prod(1, keepdim=True), X, {}),
}

WINDOWS: dict[str, tuple[Callable[..., Any], Any, Any, Options]] = {
    "mlp": (made(mlp()), X, (2,), {"target": 1}),
    "mlp, stride does not divide": (made(mlp()), X, (3,), {"target": [0, 2, 1], "strides": 2}),
    "mlp, stride in a tuple": (made(mlp()), X, (2,), {"target": 1, "strides": (2,)}),
    "mlp, single positions": (made(mlp()), X, (1,), {"target": 1, "baselines": random(3, 4, seed=5)}),
    "mlp, all of it": (made(mlp()), X, (4,), {"target": 1, "strides": 9}),
    "mlp, one tuple": (made(mlp()), (X,), ((2,),), {"target": 1, "strides": (2,)}),
    "mlp, one tuple, bare window": (made(mlp()), (X,), (2,), {"target": 1, "strides": 2}),
    "mlp, nested window": (made(mlp()), X, ((2,),), {"target": 1, "strides": ((2,),)}),
    "mlp, all outputs": (made(mlp()), X, (2,), {}),
    "mlp, one example": (made(mlp()), X[:1], (2,), {"target": 1, "baselines": 0.5}),
    "one number for the batch": (lambda x: MLP(x).sum(), X, (3,), {}),
    "cnn": (made(cnn()), IMAGE, (2, 3, 2), {"target": 2}),
    "cnn, strides": (made(cnn()), IMAGE, (1, 3, 2), {"target": [2, 0], "strides": (1, 2, 2), "baselines": 1}),
    "cnn, one stride": (made(cnn()), IMAGE, (2, 2, 3), {"target": 2, "strides": 2, "baselines": IMAGE[:1]}),
    "lstm": (made(LSTM()), SERIES, (2, 3), {"target": 0}),
    "encoder": (made(Encoder()), IDS, (2,), {"target": (4, 1), "additional_forward_args": PADDING, "baselines": 7}),
    "two inputs": (made(TwoInputs()), (X, Y), ((3,), (1, 2)), {"target": 3, "strides": (2, (1, 1))}),
    "two inputs, a stride each": (
        made(TwoInputs()),
        (X, Y),
        ((2,), (2, 2)),
        {"target": [3, 0, 1], "strides": (1, 2), "baselines": (0.5, random(1, 2, 3))},
    ),
    "two inputs, all outputs": (made(TwoInputs()), (X, Y), ((3,), (1, 2)), {}),
    "whole outputs": (lambda x: (x @ X[:2].T * 10).long(), X, (3,), {}),
}

PERMUTATION: Games = {
    "mlp": (made(mlp()), X, {"target": 1}),
    "mlp, one tuple": (made(mlp()), (X,), {"target": [0, 2, 1]}),
    "mlp, all outputs": (made(mlp()), X, {}),
    "mlp, mask": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[7, -3, 100, 7]])}),
    "mlp, mask per example": (made(mlp()), X, {"target": 1, "feature_mask": whole(3, 3, 4)}),
    "mlp, equal examples": (made(mlp()), X[:1].expand(3, 4), {"target": 1}),
    "mlp, two examples": (made(mlp()), X[:2], {"target": 1}),
    "one number for the batch": (lambda x: MLP(x).prod(), X, {}),
    "cnn": (made(cnn()), IMAGE, {"target": 2, "feature_mask": whole(6, 1, 1, 5, 5)}),
    "lstm": (made(LSTM()), SERIES, {"target": 0}),
    "encoder": (made(Encoder()), IDS, {"target": (4, 1), "additional_forward_args": PADDING}),
    "two inputs": (made(TwoInputs()), (X, Y), {"target": 3}),
    "two inputs, shared features": (
        made(TwoInputs()),
        (X, Y),
        {"target": 3, "feature_mask": (torch.tensor([[0, 5, 5, 9]]), whole(3, 1, 2, 3))},
    ),
}
