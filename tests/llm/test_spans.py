"""Explicit spans: the parts of a prompt that a user names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.errors import EmptyPrompt, InvalidType, InvalidValue
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.viz.text.groups import Group
from tests.llm.chats import CHATML, STRIPPING, with_template
from tests.llm.texts import unicode_text
from tests.reference.absence import text_without

TEXT = "Aksel repairs violins. The lake is blue.\n\nAksel sings."
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Aksel repairs violins. Who is Aksel?"},
]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return with_template(CHATML)


def bound(lm: LanguageModel, spans: Any, content: Any = TEXT, **options: Any) -> BoundPrompt:
    return Prompt(content, spans=spans, **options).bind(lm)


def rest(prompt: BoundPrompt, *absent: int) -> str:
    return prompt.without([i not in absent for i in range(len(prompt.spans))])


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (["violins"], ["violins"]),
        (["Aksel"], ["Aksel", "Aksel"]),
        (["is", "Aksel"], ["Aksel", "is", "Aksel"]),
        ([re.compile(r"\w+s\b")], ["repairs", "violins", "is", "sings"]),
        ([re.compile(r"^Aksel")], ["Aksel"]),
        ([re.compile(r"(?m)^Aksel \w+")], ["Aksel repairs", "Aksel sings"]),
        ([re.compile(r"x*|lake")], ["lake"]),
        ([(0, 5)], ["Aksel"]),
        ([(14, 21), (0, 5)], ["Aksel", "violins"]),
        ([(0, len(TEXT))], [TEXT]),
        ([(0, 5), "blue", re.compile("sin.s")], ["Aksel", "blue", "sings"]),
        (("violins", "blue"), ["violins", "blue"]),
        ([". The"], [". The"]),
        (["blue.\n\nAksel"], ["blue.\n\nAksel"]),
        ([(0, 5), (5, 13)], ["Aksel", " repairs"]),
    ],
)
def test_spans_of_a_text(lm: LanguageModel, spans: Any, expected: list[str]) -> None:
    prompt = bound(lm, spans)
    assert prompt.values == expected
    assert [TEXT[start:end] for start, end in prompt.spans] == expected
    assert (prompt.unit, prompt.groups) == ("span", [])


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (["Aksel"], [("Aksel", "user"), ("Aksel", "user")]),
        (["Be", "Who"], [("Be", "system"), ("Who", "user")]),
        ([re.compile(r"\w+[.?]$")], [("brief.", "system"), ("Aksel?", "user")]),
        ([(1, 0, 5), (0, 3, 9)], [("brief.", "system"), ("Aksel", "user")]),
        ([(1, 0, 36)], [(CHAT[1]["content"], "user")]),
        ([re.compile("user|assistant|system|im_start|brief")], [("brief", "system")]),
    ],
)
def test_spans_of_a_chat(lm: LanguageModel, spans: Any, expected: list[tuple[str, str]]) -> None:
    prompt = bound(lm, spans, CHAT)
    owners = [group.label for group in prompt.groups for _ in range(group.first, group.stop)]
    assert list(zip(prompt.values, owners, strict=True)) == expected
    assert {group.kind for group in prompt.groups} == {"message"}


def test_named_spans(lm: LanguageModel) -> None:
    spans = {"who": "Aksel", "what": re.compile("violins|sings"), "where": (23, 31), 4: "blue"}
    prompt = bound(lm, spans)
    assert prompt.values == ["Aksel", "violins", "The lake", "blue", "Aksel", "sings"]
    assert prompt.groups == [
        Group("who", "span", 0, 1),
        Group("what", "span", 1, 2),
        Group("where", "span", 2, 3),
        Group("4", "span", 3, 4),
        Group("who", "span", 4, 5),
        Group("what", "span", 5, 6),
    ]
    assert bound(lm, {"who": "Aksel"}).groups == [Group("who", "span", 0, 2)]
    chat = bound(lm, {"topic": (1, 14, 21), "": "Be"}, CHAT)
    assert chat.groups == [Group("system", "message", 0, 1), Group("topic", "span", 1, 2)]


@pytest.mark.parametrize(
    "spans",
    [
        ["Aksel", "Aksel repairs"],
        [(0, 5), (4, 8)],
        [(0, 5), (0, 5)],
        ["violins", (14, 21)],
        {"a": re.compile("A.*s"), "b": "lake"},
    ],
)
def test_spans_that_overlap(lm: LanguageModel, spans: Any) -> None:
    with pytest.raises(InvalidValue, match=r"spans overlap: '.*' and '.*'"):
        bound(lm, spans)


@pytest.mark.parametrize("rule", ["cello", re.compile("cello"), re.compile("z*"), "", "im_start", "Aksel? "])
@pytest.mark.parametrize("content", [TEXT, CHAT])
def test_a_span_that_is_nowhere(lm: LanguageModel, rule: Any, content: Any) -> None:
    with pytest.raises(InvalidValue, match="is nowhere in the prompt's content"):
        bound(lm, [rule], content)


@pytest.mark.parametrize(
    ("rule", "content"),
    [
        ((0, len(TEXT) + 1), TEXT),
        ((-1, 3), TEXT),
        ((5, 5), TEXT),
        ((7, 3), TEXT),
        ((0, 0, 10), CHAT),
        ((1, -3, 2), CHAT),
        ((2, 0, 1), CHAT),
        ((-1, 0, 1), CHAT),
    ],
)
def test_a_span_out_of_range(lm: LanguageModel, rule: Any, content: Any) -> None:
    with pytest.raises(InvalidValue, match=re.escape(f"the span {rule!r} is not inside the content")):
        bound(lm, [rule], content)


@pytest.mark.parametrize(("rule", "content"), [((0, 0, 3), TEXT), ((0, 3), CHAT)])
def test_a_range_of_the_other_kind(lm: LanguageModel, rule: Any, content: Any) -> None:
    with pytest.raises(InvalidValue, match=r"a span of a text is \(start, end\), of a chat \(message, start, end\)"):
        bound(lm, [rule], content)


@pytest.mark.parametrize("rule", [3, None, b"Aksel", (1,), (0, 1, 2, 3), (0, "5"), ["Aksel"], slice(0, 5)])
def test_a_span_of_another_type(lm: LanguageModel, rule: Any) -> None:
    with pytest.raises(InvalidType, match="a span must be a string, a pattern"):
        bound(lm, [rule])


@pytest.mark.parametrize("spans", ["Aksel", re.compile("Aksel"), {"Aksel"}, 5, b"Aksel"])
def test_spans_that_are_no_list(spans: Any) -> None:
    with pytest.raises(InvalidType, match="spans must be a list of spans, or a dict of named ones"):
        Prompt(TEXT, spans=spans)


@pytest.mark.parametrize("spans", [[], {}])
def test_no_spans(lm: LanguageModel, spans: Any) -> None:
    with pytest.raises(EmptyPrompt, match="no span"):
        bound(lm, spans)


@pytest.mark.parametrize("options", [{"unit": "span"}, {"unit": "word", "spans": ["Aksel"]}])
def test_spans_and_their_unit_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=r"unit 'span' and spans=\.\.\. go together"):
        Prompt(TEXT, **options)


@pytest.mark.parametrize(
    ("spans", "absent", "expected"),
    [
        (["violins"], [0], "Aksel repairs . The lake is blue.\n\nAksel sings."),
        (["repairs"], [0], "Aksel violins. The lake is blue.\n\nAksel sings."),
        (["Aksel"], [0, 1], "repairs violins. The lake is blue.\n\nsings."),
        (["The lake is blue."], [0], "Aksel repairs violins.\n\nAksel sings."),
        (["blue.", "Aksel sings"], [0, 1], "Aksel repairs violins. The lake is\n\n."),
        (["Aksel sings."], [0], "Aksel repairs violins. The lake is blue."),
        ([(0, 22)], [0], "The lake is blue.\n\nAksel sings."),
        ([(1, 3)], [0], "Ael repairs violins. The lake is blue.\n\nAksel sings."),
        ([(5, 13)], [0], "Aksel violins. The lake is blue.\n\nAksel sings."),
        (["."], [0, 1, 2], "Aksel repairs violins The lake is blue\n\nAksel sings"),
        ([" "], [*range(7)], "Akselrepairsviolins.Thelakeisblue.\n\nAkselsings."),
    ],
)
def test_white_space_next_to_what_stays(lm: LanguageModel, spans: Any, absent: list[int], expected: str) -> None:
    prompt = bound(lm, spans)
    assert rest(prompt, *absent) == expected
    present = [i not in absent for i in range(len(prompt.spans))]
    assert text_without(TEXT, prompt.contents, prompt.spans, present) == expected


@pytest.mark.parametrize("absence", ["replace", "mask"])
def test_what_is_outside_stays(lm: LanguageModel, absence: Any) -> None:
    spans, content = ["Aksel", "brief"], CHAT
    deleted = bound(lm, spans, content)
    assert rest(deleted, 0, 1, 2) == deleted.text.replace("brief", "").replace("Aksel ", "").replace(" Aksel", " ")
    kept = bound(lm, spans, content, absence=absence, **({"replacement": 7} if absence == "replace" else {}))
    assert kept.text == deleted.text
    tokens = [token for token in kept.variant([False] * 3).tokens if absence == "mask" or token != 7]
    left = lm.decode(tokens)
    assert "".join(left.split()) == "".join(deleted.text.replace("Aksel", "").replace("brief", "").split())


def test_a_range_counts_what_the_template_strips() -> None:
    prompt = bound(with_template(STRIPPING), [(0, 3, 5)], [{"role": "user", "content": "\n  Hi there.\n"}])
    assert prompt.values == ["Hi"]
    with pytest.raises(InvalidValue, match="not inside the content"):
        bound(with_template(STRIPPING), [(0, 2, 5)], [{"role": "user", "content": "\n  Hi there.\n"}])


def test_spans_in_documents(lm: LanguageModel) -> None:
    prompt = Prompt.from_documents(
        "Who sings?", {"a": "Aksel sings.", "b": "Ida sings."}, unit="span", spans=["sings", "Ida"]
    ).bind(lm)
    assert prompt.values == ["sings", "Ida", "sings", "sings"]
    assert prompt.groups == [Group("a", "document", 0, 1), Group("b", "document", 1, 3)]


_lm: list[LanguageModel] = []


@settings(max_examples=150, deadline=None)
@given(text=unicode_text.filter(str.strip), data=st.data())
def test_any_ranges_of_any_text(text: str, data: st.DataObject) -> None:
    """Characters outside the spans stay, in order, whatever is taken out; with all present nothing changes."""
    if not _lm:
        _lm.append(with_template(None))
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    spans = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    prompt = bound(_lm[0], spans, text)
    present = data.draw(st.lists(st.booleans(), min_size=len(spans), max_size=len(spans)))
    assert prompt.spans == spans
    assert prompt.without([True] * len(spans)) == text
    left = prompt.without(present)
    kept = [
        i for i in range(len(text)) if not any(a <= i < b for (a, b), p in zip(spans, present, strict=True) if not p)
    ]
    assert "".join(left.split()) == "".join("".join(text[i] for i in kept).split())
    assert left == text_without(text, prompt.contents, spans, present)


def test_attribution_of_spans(lm: LanguageModel) -> None:
    spans = {"who": "Aksel", "what": "violins"}
    result = llm_attr.explain(lm, Prompt(CHAT, spans=spans), target=" He sings.")
    assert result.input_tokens == ["Aksel", "violins", "Aksel"]
    groups = [(group.label, group.kind, group.first, group.stop) for group in result.groups]
    assert groups == [("who", "span", 0, 1), ("what", "span", 1, 2), ("who", "span", 2, 3)]
