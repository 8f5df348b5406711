"""The imaging audit from the command line to the report: the preset's own plan, with everything that takes long cut."""

import pytest

from imaging.datasets import phantom
from suite.attacks.gradient import PGD
from suite.base import registry
from suite.evaluate import detection
from suite.results import metrics
from tests.support import audit as _audit

PATIENTS = 80
SMALL = {"epochs": 2, "widths": [4, 8, 8], "grid": [0.01], "steps": 3, "queries": 20, "search": 2, "passes": 2,
         "samples": 4, "max_iter": 2, "init_size": 10, "population": 6, "generations": 2, "draws": 4, "angles": 3,
         "shifts": 2}
"""Of every hyper-parameter that says how long something takes, so much."""


def cut(kind, item):
    """An item of the plan, cut down."""
    return _audit.cut(kind, item, SMALL) | ({"rows": 4} if kind == "attacks" else {})


@pytest.fixture(scope="module")
def preset():
    return _audit.preset("imaging")


@pytest.fixture(scope="module")
def staged(preset, tmp_path_factory):
    """The rows and the manifest after the first stage, and the run of `medsec audit --full` that went on with it."""
    folder = tmp_path_factory.mktemp("audit")
    plan = preset | {kind: [cut(kind, item) for item in preset[kind]]
                     for kind in ("models", "attacks", "defenses", "detectors")}
    plan |= {"data": ["chest-phantom"], "images": {"size": 16}, "rows": 8, "budgets": [preset["eps"]],
             "norms": {norm: {"eps": ladder["eps"]} for norm, ladder in preset["norms"].items()}}
    patches = ((phantom.draw, "__defaults__", (phantom.SIZE, 2, PATIENTS, *phantom.draw.__defaults__[3:])),
               (detection, "adaptive_attacks", lambda eps: [PGD(eps=eps, steps=3)]))  # which no plan can cut
    run = _audit.audit(plan, folder, *patches)
    first = run.rows(), run.manifest
    return *first, _audit.audit(plan, folder, *patches, options=["--full"])


@pytest.fixture(scope="module")
def audited(staged):
    return staged[2]


def test_the_first_stage_has_a_verdict_and_full_adds_the_rest_to_it(staged, preset):
    rows, manifest, run = staged
    later = {item["name"] for kind in ("attacks", "defenses", "detectors") for item in preset[kind]
             if isinstance(item, dict) and item.get("full")}
    assert later == set(manifest["plan"]["later"])
    assert not later & {r.attack for r in rows}
    assert {"autoattack", "rmia", "worst-case"} <= {r.attack for r in rows}
    assert set(manifest["cells"]) < set(run.manifest["cells"])
    assert run.manifest["plan"]["later"] == []
    # what had been finished is not computed again, but for what is computed from all attacks
    took = [{r.cell: r.value for r in found if r.metric == "cell_seconds"} for found in (rows, run.rows())]
    again = {cell for cell, seconds in took[0].items() if took[1][cell] != seconds}
    assert again <= {cell for cell in took[0] if cell.endswith(("worst-case", "compare"))}
    assert {"resnet-small--none--worst-case", "resnet-small--trades--worst-case"} <= again


def test_the_rows_of_a_preset_settle_a_share_to_five_points(preset):
    at_worst = metrics.proportion(preset["rows"] // 2, preset["rows"])
    assert (at_worst.high - at_worst.low) / 2 <= 0.05


def test_no_cell_of_the_preset_fails(audited, preset):
    rows = audited.rows()
    assert {r.cell: r.error for r in rows if r.error} == {}
    assert {r.cell for r in rows} == set(audited.manifest["cells"])
    names = {kind: {item if isinstance(item, str) else item["name"] for item in preset[kind]}
             for kind in ("attacks", "defenses", "detectors")}
    assert names["attacks"] <= {r.attack for r in rows}
    assert {r.defense for r in rows} == {"none", *names["defenses"]}
    assert names["detectors"] == {r.metric.partition("[")[2].rstrip("]") for r in rows
                                  if r.metric.startswith("detection_leak")}
    assert all(r.synthetic for r in rows)


def test_the_report_names_every_attack_and_the_data_as_made_up(audited, preset):
    page = (audited.folder / "report.html").read_text(encoding="utf-8")
    for kind in ("attacks", "defenses", "detectors"):
        for item in preset[kind]:
            name = item if isinstance(item, str) else item["name"]
            assert (registry.load(kind, name).info.title if kind == "attacks" else name) in page, name
    assert "SYNTHETIC" in page
