"""Layers for inference alone: what passes them is lost to gradients, silently where a residual goes round them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.site import Site, replaced
from llm_attr.core.tensors import leaves
from llm_attr.errors import NoGradient
from llm_attr.llm.model.attention import kernel
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.language_model import LanguageModel, has_unusual_weights


def refuse_broken_graph(language_model: LanguageModel) -> None:
    """Refuses a model whose layers give no gradients; one token goes through it if it has quantised weights.

    Raises:
        NoGradient: it has such a layer, or an attention kernel that has no backward pass here.
    """
    if kernel(language_model) == "flex_attention" and language_model.device.type == "cpu":
        raise NoGradient(
            f"flex attention has no backward pass on a CPU, and {language_model.name} uses it; call "
            'model.set_attn_implementation("sdpa") first, or load the model with attn_implementation="sdpa"'
        )
    unusual = [(name, module) for name, module in language_model.model.named_modules() if has_unusual_weights(module)]
    if not unusual:
        return
    embedding, broken = language_model.embedding, list[str]()
    ids = torch.zeros(1, 1, dtype=torch.long, device=language_model.device)
    with torch.enable_grad(), ExitStack() as stack:
        moved = embedding(ids).detach().requires_grad_()
        stack.enter_context(replaced(Site(embedding), (moved,)))
        for name, module in unusual:
            stack.callback(module.register_forward_hook(partial(_note, broken, name), with_kwargs=True).remove)
        forward_logits(language_model, [0], input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if broken:
        kind = type(dict(unusual)[broken[0]]).__name__
        raise NoGradient(
            f"gradients do not pass {len(broken)} of the quantised layers of {language_model.name}, such as "
            f"{broken[0]!r} ({kind}), which are for inference alone; load the model in fp32, fp16 or bf16, or take a "
            "method that needs no gradients: feature_ablation, shapley_values, kernel_shap, context_cite, ..."
        )


def _note(
    broken: list[str], name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    given = [tensor for tensor in leaves((args, kwargs)) if tensor.requires_grad]
    if given and not _passes(given, [tensor for tensor in leaves(output) if tensor.requires_grad]):
        broken.append(name)


def _passes(given: list[Tensor], made: list[Tensor]) -> bool:
    if not made:
        return False
    try:
        found = torch.autograd.grad([tensor.sum() for tensor in made], given, retain_graph=True, allow_unused=True)
    except (NotImplementedError, RuntimeError):
        return False
    return any(gradient is not None for gradient in found)
