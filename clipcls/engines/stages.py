"""The stages of a run as other processes do them: one decodes a shard, another encodes, scores and writes it.

Nothing here knows which engine sends the shards round. What travels is pickled between processes of one run.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from clipcls.encoders import load_encoder
from clipcls.encoders.base import Encoder, Preparation, Vectors
from clipcls.errors import ModelError
from clipcls.loading import Limits, Loaders, Prepared
from clipcls.pipeline import UNUSABLE, Embedded, usable
from clipcls.records import Failure
from clipcls.store.absent import NoStore
from clipcls.tower import Tower

if TYPE_CHECKING:
    from clipcls.records import Done, Record, Shard
    from clipcls.shards import Parts, Plan

_REMOTE_AT_ONCE = 8
"""Threads that read what lies elsewhere: they mostly wait."""
_BATCHES_AHEAD = 2
"""In the tower's hands: one computes, one waits."""


_stuck = Event()
"""Set where a picture was given up that this process's thread may still be at: no other thread is to share its fate."""


@dataclass(frozen=True, slots=True)
class Model:
    """Which model the encoders load, and how."""

    spec: str
    device: str
    precision: str
    fingerprint: str
    """What it must have where it is loaded: all rows of a run are one model's."""
    batch_size: int | None = None
    """None takes what suits the device."""
    traced: Path | None = None

    def load(self) -> Encoder:
        """The encoder.

        Raises:
            ModelError: it cannot be loaded, or is another than the run began with.
            DeviceError: the device is missing.
        """
        encoder, _ = load_encoder(self.spec, device=self.device, precision=self.precision, traced=self.traced)
        if encoder.info.fingerprint != self.fingerprint:
            raise ModelError(
                f"the model {self.spec} is another on a worker ({encoder.info.fingerprint}) than here "
                f"({self.fingerprint}): give all machines the same files"
            )
        return encoder


@dataclass(frozen=True, slots=True)
class Job:
    """All that the stages need to know of a run."""

    plan: Plan
    parts: Parts
    model: Model
    limits: Limits
    scored: Callable[[Sequence[Embedded | Failure]], Iterable[Record]] | None = None
    """Turns embeddings into records, by a head that is detached; None writes the embeddings."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A shard whose pictures are ready for the tower, each pickled, or why they are not."""

    shard: Shard
    inputs: Sequence[Any]
    """Bytes, or anything that holds bytes; None where there is an error."""
    errors: Sequence[str | None]
    seconds: float
    """That reading and decoding took."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A shard that is written, and the seconds that each stage was busy with it."""

    done: Done
    decode: float
    encode: float
    score: float
    write: float


def decoded(job: Job, preparation: Preparation, number: int, *, isolated: bool) -> Decoded:
    """Read and decode one shard; what cannot be read has its reason, in the words of a local run.

    Args:
        job: the run.
        preparation: what the model wants done to pictures.
        number: the shard's.
        isolated: whether each picture is decoded where a crash costs only itself.
    """
    began = time.perf_counter()
    shard = job.plan.shard(number)
    threads = _REMOTE_AT_ONCE if any(ref.stat is None for ref in shard.refs) else 1
    isolated = isolated or _stuck.is_set()
    loaders = Loaders(Prepared(preparation), NoStore(), "", threads, job.limits, isolated=isolated)
    inputs: list[bytes | None] = []
    errors: list[str | None] = []
    try:
        waiting = iter(shard.refs)
        ahead = deque(map(loaders.submit, islice(waiting, 2 * threads)))
        while ahead:
            loaded = loaders.result(ahead.popleft())
            ahead.extend(map(loaders.submit, islice(waiting, 1)))
            inputs.append(None if loaded.pixels is None else pickle.dumps(loaded.pixels, protocol=5))
            errors.append(loaded.error)
    finally:
        loaders.close()
        if loaders.isolated and not isolated:
            _stuck.set()
    return Decoded(shard, inputs, errors, time.perf_counter() - began)


class Encoding:
    """Encodes shards, scores them and writes their parts; the model is loaded once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tower = Tower(job.model.load)
        self._batch_size = job.model.batch_size or self._tower.loading().result().batch_size

    def __call__(self, shard: Decoded) -> Finished:
        """See the class.

        Raises:
            DeviceError: the device's memory is too small for one image.
            OutputError: the part cannot be written.
        """
        began = time.perf_counter()
        embedded = list(self._embedded(shard))
        encoded = time.perf_counter()
        scored = self._job.scored
        results: Sequence[Embedded | Record] = list(scored(embedded)) if scored else embedded
        ranked = time.perf_counter()
        done = self._job.parts.write(shard.shard, results)
        written = time.perf_counter()
        return Finished(done, shard.seconds, encoded - began, ranked - encoded, written - ranked)

    def _embedded(self, shard: Decoded) -> Iterator[Embedded | Failure]:
        vectors = self._vectors(data for data in shard.inputs if data is not None)
        for ref, error in zip(shard.shard.refs, shard.errors, strict=True):
            if error is not None:
                yield Failure(ref.id, error)
            elif usable(vector := next(vectors)):
                yield Embedded(ref.id, vector, cached=False)
            else:
                yield Failure(ref.id, UNUSABLE)

    def _vectors(self, inputs: Iterator[Any]) -> Iterator[Any]:
        """The embeddings of prepared pictures, one after the other; the tower always has the next batch."""
        encoding: deque[Future[Vectors]] = deque()
        while True:
            while len(encoding) < _BATCHES_AHEAD and (some := list(islice(inputs, self._batch_size))):
                encoding.append(self._tower.images([pickle.loads(data) for data in some]))
            if not encoding:
                return
            yield from encoding.popleft().result()
