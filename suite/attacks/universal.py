"""One perturbation for every input: made once, on the attacker's own inputs, and then added to whatever comes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suite.attacks._search import Goal, per_row, project, uphill
from suite.base.bounds import Count, Fraction, Label, Positive, Share
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.attack import EvasionAttack, GradientAttack
from suite.core.batches import in_batches
from suite.core.classifier import Classifier, TorchClassifier
from suite.core.space import Lp, Reach
from suite.training.loop import shuffled

SOFT = 0.25
"""Width, in units of a batch's mean log odds, over which an input's vote fades once it is at the label: with a sharp
end the pattern swings between inputs on the boundary, and unseen inputs are reached less often."""


@dataclass(frozen=True)
class Universal(EvasionAttack):
    """Base of the universal attacks. An audit crafts on the validation split and applies to the test rows.

    Called as any other attack it crafts on the very inputs that it is given, and returns all of them perturbed, whether
    that fools the classifier or not.

    Attributes:
        target: Label to reach; `None` for any wrong one.
        norm: "linf" or "l2".
        own: Most inputs on which it crafts; of more, so many are drawn.
    """

    target: Label | None = None
    norm: Lp = "linf"
    own: Count = 100

    def craft(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        """(...) float32: one perturbation within `eps`, in data units, fitted on `own` of (n, ...) inputs, n >= 1, and
        their labels."""
        self.check(classifier)
        drawn = torch.randperm(len(x), generator=torch_generator(seed))[:self.own].sort().values.to(x.device)
        return self._craft(classifier, x[drawn], y[drawn], seed)

    @abstractmethod
    def _craft(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int) -> Tensor:
        """As `craft`, on all inputs given."""

    def apply(self, classifier: Classifier, x: Tensor, v: Tensor) -> Tensor:
        """(n, ...) the possible inputs within `eps` of `x` that are nearest to `x + v`."""
        reach = classifier.space.reach(x, self.eps)
        return reach.snap(torch.clamp(x + v, reach.lower, reach.upper), self.norm == "l2")

    def ball(self, classifier: Classifier, x: Tensor) -> Reach:
        """The perturbations, (1, ...), within the budget of 0 that at least one of the inputs has room for."""
        lower, upper = classifier.space.ball(x, self.eps)
        return Reach(torch.zeros_like(x[:1]), (lower - x).amin(0, True), (upper - x).amax(0, True))

    def __call__(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        return self.apply(classifier, x, self.craft(classifier, x, y, seed)) if len(x) else x.clone()


@dataclass(frozen=True)
class UniversalGradient(Universal, GradientAttack):
    """Universal adversarial perturbation (Moosavi-Dezfooli et al. 2016, arXiv 1610.08401), by gradient ascent.

    With a target it is that of Hirano, Minagi and Takemoto (2021, doi 10.1186/s12880-020-00530-y), who fooled networks
    on skin lesions, eye scans and chest X-rays.

    Attributes:
        passes: Most passes over the inputs; the pattern that fools most after a pass is kept.
        step: Length of a step, in units of `eps`; it falls linearly to 0.
        batch: Inputs that vote on a step.
        momentum: What is left of the earlier votes in the next (0: nothing), as in MI-FGSM (Dong et al. 2018, arXiv
            1710.06081).
        rate: Share of the inputs that must be fooled to stop.
    """

    info: ClassVar[Info] = Info(
        "Universal perturbation", "Moosavi-Dezfooli, Fawzi, Fawzi and Frossard 2016, arXiv 1610.08401; targeted: "
        "Hirano, Minagi and Takemoto 2021, doi 10.1186/s12880-020-00530-y", "white-box", ("evasion",),
        "`passes` x (1 forward and input-gradient pass and 1 forward pass) of `own` inputs of the attacker's, without "
        "a target for each label, fewer when enough are fooled; then none",
        "steps along the momentum of the gradients of the log odds of a batch, in which an input counts less the "
        "further it is beyond the boundary, where the paper adds up one DeepFool step (and the targeted one FGSM "
        "step) an input; without a target it is the best of "
        "the patterns towards each label, as inputs that flee to different labels pull against each other; goes on "
        "until all are fooled, where the paper stops at 80 %; keeps the best pattern, not the last; fooled means "
        "judged wrongly, where the paper means otherwise than before")
    own: Count = 500
    passes: Count = 10
    step: Positive = 0.2
    batch: Count = 16
    momentum: Fraction = 0.9
    rate: Share = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise InputError(f"{type(self).__name__}: momentum must lie between 0 and 1, got {self.momentum!r}")
        if not 0 < self.rate <= 1:
            raise InputError(f"{type(self).__name__}: rate must lie above 0 and be at most 1, got {self.rate!r}")

    def _craft(self, classifier: TorchClassifier, x: Tensor, y: Tensor, seed: int) -> Tensor:
        fools, generator = Goal(classifier, y, self.target), torch_generator(seed)
        labels = range(len(classifier.classes_)) if self.target is None else (self.target,)
        with classifier.frozen(), torch.no_grad():
            tried = [self._ascend(classifier, x, Goal(classifier, y, label), fools, generator) for label in labels]
        return max(tried, key=lambda found: found[1])[0]

    def _ascend(self, classifier: TorchClassifier, x: Tensor, goal: Goal, fools: Goal,
                generator: torch.Generator) -> tuple[Tensor, float]:
        """The best pattern of all passes on the way to `goal`, and the share that it `fools`."""
        ball, scale = self.ball(classifier, x), classifier.space.scale
        v = best = ball.x
        votes, most = torch.zeros_like(v), -1.0
        for k in range(self.passes):
            pace = self.step * (1 - k / self.passes) * self.eps * scale
            for rows in shuffled(len(x), self.batch, generator):
                rows = rows.to(x.device)
                some = goal.take(rows)
                logits, grad = some.gradient(classifier, self.apply(classifier, x[rows], v))
                odds = some.loss(logits, "ce")
                weight = torch.sigmoid(-odds / (SOFT * odds.abs().mean()).clamp(min=1e-12))
                vote = (grad * per_row(weight, grad)).sum(0, keepdim=True)
                votes = self.momentum * votes + vote / vote.abs().mean().clamp(min=1e-12)
                v = project(v + pace * uphill(votes.clone(), ball, scale, self.norm), ball, scale, self.eps, self.norm)
            scores = in_batches(classifier, lambda part, v=v: classifier.scores(self.apply(classifier, part, v)), x)
            share = float((fools.lead(scores) > 0).float().mean())
            if share >= most:  # of patterns that fool as many, the last has gone furthest
                best, most = v, share
            if share >= self.rate or bool((goal.lead(scores) > 0).all()):
                break
        return best[0], most
