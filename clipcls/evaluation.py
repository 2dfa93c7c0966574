"""How good a classifier's answers are on images whose labels are known: the figures of the field, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.answer import Scores
from clipcls.measures import Interval, Ints, interval, strata

Floats = npt.NDArray[np.float64]

BINS = 15
"""Of the calibration error, all of the same width."""
_ROWS = 4096
"""Images that are scored in one go."""
_TOP = 5
_DRAWS, _FEWEST_DRAWS, _DRAWN = 2000, 200, 2 * 10**8
"""Of the bootstrap: fewer where there are so many images that all draws together would be more than ``_DRAWN``."""
_BY_LABEL = np.array([False, False, True, True, False])
"""Which of ``_Sums.figures`` are means over labels."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a classifier makes of images."""

    top: Ints
    """The best labels, best first: [n, at most 5]."""
    probability: Floats
    """Of the best label: float64 [n]."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """How well one label does, 0 to 1."""

    label: str
    images: int
    """That show it."""
    precision: float
    """The share of the images called so that show it; 0 if none is."""
    recall: float
    """The share of the images that show it that are called so; 0 if there are none."""
    f1: float
    """2 precision recall / (precision + recall); 0 if both are."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same probability: above ``low``, at most ``high``."""

    low: float
    high: float
    images: int
    probability: float
    """Their mean; 0 of none."""
    right: float
    """The share of them that are right; 0 of none."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of some answers, each 0 to 1 and with its 95% interval.

    The intervals are bootstrap percentiles (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13),
    that of the calibration error alone the basic one: being a sum of absolute values, it grows with chance, and each
    draw adds more of that. The images are drawn with replacement: of all for the shares of images, within
    ``measures.strata`` for the means over labels.
    """

    images: int
    top1: Interval
    """The share of images whose best label is right."""
    top5: Interval | None
    """The share of images whose label is among the best five; None with five labels or fewer."""
    recall: Interval
    """Mean per-class recall, over the labels that have images."""
    macro_f1: Interval
    """The mean over all labels of their F1, those without images too."""
    ece: Interval
    """Expected calibration error over 15 bins (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2):
    by how much probability and share of right answers differ, the mean over all answers."""
    classes: tuple[ClassFigures, ...]
    """In label order."""
    confusion: tuple[tuple[int, ...], ...]
    """How many images of a label (row) were called what (column)."""
    reliability: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return asdict(self)


def ranked(score: Callable[[npt.NDArray[np.float32]], Scores], vectors: npt.NDArray[np.float32]) -> Ranked:
    """What a classifier makes of images, in blocks, so that memory does not grow with their number times the labels'.

    Args:
        score: such as ``ZeroShotClassifier.scores``.
        vectors: float32 [n, D], unit rows.
    """
    tops, probabilities = [], []
    for at in range(0, len(vectors), _ROWS):
        scores = score(vectors[at : at + _ROWS])
        top = zeroshot.top_k(scores.order, _TOP)
        tops.append(top)
        probabilities.append(np.take_along_axis(scores.probabilities, top[:, :1], axis=1)[:, 0])
    return Ranked(np.concatenate(tops), np.concatenate(probabilities))


def evaluate(answers: Ranked, truth: Ints, labels: tuple[str, ...], seed: int = 0) -> Evaluation:
    """The figures of some answers.

    Args:
        answers: of n images.
        truth: each image's label, by its place in ``labels``: [n].
        labels: their names.
        seed: of the bootstrap's draws.
    """
    sums = _Sums(answers, truth, len(labels))
    whole = sums.figures(np.ones(len(truth)))
    everything, by_label = (
        np.array([sums.figures(weights) for weights in _draws(each, seed)])
        for each in (np.zeros_like(truth), strata(truth))
    )
    drawn = np.where(_BY_LABEL, by_label, everything)
    top1, top5, recall, f1, ece = (interval(float(value), drawn[:, at]) for at, value in enumerate(whole))
    confusion = np.zeros((len(labels), len(labels)), np.intp)
    np.add.at(confusion, (truth, answers.top[:, 0]), 1)
    return Evaluation(
        images=len(truth),
        top1=top1,
        top5=top5 if len(labels) > _TOP else None,
        recall=recall,
        macro_f1=f1,
        ece=_basic(ece),
        classes=tuple(sums.classes(labels)),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        reliability=tuple(sums.bins()),
    )


def _basic(found: Interval) -> Interval:
    """A figure from 0 to 1, with its basic bootstrap interval (Davison and Hinkley 1997, section 5.2)."""
    value, low, high = found.value, 2 * found.value - found.high, 2 * found.value - found.low
    return Interval(value, max(0.0, low), min(1.0, max(value, high)))


def calibration_error(answers: Ranked, truth: Ints) -> float:
    """``Evaluation.ece`` alone."""
    return float(_Sums(answers, truth, int(max(truth.max(), answers.top.max())) + 1).figures(np.ones(len(truth)))[-1])


class _Sums:
    """The sums that all figures come from, for images of any weight."""

    def __init__(self, answers: Ranked, truth: Ints, labels: int) -> None:
        self._truth, self._guess, self._labels = truth, answers.top[:, 0], labels
        hits = answers.top == truth[:, None]
        self._has_images = np.bincount(truth, minlength=labels) > 0
        self._right, self._among = hits[:, 0].astype(np.float64), hits.any(axis=1).astype(np.float64)
        self._probability = answers.probability
        self._bin = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], answers.probability)

    def figures(self, weights: Floats) -> Floats:
        """Top-1, top-5, mean recall, macro F1 and calibration error: [5]."""
        shown, called, right = self._by_label(weights)
        there = shown > 0
        total = weights.sum()
        f1 = _ratio(2 * right, shown + called)
        told = self._has_images & (shown + called > 0)  # a label that a draw leaves out says nothing
        _, probability, correct = self._by_bin(weights)
        return np.array(
            [
                right.sum() / total,
                weights @ self._among / total,
                (right[there] / shown[there]).mean(),
                f1[told].mean() * self._has_images.mean(),  # labels without images have 0
                np.abs(probability - correct).sum() / total,
            ]
        )

    def classes(self, labels: tuple[str, ...]) -> Iterator[ClassFigures]:
        """Each label's figures."""
        shown, called, right = self._by_label(np.ones(len(self._truth)))
        columns = (shown, _ratio(right, called), _ratio(right, shown), _ratio(2 * right, shown + called))
        for label, images, precision, recall, f1 in zip(labels, *(column.tolist() for column in columns), strict=True):
            yield ClassFigures(label, int(images), precision, recall, f1)

    def bins(self) -> Iterator[Bin]:
        """The answers by their probability."""
        count, probability, right = self._by_bin(np.ones(len(self._truth)))
        means, shares = _ratio(probability, count), _ratio(right, count)
        for at in range(BINS):
            yield Bin(at / BINS, (at + 1) / BINS, int(count[at]), float(means[at]), float(shares[at]))

    def _by_label(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Of each label: the images that show it, those that are called so, and those of which both are true."""
        return (
            _sum(self._truth, weights, self._labels),
            _sum(self._guess, weights, self._labels),
            _sum(self._truth, weights * self._right, self._labels),
        )

    def _by_bin(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Of each bin: the images, the sum of their probabilities, and those that are right."""
        return (
            _sum(self._bin, weights, BINS),
            _sum(self._bin, weights * self._probability, BINS),
            _sum(self._bin, weights * self._right, BINS),
        )


def _draws(groups: Ints, seed: int) -> Iterator[Floats]:
    """How often each image is drawn, as many of each group as there are and with replacement: float64 [n]."""
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    size, start = (np.repeat(each, sizes) for each in (sizes, np.cumsum(sizes) - sizes))
    for _ in range(int(np.clip(_DRAWN // len(groups), _FEWEST_DRAWS, _DRAWS))):
        picked = order[start + (rng.random(len(groups)) * size).astype(np.intp)]
        yield np.bincount(picked, minlength=len(groups)).astype(np.float64)


def _sum(places: Ints, weights: Floats, length: int) -> Floats:
    return np.bincount(places, weights, length).astype(np.float64, copy=False)


def _ratio(some: Floats, of: Floats) -> Floats:
    """``some / of``, and 0 where there is nothing."""
    return np.divide(some, of, out=np.zeros(len(of)), where=of > 0)
