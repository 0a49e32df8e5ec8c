"""Which model, tokenizer and template it was: short names that tell two of them apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from weakref import WeakKeyDictionary

import tokenizers
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import llm_attr
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.tokenizer import TokenizerLike, vocabulary_size
from llm_attr.llm.ways import kernel

SAMPLES, SAMPLE = 8, 2048
"""Runs of bytes, and bytes of a run, that stand for a larger weight."""

OFFLOADED = "offloaded"
UNREADABLE = "unreadable"
UNKNOWN = {None, OFFLOADED, UNREADABLE}
"""What stands for the weights where they could not be read; it is neither equal to others nor different."""

_tokenizers: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


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


def weights_hash(model: Any) -> str:
    """SHA-256 over names, shapes, types and bytes of all weights; of large ones over evenly spaced runs of bytes.

    Nothing that is offloaded is loaded: where a weight is on the meta device, the answer is "offloaded".
    """
    digest = hashlib.sha256()
    weights = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if any(weight.is_meta for weight in weights.values()):
        return OFFLOADED
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
        try:
            digest.update(_sampled(weight.detach()))
        except RuntimeError:  # a packed format of its own, whose parts torch cannot reach
            return UNREADABLE
    return digest.hexdigest()


def tokenizer_hash(tokenizer: TokenizerLike) -> str:
    """SHA-256 over the tokenizer's serialised state, or the vocabulary of one that is written in Python."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return hashlib.sha256(_state(tokenizer).encode()).hexdigest()
    size, known = _tokenizers.get(tokenizer, (-1, ""))
    if size != len(tokenizer):
        known = hashlib.sha256(_state(tokenizer).encode()).hexdigest()
        _tokenizers[tokenizer] = len(tokenizer), known
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


def _sampled(weight: Tensor) -> bytes:
    flat = weight.reshape(-1).view(torch.uint8)
    if len(flat) > SAMPLES * SAMPLE:
        run = len(flat) // SAMPLES
        flat = torch.cat([flat[start : start + SAMPLE] for start in range(0, run * SAMPLES, run)])
    return flat.cpu().numpy().tobytes()


def _state(tokenizer: Any) -> str:
    if not getattr(tokenizer, "is_fast", False):
        vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else vocabulary_size(tokenizer)
        return json.dumps([type(tokenizer).__name__, vocabulary], sort_keys=True)
    state = str(tokenizer.backend_tokenizer.to_str())
    return state[state.index('"added_tokens":') :]  # in front stand padding and truncation of the last call
