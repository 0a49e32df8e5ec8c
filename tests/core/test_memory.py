from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from llm_attr.core import memory

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def test_free_bytes_are_those_of_the_tightest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    available = memory.psutil.virtual_memory().available
    assert 0 < memory.free_bytes(CPU) < 2 * available
    monkeypatch.setattr(memory, "_address_space_left", lambda: 5)
    assert memory.free_bytes(CPU) == 5
    monkeypatch.setattr(memory, "_container_left", lambda: 3)
    assert memory.free_bytes(CPU) == 3
    monkeypatch.setattr(memory, "_container_left", lambda: -3)
    assert memory.free_bytes(CPU) == 0


@pytest.mark.parametrize(
    ("limit", "used", "stat", "left"),
    [
        ("1000\n", "300\n", None, 700),
        ("1000\n", "900\n", "anon 200\ninactive_file 600\nactive_file 50\n", 700),
        ("1000\n", "1200\n", "anon 1200\n", -200),
        ("max\n", "900\n", "inactive_file 600\n", 1 << 62),
        (None, "900\n", None, 1 << 62),
        ("1000\n", None, None, 1 << 62),
    ],
)
def test_limits_of_a_container(
    tmp_path: Path, limit: str | None, used: str | None, stat: str | None, left: int
) -> None:
    for name, text in (("memory.max", limit), ("memory.current", used), ("memory.stat", stat)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert memory._container_left(tmp_path) == left


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("[enforce fail at CPUAllocator.cpp] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_which_errors_mean_too_little_memory(error: BaseException, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


def test_torch_says_what_we_expect_when_memory_is_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)


UNDER_A_LIMIT = """
    import resource, warnings
    import psutil, torch
    from llm_attr.attr import FeatureAblation
    from llm_attr.core.memory import free_bytes

    MIB = 1 << 20
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    torch.ones(64, 64) @ torch.ones(64, 64)
    free = free_bytes(cpu)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + 300 * MIB, resource.RLIM_INFINITY))
    assert 0 < free_bytes(cpu) <= 300 * MIB < free, (free_bytes(cpu), free)

    def hungry(x):
        sizes.append(len(x))
        big = torch.empty(len(x), 30 * MIB, dtype=torch.uint8)
        return x.sum(1)

    sizes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = FeatureAblation(hungry).attribute(torch.arange(40.0)[None])
    assert torch.equal(result, torch.arange(40.0)[None])
    assert sizes[:3] == [1, 2, 39] and max(sizes[5:]) <= 10, sizes
    assert len(caught) == 1 and "did not fit into memory" in str(caught[0].message), caught

    class Enough(Exception):
        pass

    def few(x):
        sizes.append(len(x))
        if len(sizes) > 130:
            raise Enough
        return x.flatten(1).sum(1)

    for mask in (None, torch.arange(3 * 224 * 224).view(1, 3, 224, 224)):
        sizes = []
        try:
            FeatureAblation(few).attribute(torch.ones(1, 3, 224, 224), feature_mask=mask)
        except Enough:
            assert len(sizes) == 131
    print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_under_a_real_limit() -> None:
    """Free memory shrinks, back-off gets through, and 150,528 features need no table of features x features."""
    script = textwrap.dedent(UNDER_A_LIMIT)
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr, run.returncode) == ("done\n", "", 0)
