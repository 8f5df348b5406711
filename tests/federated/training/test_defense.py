"""Federated training as a defense, hostile hospitals as attacks, and what each hospital is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from federated.aggregation.aggregate import Krum, Mean
from federated.aggregation.mixing import NNM
from federated.aggregation.rules import FED_ADAM, rule_of
from federated.attacks.attackers import HostileAttack
from federated.attacks.hostile import SignFlip
from federated.attacks.hostile_replies import Broken
from federated.attacks.hostile_rows import BACKDOOR, HostileRows
from federated.evaluate.verify import verify_run
from federated.flower.simulate import federate
from federated.partition.sites import IID, BySubgroup, Dirichlet
from federated.training.defense import FederatedTraining
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.core.attack import PoisoningAttack
from suite.evaluate.subject import Subject, measure, measure_training
from suite.models import artifacts
from suite.results.measurement import Sheet
from suite.results.metrics import balanced_accuracy
from tabular.data import pima_synthetic
from tabular.models import MLP, LogisticRegression

RECIPE = MLP(hidden=(6,))
TRAINING = FederatedTraining(rounds=3)


@pytest.fixture(scope="module")
def whole():
    return pima_synthetic()


@pytest.fixture(scope="module")
def data(whole):
    return IID(4).deal(whole)


def sheet():
    return Sheet(cell="c", dataset="d", data_sha256="", synthetic=True, model="m", device="cpu", seed=0)


def values(rows, subgroup=""):
    return {r.metric: r.value for r in rows.rows if r.subgroup == subgroup}


class TestDealing:
    def test_all_rows_are_there_and_each_says_whose_it_is(self, whole, data):
        for part in ("train", "val", "test"):
            before, after = getattr(whole, part), getattr(data, part)
            assert sorted(before.rows) == sorted(after.rows)
            order = np.argsort(before.rows)
            assert np.array_equal(before.x[order], after.x[np.argsort(after.rows)])
        assert np.unique(data.train.subgroups["hospital"]).tolist() == [f"hospital-{k}" for k in range(1, 5)]
        assert "4, dealt evenly at random" in data.card["hospitals"]

    def test_hospitals_as_they_are_replace_the_subgroup_that_they_came_from(self, data):
        again = BySubgroup("hospital").deal(data)
        assert np.array_equal(again.train.subgroups["hospital"], data.train.subgroups["hospital"])
        groups = dict(data.train.subgroups) | {"ward": data.train.subgroups["hospital"]}
        named = replace(data, **{part: replace(getattr(data, part), subgroups={
            "ward": getattr(data, part).subgroups["hospital"]}) for part in ("train", "val", "test")})
        dealt = BySubgroup("ward").deal(named)
        assert set(dealt.train.subgroups) == {"hospital"} < set(groups)


class TestTraining:
    def test_is_the_federation_of_its_parts(self, data):
        made = TRAINING(RECIPE, data.train, data.val, seed=2)
        federation = TRAINING.federation(RECIPE, data.train, data.val, seed=2)
        weights = federate(federation.task, federation.rows, Mean(), 3)
        assert np.array_equal(federation.task.weights(made), weights)
        assert [len(rows) for rows in federation.rows] == [
            int((data.train.subgroups["hospital"] == name).sum()) for name in federation.names]

    @pytest.mark.parametrize("recipe", [RECIPE, LogisticRegression()], ids=["mlp", "logistic regression"])
    def test_its_model_is_stored_like_any_other(self, data, tmp_path, recipe):
        made = TRAINING(recipe, data.train, data.val)
        name = {MLP: "mlp", LogisticRegression: "logistic-regression"}[type(recipe)]
        artifacts.save(made, tmp_path, name)
        found = artifacts.load(tmp_path, name, 2, data.space, "cpu", TRAINING)
        assert np.array_equal(found.predict_proba(data.test.x), made.predict_proba(data.test.x))

    def test_where_the_recipe_asks_for_it_the_servers_rows_choose_the_threshold(self, data):
        training = replace(TRAINING, trusted=500, rounds=15)
        found = {}
        for point in ("argmax", "balanced"):
            recipe = replace(RECIPE, balanced=False, operating_point=point)
            federation = training.federation(recipe, data.train, data.val)
            assert len(federation.server) == len(data.val)
            found[point] = federation.model(federation.train()[0])
        scores = [found[p].predict_proba(data.test.x)[:, 1] for p in ("argmax", "balanced")]
        assert (np.argsort(scores[0]) == np.argsort(scores[1])).all()  # the same model, and another threshold
        right = [balanced_accuracy(found[p].predict(data.val.x), data.val.y) for p in ("argmax", "balanced")]
        assert right[1] > right[0] + 0.1

    def test_without_hospitals_there_is_one_line(self, whole):
        with pytest.raises(InputError, match="has no subgroup 'hospital' to take hospitals from"):
            TRAINING.check_data(whole.train)

    def test_a_rule_that_cannot_join_so_few_is_refused_before_training(self, data):
        with pytest.raises(InputError, match="bad = 1 needs at least 5 sites"):
            FederatedTraining({"name": "krum", "bad": 1}).check_data(data.train)

    def test_what_trusts_the_server_gets_an_update_of_the_servers_own_rows(self, data):
        trained = [FederatedTraining("fltrust", 2, trusted=k).federation(RECIPE, data.train, data.val).train()[0]
                   for k in (20, 21)]
        assert not np.array_equal(*trained)

    def test_flowers_adam_by_hand(self, data):
        federation = FederatedTraining({"name": "fed-adam", "options": {"eta": 0.5}}, 1).federation(
            RECIPE, data.train, data.val)
        came = federation.task.initial()
        mean = federate(federation.task, federation.rows, Mean(), 1)
        change = (mean - came).astype(np.float64)
        m, v = 0.1 * change, 0.01 * change**2
        rate = 0.5 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)  # Flower counts the first round as the second
        expected = came + rate * m / (np.sqrt(v) + 1e-3)
        np.testing.assert_allclose(federation.train()[0], expected, rtol=1e-4, atol=1e-5)

    def test_fails_on_what_nobody_knows(self):
        with pytest.raises(InputError, match="unknown aggregation 'krom'; did you mean 'krum'"):
            FederatedTraining("krom")
        with pytest.raises(InputError, match="has no parameter 'evil'"):
            FederatedTraining({"name": "krum", "evil": 1})
        with pytest.raises(InputError, match="needs a name"):
            rule_of({"bad": 1})
        with pytest.raises(InputError, match=r"FedAdam: .*speed"):
            replace(FED_ADAM, options={"speed": 1.0}).made(3)

    def test_rules_within_rules(self):
        assert rule_of({"name": "nnm", "bad": 1, "then": {"name": "krum", "bad": 1}}) == NNM(1, Krum(1))


class TestHospitals:
    @pytest.fixture
    def told(self, data):
        made, rows = TRAINING(RECIPE, data.train, data.val), sheet()
        measure_training(TRAINING, Subject(made, RECIPE, TRAINING, data, 0.05, (0.05,)), rows)
        return rows

    def test_counts_by_hand(self, told, data):
        for name in np.unique(data.train.subgroups["hospital"]):
            found, own = values(told, f"hospital={name}"), data.train.subgroups["hospital"] == name
            sick, others = data.train.y[own].mean(), data.train.y[~own].mean()
            assert found["hospital_rows"] == own.sum()
            assert found[f"label_share[{data.classes[1]}]"] == pytest.approx(sick, abs=1e-5)
            assert found["label_distance"] == pytest.approx(abs(sick - others), abs=1e-5)

    def test_one_hospital_gets_nothing_from_itself(self, whole):
        alone = IID(1).deal(whole)
        made, rows = TRAINING(RECIPE, alone.train, alone.val), sheet()
        measure_training(TRAINING, Subject(made, RECIPE, TRAINING, alone, 0.05, (0.05,)), rows)
        found = values(rows, "hospital=hospital-1")
        assert found["federation_gain"] == 0 and found["local_accuracy"] == found["federated_accuracy"]
        assert "label_distance" not in found

    def test_what_a_hospital_trains_alone_is_trained_once(self, data, tmp_path, monkeypatch):
        made = TRAINING(RECIPE, data.train, data.val)
        subject = Subject(made, RECIPE, TRAINING, data, 0.05, (0.05,), shelf=tmp_path)
        first, second = sheet(), sheet()
        measure_training(TRAINING, subject, first)
        monkeypatch.setattr("federated.training.defense.federate", None)
        measure_training(TRAINING, replace(subject, defense=replace(TRAINING, rule="median")), second)
        assert values(first, "hospital=hospital-2") == values(second, "hospital=hospital-2")

    def test_no_personal_epochs_leave_the_common_model(self, data):
        training, rows = replace(TRAINING, personal=0), sheet()
        made = training(RECIPE, data.train, data.val)
        measure_training(training, Subject(made, RECIPE, training, data, 0.05, (0.05,)), rows)
        assert values(rows, "hospital=hospital-1")["personal_gain"] == 0


class TestHostility:
    @pytest.fixture
    def federation(self, data):
        return TRAINING.federation(RECIPE, data.train, data.val)

    @pytest.mark.parametrize("sends", ["nan", "infinite", "shape", "count", "negative", "none", "silent", "crash"])
    def test_a_broken_hospital_is_as_good_as_none(self, federation, sends):
        weights, record = federation.train(Broken(sends).tamper(frozenset({3})))
        others = replace(federation, names=federation.names[:3], rows=federation.rows[:3])
        assert np.array_equal(weights, others.train()[0])
        assert record.events == {"absent" if sends == "silent" else "refused": 3}

    def test_a_count_below_its_own_is_let_in_and_takes_weight_from_it(self, federation):
        weights, record = federation.train(Broken("lower").tamper(frozenset({3})))
        assert not record.events
        one, (honest, _), others = replace(federation, rounds=1), federation.train(), federation.rows[:3]
        without = replace(one, names=federation.names[:3], rows=others).train()[0]
        with_it, little = one.train()[0], one.train(Broken("lower").tamper(frozenset({3})))[0]
        assert 0 < np.linalg.norm(little - without) < 0.1 * np.linalg.norm(with_it - without)
        assert not np.array_equal(weights, honest)

    def test_an_old_answer_is_refused(self, federation):
        _, record = federation.train(Broken("replay").tamper(frozenset({1})))
        assert record.events == {"refused": 2}  # the first is the answer to its own round

    def test_no_change_is_let_in(self, federation):
        weights, record = federation.train(Broken("zero").tamper(frozenset({1})))
        assert not record.events and not np.array_equal(weights, federation.train()[0])

    def test_who_is_hostile_depends_on_the_seed_and_leaves_somebody_honest(self):
        assert len({SignFlip(hospitals=2).chosen(9, seed) for seed in range(20)}) > 5
        assert SignFlip(hospitals=2).chosen(9, 1) == SignFlip(3.0, hospitals=2).chosen(9, 1)
        with pytest.raises(InputError, match="4 hostile hospitals of 4 leave no honest one"):
            SignFlip(hospitals=4).chosen(4)

    def test_poison_touches_the_rows_of_the_hostile_only(self, federation):
        rows, done = HostileRows({"name": "label-flip-random", "rate": 0.5}).poisoned(federation.rows, {0, 2})
        for k, (before, after) in enumerate(zip(federation.rows, rows, strict=True)):
            assert np.array_equal(before.rows, after.rows)
            assert (before.y != after.y).any() == (k in (0, 2))
        flipped = sum((a.y != b.y).sum() for a, b in zip(federation.rows, rows, strict=True))
        assert flipped == done.mask.sum() == round(0.5 * (len(rows[0]) + len(rows[2])))

    @pytest.fixture
    def sick(self, federation):
        """The first three hospitals hold one class each, the last one both."""
        rows = [split.take(np.flatnonzero(split.y == label))
                for split, label in zip(federation.rows[:3], (0, 0, 1), strict=True)]
        return [*rows, federation.rows[3]]

    def test_a_hospital_that_holds_one_class_flips_labels_too(self, sick):
        attack = HostileRows({"name": "label-flip-random", "rate": 0.5})
        assert [attack.hindered(rows) for rows in sick] == [""] * 4
        rows, done = attack.poisoned(sick, frozenset({0}))
        assert done.mask.sum() == round(0.5 * len(sick[0])) == (rows[0].y == 1).sum()

    @pytest.mark.parametrize("attack", [
        BACKDOOR, *(HostileRows({"name": name, "rate": 0.1})
                    for name in ("label-flip-targeted", "label-flip-loss", "label-flip-clustered"))],
        ids=["backdoor", "targeted", "loss", "clustered"])
    def test_the_hostile_are_drawn_among_those_that_can(self, sick, attack):
        able = {2, 3} if attack.poison["name"] in ("backdoor", "label-flip-targeted") else {3}
        assert {k for k, rows in enumerate(sick) if not attack.hindered(rows)} == able
        found = {attack.chosen(4, seed, lambda k: attack.hindered(sick[k])) for seed in range(20)}
        assert found == {frozenset({k}) for k in able}
        with pytest.raises(InputError, match=rf"{len(able)} of 4 hospitals can be hostile in this way, and 3 should: "):
            replace(attack, hospitals=3).chosen(4, 0, lambda k: attack.hindered(sick[k]))

    def test_where_all_can_it_is_the_same_draw_as_ever(self):
        assert SignFlip(hospitals=2).chosen(9, 3) == frozenset(
            np.random.default_rng([3, 7]).permutation(9)[:2].tolist())

    def test_only_poison_is_poison(self):
        with pytest.raises(InputError, match="is no poisoning attack"):
            HostileRows("fgsm")

    def test_what_it_says_of_itself(self):
        assert "model replacement" in BACKDOOR.info.title and BACKDOOR.inputs == "table"
        assert issubclass(HostileRows, HostileAttack) and not issubclass(HostileRows, PoisoningAttack)

    def test_measured_against_the_federation_that_was_left_alone(self, data):
        found = {}
        for rule in ("mean", "median"):
            training = FederatedTraining(rule, rounds=8)
            subject = Subject(training(RECIPE, data.train, data.val), RECIPE, training, data, 0.05, (0.05,))
            rows = sheet()
            arrays = measure(SignFlip(20.0), subject, rows)
            found[rule] = values(rows)
            change = (arrays["pred"] == data.test.y).mean() - (subject.classifier.predict(data.test.x)
                                                               == data.test.y).mean()
            assert found[rule]["accuracy_change"] == pytest.approx(change, abs=1e-5)
            who, = {name for r in rows.rows for name in r.attack_params["who"]}
            theirs = (data.train.subgroups["hospital"] == who).mean()
            assert found[rule]["hostile_share"] == pytest.approx(theirs, abs=1e-5)
            assert found[rule]["hostile_hospitals"] == 1 and found[rule]["tolerated"] == (rule == "median")
            assert {r.subgroup for r in rows.rows} >= {f"hospital=hospital-{k}" for k in range(1, 5)}
        assert found["mean"]["attacked_auroc"] < found["median"]["attacked_auroc"] - 0.1

    def test_a_backdoor_replaces_the_model_and_not_under_the_median(self, data):
        hit, recipe = {}, MLP(hidden=(16,))
        for rule in ("mean", "median"):
            training = FederatedTraining(rule, rounds=20)
            subject = Subject(training(recipe, data.train, data.val), recipe, training, data, 0.05, (0.05,))
            measure(HostileRows({"name": "backdoor", "rate": 0.5}, replace_model=True), subject, rows := sheet())
            hit[rule] = values(rows)["lift"]
        assert hit["mean"] > 0.5 > 0.2 > hit["median"]

    def test_what_a_rule_cannot_withstand_is_said_before(self, data):
        assert SignFlip().caution(FederatedTraining("median"), data.train) == ""
        assert SignFlip(hospitals=2).caution(FederatedTraining("median"), data.train) == (
            "median can be asked to withstand 1 hostile of 4 hospitals, and meets 2")
        assert "fed-adam can be asked to withstand 0" in SignFlip().caution(FederatedTraining("fed-adam"), data.train)

    def test_it_is_no_attack_on_anything_else(self):
        from suite.defenses.plain import Plain

        assert SignFlip().faces(TRAINING) and not SignFlip().faces(Plain())


@pytest.fixture(scope="module")
def run(whole, tmp_path_factory):
    plan = Plan(data="pima-synthetic", models=[{"name": "mlp", "hidden": [4]}, "xgboost"],
                hospitals={"name": "iid", "sites": 3}, attacks=["hostile-broken"],
                defenses=[{"name": "mean", "use": "federated", "rounds": 2},
                          {"name": "bagging", "use": "federated-trees", "rounds": 2}])
    audit = Audit(plan, Dirichlet(3, 1.0).deal(whole), "because")
    return audit.run(tmp_path_factory.mktemp("run") / "r")


class TestLogs:
    @pytest.fixture
    def copy(self, run, tmp_path):
        import shutil

        shutil.copytree(run.folder, tmp_path / "r")
        return tmp_path / "r"

    def test_all_that_happened_is_there(self, run):
        lines = (run.folder / "logs" / "mlp--mean--fit.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert [e["event"] for e in entries] == ["began", "model", "round", "model", "round", "model", "ended"]
        size = 4 * entries[0]["parameters"]
        assert entries[-1]["sent"] == [4 * (size + 128)] * 3  # two rounds, to and fro; NumPy's header is 128 bytes
        under = (run.folder / "logs" / "mlp--mean--hostile-broken.jsonl").read_text()
        assert under.count('"event":"refused"') == 2 and '"hostile":["hospital-' in under

    def test_rows_of_hospitals_come_from_the_log(self, run):
        for model, defense in (("mlp", "mean"), ("xgboost", "bagging")):
            rows = {(r.metric, r.subgroup): r for r in run.rows() if (r.model, r.defense) == (model, defense)}
            log = (run.folder / "logs" / f"{model}--{defense}--fit.jsonl").read_text().splitlines()
            assert rows["bytes_sent", "hospital=hospital-1"].value == json.loads(log[-1])["sent"][0] > 0
            assert ("local_accuracy", "hospital=hospital-1") in rows
        assert all(row.people for row in run.rows() if row.subgroup), "else a shared copy would leave them out"

    def test_an_untouched_run_verifies(self, run):
        found = verify_run(run.folder)
        assert (found.files, found.models) == (3, 2) and found.entries > 15
        assert verify_run(run.folder, found.head) == found

    def test_a_changed_line_shows(self, copy):
        log = copy / "logs" / "mlp--mean--fit.jsonl"
        log.write_text(log.read_text().replace('"round":1', '"round":7', 1))
        with pytest.raises(InputError, match=r"mlp--mean--fit.jsonl: line \d was changed"):
            verify_run(copy)

    def test_another_model_shows(self, copy):
        from safetensors.torch import load_file, save_file

        file = copy / "models" / "mlp--mean--fit" / "weights.safetensors"
        state = load_file(file)
        name = next(n for n in state if n.endswith("bias"))
        save_file(state | {name: state[name] + torch.tensor(1e-6)}, file)
        with pytest.raises(InputError, match="is not the model with which its log ends"):
            verify_run(copy)

    def test_another_forest_shows(self, copy):
        file = copy / "models" / "xgboost--bagging--fit" / "estimator.json"
        file.write_bytes(file.read_bytes().replace(b'"base_weights":[', b'"base_weights":[1E-1,', 1))
        with pytest.raises(InputError, match="is not the model with which its log ends"):
            verify_run(copy)

    def test_a_log_that_is_gone_shows_to_whoever_kept_the_head(self, copy):
        head = verify_run(copy).head
        (copy / "logs" / "mlp--mean--hostile-broken.jsonl").unlink()
        assert verify_run(copy).files == 2
        with pytest.raises(InputError, match="removed logs"):
            verify_run(copy, head)

    def test_an_empty_log_is_one_line(self, copy):
        log = copy / "logs" / "mlp--mean--fit.jsonl"
        log.write_text("")
        with pytest.raises(InputError, match=r"mlp--mean--fit.jsonl: is empty$"):
            verify_run(copy)

    def test_hospitals_of_an_empty_log_have_sent_nothing_known(self, data, tmp_path):
        (tmp_path / "empty.jsonl").write_text("")
        made, rows = TRAINING(RECIPE, data.train, data.val), sheet()
        subject = Subject(made, RECIPE, TRAINING, data, 0.05, (0.05,), log=tmp_path / "empty.jsonl")
        measure_training(TRAINING, subject, rows)
        assert "bytes_sent" not in values(rows, "hospital=hospital-1")

    def test_no_logs_no_verdict(self, copy):
        for file in (copy / "logs").iterdir():
            file.unlink()
        with pytest.raises(InputError, match="no federation of this run has left a log"):
            verify_run(copy)
