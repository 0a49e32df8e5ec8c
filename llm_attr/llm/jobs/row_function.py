"""The row function: rows in, records out; every launcher runs this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.errors import Cancelled, InvalidType, LlmAttrError, MissingExtra
from llm_attr.llm.attribution import LLMAttribution
from llm_attr.llm.explain import explain
from llm_attr.llm.jobs.rows.prompts import RowPrompts
from llm_attr.llm.jobs.rows.source import SourceRow
from llm_attr.llm.jobs.storage.record import Record, failure, record_of
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.request import method_named, parse_request
from llm_attr.llm.results.result import LLMAttributionResult

ROW_ERRORS = (LlmAttrError, ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
              ValueError)  # fmt: skip
"""What a row may raise without ending the run."""

_ENDS = (Cancelled, MissingExtra, *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []))
"""Of these what ends it all the same: after such an error no row would be better."""


@dataclass(frozen=True)
class _Asked:
    """A row whose prompt could be made."""

    row: SourceRow
    prompt: Prompt
    target: Any


class RowFunction:
    """Explains rows with one model.

    Rows that are passed together are scored together, as in `explain` with a list of prompts; where that fails, each is
    explained by itself. Answers are generated one after the other, for exactness.

    Args:
        language_model: The model.
        prompts: Makes the prompt of a row.
        arguments: Arguments of `explain`.
        common: Provenance that is not stored with each row.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        prompts: RowPrompts,
        arguments: Mapping[str, Any],
        common: Mapping[str, Any],
    ) -> None:
        self._language_model, self._prompts, self._common = language_model, prompts, common
        self._arguments = dict(arguments)
        self._target = self._arguments.pop("target", None)

    def __call__(self, rows: Sequence[SourceRow]) -> list[Record]:
        """The records of rows, in their order."""
        records: dict[int, Record] = {}
        asked = []
        for row in rows:
            try:
                asked.append(self._asked(row))
            except ROW_ERRORS as error:
                records[row.number] = failure(row.number, _shown(error))
        for generated in (True, False):
            records |= self._explained([each for each in asked if (each.target is None) == generated])
        consumed = self._prompts.consumed
        return [
            {name: value for name, value in row.values.items() if name not in consumed} | records[row.number]
            for row in rows
        ]

    def _asked(self, row: SourceRow) -> _Asked:
        if row.error is not None:
            raise ValueError(row.error)
        target = self._prompts.target(row.values)
        return _Asked(row, self._prompts.prompt(row.values), self._target if target is None else target)

    def _explained(self, group: Sequence[_Asked]) -> dict[int, Record]:
        """The records of rows that all have an answer, or all have none; one by one if they fail together."""
        if not group:
            return {}
        try:
            results = self._results(group)
        except ROW_ERRORS as error:
            if isinstance(error, _ENDS):
                raise
            if len(group) == 1:
                return {group[0].row.number: failure(group[0].row.number, _shown(error))}
            torn = (self._explained([each]) for each in group)
            return {number: record for records in torn for number, record in records.items()}
        pairs = zip(group, results, strict=True)
        return {each.row.number: record_of(each.row.number, result, self._common) for each, result in pairs}

    def _results(self, group: Sequence[_Asked]) -> list[LLMAttributionResult]:
        arguments = dict(self._arguments)
        if group[0].target is not None:
            arguments.pop("gen_args", None)
        if len(group) == 1:
            return [explain(self._language_model, group[0].prompt, target=group[0].target, **arguments)]
        prompts, targets = [each.prompt for each in group], [each.target for each in group]
        return explain(self._language_model, prompts, target=targets, **arguments)


def check_arguments(language_model: LanguageModel, arguments: Mapping[str, Any]) -> None:
    """Checks the arguments of `explain`.

    Raises:
        LlmAttrError: `explain` does not accept them.
        InvalidType: they ask for several results for a prompt.
    """
    for name in ("scalar", "attr_target", "layer"):
        if isinstance(arguments.get(name), list | tuple):
            raise InvalidType(f"{name} must be one for a data-set run; explain another one in a run of its own")
    checked = {name: value for name, value in arguments.items() if name not in ("target", "region")}
    explainer = parse_request(language_model, Prompt("a prompt"), **checked)
    if isinstance(explainer.explainer, LLMAttribution):
        explainer.explainer.jobs(explainer.inputs, explainer.scalars, **explainer.options)


def with_seed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `explain`, with `seed=0` for a method that draws, so that a run can be repeated.

    Raises:
        UnknownName: there is no such method.
    """
    kind = method_named(arguments.get("method", "feature_ablation"))
    call = kind.estimator if issubclass(kind, PerturbationAttribution) else kind.attribute
    draws = "seed" in signature(call).parameters
    return {"seed": 0, **arguments} if draws else dict(arguments)


def blocks(share: int, shares: int, size: int) -> Iterator[range]:
    """The blocks of row numbers that belong to a share: every `shares`-th, from `share` on, without end.

    The rows of a block are explained together whoever explains them, so results do not depend on the number of shares.
    """
    block = share
    while True:
        yield range(block * size, (block + 1) * size)
        block += shares


def _shown(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
