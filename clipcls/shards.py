"""A run cut into shards: which images each holds, which are done, and how a local run does those that are missing.

The plan of a run whose results go to ``OUT`` lies in ``OUT.plan`` until the run is whole; ``OUT.run.json`` tells of it
then as before. Each shard's results are one part file, which is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clipcls.pipeline import Embedded, Embedder
from clipcls.records import Failure, ImageRef, Prediction, Record
from clipcls.sinks.runinfo import RunInfo

Result = Embedded | Failure | Prediction
Seen = TypeVar("Seen", bound=Result)


@dataclass(frozen=True, slots=True)
class Shard:
    """Some images that follow each other in a run's input."""

    number: int
    """From 0."""
    refs: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What is told of a shard whose part is written."""

    number: int
    images: int
    failed: int
    uncertain: int = 0
    cached: int = 0


class Plan:
    """A run's shards, on disk; picklable, for processes that see the same disk.

    Attributes:
        output: the folder, or file, that the results go to.
        run: what was asked for.
        columns: the names of what the images carry along (``ImageRef.extra``), each with ``bool``, ``int``, ``float`` or
            ``str``, so that all parts have one schema.
    """

    output: Path
    run: RunInfo
    columns: dict[str, str]

    @classmethod
    def make(cls, output: Path, run: RunInfo, refs: Iterable[ImageRef], size: int) -> Plan:
        """Writes the plan of a new run, ``size`` images a shard; no more than a shard is held in memory."""
        raise NotImplementedError

    @classmethod
    def open(cls, output: Path) -> Plan:
        """The plan of a run that was begun."""
        raise NotImplementedError

    def __len__(self) -> int:
        """How many shards there are."""
        raise NotImplementedError

    @property
    def images(self) -> int:
        """In all shards."""
        raise NotImplementedError

    def shard(self, number: int) -> Shard:
        """One shard, read from disk."""
        raise NotImplementedError

    def todo(self) -> list[int]:
        """The numbers of the shards without a part, ascending."""
        raise NotImplementedError

    def finish(self) -> None:
        """The run is whole: what only a run that goes on needs is removed, and the run file says so."""
        raise NotImplementedError


class Parts:
    """Writes the results of shards, one part each; picklable. The kinds are in ``clipcls.sinks.parts``."""

    def write(self, shard: Shard, results: Sequence[Result]) -> Done:
        """Writes one part whole, in the place of an earlier one; ``results`` are in the order of ``shard.refs``."""
        raise NotImplementedError

    def done(self, number: int) -> Done:
        """What a part that is there holds."""
        raise NotImplementedError


def run_locally(
    plan: Plan,
    embedder: Embedder,
    scored: Callable[[Sequence[Embedded | Failure]], Iterable[Record]] | None,
    parts: Parts,
    progress: Callable[[Iterable[Result]], Iterator[Result]],
) -> None:
    """Do the shards that are missing, as one stream of images, and write each when it is whole.

    Args:
        plan: the shards.
        embedder: the model and its store.
        scored: turns embeddings into records; None writes the embeddings.
        parts: where they go.
        progress: sees each result as it comes, and hands it on.
    """
    raise NotImplementedError
