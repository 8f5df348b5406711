"""A picture of which folder imports which, drawn from the code: lower rows import from higher ones only.

Imports inside functions and for types count. Folders that import each other in a circle share a frame.
"""

from __future__ import annotations

import ast
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("suite", "tabular", "imaging", "privacy", "federated")
WIDE, HIGH, GAP, BETWEEN, MOST = 150, 32, 12, 40, 5
"""Pixels of a box and of the space between boxes and lines; boxes in a line."""
WIDTH = (MOST + 1) * (WIDE + GAP)


def imports() -> dict[str, set[str]]:
    """Folder -> the folders that its modules import from; a package's own modules are the folder of its name."""
    out: dict[str, set[str]] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            here = folder(".".join(file.relative_to(ROOT).with_suffix("").parts))
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else (
                    [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
                if isinstance(node, ast.ImportFrom) and names:  # `from suite import registry` names a module
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                out.setdefault(here, set()).update(
                    folder(name) for name in names if name.split(".")[0] in PACKAGES)
    return {name: found & out.keys() - {name} for name, found in out.items()}


@cache
def folder(module: str) -> str:
    """`suite.attacks.fab.FAB` -> `suite.attacks`."""
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if rest and (ROOT / package / rest[0]).is_dir() else package


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected folders, in an order in which each imports from earlier ones only."""
    reach = {name: _reached(graph, name) for name in graph}
    groups: list[set[str]] = []
    for name in graph:
        if not any(name in group for group in groups):
            groups.append({name} | {other for other in reach[name] if name in reach[other]})
    return sorted(groups, key=lambda g: (len(g.union(*(reach[n] for n in g))), sorted(g)))


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found, todo = set(), [start]
    while todo:
        for name in graph[todo.pop()] - found:
            found.add(name)
            todo.append(name)
    return found


def rows(graph: dict[str, set[str]]) -> list[list[set[str]]]:
    """Groups in rows: each stands below everything that it imports."""
    depth: dict[str, int] = {}
    for group in circles(graph):
        below = [depth[name] for member in group for name in graph[member] - group]
        for member in group:
            depth[member] = max(below, default=-1) + 1
    out: list[list[set[str]]] = [[] for _ in range(max(depth.values()) + 1)]
    for group in circles(graph):
        out[depth[next(iter(group))]].append(group)
    return out


def picture() -> str:
    """An SVG of the rows, with a line from each folder to the nearest ones that it imports."""
    graph = imports()
    place: dict[str, tuple[float, float]] = {}
    frames: list[str] = []
    y = float(GAP)
    for line in (line for level in rows(graph) for line in broken(level)):
        x = (WIDTH - sum(columns(group) * (WIDE + GAP) + GAP for group in line) + 2 * GAP) / 2
        for group in line:
            for i, name in enumerate(sorted(group)):
                place[name] = x + i % MOST * (WIDE + GAP), y + i // MOST * (HIGH + GAP)
            if len(group) > 1:
                frames.append(f'<rect class="circle" x="{x - 6:g}" y="{y - 6:g}" rx="8" '
                              f'width="{columns(group) * (WIDE + GAP) - GAP + 12}" height="{height(group) + 12}"/>')
            x += columns(group) * (WIDE + GAP) + GAP
        y += max(map(height, line)) + BETWEEN
    lines = [_line(place[name], place[other]) for name in graph for other in sorted(direct(graph, name))]
    boxes = [f'<rect class="{name.split(".")[0]}" x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="5"/>'
             f'<text x="{x + WIDE / 2:g}" y="{y + HIGH / 2 + 5:g}">{escape(name)}</text>'
             for name, (x, y) in place.items()]
    colors = dict(zip(PACKAGES, ("#b2dfdb", "#ffe0b2", "#bbdefb", "#e1bee7", "#c8e6c9"), strict=True))
    style = ("text{font:13px sans-serif;text-anchor:middle;fill:#123} path{stroke:#90a4ae;fill:none} "
             "rect{stroke:#546e7a} .circle{fill:none;stroke:#c62828;stroke-dasharray:4 3} "
             + " ".join(f".{name}{{fill:{color}}}" for name, color in colors.items()))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - BETWEEN + GAP:g}" role="img" '
            f'aria-label="Folders and what they import"><style>{style}</style>' + "".join(lines + frames + boxes)
            + "</svg>\n")


def broken(level: list[set[str]]) -> list[list[set[str]]]:
    """A level in lines of at most `MOST` boxes, so that the picture stays readable on a page."""
    lines: list[list[set[str]]] = [[]]
    for group in level:
        if lines[-1] and sum(map(columns, lines[-1])) + columns(group) > MOST:
            lines.append([])
        lines[-1].append(group)
    return lines


def columns(group: set[str]) -> int:
    """Boxes side by side."""
    return min(len(group), MOST)


def height(group: set[str]) -> int:
    """Of the boxes of a group."""
    return -(-len(group) // MOST) * (HIGH + GAP) - GAP


def direct(graph: dict[str, set[str]], name: str) -> set[str]:
    """What a folder imports and does not already have through another one that it imports; of a circle, one folder."""
    groups = circles(graph)
    own = next(group for group in groups if name in group)
    used = [group for group in groups if group is not own and group & graph[name]]
    return {min(group & graph[name]) for group in used
            if not any(group & _reached(graph, next(iter(between))) for between in used if between is not group)}


def _line(below: tuple[float, float], above: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = below, above
    if y == to_y:
        return ""
    start, end = y, to_y + HIGH
    middle = (start + end) / 2
    return (f'<path d="M{x + WIDE / 2:g} {start:g} C{x + WIDE / 2:g} {middle:g} '
            f'{to_x + WIDE / 2:g} {middle:g} {to_x + WIDE / 2:g} {end:g}"/>')
