"""What commands print: progress, findings, lists. Everything here reads what others computed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sized
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from suite.audit import catalog
from suite.audit.catalog import text
from suite.audit.plan import Plan
from suite.base import registry, threats
from suite.base.errors import InputError
from suite.base.text import plain
from suite.results.run import Run

if TYPE_CHECKING:
    from suite.report.findings import Finding

console = Console(highlight=False)
SMALL = 256
"""Inputs with fewer values are faster with one thread."""


FAILED = 3
"""Exit code of an audit of which cells failed."""


def run_audit(plan: Plan, folder: Path, jobs: int | None = None, retry_errors: bool = False,
              check: Callable[[Plan], None] = lambda _: None) -> int:
    """Carry out a plan with a progress bar, write the report, and print the findings and where it is.

    Args:
        plan: Of the audit.
        folder: Of the run.
        jobs: Processes; as many as suit the machine when left out.
        retry_errors: Carry out again what failed before.
        check: Raises `InputError` where the plan does not suit the command. It may open the plan's models, as it is
            called after these were tried in a process of their own.

    Returns:
        The exit code: `FAILED` where cells failed, else 0.
    """
    from suite.audit.request import open_data

    data, why = open_data(plan)
    console.print(f"[bold]data[/]  {plain(why)}", soft_wrap=True)
    from suite.models.trial import foreign, try_model

    for item in plan.models:
        if foreign(item.source):
            try_model(item.source, data.train.x, plan.allow_pickle, plan.time_limit)
    check(plan)
    import torch

    from suite.audit.forecast import Forecast
    from suite.audit.runner import Audit
    from suite.base.devices import cores, describe_device
    from suite.base.progress import listening
    from suite.cli.show_progress import Watch, shown
    from suite.report.write import write_report

    audit = Audit(plan, data, why)
    if jobs is None:  # one accelerator is not shared
        jobs = min(4, cores()) if audit.device.type == "cpu" else 1
    if data.train.x[0].size < SMALL:
        torch.set_num_threads(1)
    kinds = ("models", "attacks", "defenses", *(["detectors"] if plan.detectors else []))
    counts = (_count(getattr(plan, kind), kind) for kind in kinds)
    console.print(f"[bold]plan[/]  {plain(plan.title)}")
    console.print(f"      {', '.join(counts)}; {_count(audit.cells, 'cells')}; {describe_device(audit.device)}, "
                  f"{jobs} process{'es' if jobs > 1 else ''}")
    if idle := audit.idle:
        console.print(Padding(f"[dim]not applicable here: {plain(', '.join(idle))}[/]", (0, 0, 0, 6)))
    for limit in (*audit.limits, *audit.cautions):
        console.print(Padding(f"[dim]{plain(limit)}[/]", (0, 0, 0, 6)))
    began = time.perf_counter()
    watch = Watch(Forecast(audit, jobs), Run(folder), audit.cells)
    # of several cells at once, nobody could tell which one has come so far
    with shown(watch, console), listening(watch.step) if jobs == 1 else nullcontext():
        run = audit.run(folder, lambda cell, *_: watch.started(cell), jobs, retry_errors, isolated=True)
    page = write_report(run)
    show_findings(run)
    console.print(f"\n[bold]{_count(audit.cells, 'cells')}[/] in {time.perf_counter() - began:.0f} s")
    console.print(f"report        {plain(page)}", soft_wrap=True)
    console.print(f"measurements  {plain(run.measurements_file)}", soft_wrap=True)
    show_head(run)
    if plan.later:
        console.print(f"not run yet   {plain(', '.join(plan.later))}", soft_wrap=True)
        console.print("              the same command with --full adds them to this run", soft_wrap=True)
    failed = sum(bool(row.error) for row in run.rows())
    if failed:
        console.print(f"[red]{failed} of {_count(audit.cells, 'cells')} failed[/]: nothing is known there; exit code "
                      f"{FAILED}")
    return FAILED if failed else 0


def show_head(run: Run) -> None:
    """The last hash of a run's seal, and what it is good for."""
    console.print(f"head          {run.seal.head}", soft_wrap=True)
    console.print("              [dim]keep it elsewhere, for medsec verify RUN --head HASH[/]")


def _count(things: Sized, plural: str) -> str:
    return f"{len(things)} {plural if len(things) != 1 else plural.removesuffix('s')}"


def show_findings(run: Run, most: int = 12) -> None:
    """The verdict of a run, its findings, worst first, and what it did not test; the report has those beyond `most`."""
    from suite.report.page import merged
    from suite.report.rows import Rows
    from suite.report.rules.every import findings
    from suite.report.rules.verdict import verdict

    rows, manifest = run.rows(), run.manifest
    all_of_them = findings(rows, manifest)
    console.print("\n[bold]verdict[/]\n")
    for sentence in verdict(Rows(rows, manifest), all_of_them):
        console.print(Padding(plain(sentence), (0, 0, 0, 2)))
    found = merged(all_of_them)
    judged = [f for f in found if f.level != "not tested"]
    console.print("\n[bold]findings[/], worst first\n")
    console.print(_findings(judged[:most]))
    if left := Counter(finding.level for finding in judged[most:]):
        console.print("\nand in the report " + ", ".join(f"{count} more {level}" for level, count in left.items()))
    if untested := [f for f in found if f.level == "not tested"]:
        console.print("\n[bold]not tested[/]\n")
        console.print(_findings(untested))


def _findings(found: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    for f in found:
        todo = f"\n[dim]{plain(f.command)}[/]" if f.command else ""
        table.add_row(f"[{f.colour}]{f.level}[/]", f"[bold]{plain(f.model)}[/]  {plain(f.text)}{todo}")
    return table


def show_list(kind: str | None, as_json: bool) -> None:
    """`medsec list`."""
    kinds = [k for k in (*registry.KINDS, "threats") if kind in (None, k)]
    if not kinds:
        raise InputError(f"there is no list of '{kind}'; there are: {', '.join((*registry.KINDS, 'threats'))}")
    found = {k: _threats() if k == "threats" else catalog.entries(k) for k in kinds}
    if as_json:
        print(json.dumps(found if kind is None else found[kind], indent=1, ensure_ascii=False))
        return
    for k, rows in found.items():
        console.print(f"\n[bold]{k}[/]")
        width = max(len(row["name"]) for row in rows)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=width)
        grid.add_column()
        for row in rows:
            grid.add_row(Text(row["name"], "bold cyan"), _entry(row))
        console.print(Padding(grid, (0, 0, 0, 2)))


def _entry(row: dict[str, Any]) -> Text:
    """An entry for people: what it is and what the attacker must have, then its cost, source and threat ids."""
    terms = [row.get("knowledge"), row.get("needs") and f"needs {row['needs']}", row.get("strong") or ""]
    first = ": ".join(row[key] for key in ("title", "meaning", "description") if key in row)
    lines = [row.get("cost"), row.get("paper"), text(row.get("threat ids", "")),
             *(f"{key}: {text(value)}" for key, value in row.items() if key.startswith(("MITRE", "NIST", "OWASP")))]
    return Text.assemble(first, (" · ".join(["", *filter(None, terms)]), "dim"),
                         *((f"\n{line}", "dim") for line in lines if line and line != "none"))


def _threats() -> list[dict[str, Any]]:
    return [{"name": key, "title": t.title, f"MITRE ATLAS {threats.ATLAS_VERSION}": list(t.atlas),
             threats.NIST_EDITION: list(t.nist), "OWASP ML 2023": list(t.owasp), "meaning": t.meaning}
            for key, t in threats.CATALOG.items()]


def show_gate(folder: Path, requirements: Iterable[str], lenient: bool, head: str | None = None) -> int:
    """Print each requirement with its verdict; the exit code."""
    from suite.audit.gate import check

    verdicts = check(Run.open(folder), requirements, lenient, head)
    for verdict in verdicts:
        mark = "[green]PASS[/]" if verdict.met else "[red]FAIL[/]"
        console.print(f"{mark}  {plain(verdict.text)}", soft_wrap=True)
    return 0 if all(v.met for v in verdicts) else 1


def show_verified(folder: Path, head: str | None) -> int:
    """`medsec verify`: what is not as it was sealed; the exit code."""
    run = Run.open(folder)
    try:
        if not run.seal.entries:
            raise InputError(f"{folder} has no {run.seal.path.name}: there is nothing to compare its files with")
        checked = run.verify(head)
    except InputError as e:
        console.print(f"[red]BROKEN[/]   {plain(e)}", soft_wrap=True)
        return 1
    for what in ("changed", "missing", "extra"):
        for name in getattr(checked, what):
            console.print(f"[red]{what:<8}[/] {plain(ascii(name)[1:-1])}", soft_wrap=True)
    console.print(f"seal          {checked.entries} entries for {_count(range(checked.files), 'files')}"
                  + (", all as the run wrote them" if checked.whole else ""))
    if head is None:
        console.print("end           [yellow]unproven[/] without --head: whoever can write the folder can write a new "
                      "seal", soft_wrap=True)
    show_head(run)
    return 0 if checked.whole else 1


def show_exported(copy: Run) -> None:
    """`medsec export`: what the copy has not, and where it is."""
    said = copy.manifest["shared"]
    console.print(f"copy          {plain(copy.folder)}", soft_wrap=True)
    left_out = [*said["left_out"], f"subgroups of fewer than {said['smallest_group']} people"]
    console.print(f"without       {plain(', '.join(left_out))}", soft_wrap=True)
    console.print(f"of            the run with head {plain(said['head'])}", soft_wrap=True)
    show_head(copy)
    console.print("Read its report before you send it: names of classes, columns and hospitals are in it.",
                  soft_wrap=True)


def show_data(name: str, options: dict[str, Any], write_schema: Path | None) -> None:
    """`medsec data show`; `options` are the sections of `suite.audit.plan.Plan` that say how to read it."""
    from suite.audit.request import opened

    flags = {"data": [name], "models": ["none"]} | options
    data = opened(name, Plan.check(flags, "command line", flags))
    source = data.provenance
    console.print(f"[bold]{plain(data.name)}[/]" + ("  [red]SYNTHETIC[/]" if source.synthetic else ""))
    lines = {"source": source.source, "licence": source.licence, "sha256": source.sha256, "note": source.note,
             "rows": f"{source.rows} ({len(data.train)} train, {len(data.val)} validation, {len(data.test)} test)",
             "classes": ", ".join(f"{c} ({(data.train.y == k).mean():.0%})" for k, c in enumerate(data.classes))}
    for key, value in (lines | dict(data.card)).items():
        if value:
            console.print(f"  [dim]{plain(f'{key:<14}')}[/]  {plain(value)}", soft_wrap=True)
    described = getattr(data.space, "schema", None)
    if described is not None:
        table = Table(box=None)
        for heading in ("column", "unit", "plausible range", "kind", "change", "5 % budget"):
            table.add_column(heading)
        budget = data.space.describe(0.05)
        for column, c in described.columns.items():
            kind = "codes" if c.values else "integer" if c.integer else "real"
            table.add_row(plain(column), plain(c.unit), f"{c.min:g} to {c.max:g}", kind, c.change,
                          plain(budget.get(column, "")))
        console.print(table)
        for relation in described.relations:
            console.print(f"  [dim]always[/]  {plain(relation.name)}")
    if write_schema:
        if described is None:
            raise InputError(f"{name} has no schema to write")
        if write_schema.exists():
            raise InputError(f"{write_schema} exists already")
        described.save(write_schema)
        console.print(f"wrote {plain(write_schema)}; edit it and pass it with --schema")


def show_files() -> int:
    """`medsec data verify`."""
    from suite.datasets import cache

    rows = cache.verify({name: registry.load("datasets", name) for name in registry.names("datasets")})
    for row in rows:
        colour = {"ok": "green", "missing": "yellow"}.get(row.state, "red")
        console.print(f"[{colour}]{'wrong' if colour == 'red' else row.state:<8}[/] {plain(f'{row.name:<18}')} "
                      f"{plain(row.state if colour == 'red' else row.path)}", soft_wrap=True)
    return 1 if any(r.state not in ("ok", "missing") for r in rows) else 0
