"""Fingerprints of model, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import tokenizers
import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import llm_attr
from llm_attr.llm.model.attention import kernel
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import TokenizerLike, vocabulary_size

SAMPLES, SAMPLE = 8, 2048
"""Large weights are hashed from this many runs of this many bytes."""

OFFLOADED = "offloaded"
SHARDED = "sharded"
UNREADABLE = "unreadable"
UNKNOWN = {None, OFFLOADED, SHARDED, UNREADABLE}
"""Sentinels for weights that could not be read; they are never compared."""

SHARD_ATTRIBUTES = ("device_mesh", "ds_tensor", "_fsdp_flattened")
"""Attributes of weights that may be sharded over processes: DTensor, ZeRO-3 and FSDP."""

_NOT_COMPUTED = {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"}
"""Entries of a configuration that do not change what is computed; types are known otherwise."""

CHUNK = 1 << 17
"""Numbers of eight bytes that are summed at once for a checksum."""

_tokenizers: WeakKeyDictionary[Any, tuple[list[Any], str]] = WeakKeyDictionary()
_checksums: WeakKeyDictionary[Any, tuple[list[Any], str]] = WeakKeyDictionary()


def identity(language_model: LanguageModel) -> dict[str, Any]:
    """Hashes of weights, tokenizer and chat template, the attention kernel, and the versions of the libraries.

    The weights and the kernel of a served model are not known; its `engine` says how it is reached.
    """
    served = language_model.served_by
    return {
        "weights": weights_hash(language_model.model) if served is None else None,
        "tokenizer": tokenizer_hash(language_model.tokenizer),
        "template": template_hash(language_model.tokenizer),
        "attention_kernel": kernel(language_model) if served is None else None,
        **({} if served is None else {"engine": dict(served)}),
        "versions": {
            "llm_attr": llm_attr.__version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def computation(language_model: LanguageModel) -> dict[str, Any]:
    """What a model's scores depend on: every byte of its weights, and how they are used.

    Code counts by its name: the model's class, its hooks, and the versions of torch and transformers. A served model
    counts by its engine, address and name, and by what it generates after a fixed prompt.
    """
    if language_model.served_by is not None:
        served = identity(language_model)
        return {"weights": "served", **{name: served[name] for name in ("tokenizer", "template", "engine")}}
    model = language_model.model
    config: dict[str, Any] = getattr(model.config, "to_dict", dict)() if hasattr(model, "config") else {}
    kept = {name: value for name, value in config.items() if name not in _NOT_COMPUTED}
    known = identity(language_model)
    return {
        "weights": checksum(model),
        **{name: known[name] for name in ("tokenizer", "template", "attention_kernel")},
        "versions": {name: known["versions"][name] for name in ("torch", "transformers")},
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest(),
        **additions(model),
        "matmul": torch.get_float32_matmul_precision(),
    }


def additions(model: nn.Module) -> dict[str, list[str]]:
    """The hooks of a model by name, and the adapters of peft that are in use."""
    modules = list(model.named_modules())
    hooks = [
        f"{place} {getattr(hook, '__qualname__', type(hook).__qualname__)}"
        for place, module in modules
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    ]
    adapters = [
        f"{place} {getattr(module, 'active_adapters', None)} {getattr(module, 'merged_adapters', None)}"
        for place, module in modules
        if getattr(module, "disable_adapters", None) is False  # of models this is a method
    ]
    return {"hooks": hooks, "adapters": adapters}


def checksum(model: nn.Module) -> str:
    """As `weights_hash`, over every byte; summed where the weights are, and kept until one of them changes.

    A weight that is changed in place through `.data` is noticed only where `weights_hash` looks.
    """
    sampled, weights = weights_hash(model), _weights(model)
    if sampled in UNKNOWN:
        return sampled
    places = [(name, weight.data_ptr(), _version(weight)) for name, weight in sorted(weights.items())]
    signature = [sampled, places]
    before, known = _checksums.get(model, ([], ""))
    if before == signature and all(version is not None for *_, version in places):
        return known
    digest, draws = hashlib.sha256(sampled.encode()), torch.Generator().manual_seed(0)
    factors = torch.randint(-(1 << 62), 1 << 62, (CHUNK,), generator=draws, device="cpu") * 2 + 1
    for _, weight in sorted(weights.items()):
        digest.update(_summed(weight.detach(), factors))
    _checksums[model] = signature, digest.hexdigest()
    return digest.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all weights; large ones are sampled at evenly spaced runs.

    Weights are never loaded or gathered for it: the result is "offloaded" if a weight is on the meta device, and
    "sharded" if this process holds only a part of the model.
    """
    weights = _weights(model)
    if _is_sharded(model, weights.values()):
        return SHARDED
    if any(weight.is_meta for weight in weights.values()):
        return OFFLOADED
    named = sorted(weights.items())
    try:
        samples = _on_the_cpu([_sampled(weight.detach()) for _, weight in named])
    except RuntimeError:  # a packed format that torch cannot read
        return UNREADABLE
    digest = hashlib.sha256()
    for (name, weight), sample in zip(named, samples, strict=True):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def holders(model: nn.Module) -> tuple[int, ...]:
    """The global ranks of the processes that hold the model together, such as those of a tensor-parallel one."""
    weights = _weights(model)
    for weight in weights.values():
        mesh = getattr(weight, "device_mesh", None)
        if mesh is not None:
            return tuple(mesh.mesh.flatten().tolist())
    if not _is_sharded(model, weights.values()) or not dist.is_initialized():
        return (0,)
    return tuple(range(dist.get_world_size()))


def is_part(layer: nn.Module) -> bool:
    """Whether this process holds only a part of a layer's weights, which come together in the model's own forward."""
    return any(hasattr(weight, name) for weight in layer.parameters() for name in SHARD_ATTRIBUTES)


def tokenizer_hash(tokenizer: TokenizerLike) -> str:
    """SHA-256 over the tokenizer's serialised state, or over the vocabulary of a tokenizer written in Python.

    Cached until the state changes; swapping words in a vocabulary of the same size goes unnoticed.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return hashlib.sha256(_state(tokenizer).encode()).hexdigest()
    signature = _signature(tokenizer)
    before, known = _tokenizers.get(tokenizer, ([], ""))
    if before != signature:
        known = hashlib.sha256(_state(tokenizer).encode()).hexdigest()
        _tokenizers[tokenizer] = signature, known
    return known


def template_hash(tokenizer: TokenizerLike) -> str | None:
    """SHA-256 over the chat template; None if there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest() if template else None


def differences(known: dict[str, Any], language_model: LanguageModel) -> list[str]:
    """Which of weights, tokenizer and template differ from those in a result's provenance."""
    here = identity(language_model)
    weights = {known.get("weights"), here["weights"]}
    differ = {
        "weights": len(weights) > 1 and not any(name in UNKNOWN for name in weights),
        "tokenizer": known.get("tokenizer") != here["tokenizer"],
        "chat template": known.get("template") != here["template"],
    }
    return [name for name, differs in differ.items() if differs]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `state_dict()`, which itself may be a collective call that waits for other processes."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        module._save_to_state_dict(state, f"{name}." if name else "", keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _is_sharded(model: nn.Module, weights: Iterable[Tensor]) -> bool:
    """Whether this process may hold only a part of some weight."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # without the import there are no instances
    wrapped = fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules())
    return wrapped or any(hasattr(weight, name) for weight in weights for name in SHARD_ATTRIBUTES)


def _sampled(weight: Tensor) -> Tensor:
    flat = weight.reshape(-1).view(torch.uint8)
    if len(flat) > SAMPLES * SAMPLE:
        run = len(flat) // SAMPLES
        flat = torch.cat([flat[start : start + SAMPLE] for start in range(0, run * SAMPLES, run)])
    return flat


def _on_the_cpu(samples: list[Tensor]) -> list[Tensor]:
    """The samples, with one copy for each device."""
    found = list(samples)
    for device in {sample.device for sample in samples} - {torch.device("cpu")}:
        own = [number for number, sample in enumerate(samples) if sample.device == device]
        parts = torch.cat([samples[number] for number in own]).cpu().split([len(samples[number]) for number in own])
        for number, part in zip(own, parts, strict=True):
            found[number] = part
    return found


@torch.no_grad()
def _summed(weight: Tensor, factors: Tensor) -> bytes:
    """A sum, modulo 2^64, of all bytes in runs, each number times one of its own; any single change shows."""
    flat, factors = weight.reshape(-1).view(torch.uint8), factors.to(weight.device)
    full = len(flat) // 8 * 8
    runs = (flat[start : min(full, start + 8 * CHUNK)].clone().view(torch.int64) for start in range(0, full, 8 * CHUNK))
    sums = [(run * factors[: len(run)]).sum() for run in runs]
    ends = torch.stack(sums).cpu().numpy().tobytes() if sums else b""
    return ends + flat[full:].cpu().numpy().tobytes()


def _version(weight: Tensor) -> int | None:
    """How often a weight was changed in place; None where torch does not count."""
    return None if weight.is_inference() else weight._version


def _state(tokenizer: Any) -> str:
    if not getattr(tokenizer, "is_fast", False):
        return _vocabulary(tokenizer)
    with suppress(Exception):  # of a part that is written in Python; the library raises no class of its own
        state = str(tokenizer.backend_tokenizer.to_str())
        return state[state.index('"added_tokens":') :]  # padding and truncation of the last call come before
    return _vocabulary(tokenizer)


def _vocabulary(tokenizer: Any) -> str:
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else vocabulary_size(tokenizer)
    return json.dumps([type(tokenizer).__name__, vocabulary], sort_keys=True)


def _signature(tokenizer: Any) -> list[Any]:
    """A cheap signature of the tokenizer's state."""
    parts: list[Any] = [len(tokenizer)]
    if getattr(tokenizer, "is_fast", False):
        backend = tokenizer.backend_tokenizer
        parts += [type(backend.model), str(backend.get_added_tokens_decoder())]
        parts += [
            _written(getattr(backend, part)) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
        ]
    return parts


def _written(part: Any) -> bytes | None:
    """A serialised part of a tokenizer; None if it is missing or written in Python."""
    with suppress(Exception):  # as in `_state`
        return None if part is None else bytes(part.__getstate__())
    return None
