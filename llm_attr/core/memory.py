"""Free memory, and recognising out-of-memory errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
    module = _module(device)
    if hasattr(module, "mem_get_info"):
        unused = module.memory_reserved(device) - module.memory_allocated(device)
        return least(int(module.mem_get_info(device)[0] + unused))
    most, used = (getattr(module, name, None) for name in ("recommended_max_memory", "current_allocated_memory"))
    of_device = 1 << 62 if most is None or used is None else most() - used()
    return least(max(0, min(of_device, psutil.virtual_memory().available, _address_space_left(), _container_left())))


def total_bytes(device: torch.device) -> int:
    """The memory of the device; of one that shares the machine's, what it may use of that."""
    module = _module(device)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info(device)[1])
    most = getattr(module, "recommended_max_memory", None)
    return int(psutil.virtual_memory().total if most is None else most())


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; nothing for a CPU."""
    module = _module(device)
    if hasattr(module, "synchronize"):
        module.synchronize() if device.type == "mps" else module.synchronize(device)


def allocated_bytes(device: torch.device) -> int | None:
    """The bytes that tensors take on the device; None where the device does not tell."""
    module = _module(device)
    return int(module.memory_allocated(device)) if hasattr(module, "memory_allocated") else None


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes that tensors took on the device; None where the device does not tell."""
    module = _module(device)
    return int(module.max_memory_allocated(device)) if hasattr(module, "max_memory_allocated") else None


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; the program does not wait for the copy where the device can fetch it itself."""
    if device.type in ("cuda", "xpu"):
        return tensor.pin_memory(device).to(device, non_blocking=True)
    return tensor.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that an allocation failed (torch often raises a plain RuntimeError)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def release(device: torch.device) -> None:
    """Releases cached blocks of the device after a failed allocation."""
    module = _module(device)
    if hasattr(module, "empty_cache"):
        module.empty_cache()


def _module(device: torch.device) -> Any:
    """Torch's module for the kind of device; None for the CPU, and for kinds that have no module."""
    return None if device.type in ("cpu", "meta") else getattr(torch, device.type, None)


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
