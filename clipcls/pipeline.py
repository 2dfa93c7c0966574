"""Joins the stages of one run: prompts and images go in, embeddings come out, each computed once in its life.

The only module that knows both the store and the encoder. Files are read, digested and decoded in loader threads,
batches are encoded in the tower's thread, and the caller's thread keeps the order and talks to the store. Memory is
bounded by the look-ahead, whatever the number of images.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipcls.busy import Busy
from clipcls.cores import cores
from clipcls.encoders import file_digest, load_encoder
from clipcls.encoders.base import Encoder, Vectors
from clipcls.encoders.spec import ENCODER_VERSION, parse_spec
from clipcls.errors import ModelError
from clipcls.loading import Limits, Loaded, Loaders, Loading
from clipcls.records import EncoderInfo, Failure, FileStamp, ImageRef, TokenCount
from clipcls.store import Store
from clipcls.store.absent import NoStore
from clipcls.tower import Tower, await_result

if TYPE_CHECKING:
    from clipcls.encoders.files import ModelFiles

UNUSABLE = "the model gave no usable embedding for it"
_TEXT_BATCH = 64
_MANY_TEXTS = 2000
"""Prompts that take so long that a person should know what is going on."""
_CHUNK = 256
"""Images that are looked up in the store in one go."""
_BATCHES_AHEAD = 2
"""Batches in the tower's hands: one computes, one waits."""

logger = logging.getLogger("clipcls")

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image and its embedding."""

    path: str
    vector: Vector
    """float32 [D], unit length."""
    cached: bool
    """Whether it came from the store."""


class Embedder:
    """One model and its store: embeddings of prompts and images, computed only where the store has none.

    The model is loaded when the first embedding is missing, and not before.

    Args:
        model: any spec that ``load_encoder`` takes.
        device: auto, cpu, cuda, cuda:N or mps.
        store: where embeddings are kept; it is closed with the embedder.
        batch_size: images in one pass of the image tower; None takes what suits the device.
        workers: loader threads; None takes as many as there are cores at hand.
        precision: auto, fp32, bf16, fp16 or int8.
        traced: the folder that keeps what is traced of models; None traces none.
        limits: what one picture may cost.

    Raises:
        ModelError: the name fits no model.
    """

    def __init__(
        self,
        model: str,
        device: str = "auto",
        store: Store | NoStore | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        precision: str = "auto",
        traced: Path | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._model, self._device, self._precision = model, device, precision
        self._traced = traced
        self.spec = parse_spec(model)
        self._info: EncoderInfo | None = None
        self.busy = Busy()
        """How long each stage has worked on images."""
        self._tower = Tower(self._load, self.busy)
        self._batch_size = batch_size
        self._workers = workers or cores()
        self._limits = limits or Limits()
        self.store = store or NoStore()

    def close(self) -> None:
        """Let go of the model and the store; a batch that computes is given up."""
        self._tower.close()
        self.store.close()

    @property
    def info(self) -> EncoderInfo:
        """What scoring needs to know of the model: from the store, if its files are as they were."""
        if self._info is None:
            known = self.store.get_encoder(self.spec.key, self._precision, self._device)
            if known is None or not known.fingerprint.startswith(f"{ENCODER_VERSION}-"):
                known = await_result(self._tower.loading()).info
            self._info = replace(known, spec=self._model)
        return self._info

    def texts(self, prompts: Sequence[str]) -> tuple[Vectors, list[TokenCount]]:
        """Embeddings and token counts of prompts, in order; a prompt given twice is embedded once.

        Returns:
            float32 [n, D], unit rows, and n token counts.

        Raises:
            ModelError: the model cannot be loaded, or its answers are no unit vectors.
            DeviceError: the device is missing, or its memory too small for one prompt.
        """
        fingerprint = self.info.fingerprint
        unique = list(dict.fromkeys(prompts))
        found = self.store.texts(fingerprint, unique)
        missing = [prompt for prompt in unique if prompt not in found]
        if len(missing) >= _MANY_TEXTS:
            logger.info("embedding %s prompts, which is done once", f"{len(missing):,}")
        for start in range(0, len(missing), _TEXT_BATCH):
            batch = missing[start : start + _TEXT_BATCH]
            encoder = await_result(self._tower.loading())
            vectors = await_result(self._tower.texts(batch))
            if not usable(vectors).all():
                raise ModelError(f"the model {self._model} gives no usable text embeddings: its weights are damaged")
            fresh = dict(zip(batch, zip(vectors, encoder.tokenize(batch), strict=True), strict=True))
            self.store.put_texts(fingerprint, fresh)
            found |= fresh
        return np.stack([found[prompt][0] for prompt in prompts]), [found[prompt][1] for prompt in prompts]

    def count_tokens(self, prompts: Sequence[str]) -> list[TokenCount]:
        """Token counts of prompts, which need not be embedded for that.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        return list(await_result(self._tower.loading()).tokenize(prompts))

    def images(self, refs: Iterable[ImageRef]) -> Iterator[list[Embedded | Failure]]:
        """Embeddings of images in input order, in blocks of as many as are ready.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing, or its memory too small for one image.
        """
        fingerprint = self.info.fingerprint
        loaders = Loaders(self._tower, self.store, fingerprint, self._workers, self._limits, busy=self.busy)
        run = _ImageRun(
            refs, self._tower, self.store, fingerprint, self._batch_size, self._workers, loaders, self._limits.decoder
        )
        try:
            yield from run.blocks()
        finally:
            run.close()

    def _load(self) -> Encoder:
        encoder, files = load_encoder(
            self._model,
            device=self._device,
            precision=self._precision,
            digest=self._remembered_digest,
            traced=self._traced,
        )
        self.store.put_encoder(replace(encoder.info, spec=self.spec.key), self._precision, self._device, files)
        if self._info is not None and self._info.fingerprint != encoder.info.fingerprint:
            raise ModelError(f"the files of the model {self._model} changed during the run; run the command again")
        return encoder

    def fingerprint(self, files: ModelFiles) -> str:
        """The model's in float32, computed from its files; nothing is loaded."""
        return files.fingerprint("fp32", self._remembered_digest)

    def _remembered_digest(self, path: Path) -> str:
        """A model file's SHA-256: digesting gigabytes takes seconds, so the store remembers it like an image's."""
        file = FileStamp.of(path)
        known = self.store.digests([file]).get(file.path)
        if known is None:
            read_ns = time.time_ns()
            known = bytes.fromhex(file_digest(path))
            self.store.remember_files([(file, known)], read_ns)
        return known.hex()


class _Slot:
    """An image's place in the output, until its result is known."""

    __slots__ = ("loading", "ref", "result")

    def __init__(self, ref: ImageRef) -> None:
        self.ref = ref
        self.loading: Loading | None = None
        self.result: Embedded | Failure | None = None


class _ImageRun:
    """The images of one call: looked up, loaded, encoded and handed on in input order, all overlapping."""

    def __init__(
        self,
        refs: Iterable[ImageRef],
        tower: Tower,
        store: Store | NoStore,
        fingerprint: str,
        batch_size: int | None,
        workers: int,
        loaders: Loaders,
        decoder: str,
    ) -> None:
        self._refs, self._exhausted = iter(refs), False
        self._tower, self._store, self._fingerprint = tower, store, fingerprint
        self._asked_batch_size, self._workers = batch_size, workers
        self._loaders, self._decoder = loaders, decoder
        self._order: deque[_Slot] = deque()
        """Every slot that has not been handed on."""
        self._unread: deque[_Slot] = deque()
        """Slots that no loader has begun."""
        self._loading: deque[_Slot] = deque()
        """Slots in the loaders' hands, oldest first."""
        self._encoding: deque[tuple[Future[Vectors], list[bytes]]] = deque()
        """Batches in the tower's hands, oldest first, and the keys of their images."""
        self._waiting: dict[bytes, list[_Slot]] = {}
        """Slots by the key of the image that is being encoded for them: equal files are encoded once."""
        self._digested: list[tuple[FileStamp, bytes]] = []
        """Files that the store has not been told of."""
        self._digested_since = 0
        """When the first of them was read."""

    @property
    def _batch_size(self) -> int:
        return self._asked_batch_size or self._tower.batch_size()

    @property
    def _ahead(self) -> int:
        """How many images may be in the loaders' hands, or ready and waiting for the tower."""
        return 2 * self._batch_size + self._workers

    def blocks(self) -> Iterator[list[Embedded | Failure]]:
        """Results in input order, in blocks of as many as are ready."""
        while True:
            self._fill()
            if block := self._ready():
                yield block
            elif self._loading and len(self._encoding) < _BATCHES_AHEAD:
                self._start_batch()
            elif self._encoding:
                self._finish_batch()
            else:
                return

    def close(self) -> None:
        """Stop; batches that are finished are stored, the others given up."""
        self._loaders.close()
        for encoded, keys in self._encoding:
            if not encoded.cancel() and encoded.done() and encoded.exception() is None:
                self._keep(dict(zip(keys, encoded.result(), strict=True)))
        self._remember_files()

    def _fill(self) -> None:
        """Keep the loaders busy; when they run out of work, look the next images up in the store."""
        room = _CHUNK + 4 * self._batch_size
        while not self._exhausted and len(self._unread) < self._ahead and len(self._order) < room:
            slots = [_Slot(ref) for ref in itertools.islice(self._refs, _CHUNK)]
            self._exhausted = len(slots) < _CHUNK
            self._look_up(slots)
        while self._unread and len(self._loading) < self._ahead:
            slot = self._unread.popleft()
            slot.loading = self._loaders.submit(slot.ref)
            self._loading.append(slot)

    def _look_up(self, slots: list[_Slot]) -> None:
        """Settle the images that were seen before and whose files are unchanged."""
        digests = self._store.digests([slot.ref.stat for slot in slots if slot.ref.stat])
        vectors = self._store.images(self._fingerprint, list(digests.values()))
        failures = self._store.failures([key for key in digests.values() if key not in vectors], self._decoder)
        for slot in slots:
            key = digests.get(slot.ref.stat.path, b"") if slot.ref.stat else b""
            if key in vectors:
                slot.result = Embedded(slot.ref.id, vectors[key], cached=True)
            elif key in failures:
                slot.result = Failure(slot.ref.id, failures[key], cached=True)
            else:
                self._unread.append(slot)
        self._order.extend(slots)

    def _ready(self) -> list[Embedded | Failure]:
        block = []
        while self._order and (result := self._order[0].result):
            block.append(result)
            self._order.popleft()
        return block

    def _start_batch(self) -> None:
        """Give the tower the next images that need it, and settle those that do not."""
        batch: dict[bytes, Any] = {}
        while self._loading and len(batch) < self._batch_size:
            slot = self._loading.popleft()
            assert slot.loading is not None
            loaded = self._loaders.result(slot.loading)
            slot.loading = None  # lets go of the pixels
            self._note(slot, loaded)
            if loaded.pixels is not None and loaded.key is not None:
                if loaded.key not in self._waiting:
                    batch[loaded.key] = loaded.pixels
                self._waiting.setdefault(loaded.key, []).append(slot)
            self._fill()
        # Since a loader looked, an equal image may have been stored, by this run or by another process.
        for key, vector in self._store.images(self._fingerprint, list(batch)).items():
            del batch[key]
            self._settle(key, vector, cached=True)
        if batch:
            self._encoding.append((self._tower.images(list(batch.values())), list(batch)))

    def _note(self, slot: _Slot, loaded: Loaded) -> None:
        if loaded.key is not None and slot.ref.stat:
            self._digested_since = min(self._digested_since, loaded.read_ns) if self._digested else loaded.read_ns
            self._digested.append((slot.ref.stat, loaded.key))
        if loaded.vector is not None:
            slot.result = Embedded(slot.ref.id, loaded.vector, cached=True)
        elif loaded.error is not None:
            known = loaded.key is not None and not loaded.remember
            slot.result = Failure(slot.ref.id, loaded.error, cached=known)
            if loaded.key is not None and loaded.remember:
                self._store.put_failures(self._decoder, {loaded.key: loaded.error})

    def _finish_batch(self) -> None:
        encoded, keys = self._encoding[0]
        rows = await_result(encoded)
        vectors = dict(zip(keys, rows, strict=True))
        self._encoding.popleft()
        self._keep(vectors)
        self._remember_files()
        for key, vector in vectors.items():
            self._settle(key, vector, cached=False)

    def _settle(self, key: bytes, vector: Vector, *, cached: bool) -> None:
        """Give an embedding to every slot that waits for it."""
        for slot in self._waiting.pop(key):
            if usable(vector):
                slot.result = Embedded(slot.ref.id, vector, cached)
            else:
                slot.result = Failure(slot.ref.id, UNUSABLE)

    def _keep(self, vectors: dict[bytes, Vector]) -> None:
        self._store.put_images(self._fingerprint, {key: vector for key, vector in vectors.items() if usable(vector)})

    def _remember_files(self) -> None:
        if self._digested:
            self._store.remember_files(self._digested, self._digested_since)
            self._digested = []


def usable(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows are unit vectors; NaN and zero come of damaged weights or of overflow."""
    return np.asarray(np.abs(np.linalg.norm(vectors, axis=-1) - 1.0) < 0.01)
