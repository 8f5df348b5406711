"""Exact model extraction: linear models and shallow trees, recovered from their probabilities rather than imitated."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from sklearn.tree import DecisionTreeRegressor
from torch import nn

from privacy.extraction import POOL, Query, Regressed, questions
from suite.base.info import Info
from suite.core.attack import ExtractionAttack
from suite.core.classifier import Classifier, EstimatorClassifier, TorchClassifier
from suite.core.data import Split
from suite.core.space import Space


@dataclass(frozen=True)
class EquationSolving(ExtractionAttack):
    """Solves for the weights of a linear model: the log odds of its probabilities are linear in the row.

    One answer more than there are features is enough for an exact copy; of fewer the smallest weights that explain them
    are taken, and of more those of least squares. What is not linear is copied as well as a linear model can.
    """

    info: ClassVar[Info] = Info(
        "Equation solving", "Tramer, Zhang, Juels, Reiter and Ristenpart 2016, arXiv 1609.02943, sec. 4.1", "score",
        ("extraction",), "the budget in queries; features + 1 copy a linear model exactly", POOL)

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        asked = questions(pool, budget, seed)
        return self.surrogate(asked, np.asarray(query(asked), np.float64), pool, seed)

    def surrogate(self, x: np.ndarray, answers: np.ndarray, pool: Split, seed: int = 0) -> Classifier:
        flat = x.reshape(len(x), -1).astype(np.float64)
        odds = np.log(np.maximum(answers, 1e-12))
        odds -= odds[:, :1]
        # in units in which the columns are alike, or the smallest weights would be those of the largest numbers
        mean, spread = flat.mean(0), np.maximum(flat.std(0), 1e-12)
        known = np.column_stack([(flat - mean) / spread, np.ones(len(flat))])
        solved = np.linalg.lstsq(known, odds, rcond=1e-10)[0]
        module = nn.Sequential(nn.Flatten(), nn.Linear(flat.shape[1], odds.shape[1]))
        weight = solved[:-1] / spread[:, None]
        with torch.no_grad():
            module[1].weight.copy_(torch.from_numpy(weight.T))
            module[1].bias.copy_(torch.from_numpy(solved[-1] - mean @ weight))
        return TorchClassifier(module, odds.shape[1], pool.space)


@dataclass(frozen=True)
class TreePaths(ExtractionAttack):
    """Finds the leaves of a tree one by one: a leaf is a box, and where a line leaves it the probabilities change.

    From a row, a line along every feature is bisected until all that it crosses is known: the box of the row's leaf
    exactly, and rows of other leaves to go on from. Every split of the tree is crossed by a line from either side, so
    the search ends with the whole tree, or with the budget. Then the nearest box that is known answers for the rest.

    Attributes:
        precision: Columns that are not of whole numbers or codes are searched to 2 ** -`precision` of their range;
            narrower leaves may be missed.
    """

    info: ClassVar[Info] = Info(
        "Tree path finding", "Tramer, Zhang, Juels, Reiter and Ristenpart 2016, arXiv 1609.02943, sec. 4.2", "score",
        ("extraction",), "2 x features + log2(range / precision) x splits on the way, queries a leaf; what is known "
        "already is not asked again",
        "complete queries only; needs probabilities that differ between leaves, as rounded ones may not; asks inputs "
        "that are in range, but may break relations between columns")
    precision: Annotated[int, Field(strict=True, ge=1, le=20)] = 12

    def __call__(self, query: Query, pool: Split, budget: int, seed: int = 0) -> Classifier:
        first = questions(pool, min(budget, 1), seed)
        lines = _Lines(pool.space, first.shape[1:], self.precision)
        known = _Known(query, lines, first.shape[1:], budget)
        start = lines.nearest(first.reshape(-1))
        todo = deque([(start, known.ask(start[None])[0])])
        while todo:
            at, answer = todo.popleft()
            if known.box(at) is None:
                todo.extend(known.explore(at, answer))
        low, high, answers = (np.array(part) for part in zip(*known.boxes, strict=True))
        boxes = _Boxes(np.where(low > 0, lines.values(low - 0.5), -np.inf),
                       np.where(high < lines.last, lines.values(high + 0.5), np.inf), answers, lines.range)
        return EstimatorClassifier(boxes, answers.shape[1], pool.space)

    def surrogate(self, x: np.ndarray, answers: np.ndarray, pool: Split, seed: int = 0) -> Classifier:
        """A decision tree: labels alone have no boxes to be found."""
        tree = DecisionTreeRegressor(random_state=seed).fit(x.reshape(len(x), -1), answers)
        return EstimatorClassifier(Regressed(tree), answers.shape[1], pool.space)


class _Lines:
    """Whole positions 0 .. `last` along each of d flattened features, and what values they stand for."""

    def __init__(self, space: Space, shape: tuple[int, ...], precision: int) -> None:
        space = space.to("cpu")
        self.low, high = (v.expand(shape).flatten().double().numpy() for v in (space.lower, space.upper))
        self.range = np.maximum(high - self.low, 1e-12)
        # only the spaces of tables know of steps
        self.codes = {i: codes.double().numpy() for i, codes in getattr(space, "values", {}).items()}
        whole = getattr(space, "integer", torch.tensor(False)).expand(shape).flatten().numpy()
        self.last = np.where(whole, np.rint(high - self.low), 2 ** precision).astype(np.int64)
        for i, codes in self.codes.items():
            self.last[i] = len(codes) - 1

    def values(self, at: np.ndarray) -> np.ndarray:
        """(m, d) float64 values at (m, d) positions, which may lie between two."""
        x = self.low + at * (self.range / np.maximum(self.last, 1))
        for i, codes in self.codes.items():
            x[:, i] = np.interp(at[:, i], np.arange(len(codes)), codes)
        return x

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """(d,) positions nearest to (d,) values."""
        at = np.clip(np.rint((x - self.low) / self.range * self.last), 0, self.last).astype(np.int64)
        for i, codes in self.codes.items():
            at[i] = np.abs(codes - x[i]).argmin()
        return at


class _Known:
    """What the victim has told so far: answers to single positions, and boxes (low, high, answer), both ends inside."""

    def __init__(self, query: Query, lines: _Lines, shape: tuple[int, ...], budget: int) -> None:
        self.query, self.lines, self.shape, self.left = query, lines, shape, budget
        self.told: dict[bytes, np.ndarray] = {}
        self.boxes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def box(self, at: np.ndarray) -> np.ndarray | None:
        """The answer of the box around a (d,) position, if there is one."""
        return next((answer for low, high, answer in self.boxes if (low <= at).all() and (at <= high).all()), None)

    def ask(self, at: np.ndarray) -> list[np.ndarray | None]:
        """Answers at (m, d) positions: from what is known, else from the victim; None where the budget is used up."""
        answers = [self.told[key] if (key := p.tobytes()) in self.told else self.box(p) for p in at]
        new = [i for i, answer in enumerate(answers) if answer is None][:self.left]
        if new:
            self.left -= len(new)
            x = self.lines.values(at[new]).astype(np.float32).reshape(len(new), *self.shape)
            for i, answer in zip(new, np.asarray(self.query(x), np.float64), strict=True):
                answers[i] = self.told[at[i].tobytes()] = answer
        return answers

    def explore(self, at: np.ndarray, answer: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find the box around a position, as far as the budget goes; the positions elsewhere that were met."""
        lines: list[dict[int, np.ndarray]] = [{int(p): answer} for p in at]
        open_ = []
        for i, (p, last) in enumerate(zip(at.tolist(), self.lines.last.tolist(), strict=True)):
            open_ += [(i, 0, p)] * (p > 0) + [(i, p, last)] * (p < last)
        self._meet(at, lines, [(i, a if b == at[i] else b) for i, a, b in open_])
        while open_ := [(i, a, b) for i, a, b in open_ if b - a > 1 and a in lines[i] and b in lines[i]
                        and not _same(lines[i][a], lines[i][b])]:
            self._meet(at, lines, [(i, (a + b) // 2) for i, a, b in open_])
            open_ = [half for i, a, b in open_ for half in ((i, a, (a + b) // 2), (i, (a + b) // 2, b))]
        low, high, others = at.copy(), at.copy(), []
        for i, line in enumerate(lines):
            for end, side in ((low, sorted((p for p in line if p < at[i]), reverse=True)),
                              (high, sorted(p for p in line if p > at[i]))):
                inside = True
                for p in side:
                    inside = inside and _same(line[p], answer)
                    if inside:
                        end[i] = p
                    else:
                        others.append((_moved(at, i, p), line[p]))
        self.boxes.append((low, high, answer))
        return others

    def _meet(self, at: np.ndarray, lines: list[dict[int, np.ndarray]], where: list[tuple[int, int]]) -> None:
        """Note the answers at positions (feature, position) on the lines through `at`."""
        if where:
            told = self.ask(np.stack([_moved(at, i, p) for i, p in where]))
            for (i, p), answer in zip(where, told, strict=True):
                if answer is not None:
                    lines[i][p] = answer


def _moved(at: np.ndarray, feature: int, position: int) -> np.ndarray:
    moved = at.copy()
    moved[feature] = position
    return moved


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two answers are those of one leaf."""
    return bool(np.abs(a - b).max() < 1e-9)


@dataclass(frozen=True)
class _Boxes:
    """Answers with the probabilities of the nearest of b boxes, which are (b, d) in data units; distance in ranges."""

    low: np.ndarray
    high: np.ndarray
    answers: np.ndarray
    range: np.ndarray

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        flat, best = x.reshape(len(x), -1).astype(np.float64), np.zeros(len(x), np.int64)
        nearest = np.full(len(x), np.inf)
        for k, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            away = (np.maximum(np.maximum(low - flat, flat - high), 0) / self.range)
            distance = (away ** 2).sum(1)
            best[distance < nearest] = k
            nearest = np.minimum(nearest, distance)
        return self.answers[best]
