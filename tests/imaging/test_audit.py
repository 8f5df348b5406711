"""The imaging audit from the command line to the report: the preset's own plan, with everything that takes long cut."""

import pytest

from imaging import phantom
from suite import registry
from suite.attacks.gradient import PGD
from suite.evaluate import detection
from tests import _audit

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
def audited(preset, tmp_path_factory):
    """The run of `medsec audit` on the phantom."""
    folder = tmp_path_factory.mktemp("audit")
    plan = preset | {kind: [cut(kind, item) for item in preset[kind]]
                     for kind in ("models", "attacks", "defenses", "detectors")}
    plan |= {"data": ["chest-phantom"], "images": {"size": 16}, "rows": 8, "budgets": [preset["eps"]],
             "norms": {norm: {"eps": ladder["eps"]} for norm, ladder in preset["norms"].items()}}
    return _audit.audit(
        plan, folder,
        (phantom.draw, "__defaults__", (phantom.SIZE, 2, PATIENTS, *phantom.draw.__defaults__[3:])),
        (detection, "adaptive_attacks", lambda eps: [PGD(eps=eps, steps=3)]))  # which no plan can cut


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
