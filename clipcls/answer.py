"""From scores to an answer: the best label, several, or none that is sure enough; and the best group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.errors import UsageError
from clipcls.labels import Label
from clipcls.pipeline import Embedded
from clipcls.records import Activation, GroupScore, Prediction, Score

DEFAULT_THRESHOLD: dict[Activation, float] = {"sigmoid": 0.5, "softmax": 0.9}
"""Of a multi-label classifier. Against a neutral prompt a half means no more than that a label fits no worse."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """Every label's scores for some images; the labels of the background come last."""

    cosines: Float64
    """float64 [n, L], -1 to 1."""
    probabilities: Float64
    """float64 [n, L], 0 to 1."""
    order: Float64
    """What ranks the labels, higher is better: float64 [n, L]."""


class Answer:
    """Turns scores into predictions; the arguments are those of ``ZeroShotClassifier.classify``.

    Raises:
        UsageError: a number is out of range, or a margin was asked for where labels do not compete.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        activation: Activation,
        *,
        multi_label: bool,
        threshold: float | None,
        margin: float,
        groups: bool,
        top_k: int,
        all_scores: bool,
    ) -> None:
        for name, value in (("threshold", threshold), ("margin", margin)):
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} must be a probability, from 0 to 1")
        if multi_label and margin:
            raise UsageError("with --multi-label the labels do not compete, so --margin has nothing to do")
        self._labels, self._multi_label = labels, multi_label
        default = DEFAULT_THRESHOLD[activation] if multi_label else 0.0
        self._threshold = default if threshold is None else threshold
        self._margin = margin
        self._top_k, self._all_scores = top_k, all_scores
        self._adds_up = activation == "softmax" and not multi_label
        names = [label.group or label.column for label in labels] if groups else []
        place = {name: at for at, name in enumerate(dict.fromkeys(names))}
        self._groups = list(place)
        self._group_of = np.array([place[name] for name in names], np.intp)

    def all(self, images: Sequence[Embedded], scores: Scores) -> Iterator[Prediction]:
        """The predictions for some images, in order."""
        answerable = len(self._labels)
        ranking = zeroshot.top_k(scores.order[:, :answerable], answerable)
        in_front = zeroshot.best(scores.order) < answerable
        columns = [label.column for label in self._labels]
        shown = (ranking if self._all_scores else ranking[:, : self._top_k]).tolist()  # lists are the faster to walk
        for row, image in enumerate(images):
            probabilities, cosines = scores.probabilities[row], scores.cosines[row]
            made = {at: Score(columns[at], float(probabilities[at]), float(cosines[at])) for at in shown[row]}
            yield Prediction(
                image.path,
                ranked=tuple(made[at] for at in shown[row][: self._top_k]),
                all_scores=tuple(made[at] for at in range(answerable)) if self._all_scores else None,
                cached=image.cached,
                sure=self._sure(made[shown[row][0]], ranking[row], probabilities) if in_front[row] else (),
                group=self._group(ranking[row], probabilities) if self._groups else None,
            )

    def _sure(self, best: Score, ranking: npt.NDArray[np.intp], probabilities: Float64) -> tuple[str, ...]:
        """The labels of one image, with no background before them, that are sure enough to be its answer."""
        if self._multi_label:
            return tuple(self._labels[at].column for at in ranking if probabilities[at] >= self._threshold)
        sure = best.probability >= self._threshold
        if self._margin:
            sure = sure and best.probability - np.delete(probabilities, ranking[0]).max(initial=0.0) >= self._margin
        return (best.label,) if sure else ()

    def _group(self, ranking: npt.NDArray[np.intp], probabilities: Float64) -> GroupScore:
        """The best group; among equals the one whose best label comes first."""
        totals = np.zeros(len(self._groups))
        combine = np.add if self._adds_up else np.maximum
        combine.at(totals, self._group_of, probabilities[: len(self._labels)])
        most = totals.max()
        best = next(group for group in self._group_of[ranking] if totals[group] >= most)
        return GroupScore(self._groups[best], float(totals[best]))
