"""Attribute inference: guessing what a patient did not tell from what the model says.

Threat: the attacker knows a patient but for one value, and may ask the model. "Answer" learns the hidden column from
the other columns and the model's label; "confidence" tries values, and believes those that make the model sure of the
patient's true diagnosis. Both are told as gain over an imputation that knows as much but asks no model: what follows
from the other columns is no leak. The more a model remembers, the more it gives away.

Run: python examples/attribute_inference.py [DATASET]
"""

from common import console, load_data, percent, show

from privacy.attribute import AttributeBlackBox, AttributeByConfidence
from suite.defenses.plain import Plain
from suite.evaluate import Subject, measure
from suite.results.measurement import Sheet
from suite.results.metrics import Estimate
from tabular.models import DEEP, LogisticRegression, RandomForest

data = load_data()
models = {"linear": LogisticRegression(), "forest": RandomForest(), "deep forest": DEEP}
attacks = {"answer": AttributeBlackBox(), "confidence": AttributeByConfidence()}
rows, gains = [], {}
for name, recipe in models.items():
    model = recipe.fit(data.train, data.val)
    subject = Subject(model, recipe, Plain(), data, eps=0.05, budgets=(0.05,))
    for title, attack in attacks.items():
        sheet = Sheet(cell=name, dataset=data.name, data_sha256=data.provenance.sha256,
                      synthetic=data.provenance.synthetic, model=name, device="cpu", seed=0)
        measure(attack, subject, sheet)
        told = {row.attack_params["column"]: row for row in sheet.rows if row.metric == "attribute_gain"}
        most = max(told, key=lambda column: told[column].value)
        gains[f"{title} on {name}"] = sum(row.value for row in told.values()) / len(told)
        best = told[most]
        rows.append([f"{name} ({title})", f"{100 * gains[f'{title} on {name}']:+.1f}", most,
                     percent(Estimate(best.value, best.ci_low, best.ci_high, best.n))])
show("Hidden values of training patients: gain over imputation",
     ["Model (attack)", "Mean points", "Most for", "By"], rows)
most = max(gains, key=gains.get)
console.print(f"\nMost is given away by {most}: {100 * gains[most]:.1f} points over imputation, on average of "
              f"{len(data.features)} columns.")
