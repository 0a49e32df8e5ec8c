"""Inputs with interpretable features: template slots and tokens, under Captum's names."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm_attr.errors import (
    EmptyPrompt,
    InvalidShape,
    InvalidType,
    InvalidValue,
    UnknownName,
    UnsupportedMethod,
)
from llm_attr.llm.model.tokenizer import TokenizerLike, check_characters, encode, vocabulary_size
from llm_attr.llm.prompt.alignment import align, owners, token_texts
from llm_attr.llm.prompt.units import Span

if TYPE_CHECKING:
    from llm_attr.llm.model.language_model import LanguageModel

_FIRST_MARK = 0xE000
"""The first character of the private use area; such characters mark the slots of a template."""

Texts = Sequence[str] | Mapping[str, str]
"""One text per slot of a template, positional or by name."""


@dataclass(frozen=True)
class TokenMap:
    """The tokens of a prompt and the features (units) that they belong to.

    Attributes:
        ids: Token ids.
        unit_of_token: The feature of each token; -1 for tokens without one.
        absent: The token that replaces absent ones; None: the tokenizer's pad or EOS token.
        replaced: Whether a baseline replaces each token; None: those with a feature.
    """

    ids: tuple[int, ...]
    unit_of_token: tuple[int, ...]
    absent: int | None = None
    replaced: tuple[bool, ...] | None = None

    @property
    def moved(self) -> tuple[bool, ...]:
        """Whether a baseline replaces each token."""
        return tuple(unit >= 0 for unit in self.unit_of_token) if self.replaced is None else self.replaced

    @property
    def units(self) -> int:
        """The number of features."""
        return max(self.unit_of_token) + 1


class InterpretableInput(ABC):
    """An input with interpretable features, which knows what the model receives when some of them are absent."""

    values: Sequence[str]
    """The text of each feature."""

    @abstractmethod
    def to_tensor(self) -> Tensor:
        """`(1, features)` of ones: all features present."""

    @abstractmethod
    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        """The model's input when the features with a zero in `perturbed_tensor` `(1, features)` are absent.

        Returns:
            A text, to be tokenised with special tokens, or token ids `(1, tokens)`.
        """

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Maps attributions of the features `(..., features)` to attributions of the values `(..., values)`."""
        return itp_attr

    def feature_of_value(self) -> Tensor | None:
        """`(values,)` int64: the feature whose attribution `format_attr` assigns to each value.

        Read off `format_attr` of distinct values. None if it does anything but copy them; results then have no table
        and no standard errors.
        """
        count = self.to_tensor().shape[-1]
        marks = torch.arange(2.0, count + 2, dtype=torch.float64, device="cpu").sqrt()
        shown = self.format_attr(marks[None])
        if shown.shape != (1, len(self.values)):
            return None
        features = torch.searchsorted(marks, shown[0]).clamp(max=count - 1)
        return features if torch.equal(marks[features], shown[0]) else None

    def about(self) -> dict[str, Any]:
        """What a result's provenance says about the input."""
        return {"unit": "feature"}

    def placed(self, language_model: LanguageModel) -> TokenMap:
        """The tokens of the full prompt and the feature of each; gradient methods need it.

        Raises:
            UnsupportedMethod: the input does not implement it.
        """
        raise UnsupportedMethod(
            f"{type(self).__name__} does not tell which token belongs to which feature, which gradient methods need; "
            "use a Prompt, a TextTokenInput or a TextTemplateInput, or a perturbation method"
        )

    def sampled(self) -> InterpretableInput:
        """This input with its random baselines, if any, drawn once and fixed."""
        return self


class ProductBaselines:
    """Baselines drawn independently for each slot from its own list.

    Args:
        baseline_values: A list of candidates per slot, positional or by name; a tuple of names has tuples of values
            that are drawn together.

    Example:
        >>> sorted(ProductBaselines({"name": ["Ann"], ("city", "state"): [("Oslo", "NO")]}).sample().items())
        [('city', 'Oslo'), ('name', 'Ann'), ('state', 'NO')]
    """

    def __init__(self, baseline_values: Sequence[Sequence[Any]] | Mapping[Any, Sequence[Any]]) -> None:
        self.baseline_values = baseline_values

    def sample(self) -> list[Any] | dict[str, Any]:
        """One candidate per slot, from Python's global random stream."""
        if not isinstance(self.baseline_values, Mapping):
            return [random.choice(candidates) for candidates in self.baseline_values]
        chosen: dict[str, Any] = {}
        for names, candidates in self.baseline_values.items():
            value = random.choice(candidates)
            chosen.update(zip(names, value, strict=True) if isinstance(names, tuple) else [(names, value)])
        return chosen

    def __call__(self) -> list[Any] | dict[str, Any]:
        """Same as `sample`."""
        return self.sample()


class TextTemplateInput(InterpretableInput):
    """A template whose slots are the features.

    Args:
        template: A format string with `{}` or `{name}` slots, or a function of the values that returns the text.
        values: The values of the slots, positional or by name.
        baselines: The values of absent slots; empty text by default. A function is called for a fresh sample (see
            `ProductBaselines`).
        mask: The group number of each slot, positional or by name; the slots of a group are one feature, and features
            are ordered by group number.

    Raises:
        EmptyPrompt: there are no values.
        InvalidValue: the values do not match the template, or baselines or mask do not match the values.

    Example:
        >>> TextTemplateInput("{} lives in {}.", ["Dave", "Palm Coast"]).to_model_input()
        'Dave lives in Palm Coast.'
    """

    def __init__(
        self,
        template: str | Callable[..., str],
        values: Texts,
        baselines: Texts | Callable[[], Any] | None = None,
        mask: Sequence[int] | Mapping[str, int] | None = None,
    ) -> None:
        if not values:
            raise EmptyPrompt("a template needs at least one value to attribute to; got none")
        self.template = template
        self.dict_keys = list(values) if isinstance(values, Mapping) else None
        self.values: list[str] = self._in_order(values, "values")
        self.baselines = [""] * len(self.values) if baselines is None else baselines
        if baselines is not None and not callable(baselines):
            self.baselines = self._in_order(baselines, "baselines")
        groups = list(range(len(self.values))) if mask is None else self._in_order(mask, "mask")
        self.mask = None if mask is None else groups
        numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
        self._group = torch.tensor([numbers[group] for group in groups], device="cpu")
        self.n_itp_features = len(numbers)
        self.to_model_input()

    def to_tensor(self) -> Tensor:
        """`(1, groups)` of ones."""
        return torch.ones(1, self.n_itp_features, dtype=torch.float32, device="cpu")

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> str:
        """The text, with absent slots at their baselines."""
        present = [True] * len(self.values)
        if perturbed_tensor is not None:
            check_width(perturbed_tensor, self.n_itp_features)
            present = (perturbed_tensor[0, self._group.to(perturbed_tensor.device)] != 0).tolist()
        if all(present):
            return self._fill(self.values)
        absent = self._in_order(self.baselines(), "baselines") if callable(self.baselines) else self.baselines
        return self._fill([own if here else base for own, base, here in zip(self.values, absent, present, strict=True)])

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        """Assigns the attribution of its group to each slot."""
        return itp_attr[..., self._group.to(itp_attr.device)]

    def placed(self, language_model: LanguageModel) -> TokenMap:
        """The tokens of the filled template; those of a slot belong to its group.

        Raises:
            UnsupportedMethod: the template is a function that does more than insert the values.
        """
        text, spans = "", list[tuple[Span, int]]()
        for character in self._fill([chr(_FIRST_MARK + i) for i in range(len(self.values))]):
            slot = ord(character) - _FIRST_MARK
            value = self.values[slot] if 0 <= slot < len(self.values) else character
            if value is not character:
                spans.append(((len(text), len(text) + len(value)), int(self._group[slot])))
            text += value
        if text != self.to_model_input():
            return super().placed(language_model)
        alignment = align(language_model.tokenizer, text, special_tokens=True)
        slots = owners(text, alignment.spans, [span for span, _ in spans])
        return TokenMap(alignment.ids, tuple(-1 if owner < 0 else spans[owner][1] for owner in slots))

    def sampled(self) -> TextTemplateInput:
        """The same template with one sample of its baselines."""
        if not callable(self.baselines):
            return self
        keyed = dict(zip(self.dict_keys, self.values, strict=True)) if self.dict_keys else self.values
        mask = self.mask and (dict(zip(self.dict_keys, self.mask, strict=True)) if self.dict_keys else self.mask)
        return TextTemplateInput(self.template, keyed, self.baselines(), mask)

    def _fill(self, texts: Sequence[str]) -> str:
        fill = self.template.format if isinstance(self.template, str) else self.template
        try:
            return fill(**dict(zip(self.dict_keys, texts, strict=True))) if self.dict_keys else fill(*texts)
        except (IndexError, KeyError) as error:
            if callable(self.template):
                raise
            given = self.dict_keys or f"{len(self.values)} values"
            raise InvalidValue(
                f"the template {self.template!r} has a slot without a value ({error}); got {given}"
            ) from None

    def _in_order(self, items: Any, what: str) -> list[Any]:
        if isinstance(items, Mapping) != (self.dict_keys is not None):
            raise InvalidType(f"{what} must have the form of the values: a dict by name, or a positional list")
        ordered = list(items.values()) if isinstance(items, Mapping) else list(items)
        if self.dict_keys is not None:
            if set(items) != set(self.dict_keys):
                raise InvalidValue(f"{what} must name the slots {self.dict_keys}; got {list(items)}")
            ordered = [items[key] for key in self.dict_keys]
        if hasattr(self, "values") and len(ordered) != len(self.values):
            raise InvalidValue(f"{what} must have one entry per value ({len(self.values)}); got {len(ordered)}")
        return ordered


class TextTokenInput(InterpretableInput):
    """A text whose tokens are the features, the tokenizer's special tokens included.

    Args:
        text: The text, tokenised with special tokens; those that it already begins with are not added again.
        tokenizer: The model's tokenizer.
        baselines: The token, or its id, that replaces absent ones.
        skip_tokens: Tokens, or their ids, that are always present and not features.

    Raises:
        EmptyPrompt: no token is left to attribute to.
        UnknownName: a token is not in the vocabulary.
    """

    def __init__(
        self,
        text: str,
        tokenizer: TokenizerLike,
        baselines: int | str = 0,
        skip_tokens: Sequence[int] | Sequence[str] | None = None,
    ) -> None:
        if not isinstance(text, str):
            raise InvalidType(f"text must be a str; got {type(text).__name__}")
        self.tokenizer = tokenizer
        ids = encode(tokenizer, text, special_tokens=True)
        skipped = {token_id(tokenizer, token) for token in skip_tokens or ()}
        self.inp_tensor = torch.tensor([ids], dtype=torch.long, device="cpu")
        self._kept = torch.tensor(
            [i for i, token in enumerate(ids) if token not in skipped], dtype=torch.long, device="cpu"
        )
        if not len(self._kept):
            raise EmptyPrompt(
                f"no token of {text!r} is left to attribute to" + (" after skip_tokens" if skipped else "")
            )
        self.itp_tensor = self.inp_tensor[:, self._kept]
        self.values = list(map(str, tokenizer.convert_ids_to_tokens(self.itp_tensor[0].tolist())))
        self.n_itp_features = len(self._kept)
        self.baselines = token_id(tokenizer, baselines)

    def placed(self, language_model: LanguageModel) -> TokenMap:
        """All tokens; skipped ones have no feature."""
        ids = self.inp_tensor[0].tolist()
        features = torch.full((len(ids),), -1, dtype=torch.int64, device="cpu")
        features[self._kept] = torch.arange(self.n_itp_features, device="cpu")
        return TokenMap(tuple(ids), tuple(features.tolist()), self.baselines)

    def token_texts(self) -> list[str]:
        """The readable text of each token that is a feature."""
        texts = token_texts(self.tokenizer, self.inp_tensor[0].tolist())
        return [texts[i] for i in self._kept.tolist()]

    def to_tensor(self) -> Tensor:
        """`(1, tokens)` of ones."""
        return torch.ones_like(self.itp_tensor)

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Token ids `(1, all tokens)`, with the baseline token in place of absent ones."""
        ids = self.inp_tensor.clone()
        if perturbed_tensor is not None:
            check_width(perturbed_tensor, self.n_itp_features)
            ids[0, self._kept[perturbed_tensor[0].cpu() == 0]] = self.baselines
        return ids


def check_width(perturbed: Tensor, features: int) -> None:
    """Checks the shape of a tensor of features.

    Raises:
        InvalidShape: the shape is not `(1, features)`.
    """
    if perturbed.shape != (1, features):
        raise InvalidShape(f"perturbed_tensor must have the shape (1, {features}); got {tuple(perturbed.shape)}")


def token_id(tokenizer: TokenizerLike, token: int | str) -> int:
    """The id of a token given by text or id.

    Raises:
        UnknownName: it is not in the vocabulary.
        InvalidType: it is neither a string nor an id.
        InvalidValue: it contains half of a surrogate pair.
    """
    if isinstance(token, bool) or not isinstance(token, int | str):
        raise InvalidType(f"a token must be a string or an id; got {token!r}")
    if isinstance(token, str):
        check_characters(token, "a token")
    size = vocabulary_size(tokenizer)
    if isinstance(token, int):
        number: Any = token
    else:
        number = getattr(tokenizer, "convert_tokens_to_ids", lambda token: None)(token)
    known = isinstance(number, int) and number >= 0 and (size is None or number < size)
    unknown = getattr(tokenizer, "unk_token_id", None), getattr(tokenizer, "unk_token", None)
    if not known or (isinstance(token, str) and number == unknown[0] and token != unknown[1]):
        most = "on" if size is None else f"to {size - 1}"
        raise UnknownName("token", token, [f"ids from 0 {most} and tokens of the vocabulary"])
    return int(number)
