"""Figures: top-1 in both languages, bare and in a sentence; intervals; calibration."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lexicon import Name

from prompts import MEASURED

Floats = npt.NDArray[np.float32]
KINDS = ("en bare", "en templated", "zh bare", "zh templated")
SETS = (3, 10, 100)
"""Numbers of labels that probabilities are calibrated for."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Cosines of pictures with labels."""

    cosines: dict[str, Floats]
    """For each of ``KINDS``: float32 [pictures, labels]."""
    truth: npt.NDArray[np.int64]
    """int64 [pictures]."""

    @classmethod
    def of(
        cls, images: Floats, texts: Callable[[Sequence[str]], Floats], names: Sequence[Name], truth: Sequence[int]
    ) -> Answers:
        """Compare pictures' vectors, float32 [pictures, D], with those of every label's prompts."""
        cosines = {}
        for language, templates in MEASURED.items():
            words = [name.of(language)[0] for name in names]
            for kind, used in (("bare", ("{}",)), ("templated", templates)):
                vectors = texts([template.replace("{}", word) for word in words for template in used])
                heads = vectors.reshape(len(words), len(used), -1).mean(1)
                heads /= np.linalg.norm(heads, axis=1, keepdims=True)
                cosines[f"{language} {kind}"] = images @ heads.T
        return cls(cosines, np.asarray(truth))

    def right(self, kind: str) -> npt.NDArray[np.bool_]:
        """Whether the best label is the true one: bool [pictures]."""
        return self.cosines[kind].argmax(1) == self.truth

    def accuracies(self) -> dict[str, float]:
        """Top-1 in per cent for each kind."""
        return {kind: round(100 * float(self.right(kind).mean()), 2) for kind in KINDS}

    def interval(self, language: str) -> tuple[float, float, float]:
        """Top-1 in per cent, mean of bare and templated, with its 95% bootstrap interval over pictures."""
        right = (self.right(f"{language} bare") * 0.5 + self.right(f"{language} templated") * 0.5) * 100
        dice = np.random.default_rng(0)
        means = right[dice.integers(0, len(right), (2000, len(right)))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        return float(right.mean()), float(low), float(high)


def drawn_sets(answers: Answers, kind: str, count: int) -> Floats:
    """Cosines with the true label (first) and ``count - 1`` other ones drawn for each picture: [pictures, count]."""
    chance = random.Random(0)
    cosines = answers.cosines[kind]
    others = range(cosines.shape[1])
    columns = [
        [true, *chance.sample([label for label in others if label != true], min(count, len(others)) - 1)]
        for true in answers.truth.tolist()
    ]
    return np.take_along_axis(cosines, np.array(columns), axis=1)


def fit_scale(answers: Sequence[Answers]) -> tuple[float, dict[str, float]]:
    """The logit scale of the lowest negative log-likelihood over sets of 3, 10 and 100 labels, each counting alike.

    Returns:
        The scale, and the mean negative log-likelihood (in nats) at some scales.
    """
    sets = [drawn_sets(each, kind, count) for each in answers for kind in KINDS for count in SETS]
    losses = {float(scale): float(np.mean([_loss(each, scale) for each in sets])) for scale in range(4, 41)}
    best = min(losses, key=losses.__getitem__)
    return best, {f"{scale:g}": round(losses[scale], 4) for scale in losses if scale % 4 == 0 or scale == best}


def _loss(cosines: Floats, scale: float) -> float:
    logits = scale * cosines.astype(np.float64)
    return float((np.logaddexp.reduce(logits, axis=1) - logits[:, 0]).mean())


def calibration_error(cosines: Floats, scale: float) -> float:
    """Expected calibration error (Guo et al. 2017) in per cent, 15 bins, of sets whose first label is the true one."""
    bins = 15
    logits = scale * cosines.astype(np.float64)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    sure, right = probabilities.max(1), probabilities.argmax(1) == 0
    bin_of = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(sure[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).mean() for b in set(bin_of)]
    return 100 * float(sum(gaps))
