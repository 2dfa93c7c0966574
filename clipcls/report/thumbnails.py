"""Pictures at the size of a stamp."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from clipcls.cores import cores
from clipcls.decode import decode
from clipcls.errors import DecodeError
from clipcls.records import ImageRef

SIDE = 160
"""Pixels of a thumbnail's longer side."""
_QUALITY, _METHOD = 60, 2
_AHEAD = 4
"""Thumbnails a thread may be ahead of whoever takes them."""


def thumbnails(refs: Iterable[ImageRef | None], workers: int | None = None) -> Iterator[bytes | None]:
    """A small WebP of each picture, in order; None for None, and for a picture that cannot be read.

    Pictures are read in threads, a few ahead of what is taken.
    """
    workers = workers or cores()
    pool = ThreadPoolExecutor(workers, "clipcls-thumbnails")
    waiting: deque[Future[bytes | None]] = deque()
    try:
        for ref in refs:
            waiting.append(pool.submit(_thumbnail, ref))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _thumbnail(ref: ImageRef | None) -> bytes | None:
    if ref is None:
        return None
    try:
        with ref.open() as stream:
            image = decode(stream, min_side=SIDE // 2, name=ref.id)  # a JPEG at no less than twice that
    except (OSError, DecodeError):
        return None
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=_METHOD)
    return out.getvalue()
