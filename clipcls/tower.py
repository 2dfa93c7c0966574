"""One thread that loads a model and runs its towers, so that the caller's thread stays free to be interrupted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from clipcls.busy import Busy
from clipcls.encoders.base import Encoder, Vectors
from clipcls.errors import OutOfMemory, UsageError

logger = logging.getLogger("clipcls")

T = TypeVar("T")
Encode = Callable[[Sequence[Any]], Vectors]


class Tower:
    """Runs an encoder in a thread of its own; the encoder is loaded when it is first asked for.

    Args:
        load: loads the encoder; called at most once, in the tower's thread.
        busy: told how long images are encoded.
    """

    def __init__(self, load: Callable[[], Encoder], busy: Busy | None = None) -> None:
        self._load = load
        self._busy = busy or Busy()
        self._loading: Future[Encoder] | None = None
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, "clipcls-tower")
        self._limits: dict[str, int] = {}

    def loading(self) -> Future[Encoder]:
        """The encoder, on its way since somebody first asked; may be called in any thread."""
        with self._lock:
            if self._loading is None:
                self._loading = self._submit(self._load)
            return self._loading

    def batch_size(self) -> int:
        """How many images at once suit the model's device; while it is not loaded, few."""
        loading = self._loading
        return loading.result().batch_size if loading and loading.done() and not loading.exception() else 8

    def images(self, batch: Sequence[Any]) -> Future[Vectors]:
        """The embeddings of preprocessed images, once the tower comes to them: float32 [n, D], unit rows."""
        return self._submit(self._images, batch)

    def texts(self, prompts: Sequence[str]) -> Future[Vectors]:
        """The embeddings of prompts, once the tower comes to them: float32 [n, D], unit rows."""
        return self._submit(self._within_memory, "texts", prompts)

    def close(self) -> None:
        """Give up what still waits; a batch that computes is left to itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        try:
            return self._thread.submit(work, *arguments)
        except RuntimeError as exc:
            raise UsageError("this classifier is closed; load it again") from exc

    def _images(self, batch: Sequence[Any]) -> Vectors:
        self.loading().result()
        with self._busy.at("encode"):
            return self._within_memory("images", batch)

    def _within_memory(self, kind: str, batch: Sequence[Any]) -> Vectors:
        """Encode a batch, halved for good whenever memory runs out.

        Raises:
            OutOfMemory: there is not even room for one.
        """
        encoder = self.loading().result()
        encode: Encode = encoder.encode_images if kind == "images" else encoder.encode_texts
        done: list[Vectors] = []
        position = 0
        while position < len(batch):
            size = min(self._limits.get(kind, len(batch)), len(batch) - position)
            try:
                done.append(encode(batch[position : position + size]))
            except OutOfMemory:
                if size == 1:
                    raise
                self._limits[kind] = size // 2
                logger.warning("out of memory with %d %s at once; trying %d", size, kind, size // 2)
            else:
                position += size
        return np.concatenate(done)


def await_result(future: Future[T]) -> T:
    """A future's result; unlike ``Future.result`` this can be interrupted on every platform."""
    while not wait([future], timeout=0.2).done:
        pass
    return future.result()
