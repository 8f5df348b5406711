"""A SuperLink that hospitals reach on one address, and that is controlled on another one, with a token.

Flower 1.41 serves three APIs on one port: Fleet (hospitals, signed with their keys), Runtime (the server's own
processes) and Control (`flwr run`, `flwr supernode register`), and its open version asks nobody who controls it for
anything: whoever reaches the port starts a run. This program is Flower's `flower-superlink`, with two changes. Fleet
alone is served on a port of its own, for the hospitals; everything is served on `--host` and `--port`, on this machine
unless something else is said. And Control wants a token, which Flower's own client sends once `login` has written it::

    python -m federated.deployment.superlink token FILE             # make a token; only its owner can read the file
    python -m federated.deployment.superlink login ADDRESS FILE     # let `flwr` on this machine use it, for HOST:PORT
    python -m federated.deployment.superlink --token FILE --fleet-host 0.0.0.0 --fleet-port 9092 --port 9093 ...
                                                         # --max-reply MB: of a hospital, 256 unless given, and
                                                         # all other options of flower-superlink

The token takes the place of an account in Flower's interface for accounts (`ControlAuthnPlugin`), whose own
implementations are not part of the open version. On this machine Runtime is reachable without it, as Flower's own
processes come that way: let no untrusted user log in there.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from flwr.cli.auth_plugin import OidcCliPlugin
from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountInfo
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.credential_store.file_credential_store import FileCredentialStore
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin

from federated.deployment.arguments import refuse
from suite.base.errors import InputError

FLEET = "/v1/fleet/"
PULL, REPLY = f"{FLEET}pull-messages", f"{FLEET}push-messages"
"""Where a hospital gets messages, and begins a reply."""
MAX_REQUEST = 32 * 2**20
"""Bytes of one request of a hospital. Flower cuts arrays into pieces of 5 MB, one a request."""
MAX_REPLY = 256 * 2**20
"""Bytes that a hospital may send from one reply to the next."""
MAX_HELD = 2**30
"""Bytes of all requests that are being read or answered."""
MAX_CONNECTIONS = 1000
"""Connections of hospitals and strangers; each SuperNode keeps one or two."""
PATIENCE = 120.0
"""Seconds that one request may take to arrive."""
MIN_TOKEN = 32
"""Characters of a token."""


class Token(NoOpControlAuthnPlugin):
    """Lets those control a SuperLink who have its token, and nobody else.

    Args:
        token: At least `MIN_TOKEN` characters.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def validate_tokens_in_metadata(
            self, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[bool, AccountInfo | None]:
        given = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        given = given.encode() if isinstance(given, str) else given
        if not hmac.compare_digest(given, self._token):  # takes as long wherever they differ
            return False, None
        return super().validate_tokens_in_metadata(metadata)


class FleetOnly:
    """An ASGI application that passes on what hospitals need of another one, and no more bytes than they need.

    A request is read whole before Flower can tell whose it is, so that what strangers send is bounded for all of them
    together. What was let in is counted for each key, and anew with the first reply after each message that the server
    sent to its hospital: a reply to nothing does not set the count back.

    Args:
        app: Flower's.
        most: Bytes of the requests that are let in with one key, from one reply to the next.
        held: Bytes of all requests that are being read or answered.
        patience: Seconds that a request may take to arrive.
    """

    def __init__(self, app: Any, most: int = MAX_REPLY, held: int = MAX_HELD, patience: float = PATIENCE) -> None:
        self._app, self._most, self._free, self._patience = app, most, held, patience
        self._sent: dict[bytes, int] = {}
        self._asked: set[bytes] = set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path.startswith(FLEET) or path == "/health"):
            await _refuse(scope, send, 404)
            return
        headers, pieces = dict(scope["headers"]), []
        try:
            if status := await self._read(headers.get(b"content-length", b"0"), receive, pieces):
                await _refuse(scope, send, status)
            else:
                key = headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), b"")
                await self._pass_on(key, pieces, scope, receive, send)
        finally:
            self._free += _size(pieces)

    async def _read(self, length: bytes, receive: Any, pieces: list[Any]) -> int:
        """Fill `pieces` with a request; the status that it is refused with, or 0."""
        if not length.isdigit() or int(length) > MAX_REQUEST:  # before any of it is read
            return 413
        size, more = 0, True
        try:
            async with asyncio.timeout(self._patience):
                while more:
                    piece = await receive()
                    more = piece["type"] == "http.request" and piece.get("more_body", False)
                    pieces.append(piece)
                    size += _size([piece])
                    self._free -= _size([piece])
                    if size > MAX_REQUEST:
                        return 413
                    if self._free < 0:  # SuperNodes try again
                        return 503
        except TimeoutError:
            return 408
        return 0

    async def _pass_on(self, key: bytes, pieces: list[Any], scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let Flower answer, and count what it accepted."""
        path, size, before = scope["path"], _size(pieces), self._sent.get(key, 0)
        anew = path == REPLY and key in self._asked
        change = size - before if anew else size
        if before + change > self._most:
            await _refuse(scope, send, 413)
            return
        # before Flower is asked, so that requests at the same time are counted together
        self._sent[key] = before + change
        self._asked -= {key} if anew else set()
        kept, status, told = iter(pieces), 0, []

        async def again() -> Any:
            return next(kept, None) or await receive()

        async def seen(event: Any) -> None:
            nonlocal status
            status = event.get("status", status)
            if path == PULL:
                told.append(event)
            await send(event)

        try:
            await self._app(scope, again, seen)
        finally:
            if not 0 < status < 400:  # what a stranger sends in a hospital's name does not count
                self._sent[key] -= change
                self._asked |= {key} if anew else set()
            if not self._sent[key]:
                del self._sent[key]
        if status < 400 and PullMessagesResponse.FromString(b"".join(e.get("body", b"") for e in told)).messages_list:
            self._asked.add(key)


def _size(pieces: list[Any]) -> int:
    """Bytes of the body of a request."""
    return sum(len(piece.get("body", b"")) for piece in pieces)


async def _refuse(scope: dict[str, Any], send: Any, status: int) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})


class _Second(uvicorn.Server):
    """Leaves signals to the first."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(app: Any, fleet: tuple[str, int], most: int, **settings: Any) -> None:
    """Serve all of an application on one address and `FleetOnly` on another, until this process is told to end.

    Args:
        app: Flower's.
        fleet: Host and port for hospitals.
        most: Bytes of a reply of one.
        settings: Those of `uvicorn.run`, of the first address; certificates and logs are those of both.
    """
    async def both() -> None:
        first = uvicorn.Server(uvicorn.Config(app, **settings))
        second = _Second(uvicorn.Config(FleetOnly(app, most), **settings | {
            "host": fleet[0], "port": fleet[1], "lifespan": "off", "limit_concurrency": MAX_CONNECTIONS}))
        running = asyncio.create_task(first.serve())
        while not first.started and not running.done():
            await asyncio.sleep(0.05)
        other = asyncio.create_task(second.serve()) if first.started else None
        await asyncio.wait({running, *([other] if other else [])}, return_when=asyncio.FIRST_COMPLETED)
        first.should_exit = second.should_exit = True  # neither goes on without the other
        await running
        if other:
            await other

    asyncio.run(both())


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        InputError: It cannot be read, is too short, or others can read it.
    """
    try:
        token, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"token {path}: {getattr(e, 'strerror', None) or 'is not text'}") from None
    if len(token) < MIN_TOKEN:
        raise InputError(f"token {path}: {len(token)} characters, at least {MIN_TOKEN} are needed; make one with "
                         "`python -m federated.deployment.superlink token FILE`")
    if mode & 0o077:
        raise InputError(f"token {path}: others can read it; run `chmod 600 {path}`")
    return token


def make_token(path: Path) -> None:
    """Write a new token, for its owner's eyes only; `InputError` where there is a file already."""
    try:
        path.touch(0o600, exist_ok=False)
    except FileExistsError:
        raise InputError(f"{path} is there already; give another name, or remove it") from None
    path.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")


def login(address: str, token: str, store: Path | None = None) -> None:
    """Let Flower's client use a token for a SuperLink, from now on.

    Args:
        address: HOST:PORT.
        token: See there.
        store: File of the client's credentials; that of `FLWR_HOME` if not given.
    """
    client = OidcCliPlugin(address)
    if store:
        client.store = FileCredentialStore(store)
    client.store_tokens(AccountAuthCredentials(token, token))


def run(arguments: list[str]) -> None:
    """Start Flower's SuperLink; returns when it ends.

    Raises:
        InputError: The token is wrong.
    """
    flower = import_module("flwr.superlink.cli.flower_superlink")  # its package has a function of this name

    parser = argparse.ArgumentParser(prog="python -m federated.deployment.superlink", allow_abbrev=False)
    parser.add_argument("--token", type=Path, required=True)
    parser.add_argument("--fleet-host", default="127.0.0.1")
    parser.add_argument("--fleet-port", type=int, required=True)
    parser.add_argument("--max-reply", type=int, default=MAX_REPLY // 2**20, metavar="MB")
    parser.add_argument("--host", default="127.0.0.1")
    own, rest = parser.parse_known_args(arguments)
    refuse(rest, ("--insecure", "--simulation"), "is for a simulation, which `flower-superlink` runs; leave it out")
    if own.max_reply < 1:
        raise InputError(f"--max-reply: {own.max_reply} MB; at least 1, and a little more than the model takes")
    token = read_token(own.token)
    flower.load_control_authn_plugin = lambda: Token(token)
    flower.uvicorn = SimpleNamespace(
        run=lambda app, **settings: serve(app, (own.fleet_host, own.fleet_port), own.max_reply * 2**20, **settings))
    sys.argv = ["flower-superlink", "--host", own.host, *rest, "--enable-supernode-auth"]  # else anybody is a hospital
    flower.flower_superlink()


def main(arguments: list[str]) -> int:
    """The command line; see above."""
    try:
        match arguments:
            case ["token", file]:
                make_token(Path(file))
            case ["login", address, file]:
                login(address, read_token(Path(file)))
            case [first, *_] if first.startswith("--") and first != "--help":
                run(arguments)
            case _:
                print(__doc__)
                return 2
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
