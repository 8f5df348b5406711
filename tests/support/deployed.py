"""Two hospitals with a table each, an app for them, and the same federation in this process."""

import json
from pathlib import Path

from federated.deployment.agreement import PATIENTS, configuration
from federated.deployment.deployment import count_rows
from federated.flower.grid import Border, InProcessGrid
from federated.flower.server_app import Joined, rounds
from federated.flower.simulate import federate
from tabular.data import shipped_schema
from tabular.synthetic import generate

APP = Path(__file__).parents[2] / "examples" / "federation_app"
NAMES = ("north", "south")


def make_place(folder):
    """A folder with the rows of two hospitals, 300 and 468 synthetic patients, and the app."""
    table = generate(seed=0)
    for name, part in zip(NAMES, (table[:300], table[300:]), strict=True):
        (folder / name).mkdir()
        part.to_csv(folder / name / PATIENTS, index=False)
    (folder / "app").mkdir()
    for name in ("pyproject.toml", "hospital_app.py"):
        (folder / "app" / name).write_bytes((APP / name).read_bytes())
    shipped_schema("pima").save(folder / "app" / "schema.toml")
    return folder


def configured(place, out):
    config = configuration(place / "app") | {
        "hospitals": ", ".join(NAMES), "target": "Outcome", "classes": "0, 1", "rounds": 3, "data": str(place),
        "model-params": '{"hidden": [8]}', "out": str(out)}
    rows = count_rows(config, place / "app", [place / name for name in NAMES])
    return config | {"rows": ", ".join(map(str, rows))}


def alone(agreement, place, absent=lambda *_: False):
    """The same federation in this process, from the same files."""
    rows = [agreement.read(place / name).train for name in agreement.hospitals]
    if not any(absent(k, turn) for k in range(len(rows)) for turn in range(1, agreement.rounds + 1)):
        return federate(agreement.task, rows, agreement.joining(), agreement.rounds)
    from federated.flower.client_app import TURN, hospital
    app = hospital(lambda context: (agreement.task, rows[context.node_config["partition-id"]],
                                    context.node_config["partition-id"]))
    grid = InProcessGrid(app, len(rows), lambda k, message: absent(k, message.content["config"][TURN]))
    return rounds(Border(grid, agreement.task.size), Joined(agreement.joining(), len(rows)),
                  agreement.task.initial(), agreement.rounds)


def journal_of(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
