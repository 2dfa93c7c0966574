"""Choosing templates on labelled images, and an honest figure of what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipcls.classifier import Classifier
from clipcls.errors import UsageError
from clipcls.labelled import LabelledImages
from clipcls.measures import Bools, Difference, Figures, paired_difference, stratified
from clipcls.promptfiles import chosen
from clipcls.prompts import PromptSet
from clipcls.trials import Ints, Trial, predictions

PLAIN = {"zh": "zh-plain", "other": "plain"}
"""The sets, by a label's script, that every choice has to beat."""

_PATIENCE = 10
"""Templates that may be added without gain before the search ends."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The templates that all images chose, and what choosing in this way is worth on images that had no part in it."""

    templates: tuple[str, ...]
    """In the order in which they were chosen."""
    chosen: Figures
    """Of nested cross-validation: each image judged by templates that were chosen without it."""
    whole: Figures
    """Of all templates together."""
    plain: Figures
    """Of the plain set."""
    over_whole: Difference
    over_plain: Difference
    sizes: tuple[int, ...]
    """How many templates each outer fold chose."""

    @property
    def verdict(self) -> str:
        """What to make of it, in one sentence."""
        if not self.over_plain.top1.low > 0:
            return "no better than the plain prompts (zh-plain or plain) beyond noise: keep those, or label more images"
        if not self.over_whole.top1.low > 0:
            return "better than the plain prompts; choosing gains nothing over all templates together beyond noise"
        return "choosing pays: better than the plain prompts, and than all templates together, beyond noise"


def tune(classifier: Classifier, images: LabelledImages, prompts: PromptSet, *, folds: int = 5, seed: int = 0) -> Tuned:
    """Greedy forward selection of templates by top-1, its figures by nested cross-validation.

    In each outer fold the other images choose: an inner cross-validation among them finds how many templates pay
    (Varma and Simon 2006, "Bias in error estimation when using cross-validation for model selection"), and greedy
    selection takes as many. The outer fold's images, which had no part in that, are then judged.

    Args:
        classifier: the model.
        images: what is chosen on, and measured on.
        prompts: the templates to choose among.
        folds: outer and inner folds, 2 or more; each holds its share of every class.
        seed: of the folds.

    Raises:
        UsageError: there are fewer than two templates, or fewer images than folds.
    """
    if len(prompts.templates) < 2:
        raise UsageError(f"{prompts.name} has {len(prompts.templates)} templates for any label; choosing needs two")
    if len(images.truth) < folds * folds:
        raise UsageError(f"{len(images.truth)} images are too few for {folds} folds within {folds}; label more")
    trial = Trial(classifier, images, prompts)
    everything = np.arange(len(images.truth))
    nested = np.zeros(len(images.truth), bool)
    sizes = []
    for fold in stratified(everything, images.truth, folds, seed):
        picked = _choose(trial, np.setdiff1d(everything, fold), images.truth, folds, seed)
        nested[fold] = trial.correct(picked)[fold]
        sizes.append(len(picked))
    picked = _choose(trial, everything, images.truth, folds, seed)
    whole = trial.correct(range(len(trial)))
    plain = _plain(classifier, images)
    return Tuned(
        tuple(prompts.templates[at] for at in picked),
        chosen=Figures.of(nested, images.truth),
        whole=Figures.of(whole, images.truth),
        plain=Figures.of(plain, images.truth),
        over_whole=paired_difference(nested, whole, images.truth),
        over_plain=paired_difference(nested, plain, images.truth),
        sizes=tuple(sizes),
    )


def tuned_set(result: Tuned, pool: PromptSet, name: str, images: str) -> tuple[PromptSet, str]:
    """The chosen templates as a set, and a comment for its file that says how they were chosen and what they are worth.

    Args:
        result: what ``tune`` found.
        pool: what it chose among.
        name: the set's.
        images: what it chose on, in words.
    """
    chosen_set = PromptSet(
        name,
        result.templates,
        pool.language,
        f"Chosen from {pool.name} for one collection of images.",
        f"clipcls prompts tune, from {pool.name}" + (f" ({pool.source})" if pool.source else ""),
        pool.labels,
    )
    lines = [
        f"{len(result.templates)} of the {len(pool.templates)} templates of {pool.name}, chosen on {images}.",
        "Figures of nested cross-validation: each image was judged by templates that were chosen without it.",
    ]
    for what, figures, over in (
        ("chosen in this way", result.chosen, None),
        ("all templates", result.whole, result.over_whole),
        ("plain prompts", result.plain, result.over_plain),
    ):
        line = f"{what}: top-1 {figures.top1:.4f}, mean per-class recall {figures.recall:.4f}"
        if over:
            line += f"; the choice over it {over.top1.value:+.4f} (95%: {over.top1.low:+.4f} to {over.top1.high:+.4f})"
        lines.append(line)
    return chosen_set, "\n".join([*lines, result.verdict])


def _choose(trial: Trial, rows: Ints, truth: Ints, folds: int, seed: int) -> list[int]:
    """The templates that these images choose."""
    right: list[npt.NDArray[np.int64]] = []
    for fold in stratified(rows, truth, folds, seed):
        path = _greedy(trial, np.setdiff1d(rows, fold))
        right.append(np.array([trial.correct(path[: at + 1])[fold].sum() for at in range(len(path))]))
    shortest = min(map(len, right))
    by_size = sum(counts[:shortest] for counts in right)
    # Of equally good sizes the largest: nothing speaks against its templates, and many average out their quirks.
    size = shortest - int(np.argmax(np.asarray(by_size)[::-1]))
    return _greedy(trial, rows)[:size]


def _greedy(trial: Trial, rows: Ints) -> list[int]:
    """Templates in the order in which each adds most to the top-1 of these images; ties go by the set's order."""
    path: list[int] = []
    scores: list[float] = []
    while len(path) < len(trial) and len(path) - _last_gain(scores) <= _PATIENCE:
        left = [at for at in range(len(trial)) if at not in path]
        reached = [float(trial.correct([*path, at])[rows].mean()) for at in left]
        path.append(left[int(np.argmax(reached))])
        scores.append(max(reached))
    return path


def _last_gain(scores: Sequence[float]) -> int:
    """After how many templates the best score was first reached."""
    return scores.index(max(scores)) + 1 if scores else 0


def _plain(classifier: Classifier, images: LabelledImages) -> Bools:
    names = chosen(None, zh=PLAIN["zh"], other=PLAIN["other"])
    return np.equal(predictions(classifier.zero_shot(images.labels, names), images.vectors), images.truth)
