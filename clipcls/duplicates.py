"""Images that are nearly the same, found by their embeddings.

Every image is compared with every other by exact products in tiles, so that memory holds the vectors (float32: of
512 numbers 2 GB a million images) and never a table of all pairs. A group is an image to keep, and those whose cosine
with it reaches the threshold; images that only a chain of such pairs joins are in groups of their own.
"""

from __future__ import annotations

import hashlib
import logging
import os
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipcls import zeroshot
from clipcls.cores import cores
from clipcls.pipeline import Embedded

logger = logging.getLogger("clipcls")

Float32 = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.intp]
Pairs = tuple[Numbers, Numbers]
Verdict = Literal["keep", "similar", "identical"]

_TILE = 1024
"""Images on each side of a tile: 4 MB of cosines."""
_MANY = 20_000
"""Images whose comparison takes so long that a person should know what is going on."""
_ROUNDING = 5e-7
"""Cosines count to the six decimals that results show."""


@dataclass(frozen=True, slots=True)
class Copy:
    """An image that another one is like."""

    group: int
    """From 1, in the order of the groups' first images."""
    path: str
    cosine: float
    """With the group's image to keep."""
    bytes: int
    """0 for a file that has gone since."""
    verdict: Verdict
    """``keep`` for the largest file, as the least compressed; ``identical`` for the same bytes as one listed before."""


def duplicates(images: Iterable[Embedded], threshold: float) -> list[Copy]:
    """Groups of images that are nearly the same: of each the one to keep first, then the others in input order.

    Args:
        images: with the paths of files, as they open from the current folder.
        threshold: least cosine of two images that belong together.
    """
    paths: list[str] = []
    numbers = array("f")  # grows in place, where a list of vectors to be stacked would take twice the memory
    for image in images:
        paths.append(image.path)
        numbers.frombytes(image.vector.astype(np.float32, copy=False).tobytes())
    if not paths:
        return []
    vectors = np.frombuffer(numbers, np.float32).reshape(len(paths), -1)
    chains = groups(vectors, threshold)
    sizes = {at: _size(paths[at]) for rows in chains for at in rows.tolist()}
    stars = [star for rows in chains for star in _stars(rows.tolist(), vectors, sizes, threshold)]
    found: list[Copy] = []
    for number, star in enumerate(sorted(stars, key=min), 1):
        found += _copies(number, [paths[at] for at in star], [sizes[at] for at in star], vectors[star])
    return found


def groups(vectors: Float32, threshold: float) -> list[Numbers]:
    """Rows that belong together, two or more each, ascending; the groups in the order of their first rows.

    Args:
        vectors: float32 [n, D], unit rows.
        threshold: least cosine of a pair.
    """
    if len(vectors) >= _MANY:
        logger.info("comparing %s images with each other", f"{len(vectors):,}")
    first = np.arange(len(vectors))
    for pairs in _close_pairs(vectors, threshold):
        first = _joined(first, pairs)
    order = np.argsort(first, kind="stable")
    starts = np.flatnonzero(np.diff(first[order], prepend=-1))
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]


def _close_pairs(vectors: Float32, threshold: float) -> Iterator[Pairs]:
    """The pairs of rows whose cosine reaches the threshold, tile by tile; the tiles are shared out to the cores."""

    def tile(top: int, left: int) -> Pairs:
        close = vectors[top : top + _TILE] @ vectors[left : left + _TILE].T >= threshold - _ROUNDING
        rows, columns = np.nonzero(np.triu(close, 1) if top == left else close)
        return rows + top, columns + left

    starts = range(0, len(vectors), _TILE)
    waiting: deque[Future[Pairs]] = deque()
    with ThreadPoolExecutor(cores(), "clipcls-compare") as pool:
        for top in starts:
            for left in starts[top // _TILE :]:
                waiting.append(pool.submit(tile, top, left))
                if len(waiting) > 2 * cores():
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _joined(first: Numbers, pairs: Pairs) -> Numbers:
    """The groups once each pair is in one.

    Args:
        first: each row's group, by the number of the group's first row: [n].
        pairs: rows that belong together.
    """
    ones, others = pairs
    while True:
        ends = np.stack([first[ones], first[others]])
        low, high = ends.min(axis=0), ends.max(axis=0)
        apart = low < high
        if not apart.any():
            return first
        ones, others = ones[apart], others[apart]
        # A group may be named several times, and then joins one of those: the next round brings the rest.
        first = first.copy()
        first[high[apart]] = low[apart]
        while (first[first] != first).any():
            first = first[first]


def _stars(rows: list[int], vectors: Float32, sizes: dict[int, int], threshold: float) -> Iterator[list[int]]:
    """Rows that a chain joins, in groups around the largest file that is left: each group's own first."""
    left = sorted(rows, key=lambda at: (-sizes[at], at))
    while left:
        cosines = zeroshot.cosines(vectors[left], vectors[left[:1]])[:, 0]
        near = cosines >= threshold - _ROUNDING
        near[0] = True
        keep, *others = [at for at, one in zip(left, near, strict=True) if one]
        if others:
            yield [keep, *sorted(others)]
        left = [at for at, one in zip(left, near, strict=True) if not one]


def _copies(group: int, paths: Sequence[str], sizes: Sequence[int], vectors: Float32) -> Iterator[Copy]:
    cosines = zeroshot.cosines(vectors, vectors[:1])[:, 0]
    alike = Counter(sizes)
    seen: set[str] = set()
    for at, path in enumerate(paths):
        digest = _digest(path) if alike[sizes[at]] > 1 else ""
        verdict: Verdict = "keep" if at == 0 else "identical" if digest in seen else "similar"
        seen |= {digest} if digest else set()
        yield Copy(group, path, float(cosines[at]), sizes[at], verdict)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _digest(path: str) -> str:
    """Of a file's bytes; empty where they cannot be read any more."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
