"""What a plan amounts to on some data: the things that it names, made and checked, and the cells of work.

What does not fit together is no cell: an attack that needs gradients meets no tree, a defense of networks trains none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from torch import nn

from suite.audit.plan import Item, Plan
from suite.base import registry, threats
from suite.base.devices import resolve_device
from suite.base.errors import InputError, NotApplicable
from suite.core.attack import Attack, EvasionAttack, MembershipAttack, PoisoningAttack, ReconstructionAttack
from suite.core.data import Dataset, fewer
from suite.core.defense import Defense, Front
from suite.core.detector import Detector
from suite.core.recipe import Recipe
from suite.core.space import Space
from suite.defenses.plain import Plain
from suite.models import artifacts, surrogate
from suite.models.trial import foreign

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

    @property
    def foreign(self) -> tuple[str, ...]:
        """Names of what it runs that is a file of the user's, whose code may end the process."""
        items = (self.model, self.defense, self.attack, self.detector)
        return tuple(item.name for item in items if item and foreign(item.source))


LEARNED = (MembershipAttack, ReconstructionAttack)
"""Kinds of attacks that mean nothing where it is not known which rows a model learned from."""


class Layout:
    """A plan made ready to run: everything named in it is loaded and checked before any compute.

    Args:
        plan: What to do.
        dataset: Its data, loaded.

    Attributes:
        models, defenses: By name.
        attacks, detectors: By the `id` of their item in the plan, which may name one twice.
        fitted: The classifiers of those models that are trained already.

    Raises:
        InputError: An unknown name or parameter, or a device that is not there.
    """

    def __init__(self, plan: Plan, dataset: Dataset) -> None:
        self.plan, self.data = plan, fewer(dataset, plan.train_rows, plan.seed)
        self.device = resolve_device(plan.device)
        self.models = {m.name: _prepared(resolve_model(m, plan.allow_pickle), dataset.space, plan.time_limit)
                       for m in plan.models}
        self.attacks = {id(a): registry.make("attacks", a.name, a.params) for a in plan.attacks}
        self.defenses: dict[str, Defense] = {"none": Plain()}
        self.defenses |= {d.name: registry.make("defenses", d.source, d.params) for d in plan.defenses}
        self.detectors = {id(d): registry.make("detectors", d.name, d.params) for d in plan.detectors}
        for name, model in self.models.items():
            what = f"model '{name}'"
            if isinstance(model, artifacts.Fitted) and model.shadow:
                what, model = f"{what}: the recipe of its shadow models", model.shadow
            if not dataset.space.suits(model.inputs):
                raise InputError(f"{what} is for {model.inputs}s, and the inputs of {dataset.name} are "
                                 f"{dataset.space.kind}s")
        for item in plan.attacks:
            _check_attack(item, self.attacks[id(item)])
        for item in plan.detectors:
            if not isinstance(self.detectors[id(item)], Detector):
                raise InputError(f"'{item.name}' is not a detector")
        for name, defense in self.defenses.items():
            if not isinstance(defense, Defense):
                raise InputError(f"'{name}' is not a defense")
            try:
                defense.check_data(self.data.train)
            except InputError as e:
                raise InputError(f"defense '{name}': {e}") from None
        self.fitted = {name: model.classifier(dataset.train, str(self.device), dataset.features)
                       for name, model in self.models.items()
                       if isinstance(model, artifacts.Fitted)}
        self.models |= {name: made.recipe for name, made in self.fitted.items()}  # they know of gradients
        if plan.attacks and not any(cell.attack for cell in self.cells):
            first = next(iter(self.attacks.values()))
            why = (f"needs {first.needs or 'a model that can be trained'}" if dataset.space.suits(first.inputs)
                   else f"is for {first.inputs}s")
            hint = (f"those that only ask are {', '.join(_asking(dataset.space))}" if first.needs == "gradients"
                    else "see `medsec list attacks`")
            known = self._lost + (self._untold if isinstance(first, LEARNED) else [])
            why = "; ".join(known) or f"{plan.attacks[0].name} {why} ({hint})"
            raise InputError(f"none of the attacks can be used on {', '.join(self.models)}: {why}")

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
        """Names of the plan's attacks, defenses and detectors that can be used on none of its models."""
        busy = {id(item) for cell in self.cells for item in (cell.attack, cell.defense, cell.detector)}
        named = (*self.plan.attacks, *self.plan.defenses, *self.plan.detectors)
        return list(dict.fromkeys(item.name for item in named if id(item) not in busy))

    @cached_property
    def training_known(self) -> dict[str, bool]:
        """Model name -> whether it is known which rows it learned from: of a pre-trained model only where the data
        bring their own split, and whoever made it trained on the training rows of that."""
        return {name: name not in self.fitted or "train" in self.data.declared for name in self.models}

    @cached_property
    def suited(self) -> dict[str, list[str]]:
        """By model, the names of all registered attacks that can be used on it without a defense or behind one of the
        plan: what a report holds against those that ran, to say what was not tested."""
        made = {name: registry.make("attacks", name) for name in registry.names("attacks")}
        behind = {model.name: [d for d in (NONE, *self.plan.defenses) if self._trainable(model, d)]
                  for model in self.plan.models}
        return {model.name: [name for name, attack in made.items()
                             if any(self._meets(attack, model, defense) for defense in behind[model.name])]
                for model in self.plan.models}

    @property
    def limits(self) -> list[str]:
        """What casts doubt on the data, and what cannot be known of or done with pre-trained models."""
        return [*self.data.cautions, *self._untold, *self._lost]

    @property
    def _untold(self) -> list[str]:
        """What is not known, or is taken for granted, of the rows that pre-trained models learned from."""
        out, noun = [], self.data.space.noun
        for name in self.fitted:
            if not self.training_known[name]:
                out.append(f"{name}: it is not known which {noun}s it was trained on. The test {noun}s may be among "
                           "them, so that its performance may be overstated. Membership and generalization are not "
                           "tested. Say which rows it was trained on: --split COLUMN, or --train FILE --test FILE")
            elif any(isinstance(a, LEARNED) for a in self.attacks.values()):
                out.append(f"{name}: the {noun}s of the training split are taken for those it was trained on; if it "
                           "was trained on others, the results on membership do not hold")
        return out

    @property
    def _lost(self) -> list[str]:
        """What cannot be done with pre-trained models, of what the plan asks."""
        out = []
        named = {name: registry.load("attacks", name).info for name in registry.names("attacks")}
        for name, model in self.fitted.items():
            out += self._without_training(name)
            if model.labels_only and any(a.info.knowledge == "score" for a in self.attacks.values()):
                asking = [n for n, info in named.items() if info.knowledge == "label-only"]
                out.append(f"{name} tells no probabilities: attacks that need them are out; those that need labels "
                           f"only are {', '.join(asking)}")
        return out

    def _without_training(self, name: str) -> list[str]:
        """What becomes of the attacks that would train a fitted model again."""
        shadow, training = self.models[name].shadow, [a for a in self.attacks.values() if a.retrains]
        lost, out = [a for a in training if not self._can_train(a, name)], []
        if lost:
            out.append(f"{name} is already trained, and nobody can train it again: attacks that would are out")
        if self.fitted[name].labels_only:  # no shadow models are of use
            return out
        if any(isinstance(a, MembershipAttack) for a in lost):
            instead = ", ".join(n for n in registry.names("attacks") if registry.make("attacks", n).surrogates)
            out[0] += f"; shadow models of another recipe will do for {instead}"
            out[0] += "" if shadow else ', once the plan names one for this model, as in shadow = "random-forest"'
        if len(lost) < len(training):
            out.append(f"{name}: its own recipe is not there, so that its shadow models are of another, "
                       f"{surrogate.described(shadow)}; an attacker who has it may find more")
        return out

    def _can_train(self, attack: Attack, name: str) -> bool:
        """Whether there is something to train for an attack that does: the recipe of the model, or another one."""
        return name not in self.fitted or (attack.surrogates and self.models[name].shadow is not None)

    @property
    def cautions(self) -> list[str]:
        """What should be known before some attacks meet some defenses."""
        pairs = {(id(c.attack), c.defense.name) for c in self.cells if c.attack}
        told = (self.attacks[a].caution(self.defenses[d], self.data.train) for a, d in pairs)
        return sorted(filter(None, set(told)))

    def _chain(self, model: Item, defense: Item) -> list[Cell]:
        """The cells of one model behind one defense."""
        name = f"{model.slug}--{defense.slug}"
        attacks = [a for a in self.plan.attacks if self._applies(a, model, defense)]
        cells = [Cell(f"{name}--fit", "fit", model, defense)]
        cells += [Cell(f"{name}--{a.slug}", "attack", model, defense, a) for a in attacks]
        # counts of features changed say nothing about budgets
        norms = {made.norm for a in attacks if isinstance(made := self.attacks[id(a)], EvasionAttack)
                 and getattr(made, "counted", "linf") == "linf"}
        if "linf" in norms:
            cells.append(Cell(f"{name}--{WORST}", "worst-case", model, defense))
        if norms:
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
        fits = self.data.space.suits(self.detectors[id(item)].inputs)
        return fits and (not needs or needs in self.models[model.name].offers)

    def _trainable(self, model: Item, defense: Item) -> bool:
        """Whether the plan wants this defense for this model, and it can have it."""
        if defense.models is not None and model.name not in defense.models:
            return False
        recipe, made = self.models[model.name], self.defenses[defense.name]
        if not self.data.space.suits(made.inputs):
            return False
        if model.name in self.fitted and not (defense is NONE or isinstance(made, Front)):
            return False
        try:
            made.check(recipe)
            made.check_shape(self.data.train.x.shape[1:])
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
            if item.defenses is None and defense is not NONE and not defended.against_poisoning:
                return False
        elif item.defenses is None and defended.against_poisoning:
            return False
        return self._meets(attack, model, defense)

    def _meets(self, attack: Attack, model: Item, defense: Item) -> bool:
        """Whether an attack can be used on a model behind a defense."""
        defended, recipe = self.defenses[defense.name], self.models[model.name]
        if isinstance(attack, LEARNED) and not self.training_known[model.name]:
            return False
        if not attack.faces(defended) or (attack.retrains and not self._can_train(attack, model.name)):
            return False
        if model.name in self.fitted:
            if self.fitted[model.name].labels_only and attack.info.knowledge == "score":
                return False
            try:
                if not isinstance(defended, Front):
                    attack.check(self.fitted[model.name])
            except NotApplicable:
                return False
        # a guard in front of trees is no tree; in front of a network it is still a network
        behind_front = isinstance(defended, Front) and attack.needs not in ("", "gradients")
        return self.data.space.suits(attack.inputs) and attack.meets(recipe) and not behind_front

    def cell(self, key: str) -> Cell:
        """The cell of that key."""
        return self._by_key[key]

    @cached_property
    def _by_key(self) -> dict[str, Cell]:
        return {cell.key: cell for cell in self.cells}

    def attacked(self, cell: Cell) -> list[Cell]:
        """The cells of all attacks on the same model behind the same defense."""
        return [c for c in self.cells if c.attack and (c.model, c.defense) == (cell.model, cell.defense)]


def resolve_model(item: Item, allow_pickle: bool) -> Recipe:
    """The recipe of a plan's model: registered, a file with a fitted model, or `FILE.py:OBJECT`."""
    source = item.source
    if registry.is_file(source):
        found = registry.load("models", source)
        if (hasattr(found, "predict") or hasattr(found, "predict_proba") or isinstance(found, nn.Module)) \
                and not isinstance(found, type):
            return _fitted(found, item)
    elif Path(source).suffix in {*artifacts.PICKLES, ".json", ".ubj", ".skops"}:
        return _fitted(artifacts.read_estimator(Path(source), allow_pickle), item)
    made = registry.make("models", source, item.params)
    if not isinstance(made, Recipe):
        raise InputError(f"model '{source}' is neither a recipe nor something with predict_proba or predict")
    return made


def _fitted(model: Any, item: Item) -> artifacts.Fitted:
    """A model that is already trained, with the recipe that the plan names for its shadow models."""
    if strange := sorted(item.params.keys() - {"shadow"}):
        raise InputError(f"model '{item.name}' is already trained, so that '{strange[0]}' means nothing; the plan can "
                         "only name the recipe of its shadow models: shadow")
    if (named := shadow_item(item)) is None:
        return artifacts.Fitted(model, item.source)
    shadow = resolve_model(named, False)
    if isinstance(shadow, artifacts.Fitted):
        raise InputError(f"model '{item.name}': shadow: {named.source} is already trained, and no recipe")
    return artifacts.Fitted(model, item.source, shadow=shadow)


def shadow_item(fitted: Item) -> Item | None:
    """The recipe that the plan names for the shadow models of a fitted model."""
    if "shadow" not in fitted.params:
        return None
    try:
        return Item.model_validate(fitted.params["shadow"])
    except ValidationError:
        raise InputError(f"model '{fitted.name}': shadow is the name of a recipe, or a table with its name, and not "
                         f"{fitted.params['shadow']!r}") from None


def _prepared(recipe: Recipe, space: Space, time_limit: float) -> Recipe:
    """A fitted model with its time limit and, where the plan names no recipe of shadow models, one of a like kind."""
    if isinstance(recipe, artifacts.Fitted):
        return replace(recipe, shadow=recipe.shadow or surrogate.alike(recipe.model, space), time_limit=time_limit)
    return recipe


def _asking(space: Space) -> list[str]:
    """Names of the evasion attacks for such inputs that need no gradients."""
    found = {name: registry.load("attacks", name) for name in registry.names("attacks")}
    return [name for name, attack in found.items()
            if "evasion-query" in attack.info.threats and not attack.needs and space.suits(attack.inputs)]


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


def _unique(cells: list[Cell]) -> list[Cell]:
    """The same cells, with keys numbered where two would be the same."""
    seen: dict[str, int] = {}
    out = []
    for cell in cells:
        seen[cell.key] = seen.get(cell.key, 0) + 1
        number = seen[cell.key]
        out.append(cell if number == 1 else replace(cell, key=f"{cell.key}-{number}"))
    return out
