"""`cite`: the sources of each sentence of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llm_attr.errors import EmptyPrompt, EmptyTarget, InvalidTarget, InvalidType, InvalidValue
from llm_attr.llm.citations.citations import Citations
from llm_attr.llm.citations.support import CERTAIN, NATS, STAND_OUT
from llm_attr.llm.explain import explain
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import TokenizerLike
from llm_attr.llm.prompt.chat import Messages
from llm_attr.llm.prompt.prompt import Prompt

METHOD = "kernel_shap"
SAMPLES = 64
"""The method by default and its coalitions."""

Documents = Mapping[str, str] | Sequence[str] | Sequence[tuple[str, str]] | Sequence[Mapping[str, str]]


def cite(
    model: LanguageModel | Any,
    documents: Documents | None = None,
    question: str | None = None,
    *,
    messages: Messages | None = None,
    answer: str | None = None,
    tokenizer: TokenizerLike | None = None,
    unit: str = "sentence",
    system: str | None = None,
    chat: bool = True,
    method: str = METHOD,
    nats: float = NATS,
    stand_out: float = STAND_OUT,
    certain: float = CERTAIN,
    **options: Any,
) -> Citations:
    """The sources of each sentence of an answer, and the sentences that have none.

    One explanation of all tokens of the answer; the sentences are read from its table of coalitions.

    Args:
        model: A `LanguageModel`, or a transformers model together with its `tokenizer`.
        documents: Texts by id; or a list of texts, numbered from 1, of pairs `(id, text)`, or of dictionaries with
            `id` and `text`.
        question: The question about them.
        messages: A chat instead of documents and question; its last message is the question and no source.
        answer: The answer, the model's or any other text. None: the model generates it.
        tokenizer: The tokenizer of a transformers model.
        unit: What may be a source: `sentence`, `paragraph`, `document`, `word`; for messages also `message`.
        system: A system message, with documents and a chat.
        chat: Whether documents and question are sent as a chat.
        method: A name from `llm_attr.methods()`; `kernel_shap` with 64 samples by default.
        nats: See `LLMAttributionResult.citations`.
        stand_out: See there.
        certain: See there.
        **options: Further arguments of `explain`.

    Raises:
        InvalidType: arguments are of another type, or both or neither of documents and messages are given.
        InvalidValue: an id occurs twice, or an argument contradicts another.
        EmptyPrompt: there are no documents, or one is empty.
        EmptyTarget: the answer is empty, or the model's has no text.
        InvalidTarget: the tokens of the answer do not make up its text.

    Example:
        >>> cited = cite(lm, {"a": "Aksel repairs violins."}, "What does Aksel repair?", answer="Violins.")
        ... # doctest: +SKIP
        >>> cited.sentences[0].supported  # doctest: +SKIP
        True
    """
    _check_answer(answer)
    if method == METHOD:
        options = {"n_samples": SAMPLES, "seed": 0} | options
    if messages is not None:
        prompt, question = _of_messages(messages, documents, question, system, unit)
    else:
        named, question = named_documents(documents), _question(question)
        prompt = Prompt.from_documents(question, named, unit=unit, chat=chat, system=system)
    asked: dict[str, Any] = {"tokenizer": tokenizer, "method": method, "target": answer, **options}
    result = explain(model, prompt, **asked)
    if result.output_spans is None or (answer is not None and result.output_text != answer):
        raise InvalidTarget(
            f"the model's tokens do not hold the answer as it is: {answer!r:.80} reads {result.output_text!r:.80}; "
            "remove what the tokenizer does not have"
        )
    cited = result.citations(nats=nats, stand_out=stand_out, certain=certain, question=question)
    return replace(cited, provenance={"answer": "generated" if answer is None else "given", **cited.provenance})


def named_documents(documents: Any) -> dict[str, str]:
    """Documents by id, in order.

    Raises:
        InvalidType: they are something else.
        InvalidValue: an id occurs twice.
        EmptyPrompt: there are none, or one is empty.
    """
    if isinstance(documents, Mapping):
        pairs = list(documents.items())
    elif isinstance(documents, Sequence) and not isinstance(documents, str | bytes):
        pairs = [_pair(number, each) for number, each in enumerate(documents, 1)]
    else:
        raise InvalidType(f"documents must be texts by id, or a list of them; got {type(documents).__name__}")
    if not pairs:
        raise EmptyPrompt("cite needs at least one document; got none")
    named: dict[str, str] = {}
    for name, text in pairs:
        if not isinstance(name, str | int) or isinstance(name, bool) or not isinstance(text, str):
            raise InvalidType(f"a document is an id and a text; got {name!r:.80} and {text!r:.80}")
        if str(name) in named:
            raise InvalidValue(f"the document id {str(name)!r} occurs twice; every document needs its own")
        if not text.strip():
            raise EmptyPrompt(f"the document {str(name)!r} is empty; leave it out")
        named[str(name)] = text
    return named


def _pair(number: int, given: Any) -> tuple[Any, Any]:
    if isinstance(given, str):
        return str(number), given
    if isinstance(given, Mapping) and "text" in given:
        return given.get("id", str(number)), given["text"]
    if isinstance(given, tuple | list) and len(given) == 2:
        return given[0], given[1]
    raise InvalidType(f'a document is a text, (id, text) or {{"id": ..., "text": ...}}; got {given!r:.80}')


def _question(question: Any) -> str:
    if not isinstance(question, str):
        raise InvalidType(f"question must be a text; got {type(question).__name__}; a chat is messages=[...]")
    if not question.strip():
        raise InvalidValue("the question is empty")
    return question


def _check_answer(answer: Any) -> None:
    if answer is not None and not isinstance(answer, str):
        raise InvalidType(f"answer must be a text, or None for the model's own; got {type(answer).__name__}")
    if answer is not None and not answer.strip():
        raise EmptyTarget("the answer is empty; leave it out to let the model generate one")


def _of_messages(messages: Any, documents: Any, question: Any, system: Any, unit: str) -> tuple[Prompt, str]:
    """The prompt of a chat, whose last message is always present, and the text of that message."""
    if documents is not None or question is not None or system is not None:
        raise InvalidType("messages are the whole chat: give either them, or documents and a question")
    if not isinstance(messages, list | tuple) or len(messages) < 2:
        raise InvalidValue("messages must be a list of at least two: sources, and the question as the last")
    prompt = Prompt(list(messages), unit=unit, pinned=[-1])
    content = messages[-1].get("content")
    return prompt, content if isinstance(content, str) else ""
