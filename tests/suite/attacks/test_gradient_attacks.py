"""Gradient attacks against closed forms, against each other, and against their contract."""

import pytest
import torch
from torch import nn

from suite.attacks.apgd import APGD
from suite.attacks.gradient import BIM, FGSM, MIFGSM, PGD
from suite.attacks.minimal import CarliniWagnerL2, DeepFool
from suite.attacks.noise import RandomNoise
from suite.base.errors import InputError, NotApplicable
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space
from tests.support.attacks import ALL, FIXED, MINIMAL, exact_distance, fooled, name, with_
from tests.support.models import images, linear, moons, patients, rows

# --- closed forms ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [FGSM, BIM, PGD, MIFGSM, APGD])
def test_linear_rows_fall_exactly_within_their_distance(make, norm):
    classifier = linear()
    x, y = rows(classifier, 200)
    distance = exact_distance(classifier, x, norm)
    eps = 0.3
    clear = (distance / eps - 1).abs() > 0.02
    hit = fooled(classifier, make(eps=eps, norm=norm)(classifier, x, y), y)
    assert 20 < (distance < eps).sum() < 180
    assert torch.equal(hit[clear], (distance < eps)[clear])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_the_exact_worst_case_of_a_linear_model(norm):
    classifier = linear()
    x, y = rows(classifier, 50)
    adversarial = FGSM(eps=0.2, norm=norm)(classifier, x, y)
    before, after = exact_distance(classifier, x, norm), exact_distance(classifier, adversarial, norm)
    signed = torch.where(fooled(classifier, adversarial, y), -after, after)
    torch.testing.assert_close(before - signed, torch.full_like(before, 0.2), rtol=0, atol=2e-5)


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("attack", [DeepFool(), CarliniWagnerL2()], ids=name)
def test_minimal_attacks_reach_the_distance_of_a_linear_model(attack, n):
    classifier = linear()
    x, y = rows(classifier, n)
    adversarial = attack(classifier, x, y)
    exact = exact_distance(classifier, x, "l2")
    assert (exact > 0.05).all()
    assert fooled(classifier, adversarial, y).all()
    ratio = classifier.space.distance(adversarial, x, "l2") / exact
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.05


@pytest.mark.parametrize(("seed", "steps", "search", "least"), [(3, 100, 6, 0.85), (3, 50, 4, 0.75),
                                                                (52, 100, 6, 0.95)])
def test_carlini_wagner_leaps_over_the_steps_of_a_table(seed, steps, search, least):
    """With whole numbers and codes, steps as short as an image asks for round back to where they began."""
    classifier, x, y = patients(seed=seed)
    assert fooled(classifier, CarliniWagnerL2(steps=steps, search=search)(classifier, x, y), y).float().mean() > least


def test_deepfool_finds_the_nearest_of_many_boundaries():
    classifier = linear(classes=5)
    x, y = rows(classifier, 40)
    weight, scale = classifier.module.weight.detach(), classifier.space.scale
    with torch.no_grad():
        logits = classifier.module(x)
    slopes = ((weight[None] - weight[y][:, None]) * scale).norm(dim=2)
    exact = ((logits.gather(1, y[:, None]) - logits) / slopes).nan_to_num(torch.inf).scatter(1, y[:, None], torch.inf)
    got = classifier.space.distance(DeepFool()(classifier, x, y), x, "l2") / exact.amin(1)
    assert got.min() >= 1 - 1e-4
    assert got.median() <= 1.03
    assert got.max() <= 1.1  # ties between boundaries make the first step less than optimal


def test_deepfool_goes_around_a_frozen_feature():
    classifier = linear(3)
    x, y = rows(classifier, 8, (3,))
    classifier.space = Space(torch.tensor([x[0, 0], -50, -50]), torch.tensor([x[0, 0], 50, 50]))
    x[:, 0] = x[0, 0]
    y = classifier.module(x).argmax(1)
    weight = classifier.module.weight.diff(dim=0)[0].detach()
    exact = classifier.module(x).diff(dim=1).abs()[:, 0].detach() / weight[1:].norm()
    adversarial = DeepFool()(classifier, x, y)
    assert torch.equal(adversarial[:, 0], x[:, 0])
    assert fooled(classifier, adversarial, y).all()
    torch.testing.assert_close(classifier.space.distance(adversarial, x, "l2") / exact, torch.full((8,), 1.02),
                               rtol=0.02, atol=0)


@pytest.mark.parametrize("attack", MINIMAL, ids=name)
def test_minimal_attacks_do_not_return_what_lies_beyond_the_bound(attack):
    classifier = linear()
    x, y = rows(classifier, 60)
    exact = exact_distance(classifier, x, "l2")
    adversarial = with_(attack, eps=0.3)(classifier, x, y)
    moved = (adversarial != x).any(1)
    assert 5 < moved.sum() < 55
    assert torch.equal(moved, fooled(classifier, adversarial, y))
    assert not moved[exact > 0.3].any()
    assert moved[exact < 0.28].all()
    assert (classifier.space.distance(adversarial, x, "l2") <= 0.3 + 1e-5).all()


def test_saturated_cross_entropy_does_not_hide_the_gradient():
    classifier = linear()
    x, y = rows(classifier, 40)
    mild = fooled(classifier, PGD(eps=0.3)(classifier, x, y), y)
    with torch.no_grad():
        classifier.module.weight.mul_(1e4), classifier.module.bias.mul_(1e4)
    x_leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(classifier.module(x_leaf), y).backward()
    assert (x_leaf.grad == 0).all(1).float().mean() > 0.9  # what a plain attack would see
    classifier.module.zero_grad()
    assert torch.equal(fooled(classifier, PGD(eps=0.3)(classifier, x, y), y), mild)


# --- what is possible ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("relations", [True, False])
@pytest.mark.parametrize("attack", ALL, ids=name)
def test_only_possible_patients_within_the_budget(attack, relations, early):
    classifier, x, y = patients(relations)
    eps = 0.25
    if hasattr(attack, "early_stop"):
        attack = with_(attack, early_stop=early)
    adversarial = with_(attack, eps=eps)(classifier, x, y, seed=4)
    assert classifier.space.contains(adversarial, x).all()
    assert (classifier.space.distance(adversarial, x, attack.norm) <= eps * (1 + 1e-5)).all()
    assert torch.equal(adversarial[:, 2], x[:, 2])
    assert (adversarial[:, 3] >= x[:, 3]).all()
    assert (adversarial[:, 5] <= x[:, 5]).all()
    hit = fooled(classifier, adversarial, y)
    assert hit.float().mean() > 0.05
    if early:
        unchanged = (adversarial == x).all(1)
        assert attack.__class__ is FGSM or unchanged[~hit].all()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("attack", ALL, ids=name)
def test_images_stay_in_the_box_and_the_budget(attack, channels, classes):
    classifier, x, y = images(channels, classes)
    attack = with_(attack, eps=0.08 if attack.norm == "linf" else 0.8)
    adversarial = attack(classifier, x, y)
    assert adversarial.shape == x.shape and adversarial.dtype == torch.float32
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert (classifier.space.distance(adversarial, x, attack.norm) <= attack.eps * (1 + 1e-5)).all()
    if not isinstance(attack, RandomNoise):
        assert fooled(classifier, adversarial, y).any()


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_no_budget_changes_nothing(attack):
    classifier, x, y = patients()
    assert torch.equal(with_(attack, eps=0.0)(classifier, x, y), x)


@pytest.mark.parametrize("attack", ALL, ids=name)
def test_no_rows_are_no_trouble(attack):
    classifier, x, y = patients()
    assert attack(classifier, x[:0], y[:0]).shape == (0, 6)


# --- the contract ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", ALL, ids=name)
def test_model_inputs_and_global_random_state_are_left_as_they_were(attack):
    classifier, x, y = images(1)
    classifier.module.train()
    classifier.module[0].bias.requires_grad_(False)
    before = {k: v.clone() for k, v in classifier.module.state_dict().items()}
    x_before, y_before, state = x.clone(), y.clone(), torch.random.get_rng_state()
    if isinstance(attack, RandomNoise):
        classifier.module.eval()  # a control only asks, and asking is up to the classifier
    training = classifier.module.training
    attack(classifier, x, y)
    assert all(p.grad is None for p in classifier.module.parameters())
    assert [p.requires_grad for p in classifier.module.parameters()] == [True, False, True, True, True, True]
    assert classifier.module.training is training
    assert all(torch.equal(v, before[k]) for k, v in classifier.module.state_dict().items())
    assert torch.equal(x, x_before) and torch.equal(y, y_before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("attack", [PGD(), PGD(norm="l2"), APGD(steps=5), RandomNoise(), RandomNoise(norm="l2"),
                                    RandomNoise(edge=False)], ids=name)
def test_the_seed_decides(attack):
    classifier, x, y = moons()
    attack = with_(attack, eps=0.02, early_stop=False)
    if isinstance(attack, PGD):
        attack = with_(attack, steps=1)  # many steps end in the same corner, wherever they start
    first = attack(classifier, x, y, seed=1)
    assert torch.equal(first, attack(classifier, x, y, seed=1))
    assert not torch.equal(first, attack(classifier, x, y, seed=2))


@pytest.mark.parametrize("attack", [BIM(), BIM(early_stop=False), MIFGSM(), DeepFool(), FGSM()], ids=name)
def test_batches_change_no_result(attack):
    classifier, x, y = patients()
    whole = attack(classifier, x, y)
    classifier.batch = 7
    torch.testing.assert_close(attack(classifier, x, y), whole, rtol=1e-5, atol=1e-5)


def test_attacks_that_need_gradients_say_so():
    class Constant:
        def predict_proba(self, x):
            return torch.tensor([[0.2, 0.8]]).expand(len(x), -1).numpy()

    classifier = EstimatorClassifier(Constant(), 2, Space(0.0, 1.0))
    with pytest.raises(NotApplicable, match="PGD needs gradients"):
        PGD()(classifier, torch.rand(3, 2), torch.ones(3).long())
    noisy = RandomNoise(early_stop=False)(classifier, torch.full((3, 2), 0.5), torch.ones(3).long())
    assert noisy.shape == (3, 2) and classifier.queries == 30


# --- counting passes -------------------------------------------------------------------------------------------------

def count(attack, classifier, x, y):
    classifier.queries = classifier.gradients = 0
    attack(classifier, x, y)
    return classifier.gradients, classifier.queries


@pytest.mark.parametrize(("attack", "gradients", "queries"), [
    (FGSM(), 1, 1), (BIM(steps=7, early_stop=False), 7, 8), (PGD(steps=40, early_stop=False), 40, 41),
    (MIFGSM(early_stop=False), 10, 11), (APGD(steps=20, early_stop=False), 20, 21),
    (RandomNoise(draws=9, early_stop=False), 0, 9)], ids=lambda v: name(v) if hasattr(v, "norm") else str(v))
def test_full_strength_takes_exactly_its_passes(attack, gradients, queries):
    classifier, x, y = moons()
    assert count(attack, classifier, x, y) == (gradients * len(x), queries * len(x))


def test_rows_leave_once_fooled_and_restarts_are_for_the_others():
    classifier = linear()
    x, y = rows(classifier, 200)
    distance = exact_distance(classifier, x, "linf")
    x, y = x[(distance / 0.3 - 1).abs() > 0.05], y[(distance / 0.3 - 1).abs() > 0.05]
    distance = exact_distance(classifier, x, "linf")
    # BIM walks to the corner in ten equal steps, and a row is fooled at the first one beyond its distance
    steps = torch.where(distance < 0.3, (distance / 0.03).ceil(), 10)
    gradients, queries = count(BIM(eps=0.3), classifier, x, y)
    falls = (distance < 0.3) & (steps < 10)  # these are judged before, not after, a last step
    assert abs(gradients - int((steps + falls).sum())) <= 2  # a distance of nearly a whole number of steps
    assert queries - gradients == int((~falls).sum())
    robust = int((distance >= 0.3).sum())
    once = count(PGD(eps=0.3), classifier, x, y)[0]
    assert count(PGD(eps=0.3, restarts=3), classifier, x, y)[0] == once + 2 * 40 * robust


def test_deepfool_takes_one_gradient_a_step_for_two_labels_and_one_a_candidate_for_more():
    two, many = linear(), linear(classes=12)
    x, y = rows(two, 30)
    assert count(DeepFool(), two, x, y) == (60, 60)  # one step, and the pass that finds the row fooled
    x, y = rows(many, 1, seed=3)
    gradients, queries = count(DeepFool(candidates=4), many, x, y)
    assert gradients == 4 * queries


# --- targets and refusals --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [PGD(eps=0.6), APGD(eps=0.6), MIFGSM(eps=0.6), CarliniWagnerL2(), DeepFool()],
                         ids=name)
def test_a_target_is_reached_by_name(attack):
    classifier = linear(classes=4)
    x, y = rows(classifier, 40)
    reached = classifier.judge(with_(attack, target=2)(classifier, x, y)) == 2
    assert reached.sum() > (y == 2).sum() + 10
    with pytest.raises(InputError, match="target 4 is no label"):
        with_(attack, target=4)(classifier, x, y)


@pytest.mark.parametrize("attack", [*FIXED, DeepFool(), CarliniWagnerL2()], ids=name)
def test_being_refused_is_not_being_fooled(attack):
    classifier = linear(rejects=True)
    x, y = rows(classifier, 60)
    eps = 0.5 if attack in FIXED else 3.0
    adversarial = with_(attack, eps=eps)(classifier, x, y)
    hit, label = fooled(classifier, adversarial, y), classifier.judge(adversarial)
    assert torch.equal(hit, (label != y) & (label != -1))
    assert hit.sum() > 5
    plain = TorchClassifier(nn.Linear(6, 2), 2, classifier.space)
    plain.module.load_state_dict({k: v[:2] for k, v in classifier.module.state_dict().items()})
    free = fooled(plain, with_(attack, eps=eps)(plain, x, y), y)
    assert hit.sum() <= free.sum()  # the right to refuse can only help
