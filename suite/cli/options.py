"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from suite.base.errors import InputError


def _at_least_one(value: int | None) -> int | None:
    if value is not None and value < 1:
        raise typer.BadParameter(f"must be at least 1, got {value}")
    return value


Target = Annotated[str | None, typer.Option(metavar="COLUMN", help="CSV: what to predict.")]
Positive = Annotated[str | None, typer.Option(metavar="VALUE", help="Of two classes, the one that is the disease.")]
SchemaFile = Annotated[Path | None, typer.Option(metavar="FILE", help="CSV: schema in TOML.")]
Drop = Annotated[str | None, typer.Option(metavar="a,b", help="CSV: columns to leave out.")]
Group = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column that names the patient, in a CSV or in the "
                                           "labels of images.")]
SplitColumn = Annotated[str | None, typer.Option("--split", metavar="COLUMN", help="CSV: column that says which rows "
                                                 "are for train, val and test; val is taken from train when absent.")]
TrainFile = Annotated[Path | None, typer.Option("--train", metavar="FILE", help="CSV of the training rows, in place of "
                                                "--data; goes with --test.")]
TestFile = Annotated[Path | None, typer.Option("--test", metavar="FILE", help="CSV of the test rows; all rows of the "
                                               "other file are then for training.")]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Images: CSV with each `file`, its label, patient, "
                                             "split; `labels.csv` in the folder when left out.")]
Size = Annotated[int | None, typer.Option(metavar="PIXELS", help="Images: resize to this height and width.")]
Channels = Annotated[int | None, typer.Option(metavar="1|3", help="Images: turn them grey (1) or into three channels "
                                              "(3).")]
Modality = Annotated[str | None, typer.Option(metavar="KIND", help="Images: xray, ct, mri, ultrasound, dermoscopy, "
                                              "microscopy or other, by which training augments.")]
Finding = Annotated[str | None, typer.Option(metavar="NAME", help="Images with several labels each: the one to "
                                             "predict.")]
Leakage = Annotated[bool, typer.Option("--allow-leakage", help="Images: accept a split with one patient on both "
                                       "sides.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; runs/PRESET when left out.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(metavar="auto|cpu|DEVICE", help="Where to compute: any device that "
                                           "PyTorch knows, such as cuda:1 or xpu; auto is cuda, else xpu, else cpu.")]
Jobs = Annotated[int | None, typer.Option(metavar="N", callback=_at_least_one,
                                           help="Processes; as many as processors, 4 at most, when left out.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look: few rows, one budget, and no defenses but those "
                                     "named here.")]
TimeLimit = Annotated[float | None, typer.Option(metavar="SECONDS", show_default=False,
                                                 help="Longest time that a fitted model (a file) may take to open, and "
                                                 "for each query; 120 when left out.")]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Carry out again what failed before.")]
Pictures = Annotated[bool, typer.Option("--pictures", help="Images of real patients: keep those that attacks succeeded "
                                        "on, and show them in the report. Of synthetic data they always are.")]
SmallestGroup = Annotated[int | None, typer.Option("--smallest-group", metavar="N", min=1, help="People below which no "
                                                   "figure of a subgroup is written; 10 when left out.")]


def names(text: str | None) -> list[str] | None:
    """The parts of "a, b"; None where nothing was said."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def data_of(data: str | None, train: Path | None, test: Path | None) -> list[str] | None:
    """The data that was asked for: by name, or the file with the training rows.

    Raises:
        InputError: --train and --test do not come together, or --data comes with them.
    """
    if (train is None) != (test is None):
        raise InputError("--train FILE and --test FILE go together; one file with both kinds of rows is given with "
                         "--data FILE --split COLUMN")
    if train is not None and data is not None:
        raise InputError("--data and --train name the same thing: give one of them")
    return names(data) if train is None else [str(train)]


def table_of(target: str | None, positive: str | None, schema: Path | None, drop: str | None, group: str | None,
             split: str | None, test: Path | None) -> dict[str, Any]:
    """What was said about a CSV, as keys of `suite.audit.plan.Table`."""
    said = {"target": target, "positive": positive, "schema_file": schema, "drop": names(drop), "group": group,
            "split": split, "test": test}
    return {key: value for key, value in said.items() if value is not None}


def images_of(labels: Path | None, size: int | None, channels: int | None, modality: str | None, finding: str | None,
            allow_leakage: bool, positive: str | None, group: str | None) -> dict[str, Any]:
    """What was said about images, as keys of `suite.audit.plan.Images`."""
    said = {"labels": labels, "size": size, "channels": channels, "modality": modality, "finding": finding,
            "allow_leakage": allow_leakage or None,
            "positive": positive, "patient": group}
    return {key: value for key, value in said.items() if value is not None}
