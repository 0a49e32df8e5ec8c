"""A wrapper with one layer per input, so that layer methods can attribute to inputs and layers at once."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


class ModelInputWrapper(nn.Module):
    """Passes each input of a model through its own identity layer.

    Layer methods that take several layers can then attribute to some inputs and to the embeddings of others at once.
    Arguments in `*args` and `**kwargs` of the model are passed on without a layer.

    Args:
        module_to_wrap: The model; it is not changed.

    Attributes:
        module: The model.
        input_maps: The layer of each input, by the name of its parameter in the model's `forward`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerIntegratedGradients, ModelInputWrapper
        >>> class TextAndAge(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.words = torch.nn.Embedding(5, 2)
        ...     def forward(self, ids, age):
        ...         return self.words(ids).sum((1, 2)) + age.sum(1)
        >>> model = ModelInputWrapper(TextAndAge())
        >>> method = LayerIntegratedGradients(model, [model.module.words, model.input_maps["age"]])
        >>> words, age = method.attribute((torch.tensor([[1, 2]]), torch.tensor([[3.0]])), baselines=(0, 0.0))
        >>> words.shape, age.round(decimals=4)
        (torch.Size([1, 2, 2]), tensor([[3.]]))
    """

    def __init__(self, module_to_wrap: nn.Module) -> None:
        super().__init__()
        self.module = module_to_wrap
        self.training = module_to_wrap.training
        spread = isinstance(module_to_wrap, nn.DataParallel | nn.parallel.DistributedDataParallel)
        called: Any = module_to_wrap.module if spread else module_to_wrap
        parameters = inspect.signature(called.forward).parameters.values()
        self._positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        self.input_maps = nn.ModuleDict()
        for name in dict.fromkeys([*self._positional, *sorted(self._named)]):
            self.input_maps._modules[name] = nn.Identity()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the model for these arguments."""
        placed = [self.input_maps[name](value) for name, value in zip(self._positional, args, strict=False)]
        named = {name: self.input_maps[name](value) if name in self._named else value for name, value in kwargs.items()}
        return self.module(*placed, *args[len(placed) :], **named)
