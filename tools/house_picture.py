"""The picture of the house: rooms on the floors of their imports, as an SVG that needs nothing but a font.

An arrow goes from a room to one that it imports. Arrows that follow from others (a imports b, b imports c, so a may
import c) are left out. The layout is Sugiyama's: floors, then the order that crosses least, then positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from house_sizes import Graph, Module, levels, rooms_of

WIDTH, HEIGHT, GAP, FLOOR, MARGIN = 140, 36, 22, 80, 24
BEND = 14  # the room that an arrow takes on a floor which it crosses
SWEEPS = 24
TINTS = {
    "core": ("#e6f0fb", "#2f6fb3"),
    "attr": ("#e5f4ea", "#2f8552"),
    "viz": ("#fdf3dc", "#a87412"),
    "models": ("#efeafa", "#6c52b0"),
    "llm": ("#fdeae4", "#bd5330"),
    "cli": ("#f0f1f3", "#59636e"),
}
OTHER = ("#f0f1f3", "#59636e")
Bend = tuple[str, str, int]  # of the arrow between two rooms, on a floor
Node = str | Bend


def drawn(modules: dict[str, Module]) -> str:
    """Return the picture of these modules as the text of an SVG."""
    rooms, graph = rooms_of(modules)
    floor = levels(graph)
    arrows = [(room, below) for room, targets in without_shortcuts(graph).items() for below in sorted(targets)]
    arrows = [(room, below) for room, below in arrows if floor[room] > floor[below]]
    rows, links = _rows(floor, arrows)
    rows = _ordered(rows, links)
    x = _positions(rows, links)
    top = max(floor.values())
    y = {level: MARGIN + (top - level) * FLOOR for level in range(1, top + 1)}
    right = max(place + _width(node) // 2 for node, place in x.items())
    size = (right + MARGIN, MARGIN * 2 + HEIGHT + (top - 1) * FLOOR)
    lines = [_arrow(arrow, floor, x, y) for arrow in arrows]
    boxes = [_box(room, x[room], y[floor[room]]) for room in sorted(rooms)]
    return "\n".join([_opening(*size), *lines, *boxes, "</svg>", ""])


def without_shortcuts(graph: Graph) -> Graph:
    """Return the transitive reduction: the arrows that do not follow from others."""
    reach: Graph = {}

    def reached(node: str) -> set[str]:
        if node not in reach:
            reach[node] = set()  # a circle ends here
            reach[node] = graph[node].union(*(reached(target) for target in graph[node]))
        return reach[node]

    return {
        node: {end for end in targets if not any(end in reached(other) for other in targets - {end})}
        for node, targets in graph.items()
    }


def _rows(floor: dict[str, int], arrows: Iterable[tuple[str, str]]) -> tuple[list[list[Node]], list[tuple[Node, Node]]]:
    """The nodes of each floor from the top, with bends where arrows cross it, and the links from floor to floor."""
    rows: dict[int, list[Node]] = {level: [] for level in range(max(floor.values()), 0, -1)}
    for room in sorted(floor):
        rows[floor[room]].append(room)
    links: list[tuple[Node, Node]] = []
    for start, end in arrows:
        bends = [(start, end, level) for level in range(floor[start] - 1, floor[end], -1)]
        for bend in bends:
            rows[bend[2]].append(bend)
        links += pairwise([start, *bends, end])
    return list(rows.values()), links


def _ordered(rows: list[list[Node]], links: Sequence[tuple[Node, Node]]) -> list[list[Node]]:
    """Order each floor by the mean place of what it is linked with, down and up, and keep what crosses least."""
    near = _neighbours(rows, links)
    best, rows = rows, list(rows)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for index in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            place = _places(rows[index - 1 if down else index + 1])
            here = _places(rows[index])
            wanted = {node: _mean([place[m] for m in near[node] if m in place], here[node]) for node in here}
            rows[index] = sorted(here, key=wanted.__getitem__)
        if _crossings(rows, links) < _crossings(best, links):
            best = list(rows)
    return best


def _places(row: Sequence[Node]) -> dict[Node, float]:
    return {node: (number + 0.5) / len(row) for number, node in enumerate(row)}


def _crossings(rows: list[list[Node]], links: Sequence[tuple[Node, Node]]) -> int:
    place = {node: number for row in rows for number, node in enumerate(row)}
    level = {node: number for number, row in enumerate(rows) for node in row}
    return sum(
        level[a] == level[c] and (place[a] - place[c]) * (place[b] - place[d]) < 0
        for number, (a, b) in enumerate(links)
        for c, d in links[:number]
    )


def _positions(rows: list[list[Node]], links: Sequence[tuple[Node, Node]]) -> dict[Node, int]:
    """Move nodes towards those they are linked with, in their order and without touching; the left edge is MARGIN."""
    near = _neighbours(rows, links)
    x = {node: offset for row in rows for node, offset in zip(row, _offsets(row), strict=True)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 else reversed(rows):
            wanted = [_mean([x[other] for other in near[node]], x[node]) for node in row]
            x.update(zip(row, _apart(wanted, _offsets(row)), strict=True))
    left = min(x[node] - _width(node) / 2 for row in rows for node in row) - MARGIN
    return {node: round(value - left) for node, value in x.items()}


def _apart(wanted: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """The nearest places, by least squares, that are as far apart as the offsets (pool adjacent violators)."""
    pools: list[list[float]] = []
    for value, offset in zip(wanted, offsets, strict=True):
        pools.append([value - offset])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    return [_mean(pool) + offset for pool, offset in zip((p for p in pools for _ in p), offsets, strict=True)]


def _offsets(row: Sequence[Node]) -> list[float]:
    found, edge = [], 0.0
    for node in row:
        found.append(edge + _width(node) / 2)
        edge += _width(node) + GAP
    return found


def _neighbours(rows: list[list[Node]], links: Iterable[tuple[Node, Node]]) -> dict[Node, list[Node]]:
    near: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    for a, b in links:
        near[a].append(b)
        near[b].append(a)
    return near


def _width(node: Node) -> int:
    return WIDTH if isinstance(node, str) else BEND


def _mean(values: Sequence[float], default: float = 0.0) -> float:
    return sum(values) / len(values) if values else default


def _opening(width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif" text-anchor="middle">\n'
        "<title>The rooms of llm_attr; arrows go down, to what a room imports</title>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8 7 4 0 7.2z" fill="#8b949e"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>'
    )


def _arrow(arrow: tuple[str, str], floor: dict[str, int], x: dict[Node, int], y: dict[int, int]) -> str:
    """A curve from the lower edge of a room through its bends to the upper edge of another."""
    start, end = arrow
    points = [(x[start], y[floor[start]] + HEIGHT)]
    for level in range(floor[start] - 1, floor[end], -1):
        place = x[(start, end, level)]
        points += [(place, y[level]), (place, y[level] + HEIGHT)]
    points.append((x[end], y[floor[end]] - 1))
    path = f"M{points[0][0]} {points[0][1]}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) // 2
        path += f"L{x1} {y1}" if x0 == x1 else f"C{x0} {middle} {x1} {middle} {x1} {y1}"
    return f'<path d="{path}" fill="none" stroke="#8b949e" stroke-width="1.2" marker-end="url(#tip)"/>'


def _box(room: str, x: int, y: int) -> str:
    fill, ink = TINTS.get(room.split("/")[0], OTHER)
    return (
        f'<rect x="{x - WIDTH // 2}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{fill}" stroke="{ink}"/>'
        f'<text x="{x}" y="{y + 23}" font-size="14" font-weight="600" fill="{ink}">{escape(room)}</text>'
    )
