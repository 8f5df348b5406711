"""Carrying out the cells of a plan: in which order, and what happens in each."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from suite.audit import workers
from suite.audit.layout import NONE, WORST, Cell, Layout, shadow_item
from suite.audit.paths import folders_of, short_names, without_any_folder, without_folders
from suite.audit.plan import Item, Plan
from suite.base import registry, threats
from suite.base.devices import describe_device
from suite.base.errors import InputError, Untrained
from suite.base.files import FULL, WriteError
from suite.base.logs import log_at
from suite.base.progress import advance
from suite.core.attack import Attack, EvasionAttack, MembershipAttack, PoisoningAttack
from suite.core.classifier import Classifier
from suite.core.data import Dataset
from suite.core.defense import Front
from suite.datasets import cache
from suite.evaluate import Outcome, Subject, measure, measure_clean, measure_gains, measure_training
from suite.evaluate.compare import Poisoning
from suite.evaluate.detection import measure_detection
from suite.evaluate.subject import Arrays
from suite.evaluate.worst_case import Part, measure_worst_case
from suite.models import artifacts
from suite.results.measurement import Sheet, versions
from suite.results.run import Run
from suite.training.checkpoints import checkpoints


class Audit(Layout):
    """A plan on some data, carried out.

    Args:
        plan, dataset: As for `Layout`.
        why: Which of the plan's datasets this is, and why; the first line of the report.
    """

    def __init__(self, plan: Plan, dataset: Dataset, why: str) -> None:
        super().__init__(plan, dataset)
        self.why, self._names, self._folders = why, short_names(plan), folders_of(plan)

    def manifest(self) -> dict[str, Any]:
        """What a run folder says of itself; of files and folders it knows the names only."""
        source = self.data.provenance
        said = {
            "plan": self.plan.dump() | {"device": str(self.device)},
            "data": {"name": source.name, "sha256": source.sha256},
            "why": self.why, "provenance": asdict(source), "card": dict(self.data.card),
            "fitted": list(self.data.fitted), "classes": list(self.data.classes), "features": list(self.data.features),
            "splits": {s: len(getattr(self.data, s)) for s in ("train", "val", "test")},
            "training_known": self.training_known, "limits": self.limits,
            "noun": self.data.space.noun, "budget": self.data.space.describe(self.plan.eps), "versions": versions(),
            "device": describe_device(self.device), "created": time.strftime("%Y-%m-%d %H:%M"),
            "suited": self.suited, "cells": [c.key for c in self.cells]}
        return without_folders(said, self._names) | {"files": self._files()}

    def _files(self) -> dict[str, str]:
        """Checksums of the user's own files: a run goes on only with the same ones."""
        plan = self.plan
        names = [item.source for item in (*plan.models, *plan.attacks, *plan.defenses, *plan.detectors)]
        names += [str(file) for file in (plan.table.schema_file, plan.table.test, plan.images.labels) if file]
        names += [shadow.source for item in self.plan.models if item.name in self.fitted
                  and (shadow := shadow_item(item))]
        paths = [Path(n.rpartition(":")[0] if registry.is_file(n) else n) for n in names]
        out: dict[str, str] = {}
        for path in dict.fromkeys(path.absolute() for path in paths if path.is_file()):
            named = sum(name.partition(" (")[0] == path.name for name in out)
            out[path.name + (f" ({named + 1})" if named else "")] = cache.sha256_of(path)
        return out

    def run(self, folder: Path, started: Callable[[Cell, int, int], None] = lambda *_: None, jobs: int = 1,
            retry_errors: bool = False, isolated: bool = False) -> Run:
        """Carry out every cell that is not finished yet.

        Args:
            folder: The run folder; created, or continued when it belongs to the same plan and data.
            started: Called with each cell that starts, how many are finished, and how many there are.
            jobs: Processes to use; the results are the same for any number.
            retry_errors: Carry out cells again that failed before, and those that sum them up.
            isolated: With one job, too, run files of the user's in another process, whose end becomes an error row:
                code that calls `os._exit` would else end this one, without a word.
        """
        named = Run.create(folder, self.manifest(), self._grows)
        run = Run(named.folder.absolute())  # code of a model or an attack may change the working directory
        with run.locked():
            self._grow(run)
            for key in self._failed(run) if retry_errors else ():
                run.discard(key, "to be tried again")
            todo = [cell for cell in self.cells if not run.done(cell.key)]
            apart = jobs > 1 or (isolated and any(cell.foreign for cell in todo))
            shared = [cell for cell in todo if apart and cell.what != "compare"]
            if shared:
                self._share_out(shared, run, jobs, started)
            alone = [cell for cell in todo if cell not in shared]
            for number, cell in enumerate(alone, len(self.cells) - len(alone)):
                started(cell, number, len(self.cells))
                self.carry_out(cell, run)
            run.collect()
            shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        return named

    def _grows(self, earlier: dict[str, Any]) -> bool:
        """Whether a run of an earlier plan goes on as a run of this one."""
        before = Plan.check(earlier, "the run's plan")
        named = Plan.check(without_folders(self.plan.dump(), self._names), "the plan")
        now = named.model_copy(update={"device": before.device})
        if before.extends(now) and len(before.dump()["later"]) < len(now.dump()["later"]):
            raise InputError("the run folder holds the full audit of this plan; give --full to go on with it, or "
                             "another folder with --out")
        return now.extends(before)

    def _grow(self, run: Run) -> None:
        """Take up what this plan has and the run's does not; whatever was computed from all attacks on a model is
        computed again where there are more of them now."""
        found, now = run.manifest, self.manifest()
        if found["plan"] == now["plan"]:
            return
        known = set(found["cells"])
        more = {(c.model.name, c.defense.name) for c in self.cells
                if c.what in ("fit", "attack") and c.key not in known}
        for cell in self.cells:
            if (cell.what in ("worst-case", "detect") and (cell.model.name, cell.defense.name) in more) or (
                    cell.what == "compare" and any(cell.model.name == model for model, _ in more)):
                run.discard(cell.key, "there are more cells to sum up")
        run.write_manifest(now | {"created": found["created"]}, "grown")

    def _failed(self, run: Run) -> list[str]:
        """Cells that failed, and finished ones that had to do without their results."""
        failed = {key for key in run.failed() if key in self._by_key}
        behind = {(cell.model.name, cell.defense.name) for cell in map(self.cell, failed)}
        models = {model for model, _ in behind}
        return [c.key for c in self.cells if run.done(c.key) and (
            c.key in failed or (c.what in ("worst-case", "detect") and (c.model.name, c.defense.name) in behind)
            or (c.what == "compare" and c.model.name in models))]

    def _share_out(self, todo: list[Cell], run: Run, jobs: int, started: Callable[[Cell, int, int], None]) -> None:
        """Each attack by itself once its model is trained; those on membership in a row, as they share their shadow
        models; then what is computed from all of them. What stands in front of a model waits for its training."""
        chains: dict[tuple[str, str, str], list[str]] = {}
        for cell in todo:
            leaks = cell.attack and isinstance(self.attacks[id(cell.attack)], MembershipAttack)
            own = {"fit": "fit", "attack": "membership" if leaks else cell.key}.get(cell.what, "summary")
            chains.setdefault((cell.model.name, cell.defense.name, own), []).append(cell.key)
        order = list(chains)

        def needed(model: str, defense: str, own: str) -> set[int]:
            behind = "none" if isinstance(self.defenses[defense], Front) else defense
            fits = {(model, behind, "fit")} | ({(model, defense, "fit")} if own != "fit" else set())
            return {n for n, chain in enumerate(order) if chain != (model, defense, own)
                    and (chain in fits or (own == "summary" and chain[:2] == (model, defense)))}

        after = [needed(*chain) for chain in order]

        def heard(message: tuple[Any, Any, Any]) -> None:
            what, done, total = message
            if total is None:
                started(self.cell(what), sum(run.done(c.key) for c in self.cells), len(self.cells))
            else:
                advance(what, done, total)

        again = partial(type(self), self.plan, self.data, self.why)
        workers.carry_out(self, again, list(chains.values()), after, run, jobs, heard)

    def carry_out(self, cell: Cell, run: Run) -> None:
        """Finish one cell. What goes wrong inside it becomes its row; a full disk stops the run instead."""
        sheet = self._sheet(cell)
        begun, arrays, home = time.perf_counter(), None, Path.cwd()
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
        except (Exception, SystemExit, GeneratorExit) as e:  # a model or an attack may call sys.exit
            if isinstance(e, OSError) and e.errno in FULL:
                raise WriteError(f"{(e.strerror or str(e)).lower()} in {cell.key}; run again to go on") from e
            where = traceback.extract_tb(e.__traceback__)[-1]
            sheet.rows = []
            place = f"{Path(where.filename).name}:{where.lineno}"
            said = without_any_folder(without_folders(str(e), self._names), (run.folder, *self._folders))
            sheet.add("error", float("nan"), error=f"{type(e).__name__}: {said} ({place})",
                      caused_by=getattr(e, "cell", "") if isinstance(e, Untrained) else "")
        os.chdir(home)  # a model may have gone elsewhere, and the paths of a plan are relative
        sheet.add("cell_seconds", time.perf_counter() - begun)
        run.finish(cell.key, sheet.rows, arrays, lambda row: without_folders(row, self._names))
        shutil.rmtree(_checkpoints(cell, run), ignore_errors=True)

    def give_up(self, cell: Cell, run: Run, why: str) -> None:
        """Finish a cell whose process has ended in the middle of it: an error is its row."""
        sheet = self._sheet(cell)
        sheet.add("error", float("nan"), error=why)
        sheet.add("cell_seconds", 0.0)
        run.finish(cell.key, sheet.rows, None, lambda row: without_folders(row, self._names))

    def _compare(self, cell: Cell, run: Run, sheet: Sheet) -> None:
        """Each defense of a model against none; what failed is told by the cell that did."""
        def outcome(defense: Item) -> Outcome:
            fit = run.arrays(f"{cell.model.slug}--{defense.slug}--fit")
            chain = replace(cell, defense=defense)
            leaks = {(c.attack.name, self.attacks[id(c.attack)]): arrays for c in self.attacked(chain)
                     if "member" in (arrays := run.arrays(c.key))}
            poisonings = [Poisoning(c.attack.name, attack, arrays) for c in self.attacked(chain)
                          if isinstance(attack := self.attacks[id(c.attack)], PoisoningAttack)
                          and (arrays := run.arrays(c.key))]
            return Outcome(fit, self._parts(chain, run), leaks, poisonings)

        plain = outcome(NONE)
        for defense in self.plan.defenses:
            if plain.fit and (defended := outcome(defense)).fit:
                own = self._sheet(replace(cell, defense=defense))
                measure_gains(own, self.data.test, plain, defended, self.plan.eps, WORST, self.plan.seed,
                              self.plan.smallest_group)
                sheet.rows += own.rows

    def _fit(self, cell: Cell, run: Run, sheet: Sheet) -> Arrays:
        defense = self.defenses[cell.defense.name]
        if cell.model.name not in self.fitted and not isinstance(defense, Front):
            recipe, train, val = self.models[cell.model.name], self.data.train, self.data.val
            with checkpoints(_checkpoints(cell, run), repr((cell.model, defense))), log_at(_log(cell, run)):
                trained = defense(recipe, train, val, self.plan.seed, str(self.device))
            with run.model_folder(cell.key) as folder:
                artifacts.save(trained, folder, cell.model.source)
        subject = self._subject(cell, run)
        arrays = measure_clean(subject, sheet)
        measure_training(defense, subject, sheet)
        return arrays

    def _classifier(self, cell: Cell, run: Run) -> Classifier:
        """The model that a cell is about, from the run folder."""
        defense, data = self.defenses[cell.defense.name], self.data
        front = isinstance(defense, Front)
        if cell.model.name in self.fitted:
            found: Classifier = self.fitted[cell.model.name]
        else:
            behind = NONE if front else cell.defense
            trained = f"{cell.model.slug}--{behind.slug}--fit"
            folder = run.model(trained)
            if not folder.is_dir():
                raise Untrained(f"training failed, so there is no {cell.model.name} to work with", trained)
            found = artifacts.load(folder, cell.model.source, len(data.classes), data.space, str(self.device),
                                   self.defenses[behind.name])
        return defense.wrap(found, data.train, data.val) if front else found

    def _subject(self, cell: Cell, run: Run) -> Subject:
        plan = self.plan
        return Subject(self._classifier(cell, run), self.models[cell.model.name], self.defenses[cell.defense.name],
                       self.data, plan.eps, plan.budgets, plan.rows, plan.seed, str(self.device),
                       {norm: (ladder.eps, ladder.budgets) for norm, ladder in plan.norms.items()},
                       run.folder / "shadows", _log(cell, run),
                       plan.pictures or self.data.provenance.synthetic, plan.smallest_group)

    def _parts(self, cell: Cell, run: Run) -> list[Part]:
        """The finished evasion cells on the same model."""
        found = [(c, self.attacks[id(c.attack)], run.arrays(c.key)) for c in self.attacked(cell)]
        return [Part(c.attack.name, a, arrays) for c, a, arrays in found
                if isinstance(a, EvasionAttack) and "linf" in arrays]

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


def _checkpoints(cell: Cell, run: Run) -> Path:
    """Where the trainings of a cell keep what they need to go on, until the cell is finished."""
    return run.folder / "checkpoints" / cell.key


def _log(cell: Cell, run: Run) -> Path:
    """What its training has to tell of itself."""
    return run.folder / "logs" / f"{cell.key}.jsonl"
