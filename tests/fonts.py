"""Fonts for tests of pictures: made on the spot, so that nothing depends on those of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def make_font(folder: Path, name: str, characters: str) -> Path:
    """A font that draws these characters, each as the same box."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs = dict.fromkeys([".notdef", "box"], pen.glyph())
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord(character): "box" for character in characters})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (900, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path = folder / f"{name}.ttf"
    font.save(path)
    return path


@contextmanager
def only_fonts(*files: Path) -> Iterator[None]:
    """Matplotlib knows its own fonts and these, in this order, whatever else is installed."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    own = Path(matplotlib.get_data_path())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fontManager, "ttflist", [it for it in fontManager.ttflist if own in Path(it.fname).parents])
        for file in files:
            fontManager.addfont(file)  # which also forgets what was found before
        _forget()
        yield
    _forget()


def _forget() -> None:
    from matplotlib.font_manager import fontManager

    from llm_attr.viz import figure

    fontManager._findfont_cached.cache_clear()
    figure._fonts_of.cache_clear()
