"""Certificates and keys of a federation: made for a try, and checked before anything is started with them.

A hospital's certificates come from its own authority. For a try, or where there is none::

    python -m federated.deployment.certificates make FOLDER HOST     # authority, and the certificate of the server at
    HOST python -m federated.deployment.certificates key FOLDER NAME      # the key pair of a hospital
    python -m federated.deployment.certificates check FOLDER HOST    # exit code 2 and one line where Flower would fail
    obscurely
"""

from __future__ import annotations

import ipaddress
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from suite.base.errors import InputError

AUTHORITY, AUTHORITY_KEY = "ca.pem", "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"


def make(folder: Path, hosts: tuple[str, ...], days: int = 30, now: datetime | None = None) -> None:
    """Write an authority (`ca.pem`, `ca.key`) and a server certificate signed by it (`server.pem`, `server.key`).

    The authority's key signs nothing else: whoever holds it can pose as the server.

    Args:
        folder: Where; made if it is not there. Keys can be read by their owner only.
        hosts: Names and addresses that hospitals reach the server by.
        days: How long both are valid.
        now: From when; the present if not given.

    Raises:
        InputError: There is an authority already, which hospitals may trust.
    """
    if (folder / AUTHORITY).exists():
        raise InputError(f"{folder / AUTHORITY} is there already; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    begin = now or datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "federation authority")])

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> x509.CertificateBuilder:
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
                .serial_number(x509.random_serial_number()).not_valid_before(begin - timedelta(minutes=5))
                .not_valid_after(begin + timedelta(days=days))
                .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False))

    signing = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False,
                            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                            encipher_only=False, decipher_only=False)
    authority = begun(issuer, ca_key.public_key(), ca=True).add_extension(signing, critical=True)
    names = x509.SubjectAlternativeName([_name(host) for host in hosts])
    server = begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]), key.public_key(), ca=False)
    server = (server.add_extension(names, critical=False)
              .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False))
    for name, made in ((AUTHORITY, authority), (SERVER, server)):
        pem = made.sign(ca_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)
        (folder / name).write_bytes(pem)
    for name, private in ((AUTHORITY_KEY, ca_key), (SERVER_KEY, key)):
        _write_private(folder / name, private, serialization.PrivateFormat.PKCS8)


def make_key(folder: Path, name: str) -> Path:
    """Write the key pair of a hospital (`NAME`, which never leaves it, and `NAME.pub`); returns the private one's path.

    Raises:
        InputError: There is one already.
    """
    if (path := folder / name).exists():
        raise InputError(f"{path} is there already; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())  # Flower takes NIST curves only
    _write_private(path, key, serialization.PrivateFormat.OpenSSH)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(f"{name}.pub").write_bytes(public + b"\n")
    return path


def check(folder: Path, host: str, now: datetime | None = None) -> None:
    """Refuse certificates that a SuperNode would refuse, or that a SuperLink would start with all the same.

    Args:
        folder: With `ca.pem`, and on the server's machine `server.pem` and `server.key`.
        host: By which hospitals reach the server.
        now: When; the present if not given.

    Raises:
        InputError: A file is missing or is none; a certificate has expired, is not yet valid, is of another authority
            or of another host; the key is of another certificate.
    """
    moment = now or datetime.now(UTC)
    authority, server = (_read(folder / name) for name in (AUTHORITY, SERVER))
    for name, certificate in ((AUTHORITY, authority), (SERVER, server)):
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if moment > end:
            raise InputError(f"certificate {folder / name} expired on {end:%Y-%m-%d %H:%M} UTC; get a new one")
        if moment < begin:
            raise InputError(f"certificate {folder / name} is not valid before {begin:%Y-%m-%d %H:%M} UTC; is the clock"
                             " right?")
    try:
        server.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        raise InputError(f"certificate {folder / SERVER} was not issued by the authority in {folder / AUTHORITY}; "
                         "hospitals would refuse it") from None
    try:
        names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    if _name(host) not in list(names):
        known = ", ".join(str(name.value) for name in names) or "nothing"
        raise InputError(f"certificate {folder / SERVER} is for {known}, and not for '{host}'")
    if _public(server.public_key()) != _public(_read_key(folder / SERVER_KEY).public_key()):
        raise InputError(f"key {folder / SERVER_KEY} is not that of certificate {folder / SERVER}")


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as e:
        raise InputError(f"certificate {path}: {(e.strerror or str(e)).lower()}") from None
    except ValueError:
        raise InputError(f"certificate {path}: is no certificate in PEM") from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), None)  # type: ignore[return-value]
    except OSError as e:
        raise InputError(f"key {path}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, TypeError):
        raise InputError(f"key {path}: is no key in PEM without a password") from None


def _public(key: object) -> bytes:
    return key.public_bytes(serialization.Encoding.DER,  # type: ignore[attr-defined]
                            serialization.PublicFormat.SubjectPublicKeyInfo)


def _write_private(path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def main(arguments: list[str]) -> int:
    """The command line; see above."""
    try:
        match arguments:
            case ["make", folder, *hosts] if hosts:
                make(Path(folder), tuple(hosts))
            case ["key", folder, name]:
                print(make_key(Path(folder), name))
            case ["check", folder, host]:
                check(Path(folder), host)
            case _:
                print(__doc__)
                return 2
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
