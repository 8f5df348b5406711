"""The federation as a Flower app: in process on a grid that looks like Flower's, by Ray, and deployed over TLS."""

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Error, Message

from federated.aggregation.aggregate import Mean, TrimmedMean
from federated.deployment import certificates
from federated.deployment.agreement import PATIENTS, Agreement
from federated.deployment.deployment import carry_out, fingerprint, hospital_app
from federated.deployment.loopback import Loopback
from federated.flower.grid import FIRST
from federated.flower.roster import Roster
from federated.flower.secure import SecAggPlus
from suite.base.errors import InputError
from suite.base.journal import verify
from suite.models import artifacts
from tests.support.deployed import NAMES, alone, configured, journal_of, make_place
from tests.support.like_flowers import LikeFlowers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def config(place, tmp_path):
    return configured(place, tmp_path / "out")


def run_here(place, config, **named):
    agreement = Agreement.of(config, place / "app")
    names = named.pop("names", NAMES)
    return agreement, carry_out(agreement, LikeFlowers(hospital_app(place / "app"), place, config, names, **named))


def test_the_app_trains_the_model_of_the_grid_in_one_process_to_the_bit(place, config, capsys):
    agreement, found = run_here(place, config)
    np.testing.assert_array_equal(found, alone(agreement, place))
    out = Path(agreement.out)
    model = artifacts.load(out / "model", agreement.model, 2, agreement.table.space())
    test = agreement.read(place / "south").test
    wanted = agreement.task.classifier(found)
    np.testing.assert_array_equal(model.predict_proba(test.x), wanted.predict_proba(test.x))
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("head "))
    assert verify(out / "journal.jsonl", head.removeprefix("head ")) == 5
    entries = journal_of(out)
    assert [e["event"] for e in entries] == ["start", "round", "round", "round", "end"]
    assert entries[0]["agreement"]["rows"] == [len(agreement.read(place / name).train) for name in NAMES]
    assert entries[0]["agreement"]["hospitals"] == list(NAMES)
    assert all(e["asked"] == e["answered"] == list(NAMES) for e in entries[1:4])
    assert entries[-1]["weights"] == fingerprint(found)


def test_the_order_and_numbers_of_nodes_do_not_matter(place, config):
    first = run_here(place, config)[1]
    other = run_here(place, config, names=NAMES[::-1], nodes=(5, 6))[1]
    np.testing.assert_array_equal(first, other)


def test_secure_aggregation_gives_the_same_but_for_rounding(place, config):
    agreement, found = run_here(place, config | {"secure": True, "rounds": 1})
    error = SecAggPlus(max(agreement.rows)).error(agreement.rows)
    np.testing.assert_allclose(found, alone(agreement, place), atol=error + 1e-7)
    assert error < 1e-5
    assert not np.array_equal(found, agreement.task.initial())


def test_who_was_offline_is_missing_in_that_round_only(place, config):
    asked = []

    def offline():
        asked.append(1)
        return ("south",) if len(asked) == 2 else ()

    agreement, found = run_here(place, config, offline=offline)
    np.testing.assert_array_equal(found, alone(agreement, place, lambda k, turn: k == 1 and turn == 2))
    assert [e["answered"] for e in journal_of(Path(agreement.out)) if e["event"] == "round"] == [
        ["north", "south"], ["north"], ["north", "south"]]


def test_a_round_waits_for_the_least_number_of_hospitals(place, config):
    asked = []

    def offline():
        asked.append(1)
        return ("south",) if len(asked) == 2 else ()

    agreement, found = run_here(place, config | {"least": 2}, offline=offline)
    assert len(asked) == 4
    np.testing.assert_array_equal(found, alone(agreement, place))


def test_strangers_are_not_asked_and_two_of_one_name_are_refused(place, config):
    agreement = Agreement.of(config, place / "app")
    grid = LikeFlowers(hospital_app(place / "app"), place, config, (*NAMES, "west"), (5, 6, 7))
    told = []
    roster = Roster(grid, NAMES, event=lambda *e: told.append(e))
    assert roster.get_node_ids() == roster.get_node_ids() == [FIRST, FIRST + 1]
    assert told == [("stranger", {"name": "west"})]
    twice = Roster(LikeFlowers(hospital_app(place / "app"), place, config, ("south", "south"), (5, 6)), NAMES)
    with pytest.raises(InputError, match="two SuperNodes are registered as hospital 'south'"):
        twice.get_node_ids()
    assert agreement.hospitals == NAMES


def test_a_reply_that_flower_makes_up_for_a_lost_node_is_that_hospitals(place, config):
    grid = LikeFlowers(hospital_app(place / "app"), place, config, NAMES)

    class Losing(type(grid)):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            lost = Message(Error(4, "node_unavail"), reply_to=messages[1])
            lost.metadata.__dict__["_src_node_id"] = 1
            return [replies[0], lost]

    grid.__class__ = Losing
    agreement = Agreement.of(config, place / "app")
    carry_out(agreement, grid)
    refused = [e for e in journal_of(Path(agreement.out)) if e["event"] == "refused"]
    assert [(e["hospital"], e["why"]) for e in refused] == [("south", "it failed: node_unavail")] * 3


def test_a_hospitals_data_error_stays_at_the_hospital(place, config, tmp_path, capfd):
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / PATIENTS).write_bytes((place / name / PATIENTS).read_bytes())
    text = (tmp_path / "south" / PATIENTS).read_text().splitlines()
    cells = text[5].split(",")
    cells[-2] = "9876543"  # a patient's age
    (tmp_path / "south" / PATIENTS).write_text("\n".join([*text[:5], ",".join(cells), *text[6:]]))
    agreement = Agreement.of(config, place / "app")
    carry_out(agreement, LikeFlowers(hospital_app(place / "app"), tmp_path, config, NAMES))
    refused = [e for e in journal_of(Path(agreement.out)) if e["event"] == "refused"]
    assert len(refused) == 3
    assert {e["hospital"] for e in refused} == {"south"}
    assert "9876543" not in json.dumps(refused)
    told = capfd.readouterr().err
    assert "error: hospital 'south': patients.csv:" in told
    assert "9876543" in told


def test_a_label_that_nobody_agreed_on_is_refused_and_a_missing_one_is_not(place, config):
    three = Agreement.of(config | {"classes": "1, 0, 2"}, place / "app")
    own, other = three.read(place / "north").train, Agreement.of(config, place / "app").read(place / "north").train
    assert own.classes == ("1", "0", "2")
    np.testing.assert_array_equal(own.y, 1 - other.y)
    with pytest.raises(InputError, match="'Outcome' holds '0', which is none of the agreed classes 1, 2"):
        Agreement.of(config | {"classes": "1, 2"}, place / "app").read(place / "north")


@pytest.mark.parametrize(("change", "line"), [
    ({"hospitals": "a, a"}, "hospitals: .* no list of different names"),
    ({"rounds": 0}, "rounds: "),
    ({"model-params": "{"}, "model-params: "),
    ({"colour": 1}, "colour: "),
    ({"model": "xgboost", "model-params": "{}"}, "'xgboost' is no network"),
    ({"rule": "average"}, "unknown aggregation 'average'"),
    ({"rule": "trimmed-mean", "rule-params": '{"bad": "x"}'}, "'trimmed-mean': bad: "),
    ({"rule": "median", "secure": True}, "secure aggregation gives the mean only"),
    ({"out": "here"}, "absolute folder"),
], ids=lambda value: "" if isinstance(value, str) else "-".join(value))
def test_a_wrong_agreement_is_refused_in_one_line(place, config, change, line):
    with pytest.raises(InputError, match=line) as told:
        run_here(place, config | change)
    assert "\n" not in str(told.value)


def test_rules_come_with_their_parameters(place, config):
    made = Agreement.of(config | {"rule": "trimmed-mean", "rule-params": '{"bad": 1}'}, place / "app")
    assert made.joining() == TrimmedMean(bad=1)
    assert Agreement.of(config, place / "app").joining() == Mean()


def test_a_port_in_use_and_an_expired_certificate_are_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"port \d+ is in use"), Loopback(tmp_path, taken.getsockname()[1]):
            pass
    certificates.make(tmp_path / "keys", ("127.0.0.1",), 1, datetime.now(UTC) - timedelta(days=3))
    with pytest.raises(InputError, match=r"ca\.pem expired on"), Loopback(tmp_path) as here:
        pass
    assert not list(tmp_path.glob("*.log"))
    assert "here" not in locals()
