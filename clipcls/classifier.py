"""The public API: load a model, make a zero-shot classifier of some labels, run it over images."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.errors import InputError, UsageError
from clipcls.labels import Label, is_chinese, label_set
from clipcls.pipeline import Embedded, Embedder
from clipcls.prompts import expand, load_prompts, templates_for
from clipcls.records import EncoderInfo, Failure, ImageRef, Prediction, Record, Score, TokenCount
from clipcls.settings import Settings
from clipcls.sources import ImageSource
from clipcls.store import Store
from clipcls.store.absent import NoStore

logger = logging.getLogger("clipcls")

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Vectors = npt.NDArray[np.float32]


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
        cache: bool | str | os.PathLike[str] = True,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Self:
        """A classifier for a model. The weights are read when the first embedding is missing from the cache.

        Args:
            model: ``starter``, open_clip's ``ARCH/TAG``, ``hf-hub:org/repo``, ``local-dir:FOLDER`` or a folder.
            device: auto, cpu, cuda, cuda:N or mps.
            cache: whether to keep embeddings in the user's cache folder; or the folder to keep them in.
            batch_size: images in one pass of the image tower; by default what suits the device.
            workers: threads that read and decode images.

        Raises:
            UsageError: the device is none of the known ones.
            ModelError: the name fits no model.
            StoreError: the cache folder cannot be used.
        """
        settings = Settings(model=model, device=device, batch_size=batch_size or 0, workers=workers or 0)
        store: Store | NoStore = NoStore()
        if cache is True:
            store = Store.open(Settings.load().cache_folder)
        elif cache is not False:
            store = Store.open(Path(cache))
        return cls(Embedder(settings.model, settings.device, store, settings.batch_size, settings.workers))

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
        self, labels: str | Iterable[str | Label], prompts: str | Sequence[str] | None = None
    ) -> ZeroShotClassifier:
        """A zero-shot classifier for some labels.

        Args:
            labels: names, or ``Label`` objects where two share a name; one string is split at its commas. Duplicates
                are dropped.
            prompts: a prompt set's name, a file, a template, or several of them (their union); None lets the script
                of each label choose between the sets ``zh`` and ``en``.

        Raises:
            UsageError: there is no label, or a prompt set or template is not usable.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        kept = label_set(labels)
        templates = templates_for(kept, load_prompts(prompts) if prompts else None)
        return ZeroShotClassifier(self._embedder, kept, templates)

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
        for block in self._embedder.images(_image_refs(paths)):
            for image in block:
                if isinstance(image, Failure):
                    raise InputError(f"{image.path}: {image.error}")
                vectors.append(image.vector)
        return np.stack(vectors) if vectors else np.empty((0, self.info.dim), np.float32)

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

    def __init__(self, embedder: Embedder, labels: tuple[Label, ...], templates: Sequence[tuple[str, ...]]) -> None:
        self._embedder = embedder
        self.labels = labels
        """The labels in the order of ``weights``."""
        self.templates = tuple(templates)
        """Each label's prompt templates."""
        prompts = [
            expand(template, label.name) for label, own in zip(labels, templates, strict=True) for template in own
        ]
        vectors, tokens = embedder.texts(prompts)
        ends = np.cumsum([len(own) for own in templates])
        self.weights: Vectors = zeroshot.class_weights(np.split(vectors, ends[:-1]))
        """Class weights: float32 [L, D], unit rows."""
        self._warn_of_cut(prompts, tokens)
        self._warn_of_labels()

    def classify(
        self, images: Paths | Iterable[ImageRef], *, top_k: int = 1, all_scores: bool = False
    ) -> Iterator[Record]:
        """Rank the labels for every image, in input order; images are read as the records are asked for.

        Args:
            images: files, folders and globs, or an ``ImageSource`` or other iterable of ``ImageRef``.
            top_k: how many labels to rank; all of them if there are fewer.
            all_scores: whether each prediction also carries every label's score.

        Yields:
            A Prediction, or for an image that cannot be read a Failure with the reason.

        Raises:
            UsageError: top_k is less than 1.
            InputError: a path does not exist.
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing, or its memory too small for one image.
        """
        if top_k < 1:
            raise UsageError("top-k must be 1 or more")
        for block in self._embedder.images(_image_refs(images)):
            yield from self._score(block, top_k, all_scores)

    def _score(self, block: Sequence[Embedded | Failure], k: int, all_scores: bool) -> Iterator[Record]:
        embedded = [image for image in block if isinstance(image, Embedded)]
        if not embedded:
            yield from (image for image in block if isinstance(image, Failure))
            return
        info = self._embedder.info
        cosines = zeroshot.cosines(np.stack([image.vector for image in embedded]), self.weights)
        probabilities = zeroshot.probabilities(cosines, info.logit_scale, info.logit_bias, info.activation)
        rows = zip(zeroshot.top_k(cosines, k), probabilities, cosines, strict=True)
        for image in block:
            if isinstance(image, Failure):
                yield image
                continue
            best, probability, cosine = next(rows)
            scores = [
                Score(self.labels[i].column, float(probability[i]), float(cosine[i]))
                for i in (range(len(self.labels)) if all_scores else best)
            ]
            ranked = tuple(scores[i] for i in best) if all_scores else tuple(scores)
            yield Prediction(image.path, ranked, tuple(scores) if all_scores else None, image.cached)

    def _warn_of_labels(self) -> None:
        """An English model answers Chinese labels, too, but with noise; one label alone wins whatever it is."""
        info = self._embedder.info
        if len(self.labels) == 1 and info.activation == "softmax":
            logger.warning(
                "with one label the probability is always 1: look at the cosine, or add what else the pictures may show"
            )
        chinese = [label.name for label in self.labels if is_chinese(label.name)]
        if chinese and info.languages == ("en",):
            logger.warning(
                "%s was trained on English and does not know %s: its answers will be noise; write the labels in "
                "English, or use --model starter or --model xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k",
                info.spec, "、".join(chinese[:3]) + ("…" if len(chinese) > 3 else ""),
            )  # fmt: skip

    def _warn_of_cut(self, prompts: Sequence[str], tokens: Sequence[TokenCount]) -> None:
        cut = [prompt for prompt, count in zip(prompts, tokens, strict=True) if count.cut]
        if cut:
            longest = max(count.tokens for count in tokens)
            logger.warning(
                "%d of %d prompts are longer than the model's %d tokens, and their ends are not read; one begins %s",
                len(cut), len(prompts), longest, repr(cut[0][:40]),
            )  # fmt: skip


def _image_refs(images: Paths | Iterable[ImageRef]) -> Iterable[ImageRef]:
    """Paths through an ImageSource, image references as they are."""
    items = iter([images] if isinstance(images, (str, os.PathLike)) else images)
    first = next(items, None)
    if first is None:
        return ()
    if isinstance(first, ImageRef):
        return itertools.chain([first], cast(Iterator[ImageRef], items))
    return ImageSource([first, *cast(Iterator[str], items)])
