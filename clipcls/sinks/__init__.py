"""Where records go: a table or rows to a stream, rows to a file that can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from clipcls.errors import UsageError
from clipcls.sinks.base import ResultSink, Sink
from clipcls.sinks.output import FileSink, check_output
from clipcls.sinks.resume import written_path
from clipcls.sinks.rows import Format, rows_for
from clipcls.sinks.runinfo import LabelInfo, LabelPrompts, RunInfo
from clipcls.sinks.stream import StreamSink

__all__ = [
    "Format",
    "LabelInfo",
    "LabelPrompts",
    "ResultSink",
    "RunInfo",
    "Sink",
    "check_output",
    "choose_format",
    "open_sink",
    "written_path",
]

_NO_TABLE = "a table is for the terminal and cannot be resumed; write csv or jsonl to a file"
_SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def choose_format(asked: Format | None, output: Path | None) -> Format:
    """The format that was asked for, or the one that the file's suffix names; a table where there is no file.

    Raises:
        UsageError: the suffix names no format, a table was to go to a file, or Parquet to the screen.
    """
    if output is None:
        if asked == "parquet":
            raise UsageError("parquet is for a folder; name it with --output")
        return asked or "table"
    if asked == "table":
        raise UsageError(_NO_TABLE)
    found = asked or _SUFFIXES.get(output.suffix.lower())
    if found is None:
        known = ", ".join(_SUFFIXES)
        raise UsageError(f"{output.name}: unknown suffix; use one of {known}, or say which with --format")
    return found


def open_sink(
    run: RunInfo, output: Path | None, stream: TextIO, *, overwrite: bool = False, resume: bool = False,
    told: Callable[[str], str] = str,
) -> ResultSink:  # fmt: skip
    """The sink for a run's records: the file ``output``, or, where that is None, the UTF-8 text ``stream``.

    ``told`` gives a table's headings and errors in the person's language.

    Raises:
        UsageError: the flags contradict each other.
        OutputError: the file must not or cannot be written, or cannot be resumed by this run.
    """
    if output is not None:
        if run.format == "table":
            raise UsageError(_NO_TABLE)
        return FileSink(output, run, overwrite=overwrite, resume=resume)
    check_output(output, overwrite=overwrite, resume=resume)
    if run.format == "table":
        from rich.console import Console

        from clipcls.sinks.table import TableSink

        return TableSink(Console(file=stream), run.layout, told)
    return StreamSink(stream, rows_for(run.format, run.layout))
