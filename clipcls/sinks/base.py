"""What every destination of records has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from clipcls.records import Record


class Sink(Protocol):
    """Takes one record an image; a context manager. What it wrote is complete and durable when it exits cleanly."""

    def write(self, record: Record) -> None:
        """Adds one record.

        Raises:
            OutputError: it cannot be written.
            BrokenPipeError: whoever read the stream has gone.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ResultSink(ABC):
    """A sink that may go on where an earlier run stopped; one that cannot has nothing done."""

    already_complete: bool = False
    """Whether the earlier run was whole: there is nothing to write."""

    failed_before: int = 0
    """How many of the earlier run's records are failures."""

    @property
    def done(self) -> Counter[str]:
        """How many records of each path need no further one; the paths as ``written_path`` gives them."""
        return Counter()

    @property
    def partial(self) -> Path | None:
        """The file that keeps the records of a run that was cut off; None while there is none."""
        return None

    @abstractmethod
    def write(self, record: Record) -> None:
        """See ``Sink.write``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
