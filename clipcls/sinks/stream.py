"""Rows to a stream, such as standard output."""

from __future__ import annotations

from typing import IO, Self

from clipcls.errors import OutputError
from clipcls.records import Record
from clipcls.sinks.base import ResultSink
from clipcls.sinks.rows import Rows


class StreamSink(ResultSink):
    """Writes rows to a text stream, which stays open; every row is flushed, so that a reader never waits for one."""

    def __init__(self, stream: IO[str], rows: Rows) -> None:
        """``stream`` must take any Unicode text (UTF-8) and leave line breaks as they are (``newline=""``)."""
        self._stream = stream
        self._rows = rows

    def __enter__(self) -> Self:
        send(self._stream, self._rows.head())
        return self

    def write(self, record: Record) -> None:
        """See ``Sink.write``."""
        send(self._stream, self._rows.row(record))


def send(stream: IO[str], text: str) -> None:
    """Writes ``text`` through to whoever reads ``stream``.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads any more.
    """
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(
            f"results cannot be written: {exc.strerror or exc}; make room, or send them to a file with --output"
        ) from exc
