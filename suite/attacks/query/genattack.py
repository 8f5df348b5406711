"""GenAttack: a population of perturbations evolves towards one that fools the model, from scores alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, Query, per_row
from suite.base.bounds import Count, Positive, Several, Share
from suite.base.info import Info
from suite.core.classifier import Classifier
from suite.core.space import Reach

WILD = 10
"""In so many first generations all features mutate."""


@dataclass(frozen=True)
class GenAttack(Query):
    """GenAttack (Alzantot et al. 2018, arXiv 1805.11090): selection, crossover and mutation within the budget.

    Attributes:
        steps: Generations, at least 1.
        population: Members of each, at least 2; the fittest stays.
        temperature: Of the softmax of fitness by which parents are drawn.
        alpha: Least size of a mutation, in units of `eps`.
        rho: Least share of features that mutate.
        plateau: Generations without progress after which size and share of mutations shrink by a tenth, from 0.4 and
            0.5 on.
    """

    info: ClassVar[Info] = Info(
        "GenAttack", "Alzantot, Sharma, Chakraborty, Zhang, Hsieh and Srivastava 2018, arXiv 1805.11090", "score",
        ("evasion-query",), "at most `steps` x (`population` - 1) + 1 queries a row",
        "judges each member at the nearest possible input; without a target, fitness is the log odds of being fooled; "
        "no search in fewer dimensions")
    steps: Count = 200
    population: Several = 6
    temperature: Positive = 0.3
    alpha: Positive = 0.15
    rho: Share = 0.005
    plateau: Count = 100

    def _attack(self, classifier: Classifier, reach: Reach, goal: Goal, generator: torch.Generator) -> Tensor:
        space, found = classifier.space, reach.x.clone()
        scores = classifier.scores(found)
        rows = (goal.lead(scores) <= 0).nonzero()[:, 0]
        reach, goal, fitness = reach.take(rows), goal.take(rows), goal.loss(scores, "ce")[rows, None]
        members, shape = reach.x[:, None], (len(rows), self.population - 1, *found.shape[1:])
        drawn = torch.rand(shape, generator=generator, device=found.device)
        young = torch.lerp(reach.lower[:, None], reach.upper[:, None], drawn)
        best, idle, plateaus = (found.new_full((len(rows),), start) for start in (-torch.inf, 0.0, 0.0))
        for step in range(self.steps if len(rows) else 0):
            n, m = young.shape[:2]
            x = reach.x.repeat_interleave(m, 0)
            possible = space.snap(young.reshape(x.shape), x)
            scores, many = classifier.scores(possible), goal.take(torch.arange(n, device=x.device).repeat_interleave(m))
            lead, first = many.lead(scores).view(n, m).max(1)
            fooled, left = (lead > 0).nonzero()[:, 0], (lead <= 0).nonzero()[:, 0]
            found[rows[fooled]] = possible.view(young.shape)[fooled, first[fooled]]
            if not len(left):
                break
            members = torch.cat([members, young], 1)[left]
            fitness = torch.cat([fitness, many.loss(scores, "ce").view(n, m)], 1)[left]
            reach, goal = reach.take(left), goal.take(left)
            rows, best, idle, plateaus = rows[left], best[left], idle[left], plateaus[left]

            fittest = fitness.amax(1)
            idle = torch.where(fittest > best, 0, idle + 1)
            plateaus, idle, best = plateaus + (idle >= self.plateau), idle % self.plateau, torch.maximum(best, fittest)
            alpha = (0.4 * 0.9**plateaus).clamp(min=self.alpha)
            rho = (0.5 * 0.9**plateaus).clamp(min=self.rho) if step >= WILD else torch.ones_like(plateaus)
            elite, young = self._breed(members, fitness, generator)
            change = 2 * torch.rand(young.shape, generator=generator, device=x.device) - 1
            change *= torch.rand(young.shape, generator=generator, device=x.device) < per_row(rho, young)
            young = young + per_row(alpha * self.eps, young) * change * space.scale
            young = torch.clamp(young, reach.lower[:, None], reach.upper[:, None])
            members, fitness = elite, fittest[:, None]
        return found

    def _breed(self, members: Tensor, fitness: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The fittest of each row's (n, population, ...) members, (n, 1, ...), and children of the others and it."""
        at = torch.arange(len(members), device=members.device)[:, None]
        chance = (fitness / self.temperature).softmax(1)
        parents = chance.multinomial(2 * (self.population - 1), replacement=True, generator=generator)
        one, other = parents.chunk(2, 1)
        share = chance.gather(1, one) / (chance.gather(1, one) + chance.gather(1, other))
        mother, father = members[at, one], members[at, other]
        drawn = torch.rand(mother.shape, generator=generator, device=mother.device)
        children = torch.where(drawn < share.view(*share.shape, *[1] * (mother.dim() - 2)), mother, father)
        return members[at, fitness.argmax(1, keepdim=True)], children
