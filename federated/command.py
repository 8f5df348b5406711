"""`medsec federate`: an audit whose defenses are federations, and the check of what they wrote down."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suite.base.errors import InputError
from suite.cli.options import (
    Channels,
    Device,
    Drop,
    Finding,
    Group,
    Jobs,
    Labels,
    Leakage,
    Modality,
    Out,
    Pictures,
    Positive,
    Quick,
    RetryErrors,
    SchemaFile,
    Seed,
    Size,
    SmallestGroup,
    SplitColumn,
    Target,
    TestFile,
    TimeLimit,
    TrainFile,
    data_of,
    images_of,
    names,
    table_of,
)

if TYPE_CHECKING:
    from suite.audit.plan import Plan

USE, TREES = "federated", "federated-trees"
"""Registered names of the defenses that are federations."""
TRAINING = ("rounds", "epochs", "batch", "lr", "proximal", "personal")
"""What a federation of another rule takes over from the plan's first."""


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
    train: TrainFile = None,
    target: Target = None,
    positive: Positive = None,
    schema: SchemaFile = None,
    drop: Drop = None,
    group: Group = None,
    split: SplitColumn = None,
    test: TestFile = None,
    labels: Labels = None,
    size: Size = None,
    channels: Channels = None,
    modality: Modality = None,
    finding: Finding = None,
    allow_leakage: Leakage = False,
    pictures: Pictures = False,
    smallest_group: SmallestGroup = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    jobs: Jobs = None,
    time_limit: TimeLimit = None,
    quick: Quick = False,
    retry_errors: RetryErrors = False,
    verify: Annotated[Path | None, typer.Option(metavar="RUN", help="Check the logs of a run instead: whether anything "
                                                "was changed in them, or in the models.")] = None,
    head: Annotated[str | None, typer.Option(metavar="HASH", help="With --verify: what it, or the run, printed "
                                             "before.")] = None,
) -> None:
    """Train across hospitals, and attack from within.

    No hospital shares a row. Trains a federation for each rule that joins updates, tells what every hospital gets for
    taking part, repeats it with hostile hospitals, and runs any other attack on the model.

    A run that was stopped goes on where it was when the same command is given again.

    Exit code 0: every cell ran; 2: the plan or the data are wrong; 3: cells failed (the report and the last line say
    which).
    """
    if head and not verify:
        raise InputError("--head means something with --verify only")
    if verify:
        _show_verified(verify, head)
        return
    from suite.audit import request
    from suite.cli.terminal import run_audit

    listed, attacked = data_of(data, train, test), names(attacks)
    plan = plan or preset_for(listed)
    if hostile is not None and hostile < 1:
        raise InputError(f"--hostile must be at least 1, got {hostile}")
    raw, where = request.read_plan(plan)
    own, usual = raw.get("hospitals"), raw.get("data", [])
    other = bool(listed) and listed[0] not in ([usual] if isinstance(usual, str) else usual)
    wanted = names(rules) or (["mean"] if quick else [])
    if wanted:
        raw = joined_by(raw, wanted, hostile)
    flags = {"data": listed, "models": names(model), "defenses": wanted or None,
             "attacks": attacked and [name for name in attacked if name != "none"],
             "hospitals": dealt(own, partition, column, hospitals, alpha, other), "seed": seed, "device": device,
             "time_limit": time_limit, "pictures": pictures or None, "smallest_group": smallest_group,
             "table": table_of(target, positive, schema, drop, group, split, test) or None,
             "images": images_of(labels, size, channels, modality, finding, allow_leakage, positive, group) or None}
    made = changed(request.changed_plan(raw, where, flags, quick), 10 if quick and rounds is None else rounds, hostile)
    check_numbers(made, hostile)
    folder = out or Path("runs") / Path(plan).stem
    code = run_audit(made, folder, jobs, retry_errors, check_federates)
    _show_verified(folder, None)
    raise typer.Exit(code)


def preset_for(data: list[str] | None) -> str:
    """The preset for images, or for all else."""
    from suite.audit.request import default_preset

    return "federation-images" if data and default_preset(data) == "imaging" else "federation"


def dealt(own: Any, partition: str | None, column: str | None, hospitals: int | None, alpha: float | None,
          other_data: bool) -> Any:
    """How rows are dealt out: the plan's `own` way, changed by what was said of it.

    A plan that takes hospitals as they are does not know those of other data: these are dealt out to five, uneven by
    label, unless something else is said.

    Raises:
        InputError: Something was said that the partition has no use for.
    """
    own = {"name": own} if isinstance(own, str) else dict(own or {})
    if partition is None and column:
        partition = "by-subgroup"
    if partition is None:
        as_they_are = own.get("name") in (None, "by-subgroup")
        asked = other_data or hospitals is not None or alpha is not None
        partition = "dirichlet" if as_they_are and asked else own.get("name")
    if partition is None:
        return None
    kept = own if partition == own.get("name") else {"name": partition}
    if partition == "by-subgroup":
        if hospitals is not None or alpha is not None:
            raise InputError("--hospitals and --alpha are for rows that are dealt out; by-subgroup takes hospitals as "
                             "they are")
        return kept | ({"column": column} if column else {})
    if column:
        raise InputError("--column is for --partition by-subgroup")
    said = {"sites": hospitals, "alpha": alpha}
    usual = {"sites": 5} | ({"alpha": 0.5} if partition in ("dirichlet", "quantity") else {})
    if alpha is not None and "alpha" not in usual:
        raise InputError(f"--alpha is for dirichlet and quantity, and {partition} has none")
    return usual | kept | {key: value for key, value in said.items() if value is not None}


def joined_by(raw: dict[str, Any], rules: list[str], hostile: int | None) -> dict[str, Any]:
    """A plan, as it was read, whose federations are those of some rules.

    A rule that the plan has a defense for is taken from there. Another one trains like the plan's first federation. How
    many `hostile` hospitals there are, where it is said, is what rules are told who must be told; else what the plan
    says, or most of its attacks have. Attacks that the plan holds against federations which are gone are held against
    the new ones.

    Raises:
        InputError: A rule is unknown, or needs more than a name.
    """
    items = [{"name": item} if isinstance(item, str) else item for item in raw.get("defenses", [])]
    there = {item.get("name"): item for item in items}
    first = next((item for item in items if item.get("use", item.get("name")) == USE), {})
    like = {key: first[key] for key in TRAINING if key in first}
    most = max((a.get("hospitals", 1) for a in raw.get("attacks", []) if isinstance(a, dict)), default=1)
    made = [_told(there[rule], hostile) if rule in there
            else {"name": rule, "use": USE, "rule": _spec(rule, hostile or most)} | like for rule in rules]
    gone = {item["name"] for item in items if item.get("use", item["name"]) == USE} - {*rules}
    attacks = [_against(item, gone, rules) for item in raw.get("attacks", [])]
    return raw | {"defenses": made, "attacks": attacks}


def _told(item: dict[str, Any], bad: int | None) -> dict[str, Any]:
    """A federation of a plan whose rule is told how many are hostile."""
    rule = item.get("rule")
    return item | {"rule": rule | {"bad": bad}} if bad and isinstance(rule, dict) and "bad" in rule else item


def _spec(rule: str, bad: int) -> Any:
    from suite.base import registry

    found = registry.load("aggregations", rule)
    wants = [f.name for f in fields(found) if f.default is MISSING and f.default_factory is MISSING] \
        if isinstance(found, type) else []
    if set(wants) - {"bad"}:
        raise InputError(f"--rules {rule}: needs {', '.join(wants)}, which only a plan can say")
    return {"name": rule, "bad": bad} if wants else rule


def _against(item: Any, gone: set[str], rules: list[str]) -> Any:
    """An attack of a plan that is held against `rules` in place of federations that are gone."""
    wanted = item.get("defenses") if isinstance(item, dict) else None
    if not isinstance(wanted, list) or not gone & {*wanted}:
        return item
    return item | {"defenses": [*(name for name in wanted if name not in gone),
                                *(rule for rule in rules if rule not in wanted)]}


def changed(plan: Plan, rounds: int | None, hostile: int | None) -> Plan:
    """The plan with so many rounds in each federation, and so many hostile hospitals in each attack by hospitals."""
    from federated.attacks.attackers import HostileAttack
    from suite.base import registry

    def of(item: Any, **params: Any) -> Any:
        return item.model_copy(update={"params": item.params | {k: v for k, v in params.items() if v is not None}})

    def is_hostile(name: str) -> bool:
        found = registry.load("attacks", name)
        return issubclass(found if isinstance(found, type) else type(found), HostileAttack)

    defenses = tuple(of(item, rounds=rounds) if item.source in (USE, TREES) else item for item in plan.defenses)
    attacks = tuple(of(item, hospitals=hostile) if is_hostile(item.name) else item for item in plan.attacks)
    return plan.model_copy(update={"defenses": defenses, "attacks": attacks})


def check_numbers(plan: Plan, hostile: int | None) -> None:
    """Raise `InputError` where rows are dealt out to fewer than two hospitals, or no honest one would be left."""
    sites = plan.hospitals.params.get("sites") if plan.hospitals else None
    if not isinstance(sites, int):
        return
    if sites < 2:
        raise InputError(f"--hospitals must be at least 2, got {sites}: one hospital alone is no federation")
    if hostile is not None and hostile >= sites:
        raise InputError(f"--hostile must be below the number of hospitals, {sites}, got {hostile}; give fewer, or "
                         "more with --hospitals")


def check_federates(plan: Plan) -> None:
    """Raise `InputError` unless some federation of the plan can train some model of it."""
    from suite.audit.layout import resolve_model
    from suite.base import registry
    from suite.base.errors import NotApplicable

    why = "the plan has no federation among its defenses"
    recipes = {item.name: resolve_model(item, plan.allow_pickle) for item in plan.models}
    for item in plan.defenses:
        for name, recipe in recipes.items() if item.source in (USE, TREES) else ():
            try:
                registry.make("defenses", item.source, item.params).check(recipe)
                return
            except NotApplicable as e:
                why = f"no federation of the plan can train {name}: {e}"
    raise InputError(why)


def _show_verified(run: Path, head: str | None) -> None:
    from federated.evaluate.verify import verify_run
    from suite.base.text import plain
    from suite.cli.terminal import console

    found = verify_run(run, head)
    end = "none changed" if head else "none changed before their ends"
    console.print(f"logs          {found.files} with {found.entries} entries, {end}; {found.models} model"
                  f"{'' if found.models == 1 else 's'} as logged", soft_wrap=True)
    if not head:
        console.print("end           [yellow]unproven[/] without --head: last entries may have been cut off, or all "
                      "logs written anew", soft_wrap=True)
    console.print(f"logs' head    {plain(found.head)}", soft_wrap=True)
    console.print("              [dim]keep it elsewhere, for medsec federate --verify RUN --head HASH[/]")
