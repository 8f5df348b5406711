"""Membership inference: telling from a model's answers who was in its training data.

Threat: that a person's record was used for training can itself be a diagnosis. The attacker can ask the model about
candidates whose values and diagnosis it knows. "Loss" looks at the probability of the true label, "gap" at the label
alone, and "learned" trains a small model on half of the members and half of the others, known to it beforehand; every
attack is scored on the other halves only.

Run: python examples/membership_inference.py [DATASET]
"""

import numpy as np
from common import console, decimal, load_data, percent, show

from privacy.membership import ArtBlackBox, LossThreshold, RuleBased
from suite.attack import Leaked
from suite.metrics import auroc, bootstrap, tpr_at_fpr
from tabular.models import MLP, RandomForest

FPR = 0.05

data = load_data()
size = min(len(data.train), len(data.test)) // 2
members, others = ([split.take(slice(size)), split.take(slice(size, 2 * size))] for split in (data.train, data.test))
known = Leaked(members[0], others[0])
x, y = (np.concatenate([getattr(members[1], name), getattr(others[1], name)]) for name in "xy")
member = np.repeat([True, False], size)

careful, careless = data.val, data.train  # whoever validates on the training rows stops training too late
models = {"MLP": MLP().fit(data.train, careful),
          "MLP, overfitted": MLP(hidden=(256, 256), epochs=300).fit(data.train, careless),
          "forest": RandomForest().fit(data.train, careful),
          "deep forest": RandomForest(depth=None).fit(data.train, careful)}
rows, leaks = [], {}
for name, model in models.items():
    accuracy = " / ".join(f"{(model.predict(s.x) == s.y).mean():.0%}" for s in (data.train, data.test))
    for title, attack in (("loss", LossThreshold()), ("gap", RuleBased()), ("learned", ArtBlackBox())):
        score = attack(model, known, x, y, seed=0)
        auc = bootstrap(lambda i, s=score: auroc(s[i], member[i]), len(x), strata=member)
        caught = bootstrap(lambda i, s=score: tpr_at_fpr(s[i], member[i], FPR), len(x), strata=member)
        leaks[f"{name} ({title})"] = auc
        rows.append([f"{name} ({title})", accuracy, decimal(auc), percent(caught)])
show(f"{size} members told from {size} others",
     ["Model (attack)", "Train / test", "AUC", f"TPR at {FPR:.0%} FPR"], rows)

worst = max(leaks, key=lambda name: leaks[name].low)
leaking = sum(auc.low > 0.5 for auc in leaks.values())
console.print(f"AUC 0.5 and a TPR of {FPR:.0%} are guessing. {leaking} of {len(leaks)} intervals of the AUC lie "
              f"above that; the clearest: {worst}, {decimal(leaks[worst])}. "
              f"That {len(leaks) - leaking} do not is no proof of privacy.")
