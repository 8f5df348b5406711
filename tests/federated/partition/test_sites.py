"""Partitions: each row at one hospital, each patient too, and hospitals that differ as they were told to."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from federated.partition.sites import IID, PARTS, BySubgroup, Dirichlet, FeatureShift, Quantity
from imaging.space import ImageSpace
from suite.audit.plan import Plan
from suite.audit.request import open_data
from suite.base.errors import InputError
from suite.core.data import Dataset, Provenance, Split
from suite.core.space import Space
from tabular import data
from tabular.schema import Schema

ALL = (IID(7), Dirichlet(7, 0.3), Quantity(7, 0.5), FeatureShift(7))


def label_mix(site):
    """Class name -> its share of the hospital's training rows."""
    return {name: (site.train.y == k).mean() for k, name in enumerate(site.train.classes)}


def whole(n=600, visits=1, seed=0, space=None, x=None):
    """60, 20 and 20 % of n rows, `visits` in a row of each patient, a third of them ill."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32) if x is None else x
    y = (rng.random(n) < 1 / 3).astype(np.int64)
    patients = None if visits == 1 else np.arange(n) // visits
    rows = Split(x, y, space or Space(-10.0, 10.0), ("well", "ill"), np.arange(n),
                 {"site": np.array(["north", "south", "west"])[np.arange(n) // visits % 3]}, patients)
    cuts = [0, 6 * n // 10, 8 * n // 10, n]
    return Dataset("toy", *(rows.take(slice(a, b)) for a, b in pairwise(cuts)),
                   Provenance("toy", "made up", "none", "0", n, True), ("a", "b", "c"))


def sizes(sites, part="train"):
    return [len(getattr(site, part)) for site in sites]


def rows_of(site):
    return [getattr(site, part).rows.tolist() for part in PARTS]


@pytest.mark.parametrize("partition", [*ALL, BySubgroup()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("visits", [1, 4])
def test_each_row_and_each_patient_is_at_one_hospital_in_its_own_split(partition, visits):
    dataset = whole(visits=visits)
    sites = partition(dataset, seed=3)
    for part in PARTS:
        rows = np.concatenate([getattr(site, part).rows for site in sites])
        assert sorted(rows) == getattr(dataset, part).rows.tolist()
        labels = np.concatenate([getattr(site, part).y for site in sites])
        np.testing.assert_array_equal(labels[rows.argsort()], getattr(dataset, part).y)
    home = [{int(row) // visits for rows in rows_of(site) for row in rows} for site in sites]
    assert sum(map(len, home)) == len(set().union(*home)) == 600 // visits
    assert len({site.name for site in sites}) == len(sites)


@pytest.mark.parametrize("partition", ALL, ids=lambda p: type(p).__name__)
def test_the_seed_decides(partition):
    a, b, other = (partition(whole(), seed) for seed in (0, 0, 1))
    for one, two in zip(a, b, strict=True):
        assert rows_of(one) == rows_of(two)
        np.testing.assert_array_equal(one.train.x, two.train.x)
    assert list(map(rows_of, a)) != list(map(rows_of, other))


def test_iid_hospitals_are_equally_large_and_names_sort_as_numbers():
    sites = IID(11)(whole(620))
    assert set(sizes(sites)) == {33, 34}
    assert [site.name for site in sites][:2] == ["hospital-01", "hospital-02"]
    assert sorted(site.name for site in sites) == [site.name for site in sites]


def test_subgroups_are_the_hospitals():
    north, south, west = BySubgroup()(whole())
    assert (north.name, south.name, west.name) == ("north", "south", "west")
    assert (south.train.rows % 3 == 1).all()
    assert sizes([north, south, west]) == [120, 120, 120]
    assert label_mix(south) == {"well": pytest.approx(1 - south.train.y.mean()), "ill": pytest.approx(
        south.train.y.mean())}


def test_one_table_of_shares_holds_for_all_splits_and_labels_follow_it():
    sites = Dirichlet(5, 0.2, least=1)(whole(6000), seed=1)
    counts = {part: np.stack([np.bincount(getattr(site, part).y, minlength=2) for site in sites]) for part in PARTS}
    shares = {part: c / c.sum(0) for part, c in counts.items()}
    # each cut is rounded to half a row, so a share is wrong by a row at most
    assert np.abs(shares["train"] - shares["test"]).max() < 2 / counts["test"].sum(0).min()
    assert shares["train"].max(0) == pytest.approx(
        np.random.default_rng(1).dirichlet([0.2] * 5, 2).max(1), abs=2 / counts["train"].sum(0).min())


def test_alpha_says_how_far_hospitals_differ():
    def spread(alpha):
        return np.std([label_mix(site)["ill"] for site in Dirichlet(5, alpha, least=1)(whole(6000))])

    assert spread(1000) < 0.03 < 0.2 < spread(0.1)
    few, even = (sizes(Quantity(5, alpha, least=1)(whole(6000))) for alpha in (0.1, 1000))
    assert max(few) > 2 * max(even)
    mix = [label_mix(site)["ill"] for site in Quantity(5, 3.0, least=300)(whole(6000))]
    assert np.ptp(mix) < 0.12


@pytest.mark.parametrize("visits", [1, 4])
def test_small_hospitals_are_given_whole_patients_of_the_largest(visits):
    dataset = whole(visits=visits)
    without, repaired = (Quantity(20, 0.1, least=least)(dataset, seed=2) for least in (1, 8))
    assert min(sizes(without)) < 8 <= min(sizes(repaired))
    assert min(sizes(repaired, "test")) >= 8 * 120 // 360
    lost = np.array(sizes(without)) - sizes(repaired)
    assert lost.argmax() == np.argmax(sizes(without))
    for site in repaired:
        _, seen = np.unique(site.train.rows // visits, return_counts=True)
        assert (seen == visits).all()


def test_a_least_that_cannot_be_met_is_refused_with_the_counts():
    with pytest.raises(InputError, match=r"^360 training rows cannot give 40 hospitals 10 each: hospital-\d\d has 9 "):
        IID(40)(whole())
    # 90 patients of 4 rows: 12 rows are three patients, and 40 hospitals would need 120
    with pytest.raises(InputError, match="360 training rows of 90 patients cannot give 40 hospitals 9 each"):
        IID(40, least=9)(whole(visits=4))
    assert sizes(IID(36)(whole())) == [10] * 36


def test_a_patient_in_two_splits_still_has_one_hospital():
    dataset = whole(visits=4)
    dataset = replace(dataset, test=replace(dataset.test, patients=dataset.train.patients[:120]))
    for site in IID(5)(dataset):
        assert set(site.test.patients) <= set(site.train.patients)


def test_patients_of_two_hospitals_and_rows_of_none_are_refused():
    dataset = whole(visits=4)
    moved = dataset.train.subgroups["site"].astype("<U9")
    moved[1] = "south"
    torn = replace(dataset, train=replace(dataset.train, subgroups={"site": moved}))
    with pytest.raises(InputError, match="rows 0 and 1 are of one patient, and of 'north' and 'south'"):
        BySubgroup()(torn)
    moved[1] = "unknown"
    with pytest.raises(InputError, match="of 1 rows nobody knows the 'site'"):
        BySubgroup()(replace(dataset, train=replace(dataset.train, subgroups={"site": moved})))
    with pytest.raises(InputError, match="toy has no subgroup 'ward' to take hospitals from; it has site"):
        BySubgroup("ward")(dataset)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: IID(0), "IID: sites must be at least 1, got 0"), (lambda: IID(2, least=0), "least must be at least 1"),
    (lambda: Dirichlet(2, 0.0), "Dirichlet: alpha must be positive and finite, got 0.0"),
    (lambda: Quantity(2, float("nan")), "Quantity: alpha must be positive"),
    (lambda: FeatureShift(2, gain=1.0), "gain must be at least 0 and below 1, got 1.0"),
    (lambda: FeatureShift(2, noise=-0.1), "noise must be at least 0"),
    (lambda: FeatureShift(1), "needs at least 2 sites"),
    (lambda: FeatureShift(2, blur=1.0)(whole()), "blur is for images, and toy holds none")])
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


# --- shifted inputs -------------------------------------------------------------------------------------------------

def grey(level=0.5, side=12):
    return whole(300, space=ImageSpace(), x=np.full((300, 1, side, side), level, np.float32))


def test_a_scanner_multiplies_intensities_evenly_spread_over_hospitals_and_splits_alike():
    sites = FeatureShift(5, gain=0.2, noise=0.0)(grey())
    assert sorted(float(site.train.x.mean()) for site in sites) == pytest.approx([0.4, 0.45, 0.5, 0.55, 0.6], abs=1e-5)
    for site in sites:
        assert len(np.unique(np.concatenate([getattr(site, part).x for part in PARTS]))) == 1
    assert max(site.train.x.max() for site in FeatureShift(5, gain=0.2, noise=0.0)(grey(0.9))) == 1
    other = FeatureShift(5, gain=0.2, noise=0.0)(grey(), seed=1)
    assert [float(site.train.x.mean()) for site in other] != [float(site.train.x.mean()) for site in sites]


def test_noise_and_blur_are_as_strong_as_told():
    noisy = sorted(float(site.train.x.std()) for site in FeatureShift(3, gain=0.0, noise=0.06)(grey()))
    assert noisy == pytest.approx([0, 0.03, 0.06], rel=0.03, abs=1e-6)
    dot = np.zeros((300, 1, 25, 25), np.float32)
    dot[:, :, 12, 12] = 1
    sites = FeatureShift(3, gain=0.0, noise=0.0, blur=2.0)(whole(300, space=ImageSpace(), x=dot))
    place = np.arange(25) - 12
    widths = [np.sqrt((site.test.x[0, 0].sum(0) * place**2).sum() / site.test.x[0].sum()) for site in sites]
    assert sorted(widths) == pytest.approx([0, 1, 2], rel=0.01)


def test_a_shift_of_nothing_leaves_the_rows_of_iid_as_they_were():
    for plain, shifted in zip(IID(4)(whole(), 5), FeatureShift(4, gain=0.0, noise=0.0)(whole(), 5), strict=True):
        assert rows_of(plain) == rows_of(shifted)
        np.testing.assert_array_equal(plain.train.x, shifted.train.x)


def test_laboratories_offset_what_they_measure_and_leave_possible_patients():
    schema = Schema.model_validate({"columns": {
        "age": {"min": 18, "max": 100, "integer": True, "change": "never"},
        "chol": {"min": 80, "max": 620, "scale": 400, "integer": True},
        "pain": {"min": 1, "max": 4, "values": [1, 2, 3, 4]}}})
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(20, 90, 300), rng.integers(200, 280, 300), rng.integers(1, 5, 300)], 1)
    dataset = whole(300, space=schema.space(), x=x.astype(np.float32))
    offsets = []
    for plain, shifted in zip(IID(5)(dataset), FeatureShift(5, gain=0.1, noise=0.0)(dataset), strict=True):
        change = shifted.val.x - plain.val.x
        assert (change[:, [0, 2]] == 0).all()
        offsets.append(set(change[:, 1].tolist()))
    assert sorted(offsets, key=min) == [{-40.0}, {-20.0}, {0.0}, {20.0}, {40.0}]
    for site in FeatureShift(5, gain=0.5, noise=0.3)(dataset):
        assert dataset.space.possible(torch.from_numpy(site.train.x)).all()
        assert len(np.unique(site.train.x[:, 2])) > 1


# --- real hospitals -------------------------------------------------------------------------------------------------

def test_the_four_heart_hospitals(real_data):
    sites = BySubgroup()(data.heart_4sites(real_data / data.FOUR_SITES.path))
    assert {site.name: sum(sizes([site], part)[0] for part in PARTS) for site in sites} == {
        "Cleveland": 303, "Hungary": 294, "Switzerland": 123, "VA Long Beach": 200}
    ill = {site.name: sum(int(getattr(site, part).y.sum()) for part in PARTS) for site in sites}
    assert ill == {"Cleveland": 139, "Hungary": 106, "Switzerland": 115, "VA Long Beach": 149}


def test_a_hospital_that_the_data_name_gives_way_to_the_one_that_rows_are_dealt_to():
    synthetic = data.pima_synthetic()
    named = replace(synthetic, **{part: replace(split, subgroups={"hospital": np.repeat("theirs", len(split))})
                             for part, split in ((p, getattr(synthetic, p)) for p in ("train", "val", "test"))})
    assert set(IID(2).deal(named).train.subgroups["hospital"]) == {"hospital-1", "hospital-2"}


def test_fewer_training_rows_are_drawn_before_they_are_dealt_out():
    plan = Plan(data="pima-synthetic", models=["mlp"], train_rows=90,
                hospitals={"name": "iid", "sites": 4, "least": 20})
    found, _ = open_data(plan)
    assert np.unique(found.train.subgroups["hospital"], return_counts=True)[1].min() >= 20 and len(found.train) == 90
