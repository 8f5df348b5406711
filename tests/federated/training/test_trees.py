"""Hospitals that boost trees together: equal to central boosting, to sums by hand, to Flower's; broken ones refused."""

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import xgboost

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedXgbBagging, FedXgbCyclic

from federated.flower.client_app import COUNT
from federated.flower.grid import FIRST, Border, InProcessGrid
from federated.partition.sites import HOSPITAL, BySubgroup
from federated.training.boosting import INTEGERS, NUMBERS, Boosting
from federated.training.trees import TREES, FederatedTrees, boost, boost_here, grower, packed, sound
from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.core.data import Split
from suite.core.space import Space
from suite.models import artifacts
from suite.results.metrics import auroc
from tabular.data import heart_4sites
from tabular.exact import ExactLinf
from tabular.models import RandomForest, XGBoost
from tests.support.breast import breast

RECIPE = XGBoost(trees=6, depth=3, rate=0.3)
HOWS = ("bagging", "cyclic")


def dealt(split, sites):
    """The same rows, with hospitals that take turns."""
    return replace(split, subgroups={"hospital": np.array([f"h{k % sites}" for k in range(len(split))])})


def three_classes(n=240, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4)).astype(np.float32)
    y = np.digitize(x[:, 0] + x[:, 1] * x[:, 2], [0.5, 0.9]).astype(np.int64)
    return Split(x, y, Space(0.0, 1.0), ("a", "b", "c"), np.arange(n))


def central(recipe, rows, seed=0):
    """The recipe's own training, but for the start margin."""
    class From0(xgboost.XGBClassifier):
        def __init__(self, **named):
            super().__init__(**named | {"base_score": 0.5})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xgboost, "XGBClassifier", From0)
        return recipe.fit(rows, rows, seed)


def margins(boosting, model, x):
    return xgboost.Booster(model_file=bytearray(model)).predict(xgboost.DMatrix(x), output_margin=True)


@pytest.fixture(scope="module")
def halves():
    train = breast()[0]
    return [train.take(slice(k, None, 2)) for k in range(2)]


@pytest.fixture(scope="module")
def boosting():
    return Boosting(RECIPE, 30, 2, share=0.5)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("rows", [breast()[0], three_classes()], ids=["two classes", "three classes"])
def test_one_hospital_boosts_as_the_recipe_does(rows, how, balanced):
    """Six times in a row; here in three rounds of two."""
    recipe = replace(RECIPE, balanced=balanced)
    found = FederatedTrees(how, rounds=3, trees=2)(recipe, dealt(rows, 1), rows)
    np.testing.assert_array_equal(found.predict_proba(rows.x), central(recipe, rows).predict_proba(rows.x))
    assert found.estimator.get_booster().num_boosted_rounds() == 6 and "events" not in found.notes


def test_bagging_sums_what_each_hospital_would_have_learned(boosting, halves):
    """By hand: the margin after a round is that of each hospital's own first trees, at half the learning rate."""
    model = boost_here(boosting, halves, "bagging", 1)
    own = [central(replace(RECIPE, trees=1, rate=0.15), rows).estimator for rows in halves]
    wanted = sum(estimator.predict(halves[0].x, output_margin=True) for estimator in own)
    np.testing.assert_allclose(margins(boosting, model, halves[0].x), wanted, rtol=1e-5)


def test_a_leaf_of_one_hospital_by_hand():
    """Four rows and one split at the first column: gradients 1/2 - y of two rows a leaf, over their Hessians 1/4 + 1/4
    (of rows that weigh 1, as classes are even) + 1, which is the penalty: a leaf is -+ rate * 1 / 1.5."""
    x = np.array([[0.0], [0.0], [1.0], [1.0]], np.float32).repeat(4, 0)
    rows = Split(x, (x[:, 0] > 0).astype(np.int64), Space(0.0, 1.0), ("a", "b"), np.arange(len(x)))
    boosting = Boosting(XGBoost(depth=1, rate=0.3), 1, 2)
    model = boost_here(boosting, [rows], "bagging", 1)
    leaf = 0.3 * 8 * 0.5 / (8 * 0.25 + 1)
    np.testing.assert_allclose(margins(boosting, model, x), np.where(x[:, 0] > 0, leaf, -leaf), rtol=1e-6)


def test_in_turn_each_hospital_goes_on_from_the_others_trees(halves):
    """By hand, with XGBoost's own continuing."""
    boosting = Boosting(RECIPE, 30, 2)
    settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "base_score": 0.5, "nthread": 1}
    booster = None
    for rows in (halves[0], halves[1], halves[0]):
        weights = (len(rows) / (2 * np.bincount(rows.y))).astype(np.float32)
        data = xgboost.DMatrix(rows.x, rows.y, weight=weights[rows.y])
        booster = xgboost.train(settings, data, 1, xgb_model=booster)
    wanted = booster.predict(xgboost.DMatrix(halves[1].x), output_margin=True)
    model = boost_here(boosting, halves, "cyclic", 3)
    np.testing.assert_allclose(margins(boosting, model, halves[1].x), wanted, atol=1e-6)


def grid(boosting, sites, spoil=None, events=None, border=True):
    """A border around hospitals in this process; `spoil(number, turn, reply)` stands between."""
    honest = grower(lambda context: (boosting, sites[context.node_config["partition-id"]]))

    def app(message, context):
        reply = honest(message, context)
        if spoil:
            spoil(context.node_config["partition-id"], message, reply)
        return reply

    inner = InProcessGrid(app, len(sites))
    counts = {FIRST + k: len(rows) for k, rows in enumerate(sites)}
    told = (lambda what, facts: events.append((what, facts))) if events is not None else (lambda *_: None)
    return Border(inner, counts=counts, event=told, sound=sound(boosting)) if border else inner


def started(strategy, grid, boosting, number):
    result = strategy.start(grid=grid, initial_arrays=packed(boosting.empty), num_rounds=number)
    return result.arrays[TREES].numpy().tobytes()


def test_flowers_own_bagging_grows_the_same_trees(boosting, halves):
    theirs = started(FedXgbBagging(fraction_evaluate=0.0), grid(boosting, halves), boosting, 4)
    ours = boost_here(boosting, halves, "bagging", 4)
    x = halves[0].x
    np.testing.assert_array_equal(margins(boosting, theirs, x), margins(boosting, ours, x))


def test_flowers_own_cyclic_grows_the_same_trees(halves):
    """It takes the whole model from a hospital, and would draw whose turn it is."""
    boosting = Boosting(RECIPE, 30, 2)

    def whole(number, message, reply):
        model = json.loads(message.content["arrays"][TREES].numpy().tobytes())
        boosting.add(model, reply.content["arrays"][TREES].numpy().tobytes())
        reply.content["arrays"] = packed(json.dumps(model).encode())

    strategy = FedXgbCyclic(fraction_evaluate=0.0)
    strategy.registered_nodes = {FIRST: 1, FIRST + 1: 2}
    theirs = started(strategy, grid(boosting, halves, whole, border=False), boosting, 3)
    x = halves[0].x
    np.testing.assert_array_equal(margins(boosting, theirs, x),
                                  margins(boosting, boost_here(boosting, halves, "cyclic", 3), x))


def sent(change):
    """Send other bytes."""
    def spoil(reply):
        reply.content["arrays"] = packed(change(reply.content["arrays"][TREES].numpy().tobytes()))

    return spoil


def tree(change):
    """Send another tree."""
    def edit(raw):
        model = json.loads(raw)
        change(model["learner"]["gradient_booster"]["model"]["trees"][0])
        return json.dumps(model).encode()

    return sent(edit)


def cell(name, value, at=0):
    return tree(lambda tree: tree[name].__setitem__(at, value))


def leaf(value):
    return tree(lambda tree: tree["split_conditions"].__setitem__(tree["left_children"].index(-1), value))


def other_model(raw):
    nobody = xgboost.DMatrix(np.zeros((1, 31), np.float32), [0.0])
    return bytes(xgboost.train({"objective": "binary:logistic", "base_score": 0.5}, nobody, 1).save_raw("json"))


def twice(raw):
    model = json.loads(raw)
    forest = model["learner"]["gradient_booster"]["model"]
    forest["trees"] *= 2
    return json.dumps(model).encode()


def content(name, value):
    return lambda reply: reply.content.__setitem__(name, value)


BROKEN = {
    "garbage": (sent(lambda raw: b"\xff\x00 no trees"), "cannot be read: UnicodeDecodeError"),
    "nothing": (sent(lambda raw: b""), "cannot be read: JSONDecodeError"),
    "half": (sent(lambda raw: raw[:len(raw) // 2]), "cannot be read: JSONDecodeError"),
    "another document": (sent(lambda raw: b'{"learner": []}'), "cannot be read: TypeError"),
    "deep": (sent(lambda raw: b"[" * 60000), "cannot be read: RecursionError"),
    "huge": (sent(lambda raw: raw + b" " * 10**6), "bytes, and at most 80896 are let in"),
    "another model": (sent(other_model), "has 31 columns, 2 classes and the base score .* are wanted"),
    "start margin": (sent(lambda raw: raw.replace(b"5E-1", b"9E-1")), "score .0.9., and 30 columns, .* are wanted"),
    "too many trees": (sent(twice), "it holds 2 trees, and 1 are wanted"),
    "NaN leaf": (leaf(float("nan")), "not finite"),
    "infinite leaf": (leaf(float("-inf")), "not finite"),
    "leaf beyond float32": (leaf(1e300), "not finite"),
    "leaf beyond reason": (leaf(1e3), "a leaf is 1000, and at most 25.65 is let in"),
    "NaN cut": (cell("split_conditions", float("nan")), "not finite"),
    "no such column": (cell("split_indices", 30), "splits at column 30, and there are 30"),
    "deleted leaf": (cell("split_indices", 2**31 - 1, at=-1), "splits at column 2147483647"),
    "negative column": (cell("split_indices", -1), "splits at column"),
    "child outside": (cell("left_children", 10**6), "no tree"),
    "circle": (cell("left_children", 0), "no tree"),
    "beyond int64": (cell("left_children", 10**30), "cannot be read: OverflowError"),
    "false parent": (cell("parents", 7, at=1), "no tree"),
    "category": (cell("split_type", 1), "otherwise than at a number"),
    "words": (cell("split_conditions", "many"), "cannot be read: ValueError"),
    "a short column": (tree(lambda tree: tree["split_indices"].pop()), "by halves"),
    "no nodes": (tree(lambda tree: [tree[name].clear() for name in INTEGERS + NUMBERS]), "a tree has 0 nodes"),
    "no leaves": (tree(lambda tree: tree.pop("left_children")), "cannot be read: KeyError"),
    "false count": (content("metrics", MetricRecord({COUNT: 10**9})), "num-examples is 1000000000"),
    "no rows": (content("metrics", MetricRecord({COUNT: 0})), "num-examples is 0"),
    "too few rows for its trees": (content("metrics", MetricRecord({COUNT: 1})), "from 1 to 1 are let in"),
    "another array": (content("arrays", ArrayRecord({"weights": Array(np.zeros(3, np.float32))})), "other arrays"),
    "floats": (content("arrays", ArrayRecord({TREES: Array(np.zeros(3, np.float32))})), "its trees are float32"),
    "junk": (content("arrays", ArrayRecord({TREES: Array("uint8", (3,), "numpy.ndarray", b"junk")})), "ValueError"),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_reply_is_an_event_and_the_others_go_on(name, how, halves):
    """The first hospital's first trees are lost, and nothing else is."""
    change, why = BROKEN[name]
    boosting, events = Boosting(RECIPE, 30, 2, share=0.5), []

    def spoil(number, message, reply):
        if number == 0 and message.content["config"]["server-round"] == 1:
            change(reply)

    found = boost(boosting, grid(boosting, halves, spoil, events), how, 2)
    (what, facts), = events
    assert what == "refused" and facts["hospital"] == 0
    assert re.search(why, facts["why"]), facts["why"]

    first = boost_here(boosting, halves[1:], how, 1)
    model = json.loads(first)
    for rows in halves if how == "bagging" else []:
        boosting.add(model, boosting.grow(first, rows))
    wanted = json.dumps(model).encode()
    x = halves[0].x
    np.testing.assert_array_equal(margins(boosting, found, x), margins(boosting, wanted, x))


def test_what_else_a_reply_says_is_not_taken_over(boosting, halves):
    """Such as the round after which XGBoost would stop to count trees, or names, or which class a tree is of."""
    def more(raw):
        model = json.loads(raw)
        model["learner"]["attributes"] = {"best_iteration": "0"}
        model["learner"]["gradient_booster"]["model"]["tree_info"] = [7]
        model["learner"]["gradient_booster"]["model"]["trees"][0] |= {"id": 99, "categories": [3], "more": "than that"}
        return json.dumps(model).encode()

    def spoil(number, message, reply):
        sent(more)(reply)

    assert boost(boosting, grid(boosting, halves, spoil), "bagging", 3) == boost_here(boosting, halves, "bagging", 3)


def test_one_after_another_cannot_replace_the_model(halves):
    """As it could with Flower's strategy, which takes what the last one sends for the model."""
    boosting, events = Boosting(RECIPE, 30, 2), []

    def spoil(number, message, reply):
        if number == 1:
            model = json.loads(message.content["arrays"][TREES].numpy().tobytes())
            boosting.add(model, reply.content["arrays"][TREES].numpy().tobytes())
            reply.content["arrays"] = packed(json.dumps(model).encode())

    found = boost(boosting, grid(boosting, halves, spoil, events), "cyclic", 2)
    assert found == boost_here(boosting, halves, "cyclic", 1)
    assert [facts["why"] for _, facts in events] == ["it holds 2 trees, and 1 are wanted"]


def test_rounds_without_an_answer_leave_the_model_as_it_was(boosting, halves):
    events = []
    broken = grid(boosting, halves, lambda number, message, reply: sent(lambda raw: b"")(reply))
    found = boost(boosting, broken, "bagging", 2, lambda what, facts: events.append((what, facts["round"])))
    assert found == boosting.empty and events == [("no result", 1), ("no result", 2)]


def test_a_hospital_that_lies_in_its_labels_is_outvoted_by_more_hospitals():
    """Its trees are sound, so they are let in: with one liar of two there is no majority, with one of six there is."""
    train, _, test = breast()
    right = []
    for sites in (2, 6):
        parts = [train.take(slice(k, None, sites)) for k in range(sites)]
        parts[0] = replace(parts[0], y=1 - parts[0].y)
        boosting = Boosting(RECIPE, 30, 2, share=1 / sites)
        model = boosting.classifier(boost_here(boosting, parts, "bagging", 10), train.space)
        right.append((model.predict(test.x) == test.y).mean())
    assert right[1] > 0.85 > right[0] + 0.1


@pytest.mark.parametrize("how", HOWS)
def test_runs_repeat_and_leave_the_global_generator_alone(how, halves):
    boosting = Boosting(RECIPE, 30, 2, share=0.5)
    before = random.getstate()
    first, again = (boost_here(boosting, halves, how, 3) for _ in range(2))
    assert first == again and random.getstate() == before
    assert first != boost_here(boosting, halves[::-1], how, 3)


@pytest.mark.parametrize("rows", [breast()[0], three_classes()], ids=["two classes", "three classes"])
def test_the_model_is_stored_and_exactly_attacked(rows, tmp_path):
    recipe = replace(RECIPE, depth=2)
    made = FederatedTrees(rounds=2)(recipe, dealt(rows, 3), rows)
    assert made.notes == {"hospitals": 3, "rounds": 2}
    artifacts.save(made, tmp_path, "xgboost")
    back = artifacts.load(tmp_path, "xgboost", len(rows.classes), rows.space, defense=FederatedTrees(rounds=2))
    np.testing.assert_array_equal(back.predict_proba(rows.x), made.predict_proba(rows.x))
    assert back.notes == made.notes and back.recipe == recipe
    some = rows.x[:2]
    fooled = ExactLinf(eps=0.3)(back, torch.from_numpy(some), torch.from_numpy(back.predict(some))).numpy()
    assert (back.predict(fooled) != back.predict(some)).any()


@pytest.mark.parametrize("how", HOWS)
def test_the_log_has_the_seed_and_the_bytes_of_each_hospitals_own_trees(how, tmp_path, monkeypatch):
    train, val, _ = breast()
    home = np.where(np.arange(len(train)) < 12, "small", "large")
    log = tmp_path / "log.jsonl"
    monkeypatch.setattr("federated.training.trees.log_file", lambda: log)
    FederatedTrees(how, rounds=2)(RECIPE, replace(train, subgroups={HOSPITAL: home}), val, seed=7)
    first, *rest, last = map(json.loads, log.read_text().splitlines())
    assert first["seed"] == 7 and FederatedTrees().column == HOSPITAL
    sent = dict.fromkeys(range(2), 0)
    for entry in rest:
        for k, size in zip(entry["asked"], entry["bytes answered"], strict=True):
            sent[k] += entry["bytes asked"] + size
    assert last["sent"] == list(sent.values())
    if how == "bagging":  # a dozen rows make smaller trees than hundreds
        assert all(large > small > 0 for large, small in (entry["bytes answered"] for entry in rest))
        assert last["sent"][0] > last["sent"][1]


def test_a_hospital_with_one_class_only_takes_part():
    """Its first tree is one leaf, of class 1; the recipe's own training would refuse its rows."""
    train, _, test = breast()
    sick = np.flatnonzero(train.y == 1)[::2]
    home = np.full(len(train), "mixed")
    home[sick] = "sick"
    found = FederatedTrees(rounds=10)(RECIPE, replace(train, subgroups={"hospital": home}), train)
    assert "refused" not in found.notes and found.notes["hospitals"] == 2
    assert (found.predict(test.x) == test.y).mean() > 0.9


def test_what_it_cannot_do_is_said_before():
    train, val, _ = breast()
    with pytest.raises(InputError, match="the training split has no subgroup 'hospital' to take hospitals from; it has "
                                         "none"):
        FederatedTrees()(RECIPE, train, val)
    with pytest.raises(NotApplicable, match="FederatedTrees trains XGBoost only, and this is RandomForest"):
        FederatedTrees()(RandomForest(), dealt(train, 2), val)
    with pytest.raises(InputError, match="needs hospitals, and there are none"):
        boost_here(Boosting(RECIPE, 30, 2), [], "cyclic", 1)
    for wrong in ({"how": "both"}, {"rounds": 0}, {"trees": 0}):
        with pytest.raises(InputError, match="needs how = 'bagging' or 'cyclic', rounds >= 1 and trees >= 1"):
            FederatedTrees(**wrong)
    with pytest.raises(InputError, match="'federated-trees': how: Input should be 'bagging' or 'cyclic'"):
        registry.make("defenses", "federated-trees", {"how": "both"})


@pytest.mark.parametrize("how", HOWS)
def test_four_real_hospitals_gain_by_each_other(how, real_data):
    """Mean over two splits; what each hospital's own model does on the test patients of all four."""
    own, together = [], []
    for seed in range(2):
        data = heart_4sites(seed=seed)
        made = [FederatedTrees(how, rounds=20, column="site")(XGBoost(), data.train, data.val)]
        made += [XGBoost().fit(site.train, site.val) for site in BySubgroup("site")(data)]
        areas = [auroc(model.predict_proba(data.test.x)[:, 1], data.test.y == 1) for model in made]
        together.append(areas[0])
        own.append(np.mean(areas[1:]))
    assert np.mean(together) > np.mean(own) + 0.01
