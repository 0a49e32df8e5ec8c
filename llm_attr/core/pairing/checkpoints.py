"""The states of a model that a training run left behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from llm_attr.errors import InvalidType, InvalidValue

Load: TypeAlias = Callable[[nn.Module, Any], float]
"""`(model, checkpoint) -> learning rate`: loads a checkpoint into the model."""


def load_flexible_state_dict(model: nn.Module, path: Any) -> float:
    """Loads a file written by `torch.save(model.state_dict(), path)`; one of a DataParallel model too.

    Args:
        model: The model.
        path: The file.

    Returns:
        1.0, the weight of the checkpoint.

    Raises:
        InvalidType: the file holds no state dict.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(model.state_dict(), Path(folder) / "model.pt")
        ...     load_flexible_state_dict(model, Path(folder) / "model.pt")
        1.0
    """
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict):
        raise InvalidType(f"{path} must hold a state dict; it holds {type(state).__name__}")
    wrapped, wanted = ("module." in name[:7] for name in (next(iter(state), ""), next(iter(model.state_dict()), "")))
    if wrapped and not wanted:
        state = {name.removeprefix("module."): value for name, value in state.items()}
    elif wanted and not wrapped:
        state = {f"module.{name}": value for name, value in state.items()}
    model.load_state_dict(state)
    return 1.0


class Checkpoints:
    """Checkpoints of a model, loaded into it one after another; the model's own state comes back at the end.

    Args:
        model: The model.
        items: What `load` receives, one for each checkpoint; a folder stands for its files, in the order of their
            names with numbers by value; a file for itself.
        load: Loads a checkpoint and returns its learning rate.

    Raises:
        InvalidType: the model is no module, or the checkpoints are no paths.
        InvalidValue: there is no checkpoint.
    """

    def __init__(self, model: nn.Module, items: Any, load: Load) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidType(f"model must be a torch.nn.Module; got {type(model).__name__}")
        if not callable(load):
            raise InvalidType(
                f"checkpoints_load_func must be a callable (model, checkpoint) -> learning rate; got {load!r}"
            )
        self.model, self.items, self._load = model, _listed(items), load

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restores the model's parameters and buffers at the end."""
        before = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        try:
            yield
        finally:
            self.model.load_state_dict(before)

    def load(self, item: Any) -> float:
        """Loads a checkpoint and returns its learning rate.

        Raises:
            InvalidValue: the checkpoint does not fit the model.
            InvalidType: the load function returned no number.
        """
        try:
            rate = self._load(self.model, item)
        except (RuntimeError, KeyError) as error:
            raise InvalidValue(f"checkpoint {item!r} does not fit the model: {error}") from error
        if isinstance(rate, bool) or not isinstance(rate, int | float) or rate < 0:
            raise InvalidType(
                f"checkpoints_load_func must return the learning rate at the checkpoint, or 1.0; got {rate!r}"
            )
        return float(rate)


def _listed(items: Any) -> list[Any]:
    if isinstance(items, str | Path):
        path = Path(items)
        if not path.exists():
            raise InvalidValue(
                f"checkpoints must be a folder, a file or several of them; {str(items)!r} does not exist"
            )
        files = [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]
        items = [str(each) for each in sorted(files, key=lambda each: _by_value(each.name))]
    elif not isinstance(items, Iterable):
        raise InvalidType(f"checkpoints must be a folder, or what the load function takes, one each; got {items!r}")
    listed = list(items)
    if not listed:
        raise InvalidValue("checkpoints has none; at least one is needed")
    return listed


def _by_value(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def chosen_parameters(model: nn.Module, layers: Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The parameters of these layers; without any, those that require gradients, or all if none does.

    Raises:
        InvalidType: `layers` is no list of names.
        InvalidValue: a layer does not exist or has no parameters.
    """
    own = dict(model.named_parameters())
    if layers is None:
        trained = {name: value for name, value in own.items() if value.requires_grad}
        if not own:
            raise InvalidValue(
                "the model has no parameters, so that no training example can have had an influence on it"
            )
        return trained or own
    if isinstance(layers, str) or not all(isinstance(each, str) for each in layers):
        raise InvalidType(f"layers must be a list of names of modules, or None for all; got {layers!r}")
    modules, names = dict(model.named_modules()), set[str]()
    for layer in layers:
        if layer not in modules:
            near = ", ".join(name for name in modules if name) or "none"
            raise InvalidValue(f"the model has no layer {layer!r}; its layers: {near}")
        held = {id(value) for value in modules[layer].parameters()}
        if not held:
            raise InvalidValue(f"layer {layer!r} has no parameters; choose layers with weights")
        names |= {name for name, value in own.items() if id(value) in held}
    return {name: value for name, value in own.items() if name in names}
