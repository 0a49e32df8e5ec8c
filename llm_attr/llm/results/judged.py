"""A result as the subject of a trust report."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from llm_attr.core.faithfulness.correlation import spearman
from llm_attr.core.faithfulness.feature_game import as_rows, of_features
from llm_attr.core.game.coalitions import keys
from llm_attr.errors import InvalidShape, InvalidType, UnsupportedMethod
from llm_attr.llm.results.completeness import of_part
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.target.scalar import ADDITIVE
from llm_attr.llm.trust.evidence import Subject
from llm_attr.llm.trust.judging import judged
from llm_attr.llm.trust.report import TrustReport

Result = TypeVar("Result", bound=ResultData)


def trust_of(result: ResultData, budget: int | float | None, k: int | None, randomised: bool, seed: int) -> TrustReport:
    """The trust report of a result; see `LLMAttributionResult.trust`.

    Raises:
        LlmAttrError: as there.
    """
    if not isinstance(randomised, bool):
        raise InvalidType(f"randomised must be True or False; got {type(randomised).__name__}")
    subject = subject_of(result)
    if randomised:
        _check_randomised(result)
    report = judged(subject, budget, k, seed)
    return _with_random_weights(report, result, subject, seed) if randomised else report


def given(result: Result, attributions: Tensor) -> Result:
    """The result with other attributions; see `LLMAttributionResult.with_attributions`.

    Raises:
        InvalidType: they are no tensor of real numbers.
        InvalidShape: they have another shape.
        NonFiniteValue: they are NaN or infinite.
        UnsupportedMethod: they are of single tokens, and those of the explained scalar do not add up.
    """
    units, tokens = len(result.input_tokens), len(result.output_tokens)
    rows = as_rows(attributions, units).to(result.seq_attr)
    per_token = attributions.dim() == 2
    if per_token and len(rows) != tokens:
        raise InvalidShape(
            f"attributions must have the shape ({units},), or ({tokens}, {units}) for each answer token; got "
            f"{tuple(attributions.shape)}"
        )
    scalar = result.provenance.get("attr_target", "log_prob")
    if per_token and scalar not in ADDITIVE:
        raise UnsupportedMethod(f"attributions of {scalar!r} do not add up over tokens; give ({units},) of the answer")
    other = copy(result)
    other.seq_attr, other.token_attr = rows.sum(0), rows if per_token else None
    other.stderr = other.token_stderr = None
    about = of_part(result.provenance, slice(0, 0))
    other.provenance = {**about, "method": "given", "given": True, "errors": None}
    other.provenance.pop("completeness", None)
    return other


def subject_of(result: ResultData) -> Subject:
    """The attributions of a result, the coalitions that were paid for, and the game that evaluates others.

    Raises:
        UnsupportedMethod: the result has neither a table of coalitions nor a model, or its units cannot be left out.
        NonFiniteValue: attributions are NaN or infinite.
    """
    table, game = result.table, result.game
    if table is not None:
        owner, features = table.owner, table.coalitions.shape[1]
        coalitions, values = table.coalitions, table.answers
    elif game is not None:
        owner, features = game.owner, game.features
        coalitions = torch.zeros(0, features, dtype=torch.bool, device="cpu")
        values = torch.zeros(0, dtype=torch.float64, device="cpu")
    else:
        raise UnsupportedMethod(
            "this result has nothing that judges it: no table of coalitions, and no model because it was loaded or "
            "its units cannot be left out; judge it as other.with_attributions(this.seq_attr).trust(), with a "
            "perturbation result of the same prompt"
        )
    units = as_rows(result.seq_attr, len(owner))
    members = tuple(tuple((owner == feature).nonzero().flatten().tolist()) for feature in range(features))
    return Subject(
        attributions=of_features(units, owner, features)[0],
        texts=tuple(" ".join(result.input_tokens[unit] for unit in each) for each in members),
        coalitions=coalitions,
        values=values,
        own=table is not None and not result.is_given,
        paid=len(set(keys(coalitions))) if table is not None else _passes(result),
        game=game,
        units=members,
        sample=None if table is None or result.is_given else table.sample(),
        noise=result.noise,
    )


def _passes(result: ResultData) -> int:
    """The forward and backward passes of a gradient method."""
    return sum(int(result.provenance.get(name) or 0) for name in ("passes", "backward"))


def _check_randomised(result: ResultData) -> None:
    if result.table is None or result.game is None or result.is_given:
        raise UnsupportedMethod(
            "randomised=True explains the model with random weights by the same method, which needs the table of a "
            "perturbation method and the model: not a loaded result, a gradient method, or given attributions"
        )


def _with_random_weights(report: TrustReport, result: ResultData, subject: Subject, seed: int) -> TrustReport:
    """The report with the rank correlation between the attributions and those of the model with random weights."""
    if result.table is None or result.game is None:
        return report
    with result.game.randomised(seed) as game:
        values = game.shared(subject.coalitions, 1)[0]
        spent = game.spent
    other = result.table.estimated_from(values)
    return replace(
        report,
        randomised=float(spearman(subject.attributions, other)),
        passes=report.passes + (spent.passes or 0),
        evaluations=report.evaluations + spent.evaluations,
    )
