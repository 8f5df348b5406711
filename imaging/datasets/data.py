"""The medical image sets by name: real ones, read from where they lie, and the synthetic chest phantom.

The split of the real sets is that of their files, by patient where patients are known.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from imaging.datasets import intensity as pixels
from imaging.datasets import npz, phantom
from imaging.datasets.assemble import Pictures, build
from suite.audit.plan import Images, Modality
from suite.core.data import Dataset, Provenance
from suite.datasets import cache
from suite.datasets.split import PARTS


def _file(name: str, sha256: str) -> cache.RemoteFile:
    """No public address is known to hold exactly these bytes; a mirror can be named when fetching."""
    return cache.RemoteFile(f"images/{name}", f"sha256:{sha256}")


PNEUMONIAMNIST = _file("pneumoniamnist.npz", "ce8250bf5debc3c389b89affcc1d9feac579b26e875a848301e9f937bb0c2eee")
PNEUMONIA = (_file("pneumonia_cxr_128.npz", "d0a31e81fcd9515aebdfb24827022fe6eecc9aa195deb25b89096016ae85e490"),
             _file("pneumonia_cxr_128.csv", "2e5a82d275c44bd638a9f18581745a7c4679fc36361bd2c9d1b9e162bbee7f9c"))
COVID = (_file("covid_cxr_128.npz", "ca861cbe4817b9d28a9b95446ba0719a2be3624b3ff2a773e34f682e2de69820"),
         _file("covid_cxr_128.csv", "9cf53d5a9d4f8b0f241c270fcdd0f413c8568b350bb6891a31696f2012420655"))
ALZHEIMER = (_file("alzheimer_mri_128.npz", "452aedd5e6e5be18ea95a4b70391b14d030a4d23a8a7c230dee91c07cc13da9f"),
             _file("alzheimer_mri_128.csv", "5d801b630044c3f800246429a667a6140ecfbd45c424b18912cf86e53cd19143"))
BREAST = (_file("breast_us_busi_128.npz", "af520395a73928aa57f87a6d955b70ce0a530ec32e04b27ec2616a6bc1d5ce48"),
          _file("breast_us_busi_128.csv", "1df5b1ad80a1df2079ab2a5f26946dbada802b907a92f88c4f6b1b351b149a31"))
BREAST_28 = (_file("breast_us_busi_28.npz", "8996d52037dfffdc30f461a33cbd48fd36119a0fad500f609e479d438ddbf03e"),
             _file("breast_us_busi_28.csv", "845a4d36e35862e359c0a6a17e21af8e00dc4eca0d78b2e066d5833b9e867b45"))
HAM10000 = (_file("ham10000_28.npz", "29a2da0a131470edc41a63cfbf72810af1bcce11bfbe8c507470666c0053e92d"),
            _file("ham10000_28.csv", "cc22304a7669332d9e6180243aa3ee79906b59ced099db7910e68a157b1711d2"))

LUNGS = (cache.RemoteFile("segmentation/lung_cxr_tb_128.npz",
                          "sha256:d428a69d185a6d05ad6c67e8e45e6c739779637c7ae3687de1801a4a0d7ab1fc"),
         cache.RemoteFile("segmentation/lung_cxr_tb_128.csv",
                          "sha256:0af675d606e29ed22d5f89faba4ca0b37301a12997e823dc4e087ec1aa0aafaa"))

KERMANY = "Kermany et al., Cell 172:1122 (2018), doi:10.1016/j.cell.2018.02.010"
BUSI = "BUSI: Al-Dhabyani et al., Data in Brief 28:104863 (2020)"
BUSI_LICENCE = "doubtful: the authors state none clearly; MedMNIST gives the same source as CC BY 4.0"
NEAR_DUPLICATES = "groups of near-duplicates"
OASIS = ("Kaggle, Alzheimer's Dataset (4 class of images), test folder; by the number of subjects from OASIS-1 (Marcus "
         "et al., J. Cogn. Neurosci. 19:1498, 2007)")
OASIS_LICENCE = "doubtful: ODbL 1.0 as listed on Kaggle; OASIS has terms of its own"


@cache.reads(PNEUMONIAMNIST)
def pneumoniamnist(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """PneumoniaMNIST: 5856 chest X-rays of children, 28 pixels; normal or pneumonia."""
    return _stored("pneumoniamnist", (PNEUMONIAMNIST,), "xray", path, images, "PneumoniaMNIST (MedMNIST v2): "
                   f"Yang et al., Sci. Data 10:41 (2023), doi:10.1038/s41597-022-01721-8; from {KERMANY}",
                   "CC BY 4.0 (MedMNIST)", "the official images and splits, training images in another order",
                   ("normal", "pneumonia"))


@cache.reads(*PNEUMONIA)
def pneumonia_cxr(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """Chest X-rays of 600 children, 128 pixels; normal or pneumonia. The patients are those of PneumoniaMNIST."""
    return _stored("pneumonia-cxr", PNEUMONIA, "xray", path, images, KERMANY, "CC BY 4.0, as commonly stated",
                   "300 of each class, one image of each patient; do not test on it what learned from pneumoniamnist")


@cache.reads(*COVID)
def covid_cxr(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """Chest X-rays, 624 images, 128 pixels; no findings, COVID-19 (82 patients) or pneumonia."""
    return _stored("covid-cxr", COVID, "xray", path, images, "Ozturk et al., Comput. Biol. Med. 121:103792 (2020); "
                   "COVID-19: Cohen et al., arXiv:2006.11988; the rest: NIH ChestX-ray8, Wang et al., CVPR 2017",
                   "mixed: of 124 COVID-19 images 29 are CC BY-NC-SA, 10 CC BY-NC-ND, and 85 state none; NIH: free use "
                   "with acknowledgement, as commonly stated",
                   "the classes come from different sources, which a model can tell apart by other things than disease")


@cache.reads(*ALZHEIMER)
def alzheimer_mri(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """Brain MRI, 1279 axial slices of 200 subjects, 128 pixels; demented or not, split by subject."""
    return _stored("alzheimer-mri", ALZHEIMER, "mri", path, _disease("demented", images), OASIS, OASIS_LICENCE,
                   "very mild, mild and moderate dementia are one class", ("non demented", "demented"), (0, 1, 1, 1))


@cache.reads(*ALZHEIMER)
def alzheimer_mri_grades(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """The slices of `alzheimer-mri` in four grades of dementia; two subjects only have a moderate one."""
    return _stored("alzheimer-mri-grades", ALZHEIMER, "mri", path, images, OASIS, OASIS_LICENCE,
                   "validation has no moderate dementia, training and test have one subject each")


@cache.reads(*BREAST)
def breast_ultrasound(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """Breast ultrasound (BUSI), 780 images, 128 pixels; normal, benign or malignant."""
    return _stored("breast-ultrasound", BREAST, "ultrasound", path, images, BUSI, BUSI_LICENCE,
                   "burnt-in text and callipers", groups=NEAR_DUPLICATES)


@cache.reads(*BREAST_28)
def breast_ultrasound_28(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """The images of `breast-ultrasound` at 28 pixels; malignant or not, in place of BreastMNIST."""
    return _stored("breast-ultrasound-28", BREAST_28, "ultrasound", path, _disease("malignant", images), BUSI,
                   BUSI_LICENCE, "not the official BreastMNIST split; malignant is class 1", groups=NEAR_DUPLICATES)


@cache.reads(*HAM10000)
def ham10000(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """HAM10000: 10015 dermatoscopic images in colour, 28 pixels; seven kinds of skin lesion, split by lesion."""
    names = ("actinic keratosis", "basal cell carcinoma", "benign keratosis", "dermatofibroma", "melanoma", "nevus",
             "vascular lesion")
    return _stored("ham10000", HAM10000, "dermoscopy", path, images, "Tschandl, Rosendahl and Kittler, Sci. "
                   "Data 5:180161 (2018), doi:10.1038/sdata.2018.161",
                   "CC BY-NC 4.0 (not for commercial use), as commonly stated", "not the official DermaMNIST split",
                   names, groups="lesions")


@cache.reads(*LUNGS)
def tuberculosis_cxr(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """Chest X-rays of two hospitals (Montgomery, Shenzhen), 498 images, 128 pixels; normal or tuberculosis."""
    name = "tuberculosis-cxr"
    images.refuse(f"{name} is read from files of its own", *images.said.keys() - {"size", "channels"})
    files = [cache.locate(LUNGS[0], path)]
    files.append(cache.locate(LUNGS[1], path and files[0].with_suffix(".csv")))
    frame = pd.read_csv(files[1])
    with np.load(files[0], allow_pickle=False) as there:
        x, y, stated = there["images"], there["labels"][:, 0].astype(np.int64), there["split"]
    pictures = Pictures(pixels.fit(pixels.unit(x), images.size, images.channels), y, ("normal", "tuberculosis"),
                        np.array([PARTS.index(part) for part in stated]), np.arange(len(y)).astype(str),
                        {"site": frame["site"].to_numpy(str)}, "xray")
    sums = "\n".join(cache.sha256_of(file) for file in files)
    return build(pictures, Provenance(
        name, "Jaeger et al., Quant. Imaging Med. Surg. 4:475 (2014)",
        "NLM: free use with citation, as commonly stated",
        hashlib.sha256(sums.encode()).hexdigest(), 0, False,
        "all images of Montgomery, 360 of 566 of Shenzhen; the two differ in scanner and in how many are ill"),
        {"read from": cache.origin(files[0])})


def chest_phantom(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """SYNTHETIC chest X-rays (see `imaging.datasets.phantom`), 64 pixels: clear or opacity; `seed` makes the patients,
    too."""
    return phantom.dataset("chest-phantom", phantom.KINDS[:2], path, seed, images)


def chest_phantom_4(path: Path | None = None, seed: int = 0, images: Images = npz.DEFAULTS) -> Dataset:
    """SYNTHETIC chest X-rays as `chest-phantom`, in four classes: clear, opacity, effusion or nodule."""
    return phantom.dataset("chest-phantom-4", phantom.KINDS, path, seed, images)


def _disease(name: str, images: Images) -> Images:
    """How to read a set of which it is known what its disease is called, unless the user says another."""
    return images if images.positive else images.model_copy(update={"positive": name})


def _stored(name: str, files: tuple[cache.RemoteFile, ...], modality: Modality, path: Path | None, images: Images,
            owner: str, licence: str, note: str, names: tuple[str, ...] = (), known: tuple[int, ...] | None = None,
            groups: str = "") -> Dataset:
    """Read one of the sets above; of a copy that the user gives, the CSV lies beside it.

    `groups` says what stands for patients where these are not known.
    """
    images.refuse(f"{name} is read from files of its own", "labels", "window", "slices")
    found = cache.locate(files[0], path)
    sidecar = cache.locate(files[1], path and found.with_suffix(".csv")) if len(files) > 1 else None
    provenance = Provenance(name, owner, licence, cache.sha256_of(found), 0, False, note)
    images = images.model_copy(update={"modality": images.modality or modality})
    data = npz.load(found, sidecar, provenance, images, cache.origin(found), names, known)
    if groups:
        return replace(data, card={**data.card, "patients": f"not known; of {groups}: {data.card['patients']}"})
    return data
