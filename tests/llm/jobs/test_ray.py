"""Ray's actors run the same row function."""

from __future__ import annotations

import itertools
import pickle
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pytest

from llm_attr import explain_dataset
from llm_attr.errors import InvalidValue, MissingExtra
from tests.llm.jobs.runs import TEMPLATE, load, numbers_of, some_rows

ASKED: dict[str, Any] = {"template": TEMPLATE, "batch_size": 4, "rows_per_shard": 8}

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
except ImportError:
    ray = None


@pytest.mark.skipif(ray is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"llm_attr\[ray\]"):
        explain_dataset(load, some_rows(1), tmp_path, **ASKED, launcher="ray")


class Actors:
    """The part of Ray Data that is asked for, in this process."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items
        self.tables: list[Any] = []

    def map_batches(self, kind: Any, *, fn_constructor_args: tuple[Any, ...], compute: int, **how: Any) -> Actors:
        assert how == {"batch_size": 1, "batch_format": "pyarrow"}
        actors = [kind(*pickle.loads(pickle.dumps(fn_constructor_args))) for _ in range(compute)]
        turns = zip(itertools.cycle(actors), self.items)
        self.tables = [actor(pa.Table.from_pylist([item])) for actor, item in turns]
        return self

    def iter_batches(self, batch_size: None, batch_format: str) -> Any:
        assert (batch_size, batch_format) == (None, "pyarrow")
        return reversed(self.tables)


def test_what_actors_return_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for Ray, so that it runs everywhere; the next test asks Ray itself."""
    fake = ModuleType("ray")
    fake.data = SimpleNamespace(from_items=Actors, ActorPoolStrategy=lambda size: size)  # type: ignore[attr-defined]
    fake.cluster_resources = lambda: {"CPU": 2.0}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", fake.data)
    rows: list[Any] = some_rows(14)
    rows[7] = {"id": 3, "more": 1}
    one = explain_dataset(load(), rows, tmp_path / "one", **ASKED)
    explain_dataset(load(), rows, tmp_path / "two", **ASKED, limit=4)
    two = explain_dataset(load, rows, tmp_path / "two", **ASKED, launcher="ray", num_processes=2)
    assert numbers_of(two) == numbers_of(one)
    for records in zip(one.records(), two.records(), strict=True):
        first, second = ({name: each[name] for name in each if name != "attr_provenance"} for each in records)
        assert first == second
    assert two.result(9).provenance.keys() == one.result(9).provenance.keys()
    assert two.result(9).provenance["weights"] == one.result(9).provenance["weights"]
    assert dict(two.errors()) == dict(one.errors())
    stream = datasets.Dataset.from_list(some_rows(2)).to_iterable_dataset()
    with pytest.raises(InvalidValue, match="how many rows there are"):
        explain_dataset(load, stream, tmp_path / "x", **ASKED, launcher="ray")


@pytest.mark.slow
@pytest.mark.skipif(ray is None, reason="Ray is not installed (the extra ray)")
@pytest.mark.filterwarnings("ignore")
def test_two_actors_give_what_one_process_gives(tmp_path: Path) -> None:
    rows: list[Any] = some_rows(30)
    rows[7] = {"id": 3}
    one = explain_dataset(load(), rows, tmp_path / "one", **ASKED)
    explain_dataset(load(), rows, tmp_path / "two", **ASKED, limit=8)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    try:
        two = explain_dataset(load, rows, tmp_path / "two", **ASKED, launcher="ray", num_processes=2)
    finally:
        ray.shutdown()
    assert numbers_of(two) == numbers_of(one)
    assert two.failed == one.failed == [7]
    assert two.result(9).output_ids == one.result(9).output_ids
    assert dict(two.errors()) == dict(one.errors())
