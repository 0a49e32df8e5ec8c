"""Reading and replacing activations: the input or the output of a layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llm_attr.core.backward import held_for_this_pass, holding_hooks
from llm_attr.core.shared_context import uncompiled
from llm_attr.core.tensors import Slot, can_move, leaves, with_leaves
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, LayerNotReached, SeveralCalls, UnknownName
from llm_attr.typing import Tensors

IO: TypeAlias = Literal["input", "output"]

Visit: TypeAlias = Callable[[nn.Module, Any, bool], Any]
"""`(layer or its replica, value, again) -> value`; `again` is True when the layer is recomputed."""


@dataclass(frozen=True)
class Site:
    """The input or the output of a layer.

    The input is every tensor among the layer's positional arguments or, if it has none, the first floating-point tensor
    among its keyword arguments. The output is every tensor that the layer returns, nested in tuples or a `ModelOutput`
    too.

    Attributes:
        layer: A module of the model.
        io: `input` or `output`.
        call: Which of the layer's calls in one forward pass, from 0; None if there is only one.
        devices: The devices of a DataParallel model's replicas, in the order of the parts of a batch.
    """

    layer: nn.Module
    io: IO = "output"
    call: int | None = None
    devices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.io not in ("input", "output"):
            raise UnknownName("io", self.io, ("input", "output"))
        if self.call is not None and (isinstance(self.call, bool) or not isinstance(self.call, int) or self.call < 0):
            raise InvalidValue(f"call must be a whole number from 0, or None; got {self.call!r}")

    @classmethod
    def of(cls, layer: nn.Module | Site, to_input: bool = False) -> Site:
        """The site for a public `layer` argument.

        Raises:
            InvalidType: `layer` is not a module or a `Site`.
        """
        site = layer if isinstance(layer, Site) else cls(layer)
        if not isinstance(site.layer, nn.Module):
            raise InvalidType(f"layer must be a module of the model, or a Site; got {type(site.layer).__name__}")
        return replace(site, io="input") if to_input else site

    def __str__(self) -> str:
        return f"the {self.io} of layer {type(self.layer).__name__}"

    def part(self, device: int | None) -> int:
        """Which part of a batch is on a device.

        Raises:
            InvalidValue: the device is not among the known ones.
        """
        if device not in self.devices:
            raise InvalidValue(
                f"{self} was called on device {device}, which is not among the DataParallel devices "
                f"{list(self.devices)}; pass device_ids=[...], or the DataParallel model itself as forward_func"
            )
        return self.devices.index(device)


@dataclass(frozen=True)
class _Visited:
    """The tensors of one call, whether they are one bare tensor, and their device."""

    tensors: Tensors
    single: bool
    device: int | None


class Reading:
    """The tensors at a site in one forward pass; under DataParallel one part per replica."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._visits: dict[nn.Module, list[_Visited]] = defaultdict(list)

    def add(self, module: nn.Module, tensors: Tensors, single: bool) -> None:
        """Records a call of the layer or of one of its replicas."""
        self._visits[module].append(_Visited(tensors, single, _device_of(tensors)))

    @property
    def parts(self) -> list[Tensors]:
        """The tensors of each replica, in the order of the batch; one part if there are no replicas.

        Raises:
            LayerNotReached: the forward pass did not reach the layer.
            SeveralCalls: the layer ran more than once, and the site does not say which call is meant.
            InvalidValue: the order of the replicas is not known.
        """
        if not self._visits:
            raise _not_reached(self._site)
        most = max(len(visits) for visits in self._visits.values())
        if most > 1:
            raise SeveralCalls(
                f"{self._site} is passed {most} times in one forward pass; select one: "
                f"Site(layer, call=0) to Site(layer, call={most - 1})"
            )
        if self._site.layer in self._visits:
            return [self._visits[self._site.layer][0].tensors]
        parts = {self._site.part(visit.device): visit.tensors for [visit] in self._visits.values()}
        if len(parts) < len(self._visits):
            raise SeveralCalls(f"{self._site} is passed by several replicas on one device; explain one at a time")
        return [parts[number] for number in sorted(parts)]

    @property
    def slot(self) -> Slot:
        """The number of tensors, and whether they are one bare tensor."""
        visited = next(iter(self._visits.values()))[0]
        return Slot(len(visited.tensors), visited.single)

    @property
    def tensors(self) -> Tensors:
        """The tensors of all replicas in one batch."""
        return joined(self.parts)


def joined(parts: list[Tensors], axis: int = 0) -> Tensors:
    """The parts of a batch as one batch, on the device of the first."""
    if len(parts) == 1:
        return parts[0]
    return tuple(
        torch.cat([piece.to(pieces[0].device) for piece in pieces], axis) for pieces in zip(*parts, strict=True)
    )


@contextmanager
def reading(site: Site, movable: bool = False) -> Iterator[Reading]:
    """Reads the tensors at a site in the forward pass inside; they are copies, safe from in-place changes.

    Args:
        site: The site.
        movable: Whether to read floating-point tensors only.
    """
    record = Reading(site)

    def see(module: nn.Module, value: Any, again: bool) -> Any:
        if not again:
            tensors = _movable(site, leaves(value)) if movable else tuple(leaves(value))
            record.add(module, tuple(tensor.clone() for tensor in tensors), _is_single(value))
        return value

    with _hooked(site, see):
        yield record


@contextmanager
def differentiable(site: Site) -> Iterator[Reading]:
    """Reads the floating-point tensors at a site so that the output can be differentiated with respect to them.

    The model continues with copies, which it may change in place.

    Raises:
        InvalidValue: the model also holds the original tensor and changes it in place.
    """
    record, holding = Reading(site), holding_hooks()
    versions: list[tuple[Tensor, int]] = []

    def see(module: nn.Module, value: Any, again: bool) -> Any:
        with _tracked():
            tensors = [_on_graph(tensor, holding) if can_move(tensor) else tensor for tensor in leaves(value)]
            if not again:
                record.add(module, _movable(site, tensors), _is_single(value))
                versions.extend((tensor, tensor._version) for tensor in tensors if can_move(tensor))
            return with_leaves(value, [tensor.clone() if can_move(tensor) else tensor for tensor in tensors])

    with _hooked(site, see):
        yield record
    if any(tensor._version != version for tensor, version in versions):
        raise InvalidValue(f"the model changes {site} in place afterwards; choose a neighbouring site")


@contextmanager
def replaced(site: Site, tensors: Tensors, passing: bool = False) -> Iterator[None]:
    """Replaces the floating-point tensors at a site in the forward pass inside.

    Each replica of a DataParallel model gets its part of the batch.

    Args:
        site: The site.
        tensors: The replacements.
        passing: Whether the model's own tensors, of which these are copies, keep their values and gradients; the
            output then also depends on the copies, for derivatives only.

    Raises:
        LayerNotReached: the forward pass did not reach the layer.
        SeveralCalls: the layer ran more than once, and the site does not say which call is meant.
        InvalidShape: the shapes of the model's tensors differ from the replacements'.
    """
    calls: dict[nn.Module, int] = defaultdict(int)

    def put(module: nn.Module, value: Any, again: bool) -> Any:
        calls[module] += not again
        if calls[module] > 1:
            raise SeveralCalls(
                f"{site} is passed more than once in one forward pass; select one: Site(layer, call=...)"
            )
        native = leaves(value)
        mine = tensors if module is site.layer else _part_of(tensors, site.part(_device_of(native)), len(site.devices))
        _check_shapes(site, mine, [tensor for tensor in native if can_move(tensor)])
        rest = iter(mine)
        with _tracked():
            return with_leaves(value, [_put(tensor, rest, passing) for tensor in native])

    with _hooked(site, put, before_others=True):
        yield
        if not calls:
            raise _not_reached(site)


@contextmanager
def changed(site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Changes the first floating-point tensor at a site, in every forward pass inside."""

    def put(module: nn.Module, value: Any, again: bool) -> Any:
        first, tensors = _movable(site, leaves(value))[0], leaves(value)
        return with_leaves(value, [change(tensor) if tensor is first else tensor for tensor in tensors])

    with _hooked(site, put):
        yield


_active: ContextVar[tuple[_Hook, ...]] = ContextVar("llm_attr_active", default=())


@contextmanager
def _hooked(site: Site, visit: Visit, before_others: bool = False) -> Iterator[None]:
    """Lets `visit` see and change the tensors at a site, in this thread's forward pass only.

    Visits run in the order in which they began, except that `before_others` puts one ahead of all earlier ones.
    """
    hook, earlier = _Hook(site, visit), _active.get()
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        stack.callback(hook.detach)
        hook.attach()
        if before_others:
            for other in earlier:
                other.move_after(hook)
        token = _active.set((*earlier, hook))
        try:
            yield
        finally:
            _active.reset(token)
        if (holding := holding_hooks()) is not None:
            hook.holding = holding
            holding.enter_context(stack.pop_all())


class _Hook:
    """A visit attached to a layer.

    Attributes:
        holding: The stack that keeps it after the forward pass, for layers recomputed in the backward pass.
    """

    def __init__(self, site: Site, visit: Visit) -> None:
        self._site, self._visit, self._thread = site, visit, get_ident()
        self._calls: dict[nn.Module, int] = defaultdict(int)
        self._handle: RemovableHandle | None = None
        self.holding: ExitStack | None = None

    @property
    def again(self) -> bool:
        """Whether the forward pass is over."""
        return self.holding is not None

    def attach(self) -> None:
        layer = self._site.layer
        self._handle = (
            layer.register_forward_pre_hook(self._before, with_kwargs=True)
            if self._site.io == "input"
            else layer.register_forward_hook(self._after)
        )

    def detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()

    def move_after(self, other: _Hook) -> None:
        """Makes this hook run after the other one, if both are attached to the same site."""
        if (self._site.layer, self._site.io) == (other._site.layer, other._site.io):
            self.detach()
            self.attach()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._is_meant(module):
            return None
        if leaves(args):
            return self._visit(module, args, self.again), kwargs
        tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        name = next((name for name, value in tensors.items() if can_move(value)), next(iter(tensors), None))
        if name is None:
            raise InvalidType(f"{self._site} has no tensor among its positional or keyword arguments")
        return args, kwargs | {name: self._visit(module, kwargs[name], self.again)}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self._visit(module, output, self.again) if self._is_meant(module) else None

    def _is_meant(self, module: nn.Module) -> bool:
        if module is self._site.layer and not self._is_own():
            return False
        if self.again and self._site.call is not None:
            raise SeveralCalls(
                f"{self._site} is recomputed in the backward pass (gradient checkpointing), where its calls cannot be "
                "distinguished; disable checkpointing to explain it"
            )
        number = self._calls[module]
        self._calls[module] += 1
        return self._site.call in (None, number)

    def _is_own(self) -> bool:
        """Whether this thread runs the hook's forward pass, or its backward pass in one of autograd's threads."""
        meant = held_for_this_pass() if self.again else None
        return get_ident() == self._thread if meant is None else meant is self.holding


@contextmanager
def _tracked() -> Iterator[None]:
    """Records operations on the graph even where the model runs a layer without gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _not_reached(site: Site) -> LayerNotReached:
    which = "" if site.call is None else f" by call={site.call}"
    return LayerNotReached(f"{site} is not reached{which} in the forward pass; is it part of the model?")


def _movable(site: Site, tensors: list[Tensor]) -> Tensors:
    moved = tuple(tensor for tensor in tensors if can_move(tensor))
    if moved:
        return moved
    kinds = ", ".join(str(tensor.dtype) for tensor in tensors) or "no tensor"
    raise InvalidType(
        f"{site} is {kinds}, which cannot be interpolated or differentiated; for token ids use the output of the "
        "embedding layer (attribute_to_layer_input=False)"
    )


def _is_single(value: Any) -> bool:
    """A bare tensor, or positional arguments of one tensor."""
    return isinstance(value, Tensor) or (isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], Tensor))


def _on_graph(tensor: Tensor, holding: ExitStack | None) -> Tensor:
    """The tensor itself, requiring gradients, so that all its uses count; a copy if it cannot."""
    if tensor.requires_grad:
        return tensor
    if tensor.is_inference() or holding is None:
        return tensor.detach().clone().requires_grad_()
    holding.callback(tensor.requires_grad_, False)
    return tensor.requires_grad_()


def _put(native: Tensor, rest: Iterator[Tensor], passing: bool) -> Tensor:
    if not can_move(native):
        return native
    mine = next(rest)
    return native + (mine - mine.detach()) if passing else mine.clone()


def _device_of(tensors: list[Tensor] | Tensors) -> int | None:
    return next((tensor.device.index for tensor in tensors), None)


def _part_of(tensors: Tensors, number: int, count: int) -> Tensors:
    """One of the parts into which DataParallel splits a batch over `count` devices."""
    return tuple(tensor.chunk(count)[number] for tensor in tensors)


def _check_shapes(site: Site, tensors: Tensors, native: list[Tensor]) -> None:
    given, needed = [tuple(x.shape) for x in tensors], [tuple(x.shape) for x in native]
    if given != needed:
        raise InvalidShape(f"{site} has tensors of shapes {needed}; cannot replace them by shapes {given}")
