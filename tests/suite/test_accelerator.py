"""Everything that uses tensors runs on another device, agrees with the CPU there, and seldom makes it wait.

One small audit of images with all that is registered, and one of a table with what is left; each on the CPU and on the
pretend device of `tests/support/accelerator.py`. What is registered later is taken in by itself.
"""

import copy
import dataclasses
import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from federated.core.form import Form
from imaging.space import ImageSpace
from suite.attacks.gradient import PGD
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.base import registry
from suite.base.devices import describe_device, resolve_device
from suite.base.errors import InputError
from suite.core.classifier import TorchClassifier
from suite.core.data import Dataset, Provenance, Split
from suite.evaluate import detection, extraction
from suite.results import metrics
from suite.training.loop import TorchRecipe, build
from tests.support import accelerator
from tests.support import audit as _audit
from tests.support import images as _images
from tests.support import models as _models

SMALL = {"epochs": 2, "widths": [4, 8], "grid": [0.02], "steps": 3, "queries": 20, "search": 1, "constants": 1,
         "passes": 1, "samples": 4, "max_iter": 2, "init_size": 8, "init_eval": 5, "max_eval": 10, "population": 4,
         "generations": 2, "draws": 4, "angles": 2, "shifts": 2, "rounds": 2, "shadows": 4, "runs": 20, "members": 2,
         "teachers": 2, "hidden": [8], "iterations": 2, "canaries": 16, "trees": 5, "components": 2, "own": 10,
         "start": 4, "k": 3, "trusted": 10, "personal": 1, "copies": 1, "folds": 2, "replays": 2, "coordinates": 4,
         "reference": 10}
"""Of every hyper-parameter that says how long something takes, so much."""
KINDS = ("attacks", "defenses", "detectors")
THINGS = [(kind, name) for kind in KINDS for name in registry.names(kind) if name != "none"]
TREES = "is for trees, which compute on the CPU whatever the device"
EXCEPTIONS = {"exact-linf": TREES, "exact-fewest": TREES, "attribute-tree": TREES, "robust-trees": TREES,
              "federated-trees": TREES, "database-reconstruction": "is for models of scikit-learn"}


def item(kind, name, **terms):
    """An item of a plan, cut down: by whole numbers or lists where the default is one."""
    default = registry.make(kind, name)
    fits = {key: value for key, value in SMALL.items()
            if isinstance(getattr(default, key, None), tuple if isinstance(value, list) else int)}
    return _audit.cut(kind, name, fits) | terms


def place(rows):
    return {"hospital": np.array(["a", "b"])[np.arange(len(rows)) // 2 % 2]}


def images():
    rows = _images.squares(88)
    return dataclasses.replace(rows, space=ImageSpace(), subgroups=place(rows.y), modality="none")


def table():
    classifier, x, _ = _models.patients(relations=False)
    x = np.concatenate([x.numpy()] * 2)[:88]
    x[:, 1] += np.linspace(-2, 2, 88)  # no two alike
    y = (x[:, 0] > np.median(x[:, 0])).astype(np.int64)
    return Split(x, y, classifier.space, ("well", "ill"), np.arange(88), place(y))


def audit(rows, model, device, folder, wanted):
    """An audit of what is `wanted`, and its rows by what they measure."""
    def made_by(name):
        thing = registry.make("attacks", name)
        return "federated" if type(thing).__module__.startswith("federated") else "none"

    names = {kind: [name for k, name in wanted if k == kind] for kind in KINDS}
    needed = {made_by(name) for name in names["attacks"]} - {"none"}  # attacks on federations need one
    defenses = dict.fromkeys([*names["defenses"], *needed])
    plan = Plan.check({
        "data": "toy", "models": [item("models", model)], "eps": 0.05, "budgets": [0.05], "rows": 6, "device": device,
        "attacks": ["noise", *(item("attacks", name, defenses=[made_by(name)]) for name in names["attacks"]
                               if name != "noise")],
        "defenses": [item("defenses", name) for name in defenses],
        # one of them judges by the answers of several networks
        "detectors": [item("detectors", name, defenses=["mc-dropout" if name == "uncertainty" else "none"])
                      for name in names["detectors"]],
        "norms": {"l2": {"eps": 0.5, "budgets": [0.5]}, "l0": {"eps": 1, "budgets": [1]}}}, "toy")
    data = Dataset("toy", rows.take(slice(48)), rows.take(slice(48, 72)), rows.take(slice(72, 88)),
                   Provenance("toy", "made up", "none", "0", 88, True))
    made = Audit(plan, data, "")
    # comparisons are of arrays alone; the worst case is computed alike for all, from answers that may be random or not
    made.cells = [cell for cell in made.cells if cell.what != "compare" and (
        cell.what != "worst-case" or cell.defense.name in ("none", "randomized-smoothing"))]
    found = {}
    for row in made.run(folder).rows():
        key = row.cell, row.metric, row.subgroup, json.dumps(row.attack_params, sort_keys=True, default=str)
        found[key] = row
    return made, found


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """For images and a table: the audit, and its rows on the CPU and on the accelerator."""
    folder, out, wanted = tmp_path_factory.mktemp("accel"), {}, THINGS
    with pytest.MonkeyPatch.context() as patch:
        for bootstrap in (metrics.bootstrap, metrics.weighted):
            patch.setattr(bootstrap, "__defaults__", (0, None, 20))
        patch.setattr(extraction, "BUDGETS", (20,))
        patch.setattr(detection, "adaptive_attacks", lambda eps: [PGD(eps=eps, steps=3)])
        for kind, rows, model in (("images", images(), "simple-cnn"), ("table", table(), "mlp")):
            both = {}
            for device in ("cpu", accelerator.NAME):
                with accelerator.Pretend() if device == accelerator.NAME else nullcontext():
                    made, both[device] = audit(rows, model, device, folder / f"{kind}-{device}", wanted)
            out[kind] = SimpleNamespace(idle=set(made.idle), **both)
            wanted = [(k, name) for k, name in wanted if name in out[kind].idle]
    return out


def about(rows, kind, name):
    """The rows about a registered thing."""
    return {key: row for key, row in rows.items()
            if name in {"attacks": (row.attack,), "defenses": (row.defense,),
                        "detectors": (row.cell.rpartition("--detect-")[2],)}[kind]}


@pytest.mark.parametrize(("kind", "name"), THINGS)
def test_all_that_is_registered_agrees_with_the_cpu(audits, kind, name):
    if name in EXCEPTIONS:
        assert all(name in found.idle for found in audits.values()), f"{name} runs: it is no exception"
        return
    found = next((found for found in audits.values() if name not in found.idle), None)
    assert found, f"{name} ran neither on images nor on the table: name the reason in EXCEPTIONS"
    near, far = about(found.cpu, kind, name), about(found.accel, kind, name)
    assert near and {row.cell: row.error for row in (*near.values(), *far.values()) if row.error} == {}
    assert near.keys() == far.keys()
    for key, row in near.items():
        if row.value is None or not row.metric.endswith("seconds"):
            assert far[key].value == (row.value if row.value is None
                                      else pytest.approx(row.value, 1e-3, 1e-4, nan_ok=True)), key


@pytest.mark.parametrize("name", [name for name in registry.names("models")
                                  if isinstance(registry.make("models", name), TorchRecipe)])
def test_networks_agree_forwards_and_backwards(name):
    recipe = registry.make("models", name)
    module = build(recipe, (3, 32, 32) if recipe.inputs == "image" else (6,), 2).eval()
    x = torch.rand(2, *((3, 32, 32) if recipe.inputs == "image" else (6,)),
                   generator=torch.Generator().manual_seed(0))
    near = TorchClassifier(copy.deepcopy(module), 2, ImageSpace())
    logits, _, grad = near.gradient(x, lambda z: z[:, 0])
    with accelerator.Pretend():
        far = TorchClassifier(module, 2, ImageSpace(), device=accelerator.NAME)
        other, _, way = far.gradient(x.to(accelerator.NAME), lambda z: z[:, 0])
        torch.testing.assert_close(other.cpu(), logits)
        torch.testing.assert_close(way.cpu(), grad)


@pytest.mark.parametrize("make", [images, table])
def test_rebuilt_rows_are_rounded_where_they_are(make):
    rows = make()
    form, x = Form(rows.space, rows.x.shape[1:]), torch.from_numpy(rows.x[:4]).double() + 0.3
    with accelerator.Pretend():
        assert torch.equal(form.rounded(x.to(accelerator.NAME)).cpu(), form.rounded(x))


@pytest.fixture(scope="module")
def target():
    """A network on the accelerator, and what an attack on it takes."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
                                 torch.nn.Linear(256, 3))
    with accelerator.Pretend():
        classifier = TorchClassifier(module, 3, ImageSpace(), device=accelerator.NAME)
        x = torch.rand(6, 1, 8, 8).to(accelerator.NAME)
        return classifier, x, classifier.judge(x)


class TestTransfers:
    """What a step of an attack makes a device wait for: the difference between many steps and half of them."""

    @pytest.mark.parametrize(("name", "waits", "terms"), [
        ("pgd", 0, {"early_stop": False}), ("apgd", 0, {"early_stop": False}), ("mi-fgsm", 0, {"early_stop": False}),
        ("fab", 4, {}), ("deepfool", 1, {}), ("carlini-wagner", 2, {"search": 1}),
        ("warp", 0, {"early_stop": False}), ("bias-field", 0, {"early_stop": False}),
        ("adversarial-speckle", 0, {"early_stop": False}),
        # queries: each answer is looked at, and two scores are compared before the next query
        ("black-box-universal", 4, {"frequencies": 1.0}), ("simba", 6, {"eps": 0.01}),
        ("nes", 2, {"early_stop": False})])
    def test_of_a_step(self, target, name, waits, terms):
        few, many = (self._run(target, name, terms | {"steps": steps}) for steps in (10, 20))
        extra = many - few
        assert extra["to device"] + extra["to host"] == 0, extra
        assert sum(extra.values()) <= 10 * waits + 1, extra  # and one look at the answers of many passes

    @pytest.mark.parametrize(("early_stop", "waits"), [(False, 1), (True, 2)])
    def test_of_a_query_of_square(self, target, early_stop, waits):
        few, many = (self._run(target, "square", {"queries": queries, "early_stop": early_stop, "eps": 1e-4})
                     for queries in (50, 100))
        assert sum((many - few).values()) <= 50 * waits + 4

    @staticmethod
    def _run(target, name, terms):
        with accelerator.Pretend() as seen:
            registry.make("attacks", name, terms)(*target, seed=1)
        return seen.counts


class TestPretend:
    """It refuses what CUDA refuses, and counts."""

    @pytest.mark.parametrize("mix", [
        lambda far, near: far + near, lambda far, near: torch.cat([far, near]), lambda far, near: near[far.long()],
        lambda far, near: torch.where(far > 0, far, near),
        lambda far, near: torch.rand(3, device=accelerator.NAME, generator=torch.Generator().manual_seed(0)),
        lambda far, near: torch.rand(3, generator=torch.Generator(accelerator.NAME).manual_seed(0))])
    def test_devices_do_not_mix(self, mix):
        near = torch.zeros(3)
        with accelerator.Pretend(), pytest.raises(RuntimeError, match=r"expected|indices on"):
            mix(near.to(accelerator.NAME), near)

    def test_transfers_and_waits_are_counted(self):
        with accelerator.Pretend() as seen:
            far = torch.arange(3.0).to(accelerator.NAME)
            far[far > 1], float(far.sum()), far.nonzero(), far.tolist(), far.cpu(), far + 1
        assert seen.counts == {"to device": 1, "wait mask": 1, "wait _local_scalar_dense": 1, "wait nonzero": 1,
                               "to host": 2}


class TestNames:
    """What `--device` means."""

    def test_any_that_is_there(self):
        with accelerator.Pretend():
            assert resolve_device("accel:0") == torch.device("accel:0")
        assert resolve_device("cpu").type == "cpu" and describe_device(torch.device("cpu")).startswith("CPU with")

    @pytest.mark.parametrize("name", ["cuda:99", "meta", "hpu"])
    def test_one_that_is_not(self, name):
        with pytest.raises(InputError, match=f"^device {name}: no such device is available here; use --device cpu or "):
            resolve_device(name)

    def test_one_without_float64(self, monkeypatch):
        zeros = torch.zeros

        def of_a_mac(*size, dtype=None, **terms):
            if dtype == torch.float64:
                raise TypeError("the MPS framework doesn't support float64")
            return zeros(*size)

        monkeypatch.setattr(torch, "zeros", of_a_mac)
        with pytest.raises(InputError, match=r"^device mps: it has no float64 numbers, in which .*; use --device cpu"):
            resolve_device("mps")

    @pytest.mark.parametrize(("there", "chosen"), [({"cuda", "xpu"}, "cuda"), ({"xpu"}, "xpu"), (set(), "cpu")])
    def test_auto(self, monkeypatch, there, chosen):
        zeros = torch.zeros
        monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **terms: zeros(*size))
        for name in ("cuda", "xpu"):
            monkeypatch.setattr(getattr(torch, name), "is_available", lambda name=name: name in there)
        assert resolve_device("auto").type == chosen
