"""Rows to a file that is there only when it is whole; until then they lie in ``FILE.partial``, and can be resumed."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO

from clipcls.errors import OutputError, UsageError
from clipcls.records import Failure, Record
from clipcls.sinks.base import ResultSink
from clipcls.sinks.cells import printable
from clipcls.sinks.durable import finished, lock, move
from clipcls.sinks.resume import Written, read_written
from clipcls.sinks.rows import rows_for
from clipcls.sinks.runinfo import RunInfo, differences, read_run, run_path, timestamp, write_run


def partial_path(output: Path) -> Path:
    """Where the rows of ``output`` lie until it is whole."""
    return output.with_name(output.name + ".partial")


def check_output(output: Path | None, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuses what could not be written, or would lose what an earlier run made, before any work is done.

    Raises:
        UsageError: both to overwrite and to resume was asked for, or one of them without a file.
        OutputError: the folder cannot be written to, or there is something that must not be lost.
    """
    if overwrite and resume:
        raise UsageError("--overwrite and --resume exclude each other: give the one you mean")
    if output is None:
        if overwrite or resume:
            raise UsageError("--overwrite and --resume are for a file; name it with --output")
        return
    partial = partial_path(output)
    with told(output):
        if output.is_dir():
            raise OutputError(f"{_name(output)} is a folder; name a file in it")
        if _exists(output) and not output.is_file():
            raise OutputError(f"{_name(output)} is not an ordinary file; without --output results go to the screen")
        check_place(output)
        if overwrite or resume:
            return
        if _exists(partial):
            raise OutputError(
                f"{_name(partial)} holds the rows of a run that did not finish: "
                "--resume goes on with it, --overwrite starts over"
            )
        if _exists(output):
            raise OutputError(f"{_name(output)} exists: --overwrite replaces it, --resume goes on with a cut-off run")


def check_place(output: Path) -> None:
    """Refuses what cannot be made where it is to be.

    Raises:
        OutputError: the folder that it is to be in is missing, or cannot be written to.
    """
    if not output.parent.is_dir():
        raise OutputError(f"{_name(output)}: there is no folder {_name(output.parent)}; create it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{_name(output)}: the folder {_name(output.parent.absolute())} cannot be written to")


def check_same(output: Path, earlier: RunInfo, now: RunInfo) -> None:
    """Refuses to go on with the results of another run.

    Raises:
        OutputError: they would be other ones.
    """
    if differ := differences(earlier, now):
        raise OutputError(
            f"{_name(output)} cannot be resumed, the earlier run was another one: {'; '.join(differ)}. "
            "Ask for the same again, or start over with --overwrite"
        )


def check_not_a_list(output: Path, now: RunInfo) -> None:
    """Refuses to say of a run over what stdin lists that it is done.

    Raises:
        OutputError: there may be another list now.
    """
    if "-" in now.paths:
        raise OutputError(f"{_name(output)} is complete, for whatever list was read then; --overwrite starts over")


def claim(output: Path, stream: IO[str], path: Path) -> None:
    """Keep a second run, which was told to overwrite or resume the same results, from writing into this one's.

    Args:
        output: what the results go to.
        stream: an open file that every run at it locks.
        path: where that file lies.

    Raises:
        OutputError: another run has it.
    """
    try:
        lock(stream)
        free = os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        free = False
    if not free:
        raise OutputError(f"another run is writing {_name(output)}: wait for its end, or name another file")


class FileSink(ResultSink):
    """Writes rows to ``FILE.partial`` and, at a clean exit, moves it to ``FILE``; ``FILE.run.json`` tells of the run.

    Nothing is touched before the first record or the clean exit. An earlier ``FILE`` stays until the new one is whole.
    """

    def __init__(self, output: Path, run: RunInfo, *, overwrite: bool = False, resume: bool = False) -> None:
        """Refuses what ``check_output`` refuses; ``resume`` also reads what an earlier run wrote.

        Raises:
            UsageError: both to overwrite and to resume was asked for.
            OutputError: the file must not or cannot be written, or the earlier run was another one.
        """
        check_output(output, overwrite=overwrite, resume=resume)
        self._output, self._told = output, told(output)
        self._partial = partial_path(output)
        self._goes_on = overwrite or resume
        self._run_file_of = output
        self._run = replace(run, overwrite=overwrite)
        self._rows = rows_for(run.format, run.layout)
        self._stream: IO[str] | None = None
        self._earlier = Written()
        if resume:
            with told(output):
                self._take_up()
        self._done = self._earlier.paths
        self.failed_before = self._run.failed if self.already_complete else self._earlier.failed
        self._images, self._failed = self._earlier.images, self._earlier.failed

    @property
    def done(self) -> Counter[str]:
        """See ``ResultSink.done``."""
        return self._done

    @property
    def partial(self) -> Path | None:
        """``FILE.partial`` once it holds rows, until it is moved."""
        return self._partial if self._stream is not None or self._earlier.end else None

    def write(self, record: Record) -> None:
        """Adds one row; a run that is killed loses none that was written, but for some that took no computing.

        Raises:
            OutputError: it cannot be written, or the run was complete already.
        """
        with self._told:
            stream = self._stream or self._start()
            stream.write(self._rows.row(record))
            if not record.cached:
                stream.flush()
        self._images += 1
        self._failed += isinstance(record, Failure)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self.already_complete:
            with self._told:
                self._finish(self._stream or self._start())
        elif self._stream is not None:
            with suppress(OSError):  # what is wrong with the file is what ended the run
                self._stream.close()

    def _take_up(self) -> None:
        """Finds the rows of an earlier run, if there are any, and makes sure that this run goes on with them."""
        begun = _exists(self._partial) and self._partial.stat().st_size > 0
        if not begun and not _exists(self._output):
            return
        earlier = (read_run(self._partial) if begun else None) or read_run(self._output)
        if earlier is None or not (begun or earlier.complete):
            raise OutputError(
                f"nothing tells which run {_name(self._partial if begun else self._output)} is from; "
                "--overwrite starts over"
            )
        check_same(self._output, earlier, self._run)
        if not begun:
            check_not_a_list(self._output, self._run)
            self.already_complete = True
            self._run = earlier
            return
        self._run = replace(self._run, created=earlier.created, overwrite=earlier.overwrite)
        self._refuse_to_replace()
        self._earlier = read_written(self._partial, self._rows)

    def _start(self) -> IO[str]:
        if self.already_complete:
            raise OutputError(f"{_name(self._output)} is complete already; --overwrite starts over")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | (0 if self._goes_on else os.O_EXCL)
        stream = os.fdopen(os.open(self._partial, flags, 0o666), "r+", encoding="utf-8", newline="")
        try:
            claim(self._output, stream, self._partial)
            # A file that is to be replaced keeps its own run file until then.
            self._run_file_of = self._partial if _exists(self._output) else self._output
            write_run(self._run_file_of, self._run)
            if self._run_file_of == self._output:
                run_path(self._partial).unlink(missing_ok=True)  # of rows that are gone
            stream.truncate(self._earlier.end)
            stream.seek(self._earlier.end)
            if not self._earlier.end:
                stream.write(self._rows.head())
        except BaseException:
            stream.close()
            raise
        self._stream = stream
        return stream

    def _finish(self, stream: IO[str]) -> None:
        with finished(stream):
            self._refuse_to_replace()
            # The run file first: were the end to come between the two, the rows could still be resumed.
            whole = replace(self._run, complete=True, finished=timestamp(), images=self._images, failed=self._failed)
            write_run(self._output, whole)
            move(self._partial, self._output)
        self._stream = None
        self._earlier = Written()
        if self._run_file_of == self._partial:
            run_path(self._partial).unlink(missing_ok=True)

    def _refuse_to_replace(self) -> None:
        if not self._run.overwrite and _exists(self._output):
            raise OutputError(
                f"{_name(self._output)} came after the run whose rows are in {_name(self._partial)}: "
                "move it away, then --resume"
            )


def _exists(path: Path) -> bool:
    """Whether there is anything of that name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def _name(path: Path) -> str:
    return printable(str(path))


class told:  # noqa: N801
    """Tells what the system has against writing ``output``, and where what there is of it is ``kept``.

    May be entered again and again, as it is for every row: a new one each time took 5% of a run over known images.

    Raises:
        OutputError: on leaving, in the place of an OSError.
    """

    __slots__ = ("_kept", "_output")

    def __init__(self, output: Path, kept: Path | None = None) -> None:
        self._output, self._kept = output, kept

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            kept = self._kept or partial_path(self._output)
            step = f"--resume goes on with {_name(kept)}" if _exists(kept) else "name another place with --output"
            raise OutputError(f"{_name(self._output)} cannot be written: {error.strerror or error}; {step}") from error
