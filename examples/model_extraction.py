"""Model extraction: training a copy of a model from its answers.

Threat: a prediction service is robbed of its model, and the copy serves to prepare further attacks in private. The
thief owns some patients of the same population without diagnoses, asks the service about them, and sees either
probabilities (forest, knockoff) or labels only (copycat). Fidelity is how often the copy says what the victim says.

Run: python examples/model_extraction.py [DATASET]
"""

import numpy as np
from common import console, load_data, percent, show

from privacy.extraction import Copycat, KnockoffRandom, SurrogateForest
from suite.metrics import paired, proportion
from tabular.models import XGBoost

BUDGETS = (25, 50, 100, 200, 400)

data = load_data()
test, thief_owns = data.test, data.val
victim = XGBoost().fit(data.train, data.val, seed=0)
says = victim.predict(test.x)
guessed = says == np.bincount(says).argmax()  # a "copy" that gives the commonest answer to everyone

rows, copies = [], {}
for budget in BUDGETS:
    for attack in (SurrogateForest(), KnockoffRandom(), Copycat()):
        victim.queries = 0
        copies[type(attack).__name__] = attack(victim.predict_proba, thief_owns, budget, seed=0).predict(test.x)
        assert victim.queries == budget
    rows.append([str(budget), *(percent(proportion(copy == says)) for copy in copies.values())])
rows.append(["guessing", *[percent(proportion(guessed))] * len(copies)])
show(f"Fidelity to an XGBoost on {len(test)} test patients", ["Questions", *copies], rows)

best = max(copies, key=lambda name: (copies[name] == says).mean())
copy = copies[best]
lift, cost = paired(copy == says, guessed), paired(copy == test.y, says == test.y)
console.print(f"After {BUDGETS[-1]} questions the best copy ({best}) agrees with the victim {percent(lift)} more often "
              f"than guessing does, and its accuracy differs from the victim's by {percent(cost)}: "
              + ("the model can be copied." if lift.low > 0 else "no proof that it can be copied."))
