"""Small image files for tests."""

import numpy as np
from PIL import Image

SPLITS = ("train", "val", "test")


def arrays(sizes=(12, 4, 6), shape=(12, 10), labels=(0, 1), seed=0):
    """The six arrays of an `.npz`, labels in turn."""
    rng = np.random.default_rng(seed)
    out = {}
    for split, n in zip(SPLITS, sizes, strict=True):
        out[f"{split}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        out[f"{split}_labels"] = np.resize(labels, n)[:, None].astype(np.uint8)
    return out


def save_npz(path, **changed):
    np.savez(path, **{k: v for k, v in (arrays() | changed).items() if v is not None})
    return path


def sidecar(there, patients=None, **columns):
    """CSV text with one line for each image of the arrays."""
    lines, n = [",".join(["split", "index", "label", "label_name", "group_id", *columns])], 0
    for split in SPLITS:
        for i, label in enumerate(there[f"{split}_labels"][:, 0]):
            patient = patients[n] if patients else f"p{n}"
            lines.append(",".join(map(str, [split, i, label, ("healthy", "sick_lung")[label], patient,
                                            *(v[n] for v in columns.values())])))
            n += 1
    return "\n".join(lines) + "\n"


def save_picture(path, value=None, shape=(12, 10), seed=0):
    """A PNG or JPEG of noise, or of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8) if value is None else \
        np.full(shape, value, np.uint8)
    Image.fromarray(pixels).save(path)
    return path
