"""Objects that leave large attributes, such as a model, out of their pickles."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar, TypeVar

Self = TypeVar("Self", bound="PickledWithout")


class PickledWithout:
    """Pickles without the attributes named in `shared`, which load as None; copies and deep copies share them."""

    shared: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **dict.fromkeys(self.shared)}

    def __copy__(self: Self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        own = {name: value for name, value in self.__dict__.items() if name not in self.shared}
        copied.__dict__.update({name: self.__dict__.get(name) for name in self.shared}, **deepcopy(own, memo))
        return copied
