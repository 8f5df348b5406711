"""Pages of the keys that a plan and a schema may have, from the pydantic models that check them."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin

from catalogue import long
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]


def plan_page() -> str:
    """What a plan may say."""
    plan, item, table, images, ladder = (model(name, "suite", "imaging") for name in (
        "Plan", "Item", "Table", "Images", "Ladder"))
    return "\n".join([
        "# Plan\n", "A plan is a TOML file: `medsec audit plan.toml` checks it in full before anything is computed. "
        "An unknown key is refused, with the nearest one that exists. "
        "[Audit your own data](../how-to/own-data.md#a-plan-says-more-than-options) has an example. Made from the "
        "models that check a plan.\n",
        "## Top level\n", rows(plan),
        "## Models, attacks, defenses, detectors\n", (inspect.getdoc(item) or "").split("\n\nAttributes:")[0]
        .split("\n\n", 1)[-1] + "\n", rows(item),
        "## `[table]`\n", rows(table), "## `[images]`\n", rows(images), "## `[norms]`\n",
        "Each of `l2` and `l0` is a table with these keys.\n", rows(ladder)])


def schema_page() -> str:
    """What a schema may say."""
    column, relation = (model(name, "tabular") for name in ("Column", "Relation"))
    return "\n".join([
        "# Schema\n", "A schema is a TOML file that says what a possible patient is. "
        "`medsec data show FILE --write-schema schema.toml` writes one to edit. "
        "[Audit your own data](../how-to/own-data.md#say-what-a-possible-patient-is) has an example. Made from the "
        "models that check a schema.\n",
        "## `[columns.NAME]`\n", rows(column), "## `[[relations]]`\n", (inspect.getdoc(relation) or "") + "\n",
        rows(relation)])


def model(name: str, *packages: str) -> type[BaseModel]:
    """The pydantic model of that name, wherever in the packages it is."""
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            if re.search(rf"^class {name}\(BaseModel\)", file.read_text(encoding="utf-8"), re.M):
                module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                return getattr(importlib.import_module(module), name)
    raise LookupError(f"no pydantic model {name} in {', '.join(packages)}")


def rows(of: type[BaseModel]) -> str:
    """A table of the fields of a model."""
    meanings = attributes(inspect.getdoc(of) or "")
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in of.model_fields.items():
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        text = meanings.get(name) or field.description or ""
        limits = "".join(f", {_limit(m)}" for m in field.metadata if _limit(m))
        lines.append("| " + " | ".join(part.replace("|", r"\|") for part in (
            f"`{name}`", type_name(field.annotation) + limits, default, text)) + " |")
    return long("\n".join(lines))


def attributes(doc: str) -> dict[str, str]:
    """The section "Attributes:" of a docstring: name -> text; several names before one colon share a text."""
    section = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", doc, re.M | re.S)
    out = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", section[1] if section else "", re.M | re.S):
        for name in names.split(", "):
            out[name] = " ".join(text.split())
    return out


def type_name(annotation: Any) -> str:
    """A type as a user of TOML would say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return ""
    if origin in (tuple, list):
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "table"
    if hasattr(annotation, "__metadata__"):  # Annotated
        return type_name(arguments[0])
    if arguments and str(origin).endswith("Literal"):
        return " or ".join(f'`"{a}"`' if isinstance(a, str) else f"`{a}`" for a in arguments)
    if arguments:
        return " or ".join(filter(None, map(type_name, arguments)))
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "file"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "table" if inspect.isclass(annotation) and issubclass(annotation, BaseModel) else name)


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel) or value in ({}, ()):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _limit(bound: Any) -> str:
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return ", ".join(f"{word} {getattr(bound, sign):,}" for sign, word in signs.items() if hasattr(bound, sign))
