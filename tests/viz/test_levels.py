import io
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from llm_attr.errors import InvalidValue
from llm_attr.viz.text.groups import Group
from llm_attr.viz.text.levels import Levels, Node, plot_levels
from llm_attr.viz.text.view import AttributionView

TEXT = "<s>One mill burned. It was old.\n\nAksel came.</s>"
DOCUMENTS = ("One mill burned. It was old.", "Aksel came.")
SENTENCES = ("One mill burned.", "It was old.", "Aksel came.")
WORDS = ("One", "mill", "burned.", "It", "was", "old.", "Aksel", "came.")


def view_of(units: tuple[str, ...], name: str, ends: tuple[int, int] | None = None) -> AttributionView:
    context, place = [], 0
    for unit in units:
        start = TEXT.index(unit, place)
        context.append(TEXT[place:start])
        place = start + len(unit)
    groups = ends and (Group("mill", "document", 0, ends[0]), Group("Aksel", "document", *ends))
    values = tuple((-1) ** place * (place + 1.0) for place in range(len(units)))
    return AttributionView(
        "title", units, values, context=(*context, TEXT[place:]), groups=groups or (), unit_name=name
    )


documents = view_of(DOCUMENTS, "document", (1, 2))
sentences = view_of(SENTENCES, "sentence", (2, 3))
words = view_of(WORDS, "word", (6, 8))


def drawn(fig: Figure) -> None:
    fig.savefig(io.BytesIO(), dpi=40)


def test_levels_are_ordered_from_coarse_to_fine() -> None:
    levels = Levels.of(words, documents, sentences)
    assert [level.description for level in levels.levels] == [
        "documents: their own explanation",
        "sentences: their own explanation",
        "words: their own explanation",
    ]
    assert [part.label for part in levels.levels[0].parts] == ["mill", "Aksel"]
    for level, units in zip(levels.levels, (DOCUMENTS, SENTENCES, WORDS), strict=True):
        assert tuple(levels.text[part.start : part.stop] for part in level.parts) == units
    assert levels.scale.limit == 8.0
    assert "shared by 3" in levels.scale.description


def test_groups_are_a_level_of_sums() -> None:
    levels = Levels.of(words)
    assert levels.levels[0].description == "documents: sums of their units"
    assert [part.value for part in levels.levels[0].parts] == [sum(words.unit_values[:6]), sum(words.unit_values[6:])]
    assert [part.label for part in levels.levels[0].parts] == ["mill", "Aksel"]


def test_parts_are_nested_where_they_begin() -> None:
    def shape(nodes: list[Node]) -> list[object]:
        return [(node.part.label, shape(node.inner)) if node.inner else node.part.label for node in nodes]

    tree = Levels.of(documents, sentences, words).tree()
    assert shape(tree) == [
        ("mill", [("One mill burned.", ["One", "mill", "burned."]), ("It was old.", ["It", "was", "old."])]),
        ("Aksel", [("Aksel came.", ["Aksel", "came."])]),
    ]
    half = replace(documents, units=DOCUMENTS[:1], unit_values=(1.0,), context=("<s>", TEXT[31:]), groups=())
    assert shape(Levels.of(half, sentences).tree()) == [(DOCUMENTS[0], list(SENTENCES[:2])), SENTENCES[2]]


def test_the_picture_says_what_each_level_is() -> None:
    fig, ax = plot_levels(Levels.of(sentences, words))
    assert ax.get_xlabel().split("\n") == [
        f"characters 4 to 44 of {len(TEXT)}",
        "documents: sums of their units; sentences: their own explanation; words: their own explanation",
        "ends of the scale: ±8.00 (the largest |value|, shared by 2)",
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["documents", "sentences", "words"]
    (boxes,) = (each for each in ax.collections if len(each.get_paths()) == 2 + 3 + 8)
    widths = [path.get_extents().width for path in boxes.get_paths()]
    assert widths[:2] == pytest.approx([28, 11], abs=0.5)
    assert {"burned.  +3.00", "mill  −1.00"} <= {text.get_text() for text in ax.texts}
    drawn(fig)


def test_long_texts_are_cut_into_lines(many: AttributionView) -> None:
    whole = tuple(" ".join(many.units[start : start + 50]) for start in range(0, 1000, 50))
    coarse = AttributionView("", whole, tuple(map(float, range(20))), context=("", *[" "] * 19, ""), unit_name="page")
    fig, ax = plot_levels(Levels.of(coarse, replace(many, context=("", *[" "] * 999, ""), unit_name="word")))
    assert "line by line" in ax.get_xlabel()
    assert len(ax.get_yticks()) == 2 * 12
    assert max(fig.get_size_inches()) < 15
    drawn(fig)


def test_given_axes_are_used() -> None:
    fig = Figure(figsize=(4, 3))
    ax = fig.add_subplot()
    assert plot_levels(Levels.of(words), ax) == (fig, ax)
    drawn(fig)


@pytest.mark.parametrize(
    ("views", "match"),
    [
        ((replace(sentences, groups=()),), "one level only"),
        ((documents,), "one level only"),
        ((sentences, replace(words, context=("<u>", *words.context[1:]))), "'s>One mill.* and 'u>One.* character 1 on"),
        ((sentences, replace(words, context=None)), "whole text"),
        ((sentences, replace(words, value_name="probability")), "measure the same thing"),
        ((AttributionView("", (), (), context=("text",)),), "whole text"),
    ],
)
def test_what_is_no_text_at_levels_is_refused(views: tuple[AttributionView, ...], match: str) -> None:
    with pytest.raises(InvalidValue, match=match):
        Levels.of(*views)
