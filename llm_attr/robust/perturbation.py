"""The base of perturbations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Perturbation:
    """Changes inputs; subclasses implement `perturb`, and calling an object calls it.

    Example:
        >>> import torch
        >>> class Noise(Perturbation):
        ...     def perturb(self, inputs, std):
        ...         return inputs + std * torch.randn_like(inputs)
        >>> Noise()(torch.zeros(1, 2), std=0.0)
        tensor([[0., 0.]])
    """

    perturb: Callable[..., Any]
    """From inputs, and options of its own, to perturbed inputs of the same shapes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.perturb(*args, **kwargs)

    def attempts(self, count: int, inputs: Any, **kwargs: Any) -> Iterator[Any]:
        """Perturbs the inputs several times, one after the other.

        Args:
            count: How often.
            inputs: What is perturbed.
            **kwargs: The options of `perturb`.
        """
        for _ in range(count):
            yield self.perturb(inputs, **kwargs)


def attempts_of(attack: Callable[..., Any], count: int, inputs: Any, **kwargs: Any) -> Iterator[Any]:
    """The results of several attempts of a perturbation or any other callable."""
    if isinstance(attack, Perturbation):
        yield from attack.attempts(count, inputs, **kwargs)
    else:
        for _ in range(count):
            yield attack(inputs, **kwargs)
