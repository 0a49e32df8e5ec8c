"""How much memory is free, and which errors mean that there was too little."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


def free_bytes(device: torch.device) -> int:
    """The bytes that a new allocation on the device may take without touching a limit of the machine or the process."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return max(0, min(psutil.virtual_memory().available, _address_space_left(), _container_left()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed (on the CPU torch raises a plain RuntimeError)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_MESSAGES)


def release(device: torch.device) -> None:
    """Gives cached blocks of the device back after a failed allocation."""
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
    limit, used = group / "memory.max", group / "memory.current"
    if not (limit.is_file() and used.is_file()):
        return 1 << 62
    text = limit.read_text().strip()
    return 1 << 62 if text == "max" else int(text) - int(used.read_text())
