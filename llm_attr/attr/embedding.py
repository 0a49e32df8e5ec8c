"""Replacing an embedding layer so that a model takes embeddings as inputs, and baselines made of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.errors import InvalidType, InvalidValue, UnknownName


class InterpretableEmbeddingBase(nn.Module):
    """Replaces an embedding layer and passes on precomputed embeddings.

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
        """The first argument that is not None; keyword arguments count only without positional ones.

        Raises:
            InvalidValue: there are no arguments.
        """
        given = [value for value in (inputs or kwargs.values()) if value is not None]
        if not given:
            raise InvalidValue(f"the layer {self.full_name!r} is interpretable and needs embeddings; got no arguments")
        return given[0]

    def indices_to_embeddings(self, *input: Any, **kwargs: Any) -> Any:
        """The embeddings of these token ids."""
        return self.embedding(*input, **kwargs)


def configure_interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> InterpretableEmbeddingBase:
    """Replaces an embedding layer by an `InterpretableEmbeddingBase`, so that the model takes embeddings.

    Not needed for `LayerIntegratedGradients` and other layer methods, which leave the model unchanged.

    Args:
        model: The model. It stays changed until `remove_interpretable_embedding_layer` is called.
        embedding_layer_name: The dotted name of the layer, such as `bert.embeddings.word_embeddings`.

    Returns:
        The replacement; its `indices_to_embeddings` computes embeddings of token ids.

    Raises:
        UnknownName: the model has no such layer.
        InvalidValue: the layer is already interpretable, or part of an interpretable layer.

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
                f"the layer {name!r} is interpretable already; call remove_interpretable_embedding_layer first"
            )
    wrapped = InterpretableEmbeddingBase(layers[embedding_layer_name], embedding_layer_name)
    _put(model, embedding_layer_name, wrapped)
    return wrapped


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Restores the embedding layer that `configure_interpretable_embedding_layer` replaced.

    Raises:
        InvalidType: `interpretable_emb` is not an interpretable layer.
        InvalidValue: it is not, or no longer, part of the model.
    """
    if not isinstance(interpretable_emb, InterpretableEmbeddingBase):
        raise InvalidType(
            "interpretable_emb must be the result of configure_interpretable_embedding_layer; "
            f"got {type(interpretable_emb).__name__}"
        )
    name = interpretable_emb.full_name
    if dict(model.named_modules()).get(name) is not interpretable_emb:
        raise InvalidValue(f"the model does not have this interpretable layer at {name!r}; was it removed before?")
    _put(model, name, interpretable_emb.embedding)


class TokenReferenceBase:
    """Creates baselines that repeat one token, such as padding.

    Args:
        reference_token_idx: The id of the token.
    """

    def __init__(self, reference_token_idx: int = 0) -> None:
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: torch.device | str) -> Tensor:
        """The token's id, repeated: `(sequence_length,)`."""
        return torch.full((int(sequence_length),), self.reference_token_idx, dtype=torch.int64, device=device)


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
