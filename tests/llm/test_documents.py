"""A question over documents, each under its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.errors import EmptyPrompt, InvalidType, InvalidValue
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.viz.text.groups import Group
from tests.llm.chats import CHATML, STRIPPING, WITH_DEFAULT_SYSTEM, with_template
from tests.reference.scoring import answer_log_probs, leave_one_out

QUESTION = "What does Aksel do? Say it."
DOCUMENTS = {"mill": "The mill is old. It is red.\n\nIt stands.", "aksel": "Aksel repairs violins."}
TEXT = f"[mill]\nThe mill is old. It is red.\n\nIt stands.\n\n[aksel]\nAksel repairs violins.\n\n{QUESTION}"
GROUPS = {"document": (1, 1), "paragraph": (2, 1), "sentence": (3, 1), "word": (9, 3)}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return with_template(CHATML)


def rest(prompt: BoundPrompt, *absent: int) -> str:
    return prompt.without([i not in absent for i in range(len(prompt.spans))])


@pytest.mark.parametrize("chat", [True, False])
def test_the_text(lm: LanguageModel, chat: bool) -> None:
    prompt = Prompt.from_documents(QUESTION, DOCUMENTS, chat=chat)
    assert prompt.content == ([{"role": "user", "content": TEXT}] if chat else TEXT)
    assert prompt.unit == "document"
    bound = prompt.bind(lm)
    assert bound.values == ["[mill]\nThe mill is old. It is red.\n\nIt stands.", "[aksel]\nAksel repairs violins."]
    assert bound.text == (f"<|im_start|>user\n{TEXT}</s>\n<|im_start|>assistant\n" if chat else TEXT)
    without = TEXT.replace("[aksel]\nAksel repairs violins.\n\n", "")
    assert rest(bound, 1) == bound.text.replace(TEXT, without)
    assert rest(bound, 0, 1) == bound.text.replace(TEXT, QUESTION)


@pytest.mark.parametrize("unit", GROUPS)
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("system", [None, "Be brief. Be kind."])
def test_names_are_kept(lm: LanguageModel, unit: str, chat: bool, system: str | None) -> None:
    if system is not None and not chat:
        with pytest.raises(InvalidValue, match="a system message needs chat=True"):
            Prompt.from_documents(QUESTION, DOCUMENTS, chat=chat, system=system)
        return
    bound = Prompt.from_documents(QUESTION, DOCUMENTS, unit=unit, chat=chat, system=system).bind(lm)
    first, second = GROUPS[unit]
    assert bound.groups == [
        Group("mill", "document", 0, first),
        Group("aksel", "document", first, first + second),
    ]
    for group, text in zip(bound.groups, DOCUMENTS.values(), strict=True):
        shown = "".join("".join(bound.values[group.first : group.stop]).split())
        assert shown == ("".join(f"[{group.label}]{text}".split()) if unit == "document" else "".join(text.split()))


@pytest.mark.parametrize("unit", ["token", *GROUPS])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("template", [CHATML, STRIPPING, WITH_DEFAULT_SYSTEM])
def test_the_question_and_the_system_message_stay(unit: str, chat: bool, template: str) -> None:
    lm = with_template(template)
    system = "Use notes." if chat and template is not WITH_DEFAULT_SYSTEM else None
    bound = Prompt.from_documents(QUESTION, DOCUMENTS, unit=unit, chat=chat, system=system).bind(lm)
    nothing = lm.decode(list(bound.variant([False] * len(bound.values)).tokens))
    headings = "" if unit == "document" else "[mill][aksel]"
    body = "".join(TEXT.split())
    left = "".join(nothing.split()).removeprefix("" if chat else "<s>")
    assert left == "".join(bound.text.split()).replace(body, headings + "".join(QUESTION.split()))
    assert ("Usenotes." in left) == (system is not None)
    assert ("Youarekind." in left) == (chat and system is None)


@pytest.mark.parametrize("chat", [True, False])
def test_a_list_is_numbered(lm: LanguageModel, chat: bool) -> None:
    bound = Prompt.from_documents(QUESTION, ["One here.", "Two here.", "One here."], chat=chat).bind(lm)
    assert bound.values == ["[1]\nOne here.", "[2]\nTwo here.", "[3]\nOne here."]
    assert [group.label for group in bound.groups] == ["1", "2", "3"]
    assert bound.groups[2] == Group("3", "document", 2, 3)


@pytest.mark.parametrize("chat", [True, False])
def test_units_of_messages_are_not_documents(lm: LanguageModel, chat: bool) -> None:
    if not chat:
        with pytest.raises(InvalidValue, match="raw text has no messages"):
            Prompt.from_documents(QUESTION, DOCUMENTS, chat=False, unit="message")
        return
    bound = Prompt.from_documents(QUESTION, DOCUMENTS, unit="message", system="Be brief.").bind(lm)
    assert bound.values == ["Be brief.", TEXT]
    assert bound.groups == [Group("system", "message", 0, 1), Group("user", "message", 1, 2)]


def test_documents_without_text(lm: LanguageModel) -> None:
    documents = {"empty": "", "blank": " \n", "full": "Aksel sings."}
    whole = Prompt.from_documents(QUESTION, documents).bind(lm)
    assert [group.label for group in whole.groups] == ["empty", "blank", "full"]
    assert [value.strip() for value in whole.values] == ["[empty]", "[blank]", "[full]\nAksel sings."]
    for unit in ("word", "sentence", "paragraph"):
        finer = Prompt.from_documents(QUESTION, documents, unit=unit).bind(lm)
        assert [(group.label, group.first) for group in finer.groups] == [("full", 0)]
    with pytest.raises(EmptyPrompt, match="the prompt holds no sentence"):
        Prompt.from_documents(QUESTION, {"empty": ""}, unit="sentence").bind(lm)


@pytest.mark.parametrize("documents", [{}, [], ()])
def test_no_documents(documents: Any) -> None:
    with pytest.raises(EmptyPrompt, match="from_documents needs at least one document"):
        Prompt.from_documents(QUESTION, documents)


@pytest.mark.parametrize(
    ("question", "documents"),
    [
        (QUESTION, "one text"),
        (QUESTION, {"a": None}),
        (QUESTION, ["fine", 3]),
        (QUESTION, [["nested"]]),
        (QUESTION, 5),
        (QUESTION, {"a": b"bytes"}),
        (None, {"a": "A."}),
    ],
)
def test_documents_of_another_type(question: Any, documents: Any) -> None:
    with pytest.raises(InvalidType, match=r"documents (are|must be) texts"):
        Prompt.from_documents(question, documents)


@pytest.mark.parametrize("template", [CHATML, STRIPPING])
@pytest.mark.parametrize("unit", ["document", "paragraph", "sentence", "token"])
@pytest.mark.parametrize("last", ["The end.  \n", "", "The end."])
def test_nothing_of_the_template_is_in_the_last_document(template: str, unit: str, last: str) -> None:
    """An empty question, and a template that strips the white space before it."""
    bound = Prompt.from_documents("", {"a": "Aksel sings.", "b": last}, unit=unit).bind(with_template(template))
    texts = [f"[a]\nAksel sings.\n\n[b]\n{last}" if unit == "document" else f"Aksel sings.{last}"]
    assert "".join("".join(bound.values).split()) == "".join(texts[0].split())
    assert "assistant" in rest(bound, *range(len(bound.values)))


ODD = {
    "a]\n[b": "Close.",
    "": "No name.",
    "🙂 \u202edoc": "Smile.",
    "{curly} %s \\": "Braces.",
    "<script>alert(1)</script>": "Script.",
    "[1]": "Number.",
    "</s>": "Control.",
    "  spaced ": "Spaces.",
}


@pytest.mark.parametrize("unit", ["document", "sentence"])
@pytest.mark.parametrize("chat", [True, False])
def test_odd_names(lm: LanguageModel, unit: str, chat: bool) -> None:
    bound = Prompt.from_documents(QUESTION, ODD, unit=unit, chat=chat).bind(lm)
    assert bound.groups == [Group(name, "document", i, i + 1) for i, name in enumerate(ODD)]
    expected = [f"[{name}]\n{text}" if unit == "document" else text for name, text in ODD.items()]
    assert bound.values == expected


def test_names_that_are_no_texts(lm: LanguageModel) -> None:
    documents: Any = {1: "One.", "1": "Another one.", (2, "b"): "Pair."}
    bound = Prompt.from_documents(QUESTION, documents, unit="sentence").bind(lm)
    labels = ["1", "1", "(2, 'b')"]
    assert bound.groups == [Group(label, "document", i, i + 1) for i, label in enumerate(labels)]


def test_half_of_a_character_in_a_name() -> None:
    with pytest.raises(InvalidValue, match="half of a character"):
        Prompt.from_documents(QUESTION, {"\ud83d": "Text."})


def test_documents_that_look_like_each_other(lm: LanguageModel) -> None:
    same = "[b]\nSame."
    bound = Prompt.from_documents("[b]\nSame.", {"a": same, "b": same}, unit="document").bind(lm)
    assert bound.values == [f"[a]\n{same}", f"[b]\n{same}"]
    assert rest(bound, 0).count("Same.") == 2


@pytest.mark.parametrize("absence", ["delete", "replace", "mask"])
@pytest.mark.parametrize("chat", [True, False])
def test_attributions_of_documents(lm: LanguageModel, chat: bool, absence: Any) -> None:
    prompt = Prompt.from_documents(QUESTION, DOCUMENTS, chat=chat, absence=absence)
    result = llm_attr.explain(lm, prompt, target=" He sings.")
    assert [(group.label, group.kind) for group in result.groups] == [("mill", "document"), ("aksel", "document")]
    if absence == "delete":
        texts = [TEXT.replace(f"[{name}]\n{text}\n\n", "") for name, text in DOCUMENTS.items()]
        whole, *without = [_scores(lm, text, result.output_ids, chat) for text in (TEXT, *texts)]
        found = torch.cat([result.seq_attr[None], result.token_attr])
        assert (found - leave_one_out(whole, without)).abs().max() < 1e-3


def _scores(lm: LanguageModel, text: str, answer: tuple[int, ...], chat: bool) -> torch.Tensor:
    if chat:
        text = lm.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
    return answer_log_probs(lm.model, lm.tokenizer.encode(text, add_special_tokens=not chat), answer)
