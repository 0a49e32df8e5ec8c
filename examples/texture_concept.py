"""Do stripes speak for a zebra? TCAV of two textures on a real CNN, beside photographs without them.

Run: python examples/texture_concept.py --out texture_concept.png   (needs the extras demo, plot and vision)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import numpy as np
import torch
from models import image_classifier
from PIL import Image
from skimage import data
from torch import Tensor
from torch.utils.data import DataLoader

from llm_attr.concept import TCAV, Concept, ProbeClassifier

ZEBRA, SIZE, EXAMPLES, RANDOM = 340, 224, 20, 10
LAYERS = ["blocks.4", "blocks.8", "blocks.12", "head"]


def crops(photos: list[Image.Image], count: int, draws: np.random.Generator) -> Tensor:
    """`(count, 3, 224, 224)`, about -1 to 1: random squares of the photographs."""
    found = []
    for _ in range(count):
        photo = photos[draws.integers(len(photos))]
        side = int(draws.uniform(0.4, 0.9) * min(photo.size))
        left, top = (int(draws.integers(whole - side)) for whole in photo.size)
        small = photo.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        found.append((torch.from_numpy(np.array(small)).permute(2, 0, 1).float() - 127) / 128)
    return torch.stack(found)


def textured(images: Tensor, kind: str, draws: np.random.Generator) -> Tensor:
    """The images under black and white stripes or dots, of random widths and directions."""
    rows = torch.arange(SIZE).float()
    found = []
    for image in images:
        angle, period = draws.uniform(0, np.pi), draws.uniform(14, 40)
        along = rows[:, None] * float(np.cos(angle)) + rows * float(np.sin(angle))
        across = rows * float(np.cos(angle)) - rows[:, None] * float(np.sin(angle))
        waves = [torch.sin(2 * np.pi * each / period) for each in (along, across)]
        pattern = waves[0].sign() if kind == "stripes" else ((waves[0] * waves[1]) > 0.3).float() * 2 - 1
        found.append(0.4 * image + 0.6 * pattern)
    return torch.stack(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("texture_concept.png"), help="the picture")
    out = parser.parse_args().out
    draws, model = np.random.default_rng(0), image_classifier()
    photos = [Image.fromarray(each()) for each in (data.coffee, data.chelsea, data.astronaut, data.rocket)]

    def concept(number: int, name: str, images: Tensor) -> Concept:
        return Concept(number, name, DataLoader(images, batch_size=10))

    textures = [
        concept(number, name, textured(crops(photos, EXAMPLES, draws), name, draws))
        for number, name in enumerate(("stripes", "dots"))
    ]
    randoms = [concept(10 + n, f"photographs {n}", crops(photos, EXAMPLES, draws)) for n in range(RANDOM)]
    inputs = crops(photos, 16, draws)
    with TemporaryDirectory() as folder:
        tcav = TCAV(model, LAYERS, classifier=ProbeClassifier(), save_path=folder)
        found = tcav.significance(inputs, textures, randoms, target=ZEBRA)
        pairs = tcav.cavs["0-10"].items()
        accuracies = {layer: float((cav.stats or {})["accs"]) for layer, cav in pairs}
    print(found)
    for layer, accuracy in accuracies.items():
        print(f"{layer}: {accuracy:.0%} of held-out examples told apart, stripes from photographs")
    figure, _ = found.plot(title="Which textures speak for a zebra?")
    figure.savefig(out, dpi=150)
    print(f"picture: {out.resolve()}")


if __name__ == "__main__":
    main()
