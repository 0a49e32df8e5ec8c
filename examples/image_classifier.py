"""Why does an image classifier see an espresso? Grad-CAM and integrated gradients of a real CNN on a photograph.

Run: python examples/image_classifier.py --out image.png   (needs the extras demo, plot and vision)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from models import image_classifier
from PIL import Image
from skimage.data import coffee
from torch import Tensor, nn

from llm_attr.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel
from llm_attr.attr.visualization import visualize_image_attr
from llm_attr.viz.colour import LIGHT

SIZE, PATCH = 224, 2
NAMES = {504: "coffee mug", 925: "consommé", 967: "espresso", 968: "cup"}
"""The few names of ImageNet classes that this photograph calls for."""


def photograph() -> Image.Image:
    """The middle of a photograph of a cup (Rachel Michetti, Pikolo Espresso Bar, CC0; it comes with scikit-image)."""
    whole = Image.fromarray(coffee())
    left = (whole.width - whole.height) // 2
    return whole.crop((left, 0, left + whole.height, whole.height))


def as_input(photo: Image.Image) -> Tensor:
    """`(1, 3, 224, 224)` about -1 to 1, so that 0, the baseline, is grey."""
    small = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() - 127) / 128


def classified() -> tuple[nn.Module, Image.Image, Tensor, float, int]:
    """The classifier, the photograph, its input, and the probability and number of the likeliest class."""
    model, photo = image_classifier(), photograph()
    image = as_input(photo)
    with torch.no_grad():
        likeliest, number = (each.item() for each in model(image).softmax(1).max(1))
    return model, photo, image, likeliest, number


def draw(photo: Image.Image, title: str, cam: np.ndarray, pixels: np.ndarray, out: Path) -> None:
    """One picture: the photograph, Grad-CAM over it in grey, and the pixels' attributions."""
    figure = heading(title)
    panel(figure, 0, "Photograph").imshow(photo)
    small = np.array(photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    overlay = panel(figure, 1, "Grad-CAM of the last convolution")
    options = {"sign": "all", "show_colorbar": True}
    visualize_image_attr(
        cam, small, "blended_heat_map", plt_fig_axis=(figure, overlay), outlier_perc=0, alpha_overlay=0.8, **options
    )
    heat_map = panel(figure, 2, "Integrated gradients, SmoothGrad")
    visualize_image_attr(pixels, method="heat_map", plt_fig_axis=(figure, heat_map), outlier_perc=3, **options)
    figure.savefig(out)


def heading(title: str) -> Figure:
    """An empty figure with a heading."""
    plt.rcParams.update({"font.size": 9, "text.color": LIGHT.ink, "xtick.color": LIGHT.ink})
    figure = plt.figure(figsize=(10, 4.5), dpi=140)
    figure.text(0.02, 0.92, title, size=13)
    return figure


def panel(figure: Figure, number: int, title: str) -> Axes:
    """One of three squares beside each other."""
    axes = figure.add_axes((0.02 + 0.3275 * number, 0.14, 0.305, 0.305 * 10 / 4.5))
    axes.set_title(title, loc="left", size=10, pad=6)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_linewidth(0.4)
    return axes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("image.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    model, photo, image, likeliest, number = classified()

    cam = LayerGradCam(model, model.head).attribute(image, target=number)
    cam = LayerAttribution.interpolate(cam, (SIZE, SIZE), "bilinear")[0, 0].numpy()
    tunnel = NoiseTunnel(IntegratedGradients(model))
    smooth = tunnel.attribute(image, nt_samples=16, nt_samples_batch_size=1, stdevs=0.2, n_steps=10, target=number)
    squares = nn.functional.avg_pool2d(smooth, PATCH)[0].sum(0).numpy()

    title = f"Why “{NAMES[number]}”? EfficientNet-Lite0 is {100 * likeliest:.0f} % sure of it"
    draw(photo, title, cam, squares, out)
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    print(f"class: {number} {NAMES[number]}, probability {likeliest:.3f}")
    print(f"Grad-CAM peak: row {row}, column {column} of {SIZE}")
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
