"""The rules engine: a table of rules by family of operations, which replace native gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from threading import get_ident
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llm_attr.caller import warn_caller
from llm_attr.core.batching import modules_of
from llm_attr.core.problem import Output, Problem
from llm_attr.core.rules.audit import Audit, cover
from llm_attr.core.rules.call import Call, Rule, depends, family_of, ruled
from llm_attr.core.rules.elementwise import is_elementwise
from llm_attr.core.shared_context import uncompiled
from llm_attr.core.target import TargetOrSeveral
from llm_attr.errors import NoRule
from llm_attr.typing import ForwardFunction, Tensors


@dataclass(frozen=True)
class Entry:
    """A rule in a table.

    Attributes:
        rule: The rule.
        moved: The minimum number of moved tensors; with fewer the native gradient is linear, or is the rule itself.
        kept: The result in the reference run, and what is kept of it; None: native result, and the moved tensors.
    """

    rule: Rule
    moved: int = 1
    kept: Callable[[Call], tuple[Any, Tensors]] | None = None


Table: TypeAlias = Mapping[str, Entry]
"""Rules by family of operations."""

ModuleRule: TypeAlias = Callable[[Call], Any]
"""A rule for the linear operations inside a module that have one moved tensor."""


class Tape:
    """What the reference run keeps of every call with a rule, in order."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, list[torch.Size], Tensors]] = []
        self._step = 0

    @property
    def size(self) -> int:
        """The total number of tensor entries."""
        return sum(tensor.numel() for _, _, kept in self._calls for tensor in kept)

    def record(self, call: Call, kept: Tensors) -> None:
        """Adds a call of the reference run, and what is kept of it."""
        self._calls.append((call.family, [tensor.shape for tensor in call.tensors], kept))

    def next(self, call: Call) -> Tensors:
        """What the reference run kept of the same call.

        Raises:
            NoRule: the reference run had another call here.
        """
        self._step += 1
        more = self._step <= len(self._calls)
        family, then, kept = self._calls[self._step - 1] if more else ("nothing", [], ())
        now = [tensor.shape for tensor in call.tensors]
        if family != call.family or then != now:
            shapes = [[tuple(shape) for shape in each] for each in (then, now)]
            raise NoRule(
                f"operation {self._step}: with the baseline the model runs {family} {shapes[0]}, with the input "
                f"{call.family} {shapes[1]}; rules need the same operations and shapes for both, so "
                "mixtures of experts and data-dependent control flow are not supported"
            )
        return kept

    def close(self) -> None:
        """Ends the input run.

        Raises:
            NoRule: the reference run was longer.
        """
        if self._step < len(self._calls):
            raise NoRule(
                f"with the baseline the model runs {len(self._calls)} operations, with the input {self._step}; "
                "the rules need the same operations for both"
            )


@dataclass(frozen=True)
class Rules:
    """How gradients propagate back through a model.

    Attributes:
        table: The rules by family of operations.
        audit: Which operations may keep their native gradient.
        of_modules: Rules for the linear operations inside modules; the innermost module wins.
        linear: The families to which such a rule applies.
        counted: Families that keep their gradient inside such a module but count as operations of it.
        uses_reference: Whether the rules compare the input with a reference run.
        sought: The kind of operation the rules are for; a model without any raises a warning. Empty: no warning.
        elementwise: The rule for elementwise modules (a GELU of several operations); None: their operations have rules.
        roots: The modules that are searched for elementwise modules and for modules with rules.
        elementwise_modules: The elementwise modules found.
        warned: The warnings that were already raised.
    """

    table: Table
    audit: Audit
    of_modules: Mapping[nn.Module, ModuleRule] = field(default_factory=dict)
    linear: frozenset[str] = frozenset()
    counted: frozenset[str] = frozenset()
    uses_reference: bool = False
    sought: str = ""
    elementwise: Entry | None = None
    roots: tuple[nn.Module, ...] = ()
    elementwise_modules: tuple[nn.Module, ...] = ()
    warned: set[str] = field(default_factory=set)

    def of(self, model: ForwardFunction, of_modules: Mapping[nn.Module, ModuleRule] | None = None) -> Rules:
        """These rules for a model; `of_modules` adds to the rules that modules have as an attribute."""
        roots = tuple(modules_of(model))
        elementwise = () if self.elementwise is None else _elementwise_modules(roots)
        return replace(self, roots=roots, elementwise_modules=elementwise, of_modules=of_modules or {}, warned=set())

    def on(self, problem: Problem, tape: Tape | None = None, recording: bool = False) -> Problem:
        """The problem whose gradients follow the rules.

        Args:
            problem: The problem, with its neurons and cuts; where it is observed may still change.
            tape: The tape of the reference run.
            recording: Whether this is the reference run, whose gradients are meaningless.
        """
        inner = problem.score

        def score(points: Tensors, extras: tuple[Any, ...], target: TargetOrSeveral) -> Output:
            with _applied(self) as mode:
                mode.start(points, tape, recording)
                answer = inner(points, extras, target)
            if isinstance(answer, Tensor):
                mode.finish(answer)
            return answer

        return replace(problem, score=score)

    def warn(self, message: str) -> None:
        """Warns the caller once per attribution."""
        if message not in self.warned:
            self.warned.add(message)
            warn_caller(message, UserWarning)

    def by_module(self) -> dict[nn.Module, ModuleRule]:
        """The modules with a rule: those in `of_modules`, and those that have one as an attribute.

        Raises:
            NoRule: the attribute is not a rule of this library.
        """
        modules = {module: vars(module).get("rule") for root in self.roots for module in root.modules()}
        modules |= self.of_modules
        for module, rule in modules.items():
            if rule is not None and not callable(rule):
                raise NoRule(
                    f"the rule of {type(module).__name__} is a {type(rule).__name__}; take one of llm_attr.attr: "
                    "EpsilonRule, GammaRule, Alpha1_Beta0_Rule, IdentityRule, ZPlusRule, FlatRule, WSquareRule"
                )
        return {module: rule for module, rule in modules.items() if rule is not None}


class _Mode(TorchFunctionMode):
    """Intercepts every operation of this thread and applies its rule."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self._rules, self._thread = rules, get_ident()
        self._tape: Tape | None = None
        self._recording = False
        self._met = False
        self._ours: dict[int, Tensor] = {}
        self._inside: list[nn.Module] = []
        self._inside_elementwise = 0
        self._used: dict[nn.Module, bool] = {}
        self.of_modules: dict[nn.Module, ModuleRule] = {}

    def start(self, points: Tensors, tape: Tape | None, recording: bool) -> None:
        """Begins a run with these inputs."""
        self._ours = {id(point): point for point in points}
        self._tape, self._recording = tape, recording

    def finish(self, answer: Tensor) -> None:
        """Ends the run; raises `NoRule` for operations without a rule, and warns of rules that did not apply."""
        if self._recording:
            return
        self._rules.audit.check(answer, self._ours)
        if self._tape is not None:
            self._tape.close()
        if self._rules.sought and not self._met:
            self._rules.warn(
                f"no {self._rules.sought} of the model depends on the input: the result is the plain gradient"
            )
        if idle := sorted({type(module).__name__ for module, used in self._used.items() if not used}):
            self._rules.warn(
                f"the rules set on {', '.join(idle)} change nothing, since they contain no linear operation: rules are "
                "for convolutions, linear layers, average pooling, batch normalisation, and blocks of these"
            )

    @property
    def here(self) -> bool:
        """Whether this is the thread of the run."""
        return get_ident() == self._thread

    def enter(self, module: nn.Module) -> None:
        """The forward pass enters a module with a rule."""
        if self.here:
            self._used.setdefault(module, False)
            self._inside.append(module)

    def leave(self) -> None:
        """The forward pass leaves the module entered last."""
        if self.here:
            self._inside.pop()

    def before_elementwise(self, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The detached argument of an elementwise module; None if the module is left alone."""
        if not self.here or len(args) != 1 or not depends(args[0]) or not torch.is_grad_enabled():
            return None
        self._inside_elementwise += 1
        return (args[0].detach(),)

    def after_elementwise(self, module: nn.Module, entry: Entry, x: Tensor, value: Tensor) -> Tensor:
        """The result of an elementwise module, with the gradient of its rule."""
        self._inside_elementwise -= 1
        with torch._C.DisableTorchFunction():
            call = Call.of(module.forward, type(module).__name__, (x,), {})
            result: Tensor = self._ruled_call(replace(call, inplace=False), entry, value)
            return result

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _QUERIES:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "requires_grad_":
            made = func(*args, **kwargs)
            self._ours[id(made)] = made
            return made
        if self._inside_elementwise or name == "__set__" or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        args, kwargs, moved = self._without_foreign(args, kwargs)
        if self._inside and family_of(name) in self._rules.linear | self._rules.counted:
            self._used[self._inside[-1]] = True
        if not moved:
            return func(*args, **kwargs)
        return self._moved(func, name, moved, args, kwargs)

    def _moved(self, func: Any, name: str, moved: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation on tensors that depend on the input."""
        family = family_of(name)
        if self._inside and moved == 1 and family in self._rules.linear:
            return self._ruled_call(Call.of(func, family, args, kwargs), Entry(self.of_modules[self._inside[-1]]))
        entry = self._rules.table.get(family)
        if entry is not None and moved >= entry.moved:
            return self._ruled_call(Call.of(func, family, args, kwargs), entry)
        if entry is None and _is_composite(func):
            with self:
                return _opened(func)(*args, **kwargs)
        if name == "grad" and getattr(func, "__module__", "") == "torch.autograd":
            raise NoRule("the model differentiates inside its forward pass; rules have no second derivative")
        return func(*args, **kwargs)

    def _ruled_call(self, call: Call, entry: Entry, value: Tensor | None = None) -> Any:
        _refuse_recomputing()
        self._met = True
        if self._recording and self._tape is not None:
            return self._recorded(call, self._tape, entry, value)
        if self._tape is not None:
            call = call.against(self._tape.next(call))
        ends = {tensor.grad_fn for tensor in call.tensors}
        result = entry.rule(call)
        cover(result, ends)
        return result

    def _recorded(self, call: Call, tape: Tape, entry: Entry, value: Tensor | None) -> Any:
        """A call of the reference run; `value` is its result if that is known, without a graph."""
        if entry.kept is not None:
            result, kept = entry.kept(call)
            tape.record(call, kept)
            return result
        tape.record(call, tuple(tensor.clone() for tensor in call.now))
        return call.native() if value is None else ruled(value, lambda gradient: (gradient,), *call.tensors)

    def _without_foreign(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], int]:
        """The arguments with parameters detached, and the number of those that depend on the input."""
        moved = foreign = 0
        for value in (*args, *kwargs.values()) if kwargs else args:
            for each in value if type(value) in (list, tuple) else (value,):
                if isinstance(each, Tensor) and each.requires_grad:
                    outside = self._is_foreign(each)
                    foreign, moved = foreign + outside, moved + (not outside)
        if foreign:
            args = tuple(self._constant(value) for value in args)
            kwargs = {name: self._constant(value) for name, value in kwargs.items()}
        return args, kwargs, moved

    def _is_foreign(self, tensor: Tensor) -> bool:
        return tensor.is_leaf and id(tensor) not in self._ours

    def _constant(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach() if value.requires_grad and self._is_foreign(value) else value
        return type(value)(self._constant(each) for each in value) if type(value) in (list, tuple) else value


_QUERIES = frozenset(
    (
        *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda")),
        *(getattr(Tensor, name).__get__ for name in ("requires_grad", "grad_fn", "is_leaf", "itemsize", "nbytes")),
        *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.stride, Tensor.is_floating_point, Tensor.is_complex),
        *(Tensor.is_contiguous, Tensor.element_size, Tensor.data_ptr, Tensor.__len__, Tensor.__hash__),
    )
)
"""Queries whose result is not a tensor."""


def _refuse_recomputing() -> None:
    """Raises `NoRule` inside a part of the model whose activations will be recomputed, without the rules."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint":
        raise NoRule("activations are recomputed in the backward pass: switch gradient checkpointing off")


@contextmanager
def _applied(rules: Rules) -> Iterator[_Mode]:
    """Applies the rules to what this thread runs in the context."""
    mode = _Mode(rules)
    mode.of_modules = rules.by_module() if rules.linear else {}
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for module in mode.of_modules:
            before = module.register_forward_pre_hook(lambda module, args: mode.enter(module), prepend=True)
            stack.callback(before.remove)
            after = module.register_forward_hook(lambda module, args, result: mode.leave(), always_call=True)
            stack.callback(after.remove)
        if rules.elementwise is not None:
            for module in rules.elementwise_modules:
                _attach_elementwise(mode, module, rules.elementwise, stack)
        stack.enter_context(mode)
        yield mode


def _attach_elementwise(mode: _Mode, module: nn.Module, entry: Entry, stack: ExitStack) -> None:
    given: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
        constant = mode.before_elementwise(args)
        if constant is not None:
            given.append(args[0])
        return constant

    def after(module: nn.Module, args: tuple[Any, ...], result: Tensor) -> Any:
        own = mode.here and bool(given) and not args[0].requires_grad
        return mode.after_elementwise(module, entry, given.pop(), result) if own else None

    stack.callback(module.register_forward_pre_hook(before).remove)
    stack.callback(module.register_forward_hook(after, prepend=True).remove)


def _elementwise_modules(roots: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    modules = {module: None for root in roots for module in root.modules()}
    return tuple(module for module in modules if is_elementwise(module))


@cache
def _is_composite(func: Any) -> bool:
    """Whether this is written in Python in terms of other torch operations."""
    if type(func) is not FunctionType or func.__module__ not in ("torch.nn.functional", "torch.functional"):
        return False
    return any(name.startswith("has_torch_function") for name in func.__code__.co_names)


@cache
def _opened(func: Any) -> Callable[..., Any]:
    """The body of a composite, whose operations the mode intercepts."""
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    seen = {**func.__globals__, **{name: lambda *tensors: False for name in checks}}
    body = FunctionType(func.__code__, seen, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body
