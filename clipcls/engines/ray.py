"""Runs a plan's shards through Ray Data: decoded by tasks, encoded, scored and written by a pool of actors.

One row of the data set is a shard. Its pictures lie in one block of the object store from the task that decoded it to
the actor that needs it, and Ray starts no more tasks than there is room for. Only a summary of each shard reaches this
process, so that its memory does not grow with the images.

What a killed worker had in hands is done again by another: a shard's part is written whole or not at all, so that none
is doubled. Where decoding a shard ended its worker, each of its pictures is decoded in a process of its own, and the
one that crashes that becomes a failure.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from clipcls.cores import cores
from clipcls.encoders.base import Preparation, one_line
from clipcls.engines.stages import Decoded, Encoding, Finished, Job, decoded
from clipcls.errors import ClipclsError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import ray

EXTRA = "clipcls[ray]"

_WAVE = 10_000
"""Shards of one data set. Ray Data remembers something of each, in this process, until the data set is through."""
_ATTEMPTS = 10
"""At one piece of work; machines may come and go, but what ends every process must end the run."""
_STORE_BYTES, _STORE_BYTES_A_CORE = 1 << 30, 1 << 29
"""Of the object store where Ray is started here."""
_PATIENCE = 10.0
"""Seconds for a cluster to answer."""
_LEAST_STORE = 100 << 20
"""Ray wants 75 MiB at least."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What the person says of the cluster."""

    address: str | None = None
    """``auto``, ``HOST:PORT``, or None for the cluster of RAY_ADDRESS, or else a Ray of this machine's own."""
    actors: int | None = None
    """Encoders; None takes one for each share of a graphics card, or where there is none one for each machine."""
    gpus_per_actor: float | None = None
    """None takes 1 where the cluster has graphics cards."""


@contextmanager
def connected(pool: Pool) -> Iterator[None]:
    """A cluster that has what is asked of it.

    Raises:
        UsageError: Ray is not installed, there is no cluster at the address, or it has too few graphics cards.
    """
    with _quiet_library(), _cluster(pool.address), _quiet_data():
        _sizes_here(pool)
        yield


def run(job: Job, pool: Pool, progress: Callable[[Finished], object]) -> None:
    """Do what is missing of a plan, on the cluster that this process is connected with.

    Args:
        job: the plan, and what is to be done with it.
        pool: where, and by how many.
        progress: told of each shard when it is written, in no order.

    Raises:
        ModelError: the model cannot be loaded.
        DeviceError: the device is missing, or its memory too small for one image.
        OutputError: a part cannot be written.
    """
    for finished in _finished(job, pool, job.plan.todo()):
        progress(finished)


def _finished(job: Job, pool: Pool, todo: list[int]) -> Iterator[Finished]:
    import ray

    with _plain_errors():
        actors, gpus = _sizes_here(pool)
        # No processors are claimed, so that there is no cluster on which encoders leave none to decode with.
        claims: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus}
        shared = ray.put((job, os.getcwd()))
        prepared = ray.remote(_preparation).options(**claims).remote(shared)
        ray.get(prepared)  # raises what keeps the model from being loaded
        for start in range(0, len(todo), _WAVE):
            shards = _wave(shared, prepared, todo[start : start + _WAVE], actors, claims)
            for table in shards.iter_batches(batch_size=None, batch_format="pyarrow"):
                for packed in table["finished"]:
                    yield pickle.loads(packed.as_py())


def _wave(shared: Any, prepared: Any, numbers: list[int], actors: int, claims: dict[str, Any]) -> ray.data.Dataset:
    """The pipeline for some shards; what comes out of it are pickled ``Finished``."""
    import ray
    from ray.data import ActorPoolStrategy

    return (
        ray.data.range(len(numbers), override_num_blocks=len(numbers))
        .map_batches(partial(_decode, shared, prepared, ray.put(numbers)), batch_size=1, batch_format="numpy")
        .map_batches(
            _Encoder,
            fn_constructor_args=[shared],
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(actors, len(numbers))),
            **claims,
        )
    )


def _sizes_here(pool: Pool) -> tuple[int, float]:
    """``_sizes`` on the cluster that this process is connected with."""
    import ray

    return _sizes(pool, ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes()))


def _sizes(pool: Pool, resources: dict[str, float], machines: int) -> tuple[int, float]:
    """How many actors, and how many graphics cards for each."""
    cards = resources.get("GPU", 0.0)
    gpus = pool.gpus_per_actor if pool.gpus_per_actor is not None else float(cards > 0)
    if gpus > cards:
        raise UsageError(f"--gpus-per-actor {gpus:g}, but the Ray cluster has {cards:g}")
    actors = pool.actors or (int(cards / gpus) if gpus else machines)
    if gpus * actors > cards:
        raise UsageError(f"--actors {actors} with {gpus:g} GPUs each are more than the Ray cluster's {cards:g}")
    return max(1, actors), gpus


def _preparation(shared: tuple[Job, str]) -> Preparation:
    """What the model wants done to pictures; here a model that cannot be loaded is found out first."""
    _use_cores()
    return _joined(shared).model.load().preparation()


def _joined(shared: tuple[Job, str]) -> Job:
    """The job, in the folder that it was asked for in, since its paths may be relative."""
    job, folder = shared
    with suppress(OSError):  # not all machines need have it
        os.chdir(folder)
    return job


def _decode(shared: Any, prepared: Any, todo: Any, batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
    import ray

    # A second attempt means that the first one's process is gone, perhaps by a picture.
    isolated = _attempt() > 0
    _end_at_once()
    job = _joined(ray.get(shared))
    for at in batch["id"]:
        yield _packed(decoded(job, ray.get(prepared), ray.get(todo)[at], isolated=isolated))


def _attempt() -> int:
    """How many processes have ended over this piece of work; Ray would go on for ever.

    Raises:
        ClipclsError: too many.
    """
    import ray

    attempt: int = ray.get_runtime_context().worker.core_worker.get_current_task_attempt_number()
    if attempt >= _ATTEMPTS:
        raise ClipclsError(
            f"{attempt} workers in turn ended over one shard, perhaps for want of memory: "
            "give them more, or plan anew with a smaller --shard-size"
        )
    return attempt


class _Encoder:
    """The actor."""

    def __init__(self, shared: Any) -> None:
        import ray

        _end_at_once()
        _use_cores()
        self._encoding = Encoding(_joined(ray.get(shared)))

    def __call__(self, block: pa.Table) -> pa.Table:
        import pyarrow as pa

        _attempt()
        finished = [pickle.dumps(self._encoding(_unpacked(block, row))) for row in range(len(block))]
        return pa.table({"finished": pa.array(finished, pa.binary())})


@cache
def _end_at_once() -> None:
    """Have this process end without what Ray's library does last, which may wait for ever (seen of Ray 2.60) and with
    it the memory of a graphics card be lost."""
    with suppress(AttributeError, TypeError):  # where C's library is another one
        c = ctypes.CDLL(None)
        c.__cxa_atexit(c._exit, None, None)  # what is registered last comes first; None is exit code 0


def _use_cores() -> None:
    """Have torch compute on all cores: Ray gives a process without claims one thread."""
    os.environ["OMP_NUM_THREADS"] = str(cores())


def _packed(shard: Decoded) -> pa.Table:
    """A shard as a row; not pickled as a whole, since what is an Arrow buffer is read where it lies."""
    import pyarrow as pa

    return pa.table(
        {
            "shard": pa.array([pickle.dumps(shard.shard)], pa.large_binary()),
            "inputs": pa.array([shard.inputs], pa.large_list(pa.large_binary())),
            "errors": pa.array([shard.errors], pa.large_list(pa.large_string())),
            "seconds": pa.array([shard.seconds]),
        }
    )


def _unpacked(block: pa.Table, row: int) -> Decoded:
    inputs = block["inputs"][row].values
    return Decoded(
        pickle.loads(block["shard"][row].as_buffer()),
        [data.as_buffer() if data.is_valid else None for data in inputs],
        block["errors"][row].as_py(),
        block["seconds"][row].as_py(),
    )


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to the cluster, or a Ray of this machine's own that ends with it; one that is there is used."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts: it reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of its next release
    os.environ.setdefault("RAY_worker_niceness", "0")  # else what a local run does comes after all else here
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise UsageError(f'--engine ray needs an optional package: pip install "{EXTRA}"') from exc
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    at_end = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address:
            _knock(address)
            ray.init(address, **options)
        else:
            ray.init("local", include_dashboard=False, num_cpus=cores(), object_store_memory=_store_bytes(), **options)
    except (OSError, ValueError, RuntimeError) as exc:
        if address:
            raise UsageError(
                f"no Ray cluster answers at {address}: {one_line(exc)}; start one with: ray start --head"
            ) from exc
        raise UsageError(
            f"Ray does not start here: {one_line(exc)}; its log is in ray/session_latest/logs of the temporary folder"
        ) from exc
    try:
        if threading.current_thread() is threading.main_thread():
            # Ray has set one of its own, which ends the process with lines of its own.
            signal.signal(signal.SIGTERM, at_end)
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Whether somebody listens at HOST:PORT: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.removeprefix("ray://"), int(port)), _PATIENCE).close()


def _store_bytes() -> int:
    """A third of the memory at most, as Ray's own rule is, and no more than decoding on all cores can fill."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 << 30
    return max(_LEAST_STORE, min(memory * 3 // 10, _STORE_BYTES + _STORE_BYTES_A_CORE * cores()))


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Keep from the terminal what is not Python's: Ray's library writes to descriptor 2 whatever it is told."""
    written = sys.stderr
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(kept, "w", 1, written.encoding, "backslashreplace") as here:
        with suppress(AttributeError, OSError):  # something else stands for it, which needs no descriptor
            if written.fileno() == 2:
                written.flush()
                sys.stderr = here
        os.dup2(nowhere, 2)
        os.close(nowhere)
        try:
            yield
        finally:
            here.flush()
            os.dup2(kept, 2)
            sys.stderr = written


@contextmanager
def _quiet_data() -> Iterator[None]:
    """Ray Data without bars and log lines, which its log file has; and no word on stdout of workers that died."""
    from ray._private import worker
    from ray.data import DataContext

    shown, worker._worker_logs_enabled = worker._worker_logs_enabled, False  # Ray has no setting for it
    log = logging.getLogger("ray.data")
    handlers = log.handlers
    context = copy.copy(DataContext.get_current())
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a shard may take its time
    log.handlers = [handler for handler in handlers if not isinstance(handler, logging.StreamHandler)]
    try:
        with DataContext.current(context):
            yield
    finally:
        log.handlers = handlers
        worker._worker_logs_enabled = shown


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A worker's own error as if it had been raised here; of Ray's errors one line."""
    try:
        yield
    except Exception as exc:
        from ray.exceptions import RayError

        for cause in _causes(exc):
            if isinstance(cause, ClipclsError) and not isinstance(cause, RayError):  # some of Ray's are both
                raise cause from (None if cause is exc else exc)
        raise ClipclsError(f"Ray gave up: {one_line(exc)}; the same command with --resume goes on") from exc


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An exception and what led to it, also in another process."""
    while exc is not None:
        yield exc
        inner = getattr(exc, "cause", None)
        exc = inner if isinstance(inner, BaseException) and inner is not exc else exc.__cause__
