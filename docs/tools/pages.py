"""Every page that is made from the code: its address in the docs -> its text in Markdown."""

from __future__ import annotations

from pathlib import Path

import api
import catalogue
import commands
import keys
import layers
import scripts

ROOT = Path(__file__).parents[2]
COPIED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}


def made() -> dict[str, str]:
    """All pages, by address."""
    return {
        **{uri: copied(ROOT / name) for uri, name in COPIED.items()},
        "reference/command-line.md": commands.page(),
        "reference/plan.md": keys.plan_page(),
        "reference/schema.md": keys.schema_page(),
        "reference/examples.md": scripts.page(),
        **catalogue.pages(),
        **api.pages(),
        "explanation/layers.svg": layers.picture(),
    }


def copied(file: Path) -> str:
    """A file of the root, whose links into docs/ and to other copied files become links from the root of the docs."""
    text = file.read_text(encoding="utf-8").replace("](docs/", "](")
    for uri, name in COPIED.items():
        text = text.replace(f"]({name}", f"]({uri}")
    return text


def api_nav(made: dict[str, str]) -> list[dict]:
    """The pages of the API as a section of the navigation: packages, in them folders or modules."""
    tree: dict = {}
    for uri in made:
        if uri.startswith("reference/api/"):
            package = uri.removeprefix("reference/api/").removesuffix(".md").split(".")[0]
            tree.setdefault(package, []).append(uri)
    return [{package: [{title(uri): uri} for uri in uris]} for package, uris in tree.items()]


def title(uri: str) -> str:
    """`reference/api/suite.attacks.md` -> `suite.attacks`."""
    return Path(uri).name.removesuffix(".md")
