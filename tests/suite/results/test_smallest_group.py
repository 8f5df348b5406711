"""Subgroups of few people: nothing is written about them, and that something is withheld is."""

from dataclasses import replace

import numpy as np
import pytest

from suite.audit.export import shared_rows
from suite.audit.plan import Plan
from suite.base.limits import SMALLEST_GROUP
from suite.core.classifier import EstimatorClassifier
from suite.core.data import Dataset, Provenance
from suite.evaluate.subject import measure_clean, subgroups
from suite.results.measurement import Measurement
from suite.results.run import Run
from tests.support.toy import Says, sheet, split, subject


def made(sizes, rows_each=1, patients=True):
    """Groups of so many people, each with some rows; half of each group is ill."""
    group = np.repeat([f"g{k}" for k in range(len(sizes))], [n * rows_each for n in sizes])
    who = np.repeat(np.arange(sum(sizes)), rows_each)
    y = (who % 2).astype(np.int64)
    found = split(np.zeros((len(y), 2)), y)
    return replace(found, subgroups={"ward": group}, patients=who if patients else None)


@pytest.mark.parametrize(("smallest", "shown"), [(1, "g0 g1 g2"), (10, "g1 g2"), (11, "g2"), (99, "")])
def test_a_group_is_shown_from_so_many_people_on(smallest, shown):
    found = [label for label, _ in subgroups(made([9, 10, 30]), smallest)]
    assert found == [f"ward={name}" for name in shown.split()]


def test_people_are_counted_and_not_rows():
    many_rows = made([5, 12], rows_each=4)
    assert [label for label, _ in subgroups(many_rows, 10)] == ["ward=g1"]
    unknown = made([5, 12], rows_each=4, patients=False)  # a row is then one person, as far as anybody knows
    assert [label for label, _ in subgroups(unknown, 10)] == ["ward=g0", "ward=g1"]


def test_no_row_is_about_few_people_and_one_says_how_many_groups_are_withheld():
    test = made([9, 12, 30])
    data = Dataset("toy", test, test, test, Provenance("toy", "made up", "none", "0", len(test), False))
    rows = sheet()
    measure_clean(subject(EstimatorClassifier(Says(0.2, 0.8), 2, test.space), data, smallest_group=10), rows)
    told = {(r.subgroup, r.metric): r.n for r in rows.rows if r.subgroup}
    assert set(told) == {("ward=g1", "accuracy"), ("ward=g2", "accuracy"), ("ward=g2", "sensitivity")}  # g1: 6 ill
    withheld, = (r for r in rows.rows if r.metric.startswith("withheld"))
    assert (withheld.metric, withheld.value, withheld.n) == ("withheld_groups[ward]", 1, 0)


def test_ten_people_is_the_default_and_a_plan_may_say_another_number():
    plan = {"data": "d", "models": ["m"]}
    assert Plan.check(plan, "p").smallest_group == 10
    assert Plan.check(plan | {"smallest_group": 5}, "p").smallest_group == 5


def test_rows_say_how_many_people_a_figure_of_a_subgroup_is_of():
    test = made([12, 30], rows_each=4)
    data = Dataset("toy", test, test, test, Provenance("toy", "made up", "none", "0", len(test), False))
    rows = sheet()
    measure_clean(subject(EstimatorClassifier(Says(0.2, 0.8), 2, test.space), data, smallest_group=10), rows)
    told = {(r.subgroup, r.metric): (r.n, r.people) for r in rows.rows if r.subgroup}
    assert told == {("ward=g0", "accuracy"): (48, 12), ("ward=g1", "accuracy"): (120, 30),
                    ("ward=g1", "sensitivity"): (60, 15)}
    assert {r.people for r in rows.rows if not r.subgroup} == {None}


def test_a_copy_leaves_out_groups_of_few_people_who_have_many_rows(tmp_path):
    """The limit of the copy may be above that of the run."""
    run = Run.create(tmp_path / "run", {"plan": {"smallest_group": 10, "eps": 0.1}, "data": {}, "cells": ["c"]})
    run.finish("c", [Measurement(cell="c", dataset="d", data_sha256="s", synthetic=False, model="m", metric="accuracy",
                                 value=0.5, device="cpu", seed=0, subgroup=f"ward={people}", n=n, people=people)
                     for people, n in ((12, 48), (20, 20), (30, 0), (None, 99))])
    assert [r.people for r in shared_rows(run, 20)] == [20, 30]
    assert [r.people for r in shared_rows(run, SMALLEST_GROUP)] == [12, 20, 30]
