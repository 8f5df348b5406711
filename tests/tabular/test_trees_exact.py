"""Exact robustness of trees: hand computations, enumeration of whole grids, soundness, and what limits may do."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from suite.base.errors import InputError, NotApplicable
from suite.base.seeding import seeded
from suite.core.classifier import EstimatorClassifier
from suite.core.space import Space
from tabular.exact import ExactFewest, ExactLinf
from tabular.models import MLP, RandomForest, XGBoost
from tabular.schema import Column, Relation, Schema
from tabular.trees.ensemble import Ensemble
from tabular.trees.exact import solve
from tests.support.breast import breast


def stump_at(threshold, columns=1):
    """Class 1 where the first column is above the threshold."""
    x = np.zeros((2, columns), np.float32)
    x[:, 0] = [threshold - 1, threshold + 1]
    return DecisionTreeClassifier(max_depth=1, random_state=0).fit(x, [0, 1])


def solved(model, space, x, norm="linf", **kwargs):
    return solve(Ensemble.of(model), model.predict, space, np.asarray(x, np.float32), norm, **kwargs)


# ---- hand computations

def test_a_stump_flips_one_float_above_its_threshold():
    found = solved(stump_at(5.0), Space(0.0, 100.0, 10.0), [3.0])
    assert found.witness[0] == np.nextafter(np.float32(5), np.float32(9))
    assert found.exact and found.lower == found.upper == pytest.approx(0.2, abs=1e-6)


def test_a_stump_flips_at_its_threshold_from_above():
    found = solved(stump_at(5.0), Space(0.0, 100.0, 10.0), [7.0])
    assert found.witness[0] == 5.0 and found.upper == 0.2


@pytest.mark.parametrize(("column", "distance"), [
    ({}, 0.020000005),
    ({"integer": True}, 0.03),                       # 6 is the first whole number above 5
    ({"values": (0, 3, 7, 90)}, 0.04),               # 7 is the first code above 5
    ({"change": "up"}, 0.020000005),
    ({"change": "down"}, np.inf),
    ({"change": "never"}, np.inf),
    ({"integer": True, "scale": 3.0}, 1.0),
])
def test_a_stump_in_a_schema(column, distance):
    space = Schema(columns={"a": Column(min=0, max=100, **column)}).space()
    found = solved(stump_at(5.0), space, [3.0])
    assert found.exact and found.upper == found.lower == pytest.approx(distance, rel=1e-6)
    assert (found.witness is None) == (distance == np.inf)


def test_xgboost_flips_at_its_threshold_and_scikit_learn_one_float_above():
    x = np.array([[1.0], [2.0], [3.0], [4.0]] * 20, np.float32)
    model = XGBClassifier(n_estimators=1, max_depth=1, min_child_weight=0).fit(x, x[:, 0] > 2)
    cut = Ensemble.of(model).cuts[0][0]
    found = solved(model, Space(0.0, 10.0), [1.0])
    assert found.witness[0] == np.nextafter(cut, np.float32(9)) == model.get_booster().trees_to_dataframe()["Split"][0]


def test_a_relation_makes_other_columns_move_along():
    """To pass 5, with a + b <= 8 and b at 6, b has to come down by as much as a goes above 2."""
    space = Schema(columns={"a": Column(min=0, max=10, integer=True), "b": Column(min=0, max=10, integer=True)},
                   relations=(Relation(name="r", terms={"a": 1, "b": 1}, max=8),)).space()
    found = solved(stump_at(5.0, 2), space, [2.0, 6.0])
    assert found.exact and found.upper == pytest.approx(0.4)
    assert found.witness[0] == 6 and found.witness[1] <= 2
    fewest = solved(stump_at(5.0, 2), space, [2.0, 6.0], "l0")
    assert fewest.exact and fewest.upper == 2, "the column that the model ignores has to move, too"


def test_an_exact_tie_is_no_flip_where_the_model_calls_it_for_the_class_of_the_row():
    """Two trees with thresholds 4 and 6: between them the vote is 1 to 1, which goes to class 0."""
    forest = RandomForestClassifier(2, max_depth=1).fit([[0], [10]], [0, 1])
    forest.estimators_ = [stump_at(4.0), stump_at(6.0)]
    up, down = (solved(forest, Space(0.0, 10.0), [x]) for x in (3.0, 7.0))
    assert up.witness[0] == np.nextafter(np.float32(6), np.float32(9)), "from 0 both trees have to change"
    assert down.witness[0] == 6.0 and down.exact, "from 1 a tie is enough"


# ---- enumeration

def random_rows(rng, columns, relations, n=400):
    """Rows on small grids of every kind, so that all possible patients can be listed; 7 in 10 meet each relation."""
    kinds = [{"integer": True}, {"integer": True, "change": "up"}, {"integer": True, "change": "down"},
             {"values": (0.0, 1.5, 4.0, 9.0)}, {"integer": True, "change": "never"}]
    chosen = [kinds[0], *(kinds[k] for k in rng.integers(0, len(kinds), columns - 1))]
    x = np.stack([rng.choice(kind.get("values", range(10)), n) for kind in chosen], 1).astype(np.float32)
    schema = {f"c{i}": Column(min=0, max=9, scale=float(rng.choice([1, 3, 10])), **kind)
              for i, kind in enumerate(chosen)}
    terms = rng.choice([-2, -1, 1, 2], (relations, columns)) * (rng.random((relations, columns)) < 0.8)
    limits = np.quantile(x @ terms.T, 0.7, axis=0) if relations else ()
    return x, Schema(columns=schema, relations=tuple(
        Relation(name="r", terms={f"c{i}": float(t) for i, t in enumerate(row)}, max=float(limit))
        for row, limit in zip(terms, limits, strict=True))).space()


def fits(x, rng):
    y = (x[:, 0] * x[:, 1] + 3 * x[:, -1] + rng.normal(0, 6, len(x)) > 30).astype(int)
    yield XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(x, y)
    yield RandomForestClassifier(8, max_depth=3, random_state=0).fit(x, y)
    yield GradientBoostingClassifier(n_estimators=6, random_state=0).fit(x, y)
    yield RandomForestClassifier(6, max_depth=4, random_state=0).fit(x, y + (x[:, 1] > 6))  # three classes


@pytest.mark.parametrize("relations", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_listing_every_possible_patient(seed, relations):
    rng = np.random.default_rng(100 * relations + seed)
    x, space = random_rows(rng, 4, relations)
    grid = [space.values[f].tolist() if f in space.values else range(10) for f in range(4)]
    everyone = np.array(list(itertools.product(*grid)), np.float32)
    patients, flips = x[space.possible(torch.from_numpy(x)).numpy()], 0
    for model in fits(x, rng):
        labels = model.predict(everyone)
        for row in patients[:6]:
            start = np.repeat(row[None], len(everyone), 0)
            possible = space.contains(torch.from_numpy(everyone), torch.from_numpy(start)).numpy()
            fooled = everyone[possible & (labels != model.predict(row[None])[0])]
            linf = (np.abs(fooled - row) / space.scale.numpy()).max(1)
            l0 = (fooled != row).sum(1).astype(float)
            for norm, every, tied in (("linf", linf, linf), ("l0", l0, linf)):
                found = solved(model, space, row, norm)
                assert found.exact and found.upper == pytest.approx(every.min(initial=np.inf), abs=1e-6)
                assert found.upper - 1e-4 <= found.lower <= found.upper or found.lower == found.upper
                if len(fooled):
                    moved = (np.abs(found.witness - row) / space.scale.numpy()).max()
                    assert moved == pytest.approx(tied[every == every.min()].min(), abs=1e-5)
                    flips += 1
    assert flips > 10


def test_agrees_with_listing_the_cells_of_continuous_columns():
    """Without a grid, the nearest flip lies on the near edge of a cell: at a threshold or one float above it."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (300, 3)).astype(np.float32)
    space = Space(torch.full((3,), -9.0), torch.full((3,), 9.0), torch.tensor([1.0, 2.0, 0.5]))
    for model in fits(x * 4 + 5, rng):
        rows = x[:8] * 4 + 5
        if isinstance(model, XGBClassifier):
            table = model.get_booster().trees_to_dataframe()
            ends = [table["Split"][table["Feature"] == f"f{f}"].to_numpy(np.float32) for f in range(3)]
            edges = [np.unique(np.r_[e, np.nextafter(e, np.float32(-99))]) for e in ends]
        else:
            trees = [e.tree_ for e in np.ravel(model.estimators_)]
            ends = [np.concatenate([t.threshold[t.feature == f] for t in trees]).astype(np.float32) for f in range(3)]
            edges = [np.unique(np.r_[e, np.nextafter(e, np.float32(99)), np.nextafter(e, np.float32(-99))])
                     for e in ends]
        edges = [e[np.abs(e) <= 9] for e in edges]
        for row in rows:
            row = row.clip(-9, 9)
            z = np.array(list(itertools.product(*(np.append(e, v) for e, v in zip(edges, row, strict=True)))))
            fooled = z[model.predict(z) != model.predict(row[None])[0]].astype(np.float64)
            nearest = (np.abs(fooled - row) / space.scale.numpy()).max(1).min(initial=np.inf)
            assert solved(model, space, row).upper == pytest.approx(nearest, abs=1e-12)


# ---- real rows

@cache
def fitted(kind):
    train, val, test = breast()
    recipe = {"forest": RandomForest(trees=30, depth=5), "xgboost": XGBoost(trees=40, depth=3)}[kind]
    classifier = recipe.fit(train, val)
    right = classifier.predict(test.x) == test.y
    rows = np.concatenate([np.flatnonzero(right)[:16], np.flatnonzero(~right)[:2]])
    return classifier, torch.from_numpy(test.x[rows]), torch.from_numpy(test.y[rows])


@pytest.mark.parametrize("attack", [ExactLinf(), ExactFewest()])
@pytest.mark.parametrize("kind", ["forest", "xgboost"])
def test_every_witness_is_a_possible_patient_that_the_model_misjudges(kind, attack):
    classifier, x, y = fitted(kind)
    found = attack.search(classifier, x, y)
    right = classifier.predict(x.numpy()) == y.numpy()
    assert (classifier.predict(found.x_adv.numpy()) != y.numpy())[right].all()
    assert classifier.space.contains(found.x_adv, x).all()
    assert (found.lower[~right] == 0).all() and (found.upper[~right] == 0).all()
    assert torch.equal(found.x_adv[torch.from_numpy(~right)], x[torch.from_numpy(~right)])
    moved = (classifier.space.distance(found.x_adv, x) if isinstance(attack, ExactLinf)
             else (found.x_adv != x).sum(1)).double().numpy()
    np.testing.assert_allclose(found.upper, moved, atol=1e-6)
    assert (found.lower == found.upper).all()


@pytest.mark.parametrize("kind", ["forest", "xgboost"])
def test_nothing_drawn_inside_the_certified_radius_fools_the_model(kind):
    classifier, x, y = fitted(kind)
    lower = torch.from_numpy(ExactLinf().search(classifier, x, y).lower).float()
    generator, space = torch.Generator().manual_seed(0), classifier.space
    radius = (lower[:16] * 0.9999)[:, None] * space.scale
    sign = torch.rand((400, 16, x.shape[1]), generator=generator) * 2 - 1
    z = x[:16] + radius * torch.where(torch.rand(sign.shape, generator=generator) < 0.5, sign, sign.sign())
    z = torch.where(space.frozen, x[:16], z.clamp(space.lower, space.upper))
    labels = classifier.predict(z.flatten(0, 1).numpy()).reshape(400, 16)
    assert (labels == y[:16].numpy()).all()


@pytest.mark.parametrize("kind", ["forest", "xgboost"])
def test_fewer_possible_patients_are_never_nearer(kind):
    classifier, x, y = fitted(kind)
    schema = classifier.space.schema
    columns = {n: c.model_copy(update={"change": ("any", "up", "never")[i % 3]})
               for i, (n, c) in enumerate(schema.columns.items())}
    names = list(columns)
    relation = Relation(name="r", terms={names[1]: 1.0, names[4]: -50.0}, max=float((x[:, 1] - 50 * x[:, 4]).min()) + 6)
    free = ExactLinf().search(classifier, x, y).upper
    for narrower in (Schema(columns=columns), Schema(columns=schema.columns, relations=(relation,))):
        tight = EstimatorClassifier(classifier.estimator, 2, narrower.space())
        found = ExactLinf().search(tight, x, y)
        assert (found.upper >= free - 1e-6).all() and (found.upper > free + 1e-6).any()
        assert tight.space.contains(found.x_adv, x)[np.isfinite(found.upper)].all()


def test_a_budget_hides_what_lies_beyond_it_and_nothing_else():
    classifier, x, y = fitted("xgboost")
    free = ExactLinf().search(classifier, x, y)
    eps = float(np.median(free.upper))
    near = ExactLinf(eps=eps).search(classifier, x, y)
    within = free.upper <= eps
    assert 0 < within.sum() < len(x)
    np.testing.assert_array_equal(near.upper, np.where(within, free.upper, np.inf))
    np.testing.assert_array_equal(near.lower, np.where(within, free.lower, eps))
    assert torch.equal(near.x_adv[~torch.from_numpy(within)], x[~torch.from_numpy(within)])
    assert (classifier.space.distance(near.x_adv, x) <= eps * (1 + 2e-6)).all()


def test_stopped_early_the_bounds_still_hold():
    classifier, x, y = fitted("forest")
    truth = ExactLinf().search(classifier, x, y).upper
    for limit, by in (({"nodes_per_row": 1}, "nodes"), ({"nodes_per_row": 100}, "nodes"),
                      ({"seconds_per_row": 1e-9}, "clock")):
        rows = ExactLinf(**limit).certify(classifier, x, y)
        assert all(row.lower <= exact <= row.upper for row, exact in zip(rows, truth, strict=True))
        assert {row.cut_by for row in rows} <= {"", by} and any(row.cut_by for row in rows)
        assert all(row.cut_by == by for row in rows if not row.exact)
    fewest = ExactFewest().search(classifier, x, y).upper
    for limit, by in ({"nodes_per_row": 1}, "nodes"), ({"seconds_per_row": 1e-9}, "clock"):
        rows = ExactFewest(**limit).certify(classifier, x, y)
        assert all(row.lower <= exact <= row.upper for row, exact in zip(rows, fewest, strict=True))
        assert not all(row.exact for row in rows)
        assert all(row.cut_by == by for row in rows if not row.exact)


@pytest.mark.parametrize("attack", [ExactLinf, ExactFewest])
def test_a_search_cut_by_its_nodes_is_the_same_on_a_machine_of_any_speed(attack, monkeypatch):
    """Where a look at the clock takes a tenth of a second, a row that looks 100 times takes ten."""
    classifier, x, y = fitted("forest")
    quick = attack(nodes_per_row=5000).certify(classifier, x, y)
    now = itertools.count(0.0, 0.1)
    monkeypatch.setattr("tabular.trees.exact.time.perf_counter", lambda: next(now))
    slow = attack(nodes_per_row=5000).certify(classifier, x, y)
    assert {row.cut_by for row in slow} == {"", "nodes"}
    for a, b in zip(quick, slow, strict=True):
        assert (a.lower, a.upper, a.nodes, a.cut_by) == (b.lower, b.upper, b.nodes, b.cut_by)
        assert np.array_equal(a.witness, b.witness) if a.witness is not None else b.witness is None


def test_what_each_limit_cut_is_told_row_by_row():
    classifier, x, y = fitted("forest")
    right = classifier.predict(x.numpy()) == y.numpy()
    by_nodes, by_clock = (ExactFewest(**limit).search(classifier, x, y).cut_by
                          for limit in ({"nodes_per_row": 1}, {"seconds_per_row": 1e-9}))
    assert set(by_nodes[right]) <= {"", "nodes"} and (by_nodes == "nodes").sum() > 10
    assert (by_clock[right] == "clock").all() and (by_clock[~right] == "").all()


@pytest.mark.parametrize("attack", [ExactLinf, ExactFewest])
def test_threads_and_repetition_change_nothing(attack):
    classifier, x, y = fitted("xgboost")
    first, again, threads = (attack(workers=w).search(classifier, x, y, seed=w) for w in (1, 1, 3))
    for other in (again, threads):
        assert torch.equal(first.x_adv, other.x_adv)
        np.testing.assert_array_equal(first.lower, other.lower)


def test_the_base_score_counts():
    """ART's clique method (1.20.1) leaves base_score out, so its "safe" radii hold patients that fool the model."""
    from art.estimators.classification import XGBoostClassifier
    from art.metrics import RobustnessVerificationTreeModelsCliqueMethod

    train, _, test = breast()
    low, width = train.x.min(0)[1:9], np.ptp(train.x, 0)[1:9]
    x, z = (((part.x[:, 1:9] - low) / width).clip(0, 1) for part in (train, test))
    y = (train.y == 1) & (np.arange(len(train.y)) % 4 > 1)  # rare, so that base_score pulls towards class 0
    model = XGBClassifier(n_estimators=10, max_depth=3, n_jobs=1).fit(x, y)
    rows = z[model.predict(z) == 1][:40].astype(np.float32)
    wrapped = XGBoostClassifier(model=model, clip_values=(0, 1), nb_features=8, nb_classes=2)
    too_far = 0
    with seeded(0):
        for row in rows:
            clique = RobustnessVerificationTreeModelsCliqueMethod(classifier=wrapped, verbose=False)
            bound, _ = clique.verify(x=row[None], y=np.eye(2)[[1]], eps_init=0.1, nb_search_steps=8, max_clique=2,
                                     max_level=1)
            found = solved(model, Space(-9.0, 9.0), row)
            assert found.exact and found.lower == found.upper
            assert model.predict(found.witness[None])[0] == 0
            assert np.abs(found.witness.astype(np.float64) - row).max() == found.upper
            too_far += bound > found.upper + 1e-3
    if not too_far:
        pytest.skip("this version of ART heeds base_score")


def test_other_models_are_refused_and_told_what_to_use():
    train, val, _ = breast()
    network = MLP(epochs=1).fit(train, val)
    with pytest.raises(NotApplicable, match="tree model"):
        ExactLinf().check(network)
    for wrong in ({"seconds_per_row": 0}, {"nodes_per_row": 0}, {"workers": 0}, {"eps": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ExactLinf(**wrong)
    ExactFewest().check(fitted("forest")[0])
