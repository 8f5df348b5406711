"""A Griffe extension for our docstrings: parameters that share a line, as in `a, b: (n,) values`, get one each, and
sessions of the interpreter become code."""

from __future__ import annotations

import re
from typing import Any

import griffe

SHARED = re.compile(r"^(    )(\w+(?:, \w+)+): (.*(?:\n      .*)*)", re.M)
SESSION = re.compile(r"^>>> .*(?:\n\S.*)*", re.M)
SECTION = re.compile(r"^(?:Args|Attributes):\n(?:    .*\n?|\n(?=    ))+", re.M)


class SharedLines(griffe.Extension):
    """Changes docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            text = SECTION.sub(lambda section: SHARED.sub(split, section[0]), obj.docstring.value)
            obj.docstring.value = SESSION.sub(lambda session: f"```pycon\n{session[0]}\n```", text)


def split(found: re.Match[str]) -> str:
    """One entry for each name, with the same text."""
    indent, names, text = found.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
