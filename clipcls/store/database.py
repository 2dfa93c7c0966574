"""The sqlite file under the store: shared between processes, replaced when damaged, never the end of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from clipcls.errors import StoreError

log = logging.getLogger("clipcls")

T = TypeVar("T")
Row = tuple[Any, ...]

BUSY_SECONDS = 60.0
SUFFIXES = ("", "-wal", "-shm", "-journal")
KEYS_PER_QUERY = 10_000
"""The more at once the better: sqlite sorts them, and reads each page of an index once. Limited by the build's own."""

# What reading a damaged file raises: the second is for damaged text, also in sqlite's own messages.
READ_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA}
_DAMAGE = {
    None,  # raised by Python's sqlite3 module itself
    sqlite3.SQLITE_ERROR,  # a table or column is missing
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
}


class _Newer(sqlite3.DatabaseError):
    """The file was written by a version of clipcls that this one does not know."""


class Database:
    """One sqlite file and the one connection to it; threads take turns.

    Nothing but ``__init__`` raises an error of sqlite's, save for errors in the calling code: what cannot be read is
    empty, what cannot be written is left out, and each is told once through logging.

    Args:
        path: the file; its folder is made if need be.
        schema: for each version, kept as ``user_version``, the statements that make it out of the one before. A file
            gets those that it lacks, together.

    Raises:
        StoreError: the file cannot be created or opened.
    """

    def __init__(self, path: Path, schema: Sequence[Sequence[str]]) -> None:
        self.path = path
        self._schema = schema
        self._version = len(schema)
        self._lock = threading.Lock()
        self._con: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._writable = True
        self._warned: set[str] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, *READ_ERRORS) as exc:
            raise StoreError(
                f"{path.parent}: the embedding cache cannot be opened ({exc}); "
                "go without it (--no-cache) or set CLIPCLS_CACHE_DIR to a folder that can be written"
            ) from exc

    def close(self) -> None:
        """Close the connection; from then on everything reads as empty."""
        with self._lock:
            self._disconnect()

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of one query."""
        return self.run(lambda con: con.execute(sql, values).fetchall(), [])

    def lookup(self, sql: str, keys: Collection[bytes], *values: str) -> list[Row]:
        """All rows for many different keys; ``sql`` ends where its ``IN (...)`` begins, and takes ``values`` before."""
        wanted = list(keys)

        def work(con: sqlite3.Connection) -> list[Row]:
            found: list[Row] = []
            most = min(KEYS_PER_QUERY, con.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - len(values))
            for start in range(0, len(wanted), most):
                part = wanted[start : start + most]
                found += con.execute(f"{sql} IN ({','.join('?' * len(part))})", (*values, *part))
            return found

        return self.run(work, [])

    def insert(self, sql: str, rows: Sequence[Row]) -> None:
        """Run one statement for every row, all of them or none."""
        if rows:
            self.write(lambda con: con.executemany(sql, rows), None)

    def write(self, work: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Run ``work`` in one transaction; ``default`` is for a store that cannot be written."""

        def transaction(con: sqlite3.Connection) -> T:
            con.execute("BEGIN IMMEDIATE")
            try:
                result = work(con)
                if con.in_transaction:
                    con.execute("COMMIT")
            finally:
                if con.in_transaction:
                    con.execute("ROLLBACK")
            return result

        return self.run(transaction, default, writing=True)

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk."""

        def work(con: sqlite3.Connection) -> None:
            con.execute("VACUUM")
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        self.run(work, None, writing=True)

    def size(self) -> int:
        """Bytes on disk, of the file and of those that sqlite keeps beside it."""
        return sum(_size(Path(f"{self.path}{suffix}")) for suffix in SUFFIXES)

    def set_aside(self) -> list[Path]:
        """The files of damaged and newer stores that were replaced."""
        patterns = (f"{self.path.name}.damaged-*", f"{self.path.name}.newer-*")
        return sorted(file for pattern in patterns for file in self.path.parent.glob(pattern))

    def warn_once(self, message: str) -> None:
        """Log a warning, unless this store has said the same before."""
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message)

    def run(self, work: Callable[[sqlite3.Connection], T], default: T, *, writing: bool = False) -> T:
        """Run ``work``, a second time if the file had to be replaced; ``default`` is for where it cannot be done.

        The connection is in autocommit mode. ``work`` must not mind being run twice.
        """
        with self._lock:
            for first in (True, False):
                if self._con is None or (writing and not self._writable):
                    break
                try:
                    return work(self._con)
                except sqlite3.ProgrammingError:
                    raise
                except READ_ERRORS as error:
                    if not self._recover(error, writing=writing, replace=first):
                        break
        return default

    def _recover(self, error: Exception, *, writing: bool, replace: bool) -> bool:
        """Make the best of an error; whether the work is worth a second try."""
        if _code(error) in _DAMAGE:
            with contextlib.suppress(OSError, *READ_ERRORS):
                if replace:
                    self._open(damage=error)
                    return True
            self._disconnect()
            self.warn_once(f"{self.path}: the embedding cache is damaged ({error}); this run goes on without it")
        elif _code(error) in _BUSY:
            self.warn_once(
                f"{self.path}: the embedding cache was locked for too long ({error}); some of it was not used"
            )
        elif writing:
            self._writable = False
            self.warn_once(f"{self.path}: the embedding cache cannot be written ({error}); new embeddings are not kept")
        else:
            self.warn_once(f"{self.path}: the embedding cache cannot be read ({error}); embeddings are computed again")
        return False

    def _open(self, damage: Exception | None = None) -> None:
        """Connect, to a fresh file where the old one is damaged, as ``damage`` says of the one open until now."""
        try:
            with _alone(self.path):
                if damage is not None:
                    # Another process may have been here first: then the file of this name is fresh and good.
                    ours = _identity(self.path) == self._identity
                    self._disconnect()
                    if ours:
                        _set_aside(self.path, damage)
                try:
                    self._con = self._connect()
                except READ_ERRORS as error:
                    if _code(error) not in _DAMAGE:
                        raise
                    _set_aside(self.path, error)
                    self._con = self._connect()
                self._identity = _identity(self.path)
        except sqlite3.OperationalError as error:
            if damage is not None or _code(error) in _BUSY or not self.path.is_file():
                raise
            self._open_read_only(error)

    def _connect(self) -> sqlite3.Connection:
        con = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            con.execute("PRAGMA page_size=16384")
            _choose_journal(con, self.path)
            con.execute("PRAGMA synchronous=NORMAL")
            # New keys fall on random pages of an index: those are copied back less often than written (default 1000).
            con.execute("PRAGMA wal_autocheckpoint=8000")
            (found,) = con.execute("PRAGMA user_version").fetchone()
            if found > self._version:
                raise _Newer(f"format {found}, and this clipcls knows {self._version}")
            if found < self._version:
                con.execute("BEGIN IMMEDIATE")
                for statements in self._schema[found:]:
                    for statement in statements:
                        con.execute(statement)
                con.execute(f"PRAGMA user_version={self._version}")
                con.execute("COMMIT")
        except BaseException:
            con.close()
            raise
        return con

    def _open_read_only(self, error: sqlite3.OperationalError) -> None:
        """Use a store in a folder that cannot be written, such as one shared by a laboratory."""
        # sqlite cannot make its -shm file there; without a -wal nobody is writing, and it does not need one.
        mode = "mode=ro" if os.path.exists(f"{self.path}-wal") else "immutable=1"
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        con = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        with contextlib.ExitStack() as undo:
            undo.callback(con.close)
            if con.execute("PRAGMA user_version").fetchone() != (self._version,):
                raise error
            undo.pop_all()
        self._con, self._writable = con, False
        self.warn_once(f"{self.path}: the embedding cache cannot be written ({error}); new embeddings are not kept")

    def _disconnect(self) -> None:
        if self._con is not None:
            with contextlib.suppress(sqlite3.Error):
                self._con.close()
            self._con = None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time open, create or replace the file.

    The lock is an empty database: sqlite locks on every system, and the system lets go when a process dies.
    """
    lock = Path(f"{path}-lock")
    if lock.is_file() and _size(lock):
        os.truncate(lock, 0)  # whatever is in it is damage
    con = sqlite3.connect(lock, timeout=BUSY_SECONDS, isolation_level=None)
    with contextlib.closing(con):
        con.execute("BEGIN EXCLUSIVE")
        yield


def _choose_journal(con: sqlite3.Connection, path: Path) -> None:
    """Write-ahead logging, or a rollback journal on file systems without the shared memory that it needs."""
    try:
        (mode,) = con.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode == "wal":
            return
        cause = "not supported there"
    except sqlite3.OperationalError as error:
        if _code(error) in _BUSY:
            return  # in use in the mode that it has, which will do
        cause = str(error)
        # The file is in WAL mode already; exclusive locking reads it without shared memory.
        for statement in ("locking_mode=EXCLUSIVE", "journal_mode=DELETE", "locking_mode=NORMAL", "schema_version"):
            con.execute(f"PRAGMA {statement}").fetchall()
    log.warning("%s: no write-ahead logging (%s); the embedding cache uses a slower rollback journal", path, cause)


def _set_aside(path: Path, error: Exception) -> None:
    """Rename the file and those beside it.

    Raises:
        OSError: it cannot be renamed.
    """
    kind, what = ("newer", "from a newer version") if isinstance(error, _Newer) else ("damaged", "damaged")
    stem = f"{path}.{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    aside, n = stem, 0
    while any(os.path.lexists(f"{aside}{suffix}") for suffix in SUFFIXES):
        n += 1
        aside = f"{stem}-{n}"
    for suffix in SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    log.warning("%s: the embedding cache is %s (%s); it is now %s, and a fresh one is used", path, what, error, aside)


def _code(error: Exception) -> int | None:
    """sqlite's primary result code, where the error came from sqlite."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
