"""A curious server: whose patients made an update, and how many of them are ill.

Threat: the server of a federation keeps to the protocol and remembers what passes by. It has a list of people and wants
to know which of them were treated at a hospital; an update holds the gradients of their rows, which say more than the
model's answers. Larger batches are no defense; differential privacy in the hospitals is one.

Run: python examples/curious_server.py [DATASET]
"""

from dataclasses import replace

from common import console, decimal, load_data, show

from federated.evaluate.eavesdropping import Decomposition, LabelMix
from federated.partition.sites import BySubgroup, Dirichlet
from federated.training.defense import FederatedTraining
from privacy.membership import LossThreshold
from suite.evaluate import Subject, measure
from suite.results.measurement import Sheet
from tabular.models import MLP

data = load_data("heart-4sites", "pima-synthetic")
data = (BySubgroup() if "site" in data.train.subgroups else Dirichlet(4, 0.5)).deal(data)
recipe, plain = MLP(hidden=(16,), balanced=False), FederatedTraining(rounds=20)
ways = {"nothing": plain, "batches of 128": replace(plain, batch=128),
        "secure aggregation": replace(plain, secure=True), "DP of rows, epsilon 8": replace(plain, epsilon=8.0),
        "DP of rows, epsilon 3": replace(plain, epsilon=3.0)}


def told(attack, subject, metric):
    """The row about all hospitals together."""
    sheet = Sheet(cell="example", dataset=data.name, data_sha256="", synthetic=data.provenance.synthetic, model="mlp",
                  device="cpu", seed=0)
    measure(attack, subject, sheet)
    return next(row for row in sheet.rows if row.metric == metric and not row.subgroup).estimate


lines, found = [], {}
for name, training in ways.items():
    subject = Subject(training(recipe, data.train, data.val), recipe, training, data, 0.05, (0.05,))
    answers, updates = (told(attack, subject, "membership_auroc") for attack in (LossThreshold(), Decomposition()))
    mix, guess = (told(LabelMix(rounds=2, draws=16), subject, m) for m in ("label_mix_error",
                                                                          "label_mix_error_baseline"))
    lines.append([name, decimal(answers), decimal(updates), f"{mix.value:.2f}", f"{guess.value:.2f}", str(updates.n)])
    found[name] = updates.value
show("Who was treated at a hospital (AUROC), and how many are ill (error)",
     ["hidden by", "by answers", "by updates", "mix", "guess", "n"], lines)
console.print(f"By the updates, the server finds a hospital's patients with an AUROC of {found['nothing']:.2f}, from "
              f"batches of 128 with {found['batches of 128']:.2f}; where only the sum is seen, with "
              f"{found['secure aggregation']:.2f}, and behind differential privacy with "
              f"{found['DP of rows, epsilon 3']:.2f}.")
