"""Arguments that a docstring leaves to others: "Shared arguments: see `GradientAttribution` and `Lime.attribute`."."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from inspect import getdoc, isclass, signature
from typing import Any

import llm_attr
import llm_attr.attr
import llm_attr.influence
import llm_attr.metrics
import llm_attr.module
import llm_attr.robust

_PACKAGES = (llm_attr.attr, llm_attr.influence, llm_attr.metrics, llm_attr.robust, llm_attr.module, llm_attr)
_SENTENCE = re.compile(r"Shared arguments: see ([^:]*?`)\.(?:\s|$)")
_BULLET = re.compile(r"\* ((?:`\*{0,2}\w+`(?:, )?)+): (.*)")
_ENTRY = re.compile(r" {4}(\*{0,2}\w+): (.*)")


def arguments(obj: Any) -> dict[str, str]:
    """The description of each argument of a function, method or class, in the order of the signature.

    One that is described nowhere is missing.
    """
    found = (_of_bases(obj) if isclass(obj) else {}) | _of_others(getdoc(obj) or "")
    found |= own_arguments((getdoc(obj) or "").splitlines())
    return {name: found[name] for name in parameters(obj) if name in found}


def parameters(obj: Any) -> list[str]:
    """The arguments of a function, method or class as they are written in a docstring."""
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
    given = signature(obj.__init__ if isclass(obj) else obj).parameters.values()
    named = [each for each in given if each.name != "self" and not each.name.startswith("_")]
    return [stars.get(each.kind.name, "") + each.name for each in named]


def own_arguments(lines: Sequence[str]) -> dict[str, str]:
    """The descriptions in the section `Args:` of a docstring."""
    start, stop = _section(lines)
    return _items(lines[start + 1 : stop], _ENTRY, indent=8)


def with_shared(lines: Sequence[str], obj: Any) -> list[str]:
    """A docstring with the descriptions of all arguments in its section `Args:`."""
    docstring, described = "\n".join(lines), arguments(obj)
    if not described or not (isclass(obj) or _SENTENCE.search(docstring)):
        return list(lines)
    place = "" if own_arguments(lines) else "Args:\n"  # an own section stays where it is
    lines = _SENTENCE.sub(place, docstring, count=1).splitlines()
    start, stop = _section(lines)
    if start == len(lines):
        start = stop = next((i for i, line in enumerate(lines) if re.match(r"(Source|Example)s?:", line)), start)
    entries = [f"    {name}: {text[0].upper()}{text[1:]}" for name, text in described.items()]
    return [*lines[:start], "", "Args:", *entries, "", *lines[stop:]]


def _section(lines: Sequence[str]) -> tuple[int, int]:
    """Where the section `Args:` begins and ends; at the end of a docstring without one."""
    start = next((i for i, line in enumerate(lines) if line == "Args:"), len(lines))
    after = (i for i in range(start + 1, len(lines)) if lines[i] and not lines[i].startswith(" "))
    return start, next(after, len(lines))


def _of_others(doc: str) -> dict[str, str]:
    """What the classes, functions and methods that a docstring names say of their arguments."""
    sentence = _SENTENCE.search(doc)
    found: dict[str, str] = {}
    for name in re.findall(r"`([\w.]+)`", sentence[1]) if sentence else ():
        owner, _, method = name.partition(".")
        kind = next(getattr(package, owner) for package in _PACKAGES if owner in package.__all__)
        described = getattr(kind, method) if method else kind
        found |= _shared(kind) if isclass(described) else arguments(described)
    return found


def _shared(kind: type) -> dict[str, str]:
    """The arguments of `attribute` that a class and its bases describe."""
    docs = [(base.__doc__ or "").splitlines() for base in reversed(kind.__mro__)]
    return _merged(_items([line.removeprefix("    ") for line in doc], _BULLET, indent=2) for doc in docs)


def _of_bases(kind: type) -> dict[str, str]:
    return _merged(own_arguments((getdoc(base) or "").splitlines()) for base in reversed(kind.__mro__))


def _merged(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    return {name: description for part in parts for name, description in part.items()}


def _items(lines: Iterable[str], item: re.Pattern[str], indent: int) -> dict[str, str]:
    """The descriptions by name; their further lines are indented."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if match := item.match(line):
            names = re.findall(r"\*{0,2}\w+", match[1])
            found |= dict.fromkeys(names, match[2])
        elif names and line.startswith(" " * indent) and line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    return found
