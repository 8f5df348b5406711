"""A whole deployment on this machine: Flower's own programs, each in a process of its own, over TLS on loopback.

For tries and tests. The commands are those of a deployment on several machines (`docs/how-to/deploy-a-federation.md`);
nothing here is needed there.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import tomli_w

from federated.deployment import certificates, superlink, supernode
from suite.base.errors import InputError

HOST = "127.0.0.1"
STARTED = 180.0
"""Seconds that a SuperLink or SuperNode may take to start."""
PROGRAMS = Path(sys.executable).parent
NOISE = re.compile(r"^(\x1b\[\d+m)?(INFO|WARNING|ERROR)\s*(\x1b\[0m)?\s*:[ \t]*|\x1b\[[\d;]*m", re.MULTILINE)
"""Colors, and what Flower and its web server write before each line of a log."""
CREDENTIALS = "credentials.yaml"
"""File of what Flower's client knows of tokens, in `FLWR_HOME`."""
REFUSED = {"CERTIFICATE_VERIFY_FAILED": "it does not trust the SuperLink, whose certificate is of another authority",
           "[code: 2004]": "the SuperLink does not let its key in: it is not registered, or still taken for connected",
           "[code: 2001]": "the SuperLink lets in registered keys only",
           "address already in use": "the port is in use by another program"}
"""What Flower says when it gives up, and what that means."""


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def check_port(port: int) -> None:
    """`InputError` where somebody listens on it; Flower would say so with a traceback, or talk to the other."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, port))
        except OSError:
            raise InputError(f"port {port} is in use by another program; give another one") from None


@dataclass
class Loopback:
    """One SuperLink and its SuperNodes, as a context: at its end all of them are stopped, whatever happened.

    Attributes:
        folder: For keys, logs and Flower's own files. With `keys/ca.pem` in it that authority and server certificate
            are used; else they are made.
        port: Of the SuperLink, that hospitals reach; a free one is taken if it is 0.
        control: Port of the SuperLink for `flwr`, with a token; a free one is taken if it is 0. That of the simulation
            is `port`.
        simulation: A SuperLink without SuperNodes that simulates them with Ray, in the clear.
        processes: Those that run, by name; "superlink" is one.

    Raises:
        InputError: The port is in use, or a certificate is not right (`federated.deployment.certificates.check`).
    """

    folder: Path
    port: int = 0
    control: int = 0
    simulation: bool = False
    processes: dict[str, subprocess.Popen] = field(default_factory=dict, init=False)
    _began: dict[str, int] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self.port = self.port or free_port()
        check_port(self.port)
        if self.simulation:
            self.control = self.port
        else:
            self.control = self.control or free_port()
            check_port(self.control)
            if not (self.keys / certificates.AUTHORITY).exists():
                certificates.make(self.keys, ("localhost", HOST), days=2)
            certificates.check(self.keys, HOST)
        try:
            self._start_superlink()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def keys(self) -> Path:
        """Folder of certificates and keys."""
        return self.folder / "keys"

    @property
    def authority(self) -> Path:
        """Certificate that all trust."""
        return self.keys / certificates.AUTHORITY

    @property
    def environment(self) -> dict[str, str]:
        """Of all processes: they find this package, keep to one thread and the network alone, and share no file with
        other installations of Flower."""
        ours = {"PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]),
                                               *filter(None, [os.environ.get("PYTHONPATH")])]),
                "FLWR_HOME": str(self.folder / "flower"), "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
                "GRPC_VERBOSITY": "error", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return os.environ | ours

    def _start_superlink(self) -> None:
        home, address = self.folder / "flower", f"{HOST}:{self.control}"
        home.mkdir(parents=True, exist_ok=True)
        trust = {"insecure": True} if self.simulation else {"root-certificates": str(self.authority)}
        connections = {"superlink": {"default": "here", "here": {"address": address, **trust}}}
        (home / "config.toml").write_text(tomli_w.dumps(connections), encoding="utf-8")
        if self.simulation:
            command = ["flower-superlink", "--insecure", "--simulation"]
        else:
            if not (token := self.keys / "token").exists():
                superlink.make_token(token)
            superlink.login(address, superlink.read_token(token), home / CREDENTIALS)
            command = [sys.executable, "-m", "federated.deployment.superlink", f"--token={token}",
                       f"--fleet-host={HOST}", f"--fleet-port={self.port}", f"--ssl-ca-certfile={self.authority}",
                       f"--ssl-certfile={self.keys / certificates.SERVER}",
                       f"--ssl-keyfile={self.keys / certificates.SERVER_KEY}"]
        self._start("superlink", *command, f"--host={HOST}", f"--port={self.control}",
                    "--disable-runtime-dependency-installation")
        self._wait("superlink", self._healthy)

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._began[name] = log.tell()
            self.processes[name] = subprocess.Popen([str(PROGRAMS / command[0]), *command[1:]], stdout=log,
                                                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                                    env=self.environment, start_new_session=True,
                                                    preexec_fn=_die_with_us)

    def _healthy(self) -> bool:
        try:
            if self.simulation:
                connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
            else:
                trust = ssl.create_default_context(cafile=self.authority)
                connection = http.client.HTTPSConnection(HOST, self.port, timeout=2, context=trust)
            with contextlib.closing(connection):
                connection.request("GET", "/health")
                return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + STARTED
        while not ready():
            if self.processes[name].poll() is not None or time.monotonic() > end:
                lines = self.said(name)
                known = (meaning for mark, meaning in REFUSED.items() if any(mark in line for line in lines))
                raise InputError(f"{name} did not start: {next(known, '; '.join(lines[-4:]))}")
            time.sleep(0.2)

    def said(self, name: str) -> list[str]:
        """The lines that a process has written since its last start, without colors, levels and empty ones."""
        raw = (self.folder / f"{name}.log").read_bytes()[self._began[name]:]
        text = NOISE.sub("", raw.decode("utf-8", errors="replace"))
        return [line.strip() for line in text.splitlines() if line.strip()]

    def register(self, *hospitals: str) -> None:
        """Make a key for each hospital and tell the SuperLink the public one; who is not registered is not let in."""
        for name in hospitals:
            public = certificates.make_key(self.keys, name).with_name(f"{name}.pub")
            self._flwr("supernode", "register", str(public), "here", "--name", name)

    def start(self, hospital: str, data: Path, app: Path, authority: Path | None = None, patience: int | None = None,
              limits: Mapping[str, object] | None = None) -> None:
        """Start the SuperNode of a hospital, under a policy that is written beside its log.

        Args:
            hospital: Its name; its key is made if there is none yet.
            data: The folder with its rows.
            app: Folder of the one app that may run there.
            authority: The certificate that it trusts; that of the SuperLink if not given.
            patience: How often it tries again to connect; without end if not given.
            limits: Other keys of its policy.
        """
        key, policy = self.keys / hospital, self.folder / f"{hospital}.toml"
        if not key.exists():
            certificates.make_key(self.keys, hospital)
        policy.write_text(tomli_w.dumps({"hospital": hospital, "data": str(data.resolve()),
                                         "apps": [supernode.digest(app)], **(limits or {})}), encoding="utf-8")
        tries = [] if patience is None else [f"--max-retries={patience}"]
        self._start(hospital, sys.executable, "-m", "federated.deployment.supernode", str(policy),
                    f"--superlink={HOST}:{self.port}", f"--host={HOST}", f"--port={free_port()}",
                    f"--root-certificates={authority or self.authority}", f"--auth-supernode-private-key={key}", *tries)

    def wait_for(self, *hospitals: str) -> None:
        """Return when the SuperLink has let them in; `InputError` that says why where a SuperNode gave up."""
        for name in hospitals:
            self._wait(name, lambda name=name: any(line.startswith("SuperNode ID:") for line in self.said(name)))

    def run(self, app: Path, config: Mapping[str, object], federation: Iterable[str] = ()) -> list[str]:
        """`flwr run`, to its end.

        Args:
            app: Folder of the app.
            config: What replaces the app's run configuration.
            federation: `KEY=VALUE` of the simulation.

        Returns:
            The lines of its log, which the server's app has written.

        Raises:
            InputError: The app or its configuration is wrong, as the server's app says in one line.
        """
        lines = self._flwr(*self._run_command(app, config, federation))
        for line in lines:
            if line.startswith("error: "):  # Flower's own exit code is 0 all the same
                raise InputError(line.removeprefix("error: "))
        return lines

    def start_run(self, app: Path, config: Mapping[str, object], federation: Iterable[str] = ()) -> None:
        """`flwr run` as a process of its own, named "run"."""
        self._start("run", "flwr", *self._run_command(app, config, federation))

    def _run_command(self, app: Path, config: Mapping[str, object], federation: Iterable[str]) -> list[str]:
        settings = self.folder / "run.toml"
        settings.write_text(tomli_w.dumps(dict(config)), encoding="utf-8")
        extra = ["--federation-config", " ".join(federation)] if federation else []
        return ["run", str(app.resolve()), "here", "--stream", "--run-config", str(settings), *extra]

    def _flwr(self, *arguments: str) -> list[str]:
        done = subprocess.run([str(PROGRAMS / "flwr"), *arguments], env=self.environment, text=True, errors="replace",
                              capture_output=True, check=False)
        lines = [line.strip() for line in NOISE.sub("", done.stdout + done.stderr).splitlines() if line.strip()]
        if done.returncode:
            raise InputError(f"flwr {shlex.join(arguments[:2])}: {' '.join(lines[-3:])}")
        return lines

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a process that was started here; SIGKILL is a crash, of which a SuperLink learns after a minute."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """End all of them, the SuperLink last, and what they have left behind."""
        for name in sorted(self.processes, key=lambda name: name == "superlink"):
            self.stop(name)
        end = time.monotonic() + 10
        while left := self.left():
            for process in left if time.monotonic() > end else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)

    def left(self) -> list[int]:
        """Processes of this deployment, whoever started them: Flower starts some in sessions of their own, and Ray has
        daemons. They are told by their environment, where the system shows it (Linux)."""
        mark, found = f"FLWR_HOME={self.environment['FLWR_HOME']}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


def _die_with_us() -> None:
    """In a process that was just started: ask Linux to end it when its parent ends, however that comes about."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
