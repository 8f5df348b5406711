"""Possible patients: hand computations, and properties over random schemas, rows and candidates."""

import numpy as np
import pytest
import torch
from torch import tensor

from suite.base.errors import InputError
from suite.core.space import Space
from tabular import data
from tabular.schema import Column, Relation, Schema

CHANGES = ("any", "any", "any", "never", "up", "down")


def space_of(relations=(), **columns):
    return Schema(columns={name: Column(**c) for name, c in columns.items()}, relations=tuple(relations)).space()


def random_case(seed, relations=True, n=64):
    """A schema with every kind of column, possible rows `x`, and candidates `z` in, near and far outside of it."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 9))
    columns, draw = {}, []
    for i in range(d):
        kind, change = rng.integers(4), CHANGES[rng.integers(len(CHANGES))]
        scale = None if rng.random() < 0.5 else float(rng.uniform(0.5, 50))
        if kind == 0:
            low, width = float(rng.normal(0, 10)), float(rng.uniform(0.01, 500))
            columns[f"c{i}"] = Column(min=low, max=low + width, scale=scale, change=change)
            draw.append(rng.uniform(low, low + width, n))
        elif kind == 1:
            low, width = int(rng.integers(-5, 100)), int(rng.integers(1, 300))
            columns[f"c{i}"] = Column(min=low, max=low + width, scale=scale, integer=True, change=change)
            draw.append(rng.integers(low, low + width + 1, n))
        else:
            codes = sorted(rng.choice(10, rng.integers(2, 5), replace=False) * (0.1 if kind == 3 else 1.0))
            codes = tuple(float(c) for c in codes)
            columns[f"c{i}"] = Column(min=codes[0], max=codes[-1], values=codes, scale=scale, change=change)
            draw.append(rng.choice(codes, n))
    x = np.column_stack(draw)
    rules = []
    for k in range(int(rng.integers(1, 4)) if relations else 0):
        terms = {f"c{i}": float(rng.choice([-2.0, -1.0, 1.0, 0.5]))
                 for i in rng.choice(d, min(d, int(rng.integers(1, 4))), replace=False)}
        total = sum(f * x[:, int(name[1:])] for name, f in terms.items())
        rules.append(Relation(name=f"r{k}", terms=terms, max=float(np.quantile(total, 0.9))))
    space = Schema(columns=columns, relations=tuple(rules)).space()
    x = torch.tensor(x, dtype=torch.float32)
    x = x[space.possible(x)]
    spread = space.scale.numpy() * 10.0 ** rng.uniform(-3, 1, (len(x), d))
    z = x + torch.tensor(rng.normal(0, 1, (len(x), d)) * spread, dtype=torch.float32)
    z[::7] = x[::7]
    return space, x, z, float(rng.choice([0.01, 0.05, 0.2, 1.0]))


SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_snapped_candidate_is_always_a_possible_patient_that_can_be_reached(seed):
    space, x, z, eps = random_case(seed)
    lower, upper = space.ball(x, eps)
    for inward in (False, True):
        out = space.snap(z, x, inward)
        assert space.contains(out, x).all()
        assert space.possible(out).all()
        near = space.snap(torch.clamp(z, lower, upper), x, inward)
        assert ((near >= lower) & (near <= upper)).all()
        assert space.contains(near, x).all()
        assert (space.distance(near, x) <= eps * (1 + 1e-5) + 1e-5).all()
        assert (out[::7] == x[::7]).all(), "what did not move stays"
        assert torch.equal(space.snap(out, x, inward), out), "snapping twice changes nothing"


@pytest.mark.parametrize("seed", SEEDS)
def test_rounding_inwards_never_takes_a_coordinate_farther_or_to_the_other_side(seed):
    space, x, z, _ = random_case(seed)
    out = space.snap(z, x, inward=True)
    assert ((out - x).abs() <= (z - x).abs() + 2e-6 * x.abs()).all()
    assert ((out - x) * (z - x) >= 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_without_relations_snap_is_the_nearest_possible_value(seed):
    space, x, z, _ = random_case(seed, relations=False)
    out = space.snap(z, x)
    for i, column in enumerate(space.schema.columns.values()):
        if column.change != "any" or not (column.integer or column.values):
            continue
        choices = tensor(column.values or tuple(range(int(column.min), int(column.max) + 1)), dtype=torch.float32)
        best = (z[:, i, None] - choices).abs().amin(1)
        torch.testing.assert_close((out[:, i] - z[:, i]).abs(), best, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_contains_itself_even_an_impossible_one(seed):
    space, x, z, eps = random_case(seed)
    for rows in (x, z):
        assert space.contains(rows, rows).all()
        assert torch.equal(space.snap(rows, rows), rows)
        lower, upper = space.ball(rows, eps)
        assert ((lower <= rows) & (rows <= upper)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ball_grows_with_its_radius_and_its_corners_are_possible(seed):
    space, x, _, _ = random_case(seed, relations=False)
    smaller = (x, x)
    for eps in (0.0, 0.03, 0.2, 1.0, float("inf")):
        lower, upper = space.ball(x, eps)
        assert ((lower <= smaller[0]) & (upper >= smaller[1])).all()
        assert space.possible(lower).all()
        assert space.possible(upper).all()
        smaller = lower, upper


def test_ball_by_hand():
    space = space_of(glucose={"min": 40, "max": 240, "integer": True}, bmi={"min": 15, "max": 65},
                     age={"min": 18, "max": 100, "integer": True, "change": "never"},
                     pregnancies={"min": 0, "max": 20, "integer": True, "change": "up"},
                     dose={"min": 0, "max": 10, "change": "down"}, thal={"min": 3, "max": 7, "values": [3, 6, 7]})
    x = tensor([[100.0, 30, 50, 2, 5, 6], [42.0, 64, 18, 20, 0, 3]])
    lower, upper = space.ball(x, 0.052)
    torch.testing.assert_close(lower, tensor([[90, 27.4, 50, 2, 4.48, 6], [40, 61.4, 18, 20, 0, 3]]))
    torch.testing.assert_close(upper, tensor([[110, 32.6, 50, 3, 5, 6], [52, 65, 18, 20, 0, 3]]))
    lower, upper = space.ball(x, float("inf"))
    torch.testing.assert_close(lower, tensor([[40, 15, 50, 2, 0, 3], [40, 15, 18, 20, 0, 3.0]]))
    torch.testing.assert_close(upper, tensor([[240, 65, 50, 20, 5, 7], [240, 65, 18, 20, 0, 7.0]]))


def test_float32_does_not_cost_a_whole_unit():
    # 0.05 * 200 and 0.1 * 30 end a little off a whole number in float32
    for width, eps in ((200, 0.05), (30, 0.1), (60, 0.05), (400, 0.15), (1000, 0.3)):
        space = space_of(a={"min": 0, "max": width, "integer": True})
        x = tensor([[float(width // 2)]])
        lower, upper = space.ball(x, eps)
        assert (upper - x).item() == (x - lower).item() == round(eps * width)


def test_snap_by_hand():
    space = space_of(a={"min": 0, "max": 10, "integer": True}, b={"min": 3, "max": 7, "values": [3, 6, 7]})
    x = tensor([[5.0, 6.0]])
    assert space.snap(tensor([[7.6, 4.4]]), x).tolist() == [[8, 3]]
    assert space.snap(tensor([[7.6, 4.4]]), x, inward=True).tolist() == [[7, 6]]
    assert space.snap(tensor([[2.4, 6.6]]), x).tolist() == [[2, 7]]
    assert space.snap(tensor([[2.4, 6.6]]), x, inward=True).tolist() == [[3, 6]]
    assert space.snap(tensor([[torch.inf, -torch.inf]]), x).tolist() == [[10, 3]]


def test_a_relation_takes_back_only_what_breaks_it():
    """Systolic stays above diastolic: diastolic may rise to where systolic went, which itself keeps its rise."""
    space = space_of([Relation(name="pressure", terms={"dia": 1, "sys": -1}, max=0)],
                     dia={"min": 30, "max": 200, "integer": True}, sys={"min": 30, "max": 200, "integer": True},
                     bmi={"min": 15, "max": 70})
    x = tensor([[80.0, 82, 30]])
    assert space.snap(tensor([[95.3, 85, 31]]), x).tolist() == [[85, 85, 31]]
    assert space.snap(tensor([[80, 70.0, 31]]), x).tolist() == [[80, 80, 31]]


def test_relations_that_share_columns_are_kept_together():
    space = space_of([Relation(name="ab", terms={"a": 1, "b": -1}, max=0),
                      Relation(name="bc", terms={"b": 1, "c": -1}, max=0)],
                     **{name: {"min": 0, "max": 10} for name in "abc"})
    out = space.snap(tensor([[4.0, 3, 2]]), tensor([[1.0, 1, 1]]))
    torch.testing.assert_close(out, tensor([[2.0, 2, 2]]))


def test_relations_of_large_columns_survive_float32():
    """Worst area is no less than mean area, up to 4000 in size: a shared rise must not be lost to rounding noise."""
    space = data.shipped_schema("breast-cancer").space()
    x = torch.from_numpy(data.breast_cancer().train.x)
    noise = torch.empty_like(x).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    out = space.snap(x + 0.3 * space.scale * noise, x)
    assert space.contains(out, x).all()
    assert (out != x).any(1).all()


def test_a_patient_who_breaks_a_relation_already_is_left_alone_rather_than_made_worse():
    space = space_of([Relation(name="r", terms={"a": 1, "b": 1}, max=10)],
                     a={"min": 0, "max": 20}, b={"min": 0, "max": 20})
    x = tensor([[8.0, 8.0]])
    assert not space.possible(x)
    assert torch.equal(space.snap(tensor([[9.0, 8.0]]), x), x)
    assert space.contains(x, x)
    assert not space.contains(tensor([[9.0, 8.0]]), x)
    assert space.snap(tensor([[1.0, 8.0]]), x).tolist() == [[1, 8]]


def test_values_slightly_outside_the_range_are_no_trap():
    space = space_of(a={"min": 0.1, "max": 0.7}, b={"min": 0, "max": 10, "integer": True})
    x = torch.nextafter(tensor([[0.7, 10.0]]), tensor(99.0))
    lower, upper = space.ball(x, 0.1)
    assert (lower <= x).all()
    assert (upper >= x).all()
    out = space.snap(x - 0.01, x)
    assert space.contains(out, x).all()
    assert out[0, 0].item() == pytest.approx(0.69)


def test_contains_says_no():
    space = space_of([Relation(name="r", terms={"a": 1, "b": 1}, max=12)], a={"min": 0, "max": 10, "integer": True},
                     b={"min": 3, "max": 7, "values": [3, 6, 7]}, c={"min": 0, "max": 1, "change": "up"},
                     d={"min": 0, "max": 9, "change": "never"})
    x = tensor([[5.0, 6.0, 0.5, 4.0]])
    assert space.contains(tensor([[6.0, 3.0, 0.6, 4.0]]), x)
    for bad in ([5.5, 6, 0.5, 4], [11, 6, 0.5, 4], [5, 4, 0.5, 4], [5, 6, 0.4, 4], [5, 6, 0.5, 3], [6, 7, 0.5, 4],
                [float("nan"), 6, 0.5, 4]):
        assert not space.contains(tensor([bad]), x), bad
    assert not space.possible(tensor([[float("nan"), 6, 0.5, 4]]))


def test_the_space_moves_to_a_device_with_all_its_tables():
    moved = random_case(3)[0].to("meta")
    assert {v.device.type for v in vars(moved).values() if isinstance(v, torch.Tensor)} == {"meta"}


@pytest.mark.parametrize("seed", range(10))
def test_part_of_a_reach_snaps_as_the_whole_does(seed):
    space, x, z, eps = random_case(seed)
    reach = space.reach(x, eps)
    z = torch.clamp(z, reach.lower, reach.upper)
    rows = torch.arange(0, len(x), 3).repeat(4)  # more than there are
    for inward in (False, True):
        assert torch.equal(reach.take(rows).snap(z[rows], inward), reach.snap(z, inward)[rows])
        assert torch.equal(reach.snap(z, inward), space.snap(z, x, inward))


def test_describe_reads_at_the_bedside():
    text = data.shipped_schema("pima").space().describe(0.05)
    assert text == {"Glucose": "± 10 mg/dL", "BloodPressure": "± 6 mm Hg", "SkinThickness": "± 3 mm",
                    "Insulin": "± 20 uU/mL", "BMI": "± 2 kg/m2"}
    steps = Schema.model_validate({"columns": {
        "code": {"min": 3, "max": 7, "values": [3, 6, 7]}, "smoker": {"min": 0, "max": 1, "integer": True},
        "weight": {"min": 40, "max": 140, "change": "up", "unit": "kg"}}}).space()
    assert steps.describe(0.1) == {"code": "0 (steps of 1)", "smoker": "0 (steps of 1)", "weight": "+ 10 kg"}
    assert steps.describe(0.3)["code"] == "± 1" and steps.describe(1.0)["smoker"] == "± 1"


# --- files ----------------------------------------------------------------------------------------------------------

def test_a_schema_survives_saving(tmp_path):
    for name in ("pima", "heart-cleveland", "heart-4sites", "breast-cancer"):
        schema = data.shipped_schema(name)
        schema.save(tmp_path / "s.toml")
        again = Schema.load(tmp_path / "s.toml")
        assert again == schema
        assert again.names == schema.names


@pytest.mark.parametrize(("text", "message"), [
    ("[columns.a]\nmin = 0", r"columns.a.max: Field required"),
    ("[columns.a]\nmin = 5\nmax = 5", "min 5 is not below max 5"),
    ("[columns.a]\nmin = nan\nmax = 5", "columns.a.min: .*finite"),
    ("[columns.a]\nmin = 0\nmax = inf", "columns.a.max: .*finite"),
    ("[columns.a]\nmin = 0\nmax = 5\nintegr = true", "columns.a.integr: Extra inputs"),
    ("[columns.a]\nmin = 0\nmax = 5\nscale = 0", "columns.a.scale: .*greater than 0"),
    ("[columns.a]\nmin = 0\nmax = 5\nchange = 'sometimes'", "columns.a.change"),
    ("[columns.a]\nmin = 0\nmax = 5\nvalues = [3, 1]", "values must rise"),
    ("[columns.a]\nmin = 0\nmax = 5\nvalues = [3, 9]", "between min and max"),
    ("[columns.a]\nmin = 0\nmax = 5\nvalues = [3]\nlabels = ['x', 'y']", "2 labels for 1 values"),
    ("[columns.a]\nmin = 0.2\nmax = 0.8\ninteger = true", "no whole number"),
    ("[columns.Glucose]\nmin=0\nmax=5\n[[relations]]\nname='r'\nterms={glucose=1}\nmax=1", "did you mean 'Glucose'"),
    ("[columns.a\n", "not TOML"),
    ("x = 1", "columns: Field required"),
    ("columns = {}", "no column"),
])
def test_bad_schema_files_are_named_with_the_key(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Schema.load(path)
    assert "bad.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_schema_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Schema.load(tmp_path / "no.toml")
    with pytest.raises(InputError, match="directory"):
        Schema.load(tmp_path)


def test_price_weighs_each_column_by_its_cost():
    space = Schema(columns={"cheap": Column(min=0, max=10), "dear": Column(min=0, max=10, scale=5, cost=3)}).space()
    a, b = torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([[2.0, 1.0], [1.0, 4.5]])
    assert torch.allclose(space.price(a, b), torch.tensor([0.1, 0.1 + 3 * 0.5]))
    assert torch.allclose(Space(0.0, 10.0, 10.0).price(a, b), torch.tensor([0.1, 0.1 + 0.25]))
