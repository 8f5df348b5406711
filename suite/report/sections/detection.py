"""What detectors find of the attacks, and of those that know them."""

from __future__ import annotations

from suite.report import known
from suite.report.rows import CONTROL, Rows
from suite.report.tables import Table, amount, est, words

ADAPTIVE = "adaptive"
"""As `suite.evaluate.detection.ADAPTIVE`."""


def detectors(rows: Rows, model: str, defense: str) -> list[str]:
    """Names of the detectors that were tried on a model behind a defense."""
    return list(rows.named("detection_leak", model, defense))


def cards(rows: Rows) -> list[tuple[str, str]]:
    """Each detector's name, and its title, hyper-parameters, paper and where it departs from it."""
    out: dict[str, str] = {}
    for model, defense in rows.pairs():
        for name, row in rows.named("detection_leak", model, defense).items():
            info = known.about(name, "detectors")
            params = ", ".join(f"{k} = {v}" for k, v in row.attack_params.get("detector", {}).items())
            said = [info.title, info.paper, info.departs] if info else []
            out[name] = "; ".join(part for part in [*said[:1], params, *said[1:]] if part)
    return list(out.items())


def table(rows: Rows, defended: bool = False) -> Table:
    """Every detector on every undefended model, or on those behind a defense: alarms by attack, and what gets past."""
    head = ["detector", "attack", "AUROC", "alarms at 1%", "alarms at 5%", "misjudged without alarm", "n"]
    out = Table("Detectors on models behind a defense" if defended else "Detectors", head,
                note="AUROC: of telling the inputs that an attack turned from right to wrong from clean test inputs; "
                     "0.50 is guessing. Alarms: their share, at thresholds that 1% and 5% of clean validation inputs "
                     "exceed; on the lines “none”, false alarms on clean test inputs, and AUROC of these against "
                     "validation inputs, which should be 0.50. Misjudged without alarm: among inputs judged rightly "
                     "without an attack, at the 5% threshold and the main budget.")
    for model, defense in rows.pairs():
        if (defense != "none") != defended:
            continue
        group = model + ("" if defense == "none" else f" behind {defense}")
        for name in detectors(rows, model, defense):
            for attack in ("", *rows.attacks(model, defense, f"detection_auroc[{name}]")):
                metrics = [f"detection_{kind}[{name}{at}]" for kind, at in (
                    (("auroc", ""), ("tpr", "@0.01"), ("tpr", "@0.05")) if attack else
                    (("leak", ""), ("fpr", "@0.01"), ("fpr", "@0.05")))]
                found = [rows.one(metric, model, defense, attack) for metric in metrics]
                learned = found[0] is not None and found[0].attack_params.get("fitted_on") == attack != ""
                shown = {"": "none", CONTROL: f"{CONTROL} (control)"}.get(attack, attack)
                out.add(group, [words(name), words(shown + (" (fitted on it)" if learned else "")), *map(est, found),
                                words(""), amount(found[2].n if found[2] else None)])
            for metric, shown in (("unguarded", "any, were there no detector"), ("blind", "these, unaware of it"),
                                  ("adaptive", "one that knows it")):
                row = rows.one(f"{metric}_evasion[{name}]", model, defense, ADAPTIVE)
                if row is not None:
                    out.add(group, [words(name), words(shown), *[words("")] * 3, est(row, bar=True), amount(row.n)])
    return out.pruned()
