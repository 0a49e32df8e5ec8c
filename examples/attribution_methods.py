"""What do four methods see in one photograph? DeepLIFT, LRP, guided Grad-CAM and occlusion of a real CNN.

Run: python examples/attribution_methods.py --out methods.png   (needs the extras demo, plot and vision)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import numpy as np
import torch
from image_classifier import NAMES, PATCH, SIZE, classified
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor, nn

from llm_attr.attr import LRP, DeepLift, GuidedGradCam, IdentityRule, Occlusion, ZPlusRule
from llm_attr.attr.visualization import visualize_image_attr
from llm_attr.viz.colour import LIGHT

WINDOW, STRIDE = 32, 16


def squares(attribution: Tensor) -> np.ndarray:
    """`(1, 3, size, size)` summed over the colours and over squares of pixels."""
    return nn.functional.avg_pool2d(attribution, PATCH, divisor_override=1)[0].sum(0).numpy()


def maps(model: nn.Module, image: Tensor, target: int) -> dict[str, np.ndarray]:
    """What each method says of the output at the target; occlusion, of the window around each pixel."""
    rules = {part: ZPlusRule() for part in model.modules() if isinstance(part, nn.Conv2d)}
    rules |= {part: IdentityRule() for part in model.modules() if isinstance(part, nn.BatchNorm2d)}
    windows = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, STRIDE, STRIDE)}
    return {
        "DeepLIFT": squares(DeepLift(model).attribute(image, target=target)),
        "LRP, z⁺ rule": squares(LRP(model, rules=rules).attribute(image, target=target)),
        "Guided Grad-CAM": squares(
            GuidedGradCam(model, model.head).attribute(image, target=target, interpolate_mode="bilinear")
        ),
        f"Occlusion by {WINDOW} × {WINDOW} pixels": Occlusion(model)
        .attribute(image, **windows, target=target)[0, 0]
        .numpy(),
    }


def draw(photo: Image.Image, title: str, found: Mapping[str, np.ndarray], out: Path) -> None:
    """The photograph and the maps in a row; the same rule finds the scale of each map, and the picture says it."""
    plt.rcParams.update({"font.size": 9, "text.color": LIGHT.ink})
    figure = plt.figure(figsize=(12.5, 4.2), dpi=144, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(title, x=0.006, ha="left", size=13)
    figure.text(0.006, 0.885, "orange speaks for it, blue against it; each map has its own scale, by one rule", size=9)
    first, *others = figure.subplots(1, 1 + len(found))
    small = np.array(photo.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    visualize_image_attr(None, small, "original_image", plt_fig_axis=(figure, first), title="Photograph")
    for axes, (name, values) in zip(others, found.items(), strict=True):
        visualize_image_attr(
            values, sign="all", outlier_perc=3, show_colorbar=True, plt_fig_axis=(figure, axes), title=name
        )
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("methods.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    model, photo, image, likeliest, number = classified()
    with torch.no_grad():
        change = (model(image) - model(0 * image))[0, number]
    found = maps(model, image, number)
    title = f"Four methods on one photograph: why “{NAMES[number]}”? EfficientNet-Lite0 is {100 * likeliest:.0f} % sure"
    draw(photo, title, found, out)
    print(f"class: {number} {NAMES[number]}, probability {likeliest:.3f}")
    for name, values in found.items():
        rows, columns = np.nonzero(values == values.max())
        row, column = (SIZE / len(values) * (each.mean() + 0.5) for each in (rows, columns))
        print(f"{name}: peak {values.max():+.3g} around row {row:.0f}, column {column:.0f} of {SIZE}")
    print(f"DeepLIFT sums to {found['DeepLIFT'].sum():.2f} of {change:.2f} logits that the photograph makes over grey")
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
