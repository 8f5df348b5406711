"""Three hospitals in processes of their own, over TLS: Flower's SuperLink and a SuperNode at each, on this machine.

Threat: whoever reaches the port of a federation could read what hospitals send, pose as one of them, or as the server.
Here the server shows a certificate of the hospitals' authority, each hospital signs with a key that was registered, and
what happened stands in a journal whose entries are chained by hash. Each hospital reads its own folder. How to do this
on three machines: docs/federation-deployment.md.

Run: python examples/deploy_federation.py [DATASET]
"""

import shutil
import tempfile
import tomllib
from pathlib import Path

import pandas as pd
from common import console, load_data, percent, show

from federated.deployment import PATIENTS, Agreement, fingerprint
from federated.journal import verify
from federated.loopback import Loopback
from federated.simulate import federate
from federated.sites import PARTS, BySubgroup, Dirichlet
from suite import artifacts
from suite.errors import InputError
from suite.metrics import proportion

data = load_data("heart-4sites", "pima-synthetic")
sites = (BySubgroup() if "site" in data.train.subgroups else Dirichlet(3, 0.5))(data)
sites = sorted(sites, key=lambda site: -len(site.train))[:3]
names = [site.name.split()[0] for site in sites]
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    for name, site in zip(names, sites, strict=True):
        tables = [pd.DataFrame(part.x, columns=site.features).assign(label=[data.classes[y] for y in part.y])
                  for part in (getattr(site, part) for part in PARTS)]
        (folder / name).mkdir()
        pd.concat(tables).to_csv(folder / name / PATIENTS, index=False)
    app = shutil.copytree(Path(__file__).parent / "federation_app", folder / "app")
    data.space.schema.save(app / "schema.toml")
    config = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    config |= {"hospitals": ", ".join(names), "target": "label", "classes": ", ".join(data.classes), "rounds": 5,
               "epochs": 8, "out": str(folder / "out")}
    agreed = Agreement.of(config, app)
    with Loopback(folder) as here:
        console.print(f"SuperLink on port {here.port}, with TLS and a new authority")
        here.register(*names)
        for name in [*names, "stranger"]:
            here.start(name, folder / name, patience=1)
        here.wait_for(*names)
        console.print(f"connected: {', '.join(names)}")
        try:
            here.wait_for("stranger")
        except InputError as e:
            console.print(e)
        lines = here.run(app, config)
    head = next(line.removeprefix("head ") for line in lines if line.startswith("head "))
    for line in lines:
        if line.startswith(("round ", "refused", "absent", "head ")):
            console.print(line)
    entries = verify(folder / "out" / "journal.jsonl", head)
    model = artifacts.load(folder / "out" / "model", len(data.classes), data.space)
    rows = [agreed.read(folder / name) for name in names]
    entry = (folder / "out" / "journal.jsonl").read_text().splitlines()[-1]


def here_trained(*hospitals):
    return federate(agreed.task, [own.train for own in hospitals], agreed.joining(), agreed.rounds)


def right(classifier, own):
    return percent(proportion(classifier.predict(own.test.x) == own.test.y))


same = "to the bit" if fingerprint(here_trained(*rows)) in entry else "NOT"
show("Right about a hospital's own test patients", ["hospital", "training rows", "alone", "federated", "n"],
     [[name, str(len(own.train)), right(agreed.task.classifier(here_trained(own)), own), right(model, own),
       str(len(own.test))] for name, own in zip(names, rows, strict=True)])
console.print(f"{entries} journal entries verify against the head that was printed; the model is {same} that of the "
              "same federation in one process.")
