"""Weights in 8 and 4 bits: which package makes them, and with what settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

from llm_attr.errors import InvalidValue

BITS = {"int8": 8, "int4": 4}
"""Names of `dtype` that ask for quantised weights."""


def packages_for(name: str) -> tuple[str, ...]:
    """The packages that make such weights here, the preferred one first; torchao has 4 bits for few GPUs alone."""
    if name == "int4":
        return ("bitsandbytes",)
    return ("bitsandbytes", "torchao") if torch.accelerator.is_available() else ("torchao", "bitsandbytes")


def quantised(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `from_pretrained` for weights of `int8` or `int4`.

    Args:
        name: `int8` or `int4`.
        options: The other arguments; they may not have a `quantization_config`.

    Raises:
        InvalidValue: no package for it is installed, or a configuration is given besides.
    """
    if "quantization_config" in options:
        raise InvalidValue(f"dtype={name!r} and quantization_config both say how to quantise; give one of them")
    packages = packages_for(name)
    package = next((package for package in packages if find_spec(package)), None)
    if package is None:
        raise InvalidValue(
            f"dtype={name!r} needs {' or '.join(packages)}, which is not installed: pip install {packages[0]}; without "
            "it dtype='bfloat16' and 'float16' halve the memory of the weights"
        )
    return {**options, "dtype": torch.bfloat16, "quantization_config": _CONFIGURATIONS[package](BITS[name])}


def _bitsandbytes(bits: int) -> Any:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _torchao(bits: int) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


_CONFIGURATIONS: dict[str, Callable[[int], Any]] = {"bitsandbytes": _bitsandbytes, "torchao": _torchao}
