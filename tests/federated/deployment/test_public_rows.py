"""What a hospital tells of its number of rows, and where one row more or less would change it."""

import pytest

pytest.importorskip("flwr")

from federated.aggregation.private import LocalDP, RecordDP, claims
from suite.base.errors import InputError


def test_one_row_more_or_less_changes_neither_rate_nor_steps_nor_divisor_nor_what_is_told():
    budget = RecordDP(3.0, 4)
    found = {(budget.terms(n, 128, 2), budget.divisor(n, 128), budget.count(n)) for n in (73, 74, 75)}
    assert len(found) == 1 and next(iter(found))[1:] == (70.0, 70)
    assert {budget.divisor(n, 32) for n in (20, 31, 74, 500)} == {20.0, 30.0, 32.0}


def test_a_hospital_next_to_a_rounding_edge_says_so_and_a_declared_number_has_no_edge():
    """79 and 80 rows in batches of 128 are divided by 70 and by 80."""
    budget, declared = RecordDP(3.0, 4), RecordDP(3.0, 4, public_rows=75)
    assert [budget.divisor(n, 128) for n in (79, 80)] == [70.0, 80.0]
    assert [c.public.source for c in claims(budget, (74, 79, 80), 128, 2)] == ["rounded", *["rounded at an edge"] * 2]
    found = {(declared.terms(n, 128, 2), declared.divisor(n, 128), declared.count(n)) for n in (79, 80)}
    assert len(found) == 1 and next(iter(found))[1:] == (75.0, 75)
    claim, = claims(declared, [79], 128, 2)
    assert claim.relation == {"neighbors": "added or removed", "public_rows": "75", "public_rows_from": "declared"}
    assert "public_rows" not in claims(LocalDP(8.0, 4), [79], 128, 2)[0].relation
    with pytest.raises(InputError, match="public_rows must be at least 1"):
        RecordDP(3.0, 4, public_rows=0)
