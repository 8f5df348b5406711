"""The clinical tables: a user's CSV file, and the public ones by name.

The split into training, validation and test (60/20/20 of each class) depends on the `seed` given here alone, so that
models trained with different seeds are measured on the same patients.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from suite.audit.plan import Table
from suite.base.errors import InputError
from suite.core.data import Dataset
from suite.datasets import cache, csv
from tabular import synthetic
from tabular.assemble import TWO_FILES, Source, build, check_schema, labels
from tabular.infer import infer
from tabular.schema import Schema

# No public address is known to hold exactly these bytes; a mirror can be named when fetching.
PIMA = cache.RemoteFile("tabular/pima_diabetes.csv",
                        "sha256:c980e5e01dc1c554a358102b773f34b29599d0051ec5cf5b56ad1c6fcb3a23b0")
CLEVELAND = cache.RemoteFile("tabular/heart_cleveland.csv",
                             "sha256:c1a68b0099f13630967e05a357aa7f856bf0b784124f9ae4a01612d5378617a9")
FOUR_SITES = cache.RemoteFile("tabular/heart_uci_4sites.csv",
                              "sha256:b223b9454bff0e89438926c1466759ec192de085db4c3c85c60ad5b8152be2d4")


def from_csv(path: Path, target: str, schema: Path | Schema | None = None, *, positive: str | None = None,
             subgroups: Sequence[str] = (), group: str | None = None, drop: Sequence[str] = (),
             split: str | None = None, test: Path | None = None, seed: int = 0) -> Dataset:
    """A dataset from a comma-separated file with a header.

    Args:
        path: The file.
        target: Column of the labels: text, or at most 50 different whole numbers. Classes are in sorted order.
        schema: A TOML file or a schema; inferred from the data where it is not given.
        positive: For two classes, the label of the disease, which becomes class 1; recognized by usual names where it
            is not given.
        subgroups: Columns to report by, besides age (in bands), sex and site where columns of that name exist. They
            need not be in the schema; without a schema they are features too, unless dropped.
        group: Column of patient numbers, whose rows are kept in one split. No feature.
        drop: Columns that are no features, even where the schema describes them.
        split: Column that says which rows are for training, validation and test ("train", "val", "test" or the usual
            spellings), no feature; drawn here where neither it nor `test` is given. Validation rows are taken from the
            training rows where it names none.
        test: File with the test rows, of the same columns; those of `path` are then all for training.
        seed: Of the split.

    Raises:
        InputError: One line naming the file and the column, line or value that is wrong, or the patient who is in two
            splits.
    """
    path = Path(path)
    if split is not None and test is not None:
        raise InputError(f"{path.name}: give the split by a column (--split) or by a second file (--test), not both")
    if schema is not None and not isinstance(schema, Schema):
        schema = Schema.load(schema)
    try:
        frame, sha256, declared = _rows(path, split, test)
        outside = [target, *drop] + [name for name in (group, declared) if name]
        for name in [*outside, *subgroups]:
            csv.check_column(frame, name)
        y, classes, disease = labels(frame, target, positive)
        if schema is None:
            inferred, note = infer(frame, target, outside), "schema inferred from the data"
        else:
            check_schema(frame, schema, [*outside, *subgroups])
            schema = schema.without(outside)  # written before somebody thought of leaving them out
            inferred, note = None, "schema given by the user"
        read_from = f"the file {path.name}" + (f", test rows from {Path(test).name}" if test else "")
        source = Source(path.stem, "the user's file", "not stated", sha256, read_from, note=note)
        return build(frame.drop(columns=target), inferred or schema, y, classes, source, subgroups=subgroups,
                     group=group, seed=seed, inferred=inferred is not None, disease=disease, declared=declared)
    except InputError as e:
        raise InputError(f"{path.name}: {e}") from None


def _rows(path: Path, split: str | None, test: Path | None) -> tuple[pd.DataFrame, str, str | None]:
    """The cells of one file or two, their checksum, and the column that says which split each row is in, if any."""
    frame = csv.read(path)
    if test is None:
        return frame, cache.sha256_of(path), split
    other = Path(test)
    try:
        second = csv.read(other)
        lacking = [name for name in frame.columns if name not in second.columns]
        extra = [name for name in second.columns if name not in frame.columns]
        for name, where in [*((name, other.name) for name in lacking), *((name, path.name) for name in extra)]:
            raise InputError(f"column '{name}' is not in {where}; the two files need the same columns")
    except InputError as e:
        raise InputError(f"--test {other.name}: {e}") from None
    parts = [part.set_axis([f"{line} of {file.name}" for line in part.index]).assign(**{TWO_FILES: name})
             for part, file, name in ((frame, path, "train"), (second[frame.columns], other, "test"))]
    both = pd.concat(parts).rename_axis("line")
    return both, hashlib.sha256(f"{cache.sha256_of(path)}\n{cache.sha256_of(other)}".encode()).hexdigest(), TWO_FILES


def read_csv(path: Path, table: Table) -> Dataset:
    """A clinical table of your own: a comma-separated file with a header; say what to predict with --target."""
    if table.target is None:
        raise InputError(f"data {path}: say which column to predict with --target COLUMN")
    options = {k: v for k, v in dict(table).items() if k not in ("target", "schema_file")}
    return from_csv(path, table.target, table.schema_file, **options)


@cache.reads(PIMA)
def pima(path: Path | None = None, seed: int = 0) -> Dataset:
    """Pima Indians Diabetes: 768 women, 8 columns, 35 % with diabetes within five years; zeros stand for missing."""
    frame, where, sha256 = _read(PIMA, path)
    return _pima(frame, seed, Source(
        "pima", "US NIDDK, donated to UCI 1990; Smith et al., Proc. SCAMC 1988, 261-265",
        "CC0 on the Kaggle page of UCI ML, as commonly stated; UCI withdrew the set, its owner states none",
        sha256, where, note="zeros in five columns stand for missing"))


@cache.reads(CLEVELAND)
def heart_cleveland(path: Path | None = None, seed: int = 0) -> Dataset:
    """UCI Heart Disease, Cleveland: 303 patients, 13 columns; disease is any narrowed vessel (`num` above 0)."""
    return _heart("heart-cleveland", CLEVELAND, path, seed)


@cache.reads(FOUR_SITES)
def heart_4sites(path: Path | None = None, seed: int = 0) -> Dataset:
    """UCI Heart Disease of four hospitals: 920 patients, 13 columns, many not measured; the site is a subgroup."""
    return _heart("heart-4sites", FOUR_SITES, path, seed)


def breast_cancer(path: Path | None = None, seed: int = 0) -> Dataset:
    """Breast Cancer Wisconsin (Diagnostic): 569 biopsies, 30 columns, 37 % malignant; ships with scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    _takes_no_file("breast-cancer", "ships with scikit-learn", path)
    table = load_breast_cancer(as_frame=True)
    raw = importlib.resources.files("sklearn.datasets.data").joinpath("breast_cancer.csv").read_bytes()
    source = Source("breast-cancer", "Wolberg, Mangasarian, Street and Street, UCI 1993, doi:10.24432/C5DW2B",
                    "CC BY 4.0 (UCI), as commonly stated", hashlib.sha256(raw).hexdigest(), "scikit-learn")
    y = (table.target == 0).to_numpy(np.int64)  # scikit-learn counts malignant as 0
    return build(table.data, shipped_schema("breast-cancer"), y, ("benign", "malignant"), source, seed=seed)


def pima_synthetic(path: Path | None = None, seed: int = 0) -> Dataset:
    """768 SYNTHETIC patients with the statistics of Pima (see `tabular.synthetic`); `seed` makes them, too."""
    _takes_no_file("pima-synthetic", "is generated", path)
    frame = synthetic.generate(seed=seed)
    data = frame.to_csv(index=False, lineterminator="\n").encode()
    return _pima(frame, seed, Source(
        "pima-synthetic", "generated from summary statistics of Pima Indians Diabetes", "Apache-2.0, as this project",
        hashlib.sha256(data).hexdigest(), "the generator", synthetic=True,
        note="SYNTHETIC: no patient stands behind any row"))


def shipped_schema(name: str) -> Schema:
    """The schema of a registered table: "pima", "heart-cleveland", "heart-4sites" or "breast-cancer"."""
    return Schema.load(Path(__file__).parent / "schemas" / f"{name}.toml")


def _pima(frame: pd.DataFrame, seed: int, source: Source) -> Dataset:
    y = labels(frame, "Outcome").y
    return build(frame, shipped_schema("pima"), y, ("no diabetes", "diabetes"), source, seed=seed)


def _heart(name: str, file: cache.RemoteFile, path: Path | None, seed: int) -> Dataset:
    frame, where, sha256 = _read(file, path)
    grade = labels(frame, "num").y
    source = Source(name, "Janosi, Steinbrunn, Pfisterer and Detrano, UCI 1988, doi:10.24432/C52P4X",
                    "CC BY 4.0 (UCI), as commonly stated", sha256, where, note="disease is num above 0")
    return build(frame, shipped_schema(name), (grade > 0).astype(np.int64), ("no heart disease", "heart disease"),
                 source, seed=seed)


def _read(file: cache.RemoteFile, path: Path | None) -> tuple[pd.DataFrame, str, str]:
    found = cache.locate(file, path)
    return csv.read(found), cache.origin(found), cache.sha256_of(found)


def _takes_no_file(name: str, why: str, path: Path | None) -> None:
    if path is not None:
        raise InputError(f"{name} {why} and reads no file; for a table of your own give its target column too")
