"""Finding the files of datasets: given by the user, in $MEDSEC_DATA, or downloaded once; never without its checksum.

Files are looked for in this order: the path that was given; the folder `$MEDSEC_DATA`; the download cache
(`$MEDSEC_CACHE`, else the user's cache folder), which is filled from the file's public address where it has one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suite.base.errors import InputError
from suite.core.data import Dataset


class Unavailable(InputError):
    """A dataset's file is not on this machine and cannot be downloaded. A file with wrong bytes is not this."""


@dataclass(frozen=True)
class RemoteFile:
    """A file with known bytes.

    Attributes:
        path: Under `$MEDSEC_DATA` and under the cache, for example "tabular/pima_diabetes.csv".
        digest: Of its bytes, as "sha256:..." or, where the owner states no other, "md5:...", in hexadecimal.
        url: Public address with exactly these bytes; empty where there is none.
    """

    path: str
    digest: str
    url: str = ""


@dataclass(frozen=True)
class Status:
    """What `verify` found: `state` is "ok", "missing" or the reason why the file cannot be used."""

    name: str
    path: str
    state: str


TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""

Builder = Callable[..., Dataset]
"""`builder(path=None, seed=0) -> Dataset`, as registered; its attribute `files` is what it reads, if it reads any."""


def locate(file: RemoteFile, path: Path | None = None) -> Path:
    """The verified file on this machine, downloaded if need be.

    Args:
        file: What to look for.
        path: The user's copy; when it is given, no other place is tried.

    Raises:
        Unavailable: It is nowhere, and cannot be downloaded.
        InputError: A copy that was found has other bytes, or cannot be read.
    """
    if path is not None:
        return _verified(file, Path(path))
    if (found := _in_data_folder(file)) is not None:
        return _verified(file, found)
    cached = folder() / file.path
    if file.url:
        return _download(file, cached)
    if cached.exists():
        return _verified(file, cached)
    raise Unavailable(f"{cached.name} is not on this machine and has no public address; {_elsewhere(file)}")


def origin(path: Path) -> str:
    """In words where `locate` found a file, for reports: never a path of this machine."""
    data = os.environ.get("MEDSEC_DATA")
    if data and Path(path).is_relative_to(data):
        return "$MEDSEC_DATA"
    return "the download cache" if Path(path).is_relative_to(folder()) else f"the file {Path(path).name}"


def folder() -> Path:
    """Where downloads are kept."""
    import pooch

    return Path(os.environ.get("MEDSEC_CACHE") or pooch.os_cache("medsec"))


def sha256_of(path: Path) -> str:
    """Hex digest of a file; `InputError` where it cannot be read."""
    return _digest(path, "sha256")


def _digest(path: Path, algorithm: str) -> str:
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, algorithm).hexdigest()
    except OSError as e:
        raise InputError(f"{path}: {(e.strerror or str(e)).lower()}") from None


def reads(*files: RemoteFile) -> Callable[[Builder], Builder]:
    """Decorator that says which files a dataset builder reads, the main one first, for `fetch` and `verify`."""

    def mark(builder: Builder) -> Builder:
        builder.files = files
        return builder

    return mark


def fetch(name: str, builder: Builder, url: str = "") -> Path | None:
    """Make a dataset's files available, and return where the main one lies; None when the dataset reads no file.

    Args:
        name: Registered name of the dataset, for messages.
        builder: Its builder.
        url: Another address of the main file's bytes, such as a mirror in the hospital's own network.
    """
    files: tuple[RemoteFile, ...] = getattr(builder, "files", ())
    if not files:
        return None
    try:
        main, *_ = [locate(file) for file in (replace(files[0], url=url or files[0].url), *files[1:])]
        return main
    except InputError as e:
        raise type(e)(f"{name}: {e}") from None


def verify(builders: Mapping[str, Builder]) -> list[Status]:
    """The state of every dataset's file on this machine. Downloads nothing."""
    rows = []
    for name, builder in builders.items():
        files: tuple[RemoteFile, ...] = getattr(builder, "files", ())
        rows += [_status(name, file) for file in files] or [Status(name, "", "ok")]
    return rows


def _status(name: str, file: RemoteFile) -> Status:
    try:
        return Status(name, str(locate(replace(file, url=""))), "ok")
    except Unavailable:
        return Status(name, file.path, "missing")
    except InputError as e:
        return Status(name, file.path, str(e))


def first_available(builders: Mapping[str, Builder], **arguments: Any) -> tuple[Dataset, str]:
    """The first dataset whose file is there, and one line that says which it is and why.

    Only a file that is `Unavailable` makes it go on to the next; wrong bytes or wrong values raise.

    Args:
        builders: Name -> builder, in order of preference.
        arguments: Passed to each builder, for example `seed`.
    """
    misses: list[str] = []
    for name, builder in builders.items():
        try:
            dataset = builder(**arguments)
        except Unavailable as e:
            misses.append(f"{name} is not available: {e}")
            continue
        where = dataset.card.get("read from")
        data = "data" if Path(name).suffix else "real data"  # for a user's own file nobody vouches
        kind = "SYNTHETIC" if dataset.provenance.synthetic else data + (f" from {where}" if where else "")
        reason = f"{name}: {kind}" + (f", because {'; '.join(misses)}" if misses else "")
        note = "; ".join(part for part in (reason, dataset.provenance.note) if part)
        return replace(dataset, provenance=replace(dataset.provenance, note=note)), reason
    raise Unavailable("; ".join(misses))


def _in_data_folder(file: RemoteFile) -> Path | None:
    data = os.environ.get("MEDSEC_DATA")
    if not data:
        return None
    if not Path(data).is_dir():
        raise InputError(f"MEDSEC_DATA={data}: no such folder")
    path = Path(data) / file.path
    return path if path.exists() else None


def _verified(file: RemoteFile, path: Path) -> Path:
    algorithm, _, expected = file.digest.partition(":")
    found = _digest(path, algorithm)
    if found != expected:
        raise InputError(f"{path}: wrong checksum, expected {algorithm} {expected[:12]}..., found {found[:12]}...; "
                         "the file is damaged or another one")
    if algorithm != "sha256":
        _as_before(file, path)
    return path


def _as_before(file: RemoteFile, path: Path) -> None:
    """`InputError` where a file whose owner states an MD5 only, which can be forged, is not the one that was first seen
    on this machine: its SHA-256 is kept in the cache from then on. Of the first one the MD5 is all there is."""
    kept, found = folder() / f"{file.path}.sha256", _digest(path, "sha256")
    if not kept.exists():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(found)
        except OSError:  # a cache that cannot be written remembers nothing
            return
    elif (before := kept.read_text().strip()) != found:
        raise InputError(f"{path}: wrong checksum, its SHA-256 was {before[:12]}... when it was first used here, and "
                         f"is {found[:12]}...; it was replaced by one with the same MD5. If that is meant, delete "
                         f"{kept.name} in the download cache")


def _download(file: RemoteFile, target: Path) -> Path:
    """The cached file, if its bytes are right; else download to a temporary file next to it, verify and rename."""
    import pooch
    import requests

    try:
        found = Path(pooch.retrieve(file.url, file.digest, fname=target.name, path=target.parent,
                                    downloader=pooch.HTTPDownloader(timeout=TIMEOUT)))
    except (requests.RequestException, TimeoutError) as e:
        raise Unavailable(f"{target.name}: cannot download {file.url}: {_reason(e)}; {_elsewhere(file)}") from None
    except OSError as e:
        raise InputError(f"{target.name}: cannot write to the cache {target.parent}: {e.strerror or e}") from None
    except ValueError as e:
        # pooch has deleted the bytes, and tells their checksum in its message only
        got = re.search(r"but got ([0-9a-f]{12})", str(e))
        algorithm, _, expected = file.digest.partition(":")
        raise InputError(f"{target.name}: wrong checksum from {file.url}, expected {algorithm} {expected[:12]}..., "
                         f"found {got[1] if got else '?'}...; nothing was kept") from None
    if not file.digest.startswith("sha256:"):
        _as_before(file, found)
    return found


def _elsewhere(file: RemoteFile) -> str:
    return f"set MEDSEC_DATA to the folder that holds {file.path}, or pass the file with --data"


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}".strip()
    if isinstance(error, requests.Timeout | TimeoutError) or "timed out" in str(error):
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ended before the file was complete"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached"
    return str(error).splitlines()[0]
