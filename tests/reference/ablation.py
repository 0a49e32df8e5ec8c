"""Feature ablation from its definition: one position, one feature and one output at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def feature_ablation(
    forward: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    masks: Sequence[Tensor],
) -> list[Tensor]:
    """`attribution_i = f(x) - f(x with feature i at its baseline)`.

    Inputs, baselines and masks have the same shapes `(batch, *features)`. Where `forward` gives one number for each
    example, the features are those of the example's own mask; else the masks must be the same for all examples.
    """
    whole = forward(*inputs).flatten()
    results = [torch.zeros(len(whole), *x.shape[1:], dtype=whole.dtype) for x in inputs]
    for feature in sorted({int(number) for mask in masks for number in mask.flatten()}):
        loss = whole - forward(*_without(feature, inputs, baselines, masks)).flatten()
        for result, mask in zip(results, masks, strict=True):
            for output in range(len(whole)):
                _write(result[output], mask[output] if len(whole) == len(mask) else mask[0], feature, loss[output])
    return results


def _without(
    feature: int, inputs: Sequence[Tensor], baselines: Sequence[Tensor], masks: Sequence[Tensor]
) -> list[Tensor]:
    changed = [x.clone().contiguous() for x in inputs]
    for x, baseline, mask in zip(changed, baselines, masks, strict=True):
        for place in range(x.numel()):
            if mask.reshape(-1)[place] == feature:
                x.view(-1)[place] = baseline.reshape(-1)[place]
    return changed


def _write(result: Tensor, mask: Tensor, feature: int, value: Tensor) -> None:
    for place in range(mask.numel()):
        if mask.reshape(-1)[place] == feature:
            result.view(-1)[place] = value
