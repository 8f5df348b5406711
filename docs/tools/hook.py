"""The hook of `mkdocs.yml`: adds the pages that are made from the code to those that people write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pages
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

MADE = pages.made()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API, whose names follow the packages, at the end of the reference."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"].append({"API": pages.api_nav(MADE)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each page that is made; none of them is ever a file in the tree."""
    for uri, text in MADE.items():
        files.append(File.generated(config, uri, content=text))
    return files
