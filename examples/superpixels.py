"""Which parts of a photograph make an image classifier see an espresso? Occlusion, and LIME over superpixels.

Run: python examples/superpixels.py --out superpixels.png   (needs the extras demo, plot, surrogates and vision)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import numpy as np
import torch
from image_classifier import NAMES, SIZE, classified, heading, panel
from PIL import Image
from skimage.segmentation import slic

from llm_attr.attr import Lime, Occlusion
from llm_attr.attr.visualization import overlay_segments
from llm_attr.viz.scale import Scale

WINDOW, STRIDE, SAMPLES = 32, 16, 200


def superpixels(photo: Image.Image, size: int) -> np.ndarray:
    """`(size, size)` the number of the superpixel of each pixel: about 40 patches of one colour each."""
    small = np.array(photo.resize((size, size), Image.Resampling.BICUBIC))
    return slic(small, n_segments=40, compactness=10, start_label=0)


def draw(
    photo: Image.Image, title: str, patches: np.ndarray, occlusion: np.ndarray, lime: np.ndarray, out: Path
) -> None:
    """The photograph, then both maps over it in grey, on one signed scale."""
    figure = heading(title)
    panel(figure, 0, "Photograph").imshow(photo)
    cells = np.arange((SIZE // STRIDE) ** 2).reshape(SIZE // STRIDE, -1)
    windows = cells.repeat(STRIDE, 0).repeat(STRIDE, 1)
    scale = Scale.of(occlusion, lime)
    names = (f"Occlusion: {WINDOW} × {WINDOW} pixels at a time", f"LIME: random superpixels, {SAMPLES} times")
    for number, (name, segments, values) in enumerate(
        zip(names, (windows, patches), (occlusion, lime), strict=True), 1
    ):
        _, first = np.unique(segments, return_index=True)
        axes = panel(figure, number, name)
        options = {"scale": scale, "numbers": 3, "borders": number == 2, "value_name": "logits"}
        overlay_segments(photo, segments, values.ravel()[first], axes, **options)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("superpixels.png"), help="the picture")
    out = parser.parse_args().out
    torch.manual_seed(0)
    model, photo, image, likeliest, number = classified()

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
