"""The report's figures. Each is a panel of its own, so that a page of any width can arrange them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from suite.report import known
from suite.report.figures import svg
from suite.report.rows import CONTROL, WORST, Rows, robustness
from suite.report.sections.defenses import leakage
from suite.report.sections.detection import detectors
from suite.report.sections.membership import called, ranked
from suite.report.show import interval, number, share
from suite.results.measurement import Measurement
from suite.results.metrics import proportion, roc_curve

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)),
                           (0, (3, 1, 1, 1, 1, 1)), (0, (2, 2)), "-")


@dataclass(frozen=True)
class Style:
    """How a series looks, in figure and legend alike."""

    name: str
    colour: int
    mark: str
    dash: Any
    width: float = 1.2

    @property
    def swatch(self) -> str:
        """A small inline picture of the line."""
        made, (ax,) = svg.figure(0.42, 0.13)
        made.set_layout_engine("none")
        ax.set_position((0.04, 0, 0.92, 1))
        ax.set_axis_off()
        ax.plot([0, 1, 2], [0, 0, 0], **self.line, markevery=[1])
        return svg.inline(made, f"k{abs(hash_of(self.name))}", self.name).replace('class="figure"', 'class="swatch"')

    @property
    def line(self) -> dict[str, Any]:
        """Arguments for `Axes.plot`."""
        colour = svg.SERIES[self.colour]
        return {"color": colour, "marker": self.mark, "linestyle": self.dash, "linewidth": self.width, "markersize": 4,
                "markerfacecolor": colour, "markeredgewidth": 0, "clip_on": False}


def hash_of(text: str) -> int:
    """A short number that is the same in every process."""
    import zlib

    return zlib.crc32(text.encode())


KINDS = {
    "worst": Style("worst case of all attacks, 95% interval", 0, "o", "-", 2.4),
    "certified": Style("certified: no attack can go below", 3, "v", (0, (1, 1.2)), 1.4),
    "white-box": Style("white-box attacks", 1, "s", "-", 1.0),
    "score": Style("attacks that see scores", 4, "^", (0, (5, 1.5)), 1.0),
    "label-only": Style("attacks that see labels only", 2, "D", (0, (5, 1.5, 1, 1.5)), 1.0),
    "noise": Style("random noise (control)", 5, "X", (0, (2, 2)), 1.4),
}


@dataclass(frozen=True)
class Panels:
    """Panels that share a caption and a legend."""

    caption: str
    panels: list[tuple[str, str]]
    legend: list[Style]
    wide: bool = False


def curves(rows: Rows) -> Panels:
    """Robust accuracy against the budget, a panel for every undefended model and norm in which it was attacked."""
    panels, used = [], {}
    for model in rows.models:
        for norm in ("linf", *rows.norms):
            lines = _lines(rows, model, norm)
            if not lines:
                continue
            made, (ax,) = svg.figure(2.7, 2.2)
            for kind, found in lines:
                used[kind] = None
                _curve(ax, rows, found, KINDS[kind], norm, band=kind == "worst")
            _budget_axis(ax, rows, norm)
            title = model if norm == "linf" else f"{model}, budget {_unit(rows, norm)}"
            panels.append((title, svg.inline(made, f"curve{len(panels)}", _said(rows, model, norm, lines))))
    unit = _unit(rows, "linf") if rows.voice.feature == "pixel" else f"share of {rows.voice.scale}"
    if rows.norms:
        unit += ", or as the panel says"
    caption = (f"Robust accuracy against the budget ({unit}; square-root axis). Attacks on fewer "
               f"{rows.cases} start from the accuracy on these; where no attack met all {rows.cases}, no worst case is "
               "drawn. The main budget is marked.")
    return Panels(caption, panels, [KINDS[k] for k in KINDS if k in used])


def _said(rows: Rows, model: str, norm: str, lines: list[tuple[str, list[Measurement]]]) -> str:
    """A panel of curves in words."""
    if norm == "linf":
        found = robustness(rows, model)
        by = "random noise" if found and found.accuracy.attack == CONTROL else "worst case"
        return model if found is None else (f"{model}: accuracy {number(found.clean)} without attack, "
                                            f"{interval(found.accuracy)} at {rows.voice.budget(rows.eps)} ({by})")
    main = rows.norms[norm]["eps"]
    left = [f"{r.attack} {interval(r)}" for _, found in lines for r in found if r.attack_params.get("eps") == main]
    return f"{model}: accuracy at {rows.voice.budget(main, norm)} under {', '.join(left)}"


def _lines(rows: Rows, model: str, norm: str) -> list[tuple[str, list[Measurement]]]:
    """Series of one model in one norm, least important first."""
    out: list[tuple[str, list[Measurement]]] = []
    for attack in rows.attacks(model, "none", "robust_accuracy"):
        found = rows.of("robust_accuracy", model, attack=attack)
        if known.norm(found[0]) != norm:
            continue  # its budget is another quantity
        out.append(("noise" if attack == CONTROL else
                    found[0].knowledge if found[0].knowledge in KINDS else "white-box", found))
        if certified := rows.of("certified_accuracy", model, attack=attack):
            out.append(("certified", certified))
    worst = rows.of("robust_accuracy", model, attack=WORST)
    found = robustness(rows, model)
    if norm == "linf" and worst and found and not found.partial:
        out.append(("worst", worst))
    return out


def _curve(ax: Any, rows: Rows, found: list[Measurement], style: Style, norm: str = "linf",
           band: bool = False) -> None:
    """Draw rows of rising budget; the curve starts at the accuracy of the same patients without an attack."""
    first = found[0]
    right = rows.one("attack_success_rate", first.model, first.defense, first.attack)
    points = sorted((_per(rows, norm) * r.attack_params.get("eps", 0), r.estimate) for r in found)
    if right is not None:
        points.insert(0, (0.0, proportion(right.n, first.n)))
    x, estimates = zip(*points, strict=True)
    ax.plot(x, [e.value for e in estimates], **style.line, zorder=4 if band else 3)
    if band:
        ax.fill_between(x, [e.low for e in estimates], [e.high for e in estimates], color=svg.SERIES[style.colour],
                        alpha=0.18, linewidth=0, zorder=1)


def _budget_axis(ax: Any, rows: Rows, norm: str = "linf") -> None:
    import numpy as np

    per, ladder = _per(rows, norm), rows.norms.get(norm, rows.manifest.get("plan", {}))
    budgets = [per * b for b in ladder.get("budgets", [])]
    ax.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
    ax.set_xlim(0, max(budgets, default=20))
    ax.set_xticks([0, *budgets], [f"{b:.3g}" for b in [0, *budgets]])
    ax.minorticks_off()
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel(f"budget, {_unit(rows, norm)}", color=svg.INK, fontsize=7.5)
    if ladder.get("eps") is not None:
        ax.axvline(per * ladder["eps"], color=svg.MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)


def _per(rows: Rows, norm: str) -> float:
    """What a budget of 1 is on the axis: per cent for tables, grey levels for images, itself in other norms."""
    return 1.0 if norm != "linf" else 255.0 if rows.voice.feature == "pixel" else 100.0


def _unit(rows: Rows, norm: str) -> str:
    """Of the axis."""
    largest = "grey levels of 255" if rows.voice.feature == "pixel" else "% of scale"
    return {"linf": largest, "l2": "in L2", "l0": f"in {rows.voice.feature}s"}[norm]


def defended_curves(rows: Rows) -> Panels:
    """Worst-case robust accuracy behind each defense, a panel for every model that has some."""
    names = list(dict.fromkeys(d for _, d in rows.pairs()))
    styles = {d: Style("no defense" if d == "none" else d, i % 8, MARKS[i % 8], DASHES[i % 8], 2.4 if i == 0 else 1.5)
              for i, d in enumerate(names)}
    panels, used = [], {}
    for model in rows.models:
        attacked = [d for d in rows.defenses(model) if (r := robustness(rows, model, d)) and not r.partial
                    and rows.of("robust_accuracy", model, d, WORST)]  # a run that was stopped may lack it
        if len(attacked) < 2:
            continue
        made, (ax,) = svg.figure(2.7, 2.2)
        for defense in attacked:
            used[defense] = None
            _curve(ax, rows, rows.of("robust_accuracy", model, defense, WORST), styles[defense])
        _budget_axis(ax, rows)
        values = ", ".join(f"{styles[d].name} {number(robustness(rows, model, d).accuracy.value)}" for d in attacked)
        panels.append((model, svg.inline(made, f"defended{len(panels)}",
                                         f"{model}: robust accuracy at {rows.voice.budget(rows.eps)}: {values}")))
    caption = "Worst-case robust accuracy against the budget, behind each defense; intervals are in the table."
    return Panels(caption, panels, [styles[d] for d in names if d in used])


ROCS = (Style("the strongest attack", 0, "", "-", 2.0), Style("the second", 1, "", (0, (5, 1.5)), 1.4),
        Style("the third", 2, "", (0, (1, 1.2)), 1.4))
CLOUDS = {"clean": Style("clean", 5, "o", ""), "detected": Style("attacked, alarm at the 5% threshold", 0, "^", ""),
          "missed": Style("attacked, no alarm", 1, "X", "")}


def maps(rows: Rows, arrays: Callable[[str], Mapping[str, Any]]) -> Panels:
    """Where clean, detected and missed inputs lie for the undefended models, a panel for every detector."""
    panels, used = [], {}
    for model in rows.models:
        for name in detectors(rows, model, "none"):
            kept = arrays(rows.one(f"detection_leak[{name}]", model).cell)
            if "map_clean" not in kept:
                continue
            made, (ax,) = svg.figure(2.7, 2.4)
            found = {kind: kept[f"map_{kind}"] for kind in CLOUDS if f"map_{kind}" in kept}
            for kind, points in found.items():
                used[kind] = None
                ax.plot(points[:, 0], points[:, 1], **CLOUDS[kind].line, alpha=0.75)
            shares = kept["map_share"]
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_xlabel(f"first component, {share(shares[0])} of variance", color=svg.INK, fontsize=7.5)
            ax.set_ylabel(f"second, {share(shares[1])}", color=svg.INK, fontsize=7.5)
            counts = ", ".join(f"{len(points)} {kind}" for kind, points in found.items())
            panels.append((f"{model}, {name}", svg.inline(made, f"map{len(panels)}", (
                f"Features of {model} along two components: {counts} by {name}. " + _apart(found)))))
    caption = ("How the network sees its inputs: the features before its last layer, along the two directions in which "
               "those of clean test inputs vary most. Attacked: what attacks within their main budgets turned from "
               "right to wrong. At most 100 of each kind, chosen at random. Two directions are not all that a detector "
               "sees: what overlaps here may still be told apart.")
    return Panels(caption, panels, [CLOUDS[k] for k in CLOUDS if k in used])


def _apart(found: Mapping[str, Any]) -> str:
    """How far from the middle of the clean inputs the others lie, in words."""
    clean = found["clean"]
    spread = float(((clean - clean.mean(0)) ** 2).sum(1).mean() ** 0.5) or 1.0
    far = [f"{kind} ones {number(float(((points - clean.mean(0)) ** 2).sum(1).mean() ** 0.5) / spread, 1)}"
           for kind, points in found.items() if kind != "clean"]
    return f"Typical distance from the middle of the clean ones, in units of theirs: {', '.join(far)}."


def forest(rows: Rows) -> Panels:
    """Utility, robustness and leakage of every model behind every defense, with intervals."""
    lines: list[tuple[str, str, list[Measurement | None]]] = []
    for model, defense in rows.pairs():
        robust = robustness(rows, model, defense)
        lines.append((model, defense, [rows.one("balanced_accuracy", model, defense),
                                       robust.accuracy if robust and robust.attacked else None,
                                       leakage(rows, model, defense)]))
    if len(lines) < 2 or not any(any(values) for *_, values in lines):
        return Panels("", [], [])
    y, at, seen = [], 0.0, None
    for model, *_ in lines:
        at += 1.0 if model == seen else 1.9
        seen = model
        y.append(at)
    titles = ["balanced accuracy", f"robust accuracy at {rows.voice.budget(rows.eps)}", "membership AUROC"]
    if any(values[2] for *_, values in lines):
        what, better = "Utility, robustness and leakage", " Leakage is better on the left, the others on the right."
    else:
        what, better = "Utility and robustness", ""
        titles.pop()
    made, axes = svg.figure(7.2, 0.5 + 0.205 * (at + 1), len(titles), sharey=True)
    made.get_layout_engine().set(wspace=0.05)
    for column, (ax, title) in enumerate(zip(axes, titles, strict=True)):
        _forest_panel(ax, title, [(at, d, values[column]) for at, (_, d, values) in zip(y, lines, strict=True)])
        if column != 1:
            ax.axvline(0.5, color=svg.MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
    axes[0].set_yticks(y, ["no defense" if d == "none" else d for _, d, _ in lines])
    axes[0].set_ylim(at + 0.9, 0.2)
    for model in dict.fromkeys(m for m, *_ in lines):
        first = next(at for at, (m, *_) in zip(y, lines, strict=True) if m == model)
        axes[0].annotate(model, (0, first - 0.95), xycoords=("axes fraction", "data"), xytext=(-4, 0), ha="right",
                         va="center", textcoords="offset points", color=svg.INK, fontsize=7.5, weight="bold")
    said = [", ".join(number(v.value) if v else "not measured" for v in values[:len(titles)]) for *_, values in lines]
    label = "; ".join(f"{m}, {'no defense' if d == 'none' else d}: {s}"
                      for (m, d, _), s in zip(lines, said, strict=True))
    picture = svg.inline(made, "forest", f"Compared: {', '.join(titles)}. {label}")
    caption = f"{what} with 95% intervals. Dotted line at 0.5: guessing.{better}"
    return Panels(caption, [("", picture)], [], wide=True)


def _forest_panel(ax: Any, title: str, points: list[tuple[float, str, Measurement | None]]) -> None:
    ax.set_title(title, fontsize=7.5, color=svg.INK, loc="left", pad=6)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    ax.grid(False, axis="y")
    for at, defense, row in points:
        if row is None:
            continue
        own = defense == "none"
        colour = svg.INK if own else svg.SERIES[0]
        if row.ci_low is not None and row.ci_high is not None:
            ax.plot([row.ci_low, row.ci_high], [at, at], color=colour, linewidth=1.4, solid_capstyle="butt")
        ax.plot([row.value], [at], marker="s" if own else "o", color=colour, markersize=4.5, markeredgewidth=0)


def roc(rows: Rows, arrays: Callable[[str], Mapping[str, Any]]) -> Panels:
    """Members found against others accused, of the strongest membership attacks on each undefended model."""
    panels, used = [], {}
    for model in rows.models:
        best = ranked(rows, model)[:len(ROCS)]
        found = [(row, kept) for row in best if len((kept := arrays(row.cell)).get("score", ())) > 0]
        if not found:
            continue
        least = min(1 / int((~kept["member"]).sum()) for _, kept in found)
        made, (ax,) = svg.figure(2.7, 2.4)
        for place, (_, kept) in enumerate(found):
            used[place] = None
            fpr, tpr = roc_curve(kept["score"], kept["member"])
            line = {k: v for k, v in ROCS[place].line.items() if "mark" not in k}
            ax.plot(fpr, tpr, **line | {"clip_on": True}, drawstyle="steps-post")  # 0 lies beyond any log axis
        ax.plot([least, 1], [least, 1], color=svg.MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(least, 1)
        ax.set_ylim(least, 1)
        ticks = [t for t in (0.001, 0.01, 0.1, 1) if t >= least]
        for set_ticks in (ax.set_xticks, ax.set_yticks):
            set_ticks(ticks, [f"{100 * t:g}%" for t in ticks])
        ax.minorticks_off()
        ax.set_xlabel("others accused wrongly", color=svg.INK, fontsize=7.5)
        ax.set_ylabel("members found", color=svg.INK, fontsize=7.5)
        said = ", ".join(f"{called(row)} AUROC {interval(row)}" for row, _ in found)
        panels.append((f"{model}: {', '.join(called(row) for row, _ in found)}",
                       svg.inline(made, f"roc{len(panels)}", f"ROC on logarithmic axes, {model}: {said}")))
    caption = (f"Training {rows.cases} found against others accused, on logarithmic axes: on the left stands what an "
               "attacker finds who hardly accuses anyone wrongly. It ends at one non-member. Dotted: guessing.")
    return Panels(caption, panels, [ROCS[k] for k in used])


def stolen(rows: Rows) -> Panels:
    """Agreement of stolen copies against the answers asked, a panel for every model and attack."""
    agree, right = Style("agreement with the model, 95% interval", 0, "o", "-", 2.0), Style(
        "accuracy of the copy", 1, "s", (0, (5, 1.5)), 1.4)
    own_style = Style("agreement of a model of the attacker's own labels", 2, "^", (0, (1, 1.2)), 1.4)
    guess_style = Style("always the commonest answer", 5, "", (0, (2, 2)), 1.4)
    panels = []
    for model in rows.models:
        for attack in rows.attacks(model, "none", "fidelity"):
            made, (ax,) = svg.figure(2.7, 2.1)
            for metric, style in (("fidelity_of_own_labels", own_style), ("surrogate_accuracy", right),
                                  ("fidelity", agree)):
                found = rows.of(metric, model, attack=attack)
                x = [r.attack_params.get("budget") or r.queries for r in found]
                ax.plot(x, [r.value for r in found], **style.line)
                if metric == "fidelity":
                    ax.fill_between(x, [r.ci_low for r in found], [r.ci_high for r in found],
                                    color=svg.SERIES[0], alpha=0.18, linewidth=0)
                    ticks, last = x, found[-1]
            guess = rows.one("fidelity_of_guessing", model, attack=attack)
            if guess:
                ax.axhline(guess.value, **{k: v for k, v in guess_style.line.items() if "marker" not in k})
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
            ax.minorticks_off()
            ax.set_ylim(0, 1)
            ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
            ax.set_xlabel("answers asked (log scale)", color=svg.INK, fontsize=7.5)
            label = (f"{model}, {attack}: agreement {share(last.value)} after {ticks[-1]:g} answers"
                     + (f"; always the commonest answer, {share(guess.value)}" if guess else ""))
            panels.append((f"{model}, {attack}", svg.inline(made, f"stolen{len(panels)}", label)))
    return Panels("How fast a copy comes to agree with the model.", panels, [agree, own_style, right, guess_style])
