"""How good answers are, and whether one classifier's are better than another's; pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]

_FEW = 5
"""Images of a class below which they say too little of their own spread."""
_DRAWS = 4000
"""Of the bootstrap; the ends of a 95% interval are then stable to about a twentieth of its width."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether a difference is beyond noise: 0 is not in the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Difference:
    """By how much one classifier is better than another, on the same images."""

    top1: Interval
    recall: Interval


@dataclass(frozen=True, slots=True)
class Figures:
    """How many answers are right, 0 to 1."""

    top1: float
    """The share of images whose best label is right."""
    recall: float
    """Mean per-class recall: the mean over the classes of the share of each one's images that are right."""

    @classmethod
    def of(cls, correct: Bools, truth: Ints) -> Figures:
        """The figures of some answers.

        Args:
            correct: which are right, bool [n].
            truth: each image's class, [n].
        """
        counts = np.bincount(truth)
        right = np.bincount(truth, weights=correct, minlength=len(counts))
        return cls(float(correct.mean()), float((right[counts > 0] / counts[counts > 0]).mean()))


def paired_difference(better: Bools, than: Bools, truth: Ints, seed: int = 0) -> Difference:
    """Top-1 and mean per-class recall of one classifier less those of another, with 95% bootstrap intervals.

    Images are drawn with replacement within each of the ``strata``, both classifiers' answers to an image together
    (paired, stratified, percentile method: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8
    and 13). An image counts -1, 0 or 1, so that drawing a class's images is drawing from a multinomial distribution.

    Args:
        better: bool [n].
        than: bool [n].
        truth: each image's class, [n].
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    gain = better.astype(np.int64) - than
    totals, means = np.zeros(_DRAWS), np.zeros(_DRAWS)
    counts, drawn_among = np.bincount(truth), strata(truth)
    for stratum in np.unique(drawn_among):
        inside = drawn_among == stratum
        own, sizes = gain[inside], counts[truth[inside]]
        kinds = np.array([(step, size) for size in np.unique(sizes) for step in (-1, 0, 1)])
        shares = [((own == step) & (sizes == size)).mean() for step, size in kinds]
        drawn = rng.multinomial(len(own), shares, size=_DRAWS)
        totals += drawn @ kinds[:, 0]
        means += drawn @ (kinds[:, 0] / kinds[:, 1])
    new, old = Figures.of(better, truth), Figures.of(than, truth)
    return Difference(
        interval(new.top1 - old.top1, totals / len(gain)),
        interval(new.recall - old.recall, means / np.count_nonzero(counts)),
    )


def strata(truth: Ints) -> Ints:
    """What a bootstrap draws images within: their classes, those of fewer than five images taken together, [n].

    Within a class of one image every draw is that image, so that its figures would look certain.
    """
    counts = np.bincount(truth)
    return np.where(counts[truth] < _FEW, len(counts), truth)


def interval(value: float, draws: npt.NDArray[np.float64]) -> Interval:
    """A figure with its 95% interval: percentiles of the figures of bootstrap draws, float64 [draws]."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def stratified(rows: Ints, truth: Ints, folds: int, seed: int) -> list[Ints]:
    """The rows in folds that each hold their share of every class, ascending.

    Args:
        rows: places in ``truth``, [m].
        truth: each image's class, [n].
        folds: how many.
        seed: of the order within a class.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    by_class = shuffled[np.argsort(truth[shuffled], kind="stable")]
    return [np.sort(by_class[at::folds]) for at in range(folds)]
