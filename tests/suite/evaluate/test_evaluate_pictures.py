"""Pictures of attacked images: what is kept beside the rows, and how the report shows it."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from imaging.space import ImageSpace
from suite.attacks.gradient import PGD
from suite.attacks.noise import RandomNoise
from suite.audit.plan import Plan
from suite.audit.runner import Audit
from suite.core.classifier import EstimatorClassifier, TorchClassifier
from suite.core.data import Dataset, Provenance, Split
from suite.core.space import Space
from suite.evaluate import measure
from suite.evaluate.pictures import inverted, picture, saliency
from suite.report.figures import pictures
from suite.report.page import render
from suite.report.rows import Rows
from suite.report.write import write_report
from suite.results.measurement import Measurement
from tests.support import rows as _rows
from tests.support.bright import bright
from tests.support.toy import sheet, subject, value

CLASSES = ("clear", "opacity")


def images(n=12, channels=1, size=12):
    x = torch.full((n, channels, size, size), 0.48) + 0.02 * torch.rand(n, channels, size, size,
                                                                        generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 2
    x[y == 1] += 0.03
    return x, y


def dataset(channels=1):
    x, y = images(channels=channels)
    split = Split(x.numpy(), y.numpy(), ImageSpace(), CLASSES, np.arange(len(y)))
    return Dataset("toy", split, split, split, Provenance("toy", "made up", "none", "0", len(y), True))


def as_stored(rows, attack):
    return [Measurement.model_validate(r.model_copy(update={"attack": attack}).model_dump(mode="json"))
            for r in rows.rows]


@pytest.mark.parametrize("channels", [1, 3])
def test_shows_the_first_successes_with_both_answers(channels):
    model = bright(channels)
    x, y = images(channels=channels)
    adversarial = PGD(eps=0.1, early_stop=False)(model, x, y)
    fooled = np.arange(12) >= 4
    kept = picture(model, x, adversarial, fooled, np.arange(12) == 5, y.numpy(), CLASSES)
    tail = (3,) if channels == 3 else ()
    assert {k: v.shape for k, v in kept.items() if v.dtype == np.uint8} == {
        f"picture_{name}": (3, 12, 12, *(() if name.startswith("saliency") else tail))
        for name in ("clean", "attacked", "difference", "saliency", "saliency_attacked")}
    assert [c.split(":")[0] for c in kept["picture_captions"]] == ["clear", "clear", "opacity"]  # 4, 6 and 7
    assert "clear" in kept["picture_captions"][0] and "→ opacity" in kept["picture_captions"][0]
    levels = (255 * x[[4, 6, 7]]).round().byte().numpy()
    assert (kept["picture_clean"] == (levels[:, 0] if channels == 1 else np.moveaxis(levels, 1, -1))).all()
    # each pixel moves by the whole budget, up in the first two and down in the third
    assert (kept["picture_difference"][:2] >= 254).all() and (kept["picture_difference"][2] <= 1).all()
    assert kept["picture_gain"] == pytest.approx([5, 5, 5], rel=0.01)


def test_nothing_is_shown_where_nobody_is_fooled_or_inputs_are_no_pictures():
    model = bright()
    x, y = images()
    none = np.zeros(12, bool)
    assert picture(model, x, x, none, none, y.numpy(), CLASSES) == {}
    model.space = type(model.space).__base__(0.0, 1.0)
    assert picture(model, x, x, ~none, none, y.numpy(), CLASSES) == {}


def test_saliency_is_where_the_answer_depends_on_the_pixel():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        module[1].weight.zero_()
        module[1].weight[1, 5] = 3.0
    model = TorchClassifier(module, 2, ImageSpace())
    found = saliency(model, torch.rand(2, 1, 4, 4))
    assert (found.flatten(1).argmax(1) == 5).all()
    assert (found.flatten(1).sum(1) == found.flatten(1).amax(1)).all()


def test_a_model_without_gradients_is_shown_without_saliency():
    class Bright:
        def predict_proba(self, x):
            p = (x.reshape(len(x), -1).mean(1) > 0.5).astype(float)
            return np.stack([1 - p, p], 1)

    x, y = images()
    kept = picture(EstimatorClassifier(Bright(), 2, ImageSpace()), x, x + 0.1, y.numpy() == 0, np.zeros(12, bool),
                   y.numpy(), CLASSES)
    assert "picture_saliency" not in kept and len(kept["picture_clean"]) == 3


def test_measured_images_have_their_visibility_and_their_place_in_the_report():
    rows = sheet()
    arrays = measure(PGD(), subject(bright(), dataset()), rows)
    assert 0 < value(rows, "visibility[ssim]") < 1 and value(rows, "visibility[psnr]") > 10
    assert value(rows, "features_changed") == 144  # pixels
    assert not [r for r in rows.rows if r.metric == "median_cost"]
    named = as_stored(rows, "pgd")
    manifest = _rows.manifest(noun="image", classes=list(CLASSES), features=[])
    shown = pictures.examples(Rows(named, manifest), lambda _: arrays)
    assert list(shown) == ["m"] and list(shown["m"]) == ["pgd"]
    first = shown["m"]["pgd"][0]
    assert [p.title.split(" ×")[0] for p in first.panels] == list(pictures.PANELS.values())
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.panels[0].uri.split(",")[1]))))
    assert (decoded == arrays["picture_clean"][0]).all()
    page = render(named, manifest, lambda _: arrays)
    assert page.count("<img ") == page.count('alt="pgd, ') == 10
    robustness = page.split('id="robustness"')[1].split('id="defenses"')[0]
    assert "image" in robustness and "patient" not in robustness and "column" not in robustness


@pytest.mark.parametrize(("synthetic", "asked", "kept"), [(False, False, False), (False, True, True),
                                                          (True, False, True)])
def test_images_of_real_patients_are_kept_and_shown_only_when_asked_for(tmp_path, synthetic, asked, kept):
    """The arrays of a whole audit's cell, from the plan's word to the page's."""
    data = dataset()
    data = replace(data, provenance=replace(data.provenance, synthetic=synthetic))
    (tmp_path / "net.py").write_text("from tests.support.bright import bright\nmodel = bright().module\n")
    plan = Plan(data="toy", models=[f"{tmp_path}/net.py:model"], attacks=["pgd"], eps=0.1, budgets=[0.1],
                pictures=asked)
    run = Audit(plan, data, "why").run(tmp_path / "run")
    arrays = run.arrays("net.py-model--none--pgd")
    assert ("picture_clean" in arrays) == kept and "distance" in arrays
    page = write_report(run).read_text()
    assert ("<img " in page) == kept
    assert ("Images of real people, kept because the audit ran with --pictures" in page) == (kept and not synthetic)
    assert ("Synthetic images: they show no real person" in page) == (kept and synthetic)


def test_a_universal_pattern_is_shown_with_its_amplification():
    rows = sheet()
    measure(RandomNoise(), subject(bright(), dataset()), rows)
    named = as_stored(rows, "universal")
    pattern = np.full((1, 4, 4), 0.05, np.float32)
    found, = pictures.patterns(Rows(named, _rows.manifest(noun="image")), lambda _: {"pattern": pattern})
    assert "amplified 10 times" in found.title and found.uri.startswith("data:image/png;base64,")


class TestRoom:
    """Pictures that are too many or too large for one page."""

    def kept(self, side, n=2, name="clean"):
        levels = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
        return {f"picture_{name}": levels, "picture_captions": np.array(["a: b → c"] * n), "picture_gain": np.ones(n)}

    def shown(self, kept):
        rows = [_rows.row("robust_accuracy", 0.5, 0.4, 0.6, attack=a, eps=0.05) for a in ("pgd", "fgsm")]
        return pictures.examples(Rows(rows, _rows.manifest(noun="image")), lambda _: kept)["m"]

    def test_the_first_of_every_attack_comes_before_the_second_of_any(self, monkeypatch):
        kept = self.kept(16)
        assert [len(found) for found in self.shown(kept).values()] == [2, 2]
        size = len(self.shown(kept)["pgd"][0].panels[0].uri)
        monkeypatch.setattr(pictures, "ROOM", int(3.5 * size))
        assert [len(found) for found in self.shown(kept).values()] == [2, 1]
        monkeypatch.setattr(pictures, "ROOM", int(1.5 * size))
        assert {label: len(found) for label, found in self.shown(kept).items()} == {"pgd": 1}

    @pytest.mark.parametrize(("name", "side", "shown"), [("clean", 128, 128), ("clean", 300, 100),
                                                         ("saliency", 128, 64), ("difference", 28, 28)])
    def test_large_ones_are_shown_smaller(self, name, side, shown):
        kept = self.kept(side, name=name)
        uri = self.shown(kept)["pgd"][0].panels[0].uri
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
        assert (decoded == kept[f"picture_{name}"][0, ::side // shown, ::side // shown]).all()


def test_attacks_in_other_norms_are_shown_with_their_budget():
    rows = [_rows.row("robust_accuracy", 0.5, 0.4, 0.6, attack=a, eps=e, norm=n)
            for a, e, n in (("noise", 0.05, "linf"), ("deepfool", 0.5, "l2"), ("rotation-translation", 30.0, "own"))]
    made = _rows.manifest(noun="image")
    made["plan"]["norms"] = {"l2": {"eps": 0.5, "budgets": [0.5]}}
    kept = TestRoom().kept(8, n=1)
    assert list(pictures.examples(Rows(rows, made), lambda _: kept)["m"]) == [
        "noise (control)", "deepfool (L2 0.5)", "rotation-translation (largest angle 30 degrees)"]


def test_of_an_inversion_means_are_kept_but_of_no_class_so_small_that_its_mean_shows_a_patient():
    x = np.linspace(0, 1, 21, dtype=np.float32)[:, None, None, None].repeat(4, 2).repeat(4, 3)
    train = Split(x, (np.arange(21) >= 12).astype(np.int64), ImageSpace(), CLASSES, np.arange(21))
    found, start = np.stack([x[0], x[20]]), x.mean(0)
    kept = inverted(found, start, train)
    assert kept["picture_classes"].tolist() == ["clear"]  # of the other there are nine
    assert (kept["picture_start"] == 128).all() and (kept["picture_means"] == round(255 * 5.5 / 20)).all()
    assert (kept["picture_rebuilt"] == 0).all() and kept["picture_rebuilt"].shape == (1, 4, 4)
    assert inverted(found[:, 0, 0], start[0, 0], Split(x[:, 0, 0], train.y, Space(0.0, 1.0), CLASSES, train.rows)) == {}
    assert inverted(found, start, train.take(slice(9, 15))) == {}
