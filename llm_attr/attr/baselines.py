"""Baselines for embedding layers: vectors that stand for an absent token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.site import Site
from llm_attr.errors import InvalidType, InvalidValue, UnknownName

KINDS = ("zero", "mean", "pad", "mask")
"""The kinds of baselines."""

TOKENS_PER_CALL = 4096
"""The number of tokens embedded per call."""


def embedding_baseline(embedding: nn.Module, kind: str, like: Tensor, token_id: int | None = None) -> Tensor:
    """A baseline at the output of an embedding layer, the same vector at every position.

    Args:
        embedding: The embedding layer, an `nn.Embedding` or a similar module.
        kind: `zero`; `mean`, the mean over the vocabulary; `pad`, the padding token; or `mask`, the mask token. Vectors
            are outputs of the layer, including any scaling it applies.
        like: Token ids `(batch, positions)`, or embeddings `(batch, positions, features)`.
        token_id: The token for `pad` (default: the layer's `padding_idx`) or `mask` (required).

    Returns:
        `(batch, positions, features)`, for `IntegratedGradients` with embeddings as inputs, or as `layer_baselines` of
        `LayerIntegratedGradients`. (If token ids are the inputs, the ids of `pad` and `mask` are baselines too.)

    Raises:
        UnknownName: there is no such kind.
        InvalidType: the layer is not an embedding layer.
        InvalidValue: a token id is missing or out of range.

    Example:
        >>> import torch
        >>> embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        >>> embedding_baseline(embedding, "mean", like=torch.tensor([[1, 1]]))
        tensor([[[1., 2.],
                 [1., 2.]]])
    """
    vector = _vector(embedding, kind, token_id)
    return vector.expand(*(like.shape[:-1] if like.is_floating_point() else like.shape), -1)


def vocabulary(embedding: nn.Module) -> Tensor:
    """The vector of each token in the vocabulary of an embedding layer, `(words, features)`.

    Raises:
        InvalidType: the layer is not an embedding layer.
    """
    words = _count(embedding)
    if type(embedding) is nn.Embedding and embedding.max_norm is None:
        return embedding.weight.detach()
    starts = range(0, words, TOKENS_PER_CALL)
    return torch.cat([_embedded(embedding, range(i, min(i + TOKENS_PER_CALL, words))) for i in starts])


def named_baselines(sites: Sequence[Site], given: Any) -> Any:
    """Layer baselines with names replaced by the vectors `(features,)` of the embedding layers.

    Args:
        sites: The sites of the baselines.
        given: A tensor, number or name for all sites, or a tuple or list with one per site.

    Raises:
        UnknownName: a name is not one of `zero`, `mean`, `pad`.
        InvalidType: a name is given for a site that is not the output of an embedding layer.
    """
    if isinstance(given, str):
        given = (given,) * len(sites)
    if not isinstance(given, tuple | list) or not any(isinstance(value, str) for value in given):
        return given
    if len(given) != len(sites):
        raise InvalidValue(f"layer_baselines must be one for each of the {len(sites)} layers; got {len(given)}")
    return tuple(
        _at(site, value) if isinstance(value, str) else value for site, value in zip(sites, given, strict=True)
    )


def _at(site: Site, kind: str) -> Tensor | int:
    if kind == "zero":
        return 0
    if site.io == "input":
        raise InvalidType(f"the baseline {kind!r} is for the output of an embedding layer; got {site}")
    return _vector(site.layer, kind, None)


def _vector(embedding: nn.Module, kind: str, token_id: int | None) -> Tensor:
    """The vector of one position, `(features,)`."""
    if kind not in KINDS:
        raise UnknownName("baseline", kind, KINDS)
    words = _count(embedding)
    if kind == "mean":
        vectors = vocabulary(embedding)
        return vectors.mean(0, dtype=torch.promote_types(vectors.dtype, torch.float32)).to(vectors.dtype)
    if kind == "zero":
        return torch.zeros_like(_embedded(embedding, [0])[0])
    token = getattr(embedding, "padding_idx", None) if token_id is None and kind == "pad" else token_id
    if token is None:
        raise InvalidValue(f"the baseline {kind!r} needs token_id=, the id of the token; the layer does not know it")
    if not 0 <= token < words:
        raise InvalidValue(f"token_id must be within the vocabulary, 0 to {words - 1}; got {token}")
    return _embedded(embedding, [token])[0]


def _count(embedding: nn.Module) -> int:
    words = getattr(embedding, "num_embeddings", None)
    if not isinstance(embedding, nn.Module) or not isinstance(words, int):
        raise InvalidType(
            "embedding must be an embedding layer such as nn.Embedding, with a vector for each token of a vocabulary; "
            f"got {type(embedding).__name__}"
        )
    return words


def _embedded(embedding: nn.Module, tokens: Sequence[int]) -> Tensor:
    device = next(embedding.parameters()).device
    with torch.no_grad():
        return embedding(torch.tensor(list(tokens), device=device)).detach()
