"""Which parts of a photograph make an image classifier see an espresso? Occlusion, and LIME over superpixels.

Run: python examples/superpixels.py --out superpixels.png   (needs the extras demo, plot, surrogates and vision)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from image_classifier import NAMES, SIZE, WHOLE, as_input, panel, photograph
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from models import image_classifier
from PIL import Image
from skimage.segmentation import find_boundaries, slic

from llm_attr.attr import Lime, Occlusion
from llm_attr.viz.colour import LIGHT, colormap
from llm_attr.viz.scale import extent

WINDOW, STRIDE, SAMPLES = 32, 16, 200


def superpixels(photo: Image.Image, size: int) -> np.ndarray:
    """`(size, size)` the number of the superpixel of each pixel: about 40 patches of one colour each."""
    small = np.array(photo.resize((size, size), Image.Resampling.BICUBIC))
    return slic(small, n_segments=40, compactness=10, start_label=0)


def draw(
    photo: Image.Image, title: str, patches: np.ndarray, occlusion: np.ndarray, lime: np.ndarray, out: Path
) -> None:
    """The photograph with its superpixels, then both maps over it in grey, on one signed scale."""
    limit = extent([occlusion, lime])
    plt.rcParams.update({"font.size": 9, "text.color": LIGHT.ink, "xtick.color": LIGHT.ink})
    figure = plt.figure(figsize=(10, 4.5), dpi=140)
    figure.text(0.02, 0.92, title, size=13)
    fine = np.asarray(Image.fromarray(patches.astype(np.uint8)).resize(photo.size, Image.Resampling.NEAREST))
    edges = np.where(find_boundaries(fine, mode="thick")[..., None], 255, np.asarray(photo)).astype(np.uint8)
    panel(figure, 0, f"Photograph in {patches.max() + 1} superpixels").imshow(edges, extent=WHOLE)
    grey = 175 + np.asarray(photo.convert("L"), dtype=float) * 0.31
    names = (f"Occlusion: {WINDOW} × {WINDOW} pixels at a time", f"LIME: random superpixels, {SAMPLES} times")
    for number, (name, values) in enumerate(zip(names, (occlusion, lime), strict=True), 1):
        axes = panel(figure, number, name)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=WHOLE)
        shown = {"vmin": -limit, "vmax": limit, "extent": WHOLE, "interpolation": "nearest"}
        axes.imshow(values, colormap(), **shown, alpha=np.minimum(2.5 * np.abs(values) / limit, 0.9))
    colours = ScalarMappable(Normalize(-limit, limit), colormap())
    bar = figure.colorbar(colours, cax=figure.add_axes((0.4425, 0.075, 0.45, 0.025)), orientation="horizontal")
    bar.set_ticks([-limit, 0, limit], labels=[f"−{limit:.2f} logits", "0", f"+{limit:.2f} logits"])
    bar.ax.tick_params(length=0)
    bar.outline.set_linewidth(0.4)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("superpixels.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    model, photo = image_classifier(), photograph()
    image = as_input(photo)
    with torch.no_grad():
        likeliest, number = (each.item() for each in model(image).softmax(1).max(1))

    windows = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, STRIDE, STRIDE)}
    occlusion = Occlusion(model).attribute(image, **windows, target=number)[0, 0].numpy()
    patches = superpixels(photo, SIZE)
    mask = torch.from_numpy(patches)[None, None]
    found, stderr = Lime(model).attribute(
        image, target=number, feature_mask=mask, n_samples=SAMPLES, seed=0, return_stderr=True
    )
    lime = found[0, 0].numpy()

    title = f"Which parts show “{NAMES[number]}”? How far its logit falls where grey covers the photograph"
    draw(photo, title, patches, occlusion, lime, out)
    print(f"class: {number} {NAMES[number]}, probability {likeliest:.3f}")
    for name, values in (("Occlusion", occlusion), ("LIME", lime)):
        rows, columns = np.nonzero(values == values.max())
        print(f"{name} peak: {values.max():+.2f} around row {rows.mean():.0f}, column {columns.mean():.0f} of {SIZE}")
    print(f"LIME standard errors by bootstrap: {stderr.max():.2f} logits at most")
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
