"""Measure the house: `python tools/house.py [OTHER_CHECKOUT]`.

It prints the lines of code and of docstrings and the files of each folder, the levels of imports inside each package,
what five calls run through, and the circles of imports; with another checkout, both side by side. `--picture FILE`
draws the rooms and the imports between them as an SVG; `--no-paths` leaves out the calls, which need torch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from house_picture import drawn
from house_sizes import Lines, Module, circles, levels, levels_inside, modules_of, rooms_of

ROOT = Path(__file__).resolve().parent.parent
Row = tuple[str, Sequence[object]]


def lines_by_room(modules: dict[str, Module]) -> list[Row]:
    """Return files, lines of code and lines of docstrings of each room, and of all."""
    rooms: dict[str, list[Module]] = {}
    for module in modules.values():
        rooms.setdefault(module.room, []).append(module)
    rows: list[Row] = []
    total = Lines()
    for room, inside in sorted(rooms.items()):
        size = sum((module.lines for module in inside), Lines())
        total += size
        rows.append((room, (len(inside), size.code, size.docstring)))
    return [*rows, ("all", (len(modules), total.code, total.docstring))]


def levels_by_package(modules: dict[str, Module]) -> list[Row]:
    """Return the levels of imports among the modules of each package, and among the rooms."""
    packages = sorted({name.split(".")[1] for name in modules if name.count(".") > 1})
    rows: list[Row] = [(name, (levels_inside(modules, f"llm_attr.{name}."),)) for name in packages]
    _, graph = rooms_of(modules)
    inside_llm = {
        room: graph[room] & {r for r in graph if r.startswith("llm")} for room in graph if room.startswith("llm")
    }
    rows.append(("rooms of llm", (max(levels(inside_llm).values()),)))
    return [*rows, ("all rooms", (max(levels(graph).values()),))]


def calls_of(root: Path) -> list[Row]:
    """Return what each of the five calls runs through in a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("house_paths.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], env=environment, cwd=root, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout)
    return [
        (name, (counts["files"], counts["classes"], counts["functions"], counts["depth"]))
        for name, counts in found.items()
    ]


def table(title: str, columns: Sequence[str], *sides: list[Row]) -> str:
    """Return a table with the same columns once for each checkout."""
    keys = list(dict.fromkeys(name for side in sides for name, _ in side))
    if "all" in keys:
        keys = [key for key in keys if key != "all"] + ["all"]
    held = [dict(side) for side in sides]
    width = max(len(title), *map(len, keys))
    head = "  |".join("".join(f"{column:>11}" for column in columns) for _ in sides)
    rows = [f"{title:<{width}}{head}"]
    for key in keys:
        cells = ("".join(f"{value!s:>11}" for value in side.get(key, ["-"] * len(columns))) for side in held)
        rows.append(f"{key:<{width}}{'  |'.join(cells)}")
    return "\n".join(rows)


def report(roots: Sequence[Path], paths: bool = True) -> str:
    """Return all tables, one block of columns for each checkout."""
    houses = [modules_of(root) for root in roots]
    parts = [
        table("lines", ("files", "code", "docstring"), *map(lines_by_room, houses)),
        table("levels of imports", ("levels",), *map(levels_by_package, houses)),
    ]
    if paths:
        parts.append(table("calls", ("files", "classes", "functions", "depth"), *map(calls_of, roots)))
    for root, modules in zip(roots, houses, strict=True):
        found = circles(modules)
        shown = "\n".join(f"  {' <-> '.join(circle)}" for circle in found) or "  none"
        parts.append(f"circles at run time in {root.name}:\n{shown}")
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and print the report, or draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("other", nargs="?", type=Path, help="another checkout, shown on the right")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the rooms as an SVG instead")
    parser.add_argument("--no-paths", action="store_true", help="leave out the calls")
    asked = parser.parse_args(arguments)
    if asked.picture:
        asked.picture.write_text(drawn(modules_of(ROOT)), encoding="utf-8")
        return
    roots = [ROOT, *([asked.other.resolve()] if asked.other else [])]
    print(report(roots, not asked.no_paths))


if __name__ == "__main__":
    main()
