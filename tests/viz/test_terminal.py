import io
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from llm_attr.viz.text.lines.terminal import render, show
from llm_attr.viz.text.view import AttributionView

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
VIEWS = ["view", "hostile", "many", "empty"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES", "COLORFGBG", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def lines_of(text: str) -> list[str]:
    return ESCAPES.sub("", text).split("\n")


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("colour", [True, False])
def test_no_line_is_wider_than_asked(name: str, width: int, colour: bool, request: pytest.FixtureRequest) -> None:
    view = request.getfixturevalue(name)
    lines = lines_of(render(view, width=width, colour=colour))
    assert max(map(cell_len, lines)) <= width
    assert any(line.strip() for line in lines)


@pytest.mark.parametrize("colour", [True, False])
def test_nothing_of_the_text_reaches_the_terminal_as_a_command(hostile: AttributionView, colour: bool) -> None:
    text = ESCAPES.sub("", render(hostile, width=80, colour=colour))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "[bold red]markup[/]" in text
    assert ":smile:" in text
    assert "␛[31mred" in text
    assert ("\x1b" in render(hostile, colour=colour)) == colour


def test_without_colour_signs_and_bars_carry_the_meaning(view: AttributionView) -> None:
    text = render(view, width=100, colour=False)
    assert "[+ Aksel Holm bought" in text
    assert "[-" not in text.split("log-probability")[0]  # no negative unit comes near the largest value
    first, second = text.split("Strongest units")[1].split("\n")[1:3]
    assert re.match(r"\+9\.35 +│█+▌? +4 Aksel Holm", first)
    assert re.match(r"-1\.06 +█+│ +6 The nearest", second) or re.match(r"-1\.06 +▐█*│ +6 The nearest", second)


def test_bars_start_at_one_zero_and_grow_with_the_value() -> None:
    values = (1.0, -1.0, 0.5, 0.0, float("nan"))
    text = render(AttributionView("", tuple("abcde"), values), width=80, colour=False)
    rows = text.split("Strongest units")[1].split("\n")[1:6]
    assert len({row.index("│") for row in rows}) == 1
    full, negative, half, zero, nothing = ((row.count("█"), row.index("│")) for row in rows)
    assert full[0] == negative[0] == 2 * half[0] > 0 == zero[0] == nothing[0]


def test_colours_of_the_flow(view: AttributionView) -> None:
    text = render(view, width=200, colour=True)
    assert re.search(r"\x1b\[[0-9;]*48;2;[0-9;]*mAksel Holm bought", text)
    assert not re.search(r"\x1b\[[0-9;]*48;2;[0-9;]*mIt ground rye", text)
    assert "[+" not in text


@pytest.mark.parametrize("system", ["standard", "256", "truecolor"])
def test_every_colour_system(view: AttributionView, system: str) -> None:
    file = io.StringIO()
    show(view, console=Console(file=file, force_terminal=True, color_system=system, width=80))
    assert "\x1b[" in file.getvalue()
    assert max(map(cell_len, lines_of(file.getvalue()))) <= 80


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"TERM": "dumb"}, {}], ids=["no_color", "dumb", "pipe"]
)
def test_the_environment_decides_about_colour(
    view: AttributionView,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    show(view, width=80)
    printed = capsys.readouterr().out
    assert "[+ Aksel Holm" in printed
    assert "48;2" not in printed
    assert "38;2" not in printed
    assert "48;2" in render(view, width=80, colour=True)


def test_a_dumb_terminal_has_the_width_asked_for(view: AttributionView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert max(map(cell_len, lines_of(render(view, width=40, colour=True)))) <= 40


def test_the_background_of_the_terminal(view: AttributionView, monkeypatch: pytest.MonkeyPatch) -> None:
    on_dark = render(view, width=80, colour=True)
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert render(view, width=80, colour=True) != on_dark


def test_an_ascii_terminal_gets_ascii(hostile: AttributionView, view: AttributionView) -> None:
    for shown in (hostile, view):
        file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
        show(shown, console=Console(file=file, width=60))
        file.seek(0)
        lines = lines_of(file.read())
        assert max(map(len, lines)) <= 60
    assert any("|####" in line for line in lines)


def test_a_thousand_units_do_not_flood_the_screen(many: AttributionView) -> None:
    text = render(many, width=80, colour=False)
    assert len(lines_of(text)) < 70
    assert "… 988 more units" in text
    assert "more tokens" in text
    assert re.search(r"\[…\s\d+\sunits\s…\]", text)
    strongest = many.units[many.ranking[0]]
    assert text.count(strongest) >= 2  # in the prompt and in the list


def test_limit(view: AttributionView) -> None:
    assert "… 4 more units" in render(view, width=80, limit=2)
    assert "… 5 more units" in render(view, width=80, limit=0)


def test_values_that_are_all_zero_or_nan() -> None:
    for value in (0.0, float("nan")):
        text = render(AttributionView("", ("a", "b"), (value, value)), width=60, colour=True)
        assert "no unit has a value other than 0" in text


def test_white_space_units_can_be_seen() -> None:
    text = render(AttributionView("", ("a", "\n", " "), (0.1, -2.0, 1.0), context=("",) * 4), width=60, colour=False)
    assert "[- ↵]" in text
    assert "[+ ·]" in text


def test_line_breaks_of_the_prompt_stay(view: AttributionView) -> None:
    lines = lines_of(render(view, width=300, colour=False))
    assert "<|im_start|>user" in lines
    assert "What does he do?<|im_end|>" in lines


def test_output_without_probabilities(view: AttributionView) -> None:
    text = render(replace(view, output_probs=None), width=80)
    assert "Aksel Holm repairs violins." in text
    assert "%" not in text.split("Output")[1]


def test_show_prints_what_render_gives(view: AttributionView, capsys: pytest.CaptureFixture[str]) -> None:
    show(view, width=70, colour=False)
    assert capsys.readouterr().out == render(view, width=70, colour=False)


def test_groups_have_a_heading_and_a_place_in_the_list(grouped: AttributionView) -> None:
    text = render(grouped, width=100, colour=False)
    lines = lines_of(text)
    heading = lines.index("document mill.txt:")
    assert lines[heading - 1] == ""
    assert lines[heading + 1].startswith("The old mill")
    assert lines[lines.index("document <b>places</b>.txt:") + 1].startswith("[+ Aksel Holm")
    assert "The nearest railway station is four kilometres away." in lines  # in no group: on a line of its own
    ranking = text.split("Strongest units")[1]
    assert "4 <b>places</b>.txt: Aksel Holm" in ranking
    assert "6 The nearest" in ranking


def test_the_strongest_pairs_are_lines_with_bars(view: AttributionView) -> None:
    table = [[0.0] * 6 for _ in range(6)]
    for first, second, value in ((0, 3, -4.0), (1, 2, 2.0), (4, 5, 0.5)):
        table[first][second] = table[second][first] = value
    paired = replace(view, interactions=tuple(map(tuple, table)))
    for width in (20, 40, 100):
        assert max(map(cell_len, lines_of(render(paired, width=width, colour=True)))) <= width
    rows = render(paired, width=100, colour=False, limit=2).split("Strongest pairs")[1].split("\n")
    assert re.match(r"-4\.00 ▐?█+│ +1, 4 The old mill.* × Aksel Holm", rows[1])
    assert re.match(r"\+2\.00 +│█+▌? +2, 3 It ground", rows[2])
    assert rows[3] == "… 1 more pair"
    assert "Strongest pairs" not in render(view, width=80)
