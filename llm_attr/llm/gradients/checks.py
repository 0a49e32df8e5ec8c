"""Checks before gradients are taken: of layers for inference alone, and of methods in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr.base import Attribution
from llm_attr.caller import warn_caller
from llm_attr.core.registry import snake_case
from llm_attr.core.site import Site, replaced
from llm_attr.core.tensors import leaves
from llm_attr.errors import NoGradient
from llm_attr.llm.gradients.methods import inside
from llm_attr.llm.model.attention import kernel
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.language_model import LanguageModel, has_unusual_weights
from llm_attr.typing import Tensors

ENOUGH = 0.9
"""The rank correlation with fp32 from which on nothing is said."""

AGREEMENT: dict[torch.dtype, dict[str, float]] = {
    torch.bfloat16: {
        "integrated_gradients": 0.72,
        "layer_integrated_gradients": 0.72,
        "gradient_shap": 0.79,
        "layer_gradient_shap": 0.79,
        "discretized_integrated_gradients": 0.55,
    },
    torch.float16: {
        "integrated_gradients": 0.71,
        "layer_integrated_gradients": 0.71,
        "discretized_integrated_gradients": 0.56,
    },
}
"""Mean Spearman rank correlation of token attributions with fp32, where it is below; see docs/precision.md."""


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


def refuse_shadowed(sites: Sequence[Site], parts: Sequence[Tensors]) -> None:
    """Refuses layers from which nothing goes on, since another of them is replaced after them.

    Args:
        sites: The layers.
        parts: Their attributions.

    Raises:
        NoGradient: there is such a layer.
    """
    moved = [any(tensor.any() for tensor in part) for part in parts]
    if any(moved) and not all(moved):
        raise NoGradient(
            f"nothing goes on from {sites[moved.index(False)]}, the {moved.index(False) + 1}. of the {len(moved)} "
            "layers: another one behind it is replaced too; explain them one at a time"
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


def warn_of_rounding(method: Attribution, dtype: torch.dtype) -> None:
    """Warns of a method that ranks otherwise in this type than in fp32."""
    inner = inside(method)
    found = AGREEMENT.get(dtype, {}).get(snake_case(type(inner).__name__), 1.0)
    if found < ENOUGH:
        name = str(dtype).removeprefix("torch.")
        warn_caller(
            f"{inner.get_name()} in {name} ranks tokens otherwise than in fp32: on SmolLM2-135M their rank correlation "
            f"is {found:.2f} (docs/precision.md); load the model in fp32, or use a method that is not below {ENOUGH}",
            UserWarning,
        )
