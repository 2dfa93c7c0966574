"""Wordings tried on images whose labels are known: compared, ranked, chosen, and what they confuse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.classifier import Classifier
from clipcls.errors import UsageError
from clipcls.heads import ZeroShotClassifier
from clipcls.labelled import LabelledImages
from clipcls.measures import Bools, Difference, Figures, paired_difference
from clipcls.promptfiles import chosen, load_prompts
from clipcls.prompts import PromptSet, wordings

Ints = npt.NDArray[np.intp]

_ROWS = 4096
"""Images that are scored in one go."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One prompt set and how well it does."""

    name: str
    templates: int
    """How many; 0 where the labels' scripts chose."""
    figures: Figures
    correct: Bools
    """Which images are right: bool [n]."""
    difference: Difference | None = None
    """To the first set of the comparison."""


@dataclass(frozen=True, slots=True)
class RankedTemplate:
    """One template of a set."""

    template: str
    alone: Figures
    cost: Difference
    """The whole ensemble less the ensemble without it: what leaving it out costs."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Two labels that are taken for each other."""

    labels: tuple[str, str]
    taken: tuple[int, int]
    """Images of the first that are taken for the second, and the other way round."""
    images: tuple[int, int]
    """How many images each label has."""
    cosine: float
    """Between the two class weights, -1 to 1."""
    paths: tuple[str, ...]
    """The images."""


def predictions(head: ZeroShotClassifier, vectors: npt.NDArray[np.float32]) -> Ints:
    """The best label of every image, by its place in ``head.labels``: [n].

    Args:
        head: the labels.
        vectors: float32 [n, D], unit rows.
    """
    blocks = [zeroshot.best(head.scores(vectors[at : at + _ROWS]).order) for at in range(0, len(vectors), _ROWS)]
    return np.concatenate(blocks)


def compare(classifier: Classifier, images: LabelledImages, rivals: Sequence[str | PromptSet | None]) -> list[Tried]:
    """Each prompt set by itself, and its difference to the first.

    Args:
        classifier: the model.
        images: what the sets are tried on.
        rivals: names, files or templates; None lets the labels' scripts choose.

    Raises:
        UsageError: there is no such set.
    """
    found: list[Tried] = []
    for rival in rivals:
        prompt_set = load_prompts(rival) if isinstance(rival, str) else rival
        correct = predictions(classifier.zero_shot(images.labels, prompt_set), images.vectors) == images.truth
        found.append(
            Tried(
                prompt_set.name if prompt_set else "zh/en",
                len(prompt_set.templates) if prompt_set else 0,
                Figures.of(correct, images.truth),
                correct,
                paired_difference(correct, found[0].correct, images.truth) if found else None,
            )
        )
    return found


def rank(classifier: Classifier, images: LabelledImages, prompts: PromptSet) -> tuple[Tried, list[RankedTemplate]]:
    """The whole set, and every template of it, the best alone first.

    Raises:
        UsageError: the set has fewer than two templates.
    """
    if len(prompts.templates) < 2:
        raise UsageError(f"{prompts.name} has {len(prompts.templates)} templates for any label; ranking needs two")
    (whole,) = compare(classifier, images, [prompts])
    trial = Trial(classifier, images, prompts)
    every = range(len(trial))
    rows = []
    for at, template in enumerate(prompts.templates):
        alone, without = trial.correct((at,)), trial.correct(tuple(other for other in every if other != at))
        cost = paired_difference(whole.correct, without, images.truth)
        rows.append(RankedTemplate(template, Figures.of(alone, images.truth), cost))
    return whole, sorted(rows, key=lambda row: -row.alone.top1)


def confuse(classifier: Classifier, images: LabelledImages, prompts: str | Sequence[str] | None) -> list[Confusion]:
    """The pairs of labels that are taken for each other, the most frequent first."""
    head = classifier.zero_shot(images.labels, prompts)
    guesses = predictions(head, images.vectors)
    pairs: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for at in np.flatnonzero(guesses != images.truth):
        first, second = sorted((int(guesses[at]), int(images.truth[at])))
        pairs[first, second].append(int(at))
    sizes = np.bincount(images.truth, minlength=len(images.labels))
    cosines = zeroshot.cosines(head.weights, head.weights)
    found = []
    for (first, second), wrong in pairs.items():
        there = int((images.truth[wrong] == first).sum())
        found.append(
            Confusion(
                (images.labels[first].column, images.labels[second].column),
                (there, len(wrong) - there),
                (int(sizes[first]), int(sizes[second])),
                float(cosines[first, second]),
                tuple(images.paths[at] for at in wrong),
            )
        )
    return sorted(found, key=lambda pair: -sum(pair.taken))


class Trial:
    """Any choice among a set's templates, tried on labelled images; every choice is computed once.

    Args:
        classifier: the model.
        images: what the choices are tried on.
        prompts: the templates; what it says of single labels is always used for those.
    """

    def __init__(self, classifier: Classifier, images: LabelledImages, prompts: PromptSet) -> None:
        self._images = images
        sets = [PromptSet(prompts.name, (template,), labels=prompts.labels) for template in prompts.templates]
        named = [wordings(images.labels, chosen(each)) for each in sets]
        self._label_of = [images.labels.index(wording.label) for wording in named[0]]
        ensembles = [wording.prompts for each in named for wording in each]
        vectors = classifier.embed_texts([prompt for ensemble in ensembles for prompt in ensemble])
        weights = zeroshot.class_weights(np.split(vectors, np.cumsum([len(each) for each in ensembles])[:-1]))
        self._weights = weights.reshape(len(sets), len(self._label_of), -1)
        """Class weights of every name by each template alone: float32 [T, N, D], unit rows."""
        self._known: dict[frozenset[int], Bools] = {}

    def __len__(self) -> int:
        return len(self._weights)

    def correct(self, some: Iterable[int]) -> Bools:
        """Which images are right with these templates: bool [n]."""
        key = frozenset(some)
        if key not in self._known:
            by_name = zeroshot.class_weights(list(self._weights[sorted(key)].swapaxes(0, 1)))
            weights = zeroshot.merged(by_name, self._label_of)
            blocks = (self._images.vectors[at : at + _ROWS] for at in range(0, len(self._images.vectors), _ROWS))
            guesses = np.concatenate([zeroshot.best(zeroshot.cosines(block, weights)) for block in blocks])
            self._known[key] = guesses == self._images.truth
        return self._known[key]
