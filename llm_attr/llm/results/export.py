"""Exports of results and comparisons: JSON, files, pandas data frames."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from llm_attr.errors import MissingExtra, UnsupportedMethod

if TYPE_CHECKING:
    import pandas as pd

    from llm_attr.llm.results.comparison_data import ComparisonData
    from llm_attr.llm.results.data import ResultData


def to_json(values: Mapping[str, Any], path: str | Path | None = None) -> str:
    """Plain values as JSON, also written to `path` if given; NaN and infinity become null."""
    text = json.dumps(_finite(values), ensure_ascii=False, indent=2, allow_nan=False)
    written(text + "\n", path)
    return text


def written(text: str, path: str | Path | None) -> str:
    """The text, also written to `path` if given."""
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def to_pandas(result: ResultData, tokens: bool = True) -> pd.DataFrame:
    """A row for each pair of unit and output token, or with `tokens=False` for each unit.

    Raises:
        MissingExtra: pandas is not installed.
        UnsupportedMethod: the result has no attribution of single tokens.
    """
    pd = _pandas()
    units = len(result.input_tokens)
    columns: dict[str, Any] = {"unit": np.arange(units), "text": result.input_tokens, "group": _labels(result)}
    frame = pd.DataFrame(columns).astype({"text": object, "group": object})
    if not tokens:
        return _with_errors(frame.assign(attribution=result.seq_attr.numpy(force=True)), result.stderr)
    if result.token_attr is None:
        raise UnsupportedMethod("this result has no attribution of single tokens; use to_pandas(tokens=False)")
    count = len(result.output_tokens)
    repeated = frame.loc[frame.index.repeat(count)].reset_index(drop=True)
    rows = repeated.assign(
        token=np.tile(np.arange(count), units),
        token_text=pd.Series(result.output_tokens * units, dtype=object),
        attribution=result.token_attr.T.numpy(force=True).ravel(),
    )
    return _with_errors(rows, None if result.token_stderr is None else result.token_stderr.T)


def comparison_to_pandas(comparison: ComparisonData) -> pd.DataFrame:
    """A row for each common unit (its number and text), a column for each result.

    Raises:
        MissingExtra: pandas is not installed.
    """
    pd = _pandas()
    texts = comparison.units.texts
    index = pd.MultiIndex.from_arrays([range(len(texts)), list(texts)], names=["unit", "text"])
    return pd.DataFrame(comparison.values.T.numpy(), index=index, columns=pd.Index(comparison.names, name="result"))


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("pandas", "data") from error
    return pd


def _with_errors(frame: pd.DataFrame, errors: Tensor | None) -> pd.DataFrame:
    return frame if errors is None else frame.assign(stderr=errors.numpy(force=True).ravel())


def _labels(result: ResultData) -> list[str | None]:
    """The label of each unit's group."""
    labels: list[str | None] = [None] * len(result.input_tokens)
    for group in result.groups:
        labels[group.first : group.stop] = [group.label] * (group.stop - group.first)
    return labels


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
