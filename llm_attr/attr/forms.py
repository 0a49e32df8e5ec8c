"""The form of results, as a type checker sees it: that of the inputs, and pairs with `return_...=True`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, overload

from torch import Tensor

from llm_attr.typing import Form, TensorOrTensors

Options = ParamSpec("Options")


class Attribute(Protocol[Options]):
    """What `keeps_form` says of `attribute`; typing only."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called on the class."""

    def __get__(self, method: object, owner: type) -> BoundAttribute[Options]:
        """Called on an instance."""


class BoundAttribute(Protocol[Options]):
    """`attribute(inputs, ...)`, whose result has the form of the inputs; typing only."""

    @overload
    def __call__(self, inputs: Form, *args: Any, return_info: Literal[True], **kwargs: Any) -> tuple[Any, ...]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Form, *args: Any, return_convergence_delta: Literal[True], **kwargs: Any
    ) -> tuple[Form, Tensor]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, inputs: Form, *args: Any, return_stderr: Literal[True], **kwargs: Any
    ) -> tuple[Form, Form]: ...
    @overload
    def __call__(self, inputs: Form, *args: Options.args, **kwargs: Options.kwargs) -> Form: ...


def keeps_form(
    attribute: Callable[Concatenate[Any, TensorOrTensors, Options], Any],
) -> Attribute[Options]:
    """Decorator: tells type checkers that the result has the form of the inputs.

    With `return_convergence_delta=True` it is followed by the delta, with `return_stderr=True` by standard errors of
    the same form. The method itself is unchanged.
    """
    return attribute
