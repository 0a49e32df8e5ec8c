import sys
from itertools import combinations

import numpy as np
import pytest

from llm_attr.errors import MissingExtra
from llm_attr.viz.colour import (
    DARK,
    LIGHT,
    SERIES,
    DivergingScale,
    _linear,
    _luminance,
    colormap,
    contrast,
    mark,
    readable_on,
)

SHARES = np.linspace(-1, 1, 201)
scales = pytest.mark.parametrize("scale", [LIGHT, DARK], ids=["light", "dark"])

# G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, A physiologically-based model for simulation of color vision
# deficiency, 2009: the matrices of severity 1, for linear-light red, green and blue.
EYES = {
    "common": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
eyes = pytest.mark.parametrize("eye", EYES)


def difference(first: str, second: str, eye: str) -> float:
    """The distance of two colours in OKLab, as the eye sees them; from about 0.02 on it is seen at all."""

    def seen(colour: str) -> np.ndarray:
        linear = np.clip(np.asarray(EYES[eye]) @ _linear(colour), 0, 1)
        cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                          [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
        lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                        [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
        return lab @ np.cbrt(cones @ linear)

    return float(np.linalg.norm(seen(first) - seen(second)))


@eyes
@scales
def test_both_ends_and_zero_stay_apart_for_every_eye(scale: DivergingScale, eye: str) -> None:
    for first, second in combinations((scale.negative, scale.zero, scale.positive), 2):
        assert difference(first, second, eye) >= 0.2


@eyes
@scales
def test_half_of_the_limit_has_a_sign_for_every_eye(scale: DivergingScale, eye: str) -> None:
    assert difference(scale.at(-0.5), scale.at(0.5), eye) >= 0.1


@eyes
def test_series_stay_apart_for_every_eye(eye: str) -> None:
    for first, second in combinations(SERIES, 2):
        assert difference(first, second, eye) >= 0.15


@scales
def test_zero_and_the_ends_are_the_colours_named(scale: DivergingScale) -> None:
    assert scale.at(0.0) == scale.at(-0.0) == scale.zero
    assert (scale.at(-1.0), scale.at(1.0)) == (scale.negative, scale.positive)
    assert (scale.at(-7.0), scale.at(float("inf"))) == (scale.negative, scale.positive)
    assert scale.at(float("nan")) is None


@scales
def test_lightness_is_monotone_and_the_same_for_both_signs(scale: DivergingScale) -> None:
    def step(first: float, second: float) -> float:
        return _luminance(scale.at(second)) - _luminance(scale.at(first))

    direction = 1 if _luminance(scale.positive) > _luminance(scale.zero) else -1
    for sign in (-1, 1):
        assert all(direction * step(sign * a, sign * (a + 0.02)) > 0 for a in np.arange(0, 0.98, 0.02))
    for share in np.linspace(0, 1, 11):
        assert contrast(scale.at(share), scale.at(-share)) < 1.15


@scales
def test_ink_is_readable_on_every_colour(scale: DivergingScale) -> None:
    assert min(contrast(scale.ink, scale.at(share)) for share in SHARES) >= 4.5


def test_marks_stand_out_on_both_papers() -> None:
    for value in (-1.0, 1.0):
        assert contrast(mark(value), LIGHT.zero) >= 3
        assert contrast(mark(value), DARK.zero) >= 3


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("level", range(0, 256, 5))
def test_some_ink_is_readable_on_every_background(level: int) -> None:
    for background in (f"#{level:02x}{level:02x}{level:02x}", f"#{level:02x}8040", f"#40{level:02x}ff"):
        assert contrast(readable_on(background), background) >= 4.5


def test_rich_styles() -> None:
    from rich.style import Style

    for basic in (True, False):
        assert LIGHT.style(0.0, basic=basic) == LIGHT.style(float("nan"), basic=basic) == ""
        assert Style.parse(LIGHT.style(1.0, basic=basic)) != Style.parse(LIGHT.style(-1.0, basic=basic))
    assert LIGHT.style(1.0) == f"{LIGHT.ink} on {LIGHT.positive}"


def test_colormap_is_the_scale() -> None:
    from matplotlib.colors import to_hex

    colours = colormap()
    assert (to_hex(colours(0.0)), to_hex(colours(0.5)), to_hex(colours(1.0))) == (
        LIGHT.negative,
        LIGHT.zero,
        LIGHT.positive,
    )
    assert colours(float("nan"))[3] == 0


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.colors", None)
    with pytest.raises(MissingExtra, match=r"llm_attr\[plot\]"):
        colormap()
