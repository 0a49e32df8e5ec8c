"""Which fonts pictures are written in, and what is said of characters that none has."""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from llm_attr.errors import MissingExtra
from llm_attr.viz.figure import drawable, font_options, format_labels
from llm_attr.viz.text.figures.bars import plot_unit_values
from llm_attr.viz.text.view import AttributionView
from llm_attr.viz.timeseries import plot_timeseries
from tests.fonts import make_font, only_fonts

CHINESE = "加速度"


@pytest.fixture
def have(tmp_path: Path) -> Iterator[Callable[..., list[Path]]]:
    """Makes fonts, by name with their characters, the only ones beside matplotlib's own."""
    with ExitStack() as stack:

        def use(**fonts: str) -> list[Path]:
            files = [make_font(tmp_path, name.replace("_", " "), characters) for name, characters in fonts.items()]
            stack.enter_context(only_fonts(*files))
            return files

        yield use


def drawn(family: list[str], text: str) -> np.ndarray:
    """The ink of a text."""
    fig, file = Figure(figsize=(2, 1)), io.BytesIO()
    fig.text(0.1, 0.1, text, fontfamily=family, fontsize=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's word on a glyph that it lacks
        fig.savefig(file, dpi=50, format="rgba")
    return np.frombuffer(file.getvalue(), np.uint8)


def test_any_installed_font_that_has_a_character_draws_it(have: Callable[..., list[Path]]) -> None:
    have(Elsewhere=CHINESE)
    assert drawable(f"a {CHINESE}") == f"a {CHINESE}"
    assert font_options()["fontfamily"] == ["DejaVu Sans", "Elsewhere"]
    assert (drawn(font_options()["fontfamily"], CHINESE) == drawn(["Elsewhere"], CHINESE)).all()
    assert (drawn(font_options()["fontfamily"], "a") == drawn(["DejaVu Sans"], "a")).all()


def test_fonts_are_used_where_they_are_needed(have: Callable[..., list[Path]]) -> None:
    have(Second="हिन", A_first=CHINESE + "b", Noto_Sans_CJK_JP=CHINESE[0])
    assert drawable("abc ß 𝔸") == "abc ß 𝔸"
    assert "A first" not in font_options()["fontfamily"]
    assert drawable(CHINESE[0]) == CHINESE[0]
    assert font_options()["fontfamily"][-1] == "Noto Sans CJK JP"  # the known ones before the others
    assert drawable(CHINESE + "हि") == CHINESE + "हि"
    assert font_options()["fontfamily"][-2:] == ["A first", "Second"]


@pytest.mark.parametrize(
    ("text", "shown", "said"),
    [
        (f"a {CHINESE}", "a ���", ["CJK letters"]),
        ("한국 ka かな", "�� ka ��", ["HANGUL letters", "HIRAGANA letters"]),
        ("🎻!", "�!", ["some symbols and emoji"]),
        ("\ue000", "�", ["some symbols and emoji"]),
    ],
)
def test_what_no_font_draws_is_said(text: str, shown: str, said: list[str], have: Callable[..., list[Path]]) -> None:
    have()
    with pytest.warns(UserWarning, match="no installed font draws .*addfont") as told:
        assert drawable(text) == shown
    assert [re.findall("draws (.*), shown", str(each.message))[0] for each in told] == said
    assert {each.filename for each in told} == {__file__}


@pytest.mark.parametrize("has", [True, False])
def test_a_control_character_is_its_sign_or_its_code(has: bool, have: Callable[..., list[Path]]) -> None:
    have(Signs="␛" if has else "x")
    assert drawable("a\x1b[0m") == ("a␛[0m" if has else "a<U+001B>[0m")
    assert drawable("\x7f\x85") == "<U+007F><U+0085>"


def test_each_kind_is_said_once_and_not_for_each_label(have: Callable[..., list[Path]]) -> None:
    have()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert format_labels(list(CHINESE), 8) == ["�"] * 3
    assert len(told) == 1


@pytest.mark.parametrize("name", ["Last_Resort", "LastResort_Two", "Adobe_Blank", "Noto_Color_Emoji"])
def test_a_font_whose_glyphs_show_nothing_is_none(name: str, have: Callable[..., list[Path]]) -> None:
    have(**{name: CHINESE})
    with pytest.warns(UserWarning, match="CJK"):
        assert drawable(CHINESE) == "���"


def test_matplotlibs_fonts_for_formulas_draw_no_text(have: Callable[..., list[Path]]) -> None:
    """`cmsy10` has signs where others have letters."""
    have()
    for code in range(0x20, 0x2FFF):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawable(chr(code))
    assert set(font_options()["fontfamily"]) <= {"DejaVu Sans", "STIXGeneral"}


def test_a_broken_font_is_passed_over(have: Callable[..., list[Path]]) -> None:
    broken, _ = have(A_broken=CHINESE, B_whole=CHINESE)
    broken.write_bytes(b"none")
    assert drawable(CHINESE) == CHINESE
    assert font_options()["fontfamily"] == ["DejaVu Sans", "B whole"]


def test_a_font_that_is_added_later_is_found(have: Callable[..., list[Path]], tmp_path: Path) -> None:
    from matplotlib.font_manager import fontManager

    have(Other="x")
    with pytest.warns(UserWarning, match="CJK"):
        drawable(CHINESE)
    fontManager.addfont(make_font(tmp_path, "Added", CHINESE))
    assert drawable(CHINESE) == CHINESE


@pytest.mark.parametrize("has", [True, False])
def test_pictures_hold_what_the_fonts_have(
    has: bool, view: AttributionView, have: Callable[..., list[Path]], recwarn: pytest.WarningsRecorder
) -> None:
    have(Elsewhere=CHINESE if has else "x")
    warnings.simplefilter("always")
    expected = CHINESE if has else "���"
    series = np.random.default_rng(0).normal(size=(20, 3))
    _, panels = plot_timeseries(series, series, None, "overlay_individual", "all", ["a", "$b$", CHINESE])
    assert [panel.get_ylabel() for panel in panels] == ["a", "$b$", expected]
    fig, _ = plot_unit_values(replace(view, units=(CHINESE, *view.units[1:])))
    fig.savefig(io.BytesIO(), dpi=40)
    assert any(expected in text.get_text() for text in fig.findobj(lambda it: hasattr(it, "get_text")))
    assert {str(each.message).split(",")[0] for each in recwarn} == (
        set() if has else {"no installed font draws CJK letters"}
    )


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.font_manager", None)
    with pytest.raises(MissingExtra, match=r"llm_attr\[plot\]"):
        drawable("a")
