"""The first stage of a run: images are read, digested and decoded in threads, ahead of the tower.

A picture may cost only so much: its pixels are limited, those of all pictures that are being decoded as well, and one
that keeps the run waiting for too long is given up. No thread can be ended, so its thread is left to itself, and from
then on pictures are decoded in processes, which are killed.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from clipcls.busy import Busy
from clipcls.decode import MAX_PIXELS, decode, decode_version, read
from clipcls.errors import DecodeError
from clipcls.isolated import Decoder
from clipcls.records import ImageRef
from clipcls.store import Store
from clipcls.store.absent import NoStore
from clipcls.video import video_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipcls.encoders.base import Preparation

_TICK = 0.2
"""Seconds after which the thread that waits for a picture looks up."""
_PIXELS_A_WORKER = 16_000_000
"""What every thread may decode at once, so that many cores are not kept waiting for memory."""
_BYTES_A_PIXEL = 12
"""What decoding takes at most."""
_LARGE = 64_000_000
"""Bytes of a file beside which no other that large is held."""

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost."""

    max_pixels: int = MAX_PIXELS
    seconds: float = 60.0
    """How long a run waits for it to be decoded."""

    @property
    def decoder(self) -> str:
        """What decides whether a picture can be read."""
        longer = "" if self.seconds == Limits().seconds else f" {self.seconds:g} s"
        return decode_version(self.max_pixels) + longer


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader found out about one image: its vector, its pixels, or why there are none."""

    key: bytes | None
    """The digest of its bytes; None if they could not be read."""
    read_ns: int
    """When reading began."""
    vector: Vector | None = None
    pixels: Any = None
    error: str | None = None
    remember: bool = False
    """Whether the error will come again from the same bytes and is not in the store yet."""


class Prepares(Protocol):
    """Whoever knows how pictures are made ready: a tower, or a ``Prepared``."""

    def loading(self) -> Future[Any]:
        """What has ``image_size`` and ``preprocess``, as an ``Encoder`` has, on its way."""
        ...


class Prepared:
    """What makes pictures ready for a tower that another process has."""

    def __init__(self, preparation: Preparation) -> None:
        self._here: Future[Any] = Future()
        self._here.set_result(preparation)

    def loading(self) -> Future[Any]:
        """The preparation, which is here."""
        return self._here


class Loading:
    """One image in the loaders' hands."""

    __slots__ = ("claimed", "decoder", "done", "given_up", "key", "read_ns", "ref", "waited")

    def __init__(self, ref: ImageRef) -> None:
        self.ref = ref
        self.done: Future[Loaded] = Future()
        self.key: bytes | None = None
        self.read_ns = 0
        self.decoder: Decoder | None = None
        """What decodes it; None for its thread."""
        self.claimed = 0
        """Pixels of the room that it takes."""
        self.waited = 0.0
        """Seconds that the run has waited while it was being decoded."""
        self.given_up = False


class Loaders:
    """Threads that make images ready for the tower.

    Args:
        tower: whose encoder prepares the pictures, or what does so in its place.
        store: where embeddings and failures of earlier runs are looked up.
        fingerprint: of the encoder.
        workers: how many threads.
        limits: what one picture may cost.
        isolated: whether pictures are decoded in processes from the start.
        busy: told how long pictures are read and decoded.
    """

    def __init__(
        self,
        tower: Prepares,
        store: Store | NoStore,
        fingerprint: str,
        workers: int,
        limits: Limits | None = None,
        *,
        isolated: bool = False,
        busy: Busy | None = None,
    ) -> None:
        self._busy = busy or Busy()
        self._tower, self._store, self._fingerprint = tower, store, fingerprint
        self._limits = limits or Limits()
        self._room = max(self._limits.max_pixels, workers * _PIXELS_A_WORKER)
        self._todo: SimpleQueue[Loading | None] = SimpleQueue()
        self._isolated = isolated
        self._threads = 0
        # What threads change together, and wait for:
        self._state = threading.Condition()  # whose lock may be taken twice
        self._decoding: set[Loading] = set()
        self._taken = 0
        self._large: Loading | None = None
        self._closed = False
        for _ in range(workers):
            self._start()

    @property
    def isolated(self) -> bool:
        """Whether pictures are decoded in processes, from the start or since one was given up."""
        return self._isolated

    def submit(self, ref: ImageRef) -> Loading:
        """Have an image loaded, after those that were asked for before."""
        loading = Loading(ref)
        self._todo.put(loading)
        return loading

    def result(self, loading: Loading) -> Loaded:
        """Wait for the oldest image; meanwhile those that take too long are given up.

        Raises:
            ModelError: the model cannot be loaded.
            DeviceError: the device is missing.
        """
        while not loading.given_up and not wait([loading.done], _TICK).done:
            self._tick()
        if loading.given_up:
            more = "--time-limit, or time_limit in the settings"
            late = DecodeError(f"not decoded within {self._limits.seconds:g} s (allow more: {more})")
            return Loaded(loading.key, loading.read_ns, error=str(late), remember=True)
        return loading.done.result()

    def close(self) -> None:
        """Give up what still waits; the threads end with what they are at."""
        with self._state:
            self._closed = True
            self._state.notify_all()
            for loading in self._decoding:
                if loading.decoder:
                    loading.decoder.kill()
        for _ in range(self._threads):
            self._todo.put(None)

    def _start(self) -> None:
        self._threads += 1
        # A daemon, since the program must be able to end while a picture is still being decoded.
        threading.Thread(target=self._work, name=f"clipcls-loader-{self._threads}", daemon=True).start()

    def _work(self) -> None:
        decoder = Decoder()
        while (loading := self._todo.get()) is not None and not self._closed:
            try:
                loading.done.set_result(self._load(loading, decoder))
            except BaseException as exc:  # for the thread that waits
                loading.done.set_exception(exc)
            if loading.given_up and not loading.decoder:
                break  # another thread has taken this one's place
        decoder.close()

    def _load(self, loading: Loading, decoder: Decoder) -> Loaded:
        """Read the image once, digest it, and unless the store knows it make it ready."""
        ref, loading.read_ns = loading.ref, time.time_ns()
        try:
            with ref.open() as file, self._held(loading):
                return self._loaded(loading, file, decoder)
        except OSError as exc:
            return Loaded(None, loading.read_ns, error=f"cannot be read: {exc.strerror or exc}")
        except DecodeError as exc:
            return Loaded(loading.key, loading.read_ns, error=str(exc), remember=exc.lasting)

    def _loaded(self, loading: Loading, file: BinaryIO, decoder: Decoder) -> Loaded:
        with self._busy.at("read"):
            data = read(file, self._limits.max_pixels)
        key = loading.key = hashlib.sha256(data).digest()
        if vectors := self._store.images(self._fingerprint, [key]):
            return Loaded(key, loading.read_ns, vector=vectors[key])
        if failures := self._store.failures([key], self._limits.decoder):
            return Loaded(key, loading.read_ns, error=failures[key])
        encoder = self._tower.loading().result()
        if self._isolated:
            decoder.start()  # which does not count for the picture
            loading.decoder = decoder
        try:
            # Nested, so that nothing holds the picture when its room is given to another.
            with self._busy.at("decode"):
                return Loaded(
                    key, loading.read_ns, pixels=encoder.preprocess(self._decoded(loading, data, encoder.image_size))
                )
        except MemoryError as exc:
            raise DecodeError("not enough memory to prepare it", lasting=False) from exc

    def _decoded(self, loading: Loading, data: bytes, min_side: int) -> Image:
        """The picture; while it is being decoded it may be given up."""
        with self._state:
            self._decoding.add(loading)
        try:
            return (loading.decoder.decode if loading.decoder else decode)(
                data,
                min_side=min_side,
                name=loading.ref.id,
                max_pixels=self._limits.max_pixels,
                claim=partial(self._claim, loading),
            )
        finally:
            with self._state:
                self._decoding.discard(loading)

    @contextmanager
    def _held(self, loading: Loading) -> Iterator[None]:
        """Room for a large file, beside which there is no other that large; at the end what was claimed is let go."""
        # A frame's file is its whole video, of which no more than the frame is decoded.
        size = loading.ref.stat.size if loading.ref.stat and not video_of(loading.ref.id) else 0
        try:
            if size > _LARGE:
                with self._state:
                    self._state.wait_for(lambda: self._closed or self._large is None)
                    self._large = loading
                    self._take(loading, size // _BYTES_A_PIXEL)
            yield
        finally:
            self._let_go(loading)

    def _claim(self, loading: Loading, pixels: int) -> None:
        with self._state:
            self._decoding.discard(loading)  # it is others that keep it waiting
            self._take(loading, pixels)
            self._decoding.add(loading)

    def _take(self, loading: Loading, pixels: int) -> None:
        """Wait until there is room; what is larger than the room waits until it is alone."""
        with self._state:
            self._state.wait_for(
                lambda: self._closed or self._taken == loading.claimed or self._taken + pixels <= self._room
            )
            self._taken += pixels
            loading.claimed += pixels

    def _let_go(self, loading: Loading) -> None:
        with self._state:
            self._taken -= loading.claimed
            loading.claimed = 0
            if self._large is loading:
                self._large = None
            self._state.notify_all()

    def _tick(self) -> None:
        """Time has gone by; it is counted in ticks and not by the clock, which goes on while the process is stopped."""
        with self._state:
            for loading in self._decoding:
                loading.waited += _TICK
            late = [each for each in self._decoding if each.waited > self._limits.seconds and not each.given_up]
            for loading in late:
                loading.given_up = True
                self._decoding.discard(loading)
                if loading.decoder:
                    loading.decoder.kill()
        for loading in late:
            self._let_go(loading)  # else others might wait for its room for ever
            if not loading.decoder:
                self._isolated = True
                self._start()
