"""What is too large for a pickle, as a model is, and belongs to whoever holds it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar, TypeVar

Self = TypeVar("Self", bound="PickledWithout")


class PickledWithout:
    """Some attributes stay out of a pickle, where they become None; copies, deep ones too, share them.

    Attributes:
        shared: Their names.
    """

    shared: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(self.shared)}

    def __copy__(self: Self) -> Self:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        made = object.__new__(type(self))
        memo[id(self)] = made
        own = {name: value for name, value in self.__dict__.items() if name not in self.shared}
        made.__dict__.update({name: self.__dict__.get(name) for name in self.shared}, **deepcopy(own, memo))
        return made
