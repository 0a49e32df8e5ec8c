"""The view that pictures of an explanation are drawn from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from llm_attr.errors import InvalidType, UnknownKeyword, UnknownName, UnsupportedMethod
from llm_attr.llm.prompt.units import sentences
from llm_attr.llm.results.completeness import warning
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.labels import method, quantity
from llm_attr.viz.text.finding import NAT
from llm_attr.viz.text.levels import Levels
from llm_attr.viz.text.view import AttributionView

VISIBLE = 1e-3
"""Noise below this share of the largest attribution is not drawn."""

_ENDING = re.compile(r"\s*(<\|[^<>|]{1,40}\|>|</s>|<end_of_turn>|<eos>)$")

_FIELDS = {"model", "dtype", "scoring", "variants", "passes", "positions", "empty_prompt"}
_FIELDS_OF_GRADIENTS = {"model", "dtype", "baseline", "passes", "positions", "backward", "forward_mode", "per_input"}


def view(result: ResultData) -> AttributionView:
    """The texts and numbers of a result, and notes on how it was computed."""
    report = result.trust_report
    return AttributionView(
        verdict="" if report is None else report.verdict,
        title=_title(result),
        removal=_is_removal(result),
        template=tuple((first, last) for first, last in result.provenance.get("template_spans", ())),
        output_around=_around(result),
        output_parts=_sentences(result),
        units=tuple(result.input_tokens),
        unit_values=tuple(result.seq_attr.tolist()),
        output_tokens=tuple(result.output_tokens),
        output_probs=None if result.output_probs is None else tuple(result.output_probs.tolist()),
        token_values=None if result.token_attr is None else tuple(map(tuple, result.token_attr.tolist())),
        value_name=quantity(result) + (", per unit of the activations" if result.provenance.get("per_input") else ""),
        context=None if result.context is None else tuple(result.context),
        notes=(("method", method(result)), *_notes(result), *_nat(result)),
        groups=result.groups,
        unit_errors=None if result.stderr is None else tuple(result.stderr.tolist()),
        error_name="bootstrap error" if result.provenance.get("errors") == "bootstrap" else "standard error",
        unit_name=str(result.provenance.get("unit", "unit")),
        interactions=_interactions(result),
        doubtful=tuple(result.within_noise.tolist()) if _shows_noise(result) else None,
        warnings=tuple(filter(None, (warning(result.provenance), _template_warning(result)))),
    )


def levels(result: ResultData, *others: ResultData) -> Levels:
    """Results for one text by several units, as levels; see `Levels.of`.

    Raises:
        InvalidType: a level is not a result.
    """
    for other in others:
        if not isinstance(other, ResultData):
            raise InvalidType(f"levels must be LLMAttributionResults; given {type(other).__name__}")
    return Levels.of(*(view(each) for each in (result, *others)))


def _title(result: ResultData) -> str:
    """The answer in quotation marks, without the token that ended it."""
    text = " ".join(result.output_text.split())
    return f"“{_ENDING.sub('', text) or text}”"


def _is_removal(result: ResultData) -> bool:
    """Whether a value is what the score loses when only that unit is absent."""
    about, table = result.provenance, result.table
    alone = table is None or len(table.owner.unique()) == len(table.owner)
    return about.get("method") == "feature_ablation" and alone and not result.is_given


def _around(result: ResultData) -> tuple[str, str]:
    """The text of the answer before and after the part that is explained."""
    before, after = result.provenance.get("around", ("", ""))
    return str(before), str(after)


def _sentences(result: ResultData) -> tuple[tuple[int, int], ...]:
    """The tokens of each sentence of the answer."""
    spans = result.output_spans
    if spans is None:
        return ()
    starts = [start for start, _ in sentences(result.output_text)]
    first = [next((place for place, span in enumerate(spans) if span[1] > start), len(spans)) for start in starts]
    edges = sorted({0, *first[1:], len(spans)})
    parts = pairwise(edges)
    return tuple(part for part in parts if any(map(str.isalnum, "".join(result.output_tokens[slice(*part)]))))


def _template_warning(result: ResultData) -> str | None:
    """How the chat template changed the messages, if it did."""
    changes = result.provenance.get("template_changes")
    return f"The chat template does not show all messages as they are: {'; '.join(changes)}." if changes else None


def _shows_noise(result: ResultData) -> bool:
    """Whether the noise of the precision is large enough to be seen beside the largest attribution."""
    largest = result.seq_attr.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if len(result.seq_attr) else 0.0
    return result.noise is not None and result.noise > VISIBLE * largest


def _noise_note(result: ResultData) -> list[tuple[str, str]]:
    about = result.provenance
    if not _shows_noise(result):
        return []
    return [("rounding", f"about {result.noise:.2g} nats in {about['precision']}; ~ marks units below twice that")]


def _interactions(result: ResultData) -> tuple[tuple[float, ...], ...] | None:
    """The interactions, or None if the estimator of a saved result cannot be made again."""
    try:
        pairs = None if result.table is None or result.is_given else result.table.interactions()
    except (UnknownKeyword, UnknownName, UnsupportedMethod):
        return None
    return None if pairs is None else tuple(map(tuple, pairs.values[0].tolist()))


def _nat(result: ResultData) -> list[tuple[str, str]]:
    return [("nat", NAT)] if quantity(result).endswith("(nats)") else []


def _notes(result: ResultData) -> tuple[tuple[str, str], ...]:
    about = result.provenance
    if about.keys() >= _FIELDS_OF_GRADIENTS:
        return _notes_of_gradients(result)
    if not about.keys() >= _FIELDS:
        return tuple((name.replace("_", " "), str(value)) for name, value in about.items())
    cost = f"{about['variants']} variants in {about['passes']} passes, {about['positions']} token positions"
    if about.get("prompts", 1) > 1:
        cost += f", for {about['prompts']} prompts together"
    notes = [
        ("model", _model(about)),
        ("scored by", str(about["scoring"])),
        ("cost", cost),
    ]
    if about["empty_prompt"]:
        notes.append(("empty prompt", f"scored after {about['empty_prompt']}"))
    return tuple(notes + _notes_of_target(result))


def _notes_of_gradients(result: ResultData) -> tuple[tuple[str, str], ...]:
    about = result.provenance
    cost = f"{about['passes']} forward and {about['backward']} backward passes, {about['positions']} token positions"
    if about["forward_mode"]:
        cost += f", {about['forward_mode']} rows of forward mode"
    notes = [("model", _model(about)), ("cost", cost)]
    if about["baseline"] is not None:
        notes.append(("baseline", f"the embedding of {about['baseline']}"))
    if "completeness" in about:
        notes.append(("gap", f"{about['completeness']['gap']:.2%} of the change from the baseline"))
    return tuple(notes + _notes_of_target(result))


def _notes_of_target(result: ResultData) -> list[tuple[str, str]]:
    notes = _noise_note(result)
    if "foil" in result.provenance:
        notes.append(("foil", str(result.provenance["foil"])))
    if result.region:
        notes.append(("part", f"tokens {result.region[0] + 1} to {result.region[1]} of the answer"))
    return notes


def _model(about: Mapping[str, Any]) -> str:
    """The model and its type, which is not known of a served one."""
    return ", ".join(str(each) for each in (about["model"], about["dtype"]) if each)
