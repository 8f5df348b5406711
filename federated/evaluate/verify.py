"""Whether what the federations of a run wrote down is as it was written, and their models are those of the logs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from suite.base.errors import InputError
from suite.base.journal import verify
from suite.results.run import Run


@dataclass(frozen=True)
class Verified:
    """What was found to be as it was written.

    Attributes:
        files, entries: Of logs.
        models: Stored models whose parameters are those of the end of their log.
        head: One hash for all logs: of their names and last hashes.
    """

    files: int
    entries: int
    models: int
    head: str


def verify_run(folder: Path, head: str | None = None) -> Verified:
    """Check the logs of a run folder, and the models that federations have left in it.

    Args:
        folder: Of a run.
        head: What an earlier check has said. Only with it, kept in another place, can it be seen that all was written
            anew, or that whole entries or logs were cut off at their ends.

    Raises:
        InputError: No run, no log, or an empty one; or naming the first file that is not as it was, and where; or the
            head is another.
    """
    run = Run.open(folder)
    logs = sorted((run.folder / "logs").glob("*.jsonl"))
    if not logs:
        raise InputError(f"{folder}: no federation of this run has left a log")
    entries, models, whole = 0, 0, sha256()
    for log in logs:
        if not (held := verify(log)):
            raise InputError(f"{log}: is empty")
        entries += held
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        whole.update(f"{log.name} {last['hash']}\n".encode())
        models += _check_model(run.folder / "models" / log.stem, last)
    found = whole.hexdigest()
    if head is not None and head != found:
        raise InputError(f"{folder}: the logs' head is {found[:16]}…, and was {head[:16]}…: the run has gone on since, "
                         "or somebody has written anew, cut off, added or removed logs")
    return Verified(len(logs), entries, models, found)


def _check_model(folder: Path, last: dict[str, Any]) -> int:
    """1 for a model that is the one with which its log ends, 0 where none is stored, or the training was cut short."""
    network, trees = folder / "weights.safetensors", folder / "estimator.json"
    file = network if network.is_file() else trees
    if not file.is_file() or last["event"] != "ended":
        return 0
    if file == trees:
        found = sha256(file.read_bytes()).hexdigest()
    else:
        from safetensors.torch import load_file

        from federated.task.task import digest

        found = digest(load_file(file))
    if found != last["sha256"]:
        raise InputError(f"{file}: is not the model with which its log ends")
    return 1
