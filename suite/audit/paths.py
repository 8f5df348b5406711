"""Folders of this machine, which are nobody's business: what a run keeps names files only."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from suite.audit.plan import Plan
from suite.base import registry

ANY = re.compile(r"(?<![\w/.~])(?:file:(?://[^\s/]*)?|~|\.{1,2})?/(?:[^\s/:,;'\"()<>]+/)*(?=[^\s/])")
"""The folders of a path that stands in a text."""
QUOTED = re.compile(r"(?<=['\"])(?:~|\.{1,2})?/(?:[^/'\"\n]+/)*(?=[^/'\"\n])")
"""The same inside quotes, as Python writes paths in errors, where a folder may have spaces in its name."""
BELOW = r"(?:/(?:[^/\n:,;'\"()<>]*[^\s/:,;'\"()<>]/)*(?=[^\s/])|(?=$|[\s/:,;'\"()<>]))"
"""What follows a folder that is known: folders in it, which may have spaces in their names, too; or its end."""


def short_names(plan: Plan) -> dict[str, str]:
    """Every path of a plan, as it was typed and in full -> the name of the file or folder.

    A run can so be continued from another working directory, and with paths typed in another way; whether the files
    are the same is seen by their digests.
    """
    out = {}
    for text in _texts(plan.model_dump(mode="json")):
        file, colon, rest = text.rpartition(":") if registry.is_file(text) else (text, "", "")
        path = Path(file)
        name = path.name or path.resolve().name
        if file and file != name and path.exists():
            out[text] = name + colon + rest
            out |= dict.fromkeys((str(path), str(path.absolute()), str(path.resolve())), name)
    return dict(sorted(out.items(), key=lambda pair: -len(pair[0])))


def without_folders(value: Any, names: Mapping[str, str]) -> Any:
    """A JSON value in which every path of `short_names` is a name, in the keys of dictionaries, too."""
    if isinstance(value, str):
        if value in names:
            return names[value]
        for path, name in names.items():
            if len(Path(path).parts) > 1:  # "." is in many a text that is no path
                value = value.replace(path, name)
        return value
    if isinstance(value, Mapping):
        return {without_folders(k, names): without_folders(v, names) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(v, names) for v in value]
    return value


def folders_of(plan: Plan) -> set[Path]:
    """The folders in which the files of a plan lie, in full."""
    return {folder for text in short_names(plan) if (path := Path(text)).exists()
            for folder in (path.absolute().parent, path.resolve().parent)}


def without_any_folder(text: str, known: Iterable[Path] = ()) -> str:
    """A message in which no path has a folder, such as what an error says of files that nobody typed.

    Args:
        text: The message.
        known: Folders that may be named in it, besides the home and the working directory. In these, and in quotes,
            names of folders may have spaces; anywhere else a text does not say where such a name ends.
    """
    usual = (Path.home(), Path.cwd(), Path(tempfile.gettempdir()))
    for folder in sorted({str(path) for path in (*known, *usual) if len(path.parts) > 1}, key=len, reverse=True):
        text = re.sub(r"(?:(?<![\w.~-])file://)?" + re.escape(folder) + BELOW, "", text)
    return ANY.sub("", QUOTED.sub("", text))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
