"""Embedding layers taken out of a model, so that embeddings can be its inputs, and baselines made of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.errors import InvalidType, InvalidValue, UnknownName


class InterpretableEmbeddingBase(nn.Module):
    """Stands in the place of an embedding layer and passes embeddings on that are already made.

    Other attributes (`weight`, `padding_idx`, ...) are those of the embedding layer.

    Args:
        embedding: The embedding layer.
        full_name: Its dotted name in the model.
    """

    def __init__(self, embedding: nn.Module, full_name: str) -> None:
        super().__init__()
        self.embedding, self.full_name = embedding, full_name
        self.num_embeddings = getattr(embedding, "num_embeddings", None)
        self.embedding_dim = getattr(embedding, "embedding_dim", None)
        self.training = embedding.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("embedding"), name)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The first argument, or, where all are given by keyword, the first that is not None.

        Raises:
            InvalidValue: there are no arguments.
        """
        given = [value for value in (inputs or kwargs.values()) if value is not None]
        if not given:
            raise InvalidValue(f"the layer {self.full_name!r} is interpretable: it needs embeddings; got no arguments")
        return given[0]

    def indices_to_embeddings(self, *input: Any, **kwargs: Any) -> Any:
        """What the embedding layer gives for these token ids."""
        return self.embedding(*input, **kwargs)


def configure_interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> InterpretableEmbeddingBase:
    """Puts an `InterpretableEmbeddingBase` in the place of an embedding layer; the model then takes embeddings.

    `LayerIntegratedGradients` and its kin need none of this: they leave the model as it is.

    Args:
        model: The model. It is changed until `remove_interpretable_embedding_layer`.
        embedding_layer_name: The dotted name of the layer, such as `bert.embeddings.word_embeddings`.

    Returns:
        The layer in its place; its `indices_to_embeddings` makes embeddings of token ids.

    Raises:
        UnknownName: the model has no such layer.
        InvalidValue: the layer is interpretable already, or a part of such a layer.

    Example:
        >>> import torch
        >>> from llm_attr.attr import IntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(8, 2))
        >>> layer = configure_interpretable_embedding_layer(model, "0")
        >>> embeddings = layer.indices_to_embeddings(torch.tensor([[1, 5]]))
        >>> IntegratedGradients(model).attribute(embeddings, target=1).shape
        torch.Size([1, 2, 4])
        >>> remove_interpretable_embedding_layer(model, layer)
        >>> model[0]
        Embedding(9, 4)
    """
    layers = dict(model.named_modules())
    if embedding_layer_name not in layers or not embedding_layer_name:
        raise UnknownName("layer", embedding_layer_name, [name for name in layers if name])
    for name, layer in layers.items():
        if isinstance(layer, InterpretableEmbeddingBase) and f"{embedding_layer_name}.".startswith(f"{name}."):
            raise InvalidValue(
                f"the layer {name!r} is interpretable already; remove_interpretable_embedding_layer first"
            )
    wrapped = InterpretableEmbeddingBase(layers[embedding_layer_name], embedding_layer_name)
    _put(model, embedding_layer_name, wrapped)
    return wrapped


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Puts the embedding layer back that `configure_interpretable_embedding_layer` took out.

    Raises:
        InvalidType: `interpretable_emb` is no interpretable layer.
        InvalidValue: it is not in the model (any more).
    """
    if not isinstance(interpretable_emb, InterpretableEmbeddingBase):
        raise InvalidType(
            "interpretable_emb must be what configure_interpretable_embedding_layer gave; "
            f"got {type(interpretable_emb).__name__}"
        )
    name = interpretable_emb.full_name
    if dict(model.named_modules()).get(name) is not interpretable_emb:
        raise InvalidValue(f"the model does not have this interpretable layer at {name!r}; was it removed before?")
    _put(model, name, interpretable_emb.embedding)


class TokenReferenceBase:
    """Makes baselines of one token, such as padding.

    Args:
        reference_token_idx: The id of the token.
    """

    def __init__(self, reference_token_idx: int = 0) -> None:
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: torch.device | str) -> Tensor:
        """`(sequence_length,)` times the token's id."""
        return torch.full((int(sequence_length),), self.reference_token_idx, dtype=torch.int64, device=device)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
