"""Model extraction: training a copy of a model from its answers.

Threat: a prediction service is robbed of its model, and the copy serves to prepare further attacks in private. The
thief owns some patients of the same population without diagnoses, asks the service about them, and sees either
probabilities (forest, knockoff) or labels only (copycat, Jacobian augmentation). Fidelity is how often the copy says
what the victim says. A shallow tree needs no imitation: its leaves are found one by one, exactly.

Run: python examples/model_extraction.py [DATASET]
"""

import numpy as np
from common import console, load_data, percent, show
from sklearn.tree import DecisionTreeClassifier

from privacy.exact_extraction import TreePaths
from privacy.extraction import Copycat, JacobianAugmentation, KnockoffAdaptive, KnockoffRandom, SurrogateForest
from suite.core.classifier import EstimatorClassifier
from suite.evaluate.extraction import transferred
from suite.results.metrics import paired, proportion
from tabular.models import MLP, XGBoost

BUDGETS = (25, 50, 100, 200, 400)
EPS = 0.05  # of each column's scale, for what is made to fool the copy

data = load_data()
test, thief_owns = data.test, data.val


def agreement(victim, title, attacks):
    """Show the fidelity of each attack by questions; the copies made with the most of them."""
    says, rows = victim.predict(test.x), []
    guessed = says == np.bincount(says).argmax()  # a "copy" that gives the commonest answer to everyone
    for budget in BUDGETS:
        victim.queries, copies = 0, {name: attack(victim.predict_proba, thief_owns, budget, seed=0)
                                     for name, attack in attacks.items()}
        assert victim.queries <= budget * len(attacks)
        rows.append([str(budget), *(percent(proportion(copy.predict(test.x) == says)) for copy in copies.values())])
    rows.append(["guessing", *[percent(proportion(guessed))] * len(copies)])
    show(f"Fidelity to {title} on {len(test)} test patients", ["Questions", *copies], rows)
    return copies, says, guessed


trees = XGBoost().fit(data.train, data.val, seed=0)
copies, says, guessed = agreement(trees, "an XGBoost", {"Forest": SurrogateForest(), "Knockoff": KnockoffRandom(),
                                                        "Copycat": Copycat()})
best = max(copies, key=lambda name: (copies[name].predict(test.x) == says).mean())
copy = copies[best].predict(test.x)
lift, cost = paired(copy == says, guessed), paired(copy == test.y, says == test.y)

shallow = DecisionTreeClassifier(max_depth=3, random_state=0).fit(data.train.x, data.train.y)
agreement(EstimatorClassifier(shallow, len(test.classes), test.space), "a tree of depth 3",
          {"Tree paths": TreePaths(), "Forest": SurrogateForest()})

network = MLP().fit(data.train, data.val, seed=0)
copies, *_ = agreement(network, "a network", {"Knockoff": KnockoffRandom(), "Adaptive": KnockoffAdaptive(),
                                              "Jacobian": JacobianAugmentation()})
shared = {name: transferred(copy, network, test, EPS, seed=0) for name, copy in copies.items()}
show("Right answers of the network that turn wrong", ["Made on", "PGD on the copy", "Noise of the same size"],
     [[name, percent(found["transfer_back"]), percent(found["transfer_noise"])] for name, found in shared.items()])

console.print(f"After {BUDGETS[-1]} questions the best copy of the XGBoost ({best}) agrees with it {percent(lift)} "
              f"more often than guessing does, and its accuracy differs from the victim's by {percent(cost)}: "
              + ("the model can be copied." if lift.low > 0 else "no proof that it can be copied."))
