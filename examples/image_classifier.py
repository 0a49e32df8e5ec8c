"""Why does an image classifier see an espresso? Grad-CAM and integrated gradients of a real CNN on a photograph.

Run: python examples/image_classifier.py --out image.png   (needs the extras demo, plot and vision)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from models import image_classifier
from PIL import Image
from skimage.data import coffee
from torch import Tensor, nn

from llm_attr.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel
from llm_attr.viz.colour import LIGHT, colormap
from llm_attr.viz.scale import Scale

SIZE, PATCH = 224, 2
WHOLE = (0, SIZE, SIZE, 0)
SIGNED = {"vmin": -1, "vmax": 1, "extent": WHOLE}
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


def draw(photo: Image.Image, title: str, cam: np.ndarray, pixels: np.ndarray, out: Path) -> None:
    """One picture: the photograph, Grad-CAM over it in grey, and the pixels' attributions, on one signed scale."""
    plt.rcParams.update({"font.size": 9, "text.color": LIGHT.ink, "xtick.color": LIGHT.ink})
    figure = plt.figure(figsize=(10, 4.5), dpi=140)
    figure.text(0.02, 0.92, title, size=13)
    panel(figure, 0, "Photograph").imshow(photo, extent=WHOLE)
    grey = np.asarray(photo.convert("L"), dtype=float)
    overlay = panel(figure, 1, "Grad-CAM of the last convolution")
    overlay.imshow(130 + grey * 0.49, cmap="gray", vmin=0, vmax=255, extent=WHOLE)
    overlay.imshow(cam, colormap(), **SIGNED, alpha=np.minimum(1.3 * np.abs(cam), 0.85))
    panel(figure, 2, "Integrated gradients, SmoothGrad").imshow(pixels, colormap(), **SIGNED)
    scale = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), colormap()),
        cax=figure.add_axes((0.4425, 0.075, 0.45, 0.025)),
        orientation="horizontal",
        ticks=[-1, 0, 1],
    )
    scale.ax.set_xticklabels(["against", "0", "for"])
    scale.ax.tick_params(length=0)
    scale.outline.set_linewidth(0.4)
    figure.savefig(out)


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
    model, photo = image_classifier(), photograph()
    image = as_input(photo)
    with torch.no_grad():
        likeliest, number = (each.item() for each in model(image).softmax(1).max(1))

    cam = LayerGradCam(model, model.head).attribute(image, target=number)
    cam = LayerAttribution.interpolate(cam, (SIZE, SIZE), "bilinear")[0, 0].numpy()
    tunnel = NoiseTunnel(IntegratedGradients(model))
    smooth = tunnel.attribute(image, nt_samples=16, nt_samples_batch_size=1, stdevs=0.2, n_steps=10, target=number)
    squares = nn.functional.avg_pool2d(smooth, PATCH)[0].sum(0).numpy()

    title = f"Why “{NAMES[number]}”? EfficientNet-Lite0 is {100 * likeliest:.0f} % sure of it"
    draw(photo, title, Scale.of(cam).shares(cam), Scale.of(squares, outliers=3).shares(squares), out)
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    print(f"class: {number} {NAMES[number]}, probability {likeliest:.3f}")
    print(f"Grad-CAM peak: row {row}, column {column} of {SIZE}")
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
