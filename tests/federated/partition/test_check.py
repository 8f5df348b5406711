"""Hospitals that cannot train together are refused; what is odd about those that can is said in one line."""

from dataclasses import replace

import numpy as np
import pytest

from federated.core.site import Site
from federated.partition.check import check_sites
from federated.partition.sites import BySubgroup
from suite.base.errors import InputError
from suite.core.data import Split
from suite.core.space import Space
from tabular import data
from tabular.schema import Schema

COLUMNS = {"age": {"min": 18, "max": 100}, "chol": {"min": 0, "max": 620, "unit": "mg/dL", "scale": 400},
           "sex": {"min": 0, "max": 1, "values": [0, 1]}}


def space(**chol):
    return Schema.model_validate({"columns": COLUMNS | {"chol": COLUMNS["chol"] | chol}}).space()


def site(name, seed, n=60, age=50, chol=240, women=0.5, spread=0.2):
    """A hospital of patients of about this age and cholesterol, whose first 60 % train."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.normal(age, 9, n), rng.normal(chol, chol * spread, n), rng.random(n) < women], 1)
    rows = Split(x.astype(np.float32), np.arange(n) % 2, space(), ("well", "ill"), np.arange(n))
    cuts = (slice(0, 6 * n // 10), slice(6 * n // 10, 8 * n // 10), slice(8 * n // 10, n))
    return Site(name, *(rows.take(cut) for cut in cuts), features=tuple(COLUMNS))


def every(hospital, **changes):
    """The hospital with all three splits changed."""
    return replace(hospital, **{part: replace(getattr(hospital, part), **changes) for part in ("train", "val", "test")})


A, B, C = site("A", 1), site("B", 2), site("C", 3)


def test_hospitals_of_other_age_sex_and_size_are_not_suspicious():
    assert check_sites([A, B, C, site("D", 4, n=300, age=65, chol=270, women=0.02)]) == []
    assert check_sites([A]) == []


def test_another_unit_is_seen_at_the_hospital_that_has_it_whatever_its_place():
    odd = site("odd", 5, chol=240 / 38.67)
    for k in range(4):
        hospitals = [A, B, C]
        hospitals.insert(k, odd)
        line, = check_sites(hospitals)
        medians = [np.median(hospital.train.x[:, 1]) for hospital in (odd, A, B, C)]
        assert line == (f"hospital 'odd': column 'chol' has the median {medians[0]:g}, the other hospitals' is "
                        f"{np.median(medians[1:]):g}; is it in another unit?")
    assert len(check_sites([A, odd])) == 1
    # what differs a lot between patients differs little in units of its own spread
    wide = [site(name, k, chol=chol, spread=0.4) for k, (name, chol) in enumerate({"A": 240, "B": 240, "C": 6}.items())]
    assert [line[:12] for line in check_sites(wide)] == ["hospital 'C'"]


def test_zeros_for_what_was_not_measured_and_impossible_medians_are_seen():
    x = B.train.x.copy()
    x[:, 1] = 0
    line, = check_sites([A, replace(B, train=replace(B.train, x=x)), C])
    assert line.startswith("hospital 'B': column 'chol' has the median 0, the other hospitals'")
    bounded = [every(hospital, space=space(min=80)) for hospital in (A, replace(B, train=replace(B.train, x=x)), C)]
    assert check_sites(bounded) == [
        "hospital 'B': column 'chol' has the median 0, outside its bounds 80 to 620; is it in another unit?"]


def test_a_column_filled_in_for_a_whole_hospital_is_seen():
    x = B.train.x.copy()
    x[:, 1] = 240
    assert check_sites([A, replace(B, train=replace(B.train, x=x)), C]) == [
        "hospital 'B': column 'chol' has the value 240 in all training rows; was it not measured there?"]


def test_one_class_and_missing_splits_are_said_and_no_rows_refused():
    ill = replace(B, train=B.train.take(B.train.y == 1), test=B.test.take([]))
    assert check_sites([A, ill, replace(C, test=C.test.take([]))]) == [
        "hospital 'B': all 18 training rows are of class 'ill'", "no test rows at B, C"]
    with pytest.raises(InputError, match="hospital 'B' has no training rows"):
        check_sites([A, replace(B, train=B.train.take([]))])
    with pytest.raises(InputError, match="at least one hospital"):
        check_sites([])
    with pytest.raises(InputError, match="two hospitals are named 'A'"):
        check_sites([A, B, A])


def test_a_patient_at_two_hospitals_is_seen_in_whatever_split():
    assert check_sites([A, replace(B, test=replace(B.test, x=np.concatenate([A.train.x[4:7], B.test.x[3:]])))]) == [
        "3 different inputs are held by more than one hospital, as of one patient who was at both; the first is row 4 "
        "of 'A' and row 48 of 'B'"]
    twins = replace(B, val=B.train.take(np.arange(5)))
    assert check_sites([A, twins]) == []


@pytest.mark.parametrize(("changes", "message"), [
    ({"space": space(unit="mmol/L")}, "column 'chol' with unit 'mmol/L' instead of 'mg/dL', unlike 'A'"),
    ({"space": space(max=16)}, "column 'chol' with max 16.0 instead of 620.0"),
    ({"classes": ("well", "sick")}, "the classes well, sick instead of well, ill"),
    ({"space": Space(0.0, 620.0)}, "inputs of Space instead of PatientSpace")])
def test_hospitals_that_mean_other_things_are_refused(changes, message):
    with pytest.raises(InputError, match=f"hospital 'B' has {message}"):
        check_sites([A, every(B, **changes)])


def test_unequal_columns_shapes_and_bounds_are_refused():
    with pytest.raises(InputError, match="hospital 'B' has no column sex and a column gender, unlike 'A'"):
        check_sites([A, replace(B, features=("age", "chol", "gender"))])
    with pytest.raises(InputError, match="hospital 'B' has its columns in another order, chol, age, sex, unlike 'A'"):
        check_sites([A, replace(B, features=("chol", "age", "sex"))])
    small, large = (every(replace(hospital, features=()), space=Space(0.0, bound)) for hospital, bound in
                    ((A, 620.0), (B, 800.0)))
    with pytest.raises(InputError, match="hospital 'B' has input 0 with upper 800 instead of 620"):
        check_sites([small, large])
    narrow = replace(small, name="N", train=replace(small.train, x=small.train.x[:, :2]))
    with pytest.raises(InputError, match=r"hospital 'N' has inputs of shape \(2,\) instead of \(3,\)"):
        check_sites([small, narrow])


def test_the_four_heart_hospitals_fit_but_for_a_column_that_one_never_measured(real_data):
    assert check_sites(BySubgroup()(data.heart_4sites(real_data / data.FOUR_SITES.path))) == [
        "hospital 'Switzerland': column 'chol' has the value 239 in all training rows; was it not measured there?"]
