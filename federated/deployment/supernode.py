"""A hospital's SuperNode that runs no app but those that the hospital has allowed.

Flower's `flower-supernode` runs whatever app the SuperLink hands it, as the user that it runs as, beside the rows. Its
own guard (`--trusted-entities`) wants signatures that only Flower's hosted service attaches to an app. Here the
hospital attaches them: this program makes a key pair when it starts, makes Flower trust this key and no other, and
signs an app that the SuperLink sends only where its SHA-256 is in the hospital's policy
(`federated.deployment.policy`). Flower verifies before it unpacks an app, and refuses one without that signature with
an error. So if an update of Flower moved what is replaced here, nothing would be signed, and no app would run at all::

    python -m federated.deployment.supernode digest APP              # SHA-256 of an app's folder, to compare and to
    allow python -m federated.deployment.supernode check POLICY            # exit code 2 and one line where the file is
    wrong python -m federated.deployment.supernode rows APP POLICY         # training rows of this hospital, to be
    declared python -m federated.deployment.supernode POLICY --superlink ...  # and all other options of
    flower-supernode

An app that is allowed runs with the rights of this program's user. The digest covers all files of the app and no run
configuration, which the policy bounds, and not this package, which the hospital installs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federated.deployment.arguments import refuse
from federated.deployment.policy import Policy
from suite.base.errors import InputError

SIGNER = "hospital"
"""Name of the hospital's own key among Flower's trusted entities."""
OURS = ("--trusted-entities", "--node-config", "--allow-runtime-dependency-installation", "--insecure")
"""Options of flower-supernode that the policy stands for, or that would undo it."""
MAX_FAB = 10 * 2**20
"""Bytes of an app; `flwr run` sends none that is larger."""
MAX_ENVELOPE = 64 * 2**10
"""Bytes that a message or an app may take beside its content."""


class Gate:
    """Signs the apps that a hospital has allowed, and no other.

    Args:
        allowed: SHA-256 digests of FAB files.
        told: Told of each app, in one line.
    """

    def __init__(self, allowed: tuple[str, ...], told: Callable[[str], None] = lambda _: None) -> None:
        self._allowed, self._told, self._key = frozenset(allowed), told, Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        """The key that Flower is to trust, as OpenSSH writes it."""
        return self._key.public_key().public_bytes(serialization.Encoding.OpenSSH,
                                                   serialization.PublicFormat.OpenSSH).decode()

    def sign(self, content: bytes) -> dict[str, str]:
        """What Flower verifies of an app, or nothing where it is not allowed.

        Args:
            content: The FAB file.
        """
        from flwr.supercore.primitives.asymmetric_ed25519 import create_message_to_sign

        whole = hashlib.sha256(content)
        if whole.hexdigest() not in self._allowed:
            self._told(f"refused: app {whole.hexdigest()} is not among the 'apps' of this hospital's policy")
            return {}
        self._told(f"allowed: app {whole.hexdigest()}")
        moment = 0  # Flower signs the time of a review; here the key itself is as old as the program
        signature = self._key.sign(create_message_to_sign(whole.digest(), moment))
        made = {"signed_at": moment, "signature": base64.urlsafe_b64encode(signature).decode()}
        return {"valid_license": SIGNER, SIGNER: json.dumps(made)}

    def guard(self, connect: Callable[..., Any], most: int) -> Callable[..., Any]:
        """Flower's connection to a SuperLink, whose apps have the hospital's signatures in place of any others.

        Args:
            connect: A context manager that gives Flower's eight callbacks.
            most: Bytes that one message from the server may take; a longer one is dropped.
        """
        from flwr.supercore.constant import TaskType
        from flwr.supercore.fab import Fab
        from flwr.supercore.run import RunNotRunningException

        @contextmanager
        def guarded(*arguments: Any, **named: Any) -> Iterator[tuple[Any, ...]]:
            with connect(*arguments, **named) as (node, receive, send, get_run, get_fab, pull, push, confirm):
                taken = 0

                def counted_receive() -> Any:
                    nonlocal taken
                    taken = 0
                    return receive()

                def counted_pull(run: int, item: str) -> bytes:
                    nonlocal taken
                    content = pull(run, item)
                    taken += len(content)
                    if taken > most:
                        self._told(f"refused: a message of more than {most} bytes")
                        raise InputError(f"a message of more than {most} bytes")
                    return content

                def plain_run(number: int) -> Any:
                    run = get_run(number)
                    if run.primary_task_type not in ("", TaskType.SERVER_APP):
                        self._told("refused: a run that is no federation")
                        raise RunNotRunningException
                    return run

                def signed_fab(digest: str, run: int) -> Fab:
                    fab = get_fab(digest, run)
                    if len(fab.content) > MAX_FAB:
                        self._told(f"refused: an app of more than {MAX_FAB} bytes")
                        raise InputError(f"an app of more than {MAX_FAB} bytes")
                    return Fab(fab.hash_str, fab.content, self.sign(fab.content))

                yield node, counted_receive, send, plain_run, signed_fab, counted_pull, push, confirm

        return guarded


def bounded(client: type, most: int) -> type:
    """Flower's HTTP client, which reads no response from the server that is larger than it may be.

    Args:
        client: Flower's class.
        most: Bytes. A response that does not say how many it has, or whose content is compressed, is refused too.
    """
    def check(response: Any) -> None:  # before its content is read
        length = response.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > most or "content-encoding" in response.headers:
            raise InputError(f"a response of the server is compressed, of unknown length or of more than {most} bytes")

    class Bounded(client):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._client.event_hooks = {"response": [check]}

    return Bounded


def digest(app: Path) -> str:
    """SHA-256 of the FAB that `flwr run` makes of an app's folder, whoever makes it.

    Raises:
        InputError: The folder holds no app.
    """
    from flwr.cli.build import build_fab_from_disk

    if not (app / "pyproject.toml").is_file():
        raise InputError(f"{app}: no app, as there is no pyproject.toml; give the folder that holds it")
    return hashlib.sha256(build_fab_from_disk(app)).hexdigest()


def rows(app: Path, path: Path) -> int:
    """The training rows that a hospital declares before a run.

    Args:
        app: Folder of the app, whose configuration says target and classes.
        path: The hospital's policy, which says where its table is.

    Raises:
        InputError: The app, the policy or the table is wrong.
    """
    from federated.deployment.agreement import configuration
    from federated.deployment.deployment import count_rows

    policy = Policy.load(path)
    if policy.data is None:
        raise InputError(f"policy {path}: data: missing; give the folder that holds the hospital's table")
    return count_rows(configuration(app), app, [policy.data])[0]


def read_policy(path: Path) -> Policy:
    """The policy of a hospital that starts a SuperNode.

    Raises:
        InputError: It is wrong, or lacks what a SuperNode needs.
    """
    policy = Policy.load(path)
    if not policy.hospital:
        raise InputError(f"policy {path}: hospital: missing; give the name that the hospital's key is registered with")
    if policy.data is None or not policy.data.is_dir():
        raise InputError(f"policy {path}: data: give the folder that holds the hospital's table, which must be there")
    if not policy.apps:
        raise InputError(f"policy {path}: apps: empty, so that no app may run; add the output of "
                         "`python -m federated.deployment.supernode digest APP`")
    return policy


def run(path: Path, arguments: list[str]) -> None:
    """Start Flower's SuperNode under a policy; returns when it ends.

    Args:
        path: The policy.
        arguments: Other options of flower-supernode.

    Raises:
        InputError: The policy is wrong, or an option would undo it.
    """
    policy = read_policy(path)
    refuse(arguments, OURS, "the policy stands for this option; leave it out")
    from flwr.supernode import fleet_http_connection as connection
    from flwr.supernode import start_client_internal as client
    from flwr.supernode.cli.flower_supernode import flower_supernode

    gate = Gate(policy.apps, lambda line: print(line, file=sys.stderr, flush=True))
    most = MAX_ENVELOPE + 8 * policy.max_parameters
    client.http_request_response = gate.guard(client.http_request_response, most)
    connection.FleetHttpClient = bounded(connection.FleetHttpClient, max(most, MAX_FAB) + MAX_ENVELOPE)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as trusted:
        trusted.write(json.dumps({SIGNER: gate.public}))  # JSON is YAML
        trusted.flush()
        node = f'policy={json.dumps(str(path.resolve()))}'
        sys.argv = ["flower-supernode", *arguments, "--trusted-entities", trusted.name, "--node-config", node]
        flower_supernode()


def main(arguments: list[str]) -> int:
    """The command line; see above."""
    try:
        match arguments:
            case ["digest", app]:
                print(digest(Path(app)))
            case ["rows", app, policy]:
                print(rows(Path(app), Path(policy)))
            case ["check", policy]:
                print(f"{len(read_policy(Path(policy)).apps)} apps may run")
            case [policy, *rest] if not policy.startswith("-"):
                run(Path(policy), rest)
            case _:
                print(__doc__)
                return 2
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
