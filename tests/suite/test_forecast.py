"""The time that an audit still takes: by like cells, by passes before there are any, and held against a real run."""

import io
import threading

import pytest
from rich.console import Console

from suite.cells import Layout
from suite.forecast import Forecast, per_row, replay, work
from suite.registry import make
from suite.request import make_plan, open_data
from suite.show_progress import Watch, duration, shown

TOOK = {
    "fit": 37.5, "noise": 0.2, "fgsm": 1.7, "pgd": 1.1, "mi-fgsm": 0.4, "autoattack": 8.8, "deepfool": 2.7,
    "carlini-wagner": 4.1, "fab": 0.9, "square": 11.5, "simba": 11.6, "nes": 19.1, "hopskipjump": 5.1,
    "genattack": 10.7, "few-pixels": 11.0, "universal": 11.5, "black-box-universal": 53.7, "transfer": 4.4,
    "vertical-stripes": 1.5, "speckle": 0.2, "adversarial-speckle": 0.4, "bias-field": 0.7,
    "rotation-translation": 5.1, "warp": 0.9, "worst-case": 0.5, "trades--fit": 188.1, "trades--noise": 0.2,
    "trades--fgsm": 0.1, "trades--pgd": 1.6, "trades--mi-fgsm": 0.5, "trades--autoattack": 21.4,
    "trades--deepfool": 0.1, "trades--carlini-wagner": 5.2, "trades--fab": 0.9, "trades--square": 15.6,
    "trades--universal": 12.3, "trades--transfer": 4.3, "trades--worst-case": 0.6}
"""Seconds of the cells of the imaging preset, 40 images attacked, on PneumoniaMNIST with one thread of a busy CPU."""


@pytest.fixture(scope="module")
def layout():
    """The imaging preset as it was when `TOOK` was measured, on as many images of the phantom."""
    plan = make_plan("imaging", {"data": ["chest-phantom"], "detectors": []}, full=True)
    ran = {key.removeprefix("trades--") for key in TOOK}
    attacks = tuple(a.model_copy(update={"rows": 40}) for a in plan.attacks if a.name in ran)
    plan = plan.model_copy(update={"attacks": attacks, "defenses": plan.defenses[:1], "rows": 40})
    data, _ = open_data(plan)
    return Layout(plan, data)


def took(layout):
    """Seconds by key of a cell; training by the rows that there are here."""
    share = len(layout.data.train) / 4708
    keys = {c.key: c.key.removeprefix("resnet-small--").removeprefix("none--") for c in layout.cells}
    return {key: TOOK.get(short, 0.3) * (share if short.endswith("fit") else 1) for key, short in keys.items()}


def test_the_time_left_of_a_real_run_is_within_a_factor_of_two_once_a_training_is_done(layout):
    seconds, ratios = took(layout), []
    replay(layout, seconds, [c.key for c in layout.cells],
           at=lambda gone, left, expected: ratios.append((left, expected / max(left, 1e-9))))
    assert len(ratios) == len(seconds)
    meant = [ratio for left, ratio in ratios if left > 10]
    assert len(meant) > 20
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
    for key, seconds in took(layout).items():
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
