import pytest

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.text.groups import Group
from llm_attr.viz.text.view import AttributionView

NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit_values": (1.0,)},
        {"output_probs": (0.5,)},
        {"context": ("", "")},
        {"token_values": ()},
        {"token_values": ((1.0,), (1.0, 2.0))},
    ],
)
def test_every_length_has_to_fit(wrong: dict[str, tuple[object, ...]]) -> None:
    right = {"title": "", "units": ("a", "b"), "unit_values": (1.0, 2.0), "output_tokens": ("x", "y")}
    with pytest.raises(InvalidShape, match="expected"):
        AttributionView(**{**right, **wrong})


def test_ranking_is_by_size_then_place_and_nan_comes_last() -> None:
    view = AttributionView("", tuple("abcde"), (1.0, NAN, -3.0, 3.0, 0.0))
    assert view.ranking == (2, 3, 0, 4, 1)
    assert view.limit == 3.0


def test_pieces_keep_the_prompt_together() -> None:
    view = AttributionView("", ("a", "b"), (1.0, 2.0), context=("<", "", ">"))
    assert list(view.pieces()) == [("<", None), ("a", 0), ("b", 1), (">", None)]
    without = AttributionView("", ("a", "b"), (1.0, 2.0))
    assert list(without.pieces()) == [("a", 0), (" ", None), ("b", 1)]
    assert list(AttributionView("", (), (), context=("text",)).pieces()) == [("text", None)]


@pytest.mark.parametrize("ranges", [[(0, 0)], [(1, 0)], [(-1, 1)], [(0, 4)], [(0, 2), (1, 3)], [(1, 2), (0, 1)]])
def test_groups_are_ordered_disjoint_and_not_empty(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidValue, match="in order, apart and within the 3 units"):
        AttributionView("", ("a", "b", "c"), (1.0,) * 3, groups=tuple(Group("x", "document", *own) for own in ranges))


def test_sections_are_the_pieces_by_group() -> None:
    first, second = Group("one", "document", 0, 2), Group("two", "document", 2, 3)
    view = AttributionView("", tuple("abcd"), (1.0,) * 4, context=("<", "-", "|", "|", ">"), groups=(first, second))
    assert view.unit_groups == (first, first, second, None)
    assert list(view.sections()) == [
        (None, [("<", None)]),
        (first, [("a", 0), ("-", None), ("b", 1)]),
        (None, [("|", None)]),
        (second, [("c", 2)]),
        (None, [("|", None), ("d", 3), (">", None)]),
    ]
    touching = AttributionView("", tuple("abcd"), (1.0,) * 4, context=("",) * 5, groups=(first, second))
    assert [(group, len(pieces)) for group, pieces in touching.sections()] == [(first, 2), (second, 1), (None, 1)]
    assert list(AttributionView("", (), ()).sections()) == []


def test_probabilities_do_not_add_up() -> None:
    assert AttributionView("", (), ()).additive
    assert not AttributionView("", (), (), value_name="probability").additive


def test_pairs_are_those_with_a_value_strongest_first() -> None:
    table = ((9.0, -2.0, NAN), (-2.0, 9.0, 3.0), (NAN, 3.0, 9.0))
    view = AttributionView("", ("a", "b", "c"), (1.0,) * 3, interactions=table)
    assert view.pairs() == [(1, 2, 3.0), (0, 1, -2.0)]
    assert AttributionView("", ("a",), (1.0,)).pairs() == []
    assert AttributionView("", (), (), interactions=()).pairs() == []


def test_interactions_are_square_and_symmetric() -> None:
    with pytest.raises(InvalidShape, match="each row of interactions"):
        AttributionView("", ("a", "b"), (1.0, 2.0), interactions=((1.0,), (1.0,)))
    with pytest.raises(InvalidValue, match="of units 0 and 1 is 2, the other way round 3"):
        AttributionView("", ("a", "b"), (1.0, 2.0), interactions=((1.0, 2.0), (3.0, 1.0)))
