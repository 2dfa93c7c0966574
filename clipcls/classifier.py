"""The public API: load a model, make a zero-shot classifier of some labels, run it over images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

import numpy as np

from clipcls.errors import InputError, UsageError
from clipcls.heads import Paths, Vectors, ZeroShotClassifier, image_refs, warn_of_cut
from clipcls.labelled import Labelled, LabelledImages, Watch
from clipcls.labels import Label, composed, label_set, split_labels
from clipcls.languages import complaints
from clipcls.pipeline import Embedded, Embedder
from clipcls.promptfiles import Choice, chosen
from clipcls.prompts import PromptSet, wordings
from clipcls.records import EncoderInfo, Failure, ImageRef, Synonyms, TokenCount
from clipcls.settings import Settings
from clipcls.store import Store
from clipcls.store.absent import NoStore

if TYPE_CHECKING:
    from clipcls.probe import LinearClassifier

logger = logging.getLogger("clipcls")


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
        max_pixels: int | None = None,
        time_limit: int | None = None,
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
            max_pixels: of one picture; more is not decoded. None asks the settings, where 100 million is the default.
            time_limit: seconds to wait for one picture to be decoded; None asks the settings, 60 by default.

        Raises:
            UsageError: the device or the precision is none of the known ones.
            ModelError: the name fits no model.
            StoreError: the cache folder cannot be used.
        """
        # Refuses what makes no sense.
        Settings(model, device, precision, batch_size=batch_size or 0, workers=workers or 0)
        folder = {} if isinstance(cache, bool) else {"cache_dir": os.fspath(cache)}
        settings = Settings.load(folder | {"trace": trace, "max_pixels": max_pixels, "time_limit": time_limit})
        store = NoStore() if cache is False else Store.open(settings.cache_folder)
        return cls(
            Embedder(model, device, store, batch_size, workers, precision, settings.traced_folder, settings.limits)
        )

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
    def embedder(self) -> Embedder:
        """The model and its store, for what embeds in its own way."""
        return self._embedder

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
        calibration: str | os.PathLike[str] | None = None,
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
            calibration: a file of ``clipcls eval --calibrate`` for the same model, labels and prompts, whose
                temperature the probabilities then have.

        Raises:
            UsageError: there is no label, a prompt set or template is not usable, ``synonyms`` is neither word, a
                background was given to a multi-label classifier, in which labels do not compete, a language is
                wrong and that was to be an error, or the calibration is for something else.
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
        head = ZeroShotClassifier(self._embedder, kept, named, synonyms, multi_label=multi_label)
        if calibration is not None:
            head.calibrate(calibration)
        return head

    def linear(self, file: str | os.PathLike[str]) -> LinearClassifier:
        """A classifier whose weights ``clipcls eval --save-probe`` learned from labelled images of this model.

        Raises:
            UsageError: the file cannot be read, is no head, or is for another model.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        from clipcls.probe import LinearClassifier

        return LinearClassifier(self._embedder, Path(file))

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
        for block in self._embedder.images(image_refs(images)):
            yield from block

    @property
    def store(self) -> Store | NoStore:
        """Where embeddings are kept, of this model and of others."""
        return self._embedder.store

    def labelled(self, images: Labelled, watch: Watch = lambda images: images) -> LabelledImages:
        """Embeddings of images whose labels are known; ``watch`` sees each image as it comes, and hands it on.

        Raises:
            InputError: none of the images can be read, or only one label has any.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        return images.embed(self._embedder, watch)

    def embed_texts(self, texts: str | Sequence[str]) -> Vectors:
        """Embeddings of texts as they are, without a template; those that are too long for the model are logged.

        Returns:
            float32 [n, D], unit rows.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        if not listed:
            return np.empty((0, self.info.dim), np.float32)
        vectors, tokens = self._embedder.texts(listed)
        warn_of_cut(listed, tokens)
        return vectors


def _check_apart(labels: Sequence[Label], background: Sequence[Label]) -> None:
    names = {composed(name) for label in labels for name in (*label.names, label.column)}
    for label in background:
        for name in (*label.names, label.column):
            if composed(name) in names:
                raise UsageError(f"{name!r} is both a label and background; it can only be one of them")
