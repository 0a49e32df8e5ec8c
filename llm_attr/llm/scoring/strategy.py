"""Which scoring strategy is exact for a model, what has been verified so far, and what rounding does to scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import Tensor

from llm_attr.llm.model.attention import Setting, kernel, masked_kernel, setting
from llm_attr.llm.model.language_model import LanguageModel

Kind = Literal["prefix tree", "whole sequences"]

TREE_KEYWORDS = {"position_ids", "past_key_values", "attention_mask"}
TREE_LAYERS = {"full_attention", "sliding_attention"}
TREE_KERNELS = {"sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"}
"""Those that take the mask of a tree, and those that sdpa stands in for."""
LENGTH_DEPENDENT_ROPES = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Strategy:
    """How variants of prompts are scored by one model.

    Attributes:
        kind: `prefix tree` or `whole sequences`.
        reason: Why this kind was chosen.
        windows: The sliding-window width of each kind of layer, or None; a model with only one kind of layer has the
            single kind `None`.
        gaps: Whether absent tokens leave gaps between the positions.
        verified: Shapes of trees (`sequence`, `branches`, `context`) that agreed with full sequences.
        verified_length: The longest path that was compared.
    """

    kind: Kind
    reason: str
    windows: tuple[tuple[str | None, int | None], ...] = ((None, None),)
    gaps: bool = False
    verified: frozenset[str] = frozenset()
    verified_length: int = 0

    def is_verified_for(self, shape: frozenset[str], length: int) -> bool:
        """Whether trees of this shape and depth have been verified against full sequences."""
        return shape <= self.verified and length <= self.verified_length

    def verified_for(self, shape: frozenset[str], length: int) -> Strategy:
        """The strategy after a tree of this shape agreed."""
        return replace(self, verified=self.verified | shape, verified_length=max(length, self.verified_length))


@dataclass(frozen=True)
class BatchCheck:
    """What is known about batches of full sequences.

    Attributes:
        verified: What has been compared with the plain forward pass of one sequence: a `sequence`, the `first` and the
            `last` row of a batch (either may affect the other), `gaps` under the mask.
        difference: By how many nats batching or selecting logits changed a row; None if it did not.
    """

    verified: frozenset[str] = frozenset()
    difference: float | None = None

    def explained(self, strategy: Strategy) -> Strategy:
        """The strategy, with a note if sequences are scored one at a time."""
        if self.difference is None:
            return strategy
        return replace(
            strategy,
            reason=f"{strategy.reason}; one at a time, since a batch changed one by {self.difference:.2g} nats",
        )


@dataclass(frozen=True)
class Noise:
    """How far the scores of one variant in different company are apart: in a tree, in a batch and alone.

    Attributes:
        answers: How many answers were compared.
        tokens: How many tokens they have.
        of_tokens: The sum of the squared differences of the tokens, in nats.
        of_answers: The sum of the squared differences of the answers, each divided by its number of tokens.
    """

    answers: int = 0
    tokens: int = 0
    of_tokens: float = 0.0
    of_answers: float = 0.0

    def seen(self, differences: Tensor) -> Noise:
        """With another answer, `(answer tokens,)` in nats."""
        each, count = differences.double(), len(differences)
        squares, total = float(each.square().sum()), float(each.sum().square()) / count
        return Noise(self.answers + 1, self.tokens + count, self.of_tokens + squares, self.of_answers + total)

    @property
    def per_token(self) -> float:
        """Nats by which the score of T tokens is uncertain, divided by the root of T.

        The larger of the root mean squares of tokens and of answers, as rounding of a shared prefix moves all tokens.
        """
        return max(self.of_tokens / self.tokens, self.of_answers / self.answers) ** 0.5


_strategies: WeakKeyDictionary[Any, dict[Setting, Strategy]] = WeakKeyDictionary()
_batch_checks: WeakKeyDictionary[Any, dict[Setting, BatchCheck]] = WeakKeyDictionary()
_noises: WeakKeyDictionary[Any, dict[Setting, Noise]] = WeakKeyDictionary()


def strategy_for(language_model: LanguageModel, gaps: bool = False) -> Strategy:
    """The strategy known to work for the model in its current configuration, or the one to try first."""
    known = _strategies.get(language_model.model, {})
    return known.get(setting(language_model, gaps)) or _first_strategy(language_model, gaps)


def remember_strategy(language_model: LanguageModel, strategy: Strategy) -> Strategy:
    """Remembers the strategy for later explanations with the same model."""
    _strategies.setdefault(language_model.model, {})[setting(language_model, strategy.gaps)] = strategy
    return strategy


def batch_check_for(language_model: LanguageModel, gaps: bool) -> BatchCheck:
    """What is known about batches of the model in its current configuration."""
    return _batch_checks.get(language_model.model, {}).get(setting(language_model, gaps), BatchCheck())


def remember_batch_check(language_model: LanguageModel, gaps: bool, check: BatchCheck) -> BatchCheck:
    """Remembers the check for later explanations with the same model."""
    _batch_checks.setdefault(language_model.model, {})[setting(language_model, gaps)] = check
    return check


def noise_of(language_model: LanguageModel) -> Noise | None:
    """The noise of the model's scores in its current configuration; None before anything was compared."""
    return _noises.get(language_model.model, {}).get(setting(language_model))


def remember_noise(language_model: LanguageModel, differences: Tensor) -> None:
    """Adds an answer that was scored twice, `(answer tokens,)` in nats."""
    known = noise_of(language_model) or Noise()
    _noises.setdefault(language_model.model, {})[setting(language_model)] = known.seen(differences)


def _first_strategy(language_model: LanguageModel, gaps: bool) -> Strategy:
    reason = _reason_against_tree(language_model)
    if reason:
        own = gaps and ("position_ids" not in language_model.forward_keywords or uses_alibi(language_model))
        return Strategy(
            "whole sequences", f"{reason}; positions under its mask are its own" if own else reason, gaps=gaps
        )
    usual, used = kernel(language_model), masked_kernel(language_model)
    how = "attention by explicit positions" + ("" if usual == used else f", by {used} in place of {usual}")
    return Strategy("prefix tree", how, _windows(language_model.text_config), gaps)


def uses_alibi(language_model: LanguageModel) -> bool:
    """Whether positions are attention biases (ALiBi), according to the configuration."""
    attention = getattr(language_model.text_config, "attn_config", None)
    return bool(getattr(language_model.text_config, "alibi", False) or getattr(attention, "alibi", False))


def reason_against_masks(language_model: LanguageModel) -> str | None:
    """Why an attention mask does not hide tokens from the model; None if it should."""
    if getattr(language_model.model, "_is_stateful", False):
        return "its state is recurrent"
    kinds = set(getattr(language_model.text_config, "layer_types", None) or ())
    unhidden = sorted(kind for kind in kinds if "attention" not in kind or "linear" in kind)
    return f"it has layers of kind {', '.join(unhidden)}" if unhidden else None


def _reason_against_tree(language_model: LanguageModel) -> str | None:
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
