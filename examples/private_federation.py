"""Four hospitals train one model, and promise how little it tells: of a patient, or of a hospital as a whole.

Threat: whoever sees what a hospital sends, round after round, asks whether a patient was among its rows; whoever sees
the models asks whether a hospital took part. DP-SGD in each hospital bounds the first, noise at a trusted server the
second. A budget is for all rounds together: a hospital keeps account of it, and once it is spent, answers no more.

Run: python examples/private_federation.py [DATASET]
"""

from dataclasses import replace

from common import console, decimal, load_data, show

from federated.aggregation.aggregate import Mean
from federated.aggregation.private import CentralDP, RecordDP, Round, claims, spent
from federated.flower.simulate import federate
from federated.partition.sites import BySubgroup, Dirichlet
from federated.task.task import Task
from suite.results.metrics import auroc, bootstrap
from tabular.models import LogisticRegression

ROUNDS, EPSILONS, DELTA = 20, (8, 3, 1), 1e-5
data = load_data("heart-4sites", "pima-synthetic")
sites = (BySubgroup() if "site" in data.train.subgroups else Dirichlet(4, 0.5))(data)
rows, sizes = [s.train for s in sites], [len(s.train) for s in sites]
task = Task(LogisticRegression(), data.train.x.shape[1:], data.classes, data.space, batch=64, lr=0.3)


def tested(weights):
    score, ill = task.classifier(weights).predict_proba(data.test.x)[:, 1], data.test.y == 1
    return bootstrap(lambda i: auroc(score[i], ill[i]), len(score), strata=ill)


def both(claim):
    return f"{claim.epsilon:.2f} / {claim.independent:.2f}"


found, promised, refused = {"nothing": tested(federate(task, rows, Mean(), ROUNDS))}, {}, []
for epsilon in EPSILONS:
    private = replace(task, private=RecordDP(epsilon, ROUNDS))
    weights = federate(private, rows, Mean(), ROUNDS + 1, event=lambda what, facts: refused.append((what, facts)))
    found[f"patients, epsilon {epsilon}"] = tested(weights)
    promised[epsilon] = claims(private.private, sizes, task.batch, task.epochs)
for epsilon in EPSILONS:
    rule = CentralDP.promising(epsilon, DELTA, ROUNDS, len(sites), clip=0.3)
    found[f"hospitals, epsilon {epsilon}"] = tested(federate(task, rows, rule, ROUNDS))
    promised[f"hospitals, epsilon {epsilon}"] = rule.claim(ROUNDS, DELTA)

show(f"Epsilon of {ROUNDS} rounds, claimed / checked; refused: one round more",
     ["hospital", "rows", "delta", *[f"epsilon {e}" for e in EPSILONS], "refused"],
     [[s.name, str(n), f"{promised[1][k].delta:g}",
       *[both(promised[e][k]) for e in EPSILONS],
       f"{sum(facts.get('hospital') == k for _, facts in refused)} of {len(EPSILONS)}"]
      for k, (s, n) in enumerate(zip(sites, sizes, strict=True))])
show(f"What hiding costs on {len(data.test)} test patients", ["hidden", "claimed / checked", "AUROC"],
     [[name, both(promised[name]) if name in promised else "", decimal(a)] for name, a in found.items()])

biggest = RecordDP(1, 1).terms(max(sizes), task.batch, task.epochs)
forgotten, _ = spent([Round(turn, *biggest[:3]) for turn in range(ROUNDS)], biggest.delta)
console.print(f"From an AUROC of {found['nothing'].value:.2f}, hiding a patient at epsilon 1 leads to "
              f"{found['patients, epsilon 1'].value:.2f}, hiding one of {len(sites)} hospitals to "
              f"{found['hospitals, epsilon 1'].value:.2f}. Whoever spends epsilon 1 anew in each of {ROUNDS} rounds "
              f"spends {forgotten:.1f}.")
