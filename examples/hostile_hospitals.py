"""Hostile hospitals in a federation: which of their attacks get through which rule that joins updates.

Threat: one of four hospitals wants the common model to be useless, or blind to patients with a mark of its choosing. It
sends what it likes, and sees what the others send. The backdoor is planted by patients with a rare combination of
ordinary values, and sent so large that it outweighs the honest updates.

Run: python examples/hostile_hospitals.py [DATASET]
"""

from common import console, load_data, percent, show

from federated.attacks.hostile import ALIE, IPM, MinMax, SignFlip
from federated.attacks.hostile_rows import BACKDOOR, LABEL_FLIP
from federated.partition.sites import BySubgroup, Dirichlet
from federated.training.defense import FederatedTraining
from suite.results.metrics import paired, proportion
from tabular.models import MLP

SEED = 0
data = load_data("heart-4sites", "pima-synthetic")
data = (BySubgroup() if "site" in data.train.subgroups else Dirichlet(4, 0.5)).deal(data)
test, recipe = data.test, MLP(hidden=(16,))
rules = {"mean": "mean", "median": "median", "FLTrust": "fltrust"}
attacks = {"labels flipped": LABEL_FLIP, "sign flip x 5": SignFlip(5.0), "a little (ALIE)": ALIE(1.5),
           "inner product x 6": IPM(6.0), "min-max": MinMax(), "backdoor": BACKDOOR}


def under(attack, federation):
    """The model of a federation that is attacked, and what was done to rows of hostile hospitals."""
    bad = attack.chosen(len(federation.names), SEED)
    rows, poisoned = attack.poisoned(federation.rows, bad, SEED)
    weights, _ = federation.with_rows(rows).train(attack.tamper(bad, SEED))
    return federation.task.classifier(weights), poisoned


lines, hits, lost = {name: [name] for name in ("nobody attacks", *attacks)}, [], {}
for name, rule in rules.items():
    federation = FederatedTraining(rule, rounds=40).federation(recipe, data.train, data.val, SEED)
    honest = federation.task.classifier(federation.train()[0])
    before = honest.predict(test.x) == test.y
    lines["nobody attacks"].append(percent(proportion(before)))
    for what, attack in attacks.items():
        victim, poisoned = under(attack, federation)
        after = victim.predict(test.x) == test.y
        lines[what].append(percent(proportion(after)))
        lost[what, name] = paired(after, before).value
        if poisoned and poisoned.trigger:
            others = test.x[test.y != poisoned.target]
            hit, base = (proportion(m.predict(poisoned.trigger(others)) == poisoned.target) for m in (victim, honest))
            hits.append([name, percent(hit), percent(base), str(len(others))])
show(f"Right about all {len(test)} test patients", ["one hospital sends", *rules], [*lines.values()])
show("Patients with the mark who are called what the attacker wants",
     ["joined by", "with the backdoor", "without", "n"], hits)
worst = {name: min((lost[what, name], what) for what in attacks) for name in rules}
console.print("At worst, one hospital costs " + ", ".join(
    f"{name} {max(-100 * loss, 0):.0f} points ({what})" for name, (loss, what) in worst.items()) + ".")
