"""The border to ART: its habits shown raw, so that we notice when it mends one, beside what ours does."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from art.attacks.evasion import HopSkipJump, ZooAttack
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, PyTorchClassifier

from suite.attacks.art.border import art_estimator, art_fence, art_gradient_estimator, estimator_over, in_step
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.space import Space


class Threshold:
    """Class 1 where the first feature exceeds `at`; counts its calls and remembers the dtypes it saw."""

    def __init__(self, at=0.5):
        self.at, self.calls, self.dtypes = at, 0, set()

    def predict_proba(self, x):
        self.calls += 1
        self.dtypes.add(x.dtype)
        return np.eye(2)[(x[:, 0] > self.at).astype(int)]


def linear(weight, bias=(0.0, 0.0), space=None):
    module = torch.nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        module.weight.copy_(torch.tensor(weight))
        module.bias.copy_(torch.tensor(bias))
    return TorchClassifier(module, len(weight), space or Space(0.0, 1.0))


def test_art_is_not_imported_before_it_is_used():
    code = ("import sys, suite.attacks.art.border, suite.attacks.art.query, privacy.membership, privacy.attribute, "
            "privacy.inversion, privacy.extraction; sys.exit('art' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("make", [lambda: EstimatorClassifier(Threshold(), 2, Space(0.0, 1.0)),
                                  lambda: linear([[1.0, -1.0], [0.0, 2.0]])])
def test_estimator_answers_and_counts_as_the_classifier(make):
    classifier, x = make(), np.random.default_rng(0).random((300, 2))
    estimator = art_estimator(classifier, (2,))
    answers = estimator.predict(x)
    assert classifier.queries == 300
    np.testing.assert_allclose(answers, classifier.predict_proba(x), atol=1e-7)
    assert estimator.nb_classes == 2 and estimator.input_shape == (2,)
    np.testing.assert_array_equal(np.array(estimator.clip_values), [[0, 0], [1, 1]])


def test_art_asks_in_batches_and_ours_at_once():
    x = np.zeros((300, 2), np.float32)
    theirs, ours = Threshold(), Threshold()
    BlackBoxClassifierNeuralNetwork(theirs.predict_proba, (2,), 2).predict(x, batch_size=1)
    estimator_over(ours.predict_proba, (2,), 2).predict(x, batch_size=1)
    assert (theirs.calls, ours.calls) == (300, 1)


def test_art_hands_float64_to_a_float32_network_and_ours_does_not():
    x, net = np.float32([[0.2, 0.4]]), torch.nn.Linear(2, 2)
    raw = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (2,), 2, clip_values=(0.0, 1.0), device_type="cpu")
    start = np.float32([[0.9, 0.1]])
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        net.bias.zero_()
    kwargs = {"norm": np.inf, "max_iter": 2, "init_eval": 5, "max_eval": 10, "verbose": False}
    with pytest.raises(RuntimeError, match=r"Double|double|dtype"):
        HopSkipJump(raw, **kwargs).generate(x, x_adv_init=start)
    with art_fence(0):
        found = HopSkipJump(art_estimator(TorchClassifier(net, 2, Space(0.0, 1.0)), (2,)), **kwargs).generate(
            x, x_adv_init=start)
    assert raw.predict(found)[0].argmax() != raw.predict(x)[0].argmax()


def test_art_draws_its_start_from_a_generator_that_cannot_be_seeded():
    x, estimator = np.float32([[0.2, 0.4]]), estimator_over(Threshold().predict_proba, (2,), 2, (0.0, 1.0))

    def attack(**start):
        with art_fence(0):
            return HopSkipJump(estimator, norm=np.inf, max_iter=0, verbose=False).generate(x.copy(), **start)

    assert len({attack().tobytes() for _ in range(4)}) > 1
    start = np.float32([[0.9, 0.1]])
    assert len({attack(x_adv_init=start).tobytes() for _ in range(4)}) == 1


def test_art_zoo_clips_the_noise_in_place_of_the_input():
    """Inputs in [0, 1] get noise in [0, 1]: ART never lowers a feature, even where only that would help."""
    def falling(x):
        p = 1 / (1 + np.exp(20 * (x[:, :1] - 0.5)))
        return np.hstack([p, 1 - p])  # class 1 above 0.5

    x, options = np.float32([[0.6, 0.5]]), {"max_iter": 60, "binary_search_steps": 3, "initial_const": 10.0,
                                            "learning_rate": 0.05, "nb_parallel": 2, "use_resize": False,
                                            "use_importance": False, "variable_h": 0.01, "verbose": False}
    with art_fence(0):
        stuck = ZooAttack(estimator_over(falling, (2,), 2, (0.0, 1.0)), **options).generate(x, np.array([1]))
        ours = x + ZooAttack(estimator_over(lambda z: falling(x + z), (2,), 2, (-0.3, 0.3)), **options).generate(
            np.zeros_like(x), np.array([1]))
    assert (stuck >= x - 1e-6).all() and falling(stuck)[0, 1] > 0.5
    assert falling(ours)[0, 1] < 0.5


def test_gradient_estimator_gives_log_probabilities_and_their_gradient_in_scaled_units():
    space = Space(torch.tensor([0.0, 0.0]), torch.tensor([10.0, 1.0]), torch.tensor([10.0, 1.0]))
    classifier = linear([[0.3, -1.0], [0.1, 2.0]], space=space)
    z = np.float32([[0.5, 0.25], [0.1, 0.9]])
    with classifier.frozen():
        estimator = art_gradient_estimator(classifier, (2,))
        got, grad = estimator.predict(z), estimator.class_gradient(z, np.array([0, 1]))[:, 0]
    proba = classifier.predict_proba(z * [10.0, 1.0])
    np.testing.assert_allclose(np.exp(got), proba, rtol=1e-5)
    gap = np.array([0.2, -3.0]) * [10.0, 1.0]  # (w_0 - w_1) x scale; d log p_0 = (1 - p_0) (w_0 - w_1)
    np.testing.assert_allclose(grad, [gap * proba[0, 1], -gap * proba[1, 0]], rtol=1e-4)
    np.testing.assert_array_equal(np.array(estimator.clip_values), [[0, 0], [1, 1]])
    assert classifier.gradients == 2
    assert all(p.grad is None and p.requires_grad for p in classifier.module.parameters())


def test_fence_quiets_art_and_puts_the_generators_back():
    logger = logging.getLogger("art")
    level, before = logger.level, np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(ZeroDivisionError), art_fence(3):
        first = np.random.random()  # noqa: NPY002
        assert not logger.isEnabledFor(logging.WARNING)
        raise ZeroDivisionError
    with art_fence(3):
        assert np.random.random() == first  # noqa: NPY002
    assert logger.level == level
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_in_step_asks_for_all_attacks_together():
    calls = []

    def answer(x, owner):
        calls.append(owner.tolist())
        return x * 10

    def counts_to(n):
        def attack(ask):
            return [float(ask(np.full((2, 1), i))[1, 0]) for i in range(n)]
        return attack

    assert in_step(answer, [counts_to(3), counts_to(0), counts_to(1)]) == [[0.0, 10.0, 20.0], [], [0.0]]
    assert calls == [[0, 0, 2, 2], [0, 0], [0, 0]]


@pytest.mark.parametrize("fails", ["model", "attack"])
def test_in_step_raises_what_the_model_or_an_attack_raises_and_leaves_no_thread(fails):
    import threading

    def answer(x, owner):
        if fails == "model":
            raise KeyError("model")
        return x

    def attack(ask):
        ask(np.zeros((1, 1)))
        if fails == "attack":
            raise KeyError("attack")

    before = threading.active_count()
    with pytest.raises(KeyError, match=fails):
        in_step(answer, [attack, lambda ask: [ask(np.zeros((1, 1))) for _ in range(9)]])
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "_main" in thread.name:
            thread.join(5)
    assert threading.active_count() <= before
