"""`Citations`: an answer, its sentences and their sources, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from llm_attr.errors import BrokenFile, NewerFile
from llm_attr.llm.citations import adapters, schema
from llm_attr.viz.text import citations as picture
from llm_attr.viz.text.citations import CitedView, Passage, Statement

SCHEMA = 1
"""The version of the schema that is written, and the newest that can be read."""


@dataclass(frozen=True)
class Source:
    """A passage that carries a sentence.

    Attributes:
        id: The id of the document; `messages[i]` for a message, `prompt` for a text.
        start: The first character of the passage in the document, message or text.
        end: One past its last.
        text: The passage.
        nats: Its attribution: how much it adds to the sentence's log-probability.
        share: That as a share of all positive attributions of the sentence, from 0 to 1.
        stderr: The standard error of `nats`; None where the method has none.
    """

    id: str
    start: int
    end: int
    text: str
    nats: float
    share: float
    stderr: float | None = None


@dataclass(frozen=True)
class Sentence:
    """A sentence of the answer.

    Attributes:
        text: The sentence.
        start: Its first character in the answer.
        end: One past its last.
        supported: Whether sources carry it.
        sources: They, the strongest first; empty if it is not supported.
        context: Nats that it loses without any of the units; None where that is unknown.
        reason: Why it is not supported; "" if it is.
    """

    text: str
    start: int
    end: int
    supported: bool
    sources: tuple[Source, ...] = ()
    context: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Citations:
    """An answer with the sources of each of its sentences.

    Attributes:
        answer: The answer.
        sentences: Its sentences, in order.
        documents: The texts that were searched for sources, by id.
        question: The question; "" where it is not known.
        provenance: `answer`: "given" by the user or "generated" by the model; model, method, thresholds and cost.

    Example:
        >>> citations = llm_attr.cite(lm, {"a": "Aksel repairs violins."}, "What does Aksel do?")  # doctest: +SKIP
        >>> [source.id for source in citations.sentences[0].sources]  # doctest: +SKIP
        ['a']
    """

    answer: str
    sentences: tuple[Sentence, ...]
    documents: Mapping[str, str]
    question: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def supported(self) -> bool:
        """Whether every sentence is supported."""
        return all(sentence.supported for sentence in self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain Python types, as `json_schema` describes it."""
        return {"schema": SCHEMA, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Citations:
        """Citations from what `to_dict` gave.

        Raises:
            BrokenFile: it is something else, or offsets and texts do not agree.
            NewerFile: a newer version of llm_attr wrote it.
        """
        version = data.get("schema") if isinstance(data, Mapping) else None
        if isinstance(version, int) and version > SCHEMA:
            raise NewerFile(f"citations have schema {version}; this version of llm_attr reads up to {SCHEMA}")
        if version != SCHEMA:
            raise BrokenFile(f"citations are a dictionary with schema {SCHEMA}; got {data!r:.200}")
        try:
            fields = {name: value for name, value in data.items() if name != "schema"}
            sentences = tuple(
                Sentence(**{**each, "sources": tuple(Source(**source) for source in each["sources"])})
                for each in fields.pop("sentences")
            )
            made = cls(sentences=sentences, **fields)
            made._check()
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise BrokenFile(f"these are not citations as to_dict gives them: {error}") from error
        return made

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """The JSON schema of `to_dict`.

        Raises:
            MissingExtra: pydantic is not installed.
        """
        return schema.json_schema()

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON, also written to `path` if given."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_ragas(self) -> dict[str, Any]:
        """The arguments of a `SingleTurnSample` of ragas: what was asked, answered and searched."""
        return adapters.ragas(self.to_dict())

    def to_deepeval(self) -> dict[str, Any]:
        """The arguments of an `LLMTestCase` of deepeval: what was asked, answered and searched."""
        return adapters.deepeval(self.to_dict())

    def to_response(self) -> dict[str, Any]:
        """A body for the response of a RAG server: the answer, numbered passages, and the numbers of each sentence."""
        return adapters.response(self.to_dict())

    def view(self) -> CitedView:
        """The view that every picture is drawn from."""
        numbers: dict[tuple[str, int, int], int] = {}
        for sentence in self.sentences:
            for source in sentence.sources:
                numbers.setdefault((source.id, source.start, source.end), len(numbers) + 1)
        statements = tuple(
            Statement(
                each.start, each.end, each.supported, each.reason,
                tuple((numbers[s.id, s.start, s.end], s.nats, s.stderr, s.share) for s in each.sources),
            )
            for each in self.sentences
        )  # fmt: skip
        passages = tuple(Passage(number, *place) for place, number in numbers.items())
        about = self.provenance
        notes = tuple((key, str(about[key])) for key in ("answer", "model", "method") if about.get(key))
        return CitedView(self.answer, self.question, statements, passages, dict(self.documents), notes)

    def show(self, width: int | None = None) -> None:
        """Prints the answer with numbers, and the passages that they stand for."""
        picture.show(self.view(), width=width)

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained HTML page, also written to `path` if given."""
        text = picture.to_html(self.view())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _repr_html_(self) -> str:
        return picture.fragment(self.view())

    def __repr__(self) -> str:
        held = sum(sentence.supported for sentence in self.sentences)
        return f"Citations({held} of {len(self.sentences)} sentences supported: {self.answer[:60]!r})"

    def _check(self) -> None:
        """Raises ValueError where offsets and texts do not agree."""
        for each in (self.answer, self.question, *self.documents, *self.documents.values()):
            if not isinstance(each, str):
                raise ValueError(f"answer, question, ids and documents are texts; got {each!r}")
        for sentence in self.sentences:
            if self.answer[sentence.start : sentence.end] != sentence.text:
                raise ValueError(f"the sentence {sentence.text!r} is not at its place in the answer")
            if not isinstance(sentence.supported, bool):
                raise ValueError(f"supported is true or false; got {sentence.supported!r}")
            for source in sentence.sources:
                if self.documents[source.id][source.start : source.end] != source.text:
                    raise ValueError(f"the passage {source.text!r} is not at its place in {source.id!r}")
                if not all(isfinite(each) for each in (source.nats, source.share, source.stderr or 0.0)):
                    raise ValueError(f"nats, share and stderr are finite; got {source!r}")
