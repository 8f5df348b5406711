"""Three hospitals in processes of their own, over TLS: Flower's SuperLink and a SuperNode at each, on this machine.

Threat: whoever reaches the port could read updates, pose as a hospital or the server, or run a program at hospitals.
Against it: a certificate, registered keys, the one app that is allowed, a journal (docs/how-to/deploy-a-federation.md).

Run: python examples/deploy_federation.py [DATASET]
"""

import shutil
import tempfile
from pathlib import Path

import pandas as pd
from common import console, load_data, percent, show

from federated.deployment.agreement import PATIENTS, Agreement, configuration
from federated.deployment.deployment import count_rows, fingerprint
from federated.deployment.loopback import Loopback
from federated.deployment.supernode import digest
from federated.flower.simulate import federate
from federated.partition.sites import BySubgroup, Dirichlet
from suite.base.errors import InputError
from suite.base.journal import verify
from suite.core.data import joined
from suite.models import artifacts
from suite.results.metrics import proportion

data = load_data("heart-4sites", "pima-synthetic")
deal = BySubgroup() if "site" in data.train.subgroups else Dirichlet(3, 5.0)
sites = sorted(deal(data), key=lambda site: -len(site.train))[:3]
names = [site.name.split()[0] for site in sites]
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    for name, site in zip(names, sites, strict=True):
        (folder / name).mkdir()
        rows = joined(site.train, site.val, site.test)
        table = pd.DataFrame(rows.x, columns=site.features)
        table.assign(label=[data.classes[k] for k in rows.y]).to_csv(folder / name / PATIENTS, index=False)
    app = shutil.copytree(Path(__file__).parent / "federation_app", folder / "app")
    data.space.schema.save(app / "schema.toml")
    config = configuration(app) | {"hospitals": ", ".join(names), "target": "label", "classes": ", ".join(data.classes),
                                   "rounds": 3, "epochs": 12, "out": str(folder / "out")}
    config["rows"] = str(count_rows(config, app, [folder / name for name in names]))[1:-1]  # each declares its own
    with Loopback(folder) as here:
        console.print(f"SuperLink on {here.port} for hospitals (TLS, new authority); control on {here.control} (token)")
        console.print(f"each hospital allows one app, with this digest:\n{digest(app)}")
        here.register(*names)
        for name in [*names, "stranger"]:
            here.start(name, folder / (name if name in names else names[0]), app, patience=1)
        here.wait_for(*names)
        try:
            here.wait_for("stranger")
        except InputError as refused:
            console.print(refused)
        lines = here.run(app, config)
    console.print("\n".join(line for line in lines if line.startswith(("round", "refused", "absent", "head"))))
    head, journal = next(line[5:] for line in lines if line.startswith("head ")), folder / "out" / "journal.jsonl"
    entries, last, agreed = verify(journal, head), journal.read_text().splitlines()[-1], Agreement.of(config, app)
    model = artifacts.load(folder / "out" / "model", agreed.model, len(data.classes), data.space)
    read = [agreed.read(folder / name) for name in names]
*alone, same = (federate(agreed.task, [own.train for own in who], agreed.joining(), agreed.rounds)
                for who in [*([own] for own in read), read])
lines = []
for name, own, weights in zip(names, read, alone, strict=True):
    right = [percent(proportion(m.predict(own.test.x) == own.test.y)) for m in (agreed.task.classifier(weights), model)]
    lines.append([name, str(len(own.train)), *right, str(len(own.test))])
show("Right about a hospital's own test patients", ["hospital", "training rows", "alone", "federated", "n"], lines)
console.print(f"{entries} journal entries verify against the head that was printed; the model is "
              f"{'to the bit' if fingerprint(same) in last else 'NOT'} that of the same federation in one process.")
