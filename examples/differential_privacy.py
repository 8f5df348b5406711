"""Differential privacy: training that provably hides whether any one patient took part, and what it costs.

Threat: membership inference by an attacker who sees the probability that the model gives to a patient's true diagnosis.
DP-SGD clips what each patient contributes and adds noise. A smaller epsilon promises more: no attack's true positive
rate can exceed e^epsilon times its false positive rate plus delta. Two accountants compute epsilon independently.

Run: python examples/differential_privacy.py [DATASET]
"""

import numpy as np
from common import console, decimal, load_data, percent, show

from privacy.membership import LossThreshold
from suite.core.attack import Leaked
from suite.defenses.private.dpsgd import DPSGD
from suite.results.metrics import auroc, balanced_accuracy, bootstrap, collapsed, paired
from tabular.models import MLP

EPSILONS = (10, 3, 1)

data = load_data()
train, val, test = data.train, data.val, data.test
recipe = MLP(hidden=(128, 128), epochs=300)
x, y = (np.concatenate([getattr(train, name), getattr(test, name)]) for name in "xy")
member = np.repeat([True, False], [len(train), len(test)])
nothing = Leaked(train.take([]), test.take([]))  # this attack needs no rows to learn from

models = {"overfitted": recipe.fit(train, train, seed=0),  # validated on its own training rows, it memorises them
          "early stop": recipe.fit(train, val, seed=0)}
models |= {f"epsilon {epsilon}": DPSGD(epsilon=epsilon)(recipe, train, val, seed=0) for epsilon in EPSILONS}
rows, leak, right = [], {}, {}
for name, model in models.items():
    score, pred = LossThreshold()(model, nothing, x, y, seed=0), model.predict(test.x)
    auc = leak[name] = bootstrap(lambda i, s=score: auroc(s[i], member[i]), len(x), strata=member)
    balanced = bootstrap(lambda i, p=pred: balanced_accuracy(p[i], test.y[i]), len(test), strata=test.y)
    right[name] = pred == test.y
    spent = [f"{model.notes.get(key, np.inf):.2f}" for key in ("epsilon_claimed", "epsilon_independent")]
    name += " COLLAPSED" * collapsed(pred, test.y)
    rows.append([name, *spent, decimal(balanced), decimal(auc)])
show("An MLP with and without differential privacy",
     ["Training", "Epsilon", "Checked", "Balanced accuracy", "Membership AUC"], rows)

leaking = [name for name, auc in leak.items() if auc.low > 0.5]
bound = min(1, np.exp(model.notes["epsilon_claimed"]) * 0.05 + model.notes["delta"])
change = paired(pred == test.y, right["early stop"])
console.print(f"Measured leaks (interval of the AUC above 0.5): {', '.join(leaking) or 'none'}. Epsilon {EPSILONS[-1]} "
              f"changes accuracy by {percent(change)} and proves what no attack can: "
              f"who accuses 5% of the others wrongly finds at most {bound:.0%} of the members.")
