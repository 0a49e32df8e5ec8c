"""Scalars: the quantity of an answer that is explained, per token and for the full answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_attr.core.memory import is_out_of_memory
from llm_attr.core.tensors import exact
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, InvalidValue, LlmAttrError, UnknownName
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.target.answer import Generated, answer_ids
from llm_attr.typing import Values

ScalarFunction: TypeAlias = Callable[[Tensor, Tensor], Any]
"""Maps the logits that predict the answer, fp32 `(tokens, vocabulary)`, and its ids `(tokens,)` to `(tokens,)`, summed
for the full answer, or to one number for the full answer."""

Foil: TypeAlias = str | Tensor | NDArray[Any] | Sequence[int] | Generated
"""Another answer: text, token ids, or the return value of `model.generate`."""

UNITS = {
    "log_prob": "log-probability (nats)",
    "prob": "probability",
    "logit": "logit",
    "entropy": "entropy (nats)",
    "kl": "divergence from the reference (nats)",
    "margin": "margin of the logit",
    "contrast": "log-probability minus that of the foil (nats)",
    "callable": "value of the function",
}
"""Every quantity by name, and its unit."""

ADDITIVE = UNITS.keys() - {"prob"}
"""Those whose sum over the tokens is the value of the answer."""

NAMES = tuple(name for name in UNITS if name != "callable")
"""Those that can be selected by name."""


@dataclass(frozen=True)
class Contrast:
    """Two answers to the same prompt, aligned token by token.

    The common first and last tokens are aligned. The rest of the foil is spread evenly over the rest of the answer; if
    the answer has no rest, the foil's goes to the answer's next token, or to its last one.

    Attributes:
        answer: Token ids of the answer.
        foil: Token ids of the foil.

    Example:
        >>> Contrast((5, 6, 9), (5, 7, 8, 9)).rows(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 10, 20, 1])).tolist()
        [0.0, -28.0, 2.0]
    """

    answer: tuple[int, ...]
    foil: tuple[int, ...]

    def rows(self, answer: Tensor, foil: Tensor) -> Tensor:
        """Scores `(..., answer tokens)` and `(..., foil tokens)` -> their difference `(..., answer tokens)`.

        The sum of the differences is the difference of the sums.
        """
        start, end = self._start, self._end
        differing = foil[..., start : foil.shape[-1] - end].sum(-1, keepdim=True)
        first, stop = start, len(self.answer) - end
        if first == stop:
            first, stop = min(first, len(self.answer) - 1), min(first, len(self.answer) - 1) + 1
        own = torch.arange(len(self.answer), device=answer.device)
        share = ((own >= first) & (own < stop)).to(answer.dtype) / (stop - first)
        between = torch.zeros_like(answer[..., : len(self.answer) - start - end])
        beside = torch.cat([foil[..., :start], between, foil[..., foil.shape[-1] - end :]], -1)
        return answer - beside - share * differing

    @property
    def _start(self) -> int:
        """The length of the common beginning."""
        pairs = zip(self.answer, self.foil, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self.answer), len(self.foil)))

    @property
    def _end(self) -> int:
        """The length of the common end, without the common beginning."""
        rest = min(len(self.answer), len(self.foil)) - self._start
        pairs = zip(self.answer[::-1], self.foil[::-1], strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b or i == rest), rest)


@dataclass(frozen=True, eq=False)
class Scalar:
    """A quantity of an answer, the same for every method.

    ::

        log_prob  log p_t                                    full answer: the sum
        prob      p_t                                        the product
        logit     z_t[token]                                 the sum
        margin    z_t[token] - max of the other z_t          the sum
        entropy   - sum_v p_t[v] log p_t[v]                  the sum
        kl        sum_v r_t[v] (log r_t[v] - log p_t[v])     the sum
        contrast  log p_t minus the foil's                   the sum: log p(answer) - log p(foil)

    where z_t are the logits that predict token t, p_t is their softmax, and r_t is the reference.

    Attributes:
        name: One of these, or `callable`.
        function: The function of a `callable`.
        reference: fp32 `(tokens, vocabulary)` log-probabilities r for `kl`; None: those after the full prompt.
        foil: The other answer of a `contrast`.
        contrast: The answer aligned with its foil, once the answer is known.

    Raises:
        UnknownName: there is no such quantity.
        InvalidValue: a contrast without a foil.
        InvalidShape: the reference is not a matrix.
    """

    name: str
    function: ScalarFunction | None = None
    reference: Tensor | None = None
    foil: Foil | None = None
    contrast: Contrast | None = None

    def __post_init__(self) -> None:
        if self.name not in NAMES and not (self.name == "callable" and self.function is not None):
            raise UnknownName("scalar", self.name, [*NAMES, "a function of (logits, ids)"])
        if self.name == "contrast" and self.foil is None:
            raise InvalidValue("a contrast needs another answer: foil='...'")
        if self.reference is not None and self.reference.dim() != 2:
            raise InvalidShape(
                f"the reference of kl must be log-probabilities (tokens, vocabulary); got the shape "
                f"{tuple(self.reference.shape)}"
            )

    @property
    def label(self) -> str:
        """The name of the quantity or of the function."""
        return self.name if self.function is None else getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def needs_reference(self) -> bool:
        """Whether the full prompt must be run first."""
        return self.name == "kl" and self.reference is None

    @property
    def is_of_log_probs(self) -> bool:
        """Whether it depends only on the log-probabilities of the tokens."""
        return self.name in ("log_prob", "prob", "contrast")

    def about(self, language_model: LanguageModel) -> dict[str, str]:
        """Details besides the name: the text of the `foil`, the name of the `function`."""
        if self.contrast is not None:
            return {"foil": language_model.decode(list(self.contrast.foil))}
        return {} if self.function is None else {"function": self.label}

    def bound(self, language_model: LanguageModel, answer: tuple[int, ...], prompt: Sequence[int] = ()) -> Scalar:
        """The scalar bound to this answer to a prompt.

        A foil is read like a target, see `answer_ids`; if the answer ends with an end token, so does the foil.

        Raises:
            InvalidTarget: the foil is the answer.
            EmptyTarget: the foil has no token.
            InvalidShape: the reference has another number of tokens.
        """
        if self.reference is not None and len(self.reference) != len(answer):
            raise InvalidShape(
                f"the reference of kl has {len(self.reference)} tokens, but the answer has {len(answer)}; pass the "
                "log-probabilities that predict each token of the answer"
            )
        if self.foil is None:
            return self
        foil = answer_ids(language_model, prompt, self.foil)
        if isinstance(self.foil, str) and answer[-1] in language_model.end_ids and foil[-1] != answer[-1]:
            foil = (*foil, answer[-1])
        if foil == answer:
            raise InvalidTarget(
                f"the foil is the answer itself, {language_model.decode(list(answer))!r}; give another answer"
            )
        return replace(self, contrast=Contrast(answer, foil))

    @property
    def waits(self) -> bool:
        """Whether it needs the logits of all tokens of an answer at once."""
        return self.function is not None

    def read(self, logits: Tensor, ids: Tensor, places: Tensor | None = None) -> Tensor:
        """The quantity of each token, differentiable; a callable may return one for the full answer.

        For `prob` and `contrast` these are the log-probabilities, see `payoff` and `Contrast.rows`.

        Args:
            logits: fp32 `(rows, tokens, vocabulary)`, which predict each token.
            ids: `(tokens,)`.
            places: `(tokens,)` positions in the answer, for a reference; None: the full answer.

        Returns:
            `(rows, tokens)`, or `(rows,)`.

        Raises:
            InvalidShape: the reference or the return value of a callable has another shape.
            InvalidType: a callable did not return a number.
            InvalidValue: a callable failed, or returned NaN or infinity.
        """
        if self.function is not None:
            return torch.stack([_called(self.function, self.label, row, ids) for row in logits])
        if self.name == "kl":
            return self._divergence(logits, places)
        return _READ.get(self.name, _log_prob)(logits, ids)

    def payoff(self, values: Values, per_token: bool = True) -> Values:
        """The value of the full answer, then of each token; see `payoff`."""
        return payoff(values, self.name, per_token)

    def _divergence(self, logits: Tensor, places: Tensor | None) -> Tensor:
        if self.reference is None:
            raise InvalidValue("kl has no reference yet: pass log-probabilities, or run the full prompt first")
        reference = self.reference if places is None else self.reference[places.to(self.reference.device)]
        reference = reference.to(logits.device)
        if reference.shape != logits.shape[1:]:
            raise InvalidShape(
                f"the reference of kl must be log-probabilities over the {logits.shape[2]} tokens of the model; got "
                f"shape {tuple(self.reference.shape)}"
            )
        weight = reference.exp()
        return _weighted(weight, reference).sum(-1) - _weighted(weight, logits.log_softmax(-1)).sum(-1)


def kl(reference: Tensor | None = None) -> Scalar:
    """The divergence KL(reference || p) of the next-token distribution at each token of the answer, in nats.

    Args:
        reference: Log-probabilities `(tokens, vocabulary)` that predict each token; None: those after the full prompt.
    """
    return Scalar("kl", reference=None if reference is None else reference.detach().float())


def contrast(foil: Foil) -> Scalar:
    """The difference log p(answer) - log p(foil): evidence for the answer over the foil, in nats.

    Tokens are aligned as in `Contrast`.
    """
    return Scalar("contrast", foil=foil)


ScalarLike: TypeAlias = str | ScalarFunction | Scalar
"""A quantity by its name, a function of logits and ids, or a `Scalar` such as `kl(reference)`."""


def scalar_of(given: Any, foil: Foil | None = None) -> Scalar:
    """A `Scalar` from a public argument.

    Args:
        given: A `ScalarLike`.
        foil: Turns `log_prob` into a contrast.

    Raises:
        UnknownName: there is no such quantity; names the nearest.
        InvalidType: it is neither a name nor a function.
        InvalidValue: a contrast without a foil, or a foil with another quantity.
    """
    if foil is not None:
        if given not in ("log_prob", "contrast"):
            raise InvalidValue(f"a foil goes with the scalars 'log_prob' and 'contrast'; got {given!r}")
        return contrast(foil)
    if isinstance(given, Scalar):
        return given
    if isinstance(given, str):
        return Scalar(given)
    if callable(given):
        return Scalar("callable", given)
    raise InvalidType(f"a scalar is one of {', '.join(NAMES)}, or a function of (logits, ids); got {given!r}")


def scalars_of(given: Any, foil: Foil | None = None) -> list[Scalar]:
    """Scalars from a `ScalarLike` or a list of them; in a list the foil belongs to `contrast`.

    Raises:
        InvalidValue: the list is empty, or there is a foil but no contrast in the list.
        LlmAttrError: as in `scalar_of`.
    """
    if not isinstance(given, list | tuple):
        return [scalar_of(given, foil)]
    if not given or (foil is not None and "contrast" not in given):
        raise InvalidValue(
            f"a list of scalars must have at least one, and 'contrast' if there is a foil; got {list(given)!r}"
        )
    return [scalar_of(item, foil if isinstance(item, str) and item == "contrast" else None) for item in given]


def payoff(values: Values, name: str, per_token: bool = True) -> Values:
    """Values of the tokens `(..., tokens)` -> attributed values `(..., 1 + tokens)`, the full answer first.

    Args:
        values: From `Scalar.read`; a number for the full answer, `(..., 1)`, is returned unchanged.
        name: The name of the scalar.
        per_token: False for a number for the full answer.
    """
    if not per_token:
        return values
    both = torch.cat([values.sum(-1, keepdim=True), values], -1)
    return exact(both).exp().float().to(both.device) if name == "prob" else both


def _chosen(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.gather(-1, ids.expand(logits.shape[:-1])[..., None])[..., 0]


def _log_prob(logits: Tensor, ids: Tensor) -> Tensor:
    return _chosen(logits, ids) - logits.logsumexp(-1)


def _margin(logits: Tensor, ids: Tensor) -> Tensor:
    others = logits.scatter(-1, ids.expand(logits.shape[:-1])[..., None], -torch.inf)
    return _chosen(logits, ids) - others.amax(-1)


def _entropy(logits: Tensor, ids: Tensor) -> Tensor:
    log_probs = logits.log_softmax(-1)
    return -_weighted(log_probs.exp(), log_probs).sum(-1)


def _weighted(weight: Tensor, log_probs: Tensor) -> Tensor:
    """The product, where 0 * -inf is 0."""
    return weight * log_probs.masked_fill(weight == 0, 0)


_READ: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"logit": _chosen, "margin": _margin, "entropy": _entropy}


def _called(function: ScalarFunction, label: str, logits: Tensor, ids: Tensor) -> Tensor:
    """The checked value of a user's function for one answer."""
    try:
        value = function(logits, ids)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error) or isinstance(error, LlmAttrError):
            raise
        raise InvalidValue(
            f"the scalar {label} failed on logits {tuple(logits.shape)} and ids {tuple(ids.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(value, int | float):
        value = logits.new_tensor(float(value))
    if not isinstance(value, Tensor) or value.is_complex():
        raise InvalidType(f"the scalar {label} must return a tensor (tokens,) or a number; got {type(value).__name__}")
    if value.shape not in ((), ids.shape):
        raise InvalidShape(
            f"the scalar {label} must return shape ({len(ids)},), a number for each token of the answer, or a single "
            f"number; got shape {tuple(value.shape)}"
        )
    if not value.isfinite().all():
        raise InvalidValue(f"the scalar {label} returned NaN or infinity; an attribution needs finite numbers")
    return value.float()
