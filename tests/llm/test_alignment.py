"""Which characters a token stands for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as subwords
from transformers import PreTrainedTokenizerFast

from llm_attr.errors import UnalignedTokenizer
from llm_attr.llm.prompt.alignment import align, token_texts
from tests.llm.texts import unicode_text
from tests.zoo import TOKENIZERS, byte_level, tokenizer_of

FAST = [kind for kind in TOKENIZERS if kind != "slow"]
TEXTS = [
    "Dave lives in Palm Coast.",
    " a  b\n\nc ",
    "日本 🙂 café 3.14",
    "👩\u200d🔬 e\u0301 مرحبا",
    "ﬁne ½ Ａ",
    "",
    "   ",
]


def assert_covers(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    """In order, inside the text, and nothing but white space left out."""
    place = 0
    for start, end in spans:
        if start == end:
            continue
        assert 0 <= start < end <= len(text)
        assert not text[place:start].strip()
        place = max(place, end)
    assert not text[place:].strip()
    starts = [span for span in spans if span[0] < span[1]]
    assert starts == sorted(starts)


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("text", TEXTS)
def test_spans_cover_the_text(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    found = align(tokenizer, text, special_tokens=True)
    assert list(found.ids) == tokenizer.encode(text)
    assert len(found.spans) == len(found.ids)
    assert_covers(text, found.spans)


@pytest.mark.parametrize("kind", ["byte", "byte_bos", "metaspace"])
@settings(max_examples=80, deadline=None)
@given(text=unicode_text)
def test_spans_cover_any_text(kind: str, text: str) -> None:
    assert_covers(text, align(tokenizer_of(kind), text, special_tokens=True).spans)


def test_characters_that_are_composed_belong_together() -> None:
    fast = byte_level()
    fast.backend_tokenizer.normalizer = normalizers.NFC()
    text = "e\u0301a \u1100\u1161 z\u0301 b"
    found = align(fast, text, special_tokens=False)
    assert_covers(text, found.spans)
    assert found.spans[:3] == ((0, 2), (0, 2), (2, 3))
    pieces = [text[start:end] for start, end in dict.fromkeys(found.spans)]
    assert pieces == ["e\u0301", "a", " ", "\u1100\u1161", " ", "z\u0301", " b"]


@pytest.mark.parametrize("kind", ["byte", "metaspace"])
def test_tokens_of_one_character_share_its_place(kind: str) -> None:
    spans = align(tokenizer_of(kind), "a🙂b", special_tokens=False).spans
    assert spans.count((1, 2)) == 4
    assert spans[-1] == (2, 3)


def test_special_tokens_stand_for_no_text() -> None:
    found = align(tokenizer_of("byte_bos"), "a b", special_tokens=True)
    assert found.spans[0] == (0, 0)
    assert align(tokenizer_of("byte_bos"), "a b", special_tokens=False).ids == found.ids[1:]


def test_control_tokens_written_in_the_text_keep_their_place() -> None:
    text = "<s>a</s> b"
    found = align(tokenizer_of("byte_bos"), text, special_tokens=False)
    assert [text[start:end] for start, end in found.spans] == ["<s>", "a", "</s>", " b"] or found.spans[0] == (0, 3)
    assert_covers(text, found.spans)


def test_a_slow_tokenizer_is_aligned_by_decoding() -> None:
    found = align(tokenizer_of("slow"), "a bad cab. ", special_tokens=True)
    assert found.spans == tuple((i, i + 1) for i in range(11))


def test_a_slow_tokenizer_that_loses_text_is_refused() -> None:
    with pytest.raises(UnalignedTokenizer, match=r"CharacterTokenizer.*'Zoë'.*fast tokenizer"):
        align(tokenizer_of("slow"), "Zoë", special_tokens=True)


def test_offsets_that_leave_text_out_are_refused() -> None:
    """A normalizer that drops letters: the offsets skip them and decoding does not show them."""
    tokenizer = Tokenizer(subwords.WordLevel({"[U]": 0, "a": 1, "b": 2}, unk_token="[U]"))
    tokenizer.normalizer = normalizers.Replace("x", "")
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[U]")
    assert align(fast, "a b", special_tokens=False).spans == ((0, 1), (2, 3))
    with pytest.raises(UnalignedTokenizer):
        align(fast, "a x b", special_tokens=False)


def decoded(kind: str, ids: list[int]) -> str:
    return str(tokenizer_of(kind).decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("kind", ["byte", "byte_bos", "metaspace"])
@settings(max_examples=60, deadline=None)
@given(text=unicode_text, cut=st.integers(0, 20))
def test_pieces_of_any_text(kind: str, text: str, cut: int) -> None:
    ids = tokenizer_of(kind).encode(text)
    assert "".join(token_texts(tokenizer_of(kind), ids)) == decoded(kind, ids)
    front, rest = decoded(kind, ids[:cut]), token_texts(tokenizer_of(kind), ids[cut:], ids[:cut])
    assert len(rest) == len(ids[cut:])
    assert not rest or front.rstrip("\ufffd") + "".join(rest) == decoded(kind, ids)


@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if kind != "metaspace"])  # which takes back bytes
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pieces_make_up_the_decoded_text(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == decoded(kind, ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_text(kind: str, text: str) -> None:
    ids = tokenizer_of(kind).encode(text)
    assert "".join(token_texts(tokenizer_of(kind), ids)) == decoded(kind, ids)


@pytest.mark.parametrize("kind", ["byte", "byte_bos", "metaspace", "unigram"])
def test_the_space_before_an_answer_is_seen_after_the_prompt(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    whole = tokenizer.encode("Dave lives in Palm Coast")
    pieces = token_texts(tokenizer, whole[-6:], whole[:-6])
    assert "".join(pieces) == decoded(kind, whole)[len(decoded(kind, whole[:-6])) :]


def test_a_character_stands_at_the_last_of_its_tokens() -> None:
    tokenizer = tokenizer_of("byte")
    assert token_texts(tokenizer, tokenizer.encode("a🙂")) == ["a", "", "", "", "🙂"]
    assert "\ufffd" in token_texts(tokenizer, tokenizer.encode("🙂")[:2])[-1]
