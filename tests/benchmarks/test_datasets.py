"""What a data-set run costs beside `explain`, in time and memory, and what a second process gains.

Run: pytest tests/benchmarks/test_datasets.py -m benchmark -s
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest

import llm_attr
from llm_attr import LanguageModel, Prompt, explain_dataset
from tests.benchmarks.measure import Side, compare, report
from tests.llm.jobs.runs import TEMPLATE, load, some_rows

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
BATCH = 8
MEMORY = """
import resource, sys, tempfile
from llm_attr import explain_dataset
from tests.llm.jobs.runs import TEMPLATE, load, some_rows
rows = (row for start in range(0, int(sys.argv[1]), 200) for row in some_rows(200))
explain_dataset(load(), rows, tempfile.mkdtemp(), template=TEMPLATE)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
PROCESSES = """
import resource, sys
from time import perf_counter
from llm_attr import explain_dataset
from llm_attr.llm.jobs.progress import RunProgress
from examples.many_prompts import TEMPLATE, rows
if __name__ == "__main__":
    stamps, real = [], RunProgress.advance
    def advance(self, done, failed):
        stamps.append((perf_counter(), done))
        real(self, done, failed)
    RunProgress.advance = advance
    explain_dataset("smollm2-135m", rows(64), sys.argv[2], template=TEMPLATE, num_processes=int(sys.argv[1]))
    used = [resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(done for _, done in stamps[1:]) / (stamps[-1][0] - stamps[0][0]), sum(used))
"""


def bare(lm: LanguageModel, rows: list[dict[str, Any]]) -> None:
    """The same batches by `explain`, and nothing kept."""
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        prompts = [Prompt(TEMPLATE.format(**row), spans={"who": row["who"], "city": row["city"]}) for row in batch]
        llm_attr.explain(lm, prompts, target=[row["target"] for row in batch])


@pytest.mark.parametrize(("name", "count"), [("tiny", 512), ("smollm2-135m", 16)])
def test_cost_beside_explain(name: str, count: int, tmp_path: Path) -> None:
    lm, rows, numbers = load() if name == "tiny" else llm_attr.load_model(name), some_rows(count), iter(range(99))
    sides = [
        Side("explain", lambda: bare(lm, rows)),
        Side("run", lambda: explain_dataset(lm, rows, tmp_path / str(next(numbers)), template=TEMPLATE)),
    ]
    sides[0].run()
    compare(sides, 3)
    extra = (sides[1].median_busy - sides[0].median_busy) / count
    print("\n" + report(f"{count} rows, {name}", sides))
    print(f"the run takes {1000 * extra:+.2f} ms of CPU a row more")


def test_memory_over_rows() -> None:
    for count in (200, 2000, 20000):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(count)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        print(f"\n{count:,} rows: at most {done.stdout.strip()} MiB")


def test_resuming(tmp_path: Path) -> None:
    lm, rows = load(), some_rows(200)
    explain_dataset(lm, rows, tmp_path, template=TEMPLATE, rows_per_shard=8, limit=192)
    wall, busy = perf_counter(), process_time()
    explain_dataset(lm, rows, tmp_path, template=TEMPLATE, rows_per_shard=8, limit=192)
    print(f"\n192 of 200 rows found again in {process_time() - busy:.2f} s of CPU, {perf_counter() - wall:.2f} s")


def test_two_processes(tmp_path: Path) -> None:
    """64 prompts of an example, one thread a process: rows per second after the first batch, and CPU time of all."""
    for processes in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", PROCESSES, str(processes), str(tmp_path / str(processes))],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        rate, busy = map(float, done.stdout.split())
        print(f"\n{processes} processes: {rate:.2f} rows a second, {busy:.0f} s of CPU with loading")
