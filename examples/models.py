"""The two networks that the examples explain: an image classifier and a sentence encoder, with real weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llm_attr.models.catalogue import model_folder

if TYPE_CHECKING:
    from transformers import BertModel, PreTrainedTokenizerBase

STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
          (6, 3, 1, 320, 1))  # fmt: skip
"""Expansion, kernel, stride, channels and blocks of each stage of EfficientNet-Lite0."""


class Block(nn.Sequential):
    """An inverted bottleneck: expand, convolve each channel by itself, project, and add what came in."""

    def __init__(self, inner: int, outer: int, expansion: int, kernel: int, stride: int) -> None:
        wide = inner * expansion
        expand = [*convolution(inner, wide), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*convolution(wide, wide, kernel, stride, groups=wide), nn.ReLU6()]
        super().__init__(*expand, *depthwise, *convolution(wide, outer))
        self.adds = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x) if self.adds else super().forward(x)


class EfficientNetLite0(nn.Module):
    """`(batch, 3, 224, 224) -> (batch, 1000)` logits of the ImageNet classes.

    Source: M. Tan and Q. Le, EfficientNet, ICML 2019, table 1, without squeeze-and-excitation and with ReLU6 ("Lite").
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, 32, 3, 2), nn.ReLU6())
        blocks, inner = [], 32
        for expansion, kernel, stride, outer, count in STAGES:
            for number in range(count):
                blocks.append(Block(inner, outer, expansion, kernel, 1 if number else stride))
                inner = outer
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*convolution(320, 1280), nn.ReLU6())
        self.classes = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.head(self.blocks(self.stem(x))))


def convolution(inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution with TensorFlow's padding, where a stride of 2 has more of it behind, and batch normalisation."""
    padding = kernel - stride
    low, high = padding // 2, padding - padding // 2
    pad = [nn.ZeroPad2d((low, high, low, high))] if padding else []
    return [*pad, nn.Conv2d(inner, outer, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(outer, eps=1e-3)]


def image_classifier() -> EfficientNetLite0:
    """EfficientNet-Lite0; the file has the same tensors in the same order, under the names of another program."""
    (file,) = model_folder("efficientnet-lite0").glob("*.pth")
    model, stored = EfficientNetLite0(), torch.load(file, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), stored.values(), strict=True)))
    return model.eval()


def sentence_encoder() -> tuple[BertModel, PreTrainedTokenizerBase]:
    """all-MiniLM-L6-v2, a BERT of 6 layers, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder("all-minilm-l6-v2")
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
