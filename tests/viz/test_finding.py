import math
from dataclasses import replace

import pytest

from llm_attr.viz.text.finding import caption, finding, heading, name_of, times
from llm_attr.viz.text.folded import Folded, folded_pieces
from llm_attr.viz.text.groups import Group
from llm_attr.viz.text.lines.excerpt import excerpt
from llm_attr.viz.text.view import AttributionView


def said(view: AttributionView) -> str:
    return "".join(phrase.text for phrase in finding(view))


def test_the_strongest_unit_is_named_with_what_its_absence_does(view: AttributionView) -> None:
    loo = replace(view, removal=True, unit_name="sentence", output_probs=(0.5,) * 6)
    before = 6 * math.log(0.5)
    assert said(loo) == (
        "Carried by sentence 4 “Aksel Holm bought the building in 1987 and now repairs violins in it.”: without it the "
        f"answer is about 1 × 10⁴ times less likely (log-probability −{-before:.1f} → −{9.347 - before:.1f}). "
        "Next: sentence 6 (−1.06)."
    )
    assert [phrase.unit for phrase in finding(loo) if phrase.unit is not None] == [3, 5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            (-5.0, 1.0),
            "Held back most by unit 1 “a”: without it the answer is 148 times more likely. Next: unit 2 (+1.00)",
        ),
        ((0.1, 0.0), "without it the answer is 10% less likely."),
        ((-0.1, 0.0), "without it the answer is 11% more likely."),
        ((0.0, 0.0), "No unit of the prompt changed the answer."),
        ((math.nan, math.nan), "No unit of the prompt changed the answer."),
    ],
)
def test_small_negative_and_missing_values(values: tuple[float, ...], words: str) -> None:
    assert words in said(AttributionView("", ("a", "b"), values, removal=True))


def test_other_methods_and_quantities_say_only_what_they_measure(view: AttributionView) -> None:
    assert "+9.35 nats: a factor of about 1 × 10⁴." in said(view)
    assert "+9.35 (probability)." in said(replace(view, value_name="probability", removal=True))


def test_what_does_not_stand_out_is_not_a_carrier(view: AttributionView) -> None:
    unsure = replace(view, unit_errors=(5.0,) * 6)
    assert said(unsure) == "No unit stands out: the strongest, unit 4, +9.35, is within two standard errors of 0."
    assert "within the rounding" in said(replace(view, doubtful=(True,) * 6))
    many = AttributionView("", tuple(map(str, range(20))), tuple(1 + place / 100 for place in range(20)))
    assert "+1.19, has 5.4% of the sum of |values|" in said(many)


def test_factors_in_words() -> None:
    assert [times(nats) for nats in (0.7, 3, 6.9, 7, 33.7, 46.051)] == [
        "2.0 times", "20 times", "992 times", "about 1 × 10³ times", "about 4 × 10¹⁴ times", "about 1 × 10²⁰ times",
    ]  # fmt: skip


def test_names_and_titles(view: AttributionView) -> None:
    documents = replace(view, groups=(Group("a.txt", "document", 0, 6),), unit_name="sentence")
    assert name_of(documents, 2) == "sentence 3 of a.txt"
    assert name_of(replace(documents, unit_name="document"), 0) == "document a.txt"
    assert name_of(replace(documents, groups=(Group("user", "message", 0, 6),)), 1) == "sentence 2"
    assert heading("“" + "word " * 40 + "”") == "“" + "word " * 16 + "word …”"
    assert caption(view) == "Which sentence carried the answer?, feature ablation"


def test_template_text_is_found_in_pieces() -> None:
    folded = Folded([(0, 3), (6, 8), (8, 9)])
    assert list(folded.parts("<s>a")) == [("<s>", "⟨…⟩"), ("a", "")]
    folded.past("b")
    assert list(folded.parts("c</system>")) == [("c", ""), ("</", "⟨…⟩"), ("s", "⟨…⟩"), ("ystem>", "")]
    assert folded.place == 15


def test_terminals_fold_the_template(view: AttributionView) -> None:
    text = "".join(text for text, _ in view.pieces())
    ranges = ((0, len("<|im_start|>user\n")), (len(text) - len("<|im_end|>\n"), len(text)))
    pieces = folded_pieces(replace(view, template=ranges))
    assert pieces[0] == ("⟨user⟩\n", None)
    assert pieces[-1] == (" ⟨…⟩\n", None)
    named = replace(view, template=ranges, groups=(Group("user", "message", 0, 6),))
    assert folded_pieces(named)[0] == (view.units[0], 0)


def test_an_excerpt_keeps_the_question_and_marks_text_that_is_left_out(view: AttributionView) -> None:
    units = tuple(f"Sentence number {place} of a long prompt, which says little." for place in range(40))
    context = ["", *["\n"] * 39, "\n\nWhat does he do?"]
    context[20] = "\n\nA remark between them.\n\n"
    values = tuple(10.0 if place == 18 else 0.0 for place in range(40))
    shown = excerpt(AttributionView("", units, values, context=tuple(context)), 400)
    texts = [text for text, _ in shown if text]
    assert texts[-1].endswith("What does he do?")
    assert units[18] in texts
    assert sum("units" in text for text in texts) == 2
