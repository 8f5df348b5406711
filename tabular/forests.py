"""Random forests of which nothing but answers is asked: scikit-learn's to the bit, in half of the time.

Of a small tree what scikit-learn checks, copies and looks up anew for each takes longer than growing it, and holds the
interpreter's lock, so that forests that grow in threads wait for each other. Here a forest does that once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sklearn
from sklearn.utils.class_weight import compute_sample_weight

KNOWN = "1.9."
"""The scikit-learn whose parts these are: it documents none of them, and others draw other rows for each tree."""


@dataclass(frozen=True)
class Answers:
    """A grown forest.

    Attributes:
        trees: `sklearn.tree._tree.Tree`, of which `predict` gives (n, classes, 1) or (n, classes) shares.
    """

    trees: list

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """(n, classes) float64 probabilities of (n, columns) float32 rows."""
        total = self.trees[0].predict(x)
        for tree in self.trees[1:]:  # one after another, as scikit-learn adds them
            total += tree.predict(x)
        return total / len(self.trees)


def grown(x: np.ndarray, y: np.ndarray, trees: int, depth: int | None, balanced: bool, seed: int) -> Answers | None:
    """What `RandomForestClassifier(trees, max_depth=depth, random_state=seed).fit(x, y)` would answer by.

    Args:
        x: (n, columns) float32, finite.
        y: (n,) int64 labels.
        trees, depth: As scikit-learn's `n_estimators` and `max_depth`.
        balanced: Classes are weighted by the inverse of their frequency.
        seed: As scikit-learn's `random_state`.

    Returns:
        None with a scikit-learn that may do it otherwise.
    """
    if not sklearn.__version__.startswith(KNOWN):
        return None
    from sklearn.tree._criterion import Gini
    from sklearn.tree._splitter import BestSplitter
    from sklearn.tree._tree import DepthFirstTreeBuilder, Tree

    n, columns = x.shape
    classes, code = np.unique(y, return_inverse=True)
    sizes, target = np.array([len(classes)], np.intp), code[:, None].astype(np.float64)
    share = None
    if balanced:
        weights = compute_sample_weight("balanced", y)
        share = weights / weights.sum()
    x, chance, out = np.ascontiguousarray(x), np.random.RandomState(), []
    for own in np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=trees):
        chance.seed(own)
        drawn = chance.randint(0, n, n) if share is None else chance.choice(n, n, p=share)
        chance.seed(own)  # a tree starts from its seed again
        splitter = BestSplitter(Gini(1, sizes), max(1, int(np.sqrt(columns))), 1, 0.0, chance, None)
        tree = Tree(columns, sizes, 1)
        DepthFirstTreeBuilder(splitter, 2, 1, 0.0, np.iinfo(np.int32).max if depth is None else depth, 0.0).build(
            tree, x, target, np.bincount(drawn, minlength=n).astype(np.float64))
        out.append(tree)
    return Answers(out)
