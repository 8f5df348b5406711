"""What all runs at one hospital have spent together: a file of its own, which outlives its SuperNode.

Flower keeps a hospital's state for one run and as long as its node is up. Whoever controls the server could start run
after run, each with a budget of its own. Here each of them is a line, written before anything is computed from rows.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from suite.base.errors import InputError


class Spent(InputError):
    """A run that is one too many.

    Attributes:
        key: Of the policy.
    """

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(detail)
        self.key = key


def charge(file: Path, epsilon: float, max_runs: int | None, max_total_epsilon: float | None) -> None:
    """Write down that a run begins, or continues after its state was lost, which counts once more.

    Args:
        file: The ledger; made where it is missing, for its owner's eyes only.
        epsilon: What the run may spend, 0 for no bound. Those of several runs add up (basic composition), and so do
            their deltas.
        max_runs, max_total_epsilon: Limits over all runs; None for none.

    Raises:
        Spent: The limits do not allow another run.
        InputError: The ledger cannot be read or written.
    """
    try:
        with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            past = [float(json.loads(line)["epsilon"]) for line in stream]
            if max_runs is not None and len(past) >= max_runs:
                raise Spent("max-runs", f"{len(past)} runs were answered, and {max_runs} are allowed")
            if max_total_epsilon is not None and not sum(past) + epsilon <= max_total_epsilon:
                raise Spent("max-total-epsilon", f"{sum(past):g} is spent and {epsilon:g} was asked for, at most "
                            f"{max_total_epsilon:g} is allowed")
            stream.write(json.dumps({"epsilon": epsilon}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as e:
        raise InputError(f"ledger {file}: {(e.strerror or str(e)).lower()}") from None
    except (UnicodeDecodeError, KeyError, TypeError, json.JSONDecodeError) as e:
        raise InputError(f"ledger {file}: is damaged: {type(e).__name__}; compare it with a copy, or begin a new one") \
            from None
