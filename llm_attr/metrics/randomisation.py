"""The model-randomisation check: whether attributions depend on what the model has learnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.faithfulness.correlation import spearman
from llm_attr.core.faithfulness.orders import seeded
from llm_attr.core.faithfulness.randomised import layers_of, randomise, restored
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, NonFiniteValue, UnknownName


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How similar attributions stay while layers lose what they have learnt.

    Attributes:
        layers: The names of the layers in the order in which they were made random.
        spearman: float64 `(layers, examples)`: the rank correlation with the original attributions.
        spearman_abs: The same of their absolute values.
        mode: `cascading` or `independent`.
    """

    layers: list[str]
    spearman: Tensor
    spearman_abs: Tensor
    mode: str


def model_randomisation(
    model: nn.Module,
    explanation_func: Callable[[], Any],
    mode: str = "cascading",
    layers: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Randomisation:
    """The rank correlation of attributions with those of a model whose layers are made random, one after the other.

    An attribution that stays the same does not depend on the weights. Parameters are replaced by normal draws with
    their own mean and standard deviation; the model is restored to the bit, also after an error.

    Args:
        model: The model, whose parameters are in memory. It must be what `explanation_func` explains.
        explanation_func: Called without arguments for the attributions: a tensor `(features,)`, tensors
            `(batch, *features)`, or a result of `llm_attr.explain`.
        mode: `cascading`: layers stay random, from the last one to the first; `independent`: one at a time.
        layers: Names of modules, in the order in which they are made random. None: every module with parameters of its
            own, the last one first.
        seed: Of the parameters; no global stream is touched.

    Raises:
        UnknownName: there is no such mode or layer.
        InvalidType: the model is not a module, or the explanation is not made of tensors.
        InvalidShape: the attributions of the random model have another shape.
        NonFiniteValue: attributions are NaN or infinite.
        UnsupportedMethod: parameters are offloaded.

    Source: J. Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (model parameter randomization test).

    Example:
        >>> import torch
        >>> from llm_attr.attr import Saliency
        >>> net, x = torch.nn.Linear(4, 2), torch.ones(1, 4)
        >>> found = model_randomisation(net, lambda: Saliency(net).attribute(x, target=0))
        >>> found.spearman.shape
        torch.Size([1, 1])
    """
    if mode not in ("cascading", "independent"):
        raise UnknownName("mode", mode, ("cascading", "independent"))
    generator = seeded(seed)
    original = _rows(explanation_func())
    found = []
    with restored(model), Evaluator("Model randomisation", len(names := layers_of(model, layers))) as evaluator:
        for _, layer in names:
            evaluator.check()
            if mode == "cascading":
                randomise(layer, generator)
                found.append(_similarity(original, explanation_func))
            else:
                with restored(layer):
                    randomise(layer, generator)
                    found.append(_similarity(original, explanation_func))
            evaluator.advance(1)
    plain, absolute = (torch.stack(each) for each in zip(*found, strict=True))
    return Randomisation([name for name, _ in names], plain, absolute, mode)


def _similarity(original: Tensor, explain: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    rows = _rows(explain())
    if rows.shape != original.shape:
        raise InvalidShape(
            f"attributions of the random model must have the shape of the original ones, {tuple(original.shape)}; got "
            f"{tuple(rows.shape)}: explain the same target and the same answer each time"
        )
    return spearman(original, rows), spearman(original.abs(), rows.abs())


def _rows(given: Any) -> Tensor:
    """float64 `(examples, features)` on the CPU."""
    tensors = as_tensors(getattr(given, "seq_attr", given))
    if len(tensors) == 1 and tensors[0].dim() == 1:
        rows = tensors[0].detach().to("cpu").double()[None]
    else:
        rows = torch.cat([tensor.detach().to("cpu").double().flatten(1) for tensor in tensors], 1)
    if not torch.isfinite(rows).all():
        raise NonFiniteValue("the attributions hold NaN or infinity, which cannot be ranked")
    return rows
