"""The page of the scripts in `examples/`, from what each says at its top."""

from __future__ import annotations

import ast
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def page() -> str:
    """A section for each script."""
    scripts = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
               for path in sorted(EXAMPLES.glob("*.py")) if path.stem != "common"}
    return "\n".join(["# Examples\n", "One short script for each threat and defense, in `examples/`. Each runs in "
                      "under two minutes on two CPU cores. Made from what each script says at its top.\n",
                      *(f"## {path.name}\n\n{_indented(doc)}\n" for path, doc in scripts.items())])


def _indented(doc: str) -> str:
    """The docstring, with its last line as code."""
    *text, run = doc.strip().splitlines()
    return "\n".join(text) + (f"\n`{run.removeprefix('Run: ')}`" if run.startswith("Run: ") else f"\n{run}")
