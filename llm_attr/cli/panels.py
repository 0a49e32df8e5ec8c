"""Panels of a command's help: options that belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, get_type_hints

from typer.models import OptionInfo

Command = TypeVar("Command", bound=Callable[..., None])


def in_panels(panels: Mapping[str, Sequence[str]]) -> Callable[[Command], Command]:
    """Sorts the options of a command into panels, by the names of its parameters.

    Args:
        panels: The title of each panel, and its parameters.
    """

    def sort(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        for title, names in panels.items():
            for name in names:
                for info in hints[name].__metadata__:
                    if isinstance(info, OptionInfo):
                        info.rich_help_panel = title
        command.__annotations__ = hints
        return command

    return sort
