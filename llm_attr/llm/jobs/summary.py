"""Averages over the rows of a run: which slot, document, role or position matters."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from llm_attr.core.game.estimate import t_quantile
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.llm.jobs.storage.manifest import Manifest
from llm_attr.llm.jobs.storage.record import ERROR, GROUPS, SEQ
from llm_attr.llm.jobs.storage.shards import Index
from llm_attr.llm.target.scalar import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

By: TypeAlias = Literal["slot", "document", "role", "kind", "position"]
Interval: TypeAlias = Literal["normal", "bootstrap"]

KINDS = {"span": "slot", "document": "document", "message": "role"}
"""The name of each kind of group."""

DEFAULT: tuple[By, ...] = ("slot", "document", "role", "position")
"""The first of these that the rows have is averaged over."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Average:
    """The attribution of one kind of unit over the rows.

    Attributes:
        name: Which it is.
        rows: In how many rows it occurs.
        mean: Its mean attribution over these, in the unit of the scalar.
        low: The lower end of the interval of the mean.
        high: The upper end.
        share: Its mean share of the row's total |attribution|.
        first: In which share of the rows it has the largest attribution.
    """

    name: str
    rows: int
    mean: float
    low: float
    high: float
    share: float
    first: float


@dataclass(frozen=True)
class Summary:
    """What matters on average over the rows of a run.

    Attributes:
        by: What is averaged over.
        averages: In descending order of the mean.
        rows: How many rows were explained.
        failed: How many could not be.
        interval: How the 95 % intervals were made.
        measured: What the attributions measure, with the unit.
    """

    by: str
    averages: tuple[Average, ...]
    rows: int
    failed: int
    interval: str
    measured: str

    def __str__(self) -> str:
        width = max(len(self.by), *(len(each.name) for each in self.averages))
        head = f"{self.by:{width}}  {'mean':>9}  {'95 % interval':>21}  share  first   rows"
        lines = [
            f"{each.name:{width}}  {each.mean:+9.3f}  {f'{each.low:+.3f} to {each.high:+.3f}':>21}  "
            f"{each.share:5.0%}  {each.first:5.0%}  {each.rows:5,}"
            for each in self.averages
        ]
        failed = f"; {self.failed:,} rows failed" if self.failed else ""
        return "\n".join([head, *lines, f"{self.rows:,} rows, attributions of the {self.measured}{failed}"])

    def to_dict(self) -> dict[str, Any]:
        """All fields in plain Python types."""
        fields = {name: getattr(self, name) for name in ("by", "rows", "failed", "interval", "measured")}
        return {**fields, "averages": [dict(vars(each)) for each in self.averages]}

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON, also written to `path` if given."""
        from llm_attr.llm.results.export import to_json

        return to_json(self.to_dict(), path)

    def plot(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Bar chart of the means with their intervals.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        from llm_attr.viz.figure import show as show_figure
        from llm_attr.viz.tabular import plot_bars

        half = [np.nan if math.isnan(each.high) else (each.high - each.low) / 2 for each in self.averages]
        figure, axes = plot_bars(
            [each.name for each in self.averages],
            [each.mean for each in self.averages],
            half,
            order="given",
            value_name=f"mean attribution: {self.measured}",
            error_name="95 % interval",
            title=f"Attribution by {self.by}, mean of {self.rows:,} rows",
            ax=ax,
        )
        if show:
            show_figure(figure)
        return figure, axes


def summarise(index: Index, manifest: Manifest, by: By | None, interval: Interval, seed: int) -> Summary:
    """The averages over the rows of a run; see `DatasetRun.summary`.

    Raises:
        InvalidValue: no row was explained, or the rows have no such units.
        UnknownName: there is no such `by` or `interval`.
    """
    if by is not None and by not in get_args(By):
        raise UnknownName("by", by, get_args(By))
    if interval not in get_args(Interval):
        raise UnknownName("interval", interval, get_args(Interval))
    explained = len(index) - int(index.failed.sum())
    if not explained:
        raise InvalidValue("no row was explained" + (f"; {len(index)} failed" if len(index) else ""))
    chosen: str = by or next(way for way in DEFAULT if next(_rows(index))[way])
    collected = _Collected()
    for sums in _rows(index):
        collected.add(sums[chosen])
    averages = collected.averages(interval, np.random.default_rng(seed))
    if not averages:
        raise InvalidValue(f"the units of this run belong to no {chosen}; summarise by position")
    scalar = "contrast" if manifest.asked.get("foil") is not None else str(manifest.asked.get("scalar"))
    measured = UNITS.get(scalar, scalar)
    return Summary(chosen, tuple(averages), explained, len(index) - explained, interval, measured)


class _Collected:
    """The values of each name, row by row: 16 bytes each."""

    def __init__(self) -> None:
        self._values: dict[str, array[float]] = {}
        self._shares: dict[str, array[float]] = {}
        self._first: dict[str, int] = {}

    def add(self, sums: Mapping[str, float]) -> None:
        total = sum(map(abs, sums.values()))
        for name, value in sums.items():
            self._values.setdefault(name, array("d")).append(value)
            self._shares.setdefault(name, array("d")).append(abs(value) / total if total else 0.0)
        if sums:
            strongest = max(sums, key=lambda name: sums[name])
            self._first[strongest] = self._first.get(strongest, 0) + 1

    def averages(self, interval: Interval, generator: np.random.Generator) -> list[Average]:
        """The averages, in descending order."""
        found = []
        for name, numbers in self._values.items():
            values = np.array(numbers)
            mean, count = float(values.mean()), len(values)
            low, high = normal(values) if interval == "normal" else bootstrap(values, generator)
            share = float(np.mean(self._shares[name]))
            found.append(Average(name, count, mean, low, high, share, self._first.get(name, 0) / count))
        return sorted(found, key=lambda each: -each.mean)


def _rows(index: Index) -> Iterator[dict[str, dict[str, float]]]:
    """For each explained row and each way of grouping, the sum of the attributions by name."""
    for table in index.tables([SEQ, GROUPS, ERROR]):
        columns = (table[name].to_pylist() for name in (SEQ, GROUPS, ERROR))
        for values, groups, error in zip(*columns, strict=True):
            if error is None:
                yield sums_of(values, groups)


def sums_of(values: list[float], groups: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The attributions of a row, added up by slot, document, role, kind and position."""
    sums: dict[str, dict[str, float]] = {name: {} for name in get_args(By)}
    seen: dict[str, int] = {}
    for group in groups:
        inside = sum(values[group["first"] : group["stop"]])
        name = KINDS.get(group["kind"], group["kind"])
        seen[name] = seen.get(name, 0) + 1
        label = f"document {seen[name]}" if name == "document" else group["label"]
        for way, key in ((name, label), ("kind", name)):
            if way in sums:
                sums[way][key] = sums[way].get(key, 0.0) + inside
    if not groups:
        sums["kind"]["text"] = sum(values)
    sums["position"] = {f"unit {number}": value for number, value in enumerate(values, 1)}
    return sums


def normal(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean by Student's t; nan for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    half = t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def bootstrap(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of resampled rows; nan for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
