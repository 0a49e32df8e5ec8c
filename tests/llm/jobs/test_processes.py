"""Several processes, and processes that are killed: no row is lost, none is there twice, no file is torn."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llm_attr import DatasetRun, explain_dataset
from llm_attr.errors import ProcessLost, UnknownKeyword
from tests.llm.jobs.runs import TEMPLATE, load, numbers_of, some_rows

ROOT = Path(__file__).parents[3]
ROWS = 200
ASKED: dict[str, Any] = {"template": TEMPLATE, "batch_size": 4, "rows_per_shard": 8}
CODE = """
import sys, time
from llm_attr import explain_dataset
from tests.llm.jobs.runs import TEMPLATE, load, some_rows
if __name__ == "__main__":
    lm = load()
    print("loaded", flush=True)
    began, busy = time.monotonic(), time.process_time()
    from llm_attr.llm.jobs import row_function
    real = row_function.RowFunction.__call__
    def told(self, rows):
        print(time.process_time() - busy, time.monotonic() - began, flush=True)
        return real(self, rows)
    row_function.RowFunction.__call__ = told
    explain_dataset(lm, some_rows(int(sys.argv[2])), sys.argv[1], template=TEMPLATE, batch_size=4, rows_per_shard=8)
"""


def started(out: Path, code: str = CODE, rows: int = ROWS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(out), str(rows)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_shards(out: Path) -> list[int]:
    """Every file is whole; the numbers of the rows in all of them, in order."""
    rows = [row for path in (out / "rows").glob("*.parquet") for row in pq.read_table(path)["attr_row"].to_pylist()]
    assert len(rows) == len(set(rows))
    return sorted(rows)


@pytest.mark.slow
def test_ten_kills(tmp_path: Path) -> None:
    whole = numbers_of(explain_dataset(load(), some_rows(ROWS), tmp_path / "whole", **ASKED))
    draw, out, killed, resumed = random.Random(0), tmp_path / "run", 0, list[list[float]]()
    while killed < 10:
        process = started(out)
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        lines = [process.stdout.readline() for _ in range(draw.randint(1, 3))]
        time.sleep(draw.uniform(0, 0.01))
        process.kill()
        process.communicate()
        resumed.append([float(number) for number in lines[0].split()])
        killed += process.returncode == -signal.SIGKILL
        assert len(check_shards(out)) < ROWS
    process = started(out)
    process.communicate()
    assert process.returncode == 0
    assert check_shards(out) == list(range(ROWS))
    assert not [path for path in (out / "rows").iterdir() if path.suffix == ".tmp"]
    assert numbers_of(DatasetRun(out)) == whole
    busy, took = map(max, zip(*resumed, strict=True))
    print(f"10 kills; from the loaded model to the next row at most {busy:.2f} s of CPU, {took:.2f} s")


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    process = started(tmp_path, rows=2000)
    assert process.stdout is not None
    for _ in range(2):
        process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert errors.rstrip().endswith("KeyboardInterrupt")
    done = check_shards(tmp_path)
    assert done == list(range(len(done)))
    assert 0 < len(done) < 2000
    assert len(done) % 4 == 0


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    one = explain_dataset(load(), some_rows(30), tmp_path / "one", **ASKED)
    two = explain_dataset(load, some_rows(30), tmp_path / "two", **ASKED, num_processes=2)
    assert numbers_of(two) == numbers_of(one)
    assert check_shards(tmp_path / "two") == list(range(30))
    assert {path.name.split(".")[1] for path in (tmp_path / "two" / "rows").iterdir()} == {"0-of-2", "1-of-2"}
    with pytest.raises(UnknownKeyword, match="n_sample"):
        explain_dataset(load, some_rows(30), tmp_path / "x", **ASKED, num_processes=2, n_sample=3)


def dying() -> Any:
    """A model of a process that is killed in the middle, if it is the second."""
    from llm_attr.llm.jobs.job import Job, Share

    real = Job.rows_of

    def rows_of(self: Job, share: Share, index: Any) -> Any:
        for count, numbers in enumerate(real(self, share, index)):
            if share.number == 1 and count == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield numbers

    Job.rows_of = rows_of  # type: ignore[method-assign]
    return load()


@pytest.mark.slow
def test_a_process_that_dies_is_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ProcessLost, match="process 2 of 2 was killed by SIGKILL; what it wrote is kept"):
        explain_dataset(dying, some_rows(40), tmp_path, **ASKED, num_processes=2)
    done = check_shards(tmp_path)
    assert set(done) >= {row for row in range(40) if row // 4 % 2 == 0}
    assert 20 < len(done) < 40
    explain_dataset(load, some_rows(40), tmp_path, **ASKED, num_processes=3)
    assert check_shards(tmp_path) == list(range(40))


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    code = CODE.replace('"__main__"', '"__main__" and not explain_dataset(load, some_rows(3000), sys.argv[1], '
                        "template=TEMPLATE, batch_size=4, rows_per_shard=8, num_processes=2)")  # fmt: skip
    process = started(tmp_path, code)
    for _ in range(3000):
        time.sleep(0.1)
        if len(list((tmp_path / "rows").glob("*.parquet"))) >= 6:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    done = check_shards(tmp_path)
    assert 48 <= len(done) < 3000
    for share in (0, 1):
        own = [row for row in done if row // 4 % 2 == share]
        assert own == [row for row in range(3000) if row // 4 % 2 == share][: len(own)]
