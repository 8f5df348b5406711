"""The time that an audit still takes: by like cells, by passes before there are any, and held against a real run."""

import io
import threading
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from suite.audit.forecast import Forecast, per_row, replay, work
from suite.audit.layout import Layout
from suite.audit.request import make_plan, open_data
from suite.base.registry import make
from suite.cli.show_progress import Watch, duration, shown

ALL = {
    "fit": 37.5, "noise": 0.2, "fgsm": 1.7, "pgd": 1.1, "mi-fgsm": 0.4, "autoattack": 8.8, "deepfool": 2.7,
    "carlini-wagner": 4.1, "fab": 0.9, "square": 11.5, "simba": 11.6, "nes": 19.1, "hopskipjump": 5.1,
    "genattack": 10.7, "few-pixels": 11.0, "universal": 11.5, "black-box-universal": 53.7, "transfer": 4.4,
    "vertical-stripes": 1.5, "speckle": 0.2, "adversarial-speckle": 0.4, "bias-field": 0.7,
    "rotation-translation": 5.1, "warp": 0.9, "worst-case": 0.5, "trades--fit": 188.1, "trades--noise": 0.2,
    "trades--fgsm": 0.1, "trades--pgd": 1.6, "trades--mi-fgsm": 0.5, "trades--autoattack": 21.4,
    "trades--deepfool": 0.1, "trades--carlini-wagner": 5.2, "trades--fab": 0.9, "trades--square": 15.6,
    "trades--universal": 12.3, "trades--transfer": 4.3, "trades--worst-case": 0.6}
"""Seconds of the cells of the imaging preset in full, 40 images attacked, on PneumoniaMNIST with one thread of a busy
CPU. Every attack finds most images of the undefended network within a few steps, and few behind TRADES."""
FIRST_STAGE = {
    "fit": 53.4, "noise": 3.9, "fgsm": 0.4, "pgd": 10.9, "autoattack": 70.6, "deepfool": 3.0, "square": 25.0,
    "universal": 18.0, "vertical-stripes": 13.3, "speckle": 2.0, "adversarial-speckle": 3.5, "bias-field": 4.9,
    "rotation-translation": 39.4, "warp": 7.0, "rmia": 182.1, "worst-case": 2.2, "trades--fit": 217.3,
    "trades--noise": 1.6, "trades--fgsm": 0.5, "trades--pgd": 13.7, "trades--autoattack": 191.8,
    "trades--deepfool": 0.9, "trades--square": 39.9, "trades--universal": 19.3, "trades--worst-case": 1.2}
"""The same of its first stage, 385 images, two processes."""
SIZES = {"train": 4708, "val": 524, "test": 624}


def preset(took, rows, full):
    """The imaging preset with the attacks that ran, for as many images (of the phantom, repeated)."""
    plan = make_plan("imaging", {"data": ["chest-phantom"], "detectors": []}, full=full)
    ran = {key.removeprefix("trades--") for key in took}
    attacks = tuple(a.model_copy(update={"rows": min(rows, a.rows or rows)}) for a in plan.attacks if a.name in ran)
    data, _ = open_data(plan)
    splits = {name: (split := getattr(data, name)).take(np.arange(n) % len(split)) for name, n in SIZES.items()}
    plan = plan.model_copy(update={"attacks": attacks, "defenses": plan.defenses[:1], "rows": rows})
    return Layout(plan, replace(data, **splits))


@pytest.fixture(scope="module")
def layout():
    return preset(ALL, 40, full=True)


def seconds_of(layout, took):
    """Seconds by key of a cell."""
    return {c.key: took.get(c.key.removeprefix("resnet-small--").removeprefix("none--"), 0.3) for c in layout.cells}


@pytest.mark.parametrize(("took", "rows", "full"), [(ALL, 40, True), (FIRST_STAGE, 385, False)], ids=["all", "first"])
@pytest.mark.parametrize("order", ["one process", "two processes"])
def test_the_time_left_of_a_real_run_is_within_a_factor_of_two_after_a_minute(took, rows, full, order):
    layout, ratios = preset(took, rows, full), []
    keys = [c.key for c in layout.cells]
    if order == "two processes":  # which train both models side by side
        keys.sort(key=lambda key: not key.endswith("--fit"))
    replay(layout, seconds_of(layout, took), keys,
           at=lambda gone, left, expected: ratios.append((gone, left, expected / max(left, 1e-9))))
    assert len(ratios) == len(layout.cells)
    meant = [ratio for gone, left, ratio in ratios if gone > 60 and left > 10]
    assert len(meant) > 15
    assert min(meant) > 0.5, min(meant)
    assert max(meant) < 2, max(meant)


def test_a_cell_takes_what_like_cells_took(layout):
    forecast = Forecast(layout)
    assert not forecast.sure
    forecast.finished("resnet-small--none--fit", 30.0)
    assert forecast.sure
    guess = forecast.expected("resnet-small--trades--pgd")
    forecast.finished("resnet-small--none--pgd", 100.0)
    assert forecast.expected("resnet-small--trades--pgd") == pytest.approx(100.0)
    assert guess != pytest.approx(100.0)


def test_a_running_cell_counts_for_what_is_left_of_it_and_several_processes_share_the_rest(layout):
    alone, shared = Forecast(layout), Forecast(layout, 2)
    for key, seconds in seconds_of(layout, ALL).items():
        for forecast in (alone, shared):
            if key != "resnet-small--trades--square":
                forecast.finished(key, seconds)
    whole = alone.left()
    assert whole == pytest.approx(alone.expected("resnet-small--trades--square"))
    assert shared.left() == pytest.approx(whole), "one cell is not shared out"
    assert alone.left({"resnet-small--trades--square": whole / 2}) == pytest.approx(whole / 2)
    assert alone.left({"resnet-small--trades--square": 4 * whole}) == pytest.approx(whole), "late, and not over yet"


def test_passes_are_those_that_the_attacks_say():
    assert per_row(make("attacks", "pgd", {"steps": 20})) == 3 * 20
    assert per_row(make("attacks", "square", {"queries": 500})) == 500
    assert per_row(make("attacks", "rotation-translation", {"angles": 3, "shifts": 3})) == 27
    assert per_row(make("attacks", "nes", {"steps": 10, "samples": 6})) == 60


def test_more_rows_epochs_and_budgets_are_more_work(layout):
    cells = {c.key: c for c in layout.cells}
    more = Layout(layout.plan.model_copy(update={"budgets": (0.01, 0.02, *layout.plan.budgets)}), layout.data)
    pgd = "resnet-small--none--pgd"
    assert work({c.key: c for c in more.cells}[pgd], more) > work(cells[pgd], layout)
    assert work(cells["resnet-small--trades--fit"], layout) > 2 * work(cells["resnet-small--none--fit"], layout)


@pytest.mark.parametrize(("seconds", "said"), [(3, "10 s"), (42, "40 s"), (100, "2 min"), (3700, "1 h 2 min")])
def test_durations_are_for_people(seconds, said):
    assert duration(seconds) == said


class Done:
    """A run folder of which some cells are finished."""

    def __init__(self):
        self.cells = {}

    def done(self, key):
        return key in self.cells

    def seconds(self, key):
        return self.cells[key]


def test_a_name_cannot_write_lines_of_its_own(layout):
    out, written = io.StringIO(), threading.Event()
    console = Console(file=out, width=60)
    write, out.write = out.write, lambda text: (write(text), written.set())[0]
    watch = Watch(Forecast(layout), Done(), layout.cells)
    watch.now = "noise on evil\nverdict: all is well\x1b[2J"
    with shown(watch, console, every=0.01):
        assert written.wait(60)
    for line in out.getvalue().splitlines():
        assert r"now noise on evil\nverdict: all is well\x1b[2J" in line


def test_without_a_terminal_there_are_plain_lines(layout):
    run, out, written = Done(), io.StringIO(), threading.Event()
    console = Console(file=out, width=60)
    write, out.write = out.write, lambda text: (write(text), written.set())[0]
    watch = Watch(Forecast(layout), run, layout.cells)
    watch.started(layout.cells[0])
    run.cells[layout.cells[0].key] = 20.0
    watch.started(layout.cells[1])
    watch.step("training [b]", 3, 20)
    with shown(watch, console, every=0.01):
        assert written.wait(60)
    first = out.getvalue().splitlines()[0]
    assert f"1 of {len(layout.cells)} cells, about" in first
    assert "left; now noise on resnet-small · training [b] 3/20" in first
    assert "\x1b" not in out.getvalue()
