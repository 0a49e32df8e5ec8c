"""The citations of a result: every sentence of its answer, judged by the coalitions of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm_attr.core.game.coalitions import distinct
from llm_attr.errors import EmptyTarget, InvalidType, InvalidValue, UnsupportedMethod
from llm_attr.llm.citations.citations import Citations, Sentence, Source
from llm_attr.llm.citations.support import Rule, Support, asked, decide
from llm_attr.llm.prompt.bound import BoundPrompt, Scope
from llm_attr.llm.prompt.units import SPLITTERS, Span
from llm_attr.llm.trust.evidence import Evidence, Subject

if TYPE_CHECKING:
    from llm_attr.llm.results.result import LLMAttributionResult


def citations_of(
    result: LLMAttributionResult,
    subject_of: Callable[[LLMAttributionResult], Subject],
    rule: Rule,
    question: str = "",
) -> Citations:
    """The sources of each sentence; see `LLMAttributionResult.citations`.

    Args:
        result: The result.
        subject_of: What is judged of a part of it.
        rule: When a sentence is supported.
        question: The question.

    Raises:
        LlmAttrError: as there.
    """
    _check(result, rule)
    places = list(_places(result))
    answer = _answer(result)
    spans = SPLITTERS["sentence"](answer)
    parts = [result.for_output(characters=span) for span in spans]
    evidence = [Evidence(subject_of(part), 5) for part in parts]
    _evaluate(result, evidence)
    sentences = []
    for span, part, known in zip(spans, parts, evidence, strict=True):
        support = decide(known.subject.attributions, errors_of(part), known, rule)
        sentences.append(_sentence(result, span, part, support, known, places))
    return Citations(
        answer=answer,
        sentences=tuple(sentences),
        documents={name: text for name, _, text in _documents(result)},
        question=question,
        provenance=_about(result, rule),
    )


def _check(result: LLMAttributionResult, rule: Rule) -> None:
    for name, value in (("nats", rule.nats), ("stand_out", rule.stand_out), ("certain", rule.certain)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidType(f"{name} must be a number, e.g. 2.0; got {type(value).__name__}")
        if not (math.isfinite(value) and value >= 0):
            raise InvalidValue(f"{name} must be 0 or larger, and finite; got {value}")
    if not isinstance(result.inp, BoundPrompt):
        raise UnsupportedMethod(
            "citations need the documents of a Prompt, which a loaded result, or one of another kind of input, does "
            "not have; save citations.to_dict() instead"
        )
    scalar = result.provenance.get("attr_target", "log_prob")
    if scalar != "log_prob":
        raise UnsupportedMethod(f"sources are measured in nats of log_prob; this result explains {scalar!r}")
    if result.output_spans is None:
        raise UnsupportedMethod("the tokens of this answer do not make up its text, so it has no sentences")


def _answer(result: LLMAttributionResult) -> str:
    """The answer without the special tokens that end it.

    Raises:
        EmptyTarget: it consists of them.
    """
    inp, spans, text = result.inp, result.output_spans or (), result.output_text
    end = inp.ended(result.output_ids or ()) if isinstance(inp, BoundPrompt) else len(spans)
    answer = text[: spans[end][0]] if end < len(spans) else text
    if not answer.strip():
        raise EmptyTarget(f"the answer {result.output_text!r} has no text, so no sentence to cite sources for")
    return answer


def _evaluate(result: LLMAttributionResult, evidence: list[Evidence]) -> None:
    """Evaluates the coalitions that all sentences ask for, together; each then finds them known."""
    for each in evidence:
        each.plan(*distinct(torch.stack(asked(each.subject.attributions)))[0])
    if result.game is not None and evidence:
        rows = [row for each in evidence for row in asked(each.subject.attributions)]
        result.game.shared(distinct(torch.stack(rows))[0], 1)
    for each in evidence:
        each.evaluate()


def errors_of(part: LLMAttributionResult) -> Tensor | None:
    """`(features,)` standard errors; units of one feature share theirs."""
    if part.stderr is None or part.table is None:
        return part.stderr
    owner = part.table.owner
    errors = torch.zeros(part.table.coalitions.shape[1], dtype=torch.float64, device="cpu")
    errors[owner] = part.stderr.double().cpu()
    return errors


def _sentence(
    result: LLMAttributionResult,
    span: Span,
    part: LLMAttributionResult,
    support: Support,
    evidence: Evidence,
    places: list[tuple[str, int, int, str]],
) -> Sentence:
    total = float(part.seq_attr.clamp_min(0).sum())
    sources = []
    for unit in evidence.subject.positions(support.sources):
        name, start, end, text = places[unit]
        nats = float(part.seq_attr[unit])
        share = max(nats, 0.0) / total if total else 0.0
        sources.append(
            Source(name, start, end, text, nats, share, None if part.stderr is None else float(part.stderr[unit]))
        )
    text = result.output_text[slice(*span)]
    return Sentence(text, *span, support.supported, tuple(sources), support.context, support.reason)


def _documents(result: LLMAttributionResult) -> Iterator[tuple[str, Scope, str]]:
    """The id of each document, message or text, its place in the prompt, and its text."""
    inp = result.inp
    if not isinstance(inp, BoundPrompt):
        return
    numbers = [scope.owner for scope in inp.scopes]
    for i, scope in enumerate(inp.scopes):
        kind, label, number = scope.owner
        start = scope.start
        if kind == "document" and inp.unit == "document":
            start += len(f"[{label}]\n")
        name = label if kind == "document" else f"messages[{number}]" if kind == "message" else "prompt"
        if kind == "message" and numbers.count(scope.owner) > 1:
            name += f".content[{numbers[:i].count(scope.owner)}]"
        yield name, Scope(scope.owner, start, scope.end), inp.text[start : scope.end]


def _places(result: LLMAttributionResult) -> Iterator[tuple[str, int, int, str]]:
    """For each unit its document, its characters there, and its text."""
    inp, documents = result.inp, list(_documents(result))
    for start, end in inp.spans if isinstance(inp, BoundPrompt) else ():
        for name, scope, text in documents:
            if start < scope.end and scope.start < end:
                first, stop = max(0, start - scope.start), min(end, scope.end) - scope.start
                yield name, first, stop, text[first:stop]
                break
        else:
            raise UnsupportedMethod("a unit of this result is in no document, message or text of its prompt")


def _about(result: LLMAttributionResult, rule: Rule) -> dict[str, Any]:
    about = result.provenance
    known: dict[str, Any] = {key: about[key] for key in ("model", "method", "passes") if key in about}
    return {**known, "rule": {"nats": rule.nats, "stand_out": rule.stand_out, "certain": rule.certain}}
