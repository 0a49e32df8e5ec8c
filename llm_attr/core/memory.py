"""Free memory, and recognising out-of-memory errors."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

from llm_attr.core.parallel.sharing import least
from llm_attr.errors import OutOfMemory

MESSAGES = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def free_bytes(device: torch.device) -> int:
    """The bytes that can be allocated on the device within the limits of machine, container and process.

    Processes that hold one model together get the least of theirs.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return least(torch.cuda.mem_get_info(device)[0] + unused)
    return least(max(0, min(psutil.virtual_memory().available, _address_space_left(), _container_left())))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that an allocation failed (torch often raises a plain RuntimeError)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def release(device: torch.device) -> None:
    """Releases cached blocks of the device after a failed allocation."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _address_space_left() -> int:
    try:
        import resource
    except ImportError:
        return 1 << 62
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 1 << 62 if soft == resource.RLIM_INFINITY else soft - psutil.Process().memory_info().vms


def _container_left(group: Path = Path("/sys/fs/cgroup")) -> int:
    """The rest of the cgroup's memory; cached files do not count as used, as the kernel can reclaim them."""
    limit, used, pages = group / "memory.max", group / "memory.current", group / "memory.stat"
    if not (limit.is_file() and used.is_file()):
        return 1 << 62
    text = limit.read_text().strip()
    if text == "max":
        return 1 << 62
    cached = re.search(r"^inactive_file (\d+)$", pages.read_text(), re.MULTILINE) if pages.is_file() else None
    return int(text) - int(used.read_text()) + (int(cached[1]) if cached else 0)
