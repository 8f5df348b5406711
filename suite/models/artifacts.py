"""Models on disk: our own are stored and read without executing code; a user's pickle only with an explicit flag."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from suite.base import registry
from suite.base.errors import InputError, NotApplicable
from suite.base.files import write_atomic, write_json
from suite.base.info import Info
from suite.base.limits import answering
from suite.core.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.defense import Defense
from suite.core.recipe import Recipe
from suite.core.space import Space
from suite.models import structure
from suite.training.heads import OneLogit
from suite.training.loop import TorchDefense, TorchRecipe

SAFE = {"sklearn.tree._tree.Tree"}
"""Types that skops does not trust by default and that hold numbers only."""
TRIED = 64
"""Rows on which a user's model is tried."""
NETWORK, ESTIMATORS = "weights.safetensors", ("estimator.skops", "estimator.json")
"""Names of the files in which `save` stores a network, and what is none."""
FEW = 16
"""Rows from which it is no accident that all logits lie between 0 and 1."""
PICKLES = {".pkl", ".pickle", ".joblib"}


def save(classifier: Classifier, folder: Path, name: str) -> None:
    """Write a classifier into a folder: `model.json`, and weights as safetensors, XGBoost JSON or skops.

    Args:
        classifier: Trained from a recipe.
        folder: Where to write.
        name: Of the recipe: registered, or `FILE.py:OBJECT`.

    Raises:
        InputError: The classifier is of a kind that cannot be stored.
        WriteError: The disk is full.
    """
    about = {"recipe": _without_folder(name), "params": asdict(classifier.recipe), "notes": classifier.notes}
    if isinstance(classifier, TorchClassifier):
        from safetensors.torch import save as packed

        from suite.core.normalize import Normalize

        about["inputs"] = next(m.inputs for m in classifier.module.modules() if isinstance(m, Normalize))
        about["changed"] = classifier.changed
        state = classifier.module.state_dict()
        file, data = NETWORK, packed({k: v.detach().cpu().contiguous() for k, v in state.items()})
    elif isinstance(classifier, EstimatorClassifier):
        file, data = _packed(classifier.estimator)
    else:
        raise InputError(f"a {type(classifier).__name__} cannot be stored")
    write_atomic(folder / file, lambda f: f.write(data))
    write_json(folder / "model.json", about | {"file": file})


def load(folder: Path, name: str, classes: int, space: Space, device: str = "cpu",
         defense: Defense | None = None) -> Classifier:
    """Read what `save` wrote.

    Args:
        folder, name: As given to `save`. The name comes from whoever asks, never from the folder: it says which code
            runs, and a folder may be anybody's.
        classes, space: Of the data.
        device: Where a network is put.
        defense: What trained it, which may have put more around the recipe's network than plain training does.

    Raises:
        InputError: Something is damaged, the folder holds a model of another name, or it is no longer known.
    """
    file = folder / "model.json"
    about = _opened(file, lambda: json.loads(file.read_text(encoding="utf-8")))
    if not isinstance(about, dict) or not {"recipe", "params", "notes"} <= about.keys() \
            or about.get("file") not in (NETWORK, *ESTIMATORS):
        raise InputError(f"model {file}: cannot be read: it describes no model")
    if about["recipe"] != _without_folder(name):
        raise InputError(f"model {file}: holds the model '{str(about['recipe'])[:80]}', and the plan says '{name}'; "
                         "nothing of it was run. Use the run with its own plan, or delete this folder to train again")
    recipe = registry.make("models", name, about["params"])
    weights = folder / about["file"]  # whatever else lies there was not written by `save`
    if weights.name == NETWORK:
        from safetensors.torch import load_file

        inputs, changed = tuple(about["inputs"]), tuple(about["changed"])
        state = _opened(weights, lambda: load_file(weights))

        def bare(recipe: TorchRecipe) -> TorchClassifier:
            return TorchClassifier(_shaped(recipe, inputs, classes, changed), classes, space, device=device,
                                   recipe=recipe, changed=changed)

        made = defense.rebuilt(recipe, bare) if isinstance(defense, TorchDefense) else bare(recipe)
        _opened(weights, lambda: made.module.load_state_dict(state))
        classifier: Classifier = made
    else:
        classifier = EstimatorClassifier(read_estimator(weights), classes, space, recipe=recipe)
    classifier.notes.update(about["notes"])
    return classifier


def _without_folder(name: str) -> str:
    """A recipe as a model folder names it: a run can go on from elsewhere, and its manifest has the file's digest."""
    return name.replace("\\", "/").rpartition("/")[2] if registry.is_file(name) else name


def _shaped(recipe: Any, inputs: tuple[int, ...], classes: int, changed: tuple[str, ...]) -> nn.Module:
    """The network of a recipe with the layers that its training left: see `suite.core.classifier.TorchClassifier`."""
    from suite.training.folding import fold
    from suite.training.groupnorm import without_batch_norm
    from suite.training.loop import build

    module = build(recipe, inputs, classes)
    if "group-norm" in changed:
        module[1], _ = without_batch_norm(module[1])
    return fold(module.eval()) if "folded" in changed else module


def _packed(estimator: Any) -> tuple[str, bytes]:
    """File name and content."""
    if type(estimator).__module__.startswith("xgboost"):
        return "estimator.json", bytes(estimator.get_booster().save_raw("json"))
    import skops.io

    return "estimator.skops", skops.io.dumps(estimator)


def read_estimator(file: Path, allow_pickle: bool = False) -> Any:
    """A fitted estimator from XGBoost's JSON or UBJ, skops, or, if the user insists, a pickle.

    Raises:
        InputError: No such file, an unknown kind of file, a damaged one, one that would run code, or a pickle without
            the flag.
    """
    if not file.is_file():
        raise InputError(f"model {file}: no such file")
    if file.suffix in PICKLES:
        if not allow_pickle:
            raise InputError(f"model {file}: a pickle can run any code when it is opened; convert it to skops or "
                             "XGBoost JSON, or pass --allow-pickle if you trust whoever made it")
        import joblib

        return _sound(file, _opened(file, lambda: joblib.load(file)))
    if file.suffix in {".json", ".ubj"}:
        import xgboost

        content, booster = _opened(file, file.read_bytes), xgboost.XGBClassifier()
        if why := _opened(file, lambda: structure.flaw_of_booster(structure.parsed(content))):
            raise InputError(f"model {file}: {why}; it is damaged or was tampered with, get it again from its owner")
        return _opened(file, lambda: booster.load_model(bytearray(content)) or booster)
    if file.suffix == ".skops":
        import skops.io

        unsafe = set(_opened(file, lambda: skops.io.get_untrusted_types(file=file))) - SAFE
        if unsafe:
            raise InputError(f"model {file}: holds types that are not known to be safe: {', '.join(sorted(unsafe))}")
        return _sound(file, _opened(file, lambda: skops.io.load(file, trusted=sorted(SAFE))))
    raise InputError(f"model {file}: unknown kind of file; use .json or .ubj (XGBoost), .skops (scikit-learn), or "
                     "FILE.py:OBJECT")


def _sound(file: Path, estimator: Any) -> Any:
    """An estimator whose trees are trees; scikit-learn follows their indices unchecked."""
    if why := structure.flaw_of_estimator(estimator):
        raise InputError(f"model {file}: {why}; it is damaged or was tampered with, get it again from its owner")
    return estimator


def _opened(file: Path, read: Any) -> Any:
    try:
        return read()
    except InputError:
        raise
    except (Exception, SystemExit) as e:
        raise InputError(f"model {file}: cannot be read: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class Fitted(Recipe):
    """A model that its owner has trained: it can be attacked and guarded, but not trained again.

    Attributes:
        model: With `predict_proba(x) -> (n, classes)`, or a PyTorch module `(n, ...) float32 -> (n, classes)` logits
            that takes data units; for two classes also `(n, 1)` or `(n,)`, the logit of the second.
        source: Where it came from, for messages.
        gradients: Whether a network gives any; `classifier` tries, and the recipe of what it returns knows.
        shadow: What shadow models are trained by in its place; None where there can be none.
        time_limit: Seconds that it may take for one query; None for no limit.
    """

    info: ClassVar[Info] = Info("A fitted model", "none", cost="nothing")
    foreign: ClassVar[bool] = True
    model: Any
    source: str = ""
    gradients: bool = True
    shadow: Recipe | None = None
    time_limit: float | None = None

    @property
    def offers(self) -> tuple[str, ...]:
        if isinstance(self.model, nn.Module):
            return ("gradients",) if self.gradients else ()
        return ("trees", "one tree", "class means")  # perhaps: what needs one of these looks itself

    def fit(self, train: Split, val: Split, seed: int = 0, device: str = "cpu") -> Classifier:
        raise NotApplicable(f"model {self.source} is already trained, and cannot be trained again")

    def classifier(self, train: Split, device: str = "cpu", features: tuple[str, ...] = ()) -> Classifier:
        """The model as a classifier, after a trial on some rows of `train`.

        `notes["randomised"]` is set where a network answers the same question twice with different logits.

        Args:
            train: Rows of the kind that it will see.
            device: Where a network is put.
            features: The dataset's columns, which must be the model's where it remembers them.

        Raises:
            InputError: It fails on these rows, does not return probabilities (or, if a network, logits) of the
                dataset's classes, or has learned other columns or classes, or columns in another order. Named classes
                in another order are put into the dataset's.
        """
        _check_names(self.source, "columns", getattr(self.model, "feature_names_in_", None), features)
        learned = getattr(self.model, "classes_", None)
        if learned is not None and (order := _order(learned, train.classes)) is not None:
            return replace(self, model=_Reordered(self.model, order)).classifier(train, device, features)
        _check_names(self.source, "classes", learned, train.classes)
        made = self._network(train, device) if isinstance(self.model, nn.Module) else self._estimator(train)
        made.time_limit = self.time_limit
        return made

    def _estimator(self, train: Split) -> Classifier:
        made = EstimatorClassifier(self.model, len(train.classes), train.space, recipe=self)
        made.time_limit = self.time_limit
        self._tried(lambda: made.predict_proba(train.x[:TRIED]))
        return made

    def _network(self, train: Split, device: str) -> Classifier:
        classes, x = len(train.classes), torch.from_numpy(train.x[:TRIED]).to(device)
        module = self.model.to(device).eval()
        made = TorchClassifier(module, classes, train.space, device=device, recipe=self)
        with torch.no_grad(), answering(self.source, self.time_limit):
            logits = self._tried(lambda: module(x.clone()))
        why = unfit(logits, classes)
        if why:
            raise InputError(f"model {self.source} {why}")
        if logits.ndim == 1 or logits.shape[1] < classes:
            made = TorchClassifier(OneLogit(module), classes, train.space, device=device, recipe=self)
        if not torch.equal(made.scores(x), made.scores(x)):
            made.notes["randomised"] = "the same inputs give other logits each time, so gradients and rates are noisy"
        try:
            made.pull(x[:2], lambda logits: [torch.ones_like(logits)])
        except RuntimeError:  # it detaches, or computes under torch.no_grad
            made.recipe = replace(self, gradients=False)
            made.notes["gradients"] = "it gives none; only attacks that ask can be used"
        made.queries = made.gradients = 0
        return made

    def _tried(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except InputError:
            raise
        except (Exception, SystemExit) as e:
            why = _first_line(e)
            if channels := re.search(r"to have ([13]) channels, but got ([13]) channels", why):
                takes, has = channels.groups()
                raise InputError(f"model {self.source} takes images with {takes} channels, and the data has {has}; set "
                                 f"--channels {takes}") from e
            raise InputError(f"model {self.source} fails on this data: {why}") from e


def unfit(logits: Any, classes: int) -> str:
    """Why a network's outputs cannot be logits of the classes, in words that follow "model NAME"; "" if they can.

    Args:
        logits: What it returned for some inputs, one row each.
        classes: Number of classes.
    """
    if not isinstance(logits, torch.Tensor) or logits.ndim not in (1, 2):
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        return f"returns {what}, where one row of logits for each input is expected"
    width = logits.shape[1] if logits.ndim == 2 else 1
    broken = int((~logits.isfinite()).view(len(logits), -1).any(1).sum())
    if broken:
        return f"returns values that are not finite for {broken} of {len(logits)} inputs"
    if width == 1 and classes > 2:
        return f"returns one logit a row, but there are {classes} classes"
    if width > classes == 2:
        return (f"returns {width} logits a row, but there are 2 classes; if each is a finding of its own, choose one: "
                "suite.training.heads.Finding(module, k)")
    if width not in (1, classes):
        return f"returns {width} logits a row, but there are {classes} classes"
    bounded = bool(((logits >= 0) & (logits <= 1)).all())
    if width > 1 and bounded and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4):
        return "returns probabilities (each row sums to 1), not logits: leave out its last softmax"
    if bounded and len(logits) >= FEW:
        return "seems to return probabilities (all lie in [0, 1]), not logits: leave out its last sigmoid"
    return ""


class _Reordered:
    """An estimator whose named classes are put into another order: that of the data, where the disease is the last."""

    def __init__(self, model: Any, order: list[int]) -> None:
        self.model, self.order, self.classes_ = model, order, np.asarray(model.classes_)[order]
        self.predict = model.predict
        if hasattr(model, "predict_proba"):
            self.predict_proba = self._proba
        if hasattr(model, "feature_names_in_"):
            self.feature_names_in_ = model.feature_names_in_

    def _proba(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict_proba(x))[:, self.order]


def _order(learned: Sequence[Any], given: tuple[str, ...]) -> list[int] | None:
    """Where a model has each of the data's classes, if it has all of them by name and in another order."""
    known = _texts(learned)
    numbered = all(name.lstrip("-").isdecimal() for name in known)
    if numbered or known == list(given) or sorted(known) != sorted(given):
        return None
    return [known.index(name) for name in given]


def _texts(names: Sequence[Any]) -> list[str]:
    return [f"{v:g}" if isinstance(v, int | float | np.number) else str(v) for v in names]


def _check_names(source: str, what: str, learned: Any, given: tuple[str, ...]) -> None:
    """`InputError` unless a model has `learned` what the data has, in that order; numbers from 0 up say nothing."""
    known = [] if learned is None else _texts(learned)
    if not known or not given or known in (list(given), [str(i) for i in range(len(given))]):
        return
    if set(known) == set(given):
        raise InputError(f"model {source} has the data's {what} in another order ({_some(known)}; the data: "
                         f"{_some(given)})")
    lacks, extra = ([name for name in a if name not in b] for a, b in ((given, known), (known, given)))
    told = [f"it was not trained on {_some(lacks)}" if lacks else "", f"the data lacks {_some(extra)}" if extra else ""]
    raise InputError(f"model {source} has other {what} than the data: {', and '.join(filter(None, told))}")


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
