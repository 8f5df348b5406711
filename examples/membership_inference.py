"""Membership inference: telling from a model's answers who was in its training data.

Threat: that a person's record was used for training can itself be a diagnosis. The attacker can ask the model about
candidates whose values and diagnosis it knows. "Loss" looks at the probability of the true label, "gap" at the label
alone, "quantile" at how unusual that probability is for a stranger like this one; "RMIA" and "LiRA" compare it with
shadow models of the same kind, half of which know the candidate.

Run: python examples/membership_inference.py [DATASET]
"""

from common import console, decimal, load_data, percent, show

from privacy.likelihood import RMIA, LiRA
from privacy.membership import LossThreshold, QuantileRegression, RuleBased
from suite.defenses.plain import Plain
from suite.evaluate import Subject, measure
from suite.results.measurement import Sheet
from suite.results.metrics import Estimate
from tabular.models import DEEP, MLP, RandomForest

SHADOWS = 16

data = load_data()
models = {"MLP": MLP(), "forest": RandomForest(), "deep forest": DEEP}
attacks = {"gap": RuleBased(), "loss": LossThreshold(), "quantile": QuantileRegression(),
           f"RMIA, {SHADOWS} shadows": RMIA(SHADOWS), f"LiRA, {SHADOWS} shadows": LiRA(SHADOWS)}
rows, leaks = [], {}
for name, recipe in models.items():
    model = recipe.fit(data.train, data.val)
    accuracy = " / ".join(f"{(model.predict(s.x) == s.y).mean():.0%}" for s in (data.train, data.test))
    subject = Subject(model, recipe, Plain(), data, eps=0.05, budgets=(0.05,))
    for title, attack in attacks.items():
        sheet = Sheet(cell=name, dataset=data.name, data_sha256=data.provenance.sha256,
                      synthetic=data.provenance.synthetic, model=name, device="cpu", seed=0)
        measure(attack, subject, sheet)
        found = {row.metric: Estimate(row.value, row.ci_low, row.ci_high, row.n) for row in sheet.rows
                 if not row.subgroup}
        leaks[f"{title} on {name}"] = found["membership_auroc"]
        rows.append([f"{name} ({title})", accuracy, decimal(found["membership_auroc"]),
                     percent(found["tpr_at_fpr[0.05]"])])
show("Members told from as many others", ["Model (attack)", "Train / test", "AUC", "TPR at 5% FPR"], rows)

worst = max(leaks, key=lambda name: leaks[name].low)
console.print(f"AUC 0.5 and a TPR of 5% are guessing. The clearest: {worst}, {decimal(leaks[worst])}. What the loss "
              "alone does not show, shadow models may; that nobody is found is no proof of privacy.")
