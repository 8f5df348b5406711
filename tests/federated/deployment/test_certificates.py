"""Certificates that would fail later are refused before, in one line."""

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("flwr")

from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from federated.deployment.certificates import check, main, make, make_key
from suite.base.errors import InputError


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "keys", ("localhost", "127.0.0.1"))
    return tmp_path / "keys"


def test_what_is_made_is_right_and_pythons_own_tls_takes_it(folder):
    check(folder, "localhost")
    check(folder, "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    pipes = [ssl.MemoryBIO() for _ in range(4)]
    ends = (client.wrap_bio(pipes[0], pipes[1], server_hostname="localhost"),
            server.wrap_bio(pipes[2], pipes[3], server_side=True))
    done = [False, False]
    for _ in range(6):
        for k, end in enumerate(ends):
            try:
                end.do_handshake()
                done[k] = True
            except ssl.SSLWantReadError:
                pass
            pipes[2 - 2 * k].write(pipes[1 + 2 * k].read())
    assert done == [True, True]


def test_keys_are_for_their_owner_only(folder):
    path = make_key(folder, "hungary")
    for key in (path, folder / "ca.key", folder / "server.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    private = load_ssh_private_key(path.read_bytes(), None)
    public = load_ssh_public_key(path.with_name("hungary.pub").read_bytes())
    assert private.public_key() == public
    assert public.curve.name == "secp384r1"


@pytest.mark.parametrize(("days", "line"), [(31, "expired on"), (-1, "is not valid before")], ids=["late", "early"])
def test_refuses_other_times(folder, days, line):
    with pytest.raises(InputError, match=rf"server\.pem {line}|ca\.pem {line}"):
        check(folder, "localhost", datetime.now(UTC) + timedelta(days=days))


def test_refuses_another_authority_host_or_key(folder, tmp_path):
    with pytest.raises(InputError, match=r"is for localhost, 127\.0\.0\.1, and not for 'hub\.example'"):
        check(folder, "hub.example")
    make(tmp_path / "other", ("localhost",))
    (folder / "ca.pem").rename(folder / "own.pem")
    (folder / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(InputError, match="was not issued by the authority"):
        check(folder, "localhost")
    (folder / "own.pem").rename(folder / "ca.pem")
    (folder / "server.key").write_bytes((tmp_path / "other" / "server.key").read_bytes())
    with pytest.raises(InputError, match="is not that of certificate"):
        check(folder, "localhost")


def test_refuses_files_that_are_missing_or_something_else(folder):
    (folder / "server.key").write_text("secret")
    with pytest.raises(InputError, match="is no key in PEM"):
        check(folder, "localhost")
    (folder / "server.pem").write_text("no")
    with pytest.raises(InputError, match="is no certificate in PEM"):
        check(folder, "localhost")
    (folder / "server.pem").unlink()
    with pytest.raises(InputError, match="no such file"):
        check(folder, "localhost")
    with pytest.raises(InputError, match="is there already"):
        make(folder, ("localhost",))


def test_openssl_agrees(folder):
    try:
        told = subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem",
                               "server.pem"], cwd=folder, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    assert told.stdout.strip() == "server.pem: OK", told.stderr


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    folder = str(tmp_path / "keys")
    assert main(["make", folder, "hub.example"]) == 0
    assert main(["check", folder, "hub.example"]) == 0
    assert main(["key", folder, "va"]) == 0
    assert main(["check", folder, "other.example"]) == 2
    assert capsys.readouterr().err.startswith("error: certificate ")
    assert main(["key", folder, "va"]) == 2
    assert main([]) == 2
