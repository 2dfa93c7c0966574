"""Pictures that are least like the others of their folder: mislabelled ones, scans of a list, thumbnails of a bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipcls.labelled import LabelledImages


@dataclass(frozen=True, slots=True)
class Outlier:
    """One picture."""

    path: str
    label: str
    cosine: float
    """With the mean of its label's other pictures."""
    usual: float
    """The median of that over the label's pictures."""
    nearest: str
    """The label whose other pictures' mean it is closest to."""


def outliers(images: LabelledImages, most: int) -> list[Outlier]:
    """The pictures that are furthest below what is usual in their folder, the furthest first.

    A label with fewer than three pictures has no usual, and is left out.
    """
    vectors = images.vectors.astype(np.float64)
    there = np.unique(images.truth)
    sums = np.stack([vectors[images.truth == each].sum(axis=0) for each in there])
    place = np.searchsorted(there, images.truth)
    others = sums[place] - vectors
    cosines = (vectors * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), np.finfo(np.float64).tiny)
    usual = np.array([np.median(cosines[place == at]) for at in range(len(there))])[place]
    few = np.bincount(place)[place] < 3
    order = np.argsort(np.where(few, np.inf, cosines - usual), kind="stable")[: min(most, int((~few).sum()))]
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    similar = vectors[order] @ means.T
    similar[np.arange(len(order)), place[order]] = cosines[order]  # without itself
    nearest = there[similar.argmax(axis=1)]
    return [
        Outlier(
            images.paths[at],
            images.labels[images.truth[at]].column,
            float(cosines[at]),
            float(usual[at]),
            images.labels[label].column,
        )
        for at, label in zip(order, nearest, strict=True)
    ]
