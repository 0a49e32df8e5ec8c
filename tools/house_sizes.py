"""The static measures of the house: lines, files, and imports between modules and rooms.

A room is a folder of the package; the modules directly under `core` are the room `core`, and the modules directly under
the package, which everything may import, are the room `errors, typing`.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

FOUNDATION = "errors, typing"
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Lines:
    """Physical lines by kind; every line has one kind.

    Attributes:
        code: Neither blank, nor a comment, nor part of a docstring.
        docstring: Of modules, classes, functions and attributes.
        comment: Comments on lines of their own.
        blank: Blank lines outside docstrings.
    """

    code: int = 0
    docstring: int = 0
    comment: int = 0
    blank: int = 0

    def __add__(self, other: Lines) -> Lines:
        return Lines(
            self.code + other.code,
            self.docstring + other.docstring,
            self.comment + other.comment,
            self.blank + other.blank,
        )


@dataclass(frozen=True)
class Module:
    """One module of the package.

    Attributes:
        name: Its full name.
        lines: Its size.
        imports: Modules of the package that it imports when it is loaded.
        later: Modules of the package that its functions import when they are called.
        is_package: Whether it is the `__init__` of a folder.
    """

    name: str
    lines: Lines
    imports: frozenset[str]
    later: frozenset[str]
    is_package: bool

    @property
    def room(self) -> str:
        """The folder that holds it."""
        return room_of(self.name)


def modules_of(root: Path, package: str = "llm_attr") -> dict[str, Module]:
    """Return the modules of the package in a checkout, by name."""
    paths = {_name_of(path, root): path for path in sorted((root / package).rglob("*.py"))}
    return {name: _module(name, path, paths) for name, path in paths.items()}


def room_of(name: str) -> str:
    """Return the room of a module: `core/path` for `llm_attr.core.path.walk`."""
    parts = name.split(".")[1:-1]
    return "/".join(parts) if parts else FOUNDATION


def rooms_of(modules: dict[str, Module]) -> tuple[dict[str, list[Module]], Graph]:
    """Return the modules of each room, and which rooms each imports; `__init__` modules are left out."""
    rooms: dict[str, list[Module]] = {}
    for module in modules.values():
        if not module.is_package:
            rooms.setdefault(module.room, []).append(module)
    graph: Graph = {room: set() for room in rooms}
    for room, inside in rooms.items():
        for module in inside:
            targets = (target for target in module.imports | module.later if not modules[target].is_package)
            graph[room] |= {room_of(target) for target in targets} - {room}
    return rooms, graph


def levels(graph: Graph) -> dict[str, int]:
    """Return the level of each node: one above the highest that it points at; a circle shares a level."""
    component = {node: frozenset(group) for group in components(graph) for node in group}
    heights: dict[frozenset[str], int] = {}
    for group in components(graph):  # what a group points at comes before it
        below = {component[target] for node in group for target in graph[node]} - {component[node] for node in group}
        heights[frozenset(group)] = 1 + max((heights[other] for other in below), default=0)
    return {node: heights[component[node]] for node in graph}


def circles(modules: dict[str, Module]) -> list[list[str]]:
    """Return the groups of modules that import one another at run time, inside functions included."""
    graph = {name: set(module.imports | module.later) & set(modules) for name, module in modules.items()}
    return [sorted(group) for group in components(graph) if len(group) > 1]


def components(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components, those that others point at first (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            cut = stack.index(node)
            found.append(stack[cut:])
            del stack[cut:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def levels_inside(modules: dict[str, Module], prefix: str) -> int:
    """Return the number of levels of imports among the modules below a prefix such as `llm_attr.core.`."""
    inside = {name for name in modules if name.startswith(prefix) and not modules[name].is_package}
    return max(levels({name: set(modules[name].imports) & inside for name in inside}).values(), default=0)


def count_lines(text: str, tree: ast.Module | None = None) -> Lines:
    """Count the lines of a source file by kind."""
    kind_of = _lines_of_strings(tree or ast.parse(text))
    kinds: Counter[str] = Counter()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        otherwise = "comment" if stripped.startswith("#") else "code" if stripped else "blank"
        kinds[kind_of.get(number, otherwise)] += 1
    return Lines(**kinds)


def _lines_of_strings(tree: ast.Module) -> dict[int, str]:
    """The lines of each string: it is a docstring where it stands alone, and code elsewhere."""
    found: dict[int, str] = {}
    for node in ast.walk(tree):
        alone = isinstance(node, ast.Expr)
        value = node.value if isinstance(node, ast.Expr) else node
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            for line in range(value.lineno, (value.end_lineno or value.lineno) + 1):
                if alone:
                    found[line] = "docstring"
                else:
                    found.setdefault(line, "code")
    return found


def _name_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _module(name: str, path: Path, paths: dict[str, Path]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree, parts, is_package = ast.parse(text), name.split("."), path.name == "__init__.py"
    parent = parts if is_package else parts[:-1]
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for node, at_load in _imports(tree.body, True):
        found[at_load] |= {target for target in _targets(node, parent, paths) if target != name}
    later = frozenset(found[False] - found[True])
    return Module(name, count_lines(text, tree), frozenset(found[True]), later, is_package)


def _imports(body: Iterable[ast.AST], at_load: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import that runs, with whether it runs when the module is loaded."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, at_load
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, at_load)
        else:
            inner = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(ast.iter_child_nodes(node), inner)


def _targets(node: ast.Import | ast.ImportFrom, parent: list[str], paths: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in paths)
        return
    base = parent[: len(parent) + 1 - node.level] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    for alias in node.names:
        inner = f"{module}.{alias.name}"
        target = inner if inner in paths else module
        if target in paths:
            yield target
