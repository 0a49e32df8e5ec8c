"""Which way of scoring is exact for a model, and what has been seen of it so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

from llm_attr.llm.model.attention import Setting, kernel, setting
from llm_attr.llm.model.language_model import LanguageModel

Kind = Literal["prefix tree", "whole sequences"]

TREE_KEYWORDS = {"position_ids", "past_key_values", "attention_mask"}
TREE_LAYERS = {"full_attention", "sliding_attention"}
TREE_KERNELS = {"sdpa", "eager"}
LENGTH_DEPENDENT_ROPES = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Way:
    """How variants of prompts are scored by one model.

    Attributes:
        kind: `prefix tree` or `whole sequences`.
        reason: Why this kind.
        windows: For each kind of layer the width of its sliding window, or None; a model whose layers are all alike has
            the one kind `None`.
        gaps: Whether it is for prompts whose absent tokens leave gaps between the positions.
        proven: Shapes of trees (`sequence`, `branches`, `context`) that have been compared with whole sequences.
        proven_length: The longest path for which that was done.
    """

    kind: Kind
    reason: str
    windows: tuple[tuple[str | None, int | None], ...] = ((None, None),)
    gaps: bool = False
    proven: frozenset[str] = frozenset()
    proven_length: int = 0

    def is_proven_for(self, shape: frozenset[str], length: int) -> bool:
        """Whether trees of this shape and depth have been compared with whole sequences."""
        return shape <= self.proven and length <= self.proven_length

    def proved(self, shape: frozenset[str], length: int) -> Way:
        """The way after a tree of this shape agreed."""
        return replace(self, proven=self.proven | shape, proven_length=max(length, self.proven_length))


@dataclass(frozen=True)
class Whole:
    """What has been seen of whole sequences, several in a batch.

    Attributes:
        proven: What has been compared with the plain forward pass of one sequence: a `sequence`, the `first` and the
            `last` row of a batch (one may have what changes the other), `gaps` under the mask.
        apart: The nats by which a batch changed one of its rows, or the choice of logits the others; None: it did not.
    """

    proven: frozenset[str] = frozenset()
    apart: float | None = None

    def explained(self, way: Way) -> Way:
        """The way, with what is special about its sequences."""
        if self.apart is None:
            return way
        return replace(way, reason=f"{way.reason}; one at a time, since a batch changed one by {self.apart:.2g} nats")


_ways: WeakKeyDictionary[Any, dict[Setting, Way]] = WeakKeyDictionary()
_wholes: WeakKeyDictionary[Any, dict[Setting, Whole]] = WeakKeyDictionary()


def way_for(language_model: LanguageModel, gaps: bool = False) -> Way:
    """The way that is known to work for the model as it is configured now, or the one to try first."""
    known = _ways.get(language_model.model, {})
    return known.get(setting(language_model, gaps)) or _first_way(language_model, gaps)


def remember_way(language_model: LanguageModel, way: Way) -> Way:
    """Keeps the way for later explanations with the same model."""
    _ways.setdefault(language_model.model, {})[setting(language_model, way.gaps)] = way
    return way


def whole_for(language_model: LanguageModel, gaps: bool) -> Whole:
    """What is known of whole sequences of the model as it is configured now."""
    return _wholes.get(language_model.model, {}).get(setting(language_model, gaps), Whole())


def remember_whole(language_model: LanguageModel, gaps: bool, whole: Whole) -> Whole:
    """Keeps it for later explanations with the same model."""
    _wholes.setdefault(language_model.model, {})[setting(language_model, gaps)] = whole
    return whole


def _first_way(language_model: LanguageModel, gaps: bool) -> Way:
    reason = _against_tree(language_model)
    if reason:
        own = gaps and ("position_ids" not in language_model.forward_keywords or uses_alibi(language_model))
        return Way("whole sequences", f"{reason}; positions under its mask are its own" if own else reason, gaps=gaps)
    return Way("prefix tree", "attention by explicit positions", _windows(language_model.text_config), gaps)


def uses_alibi(language_model: LanguageModel) -> bool:
    """Whether positions are attention biases, by the names under which configurations say so."""
    attention = getattr(language_model.text_config, "attn_config", None)
    return bool(getattr(language_model.text_config, "alibi", False) or getattr(attention, "alibi", False))


def against_masks(language_model: LanguageModel) -> str | None:
    """Why an attention mask does not hide a token from the model; None where nothing is known against it."""
    if getattr(language_model.model, "_is_stateful", False):
        return "its state is recurrent"
    kinds = set(getattr(language_model.text_config, "layer_types", None) or ())
    unhidden = sorted(kind for kind in kinds if "attention" not in kind or "linear" in kind)
    return f"it has layers of kind {', '.join(unhidden)}" if unhidden else None


def _against_tree(language_model: LanguageModel) -> str | None:
    config, attention = language_model.text_config, kernel(language_model)
    missing = sorted(TREE_KEYWORDS - language_model.forward_keywords)
    layers = sorted(set(getattr(config, "layer_types", None) or ()) - TREE_LAYERS)
    ropes = _rope_types(getattr(config, "rope_parameters", None) or {}) & LENGTH_DEPENDENT_ROPES
    reasons = {
        "it is no model of transformers": language_model.is_plain,
        "its state is recurrent": getattr(language_model.model, "_is_stateful", False),
        f"its forward takes no {', '.join(missing)}": missing,
        f"it has layers of kind {', '.join(layers)}": layers,
        "its positions are attention biases (ALiBi)": uses_alibi(language_model),
        f"its rotary frequencies depend on the length ({', '.join(ropes)})": ropes,
        f"its attention kernel {attention!r} takes no mask of its own": attention not in TREE_KERNELS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _rope_types(parameters: dict[str, Any]) -> set[str]:
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(each.get("rope_type")) for each in (parameters, *nested)}


def _windows(config: Any) -> tuple[tuple[str | None, int | None], ...]:
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if "sliding_attention" in kinds:
        return tuple((kind, window if kind == "sliding_attention" else None) for kind in kinds)
    return ((None, None if kinds else window),)
