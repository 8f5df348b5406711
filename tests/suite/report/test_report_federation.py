"""The federation's section of the report, from rows made by hand."""

from suite.report.page import render
from suite.report.rows import Rows
from suite.report.sections import federation, hostile
from tests.support import rows as _rows
from tests.support.rows import row

SITES = ("hospital=a", "hospital=b")


def hospitals(defense, own=(0.9, 0.5), distance=(0.1, 0.4), size=(200, 50), change=(-0.1, -0.2, -0.05)):
    """Rows that a federation of two hospitals tells of itself, and of the same model trained in one place."""
    out = [row("accuracy", 0.8, n=60, subgroup=s) for s in SITES] if defense == "mean" else []
    for s, accuracy, apart, n in zip(SITES, own, distance, size, strict=True):
        at = {"subgroup": s, "defense": defense}
        out += [row("hospital_rows", n, **at), row("label_share[ill]", 0.25, **at), row("label_distance", apart, **at),
                row("local_accuracy", 0.7, 0.6, 0.8, **at), row("federated_accuracy", accuracy, n=60, **at),
                row("federation_gain", *change, **at), row("gain[accuracy]", *change, **at),
                row("bytes_sent", 4000.0, **at), row("work_seconds", 1.25, **at)]
    return out


def under(defense, attack, balanced, change, tolerated=1.0, hostile=1.0):
    at = {"defense": defense, "attack": attack}
    return [row("hostile_hospitals", hostile, n=4, **at), row("tolerated", tolerated, n=4, **at),
            row("attacked_balanced_accuracy", balanced, **at), row("accuracy_change", *change, **at)]


def having(r, **changes):
    return r.model_copy(update=changes)


def texts(table):
    return [[cell.text for cell in cells] for _, group in table.groups for cells in group]


def tones(table):
    return [[cell.tone for cell in cells] for _, group in table.groups for cells in group]


LOST, HELD = (-0.3, -0.4, -0.2), (0.0, -0.05, 0.05)


def rows():
    return Rows([*_rows.clean(), *_rows.clean(defense="mean"), *_rows.clean(defense="median"), *hospitals("mean"),
                 *hospitals("median"), *under("mean", "hostile-x", 0.45, LOST, 0.0),
                 *under("mean", "hostile-y", 0.7, HELD), *under("median", "hostile-x", 0.69, HELD)], _rows.manifest())


def test_the_matrix_marks_what_is_clearly_lost_and_what_was_not_tried():
    table = hostile.matrix(rows(), "m")
    assert table.head == ["joined by", "no attacker", "x", "y", "withstands"]
    assert texts(table) == [["mean", "0.70", "0.45", "0.70", "0 of 4"], ["median", "0.70", "0.69", "–", "1 of 4"]]
    assert tones(table)[0] == ["", "", "bad", "", ""] and not any(tones(table)[1])


def test_the_matrix_has_intervals_on_a_second_line():
    shown = row("attacked_balanced_accuracy", 0.45, 0.4, 0.51, defense="mean", attack="hostile-x")
    table = hostile.matrix(Rows([shown, *rows().all], _rows.manifest()), "m")
    (_, (first, _)), = table.groups
    assert (first[1].beneath, first[2].text, first[2].beneath) == ("0.60–0.80", "0.45", "0.40–0.51")
    assert first[3].beneath == ""  # it has none
    assert '<small class="beneath">0.40–0.51</small>' in render([shown, *rows().all], _rows.manifest())


def test_an_attack_that_is_there_twice_has_two_columns():
    other = [having(r, attack_params={"hospitals": 2, "poison": {"rate": 0.9}})
             for r in under("mean", "hostile-x", 0.3, LOST, hostile=2.0)]
    one = [having(r, attack_params={"hospitals": 1, "poison": {"rate": 0.9}}) for r in rows().all
           if r.attack == "hostile-x"]
    rest = [r for r in rows().all if r.attack != "hostile-x"]
    table = hostile.matrix(Rows([*rest, *one, *other], _rows.manifest()), "m")
    told = dict(zip(table.head, texts(table)[0], strict=True))
    assert (told["x (hospitals = 1)"], told["x (hospitals = 2)"], told["y"]) == ("0.45", "0.30", "0.70")
    assert "1 of 4 hospitals under y and x (hospitals = 1); 2 of 4 hospitals under x (hospitals = 2)." in table.note


def test_the_note_of_the_matrix_says_who_is_hostile_and_with_how_many_rows():
    assert "Hostile: 1 of 4 hospitals. " in hostile.matrix(rows(), "m").note
    who = {"who": ["a"]}  # written down with the number alone: it is no parameter that tells attacks apart
    named = [having(r, attack_params=who) if r.metric == "hostile_hospitals" else r for r in rows().all]
    named += [row("hostile_share", 0.8, defense="mean", attack=f"hostile-{k}") for k in "xy"]
    table = hostile.matrix(Rows(named, _rows.manifest()), "m")
    assert "Hostile: 1 of 4 hospitals, a, with 80% of the training rows. " in table.note
    assert table.head[2:4] == ["x", "y"]


WORST = "Of 1 attack by hospitals that all rules met, the worst leaves m a balanced accuracy of 0.45 joined by " \
        "mean, under x, and of 0.69 joined by median, under x."


def test_the_verdict_compares_what_is_left_under_the_attacks_that_all_rules_met():
    assert hostile.verdict(rows(), "m") == WORST
    spared = Rows([*rows().all, *under("mean", "hostile-z", 0.1, LOST)], _rows.manifest())
    assert hostile.verdict(spared, "m") == WORST  # the median never met it


def test_a_rule_that_collapses_by_itself_is_never_praised():
    fallen = [*_rows.clean(defense="dead", collapsed=1.0), *under("dead", "hostile-x", 0.99, HELD)]
    said = hostile.verdict(Rows([*rows().all, *fallen], _rows.manifest()), "m")
    assert said == f"{WORST} Left out, because collapsed without any attack: dead."


def test_without_an_attack_that_all_met_nothing_is_compared_and_the_matrix_stands():
    apart = [r for r in rows().all if (r.defense, r.attack) != ("mean", "hostile-x")]
    assert hostile.verdict(Rows(apart, _rows.manifest()), "m") == ""
    assert "under hostile hospitals" in render(apart, _rows.manifest())


def test_a_hospital_brings_gets_and_pays():
    table = federation.hospitals(rows(), "m", "mean")
    first = dict(zip(table.head, texts(table)[0], strict=True))
    assert first["hospital"] == "a" and first["training patients"] == "200" and first["“ill”"] == "25%"
    assert first["kB sent"] == "4" and first["federated"] == "0.90" and first["alone"] == "0.70 (0.60–0.80)"
    assert "personal" not in table.head and "ε" not in table.head  # nothing was measured
    assert tones(table)[0][table.head.index("federated less alone")] == "bad"


def test_an_epsilon_stands_with_its_delta_and_with_what_it_protects():
    own = [having(row(f"hospital_{k}", v, defense="mean", subgroup=s), defense_params={"hides": "row"})
           for s, delta in zip(SITES, (0.001, 0.01), strict=True) for k, v in (("epsilon", 3.0), ("delta", delta))]
    table = federation.hospitals(Rows([*rows().all, *own], _rows.manifest()), "m", "mean")
    assert [line[table.head.index("δ")] for line in texts(table)] == ["0.001", "0.01"]
    assert [line[table.head.index("δ")] for line in tones(table)] == ["", "bad"]
    assert "ε and δ protect any one row of a hospital, from everybody." in table.note
    assert "δ in red, 0.01 or more" in table.note
    assert "δ" not in federation.hospitals(rows(), "m", "mean").note


def test_hospitals_whose_row_count_lies_at_a_rounding_edge_are_counted():
    own = [having(row("hospital_delta", 0.001, defense="mean", subgroup=s, public_rows_from=source),
                  defense_params={"hides": "row"})
           for s, source in zip(SITES, ("rounded", "rounded at an edge"), strict=True)]
    note = federation.hospitals(Rows([*rows().all, *own], _rows.manifest()), "m", "mean").note
    assert "At 1 of 2 hospitals the number of rows taken as public is rounded from the exact one" in note
    assert "ε does not hold there. Set public_rows." in note
    assert "public_rows" not in federation.hospitals(Rows([*rows().all, own[0]], _rows.manifest()), "m", "mean").note


def test_more_than_two_classes_have_a_table_of_shares():
    manifest = _rows.manifest(classes=["a", "b", "c"])
    mix = {"a": (0.5, 0.0), "b": (0.25, 1.0), "c": (0.25, 0.0)}
    made = [row(f"label_share[{k}]", v, defense="mean", subgroup=s) for k, both in mix.items()
            for s, v in zip(SITES, both, strict=True)]
    table = federation.mixes(Rows([*rows().all, *made], manifest), "m", "mean")
    # of 200 and 50 rows: (0.25 * 200 + 50) / 250
    assert texts(table) == [["a", "50%", "25%", "25%"], ["b", "0%", "100%", "0%"], ["all", "40%", "40%", "20%"]]
    assert "Classes at each hospital" in render([*rows().all, *made], manifest)
    assert not federation.mixes(rows(), "m", "mean")


def test_the_error_of_the_label_mix_stands_by_hospital():
    made = [row(f"label_mix_error{end}", v, defense="mean", attack="mix", subgroup=s) for s, pair in zip(
        SITES, ((0.01, 0.2), (0.3, 0.25)), strict=True) for end, v in zip(("", "_baseline"), pair, strict=True)]
    made += [row("label_mix_error", 0.15, defense="mean", attack="mix")]
    table = federation.guessed(Rows([*rows().all, *made], _rows.manifest()))
    assert table.head == ["trained", "a", "b"] and texts(table) == [["by mean", "0.01 (0.20)", "0.30 (0.25)"]]
    assert tones(table) == [["", "", "muted"]]
    assert "error of the server&#39;s estimate" in render([*rows().all, *made], _rows.manifest())


def test_costs_stand_by_hospital_and_mark_the_smallest_and_the_most_different():
    table = federation.costs(rows(), "m")
    assert table.head == ["trained", "a", "b (smallest, most different)"]
    assert texts(table) == [["with all rows in one place", "0.80", "0.80"], ["by mean", "0.90", "0.50"],
                            ["by median", "0.90", "0.50"]]
    assert tones(table)[1] == ["", "bad", "bad"]


def test_of_many_hospitals_the_smallest_and_most_different_have_columns():
    sites = [f"hospital={k:02d}" for k in range(30)]
    made = [row("hospital_rows", 100 - k, subgroup=s, defense="d") for k, s in enumerate(sites)]
    made += [row("label_distance", 1 / (1 + k), subgroup=s, defense="d") for k, s in enumerate(sites)]
    table = federation.costs(Rows([*_rows.clean(), *made], _rows.manifest()), "m")
    shown = [head[:2] for head in table.head[1:]]
    assert shown == ["00", "01", "02", "03", "04", "25", "26", "27", "28", "29"]
    assert "20 more hospitals are left out" in table.note


def test_what_a_curious_server_learns():
    at = {"defense": "mean"}
    made = [
        *rows().all, row("membership_auroc", 0.55, 0.5, 0.6, attack="loss", knowledge="score", **at),
        row("membership_auroc", 0.82, 0.78, 0.86, attack="updates", knowledge="white-box", **at),
        row("label_mix_error", 0.01, attack="mix", **at), row("label_mix_error_baseline", 0.23, attack="mix", **at)]
    for n, share in ((2, 1.0), (5, 0.5)):
        one = row("patients_rebuilt", share, attack="inversion", **at)
        made.append(one.model_copy(update={"attack_params": {"patients": n}}))
    table = federation.curious(Rows(made, _rows.manifest()))
    told = dict(zip(table.head, texts(table)[0], strict=True))
    assert told["membership by its answers"] == "0.55 (0.50–0.60)"
    assert told["membership by updates"] == "0.82 (0.78–0.86)" and told["attack"] == "updates"
    assert (told["error of the label mix"], told["of guessing the common mix"]) == ("0.01", "0.23")
    assert (told["rebuilt of 2"], told["rebuilt of 5"]) == ("1.00", "0.50") and "rebuilt of 1" not in told


def test_only_federations_have_a_section():
    page = render(rows().all, _rows.manifest())
    assert '<section id="federation">' in page and "under hostile hospitals" in page
    assert '<section id="federation">' not in render(_rows.clean(), _rows.manifest())


def test_what_an_audit_shows_of_a_hospital_stands_beside_its_promise():
    made = rows().all + [row("epsilon_audited", value, attack="an-audit", defense="mean", subgroup=site)
                         for site, value in zip(SITES, (1.5, 0.0), strict=True)]
    made += [row("hospital_epsilon", 2.0, defense="mean", subgroup=site) for site in SITES]
    table = federation.hospitals(Rows(made, _rows.manifest()), "m", "mean")
    assert [cells[table.head.index("ε shown at least")] for cells in texts(table)] == ["1.50", "0.00"]
    assert "ε shown at least" not in federation.hospitals(rows(), "m", "mean").head
