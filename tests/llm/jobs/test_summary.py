"""Averages over the rows, against plain ones."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest

from llm_attr import DatasetRun, explain_dataset
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.llm.jobs.summary import bootstrap, normal, sums_of
from tests.llm.jobs.runs import TEMPLATE, load, some_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> DatasetRun:
    rows: list[Any] = some_rows(12)
    rows[3] = rows[3] | {"who": ""}
    rows[4] = rows[4] | {"target": ""}
    return explain_dataset(load(), rows, tmp_path_factory.mktemp("run"), template=TEMPLATE, rows_per_shard=5)


def test_slots(run: DatasetRun) -> None:
    values: dict[str, dict[int, float]] = {"who": {}, "city": {}}
    for number, result in run.results():
        for group in result.groups:
            values[group.label][number] = float(result.seq_attr[group.first : group.stop].sum())
    found = run.summary()
    assert (found.by, found.rows, found.failed) == ("slot", 11, 1)
    assert found.measured == "log-probability (nats)"
    for each in found.averages:
        own = values[each.name]
        assert each.rows == len(own) == {"who": 10, "city": 11}[each.name]
        assert each.mean == pytest.approx(mean(own.values()), abs=1e-6)
        t = {9: 2.2622, 10: 2.2281}[len(own) - 1]
        assert each.high - each.mean == pytest.approx(t * stdev(own.values()) / len(own) ** 0.5, rel=2e-3)
        totals = {i: sum(abs(by_row.get(i, 0.0)) for by_row in values.values()) for i in own}
        assert each.share == pytest.approx(mean(abs(own[i]) / totals[i] for i in own), abs=1e-6)
        firsts = [all(own[i] >= by_row.get(i, -np.inf) for by_row in values.values()) for i in own]
        assert each.first == pytest.approx(mean(firsts))
    assert [each.mean for each in found.averages] == sorted((each.mean for each in found.averages), reverse=True)


def test_other_ways_and_intervals(run: DatasetRun) -> None:
    assert [each.name for each in run.summary("kind").averages] == ["slot"]
    assert {each.name for each in run.summary("position").averages} == {"unit 1", "unit 2"}
    first, again = (run.summary(interval="bootstrap", seed=1) for _ in range(2))
    assert first == again
    assert first != run.summary(interval="bootstrap", seed=2)
    with pytest.raises(InvalidValue, match="belong to no document"):
        run.summary("document")
    with pytest.raises(UnknownName, match="did you mean 'slot'"):
        run.summary("slots")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="interval"):
        run.summary(interval="none")  # type: ignore[arg-type]


def test_intervals_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    by_t, resampled = normal(values), bootstrap(values, np.random.default_rng(1))
    assert by_t == pytest.approx(resampled, abs=0.03)
    assert np.isnan(normal(values[:1])).all()
    assert np.isnan(bootstrap(values[:1], np.random.default_rng(1))).all()


def test_units_of_a_kind_are_added_up() -> None:
    groups = [
        {"label": "a", "kind": "document", "first": 0, "stop": 2},
        {"label": "b", "kind": "document", "first": 2, "stop": 3},
        {"label": "user", "kind": "message", "first": 3, "stop": 4},
        {"label": "user", "kind": "message", "first": 4, "stop": 5},
    ]
    sums = sums_of([1.0, 2.0, 4.0, 8.0, 16.0], groups)
    assert sums["document"] == {"document 1": 3.0, "document 2": 4.0}
    assert sums["role"] == {"user": 24.0}
    assert sums["kind"] == {"document": 7.0, "role": 24.0}
    assert sums["slot"] == {}
    assert list(sums["position"].values()) == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert sums_of([1.0, 2.0], [])["kind"] == {"text": 3.0}


def test_as_text_json_and_picture(run: DatasetRun, tmp_path: Path) -> None:
    found = run.summary()
    text = str(found)
    assert "11 rows, attributions of the log-probability (nats); 1 rows failed" in text
    assert text.splitlines()[1].split()[0] == found.averages[0].name
    assert json.loads(found.to_json(tmp_path / "s.json"))["averages"][0]["name"] == found.averages[0].name
    assert (tmp_path / "s.json").exists()
    figure, axes = found.plot()
    assert len(axes.patches) >= 2
    assert "Attribution by slot" in figure.get_suptitle()


def test_nothing_to_average(tmp_path: Path) -> None:
    run = explain_dataset(load(), [{"prompt": ""}], tmp_path)
    with pytest.raises(InvalidValue, match="no row was explained; 1 failed"):
        run.summary()
    with pytest.raises(InvalidValue, match="no row of"):
        run.first  # noqa: B018
