"""A small audit of a table of one's own, in a folder of its own, for tests of what becomes of its files."""

import csv
from pathlib import Path

import numpy as np
import pytest

from suite.audit.request import make_plan, open_data
from suite.audit.runner import Audit
from suite.report.write import write_report
from suite.results import metrics
from suite.results.run import Run

PLAN = """
data = "{data}"
models = ["logistic-regression"]
attacks = ["noise", "fgsm", {{ name = "rmia", shadows = 4 }}]
rows = 20
budgets = [0.05]
[table]
target = "Sick"
positive = "yes"
subgroups = ["Sex"]
"""
FIT, FGSM, NOISE, RMIA, WORST = (f"logistic-regression--none--{name}" for name in (
    "fit", "fgsm", "noise", "rmia", "worst-case"))


def write_table(file, n=200):
    """Patients of whom 90 % are F or M, and a few X."""
    rng = np.random.default_rng(0)
    ill = rng.random(n) < 0.4
    columns = {"Age": rng.integers(20, 80, n), "Sugar": (100 + 30 * ill + 15 * rng.normal(size=n)).round(),
               "Sex": np.where(rng.random(n) < 0.1, "X", np.where(rng.random(n) < 0.5, "F", "M")),
               "Sick": np.where(ill, "yes", "no")}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as f:
        out = csv.writer(f)
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))
    return file


def make_audit(plan: Path, **flags):
    made = make_plan(str(plan), flags)
    return Audit(made, *open_data(made))


def carry_out(plan: Path, folder: Path, **options) -> Run:
    """The run of a plan, with few bootstrap resamples, and its report."""
    with pytest.MonkeyPatch.context() as patch:
        for bootstrap in (metrics.bootstrap, metrics.weighted):
            patch.setattr(bootstrap, "__defaults__", (0, None, 20))
        run = make_audit(plan).run(folder, **options)
    write_report(run)
    return run


def written(folder: Path) -> Path:
    """A plan and its table in a folder."""
    plan = folder / "plan.toml"
    plan.write_text(PLAN.format(data=write_table(folder / "ward7" / "patients.csv")))
    return plan


def timeless(rows):
    """Rows without what no two runs have in common."""
    return [r.model_dump(exclude={"seconds"}) for r in rows if r.metric != "cell_seconds"]
