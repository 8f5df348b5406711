"""The two programs that stand around Flower's: what a SuperNode runs, and who reaches and controls a SuperLink."""

import asyncio
import hashlib
import json
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

pytest.importorskip("flwr")

from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as FlowerMessage
from flwr.supercore.fab import Fab
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.start_client_internal import _verify_fab

from federated.deployment import superlink, supernode
from federated.deployment.policy import Policy
from federated.deployment.superlink import MAX_REQUEST, FleetOnly, Token
from federated.deployment.supernode import SIGNER, Gate
from suite.base.errors import InputError
from tests.support.deployed import make_place

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # in `flwr build`
APP, OTHER = b"the app", b"another app"
DIGEST = hashlib.sha256(APP).hexdigest()


def verified(gate, fab):
    """What Flower itself makes of an app."""
    return bool(fab.verifications.get("valid_license")) and _verify_fab(fab, {SIGNER: gate.public})


def guarded(gate, content=APP, verifications=None, kind="flwr-serverapp", objects=(b"",), most=100):
    """The callbacks of a connection to a SuperLink that sends `content` as the app, and `objects` in a message."""
    items = iter(objects)

    @contextmanager
    def connect():
        yield (7, lambda: "message", None, lambda run: SimpleNamespace(primary_task_type=kind),
               lambda digest, run: Fab(digest, content, verifications or {}), lambda run, item: next(items), None, None)

    return gate.guard(connect, most)()


def test_flower_verifies_an_allowed_app_and_no_other():
    gate = Gate((DIGEST,))
    for content, wanted in ((APP, True), (OTHER, False)):
        with guarded(gate, content) as (*_, get_fab, _pull, _push, _confirm):
            assert verified(gate, get_fab("", 1)) is wanted


def test_signatures_of_others_are_not_taken_over():
    """The server's side could send those of any key, and of an earlier start of this hospital."""
    gate, earlier = Gate((DIGEST,)), Gate((hashlib.sha256(OTHER).hexdigest(),))
    forged = earlier.sign(OTHER)
    assert verified(earlier, Fab("", OTHER, forged))
    with guarded(gate, OTHER, forged) as (*_, get_fab, _pull, _push, _confirm):
        assert not verified(gate, get_fab("", 1))
    assert not verified(gate, Fab("", OTHER, gate.sign(APP))), "a signature is of one app"


def test_where_the_guard_is_not_in_place_nothing_runs():
    """As if Flower had moved what is replaced: it trusts one key, and the server's side has no signature of it."""
    gate = Gate((DIGEST,))
    assert not verified(gate, Fab("", APP, {}))
    assert not verified(gate, Fab("", APP, {"valid_license": "yes", SIGNER: json.dumps(
        {"signed_at": 0, "signature": "A" * 86})}))


@pytest.mark.parametrize("kind", ["flwr-agentapp", "flwr-model"])
def test_only_federations_run(kind):
    with guarded(Gate((DIGEST,)), kind=kind) as (_, _receive, _send, get_run, *_), \
            pytest.raises(RunNotRunningException):
        get_run(1)


def test_a_message_larger_than_the_policy_allows_is_dropped():
    with guarded(Gate((DIGEST,)), objects=[b"x" * 60, b"x" * 40, b"x" * 100, b"x"]) as (_, receive, *_, pull, _p, _c):
        receive()
        assert len(pull(1, "a")) + len(pull(1, "b")) == 100
        receive()
        pull(1, "c")
        with pytest.raises(InputError, match="more than 100 bytes"):
            pull(1, "d")


def test_an_app_larger_than_any_is_refused():
    with guarded(Gate((DIGEST,)), b"x" * (supernode.MAX_FAB + 1)) as (*_, get_fab, _pull, _push, _confirm), \
            pytest.raises(InputError, match="an app of more than"):
        get_fab("", 1)


@pytest.mark.parametrize(("headers", "fine"), [
    ({"content-length": "100"}, True), ({"content-length": "101"}, False), ({}, False),
    ({"content-length": "x"}, False), ({"content-length": "10", "content-encoding": "gzip"}, False)])
def test_a_response_that_is_too_large_is_not_read(headers, fine):
    def content():
        if not fine:
            pytest.fail("it was read")
        yield b"x" * 100

    client = supernode.bounded(FleetHttpClient, 100)("https://hub")
    client._client._transport = httpx.MockTransport(
        lambda request: httpx.Response(200, headers=headers, content=content()))
    client._client._mounts = {}
    if fine:
        assert len(client._client.post("https://hub/v1/fleet/pull-object").content) == 100
    else:
        with pytest.raises(InputError, match="a response of the server is compressed, of unknown length or of more"):
            client._client.post("https://hub/v1/fleet/pull-object")


def test_a_digest_is_that_of_what_is_sent_and_changes_with_any_file(tmp_path):
    from flwr.cli.build import build_fab_from_disk
    app = make_place(tmp_path) / "app"
    first = supernode.digest(app)
    assert first == hashlib.sha256(build_fab_from_disk(app)).hexdigest() == supernode.digest(app)
    (app / "hospital_app.py").write_text((app / "hospital_app.py").read_text() + "\n")
    assert supernode.digest(app) != first
    with pytest.raises(InputError, match=r"no app, as there is no pyproject\.toml"):
        supernode.digest(tmp_path)


@pytest.fixture
def policy(tmp_path):
    def write(**keys):
        path = tmp_path / "policy.toml"
        whole = {"hospital": "north", "data": str(tmp_path), "apps": [DIGEST]} | keys
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in whole.items()))
        return path

    return write


@pytest.fixture
def started(monkeypatch):
    """How Flower's SuperNode was started, instead of starting it."""
    found = {}

    def start():
        found["arguments"] = list(sys.argv)
        found["trusted"] = Path(sys.argv[sys.argv.index("--trusted-entities") + 1]).read_text()

    client, program = (import_module(f"flwr.supernode.{name}") for name in
                       ("start_client_internal", "cli.flower_supernode"))
    monkeypatch.setattr(program, "flower_supernode", start)
    monkeypatch.setattr(client, "http_request_response", client.http_request_response)
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", FleetHttpClient)
    monkeypatch.setattr(sys, "argv", [])
    return found


def test_a_supernode_is_started_with_its_policy_and_one_trusted_key(policy, started):
    path = policy()
    assert supernode.main([str(path), "--superlink", "hub:9092"]) == 0
    assert started["arguments"][:3] == ["flower-supernode", "--superlink", "hub:9092"]
    assert started["arguments"][-1] == f'policy="{path}"'
    assert list(json.loads(started["trusted"])) == [SIGNER]
    assert fleet_http_connection.FleetHttpClient.__name__ == "Bounded"


@pytest.mark.parametrize(("keys", "line"), [
    ({"apps": []}, "apps: empty, so that no app may run"), ({"hospital": ""}, "hospital: missing"),
    ({"data": "/no/such/folder"}, "data: give the folder"),
], ids=lambda value: "" if isinstance(value, str) else next(iter(value)))
def test_without_an_allowed_app_a_name_or_rows_nothing_starts(keys, line, policy, started, capsys):
    assert supernode.main([str(policy(**keys)), "--superlink", "hub:9092"]) == 2
    assert line in capsys.readouterr().err
    assert not started


@pytest.mark.parametrize("option", ["--trusted-entities=x", "--trusted", "--node-config", "--insecure",
                                    "--allow-runtime-dependency-installation"])
def test_options_that_would_undo_the_policy_are_refused(option, policy, started, capsys):
    assert supernode.main([str(policy()), option]) == 2
    assert "leave it out" in capsys.readouterr().err
    assert not started


def answer(app, path, bodies=(b"",), key=b"north"):
    """The status that an ASGI application answers with."""
    pieces, found = [{"type": "http.request", "body": body, "more_body": True} for body in bodies], []

    async def receive():
        return pieces.pop(0) if pieces else {"type": "http.request", "body": b"", "more_body": False}

    async def send(event):
        found.append(event.get("status"))

    asyncio.run(app({"type": "http", "path": path, "headers": [(b"flwr-public-key", key)]}, receive, send))
    return found[0]


def flowers(status=200):
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": status})

    return app


@pytest.mark.parametrize(("path", "status"), [
    ("/v1/fleet/pull-messages", 200), ("/health", 200), ("/v1/control/start-run", 404),
    ("/v1/control/register-node", 404), ("/v1/runtime/acquire-task", 404), ("/docs", 404), ("/", 404),
    ("/v1/fleet", 404), ("//v1/control/start-run", 404)])
def test_hospitals_reach_the_fleet_and_nothing_else(path, status):
    assert answer(FleetOnly(flowers()), path) == status


def test_a_websocket_is_closed():
    found = []

    async def send(event):
        found.append(event["type"])

    asyncio.run(FleetOnly(flowers())({"type": "websocket", "path": "/v1/fleet/x", "headers": []}, None, send))
    assert found == ["websocket.close"]


def test_one_request_and_one_reply_may_take_so_many_bytes():
    push, mb = "/v1/fleet/push-object", b"x" * 2**20
    assert answer(FleetOnly(flowers()), push, [mb] * (MAX_REQUEST // 2**20 + 1)) == 413
    gate = FleetOnly(flowers(), most=3 * 2**20)
    assert [answer(gate, push, [mb]) for _ in range(5)] == [200, 200, 200, 413, 413]
    assert answer(gate, push, [mb], key=b"south") == 200, "others go on"


def fleet(messages, status=200):
    """Flower, which has so many messages for the hospital that asks."""
    async def app(scope, receive, send):
        await flowers(status)(scope, receive, send)
        if scope["path"].endswith("pull-messages"):
            whole = PullMessagesResponse(messages_list=[FlowerMessage()] * min(len(messages), 1)).SerializeToString()
            del messages[:1]
            await send({"type": "http.response.body", "body": whole})

    return app


def test_a_reply_begins_anew_only_after_a_message():
    push, begin, pull, mb = (*(f"/v1/fleet/push-{what}" for what in ("object", "messages")),
                             "/v1/fleet/pull-messages", b"x" * 2**20)
    gate = FleetOnly(fleet(["one", "two"]), most=2 * 2**20)
    assert [answer(gate, path) for path in (pull, begin)] == [200, 200]
    assert [answer(gate, push, [mb]) for _ in range(3)] == [200, 200, 413]
    for _ in range(3):  # replies to nothing
        assert answer(gate, begin) == 200
        assert answer(gate, push, [mb]) == 413
    assert [answer(gate, path) for path in (pull, begin)] == [200, 200]
    assert [answer(gate, push, [mb]) for _ in range(3)] == [200, 200, 413]
    assert answer(gate, pull) == 200  # there is no third message
    assert [answer(gate, begin), answer(gate, push, [mb])] == [200, 413]


def test_a_reply_that_flower_refuses_can_be_tried_again():
    gate, mb = FleetOnly(fleet(["one"]), most=2 * 2**20), b"x" * 2**20
    assert [answer(gate, path) for path in ("/v1/fleet/pull-messages", "/v1/fleet/push-messages")] == [200, 200]
    assert [answer(gate, "/v1/fleet/push-object", [mb]) for _ in range(3)] == [200, 200, 413]
    gate._asked.add(b"north")  # another message was sent
    gate._app = flowers(500)
    assert answer(gate, "/v1/fleet/push-messages") == 500
    gate._app = flowers()
    assert answer(gate, "/v1/fleet/push-messages") == 200
    assert answer(gate, "/v1/fleet/push-object", [mb]) == 200


async def _at_once(gate, requests, body):
    """The statuses of requests that all arrive before any of them is answered."""
    arrived, found = asyncio.Event(), []

    async def one(number):
        sent = iter([body])

        async def receive():
            if number == requests - 1:
                arrived.set()
            await arrived.wait()
            return {"type": "http.request", "body": next(sent, b""), "more_body": False}

        async def send(event):
            if "status" in event:
                found.append(event["status"])

        await gate({"type": "http", "path": "/v1/fleet/push-object", "headers": [(b"flwr-public-key", b"north")]},
                   receive, send)

    await asyncio.gather(*(one(number) for number in range(requests)))
    return sorted(found)


def slow():
    """Flower, which answers after all others have been asked."""
    async def app(scope, receive, send):
        await receive()
        for _ in range(10):
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200})

    return app


def test_requests_at_the_same_time_are_counted_together():
    gate = FleetOnly(slow(), most=3 * 2**20)
    assert asyncio.run(_at_once(gate, 6, b"x" * 2**20)) == [200] * 3 + [413] * 3


def test_what_is_held_for_all_senders_together_is_bounded():
    gate = FleetOnly(slow(), held=2 * 2**20)
    assert asyncio.run(_at_once(gate, 4, b"x" * 2**20)) == [200] * 2 + [503] * 2
    assert asyncio.run(_at_once(gate, 2, b"x" * 2**20)) == [200] * 2, "what was answered is free again"


@pytest.mark.parametrize("length", [str(MAX_REQUEST + 1).encode(), b"-1", b"x"])
def test_a_length_that_is_too_large_is_refused_before_anything_is_read(length):
    async def receive():
        pytest.fail("it was read")

    found = []

    async def send(event):
        found.append(event.get("status"))

    asyncio.run(FleetOnly(flowers())({"type": "http", "path": "/v1/fleet/push-object",
                                      "headers": [(b"content-length", length)]}, receive, send))
    assert found[0] == 413


def test_a_request_that_never_ends_is_given_up():
    async def receive():
        await asyncio.sleep(30)

    found = []

    async def send(event):
        found.append(event.get("status"))

    asyncio.run(FleetOnly(flowers(), patience=0.01)({"type": "http", "path": "/v1/fleet/push-object", "headers": []},
                                                    receive, send))
    assert found[0] == 408


def test_what_a_stranger_sends_in_a_hospitals_name_does_not_count():
    statuses = iter([401, 401, 401, 200])

    async def app(scope, receive, send):
        await flowers(next(statuses))(scope, receive, send)

    gate = FleetOnly(app, most=2**20)
    assert [answer(gate, "/v1/fleet/push-object", [b"x" * 2**20]) for _ in range(4)] == [401, 401, 401, 200]


def test_control_wants_the_token():
    plugin = Token("t" * 43)
    assert plugin.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, "t" * 43)])[0]
    for given in ([], [(ACCESS_TOKEN_KEY, "")], [(ACCESS_TOKEN_KEY, "t" * 42)], [(ACCESS_TOKEN_KEY, b"\xff" * 43)]):
        assert plugin.validate_tokens_in_metadata(given) == (False, None)


def test_a_token_is_long_new_and_its_owners_alone(tmp_path, capsys):
    first, second = tmp_path / "a", tmp_path / "b"
    assert superlink.main(["token", str(first)]) == superlink.main(["token", str(second)]) == 0
    assert first.stat().st_mode & 0o777 == 0o600
    assert superlink.read_token(first) != superlink.read_token(second)
    assert superlink.main(["token", str(first)]) == 2
    second.chmod(0o644)
    with pytest.raises(InputError, match="others can read it; run `chmod 600"):
        superlink.read_token(second)
    first.write_text("short")
    with pytest.raises(InputError, match="5 characters, at least 32 are needed"):
        superlink.read_token(first)
    assert "is there already" in capsys.readouterr().err


def test_a_superlink_always_asks_hospitals_for_registered_keys(tmp_path, monkeypatch):
    program = import_module("flwr.superlink.cli.flower_superlink")
    for name in ("flower_superlink", "load_control_authn_plugin", "uvicorn"):
        monkeypatch.setattr(program, name, lambda: None)
    monkeypatch.setattr(sys, "argv", [])
    superlink.make_token(tmp_path / "token")
    asked = [f"--token={tmp_path / 'token'}", "--fleet-port=9092", "--port=9093"]
    assert superlink.main(asked) == 0
    assert sys.argv == ["flower-superlink", "--host", "127.0.0.1", "--port=9093", "--enable-supernode-auth"]
    assert isinstance(program.load_control_authn_plugin(), Token)
    for refused in ("--insecure", "--insec", "--simul", "--simulation", "--insecure=1"):
        assert superlink.main([*asked, refused]) == 2, refused
    assert superlink.main([*asked, "--max-reply", "0"]) == 2


def test_the_defaults_allow_no_app():
    assert Policy().apps == ()
