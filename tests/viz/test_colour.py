import sys

import numpy as np
import pytest

from llm_attr.errors import MissingExtra
from llm_attr.viz.colour import (
    DARK,
    LIGHT,
    DivergingScale,
    _luminance,
    colormap,
    contrast,
    mark,
    readable_on,
)

SHARES = np.linspace(-1, 1, 201)
scales = pytest.mark.parametrize("scale", [LIGHT, DARK], ids=["light", "dark"])


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
