"""The page of the command line, from the Typer app itself; and a way to run a command and have what it prints."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from importlib.metadata import entry_points
from typing import Any

import typer


def page() -> str:
    """Every command with its arguments and options."""
    (entry,) = entry_points(group="console_scripts", name="medsec")
    root = typer.main.get_command(importlib.import_module(entry.module).app)
    out = ["# Command line\n", "Made from the commands themselves. `medsec COMMAND --help` says the same.\n"]
    out += [section(f"medsec {name}", command) for name, command in leaves(root)]
    return "\n".join(out)


def leaves(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """Commands and subcommands, with their full names."""
    out = []
    for name, command in group.commands.items():
        full = f"{before} {name}".strip()
        out += leaves(command, full) if hasattr(command, "commands") else [(full, command)]
    return out


def section(name: str, command: Any) -> str:
    """One command in Markdown."""
    visible = [p for p in command.params if not getattr(p, "hidden", False)]
    arguments = " ".join(_metavar(p) for p in visible if p.param_type_name == "argument")
    lines = [f"## {name}\n", f"```\n{name} {arguments}".rstrip() + " [OPTIONS]\n```\n",
             (command.help or "").replace("\b", "").replace("\f", "").strip() + "\n"]
    options = [p for p in visible if p.param_type_name == "option" and p.name != "help"]
    if options:
        lines += ["| option | meaning |", "|---|---|", *(_row(p) for p in options), ""]
    return "\n".join(lines)


def _metavar(parameter: Any) -> str:
    shown = parameter.metavar or parameter.name.upper().rstrip("_")
    shown = shown if parameter.required or shown.startswith("[") else f"[{shown}]"
    choices = getattr(parameter.type, "choices", None)
    return f"[{'|'.join(choices)}]" if choices and not parameter.metavar else shown


def _row(parameter: Any) -> str:
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
    names = ", ".join(f"`{name}{value}`" for name in parameter.opts).replace("|", r"\|")
    default = parameter.default
    plain = default is not None and isinstance(default, str | int | float | bool) and default not in ("", False)
    text = (parameter.help or "").replace("|", r"\|").replace("\\[", "[").replace("\n", " ")
    needed = " Required." if parameter.required else ""
    return f"| {names} | {text}{needed}{f' Default: `{default}`.' if plain else ''} |"


def output(*arguments: str) -> str:
    """What `medsec ARGUMENTS` prints."""
    (entry,) = entry_points(group="console_scripts", name="medsec")
    printed, given = io.StringIO(), sys.argv
    sys.argv = ["medsec", *arguments]
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            entry.load()()
    finally:
        sys.argv = given
    return printed.getvalue()
