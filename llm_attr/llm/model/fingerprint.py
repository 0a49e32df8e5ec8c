"""Which model, tokenizer and template it was: short names that tell two of them apart."""

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
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import llm_attr
from llm_attr.llm.model.attention import kernel
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import TokenizerLike, vocabulary_size

SAMPLES, SAMPLE = 8, 2048
"""Runs of bytes, and bytes of a run, that stand for a larger weight."""

OFFLOADED = "offloaded"
SHARDED = "sharded"
UNREADABLE = "unreadable"
UNKNOWN = {None, OFFLOADED, SHARDED, UNREADABLE}
"""What stands for the weights where they could not be read; it is neither equal to others nor different."""

OF_A_SHARD = ("device_mesh", "ds_tensor", "_fsdp_flattened")
"""What a weight has of which this process may hold a part only: a DTensor, one of ZeRO-3, one of FSDP."""

_tokenizers: WeakKeyDictionary[Any, tuple[list[Any], str]] = WeakKeyDictionary()


def identity(language_model: LanguageModel) -> dict[str, Any]:
    """Hashes of weights, tokenizer and chat template, the attention kernel, and the versions of the libraries."""
    return {
        "weights": weights_hash(language_model.model),
        "tokenizer": tokenizer_hash(language_model.tokenizer),
        "template": template_hash(language_model.tokenizer),
        "attention_kernel": kernel(language_model),
        "versions": {
            "llm_attr": llm_attr.__version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all weights; of large ones over evenly spaced runs of bytes.

    Nothing is loaded or gathered for it: where a weight is on the meta device, the answer is "offloaded", and where
    this process holds a part of the model only, "sharded".
    """
    weights = _weights(model)
    if _is_sharded(model, weights.values()):
        return SHARDED
    if any(weight.is_meta for weight in weights.values()):
        return OFFLOADED
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        try:
            digest.update(_sampled(weight.detach()))
        except RuntimeError:  # a packed format of its own, whose parts torch cannot reach
            return UNREADABLE
    return digest.hexdigest()


def tokenizer_hash(tokenizer: TokenizerLike) -> str:
    """SHA-256 over the tokenizer's serialised state, or the vocabulary of one that is written in Python.

    It is taken anew where the state has changed in anything but the words of a vocabulary that is as large as before.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return hashlib.sha256(_state(tokenizer).encode()).hexdigest()
    marks = _marks(tokenizer)
    before, known = _tokenizers.get(tokenizer, ([], ""))
    if before != marks:
        known = hashlib.sha256(_state(tokenizer).encode()).hexdigest()
        _tokenizers[tokenizer] = marks, known
    return known


def template_hash(tokenizer: TokenizerLike) -> str | None:
    """SHA-256 over the chat template, None where there is none."""
    template = getattr(tokenizer, "chat_template", None)
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest() if template else None


def differences(known: dict[str, Any], language_model: LanguageModel) -> list[str]:
    """Which of weights, tokenizer and template are others than those of a result's provenance."""
    here = identity(language_model)
    weights = {known.get("weights"), here["weights"]}
    differ = {
        "weights": len(weights) > 1 and not any(name in UNKNOWN for name in weights),
        "tokenizer": known.get("tokenizer") != here["tokenizer"],
        "chat template": known.get("template") != here["template"],
    }
    return [name for name, other in differ.items() if other]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` holds; that itself may wait for other processes, which need not be asked."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        module._save_to_state_dict(found, f"{name}." if name else "", keep_vars=True)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _is_sharded(model: nn.Module, weights: Iterable[Tensor]) -> bool:
    """Whether this process may hold a part of a weight only."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # of what was never imported there are no instances
    wrapped = fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules())
    return wrapped or any(hasattr(weight, name) for weight in weights for name in OF_A_SHARD)


def _sampled(weight: Tensor) -> bytes:
    flat = weight.reshape(-1).view(torch.uint8)
    if len(flat) > SAMPLES * SAMPLE:
        run = len(flat) // SAMPLES
        flat = torch.cat([flat[start : start + SAMPLE] for start in range(0, run * SAMPLES, run)])
    return flat.cpu().numpy().tobytes()


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


def _marks(tokenizer: Any) -> list[Any]:
    """What shows at little cost that the state of a tokenizer is another one."""
    marks: list[Any] = [len(tokenizer)]
    if getattr(tokenizer, "is_fast", False):
        backend = tokenizer.backend_tokenizer
        marks += [type(backend.model), str(backend.get_added_tokens_decoder())]
        marks += [
            _written(getattr(backend, part)) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
        ]
    return marks


def _written(part: Any) -> bytes | None:
    """A part of a tokenizer; None where there is none, or one that is written in Python."""
    with suppress(Exception):  # as in `_state`
        return None if part is None else bytes(part.__getstate__())
    return None
