"""What is measured of poisoned training data, on victims that learn by majority."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from suite.core.attack import Poisoned, PoisoningAttack
from suite.core.classifier import EstimatorClassifier
from suite.evaluate import measure
from tests.support.toy import Majority, Says, dataset, sheet, split, subject, value


@dataclass(frozen=True)
class Plant(PoisoningAttack):
    """Appoints the first rows to carry the trigger (second feature at 5) and the target label 1."""

    trigger: bool = True

    def __call__(self, train, seed=0):
        mask = np.arange(len(train)) < self.rate * len(train)
        x, y = train.x.copy(), train.y.copy()
        if self.trigger:
            x[mask] = self.put(x[mask])
        y[mask] = 1
        return Poisoned(train.with_data(x, y), mask, self.put if self.trigger else None, 1 if self.trigger else None)

    @staticmethod
    def put(x):
        x = x.copy()
        x[:, 1] = 5
        return x


class TestPoisoning:
    @pytest.fixture
    def clinic(self):
        y = np.r_[np.zeros(60, int), np.ones(40, int)]
        data = dataset(split(np.zeros((100, 2)), y))
        return subject(Majority().fit(data.train, data.val), data, Majority())

    def test_a_backdoor_is_told_by_its_lift_among_rows_that_are_not_of_the_target_class(self, clinic):
        out = sheet()
        arrays = measure(Plant(rate=0.1), clinic, out)
        rate = next(r for r in out.rows if r.metric == "attack_success_rate")
        assert (rate.value, rate.n) == (1.0, 60)
        assert value(out, "base_rate") == 0.0 and value(out, "lift") == 1.0
        assert value(out, "poisoned_share") == 0.1 == arrays["mask"].mean()
        assert value(out, "accuracy_change") == 0.0 == value(out, "sensitivity_change")

    def test_a_trigger_that_fools_the_clean_model_as_well_has_no_lift(self, clinic):
        fooled = replace(clinic, classifier=EstimatorClassifier(Says(0.0, 1.0), 2, clinic.data.test.space))
        out = sheet()
        measure(Plant(rate=0.1), fooled, out)
        assert value(out, "attack_success_rate") == 1.0 == value(out, "base_rate") and value(out, "lift") == 0.0

    def test_flipped_labels_change_accuracy_by_what_the_victim_gets_wrong(self, clinic):
        out = sheet()
        measure(Plant(rate=0.3, trigger=False), clinic, out)  # 70 of 100 are ill now: the victim says so of everyone
        assert value(out, "accuracy_change") == pytest.approx(0.4 - 0.6)
        assert value(out, "sensitivity_change") == 1.0 and value(out, "attacked_specificity") == 0.0
        # all healthy were classified correctly before, and none is now: no loss of sensitivity shows that
        assert value(out, "specificity_change") == -1.0 and value(out, "balanced_accuracy_change") == 0.0
        assert not [r for r in out.rows if r.metric in ("lift", "base_rate")]
