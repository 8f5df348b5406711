"""What the report and the findings say of images: made-up rows, and the numbers that must follow from them."""

import re
from html import unescape
from typing import ClassVar

import numpy as np
import pytest

from suite.report.figures import charts as figures
from suite.report.figures import pictures
from suite.report.page import render
from suite.report.rows import Rows
from suite.report.rules.every import findings
from suite.report.sections import defenses, detection, robustness
from tests.support.rows import clean, evasion, manifest, row

NORMS = {"l2": {"eps": 0.5, "budgets": [0.25, 0.5]}, "l0": {"eps": 3, "budgets": [1, 3]}}


def images(**changes):
    """A manifest of images with budgets in three norms."""
    made = manifest(noun="image", features=[], budget={"intensity": "± 4 of 255"}, **changes)
    made["plan"]["norms"] = NORMS
    return made


def attacked(name, budgets, norm, success=0.4, **fields):
    """Rows of one attack on 100 images, 80 of them judged rightly, that fools `success` of these at every budget."""
    return [r for eps in budgets for r in (
        row("robust_accuracy", 0.8 * (1 - success), 0.2, 0.7, attack=name, eps=eps, norm=norm, **fields),
        row("attack_success_rate", success, success - 0.1, min(success + 0.1, 1), n=80, attack=name, eps=eps, norm=norm,
            **fields))]


def cells(table):
    return {tuple(c.text for c in line) for _, group in table.groups for line in group}


class TestCurves:
    rows = (*clean(), *evasion((0.4, 0.3, 0.5), (0.45, 0.36, 0.55)),
            *attacked("deepfool", (0.25, 0.5), "l2", 0.9, knowledge="white-box"),
            *attacked("few-pixels", (1, 3), "l0", 0.2, knowledge="score"),
            *attacked("speckle", (0.2,), "own", knowledge="score"))

    def test_each_norm_has_a_panel_with_its_own_budgets(self):
        found = figures.curves(Rows(list(self.rows), images()))
        assert [title for title, _ in found.panels] == ["m", "m, budget in L2", "m, budget in pixels"]
        largest, l2, l0 = (re.findall(r">([\d.]+)</text>", svg) for _, svg in found.panels)
        assert {"0.25", "0.5"} <= set(l2) and "3" in l0
        assert "12.8" in largest and "3" not in largest  # 0.05 of 255 grey levels
        assert 'aria-label="m: accuracy at L2 0.5 under deepfool 0.08 (0.20–0.70)"' in found.panels[1][1]
        assert {s.name for s in found.legend} >= {"white-box attacks", "attacks that see scores"}

    def test_a_plan_without_other_norms_has_none(self):
        found = figures.curves(Rows(list(self.rows), manifest()))
        assert [title for title, _ in found.panels] == ["m"] and "share of each column's scale" in found.caption

    def test_a_run_that_was_stopped_before_the_worst_case_is_drawn_all_the_same(self):
        rows = [r for d in ("none", "x")
                for r in clean(defense=d) + evasion((0.4, 0.3, 0.5), (0.4, 0.3, 0.5), defense=d)]
        assert len(figures.defended_curves(Rows(rows, images())).panels) == 1
        rows = [r for r in rows if (r.defense, r.attack) != ("x", "worst-case")]
        assert figures.defended_curves(Rows(rows, images())).panels == []


class TestMaps:
    rows = (*clean(), row("detection_leak[watch]", 0.5, 0.45, 0.55))
    kept: ClassVar = {"map_clean": np.float32([[0, 1], [0, -1], [1, 0], [-1, 0]]), "map_missed": np.float32([[3, 0]]),
                      "map_share": np.array([0.6, 0.3])}

    def test_clean_detected_and_missed_differ_in_more_than_colour(self):
        found = figures.maps(Rows(list(self.rows), images()), lambda _: self.kept)
        (title, svg), = found.panels
        assert title == "m, watch" and "60% of variance" in svg
        assert "4 clean, 1 missed by watch" in svg and "in units of theirs: missed ones 3.0" in svg
        assert [s.name for s in found.legend] == ["clean", "attacked, no alarm"]
        assert len({s.mark for s in figures.CLOUDS.values()}) == 3 == len({s.colour for s in figures.CLOUDS.values()})

    def test_nothing_is_drawn_of_cells_without_one(self):
        assert figures.maps(Rows(list(self.rows), images()), lambda _: {}).panels == []

    def test_it_stands_in_the_section_on_detection(self):
        page = render(list(self.rows), images(), lambda _: self.kept)
        assert 'aria-label="Features of m along' in page.split('id="detection"')[1].split('id="defenses"')[0]


def test_models_behind_a_defense_have_a_table_of_detectors_of_their_own():
    rows = Rows([r for d in ("none", "x") for r in (row("detection_leak[watch]", 0.5, 0.4, 0.6, defense=d),)], images())
    assert [name for name, _ in detection.table(rows).groups] == ["m"]
    assert [name for name, _ in detection.table(rows, defended=True).groups] == ["m behind x"]


class TestCertificates:
    def test_stand_beside_balanced_accuracy(self):
        rows = [*clean(), *clean(defense="smooth", balanced=(0.5, 0.5, 0.5))]
        rows += [row("certified_accuracy", v, v - 0.1, v + 0.1, n=40, defense="smooth", eps=e, norm="l2")
                 for e, v in ((0.25, 0.7), (0.5, 0.3))]
        rows.append(row("median_certified_radius", 0.417, defense="smooth", norm="l2"))
        table = defenses.certificates(Rows(rows, images()))
        assert table.head[2:4] == ["right and proven at L2 0.25", "right and proven at L2 0.5"]
        assert cells(table) == {("smooth", "0.50 (0.50–0.50)", "0.70 (0.60–0.80)", "0.30 (0.20–0.40)", "0.417", "40")}
        assert "balanced accuracy beside it" in table.note

    def test_those_of_attacks_are_not_among_them(self):
        rows = [*clean(), row("certified_accuracy", 0.3, 0.2, 0.4, attack="exact-linf", eps=0.05)]
        assert not defenses.certificates(Rows(rows, manifest()))


def test_universal_patterns_and_transfer_in_one_table():
    rows = attacked("transfer", (0.01, 0.05), "linf", 0.3) + attacked("universal", (0.05,), "linf", 0.2)
    rows += attacked("pgd", (0.05,), "linf")
    rows += [row(m, v, v - 0.1, v + 0.1, attack="transfer", eps=0.05) for m, v in (
        ("surrogate_accuracy", 0.81), ("surrogate_success", 0.72), ("transfer_rate", 0.33))]
    rows += [row("pattern_success_rate", 0.2, 0.1, 0.3, attack="universal", eps=0.05),
             row("crafting_queries", 4000.0, attack="universal", eps=0.05),
             row("visibility[ssim]", 0.9512, attack="transfer", eps=0.05)]
    table = robustness.shared(Rows(rows, images()))
    assert cells(table) == {
        ("transfer", "0.30 (0.20–0.40)", "0.81 (0.71–0.91)", "0.72 (0.62–0.82)", "0.33 (0.23–0.43)", "0.951", "–",
         "80"),
        ("universal", "0.20 (0.10–0.30)", "–", "–", "–", "–", "4,000", "80")}


class TestByAttack:
    def table(self, made):
        rows = attacked("pgd", (0.05,), "linf") + attacked("deepfool", (0.05, 0.5), "l2")
        rows += attacked("rotation-translation", (30.0,), "own")
        for name, eps, size in (("pgd", 0.05, 8 / 255), ("deepfool", 0.5, 0.31), ("rotation-translation", 30.0, 30.0)):
            rows += [row("median_perturbation", size, attack=name, eps=eps), row("gradients", 1048.0, attack=name,
                                                                                   eps=eps),
                     row(f"lift[{name}]", 0.2, 0.1, 0.3, attack="worst-case", eps=0.05)]
        return robustness.by_attack(Rows(rows, made), "m", "none", "")

    def column(self, table, head):
        i = table.head.index(head)
        return {line[0].text: line[i].text for _, group in table.groups for line in group}

    def test_sizes_are_in_the_unit_of_the_budget(self):
        assert self.column(self.table(images()), "median size") == {
            "pgd": "8/255", "deepfool (L2 0.5)": "0.310", "rotation-translation (largest angle 30 degrees)": "–"}
        assert self.column(self.table(images()), "gradients per image")["pgd"] == "1,048"

    def test_an_attack_that_ran_twice_stands_twice_with_what_differs(self):
        rows = [r.model_copy(update={"cell": f"{steps}", "attack_params": r.attack_params | {"steps": steps}})
                for steps, success in ((7, 0.2), (400, 0.6)) for r in attacked("pgd", (0.05,), "linf", success)]
        table = robustness.by_attack(Rows([*clean(), *rows], images()), "m", "none", "")
        assert self.column(table, "attack success rate") == {"pgd (steps = 7)": "0.20 (0.10–0.30)",
                                                             "pgd (steps = 400)": "0.60 (0.50–0.70)"}

    def test_lift_is_told_where_the_control_is_of_the_same_norm(self):
        assert list(self.column(self.table(images()), "lift over noise").values()) == ["0.20 (0.10–0.30)", "–", "–"]
        assert self.column(self.table(manifest()), "lift over noise")["deepfool (5%)"] == "0.20 (0.10–0.30)"


class TestNaturalChanges:
    def found(self, *rows, topic="natural changes"):
        return [f for f in findings([*clean(), *rows], images()) if f.topic == topic]

    @pytest.mark.parametrize(("success", "level"), [(0.45, "high"), (0.25, "medium"), (0.12, "inconclusive")])
    def test_they_have_a_finding_of_their_own(self, success, level):
        f, = self.found(*attacked("rotation-translation", (30.0,), "own", success, knowledge="score"))
        assert f.level == level and f.text.startswith(
            f"rotation-translation (largest angle 30 degrees) changes the prediction for {success:.0%}")
        assert "of 80 correctly classified images" in f.text and "needs no attacker" in f.text and "several" in f.text

    def test_of_one_level_that_which_nobody_aimed_comes_first(self):
        f, = self.found(*attacked("speckle", (0.2,), "own", 0.5, knowledge="score"),
                        *attacked("bias-field", (0.3,), "own", 0.9, knowledge="white-box"))
        assert f.figure == "50%" and f.text.endswith("Others: bias-field 90% (80–100%), found with gradients.")
        f, = self.found(*attacked("bias-field", (0.3,), "own", 0.9, knowledge="white-box"))
        assert f.figure == "90%" and "the worst that gradients find" in f.text

    def test_one_that_somebody_aimed_is_not_hidden_by_a_calm_one(self):
        calm = attacked("rotation-translation", (30.0,), "own", 0.01, knowledge="score")
        f, = self.found(*calm, *attacked("bias-field", (0.3,), "own", 0.6, knowledge="white-box"))
        assert f.level == "high" and f.figure == "60%"

    @pytest.mark.parametrize("twice", [(0.01, 0.6), (0.6, 0.01)])
    def test_an_attack_that_ran_twice_counts_twice(self, twice):
        rows = [r.model_copy(update={"cell": f"{eps}"}) for eps, success in zip((5.0, 30.0), twice, strict=True)
                for r in attacked("rotation-translation", (eps,), "own", success, knowledge="score")]
        f, = self.found(*rows)
        assert f.level == "high" and f.figure == "60%" and "Others: rotation-translation" in f.text

    def test_low_needs_one_that_was_aimed(self):
        def calm(name, knowledge):
            return [r.model_copy(update={"ci_low": 0.0, "ci_high": 0.05}) if r.metric == "attack_success_rate" else r
                    for r in attacked(name, (0.3,), "own", 0.01, knowledge=knowledge)]

        f, = self.found(*calm("speckle", "score"))
        assert f.level == "inconclusive" and "No strong attack of this kind ran" in f.text
        assert "adversarial-speckle" in f.command
        f, = self.found(*calm("speckle", "score"), *calm("bias-field", "white-box"))
        assert f.level == "low"

    def test_attacks_within_a_norm_and_collapsed_models_have_none(self):
        assert not self.found(*attacked("pgd", (0.05,), "linf"), *attacked("deepfool", (0.5,), "l2"))
        rows = [*clean(collapsed=1.0), *attacked("speckle", (0.2,), "own")]
        assert not [f for f in findings(rows, images()) if f.topic == "natural changes"]


class TestWhatNobodySees:
    def text(self, ssim, success=0.6):
        rows = [*clean(), *evasion((success, success - 0.08, success + 0.1), (0.3, 0.2, 0.4)),
                row("visibility[ssim]", ssim, attack="pgd", eps=0.05)]
        f, = (f for f in findings(rows, images()) if f.topic == "evasion")
        return f.text

    def test_is_said_of_attacks_that_succeed(self):
        assert "Hardly anyone would see it: pgd at 12.8/255 changes 60% (52–70%)" in self.text(0.9871)
        assert "similarity of 0.987 to the originals" in self.text(0.9871)

    def test_and_not_of_what_can_be_seen_or_fails(self):
        assert "Hardly" not in self.text(0.949) and "Hardly" not in self.text(0.99, 0.09)


class TestPage:
    def text(self, rows, made):
        page = re.sub(r"<(style|svg)\b.*?</\1>|<[^>]+>", " ", render(rows, made), flags=re.S)
        return " ".join(unescape(page).split())

    def test_what_was_no_part_of_the_run_takes_one_line(self):
        text = self.text(clean() + evasion((0.4, 0.3, 0.5), (0.4, 0.3, 0.5)), images())
        assert "Poisoning and privacy Not part of this run." in text
        assert "Not measured in this run" not in text and "training patients" not in text
        one = self.text([*clean(), row("membership_auroc", 0.6, 0.5, 0.7, attack="mi")], images())
        assert one.count("Not measured in this run") == 4 and "Not part" not in one

    def test_leakage_that_nobody_measured_has_no_panel(self):
        rows = [r for d in ("none", "x") for r in clean(defense=d)]
        assert "membership" not in figures.forest(Rows(rows, images())).panels[0][1]
        rows += [row("membership_auroc", 0.6, 0.5, 0.7, attack="mi", defense=d) for d in ("none", "x")]
        assert "membership AUROC" in figures.forest(Rows(rows, images())).panels[0][1]

    def test_only_thresholds_that_were_applied_are_listed(self):
        page = render(clean(), images())
        listed = page.split("<caption>Thresholds</caption>")[1].split("</table>")[0]
        assert re.findall(r'<th scope="row">([^<]+)</th>', listed) == ["performance"]


def test_reconstructions_are_shown_once_an_attack_between_the_means():
    rows = [r for defense in ("none", "x") for steps in (1, 2) for r in (
        row("inversion_distance[ill]", 0.1 * steps, attack="inv", defense=defense),)]
    kept = {"picture_start": np.zeros((1, 8, 8), np.uint8), "picture_means": np.zeros((2, 8, 8), np.uint8),
            "picture_rebuilt": np.full((2, 8, 8), 255, np.uint8), "picture_classes": np.array(["well", "ill"])}
    (of, shown), = pictures.rebuilt(Rows(rows, images()), lambda _: kept).items()
    assert of == "inv on m"
    assert [p.title for p in shown] == ["mean of all", "mean of “well”", "“well”, rebuilt", "mean of “ill”",
                                        "“ill”, rebuilt"]
    assert shown[1].uri == shown[3].uri != shown[2].uri
    assert pictures.rebuilt(Rows(rows, images()), lambda _: {}) == {}
    assert 'alt="inv on m: “ill”, rebuilt"' in render(rows, images(), lambda _: kept)
