"""Detection in an audit: shares by hand, attacks that know the detector, and rows that say what ran."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from suite.attacks.gradient import FGSM, PGD
from suite.attacks.minimal import DeepFool
from suite.attacks.noise import RandomNoise
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base.errors import InputError
from suite.base.seeding import seeded
from suite.core.classifier import TorchClassifier
from suite.core.detector import Detector
from suite.detectors import LID, Mahalanobis, TorchDetector
from suite.evaluate import measure
from suite.evaluate.detection import behind, feature_map, measure_detection
from suite.evaluate.worst_case import Part
from suite.results import metrics
from tabular.data import breast_cancer
from tests.support.toy import dataset, sheet, split, subject


class Size(nn.Module):
    """How far the second feature is from zero; the classifiers here look at the first only."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.ones(()))

    def forward(self, x):
        return x[:, 1].abs()


@dataclass
class Watch(TorchDetector):
    def learn(self, clean, y, classifier):
        return Size()


class OffGrid(Size):
    """How far an input is from a grid."""

    def forward(self, x):
        return ((x * 8).round() / 8 - x).abs().amax(1)


@dataclass
class WatchGrid(TorchDetector):
    def learn(self, clean, y, classifier):
        return OffGrid()


def judge_of_the_first(weight=1.0, second=0.0):
    """Class 1 where the first feature, and some of the second, is positive."""
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], [weight, second]]))
        module.bias.zero_()
    return module


def rows(n=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def target(module, eps=0.2, detector=None):
    x, y = rows()
    data = dataset(split(x, y), train=split(*rows(seed=1)), val=split(*rows(seed=2)))
    return subject(TorchClassifier(module, 2, data.test.space), data, eps=eps, budgets=(eps,))


def part(name, attack, target):
    return Part(name, attack, measure(attack, target, sheet()))


def found(out):
    return {(r.metric, r.attack): r for r in out.rows}


class TestByHand:
    @pytest.fixture(scope="class")
    @classmethod
    def measured(cls):
        """Three successes of an attack with second features 0.5, 0.95 and 3, of which the last two are unusual."""
        at = target(judge_of_the_first())
        x = at.data.test.x
        adv = x[:4].copy()
        adv[:, 1] = 0.5, 0.95, 3.0, 3.0
        arrays = {"positions": np.arange(4), "wrong": np.zeros(4, bool), "x_adv": adv[:3], "kept": np.arange(3),
                  "distance": np.array([0.1, 0.1, 0.2, np.inf]), "linf": np.array([0.1, 0.1, 0.2, np.inf])}
        out = sheet()
        kept = measure_detection("watch", Watch(), at, out, [Part("pgd", PGD(), arrays)])
        return at, found(out), kept

    def test_alarms_are_counted_among_successes_only(self, measured):
        at, out, kept = measured
        threshold = {fpr: np.quantile(np.abs(at.data.val.x[:, 1]), 1 - fpr, method="higher") for fpr in (0.01, 0.05)}
        assert 0.9 < threshold[0.05] < 0.95 < threshold[0.01]
        tpr = [out[f"detection_tpr[watch@{fpr}]", "pgd"] for fpr in (0.01, 0.05)]
        assert [(r.n, round(r.value * 3)) for r in tpr] == [(3, 1), (3, 2)]
        assert np.allclose(kept["found0"], [0.5, 0.95, 3.0])

    def test_auroc_and_false_alarms(self, measured):
        at, out, kept = measured
        clean = np.abs(at.data.test.x[:, 1])
        assert np.allclose(kept["clean"], clean)
        beaten = [np.mean(v > clean) for v in (0.5, 0.95, 3.0)]
        assert out["detection_auroc[watch]", "pgd"].value == pytest.approx(np.mean(beaten), abs=1e-5)
        threshold = np.quantile(np.abs(at.data.val.x[:, 1]), 0.95, method="higher")
        assert out["detection_fpr[watch@0.05]", ""].value == pytest.approx(np.mean(clean > threshold))
        assert out["detection_leak[watch]", ""].value == pytest.approx(0.5, abs=0.07)

    def test_rows_say_what_ran(self, measured):
        row = measured[1]["detection_auroc[watch]", "pgd"]
        assert (row.knowledge, row.attack_params["eps"], row.attack_params["steps"]) == ("white-box", 0.2, 40)
        assert row.attack_params["detector"] == {} and "fitted_on" not in row.attack_params

    def test_what_passed_unseen_without_knowing_it(self, measured):
        _, out, _ = measured
        assert out["blind_evasion[watch]", "adaptive"].value == pytest.approx(1 / 4)

    def test_shares_are_of_the_rows_that_the_attacks_met(self, measured):
        _, out, _ = measured
        assert [out[f"{kind}_evasion[watch]", "adaptive"].n for kind in ("unguarded", "blind", "adaptive")] == [4] * 3

    def test_where_no_attack_in_linf_was_tried_only_one_that_knows_it_is_told(self):
        at, out = target(judge_of_the_first()), sheet()
        measure_detection("watch", Watch(), at, out, [part("noise", RandomNoise(), at), part("l2", DeepFool(), at)])
        told = {metric: row.n for (metric, _), row in found(out).items() if "evasion" in metric}
        assert told == {"adaptive_evasion[watch]": 200}


class TestMap:
    """Of a network that sees the inputs as they are: its features vary twice as much along the second."""

    def shown(self, **changes):
        x = rows()[0] * np.float32([1, 2]) + 5
        attacked = np.float32([[5, 9], [6, 5], [4, 5]])
        return x, feature_map(target(judge_of_the_first()).classifier,
                              **{"clean": x, "attacked": attacked, "detected": np.array([True, False, False]),
                                 "seed": 0} | changes)

    def test_axes_are_those_along_which_clean_inputs_vary_most(self):
        x, found = self.shown()
        assert {k: v.shape for k, v in found.items()} == {"map_clean": (100, 2), "map_detected": (1, 2),
                                                          "map_missed": (2, 2), "map_share": (2,)}
        variance = x.var(0)
        assert found["map_share"] == pytest.approx(np.sort(variance)[::-1] / variance.sum(), abs=0.01)
        # nearly the second feature, then the first, each from the mean of the clean ones
        assert found["map_detected"][0] == pytest.approx((np.float32([5, 9]) - x.mean(0))[::-1], abs=0.5)
        gap = found["map_missed"][0] - found["map_missed"][1]
        assert np.linalg.norm(gap) == pytest.approx(2, abs=1e-4) and abs(gap[1]) > 1.9

    def test_it_is_the_same_every_time(self):
        (_, a), (_, b), (_, other) = self.shown(), self.shown(), self.shown(seed=1)
        assert all((a[k] == b[k]).all() for k in a) and (a["map_clean"] != other["map_clean"]).any()

    def test_without_attacked_inputs_or_features_there_is_none(self):
        _, found = self.shown(attacked=np.zeros((0, 2), np.float32), detected=np.zeros(0, bool))
        assert found == {}
        at = target(nn.Linear(2, 2))
        at.classifier.module = nn.Sequential(nn.Softplus())
        assert feature_map(at.classifier, rows()[0], rows()[0], np.ones(200, bool), 0) == {}

    def test_a_detection_cell_keeps_it_without_noise(self):
        at = target(judge_of_the_first())
        arrays = measure_detection("watch", Watch(), at, sheet(), [part("pgd", PGD(), at)])
        assert 0 < len(arrays["map_missed"]) <= 100 and arrays["map_clean"].shape == (100, 2)
        noise = measure_detection("watch", Watch(), at, sheet(), [part("noise", RandomNoise(), at)])
        assert "map_clean" not in noise


class TestKnowingIt:
    """The first feature decides, the second helps: a blind attack moves both, and the detector sees the second."""

    def evasion(self, module, detector, eps=0.2):
        at, out = target(module, eps), sheet()
        parts = [part("pgd", PGD(), at), part("noise", RandomNoise(), at)]
        measure_detection("watch", detector, at, out, parts)
        return [found(out)[f"{kind}_evasion[watch]", "adaptive"].value for kind in ("unguarded", "blind", "adaptive")]

    def test_an_attack_that_knows_it_leaves_alone_what_it_sees(self):
        unguarded, blind, adaptive = self.evasion(judge_of_the_first(second=0.2), Watch())
        assert blind <= adaptive <= unguarded
        assert adaptive > blind

    def test_what_cannot_be_hidden_is_found(self):
        x = (rows()[0] * 8).round() / 8  # on a grid, which whatever moves a row leaves
        data = dataset(split(x, x[:, 0] > 0))
        model = TorchClassifier(judge_of_the_first(), 2, data.test.space)
        at, out = subject(model, data, eps=0.06, budgets=(0.06,)), sheet()
        measure_detection("watch", WatchGrid(), at, out, [part("pgd", PGD(), at)])
        unguarded, blind, adaptive = (found(out)[f"{kind}_evasion[watch]", "adaptive"].value
                                      for kind in ("unguarded", "blind", "adaptive"))
        assert unguarded > 0
        assert blind == adaptive == 0

    def test_behind_a_detector_the_score_is_one_more_logit_in_its_unit(self):
        at = target(judge_of_the_first())
        guarded = behind(at.classifier, Watch().fit(at.data.train.x), 0.5, unit=0.1)
        x = torch.tensor([[2.0, 0.7]])
        assert torch.allclose(guarded.logits(x), torch.tensor([[0.0, 2.0, 2.0 + 2.0]]))
        assert guarded.judge(x).tolist() == [-1]

    def test_bigger_perturbations_are_no_less_suspicious(self):
        with seeded(0):
            module = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        at = target(module)
        detector = Mahalanobis().fit(at.data.train.x, None, at.classifier)
        x, y = torch.from_numpy(at.data.test.x), at.classifier.judge(torch.from_numpy(at.data.test.x))
        means = [detector.score(FGSM(eps=eps)(at.classifier, x, y).numpy()).mean() for eps in (0, 0.5, 1.0, 2.0)]
        assert np.all(np.diff(means) > 0)


def test_what_it_was_fitted_on_is_said_and_its_budget_is_the_audits():
    with seeded(0):
        module = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    at, out, detector = target(module, eps=0.3), sheet(), LID()
    measure_detection("lid", detector, at, out, [part("fgsm", FGSM(), at)])
    params = found(out)["detection_auroc[lid]", "fgsm"].attack_params
    assert params["fitted_on"] == "fgsm" and params["detector"]["eps"] == 0.3
    assert not hasattr(detector, "module")  # the audit's own is never fitted: it serves other models, too


def test_without_attacks_there_is_nothing_to_find():
    with pytest.raises(InputError, match="every evasion attack"):
        measure_detection("watch", Watch(), target(judge_of_the_first()), sheet(), [])


def test_validation_inputs_are_scored_once():
    at, asked = target(judge_of_the_first()), []

    class Counts(Watch):
        def score(self, x):
            asked.append(len(x))
            return super().score(x)

    few = replace(at, data=replace(at.data, val=at.data.val.take(slice(150))))
    measure_detection("watch", Counts(), few, sheet(), [part("pgd", PGD(), at)])
    assert asked.count(150) == 1


@pytest.mark.parametrize(("n", "rates"), [(19, None), (20, {0.05}), (99, {0.05}), (100, {0.01, 0.05})])
def test_an_alarm_is_set_where_validation_inputs_can_tell_it(n, rates):
    at, out = target(judge_of_the_first()), sheet()
    few = replace(at, data=replace(at.data, val=at.data.val.take(slice(n))))
    parts = [part("pgd", PGD(), at)]
    if rates is None:
        with pytest.raises(InputError, match="takes at least 20 validation inputs to set; there are 19"):
            measure_detection("watch", Watch(), few, out, parts)
        return
    measure_detection("watch", Watch(), few, out, parts)
    for kind, attack in (("fpr", ""), ("tpr", "pgd")):
        assert {rate for rate in (0.01, 0.05) if (f"detection_{kind}[watch@{rate}]", attack) in found(out)} == rates


class TestInAnAudit:
    def plan(self, **fields):
        return Plan.check({"data": "breast-cancer", "models": [{"name": "mlp", "epochs": 3, "hidden": [8]},
                                                               "random-forest"],
                           "attacks": ["noise", "fgsm"], "rows": 30, "eps": 0.1, "budgets": [0.1],
                           "detectors": ["mahalanobis", {"name": "lid", "rows": 10}]} | fields, "test")

    def test_cells_stand_after_the_attacks_and_only_where_they_can_look(self):
        keys = [c.key for c in Audit(self.plan(), breast_cancer(), "").cells]
        assert keys[-9:] == ["mlp--none--noise", "mlp--none--fgsm", "mlp--none--worst-case",
                             "mlp--none--detect-mahalanobis", "mlp--none--detect-lid", "random-forest--none--fit",
                             "random-forest--none--noise", "random-forest--none--worst-case",
                             "random-forest--none--detect-mahalanobis"]
        titles = [c.title for c in Audit(self.plan(), breast_cancer(), "").cells]
        assert "mahalanobis on mlp" in titles

    def test_the_plan_may_say_for_what_a_detector_is(self):
        plan = self.plan(detectors=[{"name": "mahalanobis", "models": ["random-forest"]}])
        found = [c.key for c in Audit(plan, breast_cancer(), "").cells if c.what == "detect"]
        assert found == ["random-forest--none--detect-mahalanobis"]
        assert not [c for c in Audit(self.plan(attacks=["membership-loss"]), breast_cancer(), "").cells
                    if c.what == "detect"]

    @pytest.mark.parametrize(("detectors", "message"), [
        (["mahalanobi"], "unknown detector 'mahalanobi'; did you mean 'mahalanobis'"),
        ([{"name": "lid", "kk": 3}], "'lid' has no parameter 'kk'"),
        ([{"name": "lid", "k": 1}], "'lid': k: .*greater than or equal to 2, got 1"),
        ([{"name": "lid", "models": ["xgboost"]}], "detectors: 'lid' is for model 'xgboost'"),
        (["lid", "lid"], "'lid' is there twice")])
    def test_wrong_ones_are_refused_before_any_compute(self, detectors, message):
        with pytest.raises(InputError, match=message):
            Audit(self.plan(detectors=detectors), breast_cancer(), "")

    def test_from_training_to_rows(self, tmp_path, monkeypatch):
        for bootstrap in (metrics.bootstrap, metrics.weighted):
            monkeypatch.setattr(bootstrap, "__defaults__", (0, None, 20))
        audit = Audit(self.plan(), breast_cancer(), "")
        assert all(isinstance(d, Detector) for d in audit.detectors.values())
        run = audit.run(tmp_path / "r")
        assert not [r.error for r in run.rows() if r.error]
        out = {(r.model, r.metric, r.attack): r for r in run.rows() if r.cell.rpartition("--")[2].startswith("detect")}
        assert out["mlp", "adaptive_evasion[lid]", "adaptive"].n <= 10
        blind, past, alone = (out["mlp", f"{k}_evasion[mahalanobis]", "adaptive"].value
                              for k in ("blind", "adaptive", "unguarded"))
        assert blind <= past <= alone
        assert ("random-forest", "detection_auroc[mahalanobis]", "noise") in out
        assert ("random-forest", "adaptive_evasion[mahalanobis]", "adaptive") not in out
