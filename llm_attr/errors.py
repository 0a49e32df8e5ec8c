"""Every error that llm_attr raises on purpose.

::

    LlmAttrError
    ├── InvalidValue (ValueError)
    │   ├── UnknownName              a method, unit or model that does not exist; lists those that do
    │   ├── InvalidShape             a tensor whose shape does not fit (inputs, outputs, feature mask, baseline)
    │   ├── InvalidTarget            a target that is missing, out of range or of the wrong form
    │   ├── TooManyFeatures          more features than can be enumerated; says what to use instead
    │   ├── LayerNotReached          a layer that the forward pass does not reach
    │   ├── SeveralCalls             a layer that runs several times, so that one call must be selected
    │   ├── NoGradient               an output that does not depend on what it is differentiated with respect to
    │   ├── NonFiniteGradient        a gradient that is NaN or infinite
    │   ├── NoRule                   an operation of the model that the rules of a method cannot follow; names it
    │   ├── NonFiniteValue           an output that is NaN or infinite when some features are absent; says which
    │   ├── EmptyPrompt              nothing to attribute to
    │   ├── EmptyTarget              nothing to explain
    │   ├── ContextTooLong           prompt + answer exceed the model's context
    │   ├── UnalignedTokenizer       tokens cannot be mapped to characters reliably
    │   ├── NonFiniteScore           the model's output is NaN or infinite
    │   ├── OtherRun                 a folder with a run of other arguments, another model or another data set
    │   ├── BrokenFile               a stored file that is damaged or of another kind
    │   ├── NewerFile                a stored file that a newer version of llm_attr wrote
    │   └── OutOfStep                processes that share an explanation and make different calls
    ├── InvalidType (TypeError)
    │   ├── UnknownKeyword           a keyword argument that does not exist; names the nearest
    │   ├── NotALanguageModel        a model without next-token logits
    │   └── UnsupportedMethod        an attribution method that does not support what was requested
    ├── Unavailable (RuntimeError)
    │   ├── FetchFailed              an embedded model could not be fetched
    │   ├── OutOfMemory              even the smallest chunk does not fit
    │   ├── LedgerFailed             a ledger's file that cannot be read or written, and why
    │   ├── ProcessFailed            another process of a shared explanation raised an error
    │   ├── ProcessLost              another process of a shared explanation was killed
    │   ├── NotStored                results that could not be written
    │   └── InUse                    a folder in which another process is at work
    ├── NotGrounded (AssertionError)  units carry less, or more, of an answer than a test wants
    ├── ExplanationChanged (AssertionError)  an explanation differs from its reference by more than noise
    ├── MissingExtra (ImportError)   an optional package is not installed; names the extra
    └── Cancelled                    the caller asked to stop

Each message says what is wrong, what was given and what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any


class LlmAttrError(Exception):
    """The base of all errors of this library; all of them can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self), *self.args), self.__dict__


class InvalidValue(LlmAttrError, ValueError):
    """An argument has the right type but an unusable value."""


class UnknownName(InvalidValue):
    """An unknown name; the message lists the accepted ones."""

    def __init__(self, what: str, given: object, accepted: Iterable[str]) -> None:
        accepted = list(accepted)
        super().__init__(f"unknown {what} {given!r}{_nearest(given, accepted)}; accepted: {', '.join(accepted)}")


class InvalidShape(InvalidValue):
    """A tensor has a shape that does not fit the others."""


class InvalidTarget(InvalidValue):
    """A target is missing, out of range or of the wrong form for the model's output."""


class TooManyFeatures(InvalidValue):
    """More features than an exact method can enumerate."""


class LayerNotReached(InvalidValue):
    """The forward pass does not reach the layer."""


class SeveralCalls(InvalidValue):
    """A layer runs several times in one forward pass, and none of its calls was selected."""


class NoGradient(InvalidValue):
    """No differentiable path leads from the output to what it is differentiated with respect to."""


class NonFiniteGradient(InvalidValue):
    """A gradient is NaN or infinite."""


class NoRule(InvalidValue):
    """The model has an operation that the rules of DeepLift, LRP or guided backpropagation do not cover."""

    def __str__(self) -> str:
        return f"{super().__str__()}; IntegratedGradients, InputXGradient and FeatureAblation need no rules"


class NonFiniteValue(InvalidValue):
    """The output is NaN or infinite when some features are absent."""


class EmptyPrompt(InvalidValue):
    """The prompt has nothing to attribute to."""


class EmptyTarget(InvalidValue):
    """The target has no token to explain."""


class ContextTooLong(InvalidValue):
    """Prompt and answer together are longer than the model's context."""


class UnalignedTokenizer(InvalidValue):
    """The tokenizer's tokens cannot be mapped reliably to the characters of the text."""


class NonFiniteScore(InvalidValue):
    """The model's output is NaN or infinite."""


class OtherRun(InvalidValue):
    """A folder holds a run with other arguments, another model or another data set."""


class BrokenFile(InvalidValue):
    """A stored file is damaged or of another kind."""


class NewerFile(InvalidValue):
    """A stored file was written by a newer version of llm_attr."""


class OutOfStep(InvalidValue):
    """The processes that share an explanation make different calls, or have different arguments."""


class InvalidType(LlmAttrError, TypeError):
    """An argument has an unusable type."""


class UnknownKeyword(InvalidType):
    """An unknown keyword argument; the message names the nearest one, or where it belongs."""

    def __init__(
        self, where: str, given: Iterable[str], accepted: Iterable[str], belongs: Mapping[str, str] | None = None
    ) -> None:
        given, accepted, belongs = sorted(given), sorted(accepted), belongs or {}
        near = {name: f" (use {belongs[name]})" if name in belongs else _nearest(name, accepted) for name in given}
        shown = ", ".join(f"{name!r}{near[name]}" for name in given)
        super().__init__(f"{where} takes no keyword {shown}; accepted: {', '.join(accepted) or 'none'}")


class NotALanguageModel(InvalidType):
    """The model does not give next-token logits."""


class UnsupportedMethod(InvalidType):
    """The attribution method does not support what was requested."""


class Unavailable(LlmAttrError, RuntimeError):
    """Something outside the program is missing."""


class FetchFailed(Unavailable):
    """An embedded model could not be fetched or converted."""


class EngineFailed(Unavailable):
    """A scoring server does not answer, or refuses a request."""


class EngineRefused(Unavailable):
    """A scoring server's values cannot be those of the answer's tokens; the message has the evidence."""


class OutOfMemory(Unavailable):
    """Even the smallest chunk does not fit into memory."""


class LedgerFailed(Unavailable):
    """A ledger's file cannot be read or written: its folder is read-only or on a network, or the disk is full."""


class ProcessFailed(Unavailable):
    """Another process of a shared explanation raised an error; the message has its traceback."""


class ProcessLost(Unavailable):
    """Another process of a shared explanation ended without an error that it could tell."""


class NotStored(Unavailable):
    """Results could not be written; those written before are intact."""


class InUse(Unavailable):
    """Another process is at work in a folder."""


class MissingExtra(LlmAttrError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is needed for this and not installed; run: pip install 'llm_attr[{extra}]'")


class _FailedTest(LlmAttrError, AssertionError):
    """A test failed; `explanation` is what it was about, to show."""

    def __init__(self, message: str, explanation: Any = None) -> None:
        super().__init__(message)
        self.explanation = explanation


class NotGrounded(_FailedTest):
    """Units carry less, or more, of an answer than a test wants."""


class ExplanationChanged(_FailedTest):
    """An explanation differs from its reference by more than noise."""


class Cancelled(LlmAttrError):
    """The caller asked to stop before the work was done."""


def _nearest(given: object, accepted: Iterable[str]) -> str:
    match = get_close_matches(str(given), list(accepted), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def positive(name: str, value: int) -> int:
    """Returns the value.

    Raises:
        InvalidValue: it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidValue(f"{name} must be a whole number of at least 1; got {value!r}")
    return value


@contextmanager
def about_prompt(number: int | None) -> Iterator[None]:
    """Prefixes errors raised inside with the number of the prompt; None for a single prompt."""
    try:
        yield
    except LlmAttrError as error:
        if number is not None:
            error.args = (f"prompt {number}: {error}", *error.args[1:])
        raise
