"""A result as a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from llm_attr.errors import MissingExtra, UnsupportedMethod

if TYPE_CHECKING:
    import pandas as pd

    from llm_attr.llm.results.result import LLMAttributionResult


def to_pandas(result: LLMAttributionResult, tokens: bool = True) -> pd.DataFrame:
    """A row for each unit and output token, or with `tokens=False` for each unit.

    Raises:
        MissingExtra: pandas is not installed.
        UnsupportedMethod: the result has no attribution of single tokens.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("pandas", "data") from error
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


def _with_errors(frame: pd.DataFrame, errors: Tensor | None) -> pd.DataFrame:
    return frame if errors is None else frame.assign(stderr=errors.numpy(force=True).ravel())


def _labels(result: LLMAttributionResult) -> list[str | None]:
    labels: list[str | None] = [None] * len(result.input_tokens)
    for group in result.groups:
        labels[group.first : group.stop] = [group.label] * (group.stop - group.first)
    return labels
