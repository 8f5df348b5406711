"""`medsec federate`: an audit whose defenses are federations, and the check of what they wrote down."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suite.errors import InputError
from suite.options import (
    Device,
    Drop,
    Group,
    Jobs,
    Out,
    Positive,
    Quick,
    SchemaFile,
    Seed,
    Target,
    names,
    table_of,
)

if TYPE_CHECKING:
    from suite.plan import Plan

USE = "federated"
"""Registered name of the defense that is a federation."""


def federate(
    plan: Annotated[str | None, typer.Argument(metavar="[PRESET | PLAN.toml]", show_default=False,
                                               help="What to do; when left out, `federation-images` for images, else "
                                               "`federation`.")] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME_OR_FILE", help="A registered dataset, a CSV, or images "
                                            "(a folder or .npz).")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAMES", help="Models, instead of the plan's.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="How rows are dealt out to hospitals: "
                                                  "by-subgroup, iid, dirichlet, quantity, feature-shift.")] = None,
    column: Annotated[str | None, typer.Option(metavar="NAME", help="by-subgroup: the subgroup that names the "
                                               "hospital.")] = None,
    hospitals: Annotated[int | None, typer.Option(metavar="N", help="How many hospitals to deal rows out to.")] = None,
    alpha: Annotated[float | None, typer.Option(help="dirichlet, quantity: 100 is almost even, 0.1 leaves most to "
                                                "few.")] = None,
    rules: Annotated[str | None, typer.Option(metavar="a,b", help="What joins the hospitals' updates, instead of the "
                                              "plan's (`medsec list aggregations`).")] = None,
    attacks: Annotated[str | None, typer.Option(metavar="a,b", help="Attacks, instead of the plan's; `none` for "
                                                "none.")] = None,
    hostile: Annotated[int | None, typer.Option(metavar="N", help="How many hospitals are hostile.")] = None,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Rounds of each federation.")] = None,
    target: Target = None,
    positive: Positive = None,
    schema: SchemaFile = None,
    drop: Drop = None,
    group: Group = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    jobs: Jobs = None,
    quick: Quick = False,
    verify: Annotated[Path | None, typer.Option(metavar="RUN", help="Check the logs of a run instead: whether anything "
                                                "was changed in them, or in the models.")] = None,
    head: Annotated[str | None, typer.Option(metavar="HASH", help="With --verify: what it, or the run, printed "
                                             "before.")] = None,
) -> None:
    """Train across hospitals, and attack from within.

    No hospital shares a row. Trains a federation for each rule that joins updates, tells what every hospital gets for
    taking part, repeats it with hostile hospitals, and runs any other attack on the model.

    A run that was stopped goes on where it was when the same command is given again.
    """
    if head and not verify:
        raise InputError("--head means something with --verify only")
    if verify:
        _show_verified(verify, head)
        return
    from suite import request
    from suite.terminal import run_audit

    listed = names(data)
    plan = plan or preset_for(listed)
    wanted = names(rules) or (["mean"] if quick else [])
    flags = {"data": listed, "models": names(model), "attacks": names(attacks) if attacks != "none" else [],
             "defenses": [_joined_by(rule, hostile or 1) for rule in wanted] or None,
             "hospitals": dealt(partition, column, hospitals, alpha, bool(listed)), "seed": seed, "device": device,
             "table": table_of(target, positive, schema, drop, group) or None}
    made = changed(request.make_plan(plan, flags, quick), rounds or (5 if quick else None), hostile)
    folder = out or Path("runs") / Path(plan).stem
    run_audit(made, folder, jobs)
    _show_verified(folder, None)


def preset_for(data: list[str] | None) -> str:
    """The preset for images, or for all else."""
    from suite.request import default_preset

    return "federation-images" if data and default_preset(data) == "imaging" else "federation"


def dealt(partition: str | None, column: str | None, hospitals: int | None, alpha: float | None,
          other_data: bool) -> dict[str, Any] | None:
    """How rows are dealt out, from what was said of it; None for the plan's own way.

    Data other than the plan's have no hospitals that a plan could know: five, uneven by label, unless something else is
    said.

    Raises:
        InputError: Something was said that the partition has no use for.
    """
    if partition is None:
        partition = "by-subgroup" if column else "dirichlet" if hospitals or alpha or other_data else None
    if partition is None:
        return None
    if partition == "by-subgroup":
        if hospitals or alpha:
            raise InputError("--hospitals and --alpha are for rows that are dealt out; by-subgroup takes hospitals as "
                             "they are")
        return {"name": partition} | ({"column": column} if column else {})
    if column:
        raise InputError("--column is for --partition by-subgroup")
    skewed = partition in ("dirichlet", "quantity")
    if alpha is not None and not skewed:
        raise InputError(f"--alpha is for dirichlet and quantity, and {partition} has none")
    return {"name": partition, "sites": hospitals or 5} | ({"alpha": alpha or 0.5} if skewed else {})


def _joined_by(rule: str, hostile: int) -> dict[str, Any]:
    """A federation whose updates this rule joins; a rule that must be told how many to withstand is told."""
    from suite import registry

    found = registry.load("aggregations", rule)
    wants = [f.name for f in fields(found) if f.default is MISSING and f.default_factory is MISSING] \
        if isinstance(found, type) else []
    spec = {"name": rule, "bad": hostile} if wants == ["bad"] else rule
    return {"name": rule, "use": USE, "rule": spec}


def changed(plan: Plan, rounds: int | None, hostile: int | None) -> Plan:
    """The plan with so many rounds in each federation, and so many hostile hospitals in each attack by hospitals."""
    from federated.attackers import HostileAttack
    from suite import registry

    def of(item: Any, **params: Any) -> Any:
        return item.model_copy(update={"params": item.params | {k: v for k, v in params.items() if v is not None}})

    def is_hostile(name: str) -> bool:
        found = registry.load("attacks", name)
        return issubclass(found if isinstance(found, type) else type(found), HostileAttack)

    defenses = tuple(of(item, rounds=rounds) if item.source == USE else item for item in plan.defenses)
    attacks = tuple(of(item, hospitals=hostile) if is_hostile(item.name) else item for item in plan.attacks)
    return plan.model_copy(update={"defenses": defenses, "attacks": attacks})


def _show_verified(run: Path, head: str | None) -> None:
    from federated.verify import verify_run
    from suite.terminal import console

    found = verify_run(run, head)
    console.print(f"logs          {found.files} with {found.entries} entries, none changed; {found.models} model"
                  f"{'' if found.models == 1 else 's'} as logged", soft_wrap=True)
    console.print(f"head          {found.head}  [dim](keep it elsewhere: --verify RUN --head HASH)[/]", soft_wrap=True)
