"""The official two-dimensional sets of MedMNIST, downloaded once and verified; facts about them in `medmnist.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from imaging.datasets import npz
from suite.audit.plan import Images
from suite.core.data import Dataset, Provenance
from suite.datasets import cache

FACTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("medmnist.toml").read_text(encoding="utf-8"))
SIZES = (28, 64, 128, 224)


def remote(name: str, size: int = 28) -> cache.RemoteFile:
    """The file of a set with images of that height and width: 28, 64, 128 or 224 pixels."""
    file = f"{name}.npz" if size == 28 else f"{name}_{size}.npz"
    return cache.RemoteFile(f"medmnist/{file}", f"md5:{FACTS['sets'][name]['md5'][str(size)]}",
                            FACTS["url"].format(file=file))


def _builder(name: str) -> cache.Builder:
    facts, called = FACTS["sets"][name], f"medmnist-{name.removesuffix('mnist')}"

    def build(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
        images.refuse(f"{called} is read from a file of its own", "labels", "window", "slices")
        size = next((s for s in SIZES if s >= (images.size or 28)), SIZES[-1])  # the stored size nearest from above
        found = cache.locate(remote(name, size), path)
        known = {key: facts.get(key) for key in ("positive", "modality") if getattr(images, key) is None}
        images = images.model_copy(update=known)
        owner = f"MedMNIST v2: Yang et al., Sci. Data 10:41 (2023), {FACTS['doi']}; from {facts['source']}"
        provenance = Provenance(called, owner, f"{facts['licence']} (MedMNIST)",
                                cache.sha256_of(found), 0, False, "the official split")
        return npz.load(found, None, provenance, images, cache.origin(found), facts["labels"],
                        most=None)

    labels = facts["labels"]
    kind = "findings, of which --finding names one" if facts.get("several") else "classes"
    hue = "grey" if facts["channels"] == 1 else "colour"
    build.__doc__ = (f"MedMNIST's {name}: {sum(facts['images'])} images, {hue}, 28 pixels (with --size also 64, 128, "
                     f"224); {len(labels)} {kind}.")
    return cache.reads(remote(name))(build)


pneumoniamnist = _builder("pneumoniamnist")
breastmnist = _builder("breastmnist")
dermamnist = _builder("dermamnist")
retinamnist = _builder("retinamnist")
octmnist = _builder("octmnist")
bloodmnist = _builder("bloodmnist")
pathmnist = _builder("pathmnist")
tissuemnist = _builder("tissuemnist")
chestmnist = _builder("chestmnist")
organamnist = _builder("organamnist")
organcmnist = _builder("organcmnist")
organsmnist = _builder("organsmnist")
