"""The public API: load a model, make a zero-shot classifier of some labels, run it over images."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self, cast, get_args

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.answer import Answer, Scores
from clipcls.errors import InputError, UsageError
from clipcls.labelled import LabelledFolder, LabelledImages, Watch
from clipcls.labels import SYNONYM, Label, composed, is_chinese, label_set, split_labels
from clipcls.languages import complaints
from clipcls.pipeline import Embedded, Embedder
from clipcls.promptfiles import Choice, chosen
from clipcls.prompts import PromptSet, Wording, wordings
from clipcls.records import EncoderInfo, Failure, ImageRef, Record, Synonyms, TokenCount
from clipcls.settings import Settings
from clipcls.sources import ImageSource
from clipcls.store import Store
from clipcls.store.absent import NoStore

logger = logging.getLogger("clipcls")

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Vectors = npt.NDArray[np.float32]

NEUTRAL = {"en": "a photo", "zh": "一张照片"}
"""Prompts that name nothing, by language."""


class Classifier:
    """A model, ready to embed images and texts and to be given labels. Use ``Classifier.load``.

    A context manager; leaving it, or ``close``, lets go of the model and the store.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @classmethod
    def load(
        cls,
        model: str = "starter",
        *,
        device: str = "auto",
        precision: str = "auto",
        cache: bool | str | os.PathLike[str] = True,
        batch_size: int | None = None,
        workers: int | None = None,
        trace: bool | None = None,
    ) -> Self:
        """A classifier for a model. The weights are read when the first embedding is missing from the cache.

        Args:
            model: a name (``clipcls models list``, or of an imported model), open_clip's ``ARCH/TAG``,
                ``hf-hub:org/repo``, ``hf:org/repo`` for transformers, or a folder.
            device: auto, cpu, cuda, cuda:N or mps.
            precision: what the towers compute in: fp32, bf16, fp16 (on a graphics card) or int8 (on the CPU); auto is
                fp32 on the CPU and bf16, or on older cards fp16, with CUDA.
            cache: whether to keep embeddings in the user's cache folder; or the folder to keep them in.
            batch_size: images in one pass of the image tower; by default what suits the device.
            workers: threads that read and decode images.
            trace: whether a model is traced when it is first used on the CPU, which takes some seconds, so that from
                then on ONNX Runtime answers and torch is not imported; None asks the settings. What is traced is kept
                in the cache folder, also where no embeddings are.

        Raises:
            UsageError: the device or the precision is none of the known ones.
            ModelError: the name fits no model.
            StoreError: the cache folder cannot be used.
        """
        # Refuses what makes no sense.
        Settings(model, device, precision, batch_size=batch_size or 0, workers=workers or 0)
        folder = {} if isinstance(cache, bool) else {"cache_dir": os.fspath(cache)}
        settings = Settings.load(folder | ({} if trace is None else {"trace": trace}))
        store = NoStore() if cache is False else Store.open(settings.cache_folder)
        return cls(Embedder(model, device, store, batch_size, workers, precision, settings.traced_folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model and the store."""
        self._embedder.close()

    @property
    def is_starter(self) -> bool:
        """Whether this is the model that comes with clipcls, by whichever name."""
        return self._embedder.spec.is_starter

    @property
    def info(self) -> EncoderInfo:
        """Fingerprint, dimension, logit scale and so on of the model.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        return self._embedder.info

    def zero_shot(
        self,
        labels: str | Iterable[str | Label],
        prompts: str | Sequence[str] | PromptSet | Choice | None = None,
        *,
        synonyms: Synonyms = "mean",
        background: str | Iterable[str | Label] = (),
        multi_label: bool = False,
        strict_language: bool = False,
    ) -> ZeroShotClassifier:
        """A zero-shot classifier for some labels.

        Args:
            labels: names, ``|`` between the synonyms of one, or ``Label`` objects; one string is split at its commas.
                Duplicates are dropped.
            prompts: a prompt set, its name, a file, a template, or several of the latter (their union); or a function
                that gives each name's set. None lets the script of each name choose between the sets ``zh`` and
                ``en``.
            synonyms: a label with several names has the normalised mean of their class weights (``mean``), or each
                image's best score among them (``max``).
            background: labels that compete with the others and are never the answer.
            multi_label: whether an image may have several labels, or none: each is then scored on its own. A sigmoid
                model is made for that; of a softmax model a label's probability is its softmax against the neutral
                prompt "a photo" or "一张照片", which is a rule of thumb and not calibrated.
            strict_language: whether labels or prompts in a language that the model does not know, or prompts in
                another language than the labels, are an error and not only logged.

        Raises:
            UsageError: there is no label, a prompt set or template is not usable, ``synonyms`` is neither word, a
                background was given to a multi-label classifier, in which labels do not compete, or a language is
                wrong and that was to be an error.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        if synonyms not in get_args(Synonyms):
            raise UsageError(f"unknown way with synonyms {synonyms!r}: use {' or '.join(get_args(Synonyms))}")
        kept = label_set(labels)
        given = split_labels(background) if isinstance(background, str) else list(background)
        given = [label for label in given if not isinstance(label, str) or label.strip()]
        behind = label_set(given) if given else ()
        if behind and multi_label:
            raise UsageError("with --multi-label the labels do not compete, so --background has nothing to do")
        _check_apart(kept, behind)
        named = wordings([*kept, *behind], chosen(prompts))
        for complaint in complaints(named, self.info, asked=prompts is not None):
            if strict_language:
                raise UsageError(complaint)
            logger.warning("%s", complaint)
        return ZeroShotClassifier(self._embedder, kept, named, synonyms, multi_label=multi_label)

    def count_tokens(self, prompts: Sequence[str]) -> list[TokenCount]:
        """How much of the text tower's context each prompt takes, and whether its end is cut off.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        return self._embedder.count_tokens(prompts)

    def embed_images(self, paths: Paths) -> Vectors:
        """Embeddings of image files and folders, in order.

        Returns:
            float32 [n, D], unit rows.

        Raises:
            InputError: a path does not exist, or an image cannot be read; the message names it.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        vectors = []
        for image in self.embedded(paths):
            if isinstance(image, Failure):
                raise InputError(f"{image.path}: {image.error}")
            vectors.append(image.vector)
        return np.stack(vectors) if vectors else np.empty((0, self.info.dim), np.float32)

    def embedded(self, images: Paths | Iterable[ImageRef]) -> Iterator[Embedded | Failure]:
        """Images with their embeddings, in order, read as they are asked for; one that cannot be read is a Failure.

        Raises:
            InputError: a path does not exist.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing, or its memory too small for one image.
        """
        for block in self._embedder.images(_image_refs(images)):
            yield from block

    def labelled(self, folder: LabelledFolder, watch: Watch = lambda images: images) -> LabelledImages:
        """Embeddings of images whose labels are known; ``watch`` sees each image as it comes, and hands it on.

        Raises:
            InputError: none of the images can be read, or only one label has any.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        return folder.embed(self._embedder, watch)

    def embed_texts(self, texts: str | Sequence[str]) -> Vectors:
        """Embeddings of texts as they are, without a template.

        Returns:
            float32 [n, D], unit rows.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        return self._embedder.texts(listed)[0] if listed else np.empty((0, self.info.dim), np.float32)


class ZeroShotClassifier:
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
        self._embedder = embedder
        self.labels = labels
        """The labels that can be the answer."""
        self.wordings = named
        """Every name of every label, in order, with its templates; after the labels those of the background."""
        self.synonyms: Synonyms = synonyms
        self.multi_label = multi_label
        every = [wording.label for wording in named]
        order = list(dict.fromkeys(every))
        self.background = tuple(order[len(labels) :])
        """Labels that compete and are never the answer."""
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
        for block in self._embedder.images(_image_refs(images)):
            yield from self._score(block, answer)

    def scores(self, images: Vectors) -> Scores:
        """Every label's scores for some image embeddings.

        Args:
            images: float32 [n, D], unit rows.
        """
        info = self._embedder.info
        cosines = zeroshot.cosines(images, self.weights)
        if self._by_name:
            cosines = zeroshot.best_of_names(cosines, self._label_of)
        if self._neutral is not None:
            neutral = zeroshot.cosines(images, self._neutral)
            alone = zeroshot.against_neutral(cosines, neutral, info.logit_scale)
            return Scores(cosines, alone, cosines - neutral)
        every = zeroshot.probabilities(cosines, info.logit_scale, info.logit_bias, info.activation)
        return Scores(cosines, every, cosines)

    def _score(self, block: Sequence[Embedded | Failure], answer: Answer) -> Iterator[Record]:
        embedded = [image for image in block if isinstance(image, Embedded)]
        if not embedded:
            yield from (image for image in block if isinstance(image, Failure))
            return
        predictions = answer.all(embedded, self.scores(np.stack([image.vector for image in embedded])))
        for image in block:
            yield image if isinstance(image, Failure) else next(predictions)

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


def _check_apart(labels: Sequence[Label], background: Sequence[Label]) -> None:
    names = {composed(name) for label in labels for name in (*label.names, label.column)}
    for label in background:
        for name in (*label.names, label.column):
            if composed(name) in names:
                raise UsageError(f"{name!r} is both a label and background; it can only be one of them")


def _image_refs(images: Paths | Iterable[ImageRef]) -> Iterable[ImageRef]:
    """Paths through an ImageSource, image references as they are."""
    items = iter([images] if isinstance(images, (str, os.PathLike)) else images)
    first = next(items, None)
    if first is None:
        return ()
    if isinstance(first, ImageRef):
        return itertools.chain([first], cast(Iterator[ImageRef], items))
    return ImageSource([first, *cast(Iterator[str], items)])
