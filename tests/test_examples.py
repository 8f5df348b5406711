"""The examples: each runs, says first which data ran, fits a terminal, and prints intervals and a finding."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem != "common")
SHOWN = {"tabular_evasion", "possible_patients_on_trees", "poisoning", "membership_inference", "model_inversion",
         "model_extraction", "adversarial_training", "distillation", "differential_privacy", "imaging_leakage",
         "detection", "imaging_evasion", "imaging_adversarial_training", "imaging_distillation",
         "universal_perturbation", "no_box_transfer", "epsilon_audit", "attribute_inference", "imaging_inversion",
         "database_reconstruction", "hospital_federation", "private_federation", "deploy_federation",
         "hostile_hospitals", "curious_server",
         "gradient_inversion", "imaging_gradient_inversion"}

NUMBER = r"-?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER})%? \[({NUMBER}), ({NUMBER})\]")


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    """With two minutes of one core's time, however long that takes on a machine that others share."""
    settings = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    limited = ["sh", "-c", 'ulimit -t 120 && exec "$@"', "sh", sys.executable, script, *arguments]
    return subprocess.run(limited, env=settings, capture_output=True, text=True, timeout=900)


def data_of(script: Path) -> list[str]:
    """The datasets that an example wants: a real one, and a synthetic one in its place."""
    named = re.search(r"load_data\((.*?)\)", script.read_text(encoding="utf-8"))[1]
    return re.findall(r'"(.+?)"', named) or ["pima", "pima-synthetic"]


def faults(script: Path) -> list[str]:
    """What is wrong with the output of an example."""
    done, (real, synthetic) = run(script), data_of(script)
    if done.returncode:
        return [f"exit code {done.returncode}", done.stderr]
    first, *lines = done.stdout.splitlines()
    text = "\n".join(lines)
    expected = f"{real}: real data" if os.environ.get("MEDSEC_DATA") else f"{synthetic}: SYNTHETIC, because {real}"
    values = [tuple(map(float, found)) for found in INTERVAL.findall(text)]
    checks = {
        f"first line is {first!r}": first.startswith(f"data  {expected}"),
        "no table": re.search(r"^\s*─{30,}", text, re.MULTILINE),
        "fewer than 4 intervals": len(values) >= 4,
        "an interval without its value": all(low <= value <= high for value, low, high in values),
        "a number that is none": not re.search(r"\bnan\b", text),
        "wider than 80 columns, or cut off": max(map(len, lines)) <= 80 and "…" not in text,
        "no finding at the end": text.endswith("."),
        "something that should hold and does NOT": not re.search(r"\bNOT\b", text),
    }
    return [fault for fault, fine in checks.items() if not fine]


def test_every_example_runs_and_reports():
    """In one test, so that they run side by side without being run once by each process of a parallel test run."""
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip((s.name for s in SCRIPTS), pool.map(faults, SCRIPTS), strict=True))
    assert not {name: wrong for name, wrong in found.items() if wrong}


def test_takes_another_dataset_by_name_and_refuses_an_unknown_one_in_one_line():
    script = EXAMPLES / "adversarial_training.py"
    assert run(script, "breast-cancer").stdout.startswith("data  breast-cancer: real data from scikit-learn\n")
    unknown = run(script, "breast-cancr")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error: unknown dataset 'breast-cancr'; did you mean 'breast-cancer'?")
    assert len(unknown.stderr.splitlines()) == 1


def test_every_threat_has_its_example():
    assert {script.stem for script in SCRIPTS} == SHOWN


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_is_short_and_says_how_to_run_it(script):
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 70
    doc = text.split('"""')[1]
    assert "Threat" in doc
    assert f"python examples/{script.name}" in doc
