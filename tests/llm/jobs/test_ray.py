"""Ray's actors run the same row function."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

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
        with pytest.raises(InvalidValue, match="how many rows there are"):
            explain_dataset(load, ({}, *rows).__iter__, tmp_path / "x", **ASKED, launcher="ray")
    finally:
        ray.shutdown()
    assert numbers_of(two) == numbers_of(one)
    assert two.failed == one.failed == [7]
    assert two.result(9).plain() == one.result(9).plain()
    assert dict(two.errors()) == dict(one.errors())
