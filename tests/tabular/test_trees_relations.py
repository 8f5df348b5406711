"""Relations between columns at the very limit: what a relation, a radius or a budget just allows is never pruned."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from tabular.schema import Column, Relation, Schema
from tabular.trees import search
from tabular.trees.ensemble import Ensemble
from tabular.trees.exact import solve
from tabular.trees.reach import Reach
from tabular.trees.relate import bound, generous, nearest

SIDE, SCALES = 7, (1.0, 3.0, 7.0, 10.0, 49.0)
EVERYONE = np.array(list(itertools.product(range(SIDE), repeat=3)), np.float32)


def forest(rng):
    y = (EVERYONE[:, 0] * EVERYONE[:, 1] + EVERYONE[:, 2] + rng.normal(0, 3, len(EVERYONE)) > 12).astype(int)
    return RandomForestClassifier(5, max_depth=4, random_state=0).fit(EVERYONE, y)


def table(terms, limit, scales, integer=True):
    columns = {f"c{i}": Column(min=0, max=SIDE - 1, integer=integer, scale=s) for i, s in enumerate(scales)}
    relation = Relation(name="r", terms={f"c{i}": t for i, t in enumerate(terms) if t}, max=limit)
    return Schema(columns=columns, relations=(relation,)).space()


def distances(points, row, space):
    return (np.abs(points.astype(np.float64) - row) / space.scale.double().numpy()).max(1)


def reachable(space, row):
    """All possible patients but the row itself, which may stay what it is against any relation."""
    others = EVERYONE[(row != EVERYONE).any(1)]
    start = torch.from_numpy(np.repeat(row[None], len(others), 0))
    return others[space.contains(torch.from_numpy(others), start).numpy()]


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_flip_is_found_where_it_lies_on_the_limit_of_the_relation(seed):
    """Tenths have no exact binary value, so that a patient on the limit exceeds it by what float32 rounds."""
    rng = np.random.default_rng(seed)
    model = forest(rng)
    labels, ensemble, just = model.predict(EVERYONE), Ensemble.of(model), 0
    for _ in range(12):
        tenths, scales = rng.choice([-7, -3, -1, 1, 2, 3, 6], 3), rng.choice(SCALES, 3)
        row = EVERYONE[rng.integers(len(EVERYONE))]
        flips = EVERYONE[labels != model.predict(row[None])[0]]
        totals = (flips @ tenths).round().astype(int)
        # the limit is that of one of the flips that ask for more than the row itself does
        above = totals[totals >= row @ tenths]
        if not len(above):
            continue
        space = table((tenths / 10).tolist(), float(rng.choice(above)) / 10, scales.tolist())
        start = torch.from_numpy(np.repeat(row[None], len(flips), 0))
        possible = flips[space.contains(torch.from_numpy(flips), start).numpy()]
        nearest = distances(possible, row, space).min()
        just += (possible.astype(np.float64) @ space.factors[0].double().numpy() > float(space.limits[0])).any()
        for eps in (np.inf, nearest):
            found = solve(ensemble, model.predict, space, row, eps=eps)
            assert found.exact and found.upper == pytest.approx(nearest, abs=1e-9)
            assert found.lower <= nearest
        short = solve(ensemble, model.predict, space, row, eps=nearest * (1 - 1e-4))
        assert short.witness is None and short.lower == nearest * (1 - 1e-4)
        fewest = solve(ensemble, model.predict, space, row, "l0")
        assert fewest.exact and fewest.upper == (possible != row).sum(1).min()
    assert just > 2, "some limits are exceeded by rounding alone"


def boxes(rng, cells):
    """Random boxes of cells that hold a few cells a column."""
    for _ in range(30):
        ends = np.sort([[rng.integers(np.isfinite(d).sum()) for d in cells.distance] for _ in range(2)], 0)
        yield ends.astype(np.int16)


@pytest.mark.parametrize("seed", range(4))
def test_no_box_is_pruned_that_holds_a_possible_patient_within_the_limit(seed):
    """The limit is the float next to a patient's distance: a float less, and that patient need not be found."""
    rng = np.random.default_rng(seed)
    model = forest(rng)
    ensemble, kept, pruned = Ensemble.of(model), 0, 0
    for scales in itertools.product(SCALES, repeat=3):
        tenths, row = rng.choice([-7, -3, -1, 0, 1, 2, 6], 3), EVERYONE[rng.integers(len(EVERYONE))]
        if not tenths.any():
            continue
        space = table((tenths / 10).tolist(), float(row @ tenths) / 10 - rng.integers(0, 3) / 10, scales)
        reach = Reach(ensemble, space)
        cells = reach.cells(row, ensemble.cells(row[None])[0])
        possible = reachable(space, row)
        for low, high in boxes(rng, cells):
            at = np.arange(3)
            inside = possible[((possible >= cells.least[at, low]) & (possible <= cells.most[at, high])).all(1)]
            far = distances(inside, row, space)
            limit = np.nextafter(far.min(), np.inf) if len(inside) else 0.5
            held = search._related(cells, reach.relations[0], generous(reach), low, high, limit)
            assert held or not len(inside)
            kept, pruned = kept + held, pruned + (not held)
    assert kept > 100 and pruned > 50


def test_a_sum_that_equals_the_limit_holds():
    """Also where no rounding is granted: the limits are those that the caller passes."""
    model = forest(np.random.default_rng(0))
    space = table((1.0, -2.0, 0.0), 5.0, (1.0, 1.0, 1.0), integer=False)
    reach, row = Reach(Ensemble.of(model), space), np.float32([2, 2, 2])
    cells = reach.cells(row, reach.ensemble.cells(row[None])[0])
    high = np.array([np.isfinite(d).sum() - 1 for d in cells.distance], np.int16)
    low = np.zeros(3, np.int16)
    for limit in (1.0, 0.75, 0.5):  # the sum is least where c0 falls and c1 rises by as much as they may
        least = (2 - limit) - 2 * (2 + limit)
        assert search._related(cells, reach.relations[0], np.array([least]), low, high, limit)
        assert not search._related(cells, reach.relations[0], np.array([np.nextafter(least, -9)]), low, high, limit)


@pytest.mark.parametrize("seed", range(4))
def test_bounds_and_programs_allow_all_that_the_space_accepts(seed):
    """What float32 lets pass lies beyond the limit in exact arithmetic, so no proof may rest on the limit itself."""
    rng = np.random.default_rng(seed)
    model, checked = forest(rng), 0
    ensemble = Ensemble.of(model)
    for scales in itertools.product(SCALES[:3], repeat=3):
        tenths, row = rng.choice([-7, -3, -1, 1, 2, 6], 3), EVERYONE[rng.integers(len(EVERYONE))]
        space = table((tenths / 10).tolist(), float(row @ tenths) / 10 - rng.integers(0, 4) / 10, scales)
        reach = Reach(ensemble, space)
        cells = reach.cells(row, ensemble.cells(row[None])[0])
        possible = reachable(space, row)
        for low, high in itertools.islice(boxes(rng, cells), 3):
            at = np.arange(3)
            inside = possible[((possible >= cells.least[at, low]) & (possible <= cells.most[at, high])).all(1)]
            if not len(inside):
                continue
            truth, checked = distances(inside, row, space).min(), checked + 1
            assert bound(reach, cells, row, low, high)[0] <= truth + 1e-9
            _, least = nearest(reach, cells, row, low, high, generous(reach))
            assert least <= truth + 1e-9
            own = ((row >= cells.least[at, low]) & (row <= cells.most[at, high])).all()
            assert own or least == pytest.approx(truth, abs=1e-5)
    assert checked > 20
