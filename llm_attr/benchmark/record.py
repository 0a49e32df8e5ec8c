"""What a benchmark found: a record for each item and method, and their means with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm_attr.llm.jobs.summary import bootstrap
from llm_attr.llm.results.export import to_json
from llm_attr.viz.benchmark import plot_shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADS = {
    "found": "truth found",
    "top_1": "top-1, one truth",
    "deletion": "deletion ↓",
    "lds": "LDS ↑",
    "passes": "passes",
    "seconds": "seconds",
}
_SHOWN = {"found": 2, "top_1": 2, "deletion": 2, "lds": 2, "passes": 0, "seconds": 2}


@dataclass(frozen=True)
class Record:
    """One method on one item.

    Attributes:
        item: The id of the item.
        kind: Its kind.
        method: The name of the method or baseline.
        found: The share of the sources among as many strongest units.
        top_1: Whether the strongest unit is the source; None where there are several sources.
        deletion: The area under the deletion curve, scaled to 0 without units and 1 with all; lower is better.
        lds: The linear datamodelling score over ablations that all methods share.
        passes: Forward and backward passes of the model for the attributions.
        seconds: Seconds for them.
    """

    item: str
    kind: str
    method: str
    found: float
    top_1: float | None
    deletion: float
    lds: float
    passes: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """The means of a method with their 95 % intervals, from a bootstrap over the items.

    Attributes:
        method: The name of the method or baseline.
        items: The number of items.
        means: The mean of each metric, by its name in `Record`.
        intervals: Low and high of each.
    """

    method: str
    items: int
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Benchmark:
    """The records of a benchmark.

    Attributes:
        model: The name of the model.
        records: A record for each item and method, method by method.
        chance: The expected share of sources among as many units drawn at random, over the items.
        seed: The seed of methods, baselines and ablations.
    """

    model: str
    records: tuple[Record, ...]
    chance: float
    seed: int

    def rows(self, kind: str | None = None) -> list[Row]:
        """A row for each method, of one kind of item or of all."""
        kept = [record for record in self.records if kind in (None, record.kind)]
        names = dict.fromkeys(record.method for record in kept)
        return [_row(name, [record for record in kept if record.method == name]) for name in names]

    def to_markdown(self) -> str:
        """A table of all methods with half the width of each interval, and one of what they find by kind."""
        lines = [f"| method | {' | '.join(_HEADS.values())} |", "|---" * (len(_HEADS) + 1) + "|"]
        for row in self.rows():
            cells = [_cell(row, name) for name in _HEADS]
            lines.append(f"| {row.method} | {' | '.join(cells)} |")
        kinds = list(dict.fromkeys(record.kind for record in self.records))
        lines += ["", f"| truth found | {' | '.join(kind.replace('_', ' ') for kind in kinds)} |"]
        lines.append("|---" * (len(kinds) + 1) + "|")
        by_kind = {kind: {row.method: row for row in self.rows(kind)} for kind in kinds}
        for row in self.rows():
            cells = [
                _cell(by_kind[kind][row.method], "found") if row.method in by_kind[kind] else "–" for kind in kinds
            ]
            lines.append(f"| {row.method} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything as JSON, also written to `path` if given; NaN becomes null."""
        plain = {
            "model": self.model,
            "chance": self.chance,
            "seed": self.seed,
            "rows": [asdict(row) for row in self.rows()],
            "records": [asdict(record) for record in self.records],
        }
        return to_json(plain, path)

    def plot(self) -> Figure:
        """What each method finds, with intervals and chance.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        rows = self.rows()
        return plot_shares(
            [row.method for row in rows],
            [row.means["found"] for row in rows],
            [row.intervals["found"] for row in rows],
            self.chance,
            f"Truth found by {self.model}: {rows[0].items if rows else 0} items",
        )


def _row(name: str, records: list[Record]) -> Row:
    means, intervals = {}, {}
    for each in fields(Record)[3:]:
        values = np.array([getattr(record, each.name) for record in records], dtype=float)  # None becomes NaN
        values = values[np.isfinite(values)]
        means[each.name] = float(values.mean()) if len(values) else float("nan")
        intervals[each.name] = bootstrap(values, np.random.default_rng(0))
    return Row(name, len(records), means, intervals)


def _cell(row: Row, name: str) -> str:
    mean, (low, high) = row.means[name], row.intervals[name]
    if not np.isfinite(mean):
        return "–"
    half = "" if name in ("passes", "seconds") or not np.isfinite(low) else f" ± {(high - low) / 2:.2f}"
    return f"{mean:.{_SHOWN[name]}f}{half}"
