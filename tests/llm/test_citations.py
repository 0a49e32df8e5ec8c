"""Citations: the decision on games whose truth is known, and sources of answers of a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import Citations, LanguageModel, Prompt
from llm_attr.errors import (
    BrokenFile,
    EmptyPrompt,
    EmptyTarget,
    InvalidType,
    InvalidValue,
    NewerFile,
    UnsupportedMethod,
)
from llm_attr.llm.citations.schema import models
from llm_attr.llm.citations.support import Rule, Support, asked, decide
from llm_attr.llm.trust.evidence import Evidence, Subject
from llm_attr.viz.text.citations import render
from tests.zoo import tiny

DOCUMENTS = {"a": "Aksel mends violins. He sails.", "<b>": "Snow fell & <script>alert(1)</script> ran.\nIt \u202eis."}
ANSWER = "He mends. It <i>snows</i>."


@cache
def lm() -> LanguageModel:
    return tiny("llama")


@cache
def cited() -> Citations:
    how: dict[str, Any] = {"chat": False, "nats": 0.0, "stand_out": 0.0, "certain": 0.0}
    return llm_attr.cite(lm(), DOCUMENTS, "What <u>now</u>?", answer=ANSWER, n_samples=16, **how)


def decided(value: Callable[..., float], attributions: list[float], errors: list[float] | None = None) -> Support:
    """The decision for the function of the presence of each unit."""
    rows = torch.tensor(list(product([False, True], repeat=len(attributions))))
    values = torch.tensor([value(*map(int, row)) for row in rows.tolist()], dtype=torch.float64)
    given = torch.tensor(attributions, dtype=torch.float64)
    subject = Subject(given, ("x",) * len(given), rows, values, own=True, paid=len(rows))
    stderr = None if errors is None else torch.tensor(errors, dtype=torch.float64)
    return decide(given, stderr, Evidence(subject, 0), Rule())


def test_one_source_carries_a_sentence() -> None:
    found = decided(lambda a, b, c, d: 8.0 * b + 0.1 * a, [0.1, 8.0, 0.0, 0.0])
    assert found == Support(True, (1,), pytest.approx(8.1), 8.0, "")


def test_a_sentence_that_the_model_knows_anyway_has_none() -> None:
    found = decided(lambda a, b, c, d: 0.5 * b, [0.0, 0.5, 0.0, 0.0])
    assert (found.supported, found.sources) == (False, ())
    assert "the context gives it 0.5 nats" in found.reason


def test_a_source_that_the_others_drown_is_one() -> None:
    """Without any unit the sentence is as likely as with all of them, but not without its source."""
    found = decided(lambda a, b, c, d: 8.0 * b - 4.0 * max(a, c, d), [-1.3, 8.0, -1.4, -1.3])
    assert found.supported
    nothing_lost = decided(lambda a, b, c, d: 8.0 * b - 8.0 * (a or c or d), [-1.3, 8.0, -1.4, -1.3])
    assert (nothing_lost.supported, nothing_lost.context) == (True, 0.0)


def test_a_source_that_others_outweigh_is_none() -> None:
    found = decided(lambda a, b, c, d: a + b + c - 3 * d + 4 * a * b * c, [2.3, 2.4, 2.3, -3.0])
    assert not found.supported
    assert found.context == 4.0


def test_a_source_must_exceed_its_error() -> None:
    assert "error" in decided(lambda a, b, c: 4.0 * a, [4.0, 0.0, 0.0], [2.5, 0.1, 0.1]).reason
    assert decided(lambda a, b, c: 4.0 * a, [4.0, 0.0, 0.0], [1.5, 0.1, 0.1]).supported


def test_two_that_say_the_same_are_both_sources() -> None:
    """Neither is needed, and each has half of the credit, less than the threshold."""
    found = decided(lambda a, b, c, d: 3.0 * max(a, b), [1.5, 1.5, 0.0, 0.0])
    assert found.supported
    assert set(found.sources) == {0, 1}
    assert found.strength == 3.0


def test_what_is_asked_for_is_all_none_and_the_two_strongest() -> None:
    rows = torch.stack(asked(torch.tensor([1.0, 3.0, 2.0]))).int().tolist()
    assert rows == [[1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0]]


def test_sentences_and_sources_are_at_their_places() -> None:
    citations = cited()
    assert [each.text for each in citations.sentences] == ["He mends.", "It <i>snows</i>."]
    assert citations.documents == DOCUMENTS
    for sentence in citations.sentences:
        assert citations.answer[sentence.start : sentence.end] == sentence.text
        for source in sentence.sources:
            assert DOCUMENTS[source.id][source.start : source.end] == source.text
            assert 0 <= source.share <= 1
    assert citations.provenance["answer"] == "given"


def test_the_token_that_ends_an_answer_is_no_sentence() -> None:
    prompt = Prompt.from_documents("What?", {"a": "He mends. He sails."}, unit="sentence", chat=False)
    ids, end = lm().encode(ANSWER, special_tokens=False), [lm().tokenizer.eos_token_id]
    assert llm_attr.explain(lm(), prompt, target=[*ids, *end]).citations().answer == ANSWER
    with pytest.raises(EmptyTarget, match="no text"):
        llm_attr.explain(lm(), prompt, target=end).citations()


def test_the_numbers_are_those_of_the_sentence_in_the_explanation() -> None:
    prompt = Prompt.from_documents("What <u>now</u>?", DOCUMENTS, unit="sentence", chat=False)
    result = llm_attr.explain(lm(), prompt, target=ANSWER, method="kernel_shap", n_samples=16, seed=0)
    before = result.game.spent.evaluations if result.game else 0
    citations = result.citations(nats=0, stand_out=0, certain=0)
    assert result.game is not None
    assert result.game.spent.evaluations - before <= 5 * len(citations.sentences)
    for number, sentence in enumerate(citations.sentences):
        part = result.for_output(sentence=number)
        for source in sentence.sources:
            assert source.nats == float(part.seq_attr[part.input_tokens.index(source.text)])
    assert [each.sources for each in citations.sentences] == [each.sources for each in cited().sentences]


def test_a_document_is_cited_without_its_heading() -> None:
    how: dict[str, Any] = {"chat": False, "unit": "document", "nats": 0.0, "stand_out": 0.0, "certain": 0.0}
    citations = llm_attr.cite(lm(), [("x", "Aksel sails."), ("y", "It snows.")], "What?", answer="It snows.", **how)
    texts = {"x": "Aksel sails.", "y": "It snows."}
    for sentence in citations.sentences:
        assert all(source.text == texts[source.id] and source.start == 0 for source in sentence.sources)


def test_thresholds_that_nothing_meets_abstain() -> None:
    citations = llm_attr.cite(lm(), DOCUMENTS, "What?", answer=ANSWER, chat=False, nats=1e6, n_samples=16)
    assert not citations.supported
    assert all(not each.sources and each.reason for each in citations.sentences)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (InvalidValue, {"documents": [("a", "x"), ("a", "y")]}),
        (InvalidValue, {"documents": {"a": "x", "b": "y"}, "question": " "}),
        (EmptyPrompt, {"documents": {}}),
        (EmptyPrompt, {"documents": {"a": " \n"}}),
        (EmptyTarget, {"documents": {"a": "x"}, "answer": " "}),
        (InvalidType, {"documents": {"a": "x"}, "answer": 7}),
        (InvalidType, {"documents": "x"}),
        (InvalidType, {"documents": [{"id": "a"}]}),
        (InvalidType, {"documents": {"a": "x"}, "nats": "2"}),
        (InvalidValue, {"documents": {"a": "x"}, "nats": -1.0}),
        (InvalidType, {"documents": {"a": "x"}, "messages": [{"role": "user", "content": "x"}] * 2}),
        (InvalidValue, {"documents": None, "question": None, "messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_bad_input_is_refused(error: type[Exception], arguments: dict[str, Any]) -> None:
    with pytest.raises(error):
        llm_attr.cite(lm(), **{"question": "What?", "answer": "It snows.", "chat": False, **arguments})


def test_only_log_probabilities_of_a_result_with_its_prompt_are_cited() -> None:
    result = llm_attr.explain(lm(), "Aksel sails. It snows.", target=" Yes.", scalar="entropy")
    with pytest.raises(UnsupportedMethod, match="entropy"):
        result.citations()
    result.inp = None
    with pytest.raises(UnsupportedMethod, match="loaded"):
        result.citations()


def test_citations_are_the_same_after_json_and_fit_the_schema() -> None:
    data = json.loads(cited().to_json())
    assert Citations.from_dict(data) == Citations.from_dict(cited().to_dict())
    assert Citations.from_dict(data).to_dict() == data
    models()["Citations"].model_validate(data)
    schema = Citations.json_schema()
    assert set(schema["properties"]) == set(data)


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (NewerFile, {"schema": 2}),
        (BrokenFile, {"schema": None}),
        (BrokenFile, {"answer": "Another."}),
        (BrokenFile, {"documents": {}}),
        (BrokenFile, {"sentences": [{"text": "x"}]}),
        (BrokenFile, {"more": 1}),
    ],
)
def test_other_data_is_refused(error: type[Exception], change: dict[str, Any]) -> None:
    with pytest.raises(error):
        Citations.from_dict({**cited().to_dict(), **change})


def test_records_of_other_tools() -> None:
    citations = cited()
    ragas, deepeval, response = citations.to_ragas(), citations.to_deepeval(), citations.to_response()
    assert set(ragas) == {"user_input", "response", "retrieved_contexts"}
    assert set(deepeval) == {"input", "actual_output", "retrieval_context"}
    assert sorted(ragas["retrieved_contexts"]) == sorted(DOCUMENTS.values()) == sorted(deepeval["retrieval_context"])
    numbers = [each["number"] for each in response["passages"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {number for each in response["sentences"] for number in each["citations"]} == set(numbers)


def test_hostile_text_stays_text() -> None:
    for page in (cited().to_html(), cited()._repr_html_()):
        for tag in ("<script", "<b>Snow", "<i>", "<u>", "\u202e", " onclick"):
            assert tag not in page
    assert "default-src 'none'" in cited().to_html()
    shown = render(cited().view(), width=60, colour=False)
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 60
