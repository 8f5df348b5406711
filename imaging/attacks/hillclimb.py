"""A universal perturbation from scores alone, by hill climbing along cosines or pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from imaging.transforms.dct import image
from suite.attacks._search import Goal, project
from suite.attacks.universal import Universal
from suite.base.bounds import Count, Positive, Share
from suite.base.errors import InputError
from suite.base.info import Info
from suite.base.seeding import torch_generator
from suite.core.classifier import Classifier
from suite.core.space import Kind


@dataclass(frozen=True)
class BlackBoxUniversal(Universal):
    """Hill climbing for a universal perturbation (Koga and Takemoto 2022): a random vector of an orthonormal basis is
    added or subtracted where that fools the model more on the attacker's images.

    Attributes:
        norm: "linf" or "l2", in which `eps` bounds the perturbation.
        basis: "dct" (smooth patterns: cosines of low frequencies) or "pixel".
        steps: Vectors tried; once all have been, they are drawn again.
        step: Length in L2 of what is added. In the cosine basis of 28 x 28 images, 1 changes a pixel by up to 2 / 28.
        frequencies: Share of each axis' frequencies that the cosines use, lowest first, in (0, 1].
    """

    inputs: ClassVar[Kind] = "image"
    info: ClassVar[Info] = Info(
        "Black-box universal perturbation", "Koga and Takemoto 2022, Algorithms 15(5):144, doi 10.3390/a15050144",
        "score", ("evasion-query",), "at most (2 x `steps` + 1) queries for each of `own` images of the attacker's",
        "climbs the mean probability of being fooled, of the model as it judges possible images")
    basis: Literal["dct", "pixel"] = "dct"
    steps: Count = 1000
    step: Positive = 0.5
    frequencies: Share = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.frequencies <= 1:
            raise InputError(f"{type(self).__name__}: frequencies must lie in (0, 1], got {self.frequencies!r}")

    def _craft(self, classifier: Classifier, x: Tensor, y: Tensor, seed: int) -> Tensor:
        goal, v, ball = Goal(classifier, y, self.target), torch.zeros_like(x[0]), self.ball(classifier, x)
        generator, spots = torch_generator(seed, x.device), self._spots(v)

        def score(v: Tensor) -> float:
            odds = goal.loss(classifier.scores(self.apply(classifier, x, v)), "ce")
            return float(odds.sigmoid().mean())

        best = score(v)
        for k in range(self.steps):
            if k % len(spots) == 0:
                order = spots[torch.randperm(len(spots), generator=generator, device=x.device)].tolist()
            q = torch.zeros_like(v)
            q.view(-1)[order[k % len(spots)]] = self.step
            q = image(q) if self.basis == "dct" else q
            for way in (q, -q):
                tried = project((v + way)[None], ball, classifier.space.scale, self.eps, self.norm)[0]
                reached = score(tried)
                if reached > best:
                    v, best = tried, reached
                    break
        return v

    def _spots(self, v: Tensor) -> Tensor:
        """Positions, in the flattened coefficients or pixels of `v`, of the vectors that may be tried."""
        height, width = v.shape[1:]
        if self.basis == "pixel":
            return torch.arange(v.numel(), device=v.device)
        use = torch.zeros_like(v, dtype=torch.bool)
        use[:, :max(round(self.frequencies * height), 1), :max(round(self.frequencies * width), 1)] = True
        return use.view(-1).nonzero()[:, 0]
