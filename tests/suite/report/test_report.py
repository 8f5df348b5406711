"""The report: one file, self-contained, with the rows' numbers and nothing else's."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from suite.report.known import parameters
from suite.report.page import render
from suite.report.rows import Rows
from suite.report.sections.defenses import leakage
from suite.report.sections.privacy import attribute, epsilon, extraction, inversion, reconstruction
from suite.report.sections.robustness import by_attack, sparse
from suite.report.show import brief, interval, number, percent, points, share
from suite.report.write import write_report
from suite.results.measurement import Measurement
from suite.results.run import Run
from tests.support.rows import clean, evasion, manifest, row

VOID = {"meta", "link", "br", "img", "input", "hr"}


def budget(defense, claimed, shown):
    """The rows of an audit of a privacy budget."""
    at = {"defense": defense, "attack": "one-run", "confidence": 0.95}
    rows = [row("epsilon_audited", shown, n=154, **at), row("epsilon_audited_gdp", 2 * shown, n=154, **at),
            row("canary_guesses_right", 0.75, 0.64, 0.83, 76, **at), row("delta", 1e-3, **at)]
    return rows + ([row("epsilon_claimed", claimed, **at), row("epsilon_independent", 2.98, **at)] if claimed else [])


def full_rows():
    """A little of everything that a run can hold."""
    rows = clean() + evasion((0.41, 0.31, 0.52), (0.45, 0.36, 0.55))
    rows += [row("robust_accuracy", 0.6, 0.5, 0.7, attack=a, eps=0.01) for a in ("noise", "pgd", "worst-case")]
    rows += [row("confusion[well->well]", 47.0), row("confusion[well->ill]", 13.0), row("confusion[ill->ill]", 37.0),
             row("confusion[ill->well]", 3.0), row("precision[ill]", 0.74, 0.61, 0.84, 50),
             row("attacked_confusion[well->ill]", 29.0, attack="pgd", eps=0.05)]
    rows += clean(defense="dp") + evasion((0.2, 0.1, 0.3), (0.57, 0.47, 0.67), defense="dp")
    rows += [row("note[epsilon_claimed]", 3.0, defense="dp"), row("note[epsilon_independent]", 2.98, defense="dp"),
             row("certified_accuracy", 0.33, 0.25, 0.43, attack="pgd", eps=0.05),
             row("solved", 0.97, 0.9, 0.99, attack="pgd", eps=0.05),
             row("lift[pgd]", 0.39, 0.29, 0.49, attack="worst-case", eps=0.05),
             row("check[loss rises with steps]", 0.0, defense="dp", attack="worst-case", eps=0.05),
             row("accuracy_change", -0.07, -0.12, -0.02, attack="flip", rate=0.1),
             row("membership_auroc", 0.63, 0.54, 0.72, attack="mi"), row("resolvable_fpr", 0.013, attack="mi"),
             row("tpr_at_fpr[0.05]", 0.13, 0.05, 0.26, attack="mi"),
             *budget("dp", 3.0, 0.4), *budget("none", None, 1.7),
             row("attribute_gain", 0.12, 0.08, 0.17, attack="at", column="a"),
             row("inversion_distance[ill]", 0.2, attack="inv"), row("inversion_prior_distance[ill]", 0.3, attack="inv"),
             row("inversion_recognized[ill]", 0.9, attack="inv"), row("rows_rebuilt", 0.9, 0.8, 1.0, attack="db"),
             row("rows_rebuilt_baseline", 0.0, 0.0, 0.1, attack="db"),
             row("fidelity", 0.91, 0.85, 0.95, attack="steal", budget=25),
             row("fidelity", 0.96, 0.9, 0.99, attack="steal", budget=50),
             row("surrogate_accuracy", 0.72, 0.6, 0.8, attack="steal", budget=25),
             *(row(metric, value, value - 0.1, value + 0.1, attack="steal", budget=b) for b in (25, 50)
               for metric, value in (("fidelity_of_own_labels", 0.8), ("fidelity_gain", 0.13),
                                     ("accuracy_of_own_labels", 0.7))),
             row("fidelity_of_guessing", 0.6, 0.5, 0.7, attack="steal"),
             row("sensitivity", 0.35, 0.18, 0.57, 20, subgroup="age=<30"),
             row("error", None, attack="broken", error="ValueError: it broke (x.py:1)")]
    return rows


class Balance(HTMLParser):
    """Notes tags that are not closed in order, ids, links and heading levels."""

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.ids, self.links, self.headings = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[a] for a in ("href", "src", "srcset", "action", "poster") if a in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))


def parsed(page):
    parser = Balance()
    parser.feed(page)
    return parser


@pytest.fixture(scope="module")
def page():
    return render(full_rows(), manifest())


def text_of(page):
    return " ".join(unescape(re.sub(r"<(style|svg)\b.*?</\1>|<[^>]+>", " ", page, flags=re.S)).split())


def test_tags_are_balanced_and_ids_unique(page):
    parser = parsed(page)
    assert parser.faults == [] and parser.open == []
    assert len(set(parser.ids)) == len(parser.ids)


def test_every_link_leads_to_an_id_on_the_page(page):
    parser = parsed(page)
    assert parser.links and all(link.startswith("#") and link[1:] in parser.ids for link in parser.links)


def test_nothing_is_fetched_from_anywhere(page):
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe|<object|<embed", page)
    assert "://" not in page


def test_headings_do_not_skip_a_level(page):
    levels = parsed(page).headings
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_figures_have_words_and_follow_the_page(page):
    figures = re.findall(r'<svg viewBox[^>]*class="figure"[^>]*>', page)
    assert len(figures) >= 3 and all('role="img"' in f and 'aria-label="' in f for f in figures)
    assert any("0.45 (0.36–0.55) at 5%" in unescape(f) for f in figures)
    svg = " ".join(re.findall(r"<svg.*?</svg>", page, flags=re.S))
    assert "var(--s1)" in svg and "currentColor" in svg
    assert not re.search(r"#f000[01]\d|#000000|#ffffff|xmlns|<style", svg)


def test_first_line_is_which_data_ran_and_why(page):
    assert text_of(page[page.index("<header>"):]).startswith("d: because it was asked for")


def test_key_tables_say_what_the_rows_say(page):
    text = text_of(page)
    for r in full_rows():
        if r.metric in ("balanced_accuracy", "robust_accuracy", "attack_success_rate", "accuracy", "certified_accuracy",
                        "solved", "accuracy_change", "membership_auroc", "attribute_gain") and r.attack_params.get(
                            "eps", 0.05) == 0.05:
            assert interval(r) in text, (r.metric, interval(r))
    comparison = text[text.index("Every model behind every defense"):]
    assert "none 0.70 (0.60–0.80) 0.45 (0.36–0.55) 0.63 (0.54–0.72)" in comparison
    assert "dp 0.70 (0.60–0.80) 0.57 (0.47–0.67)" in comparison
    assert "ε claimed 3, ε independent 2.98" in comparison


def test_all_rows_are_there(page):
    rows = page[page.index('<section id="rows">'):]
    assert rows.count("<tr>") - rows.count("<thead>") == len(full_rows())


def test_confusion_before_and_under_attack(page):
    text = text_of(page)
    assert "well 47 13 ill 3 37" in text and "Under pgd" in text


def test_errors_and_failed_checks_are_visible_and_nothing_passes_for_them(page):
    text = text_of(page)
    assert text.count("ValueError: it broke (x.py:1)") == 3  # findings, errors, all rows
    assert "FAILED (n = 100)" in text and "GRADIENTS MASKED" in text
    assert "1 cell of the plan failed" in text


def test_a_collapsed_defense_is_marked():
    rows = clean() + clean(defense="x", collapsed=1.0) + evasion((0.0, 0.0, 0.04), (0.75, 0.66, 0.82), defense="x")
    text = text_of(render(rows, manifest()))
    assert "COLLAPSED" in text and "Clear gains" not in text


def test_synthetic_data_cannot_be_overlooked(page):
    assert "SYNTHETIC" not in page
    source = manifest()["provenance"]
    assert "SYNTHETIC DATA" in render(full_rows(), manifest(provenance=source | {"synthetic": True}))
    rows = [r.model_copy(update={"synthetic": True}) for r in full_rows()]
    assert "SYNTHETIC DATA" in render(rows, manifest())  # the rows alone are enough


def test_names_cannot_carry_markup():
    bad = '<script>alert("x")</script>&\'"<svg onload=x>'
    rows = [r.model_copy(update={"model": bad, "attack": r.attack and f"{bad}{r.attack}" if r.attack not in
                                 ("worst-case", "noise", "") else r.attack}) for r in full_rows()]
    rows.append(row("error", None, model=bad, attack=bad, error=bad))
    made = manifest(why=bad, classes=["well", "ill"], features=[bad], card={bad: bad}, budget={bad: bad})
    made["plan"]["title"] = bad
    page = render(rows, made)
    assert "<script" not in page and "onload=x>" not in page.replace("onload=x&gt;", "")
    parser = parsed(page)
    assert parser.faults == [] and "&lt;script&gt;" in page


def test_partial_attacks_are_upper_bounds():
    rows = clean() + evasion((0.1, 0.0, 0.2), (0.7, 0.6, 0.78), n=30)
    text = text_of(render(rows, manifest()))
    assert "attacks were tried on 30 of 100 patients" in text and "≤ 0.70 (0.60–0.78)" in text
    assert "worst case, upper bound" in text


def test_an_empty_run_still_has_a_report():
    parser = parsed(render([], manifest(plan={"title": "Nothing yet"}, budget={})))
    assert parser.faults == []


def test_the_file_is_the_same_every_time(tmp_path):
    run = Run.create(tmp_path / "run", manifest(cells=["c"]))
    run.finish("c", [Measurement.model_validate(json.loads(r.model_dump_json()) | {"cell": "c"}) for r in full_rows()])
    path = write_report(run)
    first = path.read_bytes()
    assert path == tmp_path / "run" / "report.html" and len(first) < 2_000_000
    assert write_report(run).read_bytes() == first
    assert [p.name for p in path.parent.glob(".report*")] == []


def test_names_of_control_and_worst_case_are_those_of_the_audit():
    from suite.audit import layout as cells
    from suite.evaluate import worst_case
    from suite.report import rows

    assert (rows.WORST, rows.CONTROL) == (cells.WORST, worst_case.CONTROL)


def test_numbers_as_text():
    r = row("x", 0.7142, 0.6349, 0.7777)
    assert interval(r) == "0.71 (0.63–0.78)" and percent(r) == "71% (63–78%)"
    assert interval(row("x", -0.1, -0.2, 0.05)) == "−0.10 (−0.20 to 0.05)"
    assert points(row("x", -0.24, -0.37, -0.11)) == "−24 points (−37 to −11)"
    assert points(row("x", -0.012, -0.03, 0.01)) == "−1 point (−3 to 1)"
    assert interval(row("x", None)) == "–" and interval(None) == "–" and number(float("nan")) == "–"
    assert number(-0.001) == "0.00" and share(0.003) == "0.3%" and share(1.0) == "100%" and share(0.998) == "99.8%"
    assert [brief(v) for v in (1327.4, 28.2, 3.078, 0.0071, 5.0)] == ["1,327", "28.2", "3.08", "0.007", "5"]


def test_claimed_independent_and_audited_epsilon_stand_on_one_line():
    table = epsilon(Rows(budget("none", None, 1.7) + budget("dp", 3.0, 0.4) + budget("broken", 3.0, 3.2), manifest()))
    (model, (plain, honest, broken)), = table.groups
    assert model == "m"
    assert [c.text for c in honest] == ["dp", "0.001", "3.00", "2.98", "≥ 0.40", "≥ 0.80", "not refuted",
                                        "154 canaries", "75% (64–83%)", "76", "95%"]
    assert (plain[6].text, broken[6].text) == ("–", "refuted")
    assert [c.text for c in plain][2:6] == ["–", "–", "≥ 1.70", "≥ 3.40"]
    tones = [[c.tone for c in line][4:6] for line in (plain, honest, broken)]
    assert tones == [["", ""], ["", ""], ["bad", "bad"]]
    assert re.search(r"No ε here covers .*hyper-parameters tuned on them.*validation rows", table.note)


def test_a_second_audit_of_the_same_training_has_its_own_line():
    first, second = budget("dp", 3.0, 0.4), budget("dp", 2.9, 1.1)
    second = [r.model_copy(update={"attack_params": r.attack_params | {"source": "random"}}) for r in second]
    (_, lines), = epsilon(Rows(first + second, manifest())).groups
    assert [c.text for c in lines[0]][:5] == ["dp", "0.001", "3.00", "2.98", "≥ 0.40"]
    assert [c.text for c in lines[1]][:5] == ["dp (source = random)", "0.001", "2.90", "2.98", "≥ 1.10"]


def test_parameters_that_json_keeps_as_lists_do_not_differ_from_their_defaults():
    assert parameters("one-run-audit", {"canaries": 200, "shares": [1.0, 0.5, 0.25]}) == ""
    assert parameters("one-run-audit", {"canaries": 90, "shares": [1.0]}) == "canaries = 90, shares = [1.0]"


def test_leakage_is_compared_under_the_attacks_that_ran_behind_every_defense():
    rows = [row("membership_auroc", v, attack=a, defense=d)
            for d, a, v in (("none", "few", 0.7), ("none", "all", 0.6), ("x", "all", 0.55))]
    table = Rows(rows, manifest())
    assert [leakage(table, "m", d).value for d in ("none", "x")] == [0.6, 0.55]


def test_detectors_have_a_section_only_where_there_are_any(page):
    rows = [row("accuracy", 0.9, 0.8, 0.95), row("detection_leak[lid]", 0.51, 0.45, 0.56),
            row("detection_fpr[lid@0.01]", 0.02, 0.0, 0.06), row("detection_fpr[lid@0.05]", 0.07, 0.03, 0.13)]
    for attack in ("pgd", "fgsm"):
        rows += [row(f"detection_{what}", value, value - 0.1, value + 0.05, n=40, attack=attack).model_copy(
            update={"attack_params": {"fitted_on": "fgsm", "detector": {"k": 20}}})
            for what, value in (("auroc[lid]", 0.83), ("tpr[lid@0.01]", 0.31), ("tpr[lid@0.05]", 0.62))]
    rows.append(row("adaptive_evasion[lid]", 0.41, 0.3, 0.5, n=70, attack="adaptive"))
    made = render(rows, manifest())
    shown, parser = text_of(made), parsed(made)
    assert parser.faults == [] and "detection" in parser.ids and "#detection" in parser.links
    assert "detection" not in parsed(page).ids and "#detection" not in parsed(page).links
    assert "Detection" in shown and "Local intrinsic dimensionality" in shown
    for words in ("0.51 (0.45–0.56)", "0.83 (0.73–0.88)", "fgsm (fitted on it)", "one that knows it",
                  "0.41 (0.30–0.50)"):
        assert words in shown, words
    assert "pgd (fitted on it)" not in shown


def test_searches_that_a_limit_cut_are_told_below_their_table():
    at = {"attack": "exact", "eps": 0.05}
    rows = [*clean(), *evasion((0.41, 0.31, 0.52), (0.45, 0.36, 0.55), attack="exact"), row("solved", 0.9, n=75, **at),
            row("flipped_by_features[1]", 0.2, attack="few"), row("cut_by_clock", 2 / 60, n=60, attack="few")]
    cut = [row("cut_by_nodes", 0.08, n=75, **at), row("cut_by_clock", 0.04, n=75, **at)]
    quiet, told = (by_attack(Rows(some, manifest()), "m", "none", "").note for some in (rows, rows + cut))
    assert "search cut" not in quiet
    assert "exact: search cut by its node limit for 6 of 75 patients." in told
    assert "exact: search cut by the clock (a faster or idle machine may solve more) for 3 of 75 patients." in told
    assert " On m: few: search cut by the clock" in sparse(Rows(rows, manifest())).note
    assert "for 3 of 75 patients" in render(rows + cut, manifest())


def test_attribute_gains_stand_by_attack_with_a_column_for_each_model():
    rows = [row("attribute_gain", v, v - 0.01, v + 0.01, attack=a, model=m, column=c)
            for a, m, c, v in (("label", "m", "age", 0.1), ("value", "m", "age", 0.2), ("value", "n", "bmi", 0.3))]
    table = attribute(Rows(rows, manifest()))
    assert table.head == ["hidden column", "m", "n", "n"]
    assert [name for name, _ in table.groups] == ["label", "value"]
    (_, (one, none)), (_, (age, bmi)) = table.groups
    assert [one[1].text[:4], age[1].text[:4], bmi[2].text[:4]] == ["0.10", "0.20", "0.30"]
    assert one[2].text == none[1].text == age[2].text == bmi[1].text
    assert [name for name, _ in attribute(Rows(rows[:1], manifest())).groups] == [""]  # one attack needs no heading


def test_what_comes_of_a_stolen_copy_stands_beside_the_budget_at_which_it_was_measured():
    rows = [row("fidelity", 0.91, 0.85, 0.95, attack="steal", budget=25),
            row("fidelity", 0.96, 0.9, 0.99, attack="steal", budget=50)]
    bare = extraction(Rows(rows, manifest()))
    assert bare.head == ["attack", "answers asked", "agreement with the model", "n"]
    rows += [row("transfer_back", 0.19, 0.12, 0.27, attack="steal", budget=50),
             row("transfer_noise", 0.04, 0.01, 0.09, attack="steal", budget=50),
             row("alarm_after", 47.0, attack="steal", budget=50), row("false_alarms", 0.15, attack="steal", budget=50)]
    table = extraction(Rows(rows, manifest()))
    assert table.head[-4:] == ["fooled by way of it", "by noise", "alarm after", "false alarms"]
    first, last = ([cell.text for cell in cells] for _, group in table.groups for cells in group)
    assert first[-4:] == ["–"] * 4
    assert last[-4:] == ["0.19 (0.12–0.27)", "0.04 (0.01–0.09)", "47", "0.15"]


def test_reconstructions_stand_beside_the_mean_of_everyone_and_scores_that_nobody_took_have_no_column():
    def found(attack, distance, **scores):
        return [row(f"inversion_{m}[ill]", v, attack=attack) for m, v in
                {"distance": distance, "prior_distance": 0.3, "confidence": 0.99, **scores}.items()]

    rows = found("near", 0.2, recognized=0.9, prior_recognized=0.4) + found("far", 0.4)
    table = inversion(Rows(rows, manifest()))
    assert table.head == ["class", "attack", "distance to the class's mean", "another model says so",
                          "confidence of the model"]
    (_, lines), = table.groups
    assert [[c.text for c in line] for line in lines] == [
        ["ill", "near", "0.200 (0.300)", "0.900 (0.400)", "0.990"], ["ill", "far", "0.400 (0.300)", "–", "0.990"]]
    assert [line[2].tone for line in lines] == ["warn", ""]


def test_rebuilt_rows_are_marked_where_the_mean_of_their_class_would_not_do():
    def table(share, low):
        rows = [row("rows_rebuilt", share, low, 1.0, n=50, attack="db"),
                row("rows_rebuilt_baseline", 0.02, 0.0, 0.1, n=50, attack="db"),
                row("reconstruction_error", 0.001, attack="db"), row("reconstruction_error_baseline", 0.2, attack="db")]
        ((_, (line,)),) = reconstruction(Rows(rows, manifest())).groups
        return line

    line = table(0.9, 0.8)
    assert [c.text for c in line] == ["db", "0.90 (0.80–1.00)", "0.02 (0.00–0.10)", "0.001", "0.200", "50"]
    assert line[1].tone == "warn" and table(0.05, 0.01)[1].tone == ""
