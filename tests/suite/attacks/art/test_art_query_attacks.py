"""Query attacks through ART: distances in closed form, possible inputs only, and refusals."""

import numpy as np
import pytest
import torch
from art.attacks import evasion

from suite.attacks.art.border import art_fence, estimator_over
from suite.attacks.art.query import ArtBoundary, ArtHopSkipJump, ArtZoo, _Stalled, _unless_stalled
from suite.core.classifier import REJECTED, EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from tabular.models import RandomForest
from tabular.schema import Column, Relation, Schema
from tests.support.breast import breast

SMALL = (ArtHopSkipJump(eps=10.0, max_iter=8), ArtBoundary(eps=10.0, max_iter=30), ArtZoo(eps=0.3))
SPACE = Space(torch.tensor([0.0, -5.0, 0.0]), torch.tensor([100.0, 5.0, 1.0]), torch.tensor([100.0, 10.0, 1.0]))
WEIGHT = torch.tensor([0.05, -0.4, 3.0])


def linear(space=SPACE, rejects=False):
    """Class 1 where w.x exceeds 3; a refusing one also has a logit that wins where the first feature exceeds 60."""
    module = torch.nn.Linear(3, 3 if rejects else 2)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
        module.weight[1].copy_(WEIGHT)
        module.bias[1] = -3.0
        if rejects:
            module.weight[2, 0], module.bias[2] = 10.0, -600.0
    return TorchClassifier(module, 2, space, rejects=rejects)


def rows(n=16, seed=0):
    lower, upper = SPACE.lower.numpy(), SPACE.upper.numpy()
    x = torch.from_numpy(np.random.default_rng(seed).uniform(lower, upper, (n, 3)).astype(np.float32))
    return x, torch.from_numpy(linear().predict(x.numpy()))


def exact_linf(x):
    """Distance of a linear model in Linf of scaled units: |margin| / |w x scale|_1."""
    return ((x @ WEIGHT - 3.0).abs() / (WEIGHT * SPACE.scale).abs().sum()).numpy()


@pytest.mark.parametrize(("attack", "factor"), [(ArtHopSkipJump(eps=10.0), 1.02), (ArtBoundary(eps=10.0), 1.3)])
def test_finds_nearly_the_closed_form_distance_and_never_less(attack, factor):
    x, y = rows()
    classifier = linear()
    found = attack(classifier, x, y)
    assert (classifier.predict(found.numpy()) != y.numpy()).all()
    ratio = SPACE.distance(found, x).numpy() / exact_linf(x)
    assert ratio.min() > 0.999
    assert np.median(ratio) < factor


@pytest.mark.parametrize("attack", [ArtHopSkipJump, ArtBoundary])
def test_a_result_on_the_very_boundary_is_moved_to_where_no_rounding_decides(attack):
    """ART's Boundary ends so on some processors: misclassified in the query that found it, not in a later one."""
    x, y = rows()
    normal = WEIGHT.sign() * SPACE.scale * (1 - 2 * y[:, None])
    free = torch.from_numpy(exact_linf(x))[:, None]

    class OnTheBoundary(attack):
        def _search(self, classifier, x, y, seed, space):
            return x + free * (1 - 1e-6) * normal

    classifier = linear(Space(-1000.0, 1000.0, SPACE.scale))
    found = OnTheBoundary(eps=10.0)(classifier, x, y)
    alone = np.concatenate([classifier.predict(row[None].numpy()) for row in found])
    assert (alone != y.numpy()).all()
    # in exact arithmetic, too, and by much more than float32 rounds
    margin = (found.double() @ WEIGHT.double() - 3.0).numpy() * (2 * y.numpy() - 1)
    assert (margin < -1e-5 * (x @ WEIGHT - 3.0).abs().numpy()).all()
    assert (SPACE.distance(found, x).numpy() <= exact_linf(x) * 1.0011).all()


@pytest.mark.parametrize("attack", SMALL)
def test_whatever_art_claims_only_what_the_model_misclassifies_is_returned(attack):
    class Claims(type(attack)):
        def _search(self, classifier, x, y, seed, space):
            return x + 0.01 * SPACE.scale * torch.tensor([1.0, 0.0, 0.0])

    x, y = rows(64)
    classifier = linear()
    found = Claims(eps=1.0)(classifier, x, y)
    moved, fooled = (found != x).any(1).numpy(), classifier.predict(found.numpy()) != y.numpy()
    assert np.array_equal(moved, fooled) and fooled.sum() < len(x)


def test_zoo_finds_what_is_well_within_reach_and_nothing_that_is_not():
    x, y = rows(32)
    found = ArtZoo(eps=0.15)(linear(), x, y)
    fooled = linear().predict(found.numpy()) != y.numpy()
    exact = exact_linf(x)
    assert fooled[exact < 0.1].mean() >= 0.9 and (exact < 0.1).sum() >= 5
    assert not fooled[exact > 0.151].any()
    assert SPACE.distance(found, x).max() <= 0.15 + 1e-5


def test_art_stops_beyond_the_boundary_and_ours_on_it():
    """Its last step is dist / sqrt(max_iter) long and no search follows."""
    x, y = rows()
    walk = ArtHopSkipJump(eps=10.0, max_iter=16)

    class Unfinished(ArtHopSkipJump):
        _run = ArtHopSkipJump.__mro__[1]._run

    raw, ours = (np.median(SPACE.distance(a.raw(linear(), x, y), x).numpy() / exact_linf(x))
                 for a in (Unfinished(eps=10.0, max_iter=16), walk))
    assert raw == pytest.approx(1 + 1 / 4, abs=0.02) and ours == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("weak", "strong"), [(ArtHopSkipJump(eps=10.0, max_iter=1), ArtHopSkipJump(eps=10.0)),
                                              (ArtBoundary(eps=10.0, max_iter=5), ArtBoundary(eps=10.0))])
def test_more_steps_come_nearer(weak, strong):
    x, y = rows()
    near, far = (SPACE.distance(a(linear(), x, y), x).mean() for a in (strong, weak))
    assert near < far


def test_zoo_with_more_steps_fools_no_fewer():
    x, y = rows(32)
    few, many = ((linear().predict(ArtZoo(eps=0.15, max_iter=k)(linear(), x, y).numpy()) != y.numpy()).sum()
                 for k in (2, 20))
    assert few < many


@pytest.mark.parametrize("attack", SMALL)
def test_same_seed_same_result_and_another_seed_another(attack):
    x, y = rows(6)
    first, again, other = (attack.raw(linear(), x, y, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    if not isinstance(attack, ArtZoo):  # draws only the order of its coordinates
        assert not torch.equal(first, other)


@pytest.mark.parametrize("attack", SMALL)
def test_leaves_rows_alone_that_the_model_gets_wrong(attack):
    x, y = rows(6)
    classifier = linear()
    wrong = 1 - y
    assert torch.equal(attack(classifier, x, wrong), x)
    assert torch.equal(attack.raw(classifier, x, wrong), x)
    classifier.queries = 0
    attack.raw(classifier, x, wrong)
    assert classifier.queries == len(x)


@pytest.mark.parametrize("attack", SMALL)
def test_a_model_that_never_changes_its_mind_is_not_fooled(attack):
    class Constant:
        def predict_proba(self, x):
            return np.tile([0.9, 0.1], (len(x), 1))

    x, _ = rows(4)
    y = torch.zeros(4, dtype=torch.long)
    assert torch.equal(attack(EstimatorClassifier(Constant(), 2, SPACE), x, y), x)


@pytest.mark.parametrize("attack", SMALL)
def test_no_rows_are_no_trouble(attack):
    x, y = rows(4)
    assert attack(linear(), x[:0], y[:0]).shape == (0, 3)


@pytest.mark.parametrize("attack", SMALL)
def test_a_refusal_is_not_a_success(attack):
    """Without the refusal the way over the first feature is open; with it the attack must go round."""
    classifier = linear(rejects=True)
    x, y = rows(32)
    keep = (x[:, 0] < 55) & (y == 0)
    x, y = x[keep], y[keep]
    for found in (attack(classifier, x, y), attack.raw(classifier, x, y)):
        labels = classifier.predict(found.numpy())
        assert (labels != REJECTED).all()
    assert (labels == 1).any()


def patients():
    schema = Schema(columns={"Age": Column(min=20, max=90, integer=True, change="never"),
                             "Glucose": Column(min=40, max=250, integer=True),
                             "BMI": Column(min=15, max=60), "Diabetic years": Column(min=0, max=60, change="up"),
                             "Stage": Column(min=1, max=9, values=(1, 4, 9))},
                    relations=(Relation(name="years", terms={"Diabetic years": 1, "Age": -1}, max=0),))
    rng = np.random.default_rng(0)
    age = rng.integers(30, 80, 300)
    x = np.stack([age, rng.integers(60, 200, 300), rng.uniform(18, 45, 300), rng.uniform(0, 0.4, 300) * age,
                  rng.choice([1, 4, 9], 300)], 1).astype(np.float32)
    y = (x[:, 1] + 2 * x[:, 2] + 5 * x[:, 4] + x[:, 3] + 0.3 * x[:, 0] > 245).astype(np.int64)
    return schema.space(), x, y


@pytest.fixture(scope="module")
def forest():
    from sklearn.ensemble import RandomForestClassifier

    space, x, y = patients()
    model = RandomForestClassifier(20, max_depth=5, random_state=0).fit(x[:250], y[:250])
    classifier = EstimatorClassifier(model, 2, space)
    return classifier, torch.from_numpy(x[250:]), torch.from_numpy(y[250:])


@pytest.mark.parametrize("attack", [ArtHopSkipJump(), ArtBoundary(), ArtZoo()])
def test_returns_possible_patients_where_art_claims_impossible_ones(attack, forest):
    classifier, x, y = forest
    space, right = classifier.space, classifier.predict(x.numpy()) == y.numpy()
    raw, found = attack.raw(classifier, x, y), attack(classifier, x, y)
    claimed = right & (classifier.predict(raw.numpy()) != y.numpy())
    fooled = right & (classifier.predict(found.numpy()) != y.numpy())
    assert space.contains(found, x).all() and space.distance(found, x).max() <= attack.eps + 1e-5
    assert claimed.sum() > 10 and space.contains(raw, x).numpy()[claimed].mean() < 0.2
    assert fooled.sum() >= 5
    # what can be rescued of ART's claims by rounding them afterwards
    lower, upper = space.ball(x, attack.eps)
    rescued = space.snap(torch.minimum(torch.maximum(raw, lower), upper), x)
    assert (right & (classifier.predict(rescued.numpy()) != y.numpy())).sum() <= fooled.sum()
    assert torch.equal(found[~torch.from_numpy(fooled)], x[~torch.from_numpy(fooled)])


def test_searches_in_real_data_and_images():
    train, val, test = breast()
    classifier = RandomForest(trees=20).fit(train, val)
    x, y = torch.from_numpy(test.x[:16]), torch.from_numpy(test.y[:16])
    found = ArtHopSkipJump(eps=0.2, max_iter=5)(classifier, x, y)
    assert torch.equal(found[:, 0], x[:, 0])  # never changes
    assert (classifier.predict(found.numpy()) != y.numpy()).mean() > (classifier.predict(x.numpy()) != y.numpy()).mean()

    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    with torch.no_grad():
        module[1].weight.copy_(torch.stack([torch.zeros(48), torch.ones(48)]))
        module[1].bias.copy_(torch.tensor([0.0, -24.0]))
    images = TorchClassifier(module, 2, Space(0.0, 1.0))
    x = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8
    y = torch.from_numpy(images.predict(x.numpy()))
    for attack in (ArtHopSkipJump(eps=1.0, max_iter=5), ArtBoundary(eps=1.0, max_iter=20), ArtZoo(eps=0.4)):
        found = attack(images, x, y)
        assert found.shape == x.shape and (images.predict(found.numpy()) != y.numpy()).all()


def test_asks_the_model_for_all_rows_together():
    class Counting:
        calls = 0

        def predict_proba(self, x):
            self.calls += 1
            return np.eye(2)[(x @ WEIGHT.numpy() > 3).astype(int)]

    x, y = rows(24)
    one, all_ = Counting(), Counting()
    ArtHopSkipJump(max_iter=5).raw(EstimatorClassifier(one, 2, SPACE), x[:1], y[:1])
    ArtHopSkipJump(max_iter=5).raw(EstimatorClassifier(all_, 2, SPACE), x, y)
    assert all_.calls < 3 * one.calls


def fickle(patience):
    """Fooled in the first `patience` questions, and never again."""
    asked = 0

    def answer(z):
        nonlocal asked
        asked += 1
        if asked > 5000:
            raise TimeoutError
        return np.eye(2)[np.where((z != 0).any(1) & (asked <= patience), 1, 0)]

    return answer


def test_art_asks_for_ever_where_the_model_takes_back_an_answer_and_ours_gives_up():
    def walk(ask):
        attack = evasion.HopSkipJump(estimator_over(ask, (2,), 2, (-1.0, 1.0)), norm=np.inf, max_iter=3, init_eval=4,
                                max_eval=4, verbose=False)
        return attack.generate(np.zeros((1, 2), np.float32), x_adv_init=np.float32([[0.3, 0.7]]))

    with art_fence(0), pytest.raises(TimeoutError):
        walk(fickle(5))
    with art_fence(0), pytest.raises(_Stalled):
        walk(_unless_stalled(fickle(5)))

    class Fickle:
        def __init__(self):
            self.answer = fickle(6)

        def predict_proba(self, x):
            return self.answer(x)

    x, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    assert torch.equal(ArtHopSkipJump().raw(EstimatorClassifier(Fickle(), 2, Space(-1.0, 1.0)), x, y), x)
