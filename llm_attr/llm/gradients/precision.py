"""Which methods lose their ranking in half precision, as measured."""

from __future__ import annotations

import torch

from llm_attr.attr.base import Attribution
from llm_attr.caller import warn_caller
from llm_attr.core.registry import snake_case
from llm_attr.llm.gradients.methods import inside

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
