"""No module imports, directly or through others, a module that imports it: not even inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "llm_attr"


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from executed(other)
        else:
            yield from executed(child)


def imported(tree: ast.AST) -> set[str]:
    """The modules of the package that a module imports; `from package import module` counts as the module."""
    found = set()
    for node in executed(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & MODULES.keys()


def test_no_circle() -> None:
    edges = {name: imported(ast.parse(file.read_text(encoding="utf-8"))) for name, file in MODULES.items()}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(" <- ".join(error.args[1])) from None


def test_imports_inside_functions_count_and_those_for_types_do_not() -> None:
    code = """
from typing import TYPE_CHECKING
import llm_attr.errors
if TYPE_CHECKING:
    from llm_attr.typing import Values
def late():
    from llm_attr.core import tensors
    from llm_attr.core.registry import METHODS
"""
    assert imported(ast.parse(code)) == {"llm_attr.errors", "llm_attr.core.tensors", "llm_attr.core.registry"}
