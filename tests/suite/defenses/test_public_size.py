"""What a private training takes to be public: no row more or less may change it, and where it does, that is said."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from suite.defenses.private.accounting import epsilon_pld
from suite.defenses.private.dpsgd import DPSGD, PrivateGradient
from suite.defenses.private.pate import PATE
from suite.defenses.private.sizes import known_size, public_size
from suite.report.rows import Rows
from suite.report.rules.every import findings
from suite.report.sections.privacy import epsilon
from tabular.models import MLP, LogisticRegression, RandomForest
from tests.support.private import VAL, own_cache, rows  # noqa: F401 - a fixture
from tests.support.rows import row


class Stop(Exception):
    pass


def as_run(monkeypatch, n, **terms):
    """The divisor, deviation of the noise, rate and steps of a training on n rows, and its notes."""
    seen = []

    class Recorded(PrivateGradient):
        def __call__(self, x, y, shares=None):
            seen.append((self.expected, self.sigma * self.norm))
            super().__call__(x, y, shares)

    monkeypatch.setattr("suite.defenses.private.dpsgd.PrivateGradient", Recorded)
    notes = DPSGD(epsilon=8.0, delta=0.01, epochs=5, **terms)(LogisticRegression(), rows(n, 0), VAL).notes
    assert len(set(seen)) == 1 and len(seen) == notes["steps"]
    return *seen[0], notes["sample_rate"], len(seen), notes


def closed_form(mu, delta=0.01):
    """Epsilon of a Gaussian mechanism that moves by mu standard deviations."""
    return brentq(lambda e: norm.cdf(mu / 2 - e / mu) - np.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0, 500)


def test_the_claim_holds_for_the_mechanism_as_it_ran_where_every_row_is_in_every_batch(monkeypatch):
    """With 74 rows or 75 in batches of 128. What a step releases is S / divisor + noise / divisor, and S is any sum of
    as many vectors of length 1. Divided by 74 and by 75 it moves as far as if a row were replaced: an epsilon of 22
    instead of 8, and the noise has another size besides."""
    (less, std, rate, steps, notes), (more, other, *_) = (as_run(monkeypatch, n) for n in (74, 75))
    assert rate == 1 and std == other
    # 74 vectors against the 75th in the worst case: |74 / less - (74 - 1) / more| moves the release, in units of noise
    moves = abs(74 / less - 73 / more) * less / std
    epsilon = closed_form(moves * steps**0.5)
    assert 7.9 < notes["epsilon_claimed"] <= 8 and epsilon == pytest.approx(notes["epsilon_claimed"], rel=0.01)
    assert epsilon_pld(std, 0.01, rate, steps) == pytest.approx(epsilon, rel=0.01)
    replaced = closed_form(2 / std * steps**0.5)
    assert notes["epsilon_replace_one"] == pytest.approx(replaced, rel=0.01) == pytest.approx(22.4, abs=0.3)
    assert (notes["unit"], notes["neighbors"]) == ("row", "added or removed")


def test_one_row_more_or_less_changes_nothing_but_the_sum(monkeypatch):
    found = [as_run(monkeypatch, n) for n in (73, 74, 75)]
    assert all(f[:4] == found[0][:4] for f in found) and found[0][0] == 70
    assert as_run(monkeypatch, 75, public_rows=90)[0] == 90
    assert [public_size(n) for n in (7, 15, 74, 199, 460, 1499)] == [7, 15, 70, 150, 400, 1000]


def test_where_one_more_or_less_would_change_what_is_public_it_is_not_called_public(monkeypatch):
    """79 and 80 rows in batches of 128: divided by 70 and by 80, so the claim for one row added does not hold."""
    (less, *_, notes), (more, *_, other) = (as_run(monkeypatch, n) for n in (79, 80))
    assert (less, more) == (70, 80)
    assert notes["public_rows_from"] == other["public_rows_from"] == "rounded at an edge"
    inside = as_run(monkeypatch, 74)[-1]
    assert (inside["public_rows"], inside["public_rows_from"]) == (70, "rounded")
    declared = [as_run(monkeypatch, n, public_rows=80) for n in (79, 80)]
    assert declared[0][:4] == declared[1][:4] and declared[0][-1]["public_rows_from"] == "declared"


def test_the_edges_are_where_one_more_or_less_rounds_to_another_number():
    edges = {n for n in range(1, 1001) if known_size(n, None).source == "rounded at an edge"}
    jumps = [n for n in range(1, 1002) if public_size(n) != public_size(n - 1)]
    assert edges == {n for j in jumps for n in (j - 1, j)} & {*range(1, 1001)}
    assert {*range(1, 11), 79, 80, 99, 100, 149, 150} <= edges and not edges & {74, 75, 155, 460}
    assert known_size(79, 80) == (80, "declared")


def test_pate_takes_delta_alone_from_the_number_of_patients():
    def source(n, **terms):
        train = rows(n, 2)
        return PATE(epsilon=20.0, teachers=2, questions=5, **terms)(RandomForest(trees=3), train, VAL).notes.get(
            "public_rows_from")

    assert (source(79), source(99), source(100)) == ("rounded", "rounded at an edge", "rounded at an edge")
    assert source(99, delta=0.01) is None and source(99, public_rows=99) == "declared"


# ---- what the report says of it


def judged(source, independent=2.98):
    at = {"unit": "row", "neighbors": "added or removed", "public_rows": "70", "public_rows_from": source,
          "defense": "dp"}
    found = [row("note[epsilon_claimed]", 3.0, **at), row("note[epsilon_independent]", independent, **at)]
    return next(f for f in findings(found, {}) if f.topic == "defense")


def test_an_epsilon_that_hangs_on_the_exact_number_is_no_calm_finding():
    declared, rounded, edge = map(judged, ("declared", "rounded", "rounded at an edge"))
    assert "public" not in declared.text and "70 rows, rounded down" in rounded.text
    assert edge.level == "medium" and "ε does not hold for one row added or removed here. Set public_rows" in edge.text
    assert rounded.level == declared.level != edge.level
    assert judged("rounded at an edge", 9.0).level == "high"  # nor is a finding of level high softened


def test_the_table_of_privacy_budgets_says_how_many_were_taken_to_be_public():
    at = {"defense": "dp", "attack": "one-run-audit", "confidence": 0.95}
    found = [row("epsilon_audited", 1.0, n=50, **at), row("epsilon_claimed", 3.0, **at, unit="patient",
             neighbors="added or removed", public_rows="70", public_rows_from="rounded at an edge")]
    (line,) = epsilon(Rows(found, {})).groups[0][1]
    cell = next(c for c in line if "70 patients" in c.text)
    assert cell.text == "70 patients, rounded down; one patient more or less changes it" and cell.tone == "bad"


def test_no_step_is_left_out_of_the_account(monkeypatch):
    """Each noisy step that was taken, and not one less: with five of them, one is worth a tenth of epsilon."""
    _, std, rate, steps, notes = as_run(monkeypatch, 60)
    assert rate == 1 and steps == 5
    for name in ("epsilon_claimed", "epsilon_independent"):
        assert notes[name] == pytest.approx(closed_form(steps**0.5 / std), rel=0.01)
        assert notes[name] > 1.05 * closed_form((steps - 1) ** 0.5 / std)


@pytest.mark.parametrize(("n", "delta"), [(460, 1e-3), (999, 1e-3), (1000, 1e-4), (60, 1e-2)])
def test_delta_is_the_largest_power_of_ten_below_one_over_rows(n, delta, monkeypatch):
    asked = []

    def noise(epsilon, delta, rate, steps):
        asked.append(delta)
        raise Stop

    monkeypatch.setattr("suite.defenses.private.dpsgd.noise_multiplier", noise)
    with pytest.raises(Stop):
        DPSGD()(MLP(), rows(n, 0), VAL)
    assert asked == [delta]
    assert asked[0] < 1 / n
