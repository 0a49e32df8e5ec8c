"""Parts of an answer: found as a user names them, explained without the model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult
from llm_attr.attr import TextTemplateInput
from llm_attr.errors import EmptyTarget, InvalidTarget, InvalidType, InvalidValue, UnsupportedMethod
from llm_attr.llm.prompt.alignment import UNFINISHED, pieces, token_spans
from llm_attr.llm.target.region import Region
from tests.reference.scoring import text_log_probs
from tests.zoo import TOKENIZERS, tiny, tokenizer_of

TEMPLATE = "{} lives in {}, {} and is a {}."
VALUES = ["Dave", "Palm Coast", "FL", "lawyer"]
TARGET = " He likes fishing 日. He said that he likes it: the lake. Does he?"

REGIONS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("fishing",), {}, "fishing"),
    ((" lake",), {}, " lake"),
    (("日",), {}, "日"),
    (("g 日.",), {}, "g 日."),
    ((TARGET,), {}, TARGET),
    (("He",), {"occurrence": 0}, "He"),
    (("He",), {"occurrence": 1}, "He"),
    (("he",), {"occurrence": -1}, "he"),
    (("likes",), {"occurrence": -2}, "likes"),
    ((re.compile(r"said\s+that"),), {}, "said that"),
    ((re.compile("HE", re.IGNORECASE),), {"occurrence": 2}, "he"),
    ((re.compile(r"x*lake|$"),), {}, "lake"),
    ((slice(None),), {}, TARGET),
    ((slice(2, 5),), {}, ""),
    ((slice(-3, None),), {}, ""),
    ((0,), {}, ""),
    ((-1,), {}, ""),
    ((), {"characters": (1, 3)}, "He"),
    ((), {"characters": (len(TARGET) - 1, len(TARGET))}, "?"),
    ((), {"sentence": 0}, "He likes fishing 日."),
    ((), {"sentence": -1}, "Does he?"),
    ((), {"after": "he likes it:"}, " the lake. Does he?"),
    ((), {"after": "He"}, " said that he likes it: the lake. Does he?"),
    ((Region(sentence=-1),), {}, "Does he?"),
    (("after:he likes it:",), {}, " the lake. Does he?"),
    (("after:He",), {}, " said that he likes it: the lake. Does he?"),
]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="module", params=["log_prob", "prob"])
def result(lm: LanguageModel, request: pytest.FixtureRequest) -> LLMAttributionResult:
    inp = TextTemplateInput(TEMPLATE, VALUES, mask=[0, 1, 0, 2])
    return llm_attr.explain(lm, inp, target=TARGET, attr_target=request.param)


def values(lm: LanguageModel, tokens: slice, kind: str) -> torch.Tensor:
    """`(1 + tokens, units)` by the plain loop: whole and each group left out, summed over the tokens alone."""
    left = [VALUES, ["", "Palm Coast", "", "lawyer"], ["Dave", "", "FL", "lawyer"], ["Dave", "Palm Coast", "FL", ""]]
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    rows = torch.stack([text_log_probs(lm, TEMPLATE.format(*texts), answer)[tokens].double() for texts in left])
    both = torch.cat([rows.sum(1, keepdim=True), rows], 1)
    both = both.exp() if kind == "prob" else both
    return (both[:1] - both[1:])[[0, 1, 0, 2]].T.float()


@pytest.mark.parametrize(("given", "options", "covered"), REGIONS)
def test_a_region_is_a_run_over_its_tokens(
    lm: LanguageModel, result: LLMAttributionResult, given: tuple[Any, ...], options: dict[str, Any], covered: str
) -> None:
    calls = []
    handle = lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    found = result.for_output(*given, **options)
    handle.remove()
    assert calls == []
    tokens = slice(*found.region)
    kind = found.provenance["attr_target"]
    expected = values(lm, tokens, kind)
    both = torch.cat([found.seq_attr[None], found.token_attr])
    assert both.shape == expected.shape
    for row, wanted in zip(both, expected, strict=True):
        assert (row - wanted).abs().max() <= (1e-4 if kind == "log_prob" else 1e-3 * wanted.abs().max())
    assert covered in found.output_text == "".join(found.output_tokens)
    assert found.output_ids == result.output_ids[tokens]
    assert torch.equal(found.output_probs, result.output_probs[tokens])
    assert torch.equal(found.token_attr, result.token_attr[tokens])


def test_a_region_of_a_region(result: LLMAttributionResult) -> None:
    sentence = result.for_output(sentence=1)
    twice = sentence.for_output("likes").for_output(0)
    first = result.output_tokens.index(twice.output_tokens[0], sentence.region[0])
    assert twice.region == (first, first + 1)
    assert torch.equal(twice.seq_attr, result.for_output(first).seq_attr)
    assert dict(twice.view().notes)["part"] == f"tokens {first + 1} to {first + 1} of the answer"
    assert sentence.for_output(slice(None)).for_output("likes") == sentence.for_output("likes")


def test_a_character_belongs_to_all_of_its_tokens(result: LLMAttributionResult) -> None:
    place = TARGET.index("日")
    shared = [i for i, span in enumerate(result.output_spans) if span[0] <= place < span[1]]
    assert len(shared) == 3
    found = result.for_output("日")
    assert found.region == (shared[0], shared[-1] + 1)
    assert result.output_text == "".join(result.output_tokens) == TARGET
    half = result.for_output(shared[1])
    assert (half.output_text, half.output_tokens, half.output_spans) == ("日", ["日"], ((0, 1),))
    assert half.for_output("日") == half.for_output(slice(None))


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"region": "boat"}, InvalidTarget, r"'boat' is nowhere in the answer, which is ' He likes fishing"),
    ({"region": re.compile("z+")}, InvalidTarget, r"'z\+' is nowhere"),
    ({"region": re.compile("z*")}, InvalidTarget, "nowhere"),
    (
        {"region": "likes"},
        InvalidTarget,
        r"2 times; say which with occurrence=number: 0: ' He \[likes\] fishing 日.*; 1:",
    ),
    ({"region": "likes", "occurrence": 2}, InvalidTarget, "no match of 'likes' 2: the answer has 2, from 0 to 1"),
    ({"region": "likes", "occurrence": -3}, InvalidTarget, "-3"),
    ({"region": "i"}, InvalidTarget, "times"),
    ({"region": ""}, EmptyTarget, "empty text"),
    ({"region": slice(4, 4)}, EmptyTarget, "none of the"),
    ({"region": slice(0, 999)}, InvalidTarget, "no token 999"),
    ({"region": slice(-999, None)}, InvalidTarget, "no token -999"),
    ({"region": slice(0, 4, 2)}, InvalidType, "no step"),
    ({"region": slice("a", None)}, InvalidType, "whole numbers"),
    ({"region": 999}, InvalidTarget, "no token 999: the answer ' He"),
    ({"region": True}, InvalidType, "True"),
    ({"region": 1.5}, InvalidType, "1.5"),
    ({"region": re.compile(b"a")}, InvalidType, "bytes"),
    ({"characters": (3, 3)}, EmptyTarget, "empty"),
    ({"characters": (0, 999)}, InvalidTarget, "which has"),
    ({"characters": (-2, 3)}, InvalidTarget, "not in the answer"),
    ({"characters": (1,)}, InvalidType, "two whole numbers"),
    ({"characters": 3}, InvalidType, "two whole numbers"),
    ({"sentence": 3}, InvalidTarget, "no sentence 3: the answer has 3, from 0 to 2"),
    ({"sentence": "first"}, InvalidType, "sentence"),
    ({"sentence": 0, "occurrence": 0}, InvalidValue, "occurrence selects"),
    ({"region": 1, "occurrence": 0}, InvalidValue, "occurrence selects"),
    ({"region": "He", "occurrence": 1.0}, InvalidType, "occurrence"),
    ({"region": "He", "sentence": 0}, InvalidValue, "got name and sentence"),
    ({}, InvalidValue, "none of them"),
    ({"json": "$.name"}, InvalidTarget, r"no JSON in the answer, so no '\$.name'"),
    ({"json": "$..name"}, InvalidValue, r"is written \$.answers\[0\].name.*got '\$..name'"),
    ({"json": ""}, InvalidValue, "empty text"),
    ({"json": 3}, InvalidType, "json must be a text"),
    ({"after": "</think>"}, InvalidTarget, "'</think>' is nowhere in the answer, so nothing follows it"),
    ({"after": "Does he?"}, EmptyTarget, "nothing follows 'Does he\\?'"),
    ({"after": ""}, InvalidTarget, "nowhere"),
    ({"after": 1}, InvalidType, "after must be a text"),
    ({"after": "He", "occurrence": 0}, InvalidValue, "occurrence selects"),
    ({"region": Region(sentence=0), "after": "He"}, InvalidValue, "no other argument may be given besides"),
    ({"json": "a", "after": "b"}, InvalidValue, "got json and after"),
    ({"region": "after:a", "after": "b"}, InvalidValue, "got name and after"),
    ({"region": "after:a", "sentence": 0}, InvalidValue, "got sentence and after"),
    ({"region": "after:</think>"}, InvalidTarget, "'</think>' is nowhere in the answer, so nothing follows it"),
    ({"region": "json:$..name"}, InvalidValue, r"is written \$.answers\[0\].name.*got '\$..name'"),
    ({"region": Region("after:a")}, InvalidTarget, "'after:a' is nowhere in the answer"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_regions_that_are_not_there(
    result: LLMAttributionResult, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        result.for_output(**options)


def test_many_matches_are_listed_in_part() -> None:
    with pytest.raises(InvalidTarget, match=r"0: '\[a\]a.*9: .*; and 20 more"):
        Region("a").tokens("a" * 30, [(0, 30)])
    assert Region("aa", occurrence=1).tokens("aaa", [(0, 1), (1, 2), (2, 3)]) == range(1, 3)
    with pytest.raises(EmptyTarget, match="belong to no token"):
        Region("b").tokens("ab", [(0, 1)])


def by_hand(**parts: Any) -> LLMAttributionResult:
    rows = torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.5, 0.25]])
    given = {
        "input_tokens": ["a", "b"],
        "output_tokens": ["x ", "y", " z"],
        "seq_attr": rows.sum(0),
        "token_attr": rows,
    }
    return LLMAttributionResult(**given | parts)


def test_results_made_by_hand() -> None:
    found = by_hand().for_output("y z")
    assert found.seq_attr.tolist() == [3.5, 5.25]
    assert found.output_tokens == ["y", " z"]
    with pytest.raises(UnsupportedMethod, match=r"'prob' do not add up.*table"):
        by_hand(provenance={"attr_target": "prob"}).for_output("y")
    with pytest.raises(UnsupportedMethod, match="no attribution of single tokens"):
        by_hand(token_attr=None).for_output("y")
    stripped = by_hand(output_text="x y z", output_tokens=["x", "y", "z"])
    with pytest.raises(UnsupportedMethod, match="do not make up its answer 'x y z'"):
        stripped.for_output("y")
    assert stripped.for_output(slice(0, 2)).output_text == "xy"
    for wrong in ([(0, 2), (2, 3)], [(0, 2), (2, 3), (3, 9)], [(0, 2), (3, 3), (2, 5)], [(1, 2), (2, 3), (3, 5)]):
        with pytest.raises(InvalidValue, match="output_spans"):
            by_hand(output_spans=wrong)


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "metaspace"])  # which takes back bytes
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_spans_of_any_tokens(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))
    text, spans = token_spans(tokenizer, ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert len(spans) == len(ids)
    assert "".join(pieces(text, spans)) == text
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert {place for span in spans for place in range(*span)} == set(range(len(text)))


@pytest.mark.parametrize("kind", ["byte", "metaspace"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8), data=st.data())
def test_every_byte_of_a_character_is_in_its_tokens(kind: str, text: str, data: st.DataObject) -> None:
    """Decoding without one of the tokens of a character spoils it; without any other token it stays."""
    tokenizer = tokenizer_of(kind)
    before = tokenizer.encode("a")
    ids = tokenizer.encode(text, add_special_tokens=False)
    found, spans = token_spans(tokenizer, ids, before)
    place = data.draw(st.integers(0, len(found) - 1))
    chosen = Region(characters=(place, place + 1)).tokens(found, spans)
    if UNFINISHED not in text:
        shown = tokenizer.decode(ids[chosen.start : chosen.stop], skip_special_tokens=False)
        assert found[place].strip() in shown
        assert len(chosen) <= len(found[place].encode())


FENCED = 'Sure:\n```json\n{"answers": [{"name": "Oslo \\"x\\"", "n": 12}, {"name": ""}], "a.b": null}\n```\nDone [1].'
PATHS = [
    ("$.answers[0].name", r"Oslo \"x\""),
    ("answers[0].name", r"Oslo \"x\""),
    ("answers[-1].name", '""'),
    ("$['answers'][0]['n']", "12"),
    ('$["a.b"]', "null"),
    ("answers[1]", '{"name": ""}'),
    ("$[0]", "1"),
]


@pytest.mark.parametrize(("path", "value"), PATHS)
def test_values_of_json(path: str, value: str) -> None:
    spans = [(i, i + 1) for i in range(len(FENCED))]
    found = Region(json=path).tokens(FENCED, spans)
    assert FENCED[found.start : found.stop] == value
    assert Region.of(f"json:{path}") == Region(json=path)


CUT = '{"a": [{"b": "whole"}, {"b": "cut of'
NO_VALUES = [
    (CUT, "a[1].b", "cut off before the value ends"),
    (CUT, "a[2].b", r"\$\['a'\] has 2 items, and no 2"),
    (CUT, "b", r"\$ has 'a', and no 'b'"),
    (CUT, "$", "cut off"),
    ('{"a": tru', "a", "cut off"),
    ('{"a":', "a", "has no keys"),
    ('{"a"', "a", "has no keys"),
    ("{", "a", "has no keys"),
    ("{}", "a", "has no keys"),
    ("[[1]]", "[0].x", r"\$\[0\] has 1 items, and no 'x'"),
    ('{"a": 1}', "a.b", r"\$\['a'\] has 0 items"),
    ("Paris", "name", "no JSON"),
    ("{name} in braces", "name", "no JSON"),
    ("[" * 5_000, "a", "no 'a'"),
    pytest.param("[" * 100_000, "a", "no 'a'", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("text", "path", "message"), NO_VALUES)
def test_values_that_are_not_in_the_json(text: str, path: str, message: str) -> None:
    with pytest.raises(InvalidTarget, match=message):
        Region(json=path).tokens(text, [(0, len(text))])


def test_json_in_several_places() -> None:
    text = 'First {"a": 1}, then {"a": 2, "b": 3, "a": 4}.'
    spans = [(i, i + 1) for i in range(len(text))]
    with pytest.raises(InvalidTarget, match="'a' is in the answer 2 times; say which with occurrence=number: 0: "):
        Region(json="a").tokens(text, spans)
    last = Region.of("json:a", None, None, -1).tokens(text, spans)
    assert text[last.start : last.stop] == "4"
    assert Region(json="b").tokens(text, spans).start == text.index("3")
    cut = Region(json="a[0].b").tokens(CUT, [(i, i + 1) for i in range(len(CUT))])
    assert CUT[cut.start : cut.stop] == "whole"
    assert Region(json="$").tokens('"only"', [(0, 3), (3, 6)]) == range(2)


@settings(max_examples=200, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=6,
    ),
    indent=st.sampled_from([None, 1]),
    data=st.data(),
)
def test_any_value_of_any_json(value: Any, indent: int | None, data: st.DataObject) -> None:
    """The characters that are found say the value that the path leads to."""
    text = f"So: {json.dumps({'x': value}, indent=indent)} there."
    path, inner = "$.x", value
    while isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
        step = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(-len(inner), len(inner))))
        path, inner = f"{path}[{json.dumps(step)}]", inner[step]
    found = Region(json=path).tokens(text, [(i, i + 1) for i in range(len(text))])
    said = text[found.start : found.stop]
    assert json.loads(f'"{said}"' if isinstance(inner, str) and inner else said) == inner


def test_a_value_of_json_is_explained(lm: LanguageModel, tmp_path: Path) -> None:
    target = '<think> it is old </think> {"name": "Dave", "city": "Palm Coast"}'
    inp = TextTemplateInput(TEMPLATE, VALUES)
    whole = llm_attr.explain(lm, inp, target=target)
    part = llm_attr.explain(lm, inp, target=target, region=Region(json="$.city"))
    assert torch.equal(part.token_attr, whole.for_output(json="$.city").token_attr)
    assert torch.equal(part.seq_attr, whole.for_output(json="$.city").seq_attr)
    assert "Palm Coast" in part.output_text
    behind = whole.for_output(after="</think>")
    assert behind.output_text.endswith('{"name": "Dave", "city": "Palm Coast"}')
    assert behind.for_output(json="name").output_text.strip('" ') == "Dave"
    whole.save(tmp_path / "run")
    assert LLMAttributionResult.load(tmp_path / "run").for_output(json="$.city") == whole.for_output(json="$.city")
    both = llm_attr.explain(lm, inp, target=target, region="Dave", scalar=["log_prob", "entropy"])
    assert [one.output_text for one in both] == [whole.for_output("Dave").output_text] * 2
