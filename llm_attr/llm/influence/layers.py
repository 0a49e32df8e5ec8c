"""The linear layers of a language model that an index covers, and EK-FAC's factors of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from llm_attr.core.pairing.blocks import Outer
from llm_attr.core.pairing.data import Batch
from llm_attr.core.pairing.gradients import PerExample
from llm_attr.core.pairing.layers import rule_for
from llm_attr.core.pairing.loss import SummedLoss
from llm_attr.core.tensors import exact
from llm_attr.errors import InvalidValue, UnsupportedMethod
from llm_attr.llm.model.language_model import LanguageModel


def linear_parameters(lm: LanguageModel, layers: Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The parameters of linear layers by their full names.

    Args:
        lm: The model.
        layers: Names of modules, which may have wildcards (`*.layers.20.*`); linear layers inside of them count. None:
            those that require gradients where others do not (an adapter's), else all but the output layer.

    Raises:
        InvalidValue: no linear layer is meant.
    """
    model: nn.Module = lm.model
    wanted = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    trains = {value.requires_grad for value in model.parameters()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or weight.dim() != 2 or rule_for(module) is None or isinstance(module, nn.Embedding):
            continue
        if wanted is None:
            meant = module is not head and (len(trains) == 1 or weight.requires_grad)
        else:
            meant = any(fnmatchcase(name, each) or name.startswith(f"{each}.") for each in wanted)
        if meant:
            own = ((key, module._parameters.get(key)) for key in ("weight", "bias"))
            found |= {f"{name}.{key}": value for key, value in own if value is not None}
    if not found:
        raise InvalidValue(
            f"no linear layer of the model is meant by layers={wanted!r}; its modules have names such as "
            f"{', '.join(name for name, module in list(model.named_modules()) if rule_for(module))[:300]}"
        )
    return found


@dataclass(frozen=True)
class Sides:
    """What maps a layer's gradients `g a^T` to few numbers: `(g left)^T (a right)`.

    Attributes:
        left: `(outputs, rows)`.
        right: `(inputs, columns)`; the last input is the bias, if there is one.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def drawn(cls, name: str, outputs: int, inputs: int, most: int | None, seed: int) -> Sides:
        """Random projections to `most` dimensions on each side, identities where there are no more than that."""
        return cls(
            *(_drawn(f"{seed} {name} {side}", size, most) for side, size in (("left", outputs), ("right", inputs)))
        )

    def turned(self, covariances: tuple[Tensor, Tensor]) -> Sides:
        """Followed by the eigenvectors of the covariances of gradients and of inputs: EK-FAC's basis."""
        left, right = (torch.linalg.eigh(exact(each))[1].to(each) for each in covariances)
        return Sides(self.left @ left, self.right @ right)

    def on(self, device: torch.device) -> Sides:
        """The same on a device."""
        return Sides(self.left.to(device), self.right.to(device))

    def applied(self, block: Outer) -> tuple[Tensor, Tensor]:
        """`g left` and `a right`: `(examples, positions, few)`."""
        a = torch.cat([block.a, block.a.new_ones(*block.a.shape[:2], 1)], 2) if len(block.names) == 2 else block.a
        return block.g @ self.left.to(block.g), a @ self.right.to(a)


def _drawn(name: str, size: int, most: int | None) -> Tensor:
    if most is None or size <= most:
        return torch.eye(size, dtype=torch.float32, device="cpu")
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    draws = torch.Generator().manual_seed(number)
    return torch.randn(size, most, generator=draws, dtype=torch.float32, device="cpu") / most**0.5


class LayerGradients:
    """Per-example gradients of the covered layers, by factors.

    Args:
        lm: The model.
        parameters: The parameters of its linear layers.
    """

    def __init__(self, lm: LanguageModel, parameters: Mapping[str, nn.Parameter]) -> None:
        self._gradients = PerExample(lm.model, parameters)
        self.names = [name.rpartition(".")[0] for name in parameters if name.endswith(".weight")]

    def of(self, batch: Batch, loss: SummedLoss) -> dict[str, Outer]:
        """The factors of each layer.

        Raises:
            UnsupportedMethod: a layer has none, as its weight is used elsewhere too.
        """
        embedding = self._gradients.of(batch, loss)
        blocks = {block.names[0].rpartition(".")[0]: block for block in embedding.blocks}
        found = {name: block for name, block in blocks.items() if isinstance(block, Outer)}
        for name in self.names:
            if name not in found:
                raise UnsupportedMethod(
                    f"layer {name} takes no part in the loss, or its weight is used elsewhere; leave it out of layers"
                )
        return found

    def sizes(self) -> dict[str, tuple[int, int]]:
        """The outputs and inputs of each layer, the bias counted as an input."""
        values = self._gradients.parameters
        found = {}
        for name in self.names:
            weight = values[f"{name}.weight"]
            module = self._gradients.model.get_submodule(name)
            outputs, inputs = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]
            found[name] = (outputs, inputs + (f"{name}.bias" in values))
        return found
