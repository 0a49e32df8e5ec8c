"""The abstract classes that every attribution method descends from."""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable

from llm_attr.core.game import Estimator
from llm_attr.errors import InvalidType
from llm_attr.typing import ForwardFunction


class Attribution(ABC):
    """An explanation of a forward function.

    Args:
        forward_func: A model or any callable that takes the inputs, then the additional arguments, and gives a tensor
            `(batch, ...)` or one number for the whole batch.

    Shared arguments of `attribute`:

    * `inputs`: tensor or tuple of tensors `(batch, *features)`. The result has the same form and shapes.
    * `baselines`: the absent state; None (zero), a number, a tensor of the input's shape or one row of it, or a tuple
      of these, one for each input.
    * `target`: the explained entry of the output; an int, a tuple for outputs of more axes, a 1-D tensor or list with
      one entry for each example; None where each example has one output.
    * `additional_forward_args`: passed on after the inputs and never attributed; tensors with a row for each example
      follow their example.
    * `show_progress`: a progress bar on standard error.
    """

    def __init__(self, forward_func: ForwardFunction) -> None:
        if not callable(forward_func):
            raise InvalidType(f"forward_func must be a model or a callable; got {type(forward_func).__name__}")
        self.forward_func = forward_func

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in units of the output (True) or of output per input (False)."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can tell how far its sum is from the change of the output."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The class name in words."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", cls.__name__)


class PerturbationAttribution(Attribution):
    """A method that compares the output with that of inputs whose features are absent."""

    estimator: Callable[..., Estimator]
    """Makes the estimator that this method plays games with, from the method's own options; the same for text."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are differences of outputs."""
        return True
