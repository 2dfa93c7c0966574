"""Images ranked for a query: sentences and pictures added up, and the nearest image vectors found exactly.

A query is one point of the space that both towers share: the normalised sum of its parts' unit vectors, each times its
weight, negative for what is not wanted. The sentence is embedded as it is: templates make a caption of a bare label
(Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4), and a
sentence is one already.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.errors import InputError, UsageError
from clipcls.labels import Label
from clipcls.languages import complaints
from clipcls.prompts import Wording
from clipcls.records import EncoderInfo, FileStamp
from clipcls.video import moment_of

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.pipeline import Embedded

logger = logging.getLogger("clipcls")

Float32 = npt.NDArray[np.float32]

_WEIGHTED = re.compile(r"(\d+(?:\.\d+)?)[:：](.+)", re.DOTALL)
_ROUGH = 1e-5
"""More than a float32 product of two unit vectors is ever wrong by."""
_NOTHING = 1e-6
"""A sum of unit vectors that is shorter than this is rounding."""
_BLOCK = 1024
"""Images that are compared with the query at once."""
_SPARE = 100
"""Further best contents whose files are looked up, for those that are gone."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a query: a text, or the path of an image."""

    value: str
    weight: float = 1.0
    """Negative for what is not wanted."""


def parse_term(text: str) -> Term:
    """The term in one string, with its weight in front as in ``2:一只狗``.

    Only a positive number before the first colon is a weight; ``1:16:9 screen`` is the text ``16:9 screen``.
    """
    weighted = _WEIGHTED.fullmatch(text)
    if weighted and float(weighted[1]) > 0:
        return Term(weighted[2].strip(), float(weighted[1]))
    return Term(text.strip())


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for."""

    texts: tuple[Term, ...] = ()
    likes: tuple[Term, ...] = ()
    """Images; a folder stands for the mean of its images."""

    @classmethod
    def parse(cls, texts: Iterable[str], like: Iterable[str] = (), without: Iterable[str] = ()) -> Query:
        """The query of some strings, each as ``parse_term`` takes it; empty texts do not count.

        Raises:
            UsageError: there is nothing to look for, or a text is not valid.
        """
        wanted = [parse_term(text) for text in texts if text.strip()]
        unwanted = [replace(term, weight=-term.weight) for term in map(parse_term, without) if term.value]
        query = cls((*wanted, *unwanted), tuple(map(parse_term, like)))
        if not (wanted or query.likes):
            raise UsageError("nothing to look for: write a sentence, or name a picture with --like")
        for term in query.texts:
            check_text(term.value)
        return query

    def vector(self, classifier: Classifier) -> Float32:
        """The query as a model sees it: float32 [D], unit length.

        Raises:
            InputError: an image of ``likes`` cannot be read.
            UsageError: the parts cancel out.
            ModelError, DeviceError: see ``Classifier.embed_texts``.
        """
        texts = [term.value for term in self.texts]
        warn_of_language(texts, classifier.info)
        likes = [_mean(classifier, term.value) for term in self.likes]
        vectors = np.concatenate([classifier.embed_texts(texts), *likes])
        return weighted_sum(vectors, [term.weight for term in (*self.texts, *self.likes)])


def check_text(text: str) -> None:
    """Refuse a text that no tokenizer reads.

    Raises:
        UsageError: it has bytes that were no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise UsageError(f"the text {shown!r} is not valid UTF-8; write it in UTF-8") from exc


def warn_of_language(texts: Iterable[str], info: EncoderInfo) -> None:
    """Log which texts a model cannot read, in the words that labels get."""
    for complaint in complaints([Wording(Label(text), text, ("{}",)) for text in texts], info, asked=False):
        logger.warning("%s", complaint)


def weighted_sum(vectors: Float32, weights: Sequence[float]) -> Float32:
    """The normalised sum of unit vectors, each times its weight.

    Args:
        vectors: float32 [n, D], unit rows.
        weights: n numbers, negative to subtract.

    Returns:
        float32 [D], unit length.

    Raises:
        UsageError: they cancel out.
    """
    total = np.asarray(weights, np.float64) @ vectors.astype(np.float64)
    if np.linalg.norm(total) < _NOTHING:
        raise UsageError(
            "the parts of the query cancel out, and nothing is left to look for: change a weight or a text"
        )
    return np.asarray(zeroshot.class_weights([total[np.newaxis].astype(np.float32)])[0])


class TopK:
    """The images that are nearest to a query, of any number that come in blocks; only the best are kept.

    Args:
        query: float32 [D], unit length.
        k: how many.
        threshold: least cosine, to the six decimals that results show.
    """

    def __init__(self, query: Float32, k: int, threshold: float = -1.0) -> None:
        self._query, self._k, self._threshold = query, k, threshold
        self._keys: list[Any] = []
        self._cosines: zeroshot.Float64 = np.empty(0)
        self.seen = 0
        """How many came."""

    def add(self, keys: npt.NDArray[Any], vectors: Float32) -> None:
        """Take up a block.

        The whole of it is multiplied in float32; those that may be among the best, again and exactly.

        Args:
            keys: what each image is called, [n].
            vectors: float32 [n, D], unit rows.
        """
        self.seen += len(keys)
        rough = vectors @ self._query
        least = self._cosines[-1] if len(self._cosines) == self._k else self._threshold
        rows = np.flatnonzero(rough >= least - _ROUGH)
        if len(rows) > self._k:
            best = rough[rows]
            rows = rows[best >= np.partition(best, -self._k)[-self._k] - 2 * _ROUGH]
        exact = zeroshot.cosines(vectors[rows], self._query[np.newaxis])[:, 0]
        enough = np.round(exact, 6) >= self._threshold
        if not enough.any():
            return
        cosines = np.concatenate([self._cosines, exact[enough]])
        keys_of = [*self._keys, *keys[rows[enough]].tolist()]
        order = zeroshot.top_k(cosines[np.newaxis], self._k)[0]  # ties: who came first
        self._cosines, self._keys = cosines[order], [keys_of[at] for at in order]

    def ranked(self) -> list[tuple[Any, float]]:
        """The best, each key with its cosine, the highest first; of equals whichever came first."""
        return list(zip(self._keys, self._cosines.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Match:
    """An image that was found."""

    path: str
    cosine: float
    """With the query, -1 to 1."""


def among(images: Iterable[Embedded], query: Float32, k: int, threshold: float = -1.0) -> list[Match]:
    """The k images nearest to a query, best first, ties in input order; the others are forgotten as they come."""
    best = TopK(query, k, threshold)
    stream = iter(images)
    while block := list(islice(stream, _BLOCK)):
        best.add(np.array([image.path for image in block], object), np.stack([image.vector for image in block]))
    return [Match(path, cosine) for path, cosine in best.ranked()]


def in_store(classifier: Classifier, query: Float32, k: int, threshold: float = -1.0) -> tuple[list[Match], int]:
    """The k files nearest to a query, of all whose embeddings the store has for this model; and how many it has.

    Files that are gone or have changed since are passed over. One content in several files is listed once a file.
    """
    store, info = classifier.store, classifier.info
    wanted = k + _SPARE
    while True:
        best = TopK(query, wanted, threshold)
        for digests, vectors in store.scan(info.fingerprint, info.dim):
            best.add(digests, vectors)
        ranked = best.ranked()
        files = store.files([digest for digest, _ in ranked])
        found = list(islice(_unchanged(ranked, files), k))
        if len(found) == k or len(ranked) < wanted:
            return found, best.seen
        wanted *= 10  # so many of them are gone


def _unchanged(ranked: Iterable[tuple[bytes, float]], files: dict[bytes, list[FileStamp]]) -> Iterator[Match]:
    for digest, cosine in ranked:
        for stamp in sorted(files.get(digest, ()), key=lambda stamp: stamp.path):
            moment = moment_of(stamp.path)
            try:
                now = FileStamp.of(moment[0] if moment else stamp.path)
                if (now.size, now.mtime_ns) == (stamp.size, stamp.mtime_ns):
                    yield Match(stamp.path, cosine)
            except (OSError, ValueError):
                continue


def _mean(classifier: Classifier, path: str) -> Float32:
    """What a picture, or a folder's, look like: float32 [1, D], a unit row."""
    vectors = classifier.embed_images(path)
    if not len(vectors):
        raise InputError(f"{path}: no images in it to look like; name a picture")
    return zeroshot.class_weights([vectors])
