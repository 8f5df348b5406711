"""Looking rows up: what the report is made of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from suite.report import known
from suite.report.show import VOICES
from suite.results.measurement import Measurement

WORST = "worst-case"
"""As `suite.audit.layout.WORST`, which this does not import: findings are looked up without torch."""
CONTROL = known.CONTROL


class Rows:
    """The measurement rows of a run, by model, defense, attack, metric and subgroup.

    Args:
        rows: In the order of the plan.
        manifest: Of the run.
    """

    def __init__(self, rows: list[Measurement], manifest: dict[str, Any]) -> None:
        self.all, self.manifest = rows, manifest
        self.eps: float | None = manifest.get("plan", {}).get("eps")
        self.norms: dict[str, Any] = manifest.get("plan", {}).get("norms", {})
        self.voice = VOICES[manifest.get("noun", "patient")]
        self.cases = f"{self.voice.case}s"
        self._index: dict[tuple[str, ...], list[Measurement]] = defaultdict(list)
        self._chains: dict[str, dict[str, dict[str, None]]] = {}
        for row in rows:
            self._index[row.model, row.defense, row.attack, row.metric, row.subgroup].append(row)
            self._chains.setdefault(row.model, {}).setdefault(row.defense, {})[row.attack] = None

    @property
    def models(self) -> list[str]:
        """In the order of the plan."""
        return list(self._chains)

    def defenses(self, model: str) -> list[str]:
        """Of one model, "none" among them."""
        return list(self._chains.get(model, ()))

    def pairs(self) -> list[tuple[str, str]]:
        """All (model, defense)."""
        return [(model, defense) for model in self.models for defense in self.defenses(model)]

    @property
    def deployed(self) -> list[tuple[str, str]]:
        """The (model, defense) that would be put to use: models without a defense, and federations."""
        return [(m, d) for m, d in self.pairs() if d == "none" or self.subgroups("hospital_rows", m, d)]

    def suited(self, model: str) -> set[str] | None:
        """Names of the registered attacks that can be used on a model; None where the run does not say."""
        named = self.manifest.get("suited", {}).get(model)
        return None if named is None else set(named)

    def training_known(self, model: str) -> bool:
        """Whether it is known which rows a model has learned from; of a fitted model it may not be."""
        return bool(self.manifest.get("training_known", {}).get(model, True))

    def attacks(self, model: str, defense: str, metric: str) -> list[str]:
        """Names of the attacks that have such a row, without the worst case."""
        names = self._chains.get(model, {}).get(defense, ())
        return [a for a in names if a not in ("", WORST) and (model, defense, a, metric, "") in self._index]

    def of(self, metric: str, model: str, defense: str = "none", attack: str = "", subgroup: str = "",
           eps: float | None = None) -> list[Measurement]:
        """All rows of a metric that have a value; with `eps`, those at that budget."""
        found = self._index.get((model, defense, attack, metric, subgroup), [])
        return [r for r in found if r.value is not None and (eps is None or r.attack_params.get("eps") == eps)]

    def main(self, model: str, defense: str, attack: str) -> float | None:
        """The budget at which an attack is told: the plan's in its norm; its own where its budget is no norm."""
        if attack == WORST:
            return self.eps
        first = self.one("robust_accuracy", model, defense, attack)
        norm = known.norm(first) if first else "linf"
        if norm == "own":
            return first.attack_params.get("eps")
        return self.budget(norm)

    def budget(self, norm: str) -> float | None:
        """The main budget in a norm."""
        return self.norms[norm]["eps"] if norm in self.norms else self.eps

    def one(self, metric: str, model: str, defense: str = "none", attack: str = "", subgroup: str = "",
            eps: float | None = None) -> Measurement | None:
        """The first of them."""
        return next(iter(self.of(metric, model, defense, attack, subgroup, eps)), None)

    def touched(self, row: Measurement) -> float | None:
        """The share of the training rows that the poisoning of a row touched: as measured, else as it was asked for."""
        measured = self.of("poisoned_share", row.model, row.defense, row.attack)
        return next((r.value for r in measured if r.attack_params == row.attack_params), row.attack_params.get("rate"))

    def named(self, prefix: str, model: str, defense: str = "none", attack: str = "") -> dict[str, Measurement]:
        """Rows whose metric is `prefix[name]`, by name."""
        out: dict[str, Measurement] = {}
        for m, d, a, metric, subgroup in self._index:
            if (m, d, a, subgroup) == (model, defense, attack, "") and metric.startswith(f"{prefix}["):
                found = self.one(metric, m, d, a)
                if found is not None:
                    out[metric[len(prefix) + 1:-1]] = found
        return out

    def subgroups(self, metric: str, model: str, defense: str = "none", attack: str = "") -> dict[str, Measurement]:
        """Rows of a metric by subgroup."""
        wanted = (model, defense, attack, metric)
        return {key[4]: self._index[key][0] for key in self._index
                if key[:4] == wanted and key[4] and self._index[key][0].value is not None}

    @property
    def errors(self) -> list[Measurement]:
        """Cells that failed."""
        return [r for r in self.all if r.error]


@dataclass(frozen=True)
class Robustness:
    """What the evasion cells of one model say together, at the main budget.

    Attributes:
        accuracy: The lowest robust accuracy measured on all test rows: of the worst case, of a single attack, or of
            the random control where that fools more patients than the attacks do.
        success: The attack success rate that belongs to it.
        attacked: Test rows that at least one attack (other than the control) was tried on; 0 when none ran.
    """

    accuracy: Measurement
    success: Measurement | None
    attacked: int

    @property
    def clean(self) -> float | None:
        """Accuracy without an attack on the same patients: success is counted among those judged rightly."""
        return self.success.n / self.accuracy.n if self.success else None

    @property
    def partial(self) -> bool:
        """Rows that no attack was tried on count as robust, so the figure is an upper bound."""
        return self.attacked < self.accuracy.n


def robustness(rows: Rows, model: str, defense: str = "none") -> Robustness | None:
    """See `Robustness`; None when nothing was measured."""
    names = rows.attacks(model, defense, "robust_accuracy")
    found = [r for a in (WORST, *names) for r in rows.of("robust_accuracy", model, defense, a, eps=rows.eps)
             if (a == WORST or known.norm(r) in ("linf", "l2"))]  # within eps in L2 is within eps in Linf
    if not found:
        return None
    real = [r.n for r in found if r.attack not in (WORST, CONTROL) and known.norm(r) == "linf"]
    most = max(r.n for r in found)
    lowest = min((r for r in found if r.n == most), key=lambda r: r.value)
    of_it = rows.of("attack_success_rate", model, defense, lowest.attack, eps=rows.eps)
    success = next((r for r in of_it if r.cell == lowest.cell), None)
    return Robustness(lowest, success, max(real, default=0))
