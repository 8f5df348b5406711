"""The command line. Heavy imports happen inside commands, so that `medsec --help` answers at once."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from suite.base.errors import InputError
from suite.base.text import printable
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
    RunFolder,
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

app = typer.Typer(name="medsec", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
                  help="Attack a diagnostic model, defend it, and report what was measured.")
data_app = typer.Typer(no_args_is_help=True, help="Fetch, describe and verify datasets.")
app.add_typer(data_app, name="data")

STOPPED = 130


def main() -> None:
    """Entry point: one line and exit code 2 for whatever the user can mend, never a traceback."""
    try:
        for word in sys.argv[1:]:
            if any("\ud800" <= c <= "\udfff" for c in word):  # how Python holds bytes that are no UTF-8
                raise InputError(f"'{word}': is not UTF-8; rename the file or folder")
        # returns the code of a `typer.Exit`, and 130 after Ctrl-C
        code = app(prog_name="medsec", standalone_mode=False)
    except InputError as e:
        _fail(str(e))
    except BrokenPipeError:  # piped into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as e:
        # usage errors come from the library that typer is built on, whose classes are not part of its interface
        if type(e).__name__ == "NoArgsIsHelpError":
            print(printable(e.format_message()))
            sys.exit(0)
        if hasattr(e, "format_message"):
            _fail(e.format_message())
        raise
    if code == STOPPED:
        _fail("stopped; run the same command again to go on", STOPPED)
    sys.exit(code)


def _fail(message: str, code: int = 2) -> None:
    print(f"medsec: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)


@app.command()
def audit(
    plan: Annotated[str | None, typer.Argument(metavar="[PRESET | PLAN.toml]", show_default=False,
                                               help="What to do; when left out, `imaging` for images, else "
                                               "`tabular`.")] = None,
    data: Annotated[str | None, typer.Option(metavar="NAME_OR_FILE", help="A registered dataset, a CSV, or images "
                                            "(a folder or .npz).")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAMES_OR_FILE", help="Models, or a file with a fitted one "
                                              "(.json, .ubj, .skops, FILE.py:OBJECT).")] = None,
    attacks: Annotated[str | None, typer.Option(metavar="a,b", help="Attacks, instead of the plan's.")] = None,
    defenses: Annotated[str | None, typer.Option(metavar="a,b", help="Defenses, instead of the plan's; `none` for "
                                                 "none.")] = None,
    detectors: Annotated[str | None, typer.Option(metavar="a,b", help="Detectors of evasion, instead of the plan's; "
                                                  "`none` for none.")] = None,
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
    eps: Annotated[float | None, typer.Option(help="Main budget: a share of each column's plausible range, or of the "
                                             "range of intensities (4/255 is 0.0157).")] = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    jobs: Jobs = None,
    quick: Quick = False,
    full: Annotated[bool, typer.Option("--full", help="Also what a plan leaves for later: slow attacks, further "
                                       "defenses, detectors. Adds to a run of the same folder.")] = False,
    time_limit: TimeLimit = None,
    retry_errors: RetryErrors = False,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load a pickled model, which can run any code "
                                               "when it is opened.")] = False,
) -> None:
    """Attack models, defend them, write a report.

    Trains the models of a plan, plainly and behind each defense, and carries out every attack that applies.

    A run that was stopped goes on where it was when the same command is given again. Where a plan has a second stage,
    the first ends in a report, and the same command with --full adds the rest to it.

    Exit code 0: every cell ran; 2: the plan or the data are wrong; 3: cells failed (the report and the last line say
    which).
    """
    from suite.audit import request

    table = table_of(target, positive, schema, drop, group, split, test)
    images = images_of(labels, size, channels, modality, finding, allow_leakage, positive, group)
    # "none" says: not those of the plan
    wanted, watching = ([n for n in named if n != "none"] if (named := names(given)) is not None else None
                        for given in (defenses, detectors))
    flags = {"data": data_of(data, train, test), "models": names(model), "attacks": names(attacks),
             "defenses": wanted, "detectors": watching, "table": table or None, "images": images or None,
             "eps": eps, "seed": seed, "pictures": pictures or None, "smallest_group": smallest_group,
             "device": device, "time_limit": time_limit, "allow_pickle": allow_pickle or None}
    plan = plan or request.default_preset(flags["data"])
    if quick and full:
        raise InputError("--quick and --full exclude each other: a first look, or everything")
    made = request.make_plan(plan, flags, quick, full)
    from suite.cli.terminal import run_audit

    raise typer.Exit(run_audit(made, out or Path("runs") / Path(plan).stem, jobs, retry_errors))


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(metavar="[datasets|readers|partitions|models|attacks|defenses|"
                                               "detectors|aggregations|threats]",
                                               show_default=False, help="Everything when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show what there is to use, and its papers."""
    from suite.cli.terminal import show_list

    show_list(kind, as_json)


@app.command()
def report(run: RunFolder) -> None:
    """Write the report of a run again."""
    from suite.report.write import write_report
    from suite.results.run import Run

    opened = Run.open(run)
    print(printable(write_report(opened)))
    if missing := opened.missing():
        print(f"medsec: not complete, no result of {', '.join(missing[:5])}{', ...' if missing[5:] else ''}; the same "
              "audit command again computes what is missing", file=sys.stderr)


@app.command("verify")
def verify_run(
    run: RunFolder,
    head: Annotated[str | None, typer.Option(metavar="HASH", help="What the audit, or this command, printed "
                                             "before.")] = None,
) -> None:
    """Check that a run is as it was written.

    Compares every file of a run with the digests in its seal, and names each that was changed, is missing, or was
    added. Exit code 0: all as written; 1: not.

    Without a head that was kept elsewhere this shows accidents and careless edits only: whoever can write the folder
    can also write a new seal.
    """
    from suite.cli.terminal import show_verified

    raise typer.Exit(show_verified(run, head))


@app.command()
def export(
    run: RunFolder,
    share: Annotated[Path, typer.Option(metavar="DEST", help="New folder for the copy.")],
    models: Annotated[bool, typer.Option("--models", help="Copy the trained models, too, which remember patients.")
                      ] = False,
    smallest_group: SmallestGroup = None,
) -> None:
    """Copy a run without patient-level data.

    The copy has the measurements, a report and a manifest that names the head of the run that it is from; it has no
    arrays with a value for each patient, no pictures, no logs, no answers of shadow models, no folder names of this
    machine and no subgroups of few people. Report and gate work on it. Figures and models can still tell something
    about the patients behind them: share them with those who may know it.
    """
    from suite.audit.export import export_shared
    from suite.cli.terminal import show_exported
    from suite.results.run import Run

    show_exported(export_shared(Run.open(run), share, models, smallest_group))


@app.command()
def gate(
    run: RunFolder,
    require: Annotated[list[str], typer.Option(metavar="REQUIREMENT", help="For example \"robust_accuracy >= 0.5\" or "
                                               "\"mlp: membership_auroc <= 0.6\"; may be given several times.")],
    lenient: Annotated[bool, typer.Option("--lenient", help="Compare the value itself, not the unfavourable end of its "
                                          "95 % interval.")] = False,
    head: Annotated[str | None, typer.Option(metavar="HASH", help="What the audit printed: refuse a run that was "
                                             "written or sealed anew since.")] = None,
) -> None:
    """Check a run against requirements.

    Exit code 0: all met; 1: one is not met; 2: a requirement cannot be read, or a cell that it asks about failed.
    """
    from suite.cli.terminal import show_gate

    raise typer.Exit(show_gate(run, require, lenient, head))


@data_app.command()
def fetch(name: str, url: Annotated[str, typer.Option(help="Another address of the same bytes.")] = "") -> None:
    """Make a dataset's file available on this machine, verified by its checksum."""
    from suite.base import registry
    from suite.datasets import cache

    path = cache.fetch(name, registry.load("datasets", name), url)
    print(printable(path) if path else f"{name} needs no file")


@data_app.command()
def show(
    name: str,
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
    write_schema: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the schema, inferred or not, to a "
                                                      "TOML file to edit.")] = None,
) -> None:
    """Describe a dataset: provenance and splits; of a table also its columns and what a possible patient is."""
    from suite.cli.terminal import show_data

    table = table_of(target, positive, schema, drop, group, split, test)
    images = images_of(labels, size, channels, modality, finding, allow_leakage, positive, group)
    show_data(name, {"table": table, "images": images}, write_schema)


@data_app.command()
def verify() -> None:
    """Check every dataset's file on this machine against its checksum; exit code 1 if one is wrong."""
    from suite.cli.terminal import show_files

    raise typer.Exit(show_files())


for _command in sorted(entry_points(group="medsec.commands"), key=lambda e: e.name):  # verbs of other packages
    app.command(_command.name)(_command.load())
