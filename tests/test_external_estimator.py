"""The example of another library's estimator runs and finds the exact values."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_another_librarys_estimator_plays() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/external_estimator.py"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    error = re.search(r"largest error: ([\d.]+)% of the largest value", done.stdout)
    assert error
    assert float(error[1]) < 10
