"""Poisoning: whoever can touch training records decides what the model learns.

Threat 1, flipped labels: some patients with the disease are recorded as healthy, and the model learns to miss patients.
Threat 2, a backdoor: a few patients get a rare combination of ordinary values (the trigger) and one label.
Whoever carries the trigger later gets that label, and all others are judged as before.
The attacker changes training rows, and knows nothing of the model.

Run: python examples/poisoning.py [DATASET]
"""

from common import console, load_data, percent, show

from suite.attacks.poisoning import TargetedFlip
from suite.results.metrics import paired, proportion
from tabular.backdoor import RareValues
from tabular.models import XGBoost

data = load_data()
recipe, test, sick = XGBoost(), data.test, data.test.x[data.test.y == 1]
clean = recipe.fit(data.train, data.val, seed=0)


def accuracy(model) -> str:
    return percent(proportion(model.predict(test.x) == test.y))


def victim(attack):
    """The poisoned rows, and the model that a hospital trains on them without knowing."""
    poisoned = attack(data.train, seed=0)
    return poisoned, recipe.fit(poisoned.train, data.val, seed=0)


found = clean.predict(sick) == 1
rows = [["none", accuracy(clean), percent(proportion(found)), ""]]
for rate in (0.05, 0.1, 0.2):
    poisoned, model = victim(TargetedFlip(rate=rate))
    still = model.predict(sick) == 1
    flipped, change = f"{poisoned.mask.mean():.0%}", paired(still, found)
    rows.append([flipped, accuracy(model), percent(proportion(still)), percent(change)])
show(f"XGBoost, labels flipped from '{data.classes[1]}' to '{data.classes[0]}'",
     ["Records flipped", "Accuracy", "Sensitivity", "Change of sensitivity"], rows)
verdict = "the model misses patients" if change.high < 0 else "too little to be told from chance"
console.print(f"With {flipped} of the records flipped, sensitivity changes by {percent(change)}: {verdict}.")

rows, lifts = [], []
for target, label in enumerate(data.classes):
    others = test.x[test.y != target]
    for rate in (0.01, 0.05):
        poisoned, model = victim(RareValues(rate=rate, target=target))
        hit, base = (m.predict(poisoned.trigger(others)) == target for m in (model, clean))
        lifts.append(paired(hit, base))
        rows.append([f"{label}, {poisoned.mask.mean():.0%}", accuracy(model),
                     *(percent(e) for e in (proportion(hit), proportion(base), lifts[-1]))])
show("XGBoost with a backdoor: patients of the other class under the trigger",
     ["Label, rows", "Accuracy", "Success", "Clean model", "Lift"], rows)
values = zip(poisoned.trigger.columns, poisoned.trigger.values, strict=True)
console.print(f"Last trigger: {', '.join(f'{data.features[column]} {value:g}' for column, value in values)}. "
              f"{sum(lift.low > 0 for lift in lifts)} of {len(lifts)} backdoors do more than their trigger's values do "
              "to the clean model anyway; success without lift is no backdoor.")
