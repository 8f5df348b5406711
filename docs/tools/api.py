"""Pages of the API: one for each folder of the packages, with a section for each module that has something public.

Folders are walked, so that a module that moves takes its documentation along.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEHIND = "---\nsearch:\n  boost: 0.2\n---\n"
"""Puts these pages behind those that people write in the results of a search."""
PACKAGES = ("suite", "tabular", "imaging", "privacy", "federated")


def pages() -> dict[str, str]:
    """`reference/api/FOLDER.md` -> a heading and the objects of each module."""
    out = {}
    for package in PACKAGES:
        for folder in (ROOT / package, *sorted(p for p in (ROOT / package).rglob("*") if p.is_dir())):
            modules = [m for m in sorted(folder.glob("*.py")) if public(m)]
            rooms = [f for f in sorted(folder.iterdir()) if (f / "__init__.py").is_file()]
            if modules or rooms:
                name = dotted(folder)
                sections = [f"## {dotted(m)}\n\n{{}}\n\n".format(":::" + f" {dotted(m)}\n    options:\n"
                                                                 "      heading_level: 3\n"
                                                                 "      show_root_heading: false") for m in modules]
                head = f"{BEHIND}# {name}\n\n{about(folder)}\n\n{listed(rooms)}"
                out[f"reference/api/{name}.md"] = head + "".join(sections)
    return out


def listed(rooms: list[Path]) -> str:
    """A table of the folders in a folder, with links."""
    if not rooms:
        return ""
    lines = [f"| [{dotted(f)}]({dotted(f)}.md) | {about(f).splitlines()[0]} |" for f in rooms]
    return "\n".join(["| folder | what it holds |", "|---|---|", *lines]) + "\n\n"


def public(module: Path) -> bool:
    """Whether a module offers anything: a class, a function or a constant without a leading underscore."""
    if module.name.startswith("_"):
        return False
    body = ast.parse(module.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") for node in body)


def about(folder: Path) -> str:
    """The docstring of a package."""
    init = folder / "__init__.py"
    return (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or "") if init.is_file() else ""


def dotted(path: Path) -> str:
    """`suite/attacks/fab.py` -> `suite.attacks.fab`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
