"""Carrying out a plan: which cells there are, in which order, and what happens in each."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from suite import artifacts, cache, registry, threats, workers
from suite.attack import Attack, EvasionAttack, PoisoningAttack
from suite.checkpoints import checkpoints
from suite.classifier import Classifier
from suite.data import Dataset
from suite.defenses.plain import Plain
from suite.errors import UNTRAINED, InputError, NotApplicable
from suite.evaluate import Outcome, Subject, measure, measure_clean, measure_gains
from suite.evaluate.compare import Poisoning
from suite.evaluate.detection import measure_detection
from suite.evaluate.subject import Arrays
from suite.evaluate.worst_case import Part, measure_worst_case
from suite.measurement import Sheet, versions
from suite.plan import Item, Plan
from suite.progress import advance
from suite.recipe import Defense, Detector, Front, Recipe
from suite.run import FULL, Run, WriteError

NONE = Item(name="none")
WORST = "worst-case"
"""What stands in the `attack` field of rows about the worst case over all evasion attacks."""


@dataclass(frozen=True)
class Cell:
    """One unit of work: training a model, one attack on it, the worst case over its evasion attacks, or a detector of
    them."""

    key: str
    what: Literal["fit", "attack", "worst-case", "detect", "compare"]
    model: Item
    defense: Item
    attack: Item | None = None
    detector: Item | None = None

    @property
    def title(self) -> str:
        """For people: what runs now."""
        behind = "" if self.defense is NONE else f" behind {self.defense.name}"
        fixed = {"fit": "train", "worst-case": "worst case on", "compare": "compare the defenses of"}
        doing = fixed.get(self.what) or f"{(self.attack or self.detector).name} on"
        return f"{doing} {self.model.name}{behind}"


class Audit:
    """A plan made ready to run: everything named in it is loaded and checked before any compute.

    Args:
        plan: What to do.
        dataset: Its data, loaded.
        why: Which of the plan's datasets this is, and why; the first line of the report.

    Raises:
        InputError: An unknown name or parameter, or a device that is not there.
    """

    def __init__(self, plan: Plan, dataset: Dataset, why: str) -> None:
        self.plan, self.data, self.why = plan, dataset, why
        self.device = resolve_device(plan.device)
        self.models = {m.name: resolve_model(m, plan.allow_pickle) for m in plan.models}
        self.attacks = {id(a): registry.make("attacks", a.name, a.params) for a in plan.attacks}
        self.defenses: dict[str, Defense] = {"none": Plain()}
        self.defenses |= {d.name: registry.make("defenses", d.name, d.params) for d in plan.defenses}
        self.detectors = {id(d): registry.make("detectors", d.name, d.params) for d in plan.detectors}
        for item in plan.attacks:
            _check_attack(item, self.attacks[id(item)])
        for item in plan.detectors:
            if not isinstance(self.detectors[id(item)], Detector):
                raise InputError(f"'{item.name}' is not a detector")
        for name, defense in self.defenses.items():
            if not isinstance(defense, Defense):
                raise InputError(f"'{name}' is not a defense")
        self.fitted = {name: model.classifier(dataset.train, str(self.device), dataset.features)
                       for name, model in self.models.items()
                       if isinstance(model, artifacts.Fitted)}
        if plan.attacks and not any(cell.attack for cell in self.cells):
            first = next(iter(self.attacks.values()))
            raise InputError(f"none of the attacks can be used on {', '.join(self.models)}: {plan.attacks[0].name} "
                             f"needs {first.needs or 'a model that can be trained'} (see `medsec list attacks`)")

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, each after those it needs."""
        out: list[Cell] = []
        for model in self.plan.models:
            for defense in (NONE, *self.plan.defenses):
                if self._trainable(model, defense):
                    out += self._chain(model, defense)
        # last, and in this process: they need everything else, and take no time
        chains = {(c.model.name, c.defense.name): c for c in out}
        compared = [m for m in self.plan.models if sum(name == m.name for name, _ in chains) > 1]
        return _unique(out + [Cell(f"{m.slug}--compare", "compare", m, NONE) for m in compared])

    @property
    def idle(self) -> list[str]:
        """Names of the plan's attacks that can be used on none of its models."""
        busy = {id(cell.attack) for cell in self.cells}
        return list(dict.fromkeys(a.name for a in self.plan.attacks if id(a) not in busy))

    def _chain(self, model: Item, defense: Item) -> list[Cell]:
        """The cells of one model behind one defense."""
        name = f"{model.slug}--{defense.slug}"
        attacks = [a for a in self.plan.attacks if self._applies(a, model, defense)]
        cells = [Cell(f"{name}--fit", "fit", model, defense)]
        cells += [Cell(f"{name}--{a.slug}", "attack", model, defense, a) for a in attacks]
        made = [self.attacks[id(a)] for a in attacks]
        # counts of features changed say nothing about budgets
        if any(isinstance(a, EvasionAttack) and getattr(a, "counted", "linf") == "linf" for a in made):
            cells.append(Cell(f"{name}--{WORST}", "worst-case", model, defense))
            cells += [Cell(f"{name}--detect-{d.slug}", "detect", model, defense, detector=d)
                      for d in self.plan.detectors if self._watches(d, model, defense)]
        return cells

    def _watches(self, item: Item, model: Item, defense: Item) -> bool:
        """Whether a detector is to be tried on a model behind a defense: on all that it can look into, unless the plan
        says otherwise."""
        if any(wanted is not None and name not in wanted
               for name, wanted in ((model.name, item.models), (defense.name, item.defenses))):
            return False
        needs = self.detectors[id(item)].needs
        return not needs or needs in self.models[model.name].offers

    def _trainable(self, model: Item, defense: Item) -> bool:
        """Whether the plan wants this defense for this model, and it can have it."""
        if defense.models is not None and model.name not in defense.models:
            return False
        recipe, made = self.models[model.name], self.defenses[defense.name]
        if model.name in self.fitted:
            return defense is NONE or isinstance(made, Front)
        try:
            made.check(recipe)
        except NotApplicable:
            return False
        return True

    def _applies(self, item: Item, model: Item, defense: Item) -> bool:
        """Whether an attack is to be run on a model behind a defense.

        Without instructions in the plan: poisoning meets no defense and those made against it; everything else meets
        every defense, as costs and side effects count too.
        """
        attack, defended = self.attacks[id(item)], self.defenses[defense.name]
        if item.models is not None and model.name not in item.models:
            return False
        if item.defenses is not None and defense.name not in item.defenses:
            return False
        if isinstance(attack, PoisoningAttack):
            if model.name in self.fitted:
                return False
            if item.defenses is None and defense is not NONE and not defended.against_poisoning:
                return False
        elif item.defenses is None and defended.against_poisoning:
            return False
        recipe = self.models[model.name]
        if model.name in self.fitted and not isinstance(defended, Front):
            try:
                attack.check(self.fitted[model.name])
            except NotApplicable:
                return False
        # a guard in front of trees is no tree; in front of a network it is still a network
        behind_front = isinstance(defended, Front) and attack.needs == "trees"
        return not attack.needs or (attack.needs in recipe.offers and not behind_front)

    def manifest(self) -> dict[str, Any]:
        """What a run folder says of itself."""
        source = self.data.provenance
        return {
            "plan": self.plan.dump() | {"device": str(self.device)},
            "data": {"name": source.name, "sha256": source.sha256}, "files": self._files(),
            "why": self.why, "provenance": asdict(source), "card": dict(self.data.card),
            "fitted": list(self.data.fitted), "classes": list(self.data.classes), "features": list(self.data.features),
            "splits": {s: len(getattr(self.data, s)) for s in ("train", "val", "test")},
            "noun": self.data.space.noun, "budget": self.data.space.describe(self.plan.eps), "versions": versions(),
            "device": describe_device(self.device), "created": time.strftime("%Y-%m-%d %H:%M"),
            "cells": [c.key for c in self.cells]}

    def _files(self) -> dict[str, str]:
        """Checksums of the user's own files: a run goes on only with the same ones."""
        plan = self.plan
        names = [item.name for item in (*plan.models, *plan.attacks, *plan.defenses, *plan.detectors)]
        names += [str(file) for file in (plan.table.schema_file,) if file]
        paths = [Path(n.rpartition(":")[0] if registry.is_file(n) else n) for n in names]
        return {str(path): cache.sha256_of(path) for path in paths if path.is_file()}

    def run(self, folder: Path, started: Callable[[Cell, int, int], None] = lambda *_: None, jobs: int = 1) -> Run:
        """Carry out every cell that is not finished yet.

        Args:
            folder: The run folder; created, or continued when it belongs to the same plan and data.
            started: Called with each cell that starts, how many are finished, and how many there are.
            jobs: Processes to use; the results are the same for any number.
        """
        run = Run.create(folder, self.manifest())
        with run.locked():
            todo = [cell for cell in self.cells if not run.done(cell.key)]
            shared = [cell for cell in todo if jobs > 1 and cell.what != "compare"]
            if shared:
                self._share_out(shared, run, jobs, started)
            alone = [cell for cell in todo if cell not in shared]
            for number, cell in enumerate(alone, len(self.cells) - len(alone)):
                started(cell, number, len(self.cells))
                self.carry_out(cell, run)
            run.collect()
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        return run

    def cell(self, key: str) -> Cell:
        """The cell of that key."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, Cell]:
        return {cell.key: cell for cell in self.cells}

    def _share_out(self, todo: list[Cell], run: Run, jobs: int, started: Callable[[Cell, int, int], None]) -> None:
        """One chain for each model behind each defense; what stands in front of a model waits for its training."""
        chains: dict[tuple[str, str], list[str]] = {}
        for cell in todo:
            chains.setdefault((cell.model.name, cell.defense.name), []).append(cell.key)
        order = list(chains)
        after = {n: order.index((model, "none")) for n, (model, defense) in enumerate(order)
                 if isinstance(self.defenses[defense], Front) and (model, "none") in chains}

        def heard(message: tuple[Any, Any, Any]) -> None:
            what, done, total = message
            if total is None:
                started(self.cell(what), sum(run.done(c.key) for c in self.cells), len(self.cells))
            else:
                advance(what, done, total)

        workers.carry_out(self, list(chains.values()), after, run, jobs, heard)

    def carry_out(self, cell: Cell, run: Run) -> None:
        """Finish one cell. What goes wrong inside it becomes its row; a full disk stops the run instead."""
        sheet = self._sheet(cell)
        begun, arrays = time.perf_counter(), None
        try:
            if cell.what == "fit":
                arrays = self._fit(cell, run, sheet)
            elif cell.what == "compare":
                self._compare(cell, run, sheet)
            else:
                subject = self._subject(cell, run)
                if cell.what == "attack":
                    arrays = measure(self.attacks[id(cell.attack)], subject, sheet, cell.attack.rows)
                elif cell.what == "detect":
                    arrays = measure_detection(cell.detector.name, self.detectors[id(cell.detector)], subject, sheet,
                                               self._parts(cell, run), cell.detector.rows)
                else:
                    arrays = measure_worst_case(subject, sheet, self._parts(cell, run))
        except WriteError:
            raise
        except Exception as e:
            if isinstance(e, OSError) and e.errno in FULL:
                raise WriteError(f"{(e.strerror or str(e)).lower()} in {cell.key}; run again to go on") from e
            where = traceback.extract_tb(e.__traceback__)[-1]
            sheet.rows = []
            place = f"{Path(where.filename).name}:{where.lineno}"
            sheet.add("error", float("nan"), error=f"{type(e).__name__}: {e} ({place})")
        sheet.add("cell_seconds", time.perf_counter() - begun)
        run.finish(cell.key, sheet.rows, arrays)
        shutil.rmtree(_checkpoints(cell, run), ignore_errors=True)

    def _compare(self, cell: Cell, run: Run, sheet: Sheet) -> None:
        """Each defense of a model against none; what failed is told by the cell that did."""
        def outcome(defense: Item) -> Outcome:
            fit = run.arrays(f"{cell.model.slug}--{defense.slug}--fit")
            chain = replace(cell, defense=defense)
            leaks = {c.attack.name: arrays for c in self._attacked(chain) if "member" in (arrays := run.arrays(c.key))}
            poisonings = [Poisoning(c.attack.name, attack, arrays) for c in self._attacked(chain)
                          if isinstance(attack := self.attacks[id(c.attack)], PoisoningAttack)
                          and (arrays := run.arrays(c.key))]
            return Outcome(fit, self._parts(chain, run), leaks, poisonings)

        plain = outcome(NONE)
        for defense in self.plan.defenses:
            if plain.fit and (defended := outcome(defense)).fit:
                own = self._sheet(replace(cell, defense=defense))
                measure_gains(own, self.data.test, plain, defended, self.plan.eps, WORST, self.plan.seed)
                sheet.rows += own.rows

    def _fit(self, cell: Cell, run: Run, sheet: Sheet) -> Arrays:
        defense = self.defenses[cell.defense.name]
        if cell.model.name not in self.fitted and not isinstance(defense, Front):
            recipe, train, val = self.models[cell.model.name], self.data.train, self.data.val
            with checkpoints(_checkpoints(cell, run), repr((cell.model, defense))):
                trained = defense(recipe, train, val, self.plan.seed, str(self.device))
            with run.model_folder(cell.key) as folder:
                artifacts.save(trained, folder, cell.model.name)
        return measure_clean(self._subject(cell, run), sheet)

    def _classifier(self, cell: Cell, run: Run) -> Classifier:
        """The model that a cell is about, from the run folder."""
        defense, data = self.defenses[cell.defense.name], self.data
        front = isinstance(defense, Front)
        if cell.model.name in self.fitted:
            found: Classifier = self.fitted[cell.model.name]
        else:
            behind = NONE if front else cell.defense
            folder = run.model(f"{cell.model.slug}--{behind.slug}--fit")
            if not folder.is_dir():
                raise InputError(f"{UNTRAINED} {cell.model.name} to work with")
            found = artifacts.load(folder, len(data.classes), data.space, str(self.device),
                                   self.defenses[behind.name])
        return defense.wrap(found, data.train, data.val) if front else found

    def _subject(self, cell: Cell, run: Run) -> Subject:
        plan = self.plan
        return Subject(self._classifier(cell, run), self.models[cell.model.name], self.defenses[cell.defense.name],
                       self.data, plan.eps, plan.budgets, plan.rows, plan.seed, str(self.device),
                       {norm: (ladder.eps, ladder.budgets) for norm, ladder in plan.norms.items()})

    def _parts(self, cell: Cell, run: Run) -> list[Part]:
        """The finished evasion cells on the same model."""
        found = [(c, self.attacks[id(c.attack)], run.arrays(c.key)) for c in self._attacked(cell)]
        return [Part(c.attack.name, a, arrays) for c, a, arrays in found
                if isinstance(a, EvasionAttack) and "linf" in arrays]

    def _attacked(self, cell: Cell) -> list[Cell]:
        """The cells of all attacks on the same model behind the same defense."""
        return [c for c in self.cells if c.attack and (c.model, c.defense) == (cell.model, cell.defense)]

    def _sheet(self, cell: Cell) -> Sheet:
        source = self.data.provenance
        common: dict[str, Any] = {
            "cell": cell.key, "dataset": self.data.name, "data_sha256": source.sha256, "synthetic": source.synthetic,
            "model": cell.model.name, "defense": cell.defense.name,
            "defense_params": asdict(self.defenses[cell.defense.name]),
            "device": str(self.device), "seed": self.plan.seed}
        if cell.what == "attack":
            attack: Attack = self.attacks[id(cell.attack)]
            common |= {"attack": cell.attack.name, "knowledge": attack.info.knowledge,
                       "threat_ids": threats.ids(attack.info.threats), "attack_params": asdict(attack)}
        elif cell.what in ("worst-case", "detect"):
            common |= {"attack": WORST if cell.what == "worst-case" else "", "threat_ids": threats.ids(("evasion",))}
        return Sheet(**common)


def resolve_model(item: Item, allow_pickle: bool) -> Recipe:
    """The recipe of a plan's model: registered, a file with a fitted model, or `FILE.py:OBJECT`."""
    if registry.is_file(item.name):
        found = registry.load("models", item.name)
        if (hasattr(found, "predict_proba") or isinstance(found, nn.Module)) and not isinstance(found, type):
            return artifacts.Fitted(found, item.name)
    elif Path(item.name).suffix in {*artifacts.PICKLES, ".json", ".ubj", ".skops"}:
        return artifacts.Fitted(artifacts.read_estimator(Path(item.name), allow_pickle), item.name)
    made = registry.make("models", item.name, item.params)
    if not isinstance(made, Recipe):
        raise InputError(f"model '{item.name}' is neither a recipe nor something with predict_proba")
    return made


def _checkpoints(cell: Cell, run: Run) -> Path:
    """Where the trainings of a cell keep what they need to go on, until the cell is finished."""
    return run.folder / "checkpoints" / cell.key


def _check_attack(item: Item, attack: Any) -> None:
    if not isinstance(attack, Attack):
        raise InputError(f"'{item.name}' is not an attack")
    for key in attack.info.threats:
        if key not in threats.CATALOG:
            raise InputError(f"attack '{item.name}' names an unknown threat '{key}'; there are: "
                             f"{', '.join(threats.CATALOG)}")
    if isinstance(attack, EvasionAttack) and "eps" in item.params and attack.norm != "own":
        raise InputError(f"attack '{item.name}': eps: every attack is measured at the budgets of the plan; set its eps "
                         "and budgets instead")


def resolve_device(name: str) -> torch.device:
    """ "auto" is CUDA when it is there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: no CUDA device is available here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def describe_device(device: torch.device) -> str:
    """For the report."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU with {workers.cores()} cores"


def _unique(cells: list[Cell]) -> list[Cell]:
    """The same cells, with keys numbered where two would be the same."""
    seen: dict[str, int] = {}
    out = []
    for cell in cells:
        seen[cell.key] = seen.get(cell.key, 0) + 1
        number = seen[cell.key]
        out.append(cell if number == 1 else replace(cell, key=f"{cell.key}-{number}"))
    return out
