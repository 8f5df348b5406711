"""What is known of everything that has a name: attacks, defenses, detectors, models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Knowledge = Literal["white-box", "score", "label-only", "no-box", "data", "training"]


@dataclass(frozen=True)
class Info:
    """What `medsec list` and the report say about an attack, defense or detector.

    Attributes:
        title: The field's name for it, for example "Projected gradient descent".
        paper: Authors, year and arXiv id or DOI.
        knowledge: What the attacker must have. "data" means some training rows; empty for a defense.
        threats: Keys of `suite.base.threats.CATALOG`.
        cost: One line: what it costs, in passes, queries or trainings.
        departs: Where the implementation departs from the paper, and why.
        strong: Of an attack: whether its failure says something about the model. A finding is called low only where a
            strong attack of its kind ran.
        strong_from: The hyper-parameter that is its effort, and the least value with which it is strong, as in
            `("queries", 1000)`; None where its effort does not vary.
    """

    title: str
    paper: str
    knowledge: Knowledge | Literal[""] = ""
    threats: tuple[str, ...] = ()
    cost: str = ""
    departs: str = ""
    strong: bool = False
    strong_from: tuple[str, float] | None = None
