"""Citations as records of other tools: plain dictionaries, made from what `Citations.to_dict` gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def ragas(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ragas.SingleTurnSample`; the contexts that a sentence cites come first."""
    return {
        "user_input": data["question"],
        "response": data["answer"],
        "retrieved_contexts": [data["documents"][name] for name in _by_use(data)],
    }


def deepeval(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `deepeval.test_case.LLMTestCase`; the contexts that a sentence cites come first."""
    return {
        "input": data["question"],
        "actual_output": data["answer"],
        "retrieval_context": [data["documents"][name] for name in _by_use(data)],
    }


def response(data: Mapping[str, Any]) -> dict[str, Any]:
    """The answer, the passages numbered from 1, and for each sentence the numbers of its passages."""
    numbers: dict[tuple[str, int, int], int] = {}
    passages, sentences = [], []
    for sentence in data["sentences"]:
        for source in sentence["sources"]:
            place = (source["id"], source["start"], source["end"])
            if place not in numbers:
                numbers[place] = len(numbers) + 1
                passages.append(
                    {"number": numbers[place]} | {key: source[key] for key in ("id", "start", "end", "text")}
                )
        cited = [numbers[each["id"], each["start"], each["end"]] for each in sentence["sources"]]
        kept = {key: sentence[key] for key in ("text", "start", "end", "supported", "reason")}
        sentences.append({**kept, "citations": cited})
    return {
        "answer": data["answer"],
        "supported": all(sentence["supported"] for sentence in sentences),
        "sentences": sentences,
        "passages": passages,
    }


def _by_use(data: Mapping[str, Any]) -> list[str]:
    """The ids of the documents: those that are cited, in the order of their citation, then the others."""
    cited = [source["id"] for sentence in data["sentences"] for source in sentence["sources"]]
    return list(dict.fromkeys([*cited, *data["documents"]]))
