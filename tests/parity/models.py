"""Random models in double precision for the comparison with Captum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """`(batch, time, 3)` -> `(batch, 2)`, from the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    """Token ids `(batch, time)` and a padding mask -> `(batch, time, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor, padding: Tensor, scale: float = 1.0, position: Tensor | None = None) -> Tensor:
        hidden = self.embedding(ids) * scale
        if position is not None:
            hidden = hidden + position
        return self.head(self.encoder(hidden, src_key_padding_mask=padding))


class TwoInputs(nn.Module):
    """`(batch, 4)` and `(batch, 2, 3)` -> `(batch, 5)`, with a product of the two."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
        return self.left(x).tanh() * self.right(y.flatten(1)) + weight * x.sum(1, keepdim=True)


class Two(nn.Module):
    """`(batch, 4)` and `(batch, 3)` -> `(batch, 2, 2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.first, self.second = nn.Linear(4, 5), nn.Linear(3, 5), nn.Tanh(), nn.ReLU()
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(self.second(self.first(self.left(x)) + scale * self.right(y))).unflatten(1, (2, 2))


class TwoImages(nn.Module):
    """`(batch, 2, 5, 5)` and `(batch, 1, 4, 4)` -> `(batch, 3)`, with a ReLU for each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3), nn.Conv2d(1, 3, 2)
        self.first, self.second, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(27, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head((self.first(self.one(x)) + self.second(self.two(y))).flatten(1))


class Images(nn.Module):
    """`(batch, 2, 6, 6)` -> `(batch, 3)`; Captum knows no Flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            (
                nn.Conv2d(2, 4, 2),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.MaxPool2d(2, 1),
                nn.Conv2d(4, 4, 2),
                nn.ReLU(),
                nn.AvgPool2d(3),
                nn.Linear(4, 3),
            )
        )

    def __getitem__(self, place: int) -> nn.Module:
        return self.parts[place]

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts[:-1]:
            x = part(x)
        return self.parts[-1](x.flatten(1))


def mlp() -> nn.Module:
    """`(batch, 4)` -> `(batch, 3)`."""
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))


def cnn() -> nn.Module:
    """`(batch, 2, 5, 5)` -> `(batch, 3)`, with in-place ReLU and batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 3)
    )


def made(model: nn.Module, seed: int = 0) -> nn.Module:
    """In double precision and eval mode, with parameters and statistics drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(generator=generator).mul_(0.7)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.abs_().add_(0.5)
    return model


def net(*acts: nn.Module) -> nn.Module:
    parts: list[nn.Module] = [nn.Linear(4, 6), acts[0]]
    for act in acts[1:]:
        parts += [nn.Linear(6, 6), act]
    return made(nn.Sequential(*parts, nn.Linear(6, 3)))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.ReLU(True), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3)
    )


def lrp_mlp(bias: bool = True) -> nn.Module:
    return made(
        nn.Sequential(
            nn.Linear(4, 6, bias), nn.ReLU(), nn.Linear(6, 6, bias), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3, bias)
        )
    )


LRP_MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": lrp_mlp, "images": lambda: made(Images())}
