"""The examples run as the README says, and show what they claim."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.real


def run(name: str, out: Path) -> str:
    """What the command of the README prints, with another name of the picture."""
    command = re.search(rf"^python (examples/{name}\.py --out )\S+", README, re.MULTILINE)
    assert command, f"the README does not say how {name} is run"
    done = subprocess.run(
        [sys.executable, *command[1].split(), str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_picture(name: str, out: Path) -> None:
    """The picture is as large as the one in the docs, and the README shows that."""
    with Image.open(out) as made, Image.open(ROOT / "docs" / "images" / f"{name}.png") as shown:
        assert made.size == shown.size
        assert min(made.size) >= 600
        assert len(made.convert("RGB").quantize(64).getcolors() or []) > 20
    assert f"(docs/images/{name}.png)" in README


def test_image_classifier(tmp_path: Path) -> None:
    printed = run("image_classifier", tmp_path / "image.png")
    found = re.search(r"class: 967 espresso, probability (\S+)\nGrad-CAM peak: row (\d+), column (\d+) of 224", printed)
    assert found
    probability, row, column = float(found[1]), int(found[2]), int(found[3])
    assert probability > 0.9
    assert ((column - 107) / 65) ** 2 + ((row - 62) / 52) ** 2 < 1  # the cup's rim, left of and above the middle
    check_picture("image_classifier", tmp_path / "image.png")


def test_text_classifier(tmp_path: Path) -> None:
    printed = run("text_classifier", tmp_path / "text.png")
    share = re.search(r"delta: ([\d.]+)% of the score at most", printed)
    assert share
    assert float(share[1]) < 1
    value = {
        word: float(number) for word, number in re.findall(r"(\w+) ([+-]\d+\.\d\d)(?=  |$)", printed, re.MULTILINE)
    }
    assert value["brilliant"] > 1
    assert value["wonderful"] > 1
    assert value["cold"] < -1
    assert value["noisy"] < -1
    check_picture("text_classifier", tmp_path / "text.png")
