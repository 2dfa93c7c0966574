"""What answers for a model's images: a zero-shot classifier of some labels, or weights that were learned."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.answer import Answer, Scores
from clipcls.errors import UsageError
from clipcls.labels import SYNONYM, Label, is_chinese
from clipcls.pipeline import Embedded, Embedder
from clipcls.prompts import Wording
from clipcls.records import EncoderInfo, Failure, ImageRef, Record, Synonyms, TokenCount
from clipcls.sources import ImageSource

logger = logging.getLogger("clipcls")

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Vectors = npt.NDArray[np.float32]

NEUTRAL = {"en": "a photo", "zh": "一张照片"}
"""Prompts that name nothing, by language."""


class Head(ABC):
    """Labels, and how an image's embedding is scored against them.

    Args:
        embedder: the model.
        labels: those that can be the answer.
        multi_label: whether an image may have several, or none.
    """

    wordings: tuple[Wording, ...] = ()
    """Every name of every label, in order, with its templates; after the labels those of the background."""
    synonyms: Synonyms = "mean"
    background: tuple[Label, ...] = ()
    """Labels that compete and are never the answer."""
    temperature = 1.0
    """What the logits are divided by."""
    file_digest = ""
    """Of the file that the weights came from, as SHA-256."""

    def __init__(self, embedder: Embedder, labels: tuple[Label, ...], *, multi_label: bool = False) -> None:
        self._embedder, self.labels, self.multi_label = embedder, labels, multi_label

    @property
    def info(self) -> EncoderInfo:
        """Of the model."""
        return self._embedder.info

    @property
    def digest(self) -> str:
        """What, besides the model, decides the scores, as a SHA-256."""
        return self.file_digest

    def detached(self) -> Self:
        """A copy without the model, which scores in other processes."""
        alone = copy.copy(self)
        alone._embedder = cast(Embedder, _Described(self.info))
        return alone

    @abstractmethod
    def scores(self, images: Vectors) -> Scores:
        """Every label's scores for some image embeddings.

        Args:
            images: float32 [n, D], unit rows.
        """

    def classify(
        self,
        images: Paths | Iterable[ImageRef],
        *,
        top_k: int = 1,
        all_scores: bool = False,
        threshold: float | None = None,
        margin: float = 0.0,
        groups: bool = False,
    ) -> Iterator[Record]:
        """Rank the labels for every image, in input order; images are read as the records are asked for.

        Args:
            images: files, folders and globs, or an ``ImageSource`` or other iterable of ``ImageRef``.
            top_k: how many labels to rank; all of them if there are fewer.
            all_scores: whether each prediction also carries every label's score.
            threshold: least probability of an answer, 0 to 1; below it the prediction is uncertain. None means 0, or
                for a multi-label classifier 0.5 with a sigmoid model and 0.9 with a softmax model.
            margin: least lead in probability of the best label over the next, or over the best of the background.
            groups: whether each prediction carries its best group; a label without one is a group of its own.

        Returns:
            One after the other a Prediction, or for an image that cannot be read a Failure with the reason.

        Raises:
            UsageError: a number is out of range, a margin was asked of a multi-label classifier, or groups of labels
                without any.
            InputError: a path does not exist.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing, or its memory too small for one image.
        """
        answer = self.answer(top_k=top_k, all_scores=all_scores, threshold=threshold, margin=margin, groups=groups)
        return self._records(images, answer)

    def answer(
        self,
        *,
        top_k: int = 1,
        all_scores: bool = False,
        threshold: float | None = None,
        margin: float = 0.0,
        groups: bool = False,
    ) -> Answer:
        """The rule by which ``classify`` answers, whose arguments and errors these are."""
        if top_k < 1:
            raise UsageError("top-k must be 1 or more")
        if groups and not any(label.group for label in self.labels):
            raise UsageError("no label has a group: write groups into a file of labels, one a label")
        return Answer(
            self.labels,
            self._embedder.info.activation,
            multi_label=self.multi_label,
            threshold=threshold,
            margin=margin,
            groups=groups,
            top_k=top_k,
            all_scores=all_scores,
        )

    def _records(self, images: Paths | Iterable[ImageRef], answer: Answer) -> Iterator[Record]:
        for block in self._embedder.images(image_refs(images)):
            yield from self.records(block, answer)

    def records(self, block: Sequence[Embedded | Failure], answer: Answer) -> Iterator[Record]:
        """The records of images that are embedded already, in order; a failure stays one."""
        embedded = [image for image in block if isinstance(image, Embedded)]
        if not embedded:
            yield from (image for image in block if isinstance(image, Failure))
            return
        predictions = answer.all(embedded, self.scores(np.stack([image.vector for image in embedded])))
        for image in block:
            yield image if isinstance(image, Failure) else next(predictions)


@dataclass(frozen=True, slots=True)
class _Described:
    """In the place of a model, for a head that has all that it needs of it."""

    info: EncoderInfo


class ZeroShotClassifier(Head):
    """Labels in a model's embedding space. Made by ``Classifier.zero_shot``."""

    def __init__(
        self,
        embedder: Embedder,
        labels: tuple[Label, ...],
        named: tuple[Wording, ...],
        synonyms: Synonyms,
        *,
        multi_label: bool,
    ) -> None:
        super().__init__(embedder, labels, multi_label=multi_label)
        self.wordings, self.synonyms = named, synonyms
        every = [wording.label for wording in named]
        order = list(dict.fromkeys(every))
        self.background = tuple(order[len(labels) :])
        place = {label: at for at, label in enumerate(order)}
        self._label_of = [place[label] for label in every]
        """Each name's label."""
        prompts = [prompt for wording in named for prompt in wording.prompts]
        vectors, tokens = embedder.texts(prompts)
        ends = np.cumsum([len(wording.templates) for wording in named])
        self.weights: Vectors = zeroshot.class_weights(np.split(vectors, ends[:-1]))
        """Class weights, of the background last: float32 [L, D], unit rows; with synonyms by ``max`` one row a name."""
        warn_of_cut(prompts, tokens)
        self._warn_of_labels()
        self._by_name = synonyms == "max" and len(named) > len(order)
        if len(named) > len(order) and not self._by_name:
            self.weights = zeroshot.merged(self.weights, self._label_of)
        self._neutral = self._neutral_weights() if multi_label and embedder.info.activation == "softmax" else None

    def scores(self, images: Vectors) -> Scores:
        """See ``Head.scores``."""
        info = self._embedder.info
        cosines = zeroshot.cosines(images, self.weights)
        if self._by_name:
            cosines = zeroshot.best_of_names(cosines, self._label_of)
        if self._neutral is not None:
            neutral = zeroshot.cosines(images, self._neutral)
            alone = zeroshot.against_neutral(cosines, neutral, info.logit_scale)
            return Scores(cosines, alone, cosines - neutral)
        scale, bias = info.logit_scale / self.temperature, (info.logit_bias or 0.0) / self.temperature
        every = zeroshot.probabilities(cosines, scale, bias, info.activation)
        return Scores(cosines, every, cosines)

    @property
    def digest(self) -> str:
        """What, besides the model, decides the scores: labels, prompts, synonyms and background, as a SHA-256."""
        behind = set(self.background)
        names = sorted(
            (wording.label in behind, wording.label.name, wording.name, wording.prompts) for wording in self.wordings
        )
        facts = [names, self.synonyms if len(names) > len(self.labels) + len(behind) else "mean"]
        return hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode()).hexdigest()

    def calibrate(self, file: str | os.PathLike[str]) -> None:
        """Use the temperature in a file that ``clipcls eval --calibrate`` wrote.

        Raises:
            UsageError: it cannot be read, is for another model, other labels or prompts, or of no use here.
        """
        from clipcls.calibration import read_calibration

        if self._neutral is not None:
            raise UsageError("--calibration is for labels that compete: of this model it does not fit --multi-label")
        found = read_calibration(Path(file))
        found.refuse_others(file, self._embedder.info, self.digest, tuple(label.name for label in self.labels))
        self.temperature = found.temperature

    def _neutral_weights(self) -> Vectors:
        """For every label the embedding of a prompt in its language that names nothing: float32 [L, D], unit rows."""
        first = {wording.label: wording.prompts[0] for wording in reversed(self.wordings)}
        return self._embedder.texts([NEUTRAL["zh" if is_chinese(first[label]) else "en"] for label in self.labels])[0]

    def _warn_of_labels(self) -> None:
        """One label alone wins whatever it is, and of labels that are read alike any may."""
        info = self._embedder.info
        if len(self.labels) + len(self.background) == 1 and info.activation == "softmax" and not self.multi_label:
            logger.warning(
                "with one label the probability is always 1: look at the cosine, or add what else the pictures may show"
            )
        for rows in zeroshot.alike(self.weights):
            names = [called(self.wordings[row]) for row in rows]
            if len({self._label_of[row] for row in rows}) > 1:
                logger.warning(
                    "%s reads %s alike and cannot tell them apart: reword all but one",
                    info.spec, " and ".join(map(repr, names[:3])) + (" and more" if len(names) > 3 else ""),
                )  # fmt: skip


def called(wording: Wording) -> str:
    """What one name of a label goes by where no two may be equal: its column, a synonym as ``COLUMN|SYNONYM``."""
    column = wording.label.column
    return column if wording.name == wording.label.name else f"{column}{SYNONYM}{wording.name}"


def warn_of_cut(prompts: Sequence[str], tokens: Sequence[TokenCount]) -> None:
    """Tell which prompts do not fit into the text tower's context."""
    cut = [prompt for prompt, count in zip(prompts, tokens, strict=True) if count.cut]
    if cut:
        longest = max(count.tokens for count in tokens)
        logger.warning(
            "%d of %d prompts are longer than the model's %d tokens, and their ends are not read; one begins %s",
            len(cut), len(prompts), longest, repr(cut[0][:40]),
        )  # fmt: skip


def image_refs(images: Paths | Iterable[ImageRef]) -> Iterable[ImageRef]:
    """Paths through an ImageSource, image references as they are."""
    items = iter([images] if isinstance(images, (str, os.PathLike)) else images)
    first = next(items, None)
    if first is None:
        return ()
    if isinstance(first, ImageRef):
        return itertools.chain([first], cast(Iterator[ImageRef], items))
    return ImageSource([first, *cast(Iterator[str], items)])
