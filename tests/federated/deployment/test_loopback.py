"""Whole deployments on this machine: Flower's programs, each in a process of its own, TLS, crashes and an attacker."""

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tomli_w

pytest.importorskip("flwr")

from flwr.common.constant import ErrorCode

from federated.deployment import certificates
from federated.deployment.agreement import Agreement
from federated.deployment.deployment import fingerprint
from federated.deployment.loopback import HOST, PROGRAMS, Loopback, free_port
from federated.flower.secure import SecAggPlus
from suite.base.errors import InputError
from suite.base.journal import verify
from suite.models import artifacts
from tests.support.deployed import NAMES, alone, configured, journal_of, make_place

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in `flwr build`
INVALID = ErrorCode.INVALID_FAB
"""Flower's code for an app that could not be verified."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def config(place, tmp_path):
    return configured(place, tmp_path / "out")


def until(ready, seconds=400):
    """Wait, with patience for machines that others share."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


EVIL = """
import tomllib
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client_app = ClientApp()
server_app = ServerApp()


@client_app.train()
def train(message, context):
    node = context.node_config
    data = Path(node.get("data") or tomllib.loads(Path(node["policy"]).read_text())["data"])
    rows = (data / "patients.csv").read_text()
    (data / "read").touch()
    return Message(RecordDict({"loot": ConfigRecord({"rows": rows})}), reply_to=message)


@server_app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict(), node, "train") for node in nodes]
    for reply in grid.send_and_receive(asked, timeout=60):
        loot = "" if reply.has_error() else reply.content["loot"]["rows"]
        print(f"loot {len(loot.splitlines())}", f"error {reply.error.code}" if reply.has_error() else "", flush=True)
    print(f"asked {len(nodes)}", flush=True)
"""


@pytest.fixture
def evil(place, tmp_path):
    """An app that reads the table of every hospital that runs it."""
    folder = tmp_path / "evil"
    folder.mkdir()
    text = (place / "app" / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(text.replace("hospital_app:", "evil:"))
    (folder / "evil.py").write_text(EVIL)
    return folder


def flwr(here, home, *arguments):
    """Flower's client with nothing but the authority's certificate, and what it says."""
    done = subprocess.run([PROGRAMS / "flwr", *arguments], env=here.environment | {"FLWR_HOME": str(home)}, text=True,
                          capture_output=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def outside(here, port, home):
    """Make somebody with `ca.pem` and a port, and no token."""
    home.mkdir()
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "there", "there": {
        "address": f"{HOST}:{port}", "root-certificates": str(here.authority)}}}))
    return home


@pytest.mark.slow
def test_two_hospitals_over_tls_survive_a_crash_and_an_attacker(place, config, evil, tmp_path):
    """A SuperLink learns of a crash a minute after the last sign of life, which is most of this test's time. Meanwhile
    one after another tries to get in; at last somebody who even has the operator's token and submits an app."""
    config |= {"least": 2, "rounds": 2, "data": ""}
    foreign = tmp_path / "foreign"
    certificates.make(foreign, ("127.0.0.1",))
    out = Path(config["out"])

    def finished():
        return [e for e in journal_of(out) if e["event"] == "round"] if (out / "journal.jsonl").exists() else []

    with Loopback(tmp_path) as here:
        here.register(*NAMES)
        app = place / "app"
        for name in NAMES:
            here.start(name, place / name, app)
        here.start_run(app, config)
        here.wait_for(*NAMES)
        until(lambda: any("Receiving: train" in line for line in here.said("south")))
        here.stop("south", signal.SIGKILL)
        here.start("stranger", place / "north", app, patience=0)  # while the SuperLink waits
        with pytest.raises(InputError, match="stranger did not start: the SuperLink does not let its key in"):
            here.wait_for("stranger")
        here.start("deceived", place / "north", app, foreign / "ca.pem", patience=0)
        with pytest.raises(InputError, match="deceived did not start: it does not trust the SuperLink"):
            here.wait_for("deceived")
        here._start("keyless", "flower-supernode", f"--superlink={HOST}:{here.port}", f"--port={free_port()}",
                    f"--root-certificates={here.authority}", "--max-retries=0")
        with pytest.raises(InputError, match="keyless did not start: the SuperLink lets in registered keys only"):
            here.wait_for("keyless")
        for port, why in ((here.port, "404 Not Found"), (here.control, "Authentication failed")):
            home = outside(here, port, tmp_path / f"outside-{port}")
            for command in (("run", str(evil), "there", "--stream"), ("supernode", "list", "there")):
                code, text = flwr(here, home, *command)
                assert code and why in text, f"somebody without a token was let in at {port}: {text}"
        until(lambda: len(finished()) == 1)
        shutil.copytree(place / "north", tmp_path / "careless-data")
        here.register("careless")
        here._start("careless", "flower-supernode", f"--superlink={HOST}:{here.port}", f"--port={free_port()}",
                    f"--root-certificates={here.authority}", f"--auth-supernode-private-key={here.keys / 'careless'}",
                    f'--node-config=data="{tmp_path / "careless-data"}"')
        here.wait_for("careless")
        stolen = [line for line in here.run(evil, {}) if line.startswith(("loot", "asked"))]
        assert sorted(stolen) == ["asked 2", f"loot 0 error {INVALID}", "loot 301"], (
            "Flower's own SuperNode gives all 300 rows, and ours none")
        assert (tmp_path / "careless-data" / "read").exists()
        assert not (place / "north" / "read").exists(), "the app ran at a hospital that had not allowed it"
        assert any("is not among the 'apps' of this hospital's policy" in line for line in here.said("north"))
        here.start("south", place / "south", app)
        here.wait_for("south")
        until(lambda: here.processes["run"].poll() is not None)
        lines = here.said("run")
    assert not here.left()
    assert [(e["asked"], e["answered"]) for e in finished()] == [(list(NAMES), ["north"]), (list(NAMES), list(NAMES))]
    agreement = Agreement.of(config, place / "app")
    wanted = alone(agreement, place, lambda k, turn: k == 1 and turn == 1)
    assert finished()[-1]["weights"] == fingerprint(wanted), "the deployed model is that of one process, to the bit"
    head = next(line for line in lines if line.startswith("head ")).removeprefix("head ")
    assert verify(out / "journal.jsonl", head) == len(journal_of(out))
    model = artifacts.load(out / "model", agreement.model, 2, agreement.table.space())
    test = agreement.read(place / "south").test
    np.testing.assert_array_equal(model.predict(test.x), agreement.task.classifier(wanted).predict(test.x))


@pytest.mark.slow
def test_nothing_is_left_when_the_program_that_started_it_is_killed(tmp_path):
    program = """if True:
        import os, pathlib, signal, sys
        from federated.deployment.loopback import Loopback
        with Loopback(pathlib.Path(sys.argv[1]), simulation=True) as here:
            print(len(here.left()) > 0, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    here = Loopback(tmp_path)
    done = subprocess.run([sys.executable, "-c", program, tmp_path], env=here.environment | {"FLWR_HOME": ""},
                          capture_output=True, text=True, timeout=400)
    assert (done.stdout, done.returncode) == ("True\n", -signal.SIGKILL), done.stderr
    until(lambda: not here.left(), 60)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra 'simulation')")
def test_flowers_simulation_gives_the_same_model(place, config, tmp_path):
    """Plainly to the bit; with secure aggregation but for rounding."""
    federation = ["num-supernodes=2", "client-resources-num-cpus=1", "init-args-num-cpus=2"]
    masked = config | {"secure": True, "rounds": 1, "out": str(tmp_path / "masked")}
    agreement, once = (Agreement.of(c, place / "app") for c in (config, masked))
    with Loopback(tmp_path, free_port(), simulation=True) as here:
        here.run(place / "app", config, federation)
        here.run(place / "app", masked, federation)
    assert not here.left()
    wanted = alone(agreement, place)
    assert journal_of(Path(config["out"]))[-1]["weights"] == fingerprint(wanted)
    model = artifacts.load(Path(masked["out"]) / "model", agreement.model, 2, agreement.table.space())
    found = np.concatenate([p.detach().numpy().ravel() for p in model.module.parameters()])
    error = SecAggPlus(max(agreement.rows)).error(agreement.rows)
    np.testing.assert_allclose(found, alone(once, place), atol=error + 1e-7)
