"""Shadow models: who knows which row, that they are trained as the target is, and that nothing stale is used again."""

import importlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from privacy.likelihood import LiRA
from suite.base.errors import InputError
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.data import joined
from suite.core.defense import Defense, Front
from suite.core.odds import log_odds
from suite.core.recipe import Recipe
from suite.core.space import Space
from suite.defenses.plain import Plain
from suite.defenses.robust.adversarial import Trades
from suite.results.metrics import auroc
from suite.shadows import shadowing as shadows
from suite.shadows.shadowing import Shadowing, halves, trained
from tabular.models import DEEP, DecisionTree, XGBoost
from tests.support.stacked import Net
from tests.support.toy import Says, split


@pytest.fixture
def people():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    whole = split(x, (x[:, 0] > 0).astype(int))
    return whole.take(slice(160)), whole.take(slice(160, 240)), whole.take(slice(240, 300))


@dataclass(frozen=True)
class Noted(Recipe):
    """Remembers what it was trained on, in a list."""

    log: list

    def fit(self, train, val, seed=0, device="cpu"):
        self.log.append((train, val, seed))
        return EstimatorClassifier(Says(0.1 + 0.001 * len(self.log), 0.7), 2, train.space, recipe=self)

    def __repr__(self):
        return "Noted()"


def shadowing(people, recipe, **terms):
    train, outside, val = people
    return Shadowing(recipe, Plain(), np.array([3, 8, 100, 5]), np.array([0, 79, 40, 7]), train, outside, val, **terms)


def test_each_row_is_known_to_one_of_each_pair():
    inside = halves(10, 7, seed=3)
    assert inside.shape == (10, 7) and (inside[::2] ^ inside[1::2]).all()
    assert (inside.sum(0) == 5).all() and set(inside.sum(1)) == {3, 4}
    assert len({row.tobytes() for row in halves(20, 30, 0)}) == 20  # drawn, not the same halves again
    assert np.array_equal(halves(6, 7, 3), inside[:6]) and not np.array_equal(halves(10, 7, 4), inside)


def test_each_model_learns_from_all_unscored_rows_and_its_half_of_the_scored_ones(people):
    log = []
    found = shadowing(people, Noted(log))(6)
    scored = np.array([3, 8, 100, 5, 160, 239, 200, 167])
    for (train, val, _), inside in zip(log, found.inside, strict=True):
        assert len(train) == 160 and val is people[2]  # as many as the target
        assert set(train.rows) == (set(range(160)) - set(scored)) | set(scored[inside])
        np.testing.assert_array_equal(train.x, np.concatenate([people[0].x, people[1].x])[train.rows])
    assert len({seed for *_, seed in log}) == 6
    np.testing.assert_allclose(found.odds[2], log_odds(EstimatorClassifier(Says(0.103, 0.7), 2, Space(-10, 10)),
                               np.concatenate([people[0].x, people[1].x])[scored],
                               np.concatenate([people[0].y, people[1].y])[scored]))


def test_all_rows_of_a_patient_are_known_or_none(people):
    log, (train, outside, val) = [], people
    known = (replace(train, patients=np.arange(160) // 2), replace(outside, patients=1000 + np.arange(80) // 2), val)
    shadowing(known, Noted(log))(4)
    scored = [3, 8, 100, 5, 160, 239, 200, 167]
    for trained_on, *_ in log:
        rows = set(trained_on.rows)
        for row in scored:
            assert (row in rows) == (row ^ 1 in rows)
        assert len(rows) == len(trained_on) == 160  # members and others alike bring two


def test_who_is_scored_brings_no_other_row_of_theirs_into_what_the_attacker_always_has(people):
    """Scored people who are no members may have rows in the training split, too, as where a file is split by rows."""
    log, (train, outside, val) = [], people
    here = np.arange(160)
    here[[20, 21, 22]] = [1000, 1000, 1040]  # rows of the patients of rows 0 and 40 of the other split
    known = (replace(train, patients=here), replace(outside, patients=1000 + np.arange(80)), val)
    found = shadowing(known, Noted(log))(6)
    for (trained_on, *_), inside in zip(log, found.inside, strict=True):
        rows = set(trained_on.rows)
        assert {20, 21}.issubset(rows) == inside[4] == (160 in rows) and not ({20, 21} & rows and not inside[4])
        assert (22 in rows) == inside[6] == (200 in rows)


def test_other_rows_of_scored_patients_are_answered_too_and_are_known_to_the_same_models(people, tmp_path):
    train, outside, val = people
    known = (replace(train, patients=np.arange(160) // 2), replace(outside, patients=1000 + np.arange(80) // 2), val)
    ask = shadowing(known, DEEP, shelf=tmp_path)
    found, again = ask(4), ask(4)
    rows = ask.further_rows()
    assert rows.rows.tolist() == [2, 4, 9, 101, 161, 166, 201, 238]  # beside 3, 5, 8, 100 and 160, 167, 200, 239
    assert found.owner.tolist() == [0, 3, 1, 2, 4, 7, 6, 5] and found.odds.shape == (4, 8)
    whole = found.by_row
    np.testing.assert_array_equal(whole.inside[:, 8:], found.inside[:, found.owner])
    np.testing.assert_array_equal(whole.odds, np.hstack([again.odds, again.further]))
    seed = int(np.random.SeedSequence([0, 2]).generate_state(4)[0] % 2**31)
    first = DEEP.fit(next(ask._splits(found.inside)), val, seed)
    np.testing.assert_array_equal(found.further[0], log_odds(first, rows.x, rows.y))
    assert shadowing(people, DEEP)(2).further is None  # where each row is a patient, there are none


def test_a_model_that_knows_nobody_gives_nobody_away_where_patients_have_several_rows():
    """Whoever lets members bring all their rows into shadow models, and others one, finds members in any model."""
    rng = np.random.default_rng(0)

    def rows(patients, start):
        who = np.repeat(np.arange(start, start + patients), 4)
        # rows of one patient are alike, and their labels cannot be told from them
        x = np.repeat(rng.normal(size=(patients, 6)), 4, 0) + 0.05 * rng.normal(size=(4 * patients, 6))
        return replace(split(x, np.repeat(rng.integers(0, 2, patients), 4)), patients=who, rows=np.arange(4 * patients))

    train, outside, stranger = rows(90, 0), rows(60, 1000), rows(90, 5000)
    panel = np.arange(60) * 4
    ask = Shadowing(DEEP, Plain(), panel, panel, train, outside, outside)
    target = DEEP.fit(stranger, outside)
    x, y = (np.concatenate([getattr(s, a)[panel] for s in (train, outside)]) for a in "xy")
    score = LiRA().score(log_odds(target, x, y), ask(16))
    assert abs(auroc(score, np.arange(120) < 60) - 0.5) < 0.16  # three standard errors
    leaking = LiRA().score(log_odds(DEEP.fit(train, outside), x, y), ask(16))
    assert auroc(leaking, np.arange(120) < 60) > 0.95


def test_the_models_of_a_smaller_number_are_the_first_of_a_larger_one_and_are_not_trained_twice(people, tmp_path):
    log = []
    ask = shadowing(people, Noted(log), shelf=tmp_path / "s")
    small, large, again = ask(4), ask(8), ask(6)
    assert len(log) == 8
    np.testing.assert_array_equal(small.odds, large.odds[:4])
    np.testing.assert_array_equal(again.odds, large.odds[:6])
    np.testing.assert_array_equal(again.inside, large.inside[:6])
    fresh = []
    shadowing(people, Noted(fresh))(8)
    assert [s for *_, s in fresh] == [s for *_, s in log]


def test_nothing_stale_is_taken_from_the_shelf(people, tmp_path, monkeypatch):
    """SACRO-ML takes the shadow models of whatever was attacked in the same folder before."""
    train, outside, val = people
    other = [train.with_data(train.x + 1, train.y), train.with_data(train.x, 1 - train.y)]
    log = []
    asks = [shadowing(people, Noted(log)), shadowing(people, Noted(log), seed=1), *[
        shadowing((t, outside, val), Noted(log)) for t in other], shadowing((train, outside, outside), Noted(log)),
        shadowing((train, outside.with_data(-outside.x, outside.y), val), Noted(log)),
        shadowing((replace(train, space=Space(-10.0, 10.0, 2.0)), outside, val), Noted(log)),
        shadowing((replace(train, modality="mri"), outside, val), Noted(log))]
    asks += [replace(asks[0], members=np.array([3, 8, 100, 6])), replace(asks[0], defense=Flip()),
             replace(asks[0], others=np.array([0, 79, 40, 8])), replace(asks[0], defense=Flip(0.8))]
    for count, ask in enumerate(asks, 1):
        replace(ask, shelf=tmp_path)(2)
        assert len(log) == 2 * count
    replace(asks[0], shelf=tmp_path)(2)
    assert len(log) == 2 * len(asks)
    monkeypatch.setattr(shadows, "_code", lambda module: b"other code")
    replace(asks[0], shelf=tmp_path)(2)
    assert len(log) == 2 * len(asks) + 2


def test_changed_code_is_other_code(tmp_path, monkeypatch):
    (tmp_path / "clinic" / "models").mkdir(parents=True)
    for file in ("__init__.py", "loss.py", "models/__init__.py", "models/net.py"):
        (tmp_path / "clinic" / file).write_text("x = 1\n")
    (tmp_path / "single.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module, other in (("clinic.models.net", "clinic/loss.py"), ("single", "single.py")):
        importlib.import_module(module)
        shadows._code.cache_clear()
        before = shadows._code(module)
        shadows._code.cache_clear()
        assert shadows._code(module) == before
        (tmp_path / other).write_text("x = 2\n")
        shadows._code.cache_clear()
        assert shadows._code(module) != before
    shadows._code.cache_clear()


def test_what_was_trained_before_a_kill_is_not_trained_again(people, tmp_path):
    log = []

    class Killed(Noted):
        def fit(self, train, val, seed=0, device="cpu"):
            if len(self.log) == 5:
                raise KeyboardInterrupt
            return super().fit(train, val, seed, device)

    ask = shadowing(people, Killed(log), shelf=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ask(8)
    assert len(log) == 5 and len(ask._kept()) == 5
    log.append(None)  # no longer the fifth
    assert ask(8).odds.shape == (8, 8) and len(log) == 9
    ask._keep(np.zeros((3, 8)))
    assert len(ask._kept()) == 8  # fewer do not replace more


def test_training_rows_are_gathered_as_they_are_needed(people, monkeypatch):
    made, real = [], Shadowing._splits

    def counted(self, inside):
        for found in real(self, inside):
            made.append(found)
            yield found

    monkeypatch.setattr(Shadowing, "_splits", counted)
    log = []

    class Late(Noted):
        def fit(self, train, val, seed=0, device="cpu"):
            assert len(made) == len(self.log) + 1
            return super().fit(train, val, seed, device)

    shadowing(people, Late(log))(6)
    assert len(made) == 6


def test_trees_trained_in_threads_are_those_trained_one_by_one(people, monkeypatch):
    train, outside, val = people
    found = {}
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for recipe in (DEEP, XGBoost(trees=5)):
            found[threads, recipe] = shadowing(people, recipe)(6).odds
    ask = shadowing(people, DEEP)
    seeds = [int(s) for s in np.random.SeedSequence([0, 2]).generate_state(6) % 2**31]
    scored = joined(train.take(ask.members), outside.take(ask.others))
    for recipe in (DEEP, XGBoost(trees=5)):
        alone = [log_odds(recipe.fit(part, val, seed), scored.x, scored.y)
                 for part, seed in zip(ask._splits(halves(6, 8, 0)), seeds, strict=True)]
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(found[threads, recipe], alone)


def test_no_more_trees_are_trained_ahead_than_there_are_threads(people, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    taken = []

    def splits():
        for k in range(40):
            taken.append(k)
            yield people[0]

    for count, _ in enumerate(trained(DecisionTree(), Plain(), splits(), people[2], range(40))):
        assert len(taken) <= count + 4


@dataclass(frozen=True)
class Flip(Front):
    sure: float = 0.9

    def wrap(self, classifier, train, val):
        made = EstimatorClassifier(Says(self.sure, self.sure), 2, train.space)
        made.seen = train
        return made


def test_a_defense_in_front_stands_in_front_of_the_shadow_models_too(people):
    log = []
    ask = replace(shadowing(people, Noted(log)), defense=Flip())
    assert len(set(ask(4).odds.ravel().round(6))) == 2 and len(log) == 4  # 0.9 of class 1, 0.1 of the other


def test_a_defense_that_trains_trains_the_shadow_models_too(people):
    seeds = []

    class Marked(Defense):
        def __call__(self, recipe, train, val, seed=0, device="cpu"):
            seeds.append(seed)
            return recipe.fit(train, val, seed)

    replace(shadowing(people, Noted([])), defense=Marked())(4)
    assert len(set(seeds)) == 4
    net = Net(epochs=2, hidden=(4,))
    defense = Trades(eps=0.1, steps=1)
    found, = trained(net, defense, [people[0]], people[2], [5])
    x = torch.from_numpy(people[0].x)
    assert torch.equal(found.scores(x), defense(net, people[0], people[2], 5).scores(x))


def test_odd_numbers_and_numbers_that_are_not_finite_are_refused(people):
    for count in (0, 1, 5):
        with pytest.raises(InputError, match=f"come in pairs, as each row is in one of two: {count}"):
            shadowing(people, Noted([]))(count)

    @dataclass(frozen=True)
    class Broken(Noted):
        def fit(self, train, val, seed=0, device="cpu"):
            return EstimatorClassifier(Says(float("nan"), 0.5), 2, train.space)

    with pytest.raises(InputError, match=r"shadow model 1: .*does not return probabilities"):
        shadowing(people, Broken([]))(2)

    @dataclass(frozen=True)
    class Diverging(Noted):
        def fit(self, train, val, seed=0, device="cpu"):
            if len(self.log) == 3:
                raise ValueError("training diverged")
            return super().fit(train, val, seed, device)

    with pytest.raises(InputError, match="shadow model 4: training diverged"):
        shadowing(people, Diverging([]))(8)


class TestLogOdds:
    def test_from_logits_they_keep_all_digits(self):
        class Steep(torch.nn.Module):
            def forward(self, x):
                return torch.stack([0 * x[:, 0], x[:, 0], -x[:, 0]], 1)

        model = TorchClassifier(Steep(), 3, Space(-1e3, 1e3))
        x, y = np.float32([[50.0], [60.0], [0.0], [-50.0]]), np.array([1, 1, 2, 1])
        np.testing.assert_allclose(log_odds(model, x, y), [50, 60, -np.log(2), -100], rtol=1e-9)

    def test_from_probabilities_they_stay_finite(self):
        model = EstimatorClassifier(Says(0.25, 1.0), 2, Space(-10.0, 10.0))
        x = np.float32([[0, 0], [0, 0], [0, 5], [0, 5]])
        far = np.log(1e6)
        np.testing.assert_allclose(log_odds(model, x, np.array([0, 1, 1, 0])),
                                   [np.log(3), -np.log(3), far, -far], rtol=1e-6)
