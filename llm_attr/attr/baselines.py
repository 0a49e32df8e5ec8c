"""Baselines of embedding layers: states in which a token says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.site import Site
from llm_attr.core.tensors import accumulator
from llm_attr.errors import InvalidType, InvalidValue, UnknownName

KINDS = ("zero", "mean", "pad", "mask")
"""The names of the baselines."""

TOKENS_PER_CALL = 4096
"""Tokens of the vocabulary that are embedded at once."""


def embedding_baseline(embedding: nn.Module, kind: str, like: Tensor, token_id: int | None = None) -> Tensor:
    """A baseline at the output of an embedding layer, the same vector at every position.

    Args:
        embedding: The embedding layer, an `nn.Embedding` or a kind of it.
        kind: `zero`; `mean`, the mean of the whole vocabulary; `pad`, the layer's padding token; `mask`, the mask
            token. What the layer gives for the tokens counts, with a scale that it may have.
        like: Token ids `(batch, positions)`, or embeddings `(batch, positions, features)`.
        token_id: The token of `pad` (default: the layer's `padding_idx`) or `mask` (needed: the tokenizer knows it).

    Returns:
        `(batch, positions, features)`: the baseline of `IntegratedGradients` where embeddings are the inputs, or the
        `layer_baselines` of `LayerIntegratedGradients`. (Where ids are the inputs, `pad` and `mask` are a baseline of
        ids too.)

    Raises:
        UnknownName: there is no such kind.
        InvalidType: the layer is no embedding layer.
        InvalidValue: a token is needed and not given, or out of range.

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
    """What an embedding layer gives for each token of its vocabulary, `(words, features)`.

    Raises:
        InvalidType: the layer is no embedding layer.
    """
    words = _count(embedding)
    if type(embedding) is nn.Embedding and embedding.max_norm is None:
        return embedding.weight.detach()
    starts = range(0, words, TOKENS_PER_CALL)
    return torch.cat([_embedded(embedding, range(i, min(i + TOKENS_PER_CALL, words))) for i in starts])


def named_baselines(sites: Sequence[Site], given: Any) -> Any:
    """Layer baselines with the names among them resolved: a vector `(features,)` of each embedding layer.

    Args:
        sites: Where the baselines are.
        given: A tensor, number or name for all of the sites, or a tuple or list with one for each.

    Raises:
        UnknownName: a name that is none of `zero`, `mean`, `pad`.
        InvalidType: a name for a site that is not the output of an embedding layer.
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
    """`(features,)`: the state of one position."""
    if kind not in KINDS:
        raise UnknownName("baseline", kind, KINDS)
    words = _count(embedding)
    if kind == "mean":
        vectors = vocabulary(embedding)
        return vectors.mean(0, dtype=accumulator(vectors.dtype)).to(vectors.dtype)
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
            "an embedding layer (nn.Embedding) is needed, which has a vector for each token of a vocabulary; "
            f"got {type(embedding).__name__}"
        )
    return words


def _embedded(embedding: nn.Module, tokens: Sequence[int]) -> Tensor:
    device = next(embedding.parameters()).device
    with torch.no_grad():
        return embedding(torch.tensor(list(tokens), device=device)).detach()
