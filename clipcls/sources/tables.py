"""Parquet and Arrow files with a column of images, or of their paths; other columns are carried through.

Rows are read a few at a time, and bytes of images only when one is opened. pyarrow is imported when the first table is.
"""

from __future__ import annotations

import importlib
import io
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial
from typing import Any, BinaryIO, cast

from clipcls.errors import ClipclsError, UsageError
from clipcls.records import FileStamp, ImageRef
from clipcls.sources import remote
from clipcls.sources.opening import file_ref, open_file, refused, stamp_of
from clipcls.sources.remote import filesystem, is_address, told, tried
from clipcls.sources.selection import Selection, suffix_of

TABLE_EXTRA = "clipcls[tables]"
"""The extra whose package reads Parquet and Arrow."""

_PICTURES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img_bytes")
_PATHS = (
    *("path", "image_path", "img_path", "file_path", "filepath", "file", "file_name", "filename", "image_file"),
    *("url", "image_url", "img_url", "uri", "image_uri"),
)
"""What columns of paths and addresses are called, beside what those of images are."""
_ROWS = 1024
"""Rows of paths and other columns that are read at once."""
_CELLS = 32
"""Rows of images that are read at once."""
_HELD = 32 << 20
"""Bytes of images that are held, for threads that do not ask in turn."""
_GROUPS = 2
"""Row groups from which images are being read; of each at least a page is in memory, which many writers make large."""

_AS_NAME = "surrogateescape"
"""How bytes that are not UTF-8 are kept in a file's name."""
_CHANGED = "the table has changed since the run began; --overwrite starts over"


class Kind(Enum):
    """What a column holds."""

    PATH = "paths and addresses"
    BYTES = "the bytes of images"
    STRUCT = "Hugging Face's struct<bytes, path>"


@dataclass(frozen=True, slots=True)
class Column:
    """The column of the images."""

    name: str
    kind: Kind


def check_package() -> None:
    """Refuse tables where the optional package that reads them is missing.

    Raises:
        UsageError: it is.
    """
    try:
        importlib.import_module("pyarrow")
    except ImportError as exc:
        raise UsageError(f'Parquet and Arrow files need an optional package: pip install "{TABLE_EXTRA}"') from exc


def images(path: str, base: str, asked: str | None, selection: Selection) -> Iterator[ImageRef]:
    """The images in a table, row by row: under their own paths, or under ids such as ``train.parquet#12``.

    Relative paths start from the table's folder; those that are not there, from ``base``.

    Args:
        path: the table's path or address, as the person typed it.
        base: the absolute folder that a relative ``path`` starts from.
        asked: the column of the images; None finds it.
        selection: which of the paths in a column are taken.

    Raises:
        UsageError: there is no such column, or several could be meant.
        OSError: the table cannot be read, or not to its end; the text says why in one line.
    """
    full = path if is_address(path) else os.path.join(base, path)
    with _told():
        table = _opened(full)
        column = image_column(table.schema, asked, path)
        reference = _Reference(path, full, base, column, _version(full))
        row = 0
        for group in range(table.groups):
            first = row
            for value, extra in _rows(table, group, column):
                if column.kind is not Kind.PATH:
                    yield reference.to_cell(row, group, row - first, extra)
                elif not value or selection.chosen(value):
                    yield reference.to_file(row, value, extra)
                row += 1


def count(path: str, base: str) -> int:
    """How many rows a table on disk has. The errors are ``images``'s."""
    with _told():
        return _opened(os.path.join(base, path)).count()


def image_column(schema: Any, asked: str | None, path: str) -> Column:
    """The column of the images: the one that is asked for, or the only one that could be meant.

    Bytes of images go before paths, which then only tell where the images came from.

    Args:
        schema: pyarrow's.
        asked: the column's name; None finds it.
        path: the table's, for messages.

    Raises:
        UsageError: there is none, or several could be meant.
    """
    kinds = {field.name: kind for field in schema if (kind := _kind_of(field.type))}
    if asked is not None:
        if asked not in kinds:
            known = "no column of images or paths" if asked in schema.names else "no column"
            raise UsageError(f"{path}: {known} {asked!r}; it has {', '.join(schema.names) or 'none'}")
        return Column(asked, kinds[asked])
    pictures = [name for name, kind in kinds.items() if kind is not Kind.PATH]
    paths = [name for name, kind in kinds.items() if kind is Kind.PATH and name.lower() in _PICTURES + _PATHS]
    named = [name for name in pictures if name.lower() in _PICTURES]
    found = named or pictures or paths
    if len(found) != 1:
        which = f"the images could be in {', '.join(found)}" if found else f"columns {', '.join(schema.names)}"
        raise UsageError(f"{path}: which column holds the images? {which}; say which with --image-column")
    return Column(found[0], kinds[found[0]])


def _kind_of(held: Any) -> Kind | None:
    """What a column holds by pyarrow's type; None for what are no images."""
    from pyarrow import types

    if types.is_dictionary(held):
        return _kind_of(held.value_type)
    if types.is_struct(held):
        return Kind.STRUCT if _has(held, "bytes", Kind.BYTES) and _has(held, "path", Kind.PATH) else None
    if types.is_binary(held) or types.is_large_binary(held) or types.is_binary_view(held):
        return Kind.BYTES
    text = types.is_string(held) or types.is_large_string(held) or types.is_string_view(held)
    return Kind.PATH if text else None


def _has(struct: Any, name: str, kind: Kind) -> bool:
    """Whether a struct has a field of a kind, or one in which nothing ever is."""
    from pyarrow import types

    at = struct.get_field_index(name)
    return at >= 0 and (types.is_null(struct[at].type) or _kind_of(struct[at].type) is kind)


@dataclass(frozen=True, slots=True)
class _Reference:
    """Makes the references to the images of one table."""

    path: str
    full: str
    base: str
    column: Column
    version: FileStamp | str | None

    def to_cell(self, row: int, group: int, at: int, extra: dict[str, Any]) -> ImageRef:
        opening = partial(_open_cell, self.full, self.version, group, at, self.column)
        return ImageRef(f"{self.path}#{row}", self.base, None, opening, extra)

    def to_file(self, row: int, value: str | None, extra: dict[str, Any]) -> ImageRef:
        if not value:
            return refused(f"{self.path}#{row}", self.base, "the table names no file in this row", extra)
        ref = file_ref(beside(self.path, value), self.base, extra)
        if ref.stat is None and not is_address(ref.id):
            other = file_ref(value, self.base, extra)
            return other if other.stat else ref
        return ref


def beside(path: str, value: str) -> str:
    """A path that starts from the folder of a table."""
    if is_address(value):
        return value
    if is_address(path) and not os.path.isabs(value):
        return _below(path.rpartition("/")[0], value)
    return os.path.join(os.path.dirname(path), value)


def _below(folder: str, value: str) -> str:
    """An address from a folder's on; ``..``, which in a bucket is a name like others, leads up, but not out of it."""
    scheme, _, place = folder.partition("://")
    bucket, *parts = place.split("/")
    for part in value.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return f"{scheme}://{'/'.join([bucket, *parts])}"


def _rows(table: _Table, group: int, column: Column) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """The path, if there is one, and the other columns of every row of a group; no bytes are read."""
    others = [field.name for field in table.schema if field.name != column.name and _plain(field.type)]
    inner = column.name + "_path" if column.kind is Kind.STRUCT else None
    wanted = others if column.kind is Kind.BYTES else [*others, column.name]
    for batch in table.batches(group, wanted, _ROWS, paths_of=column.name if inner else None):
        columns = [_values(batch.column(name)) for name in others]
        rows = [dict(zip(others, cells, strict=True)) for cells in zip(*columns, strict=True)]
        paths: Sequence[str | None] = [None] * batch.num_rows
        if column.kind is Kind.PATH:
            paths = _values(batch.column(column.name), _AS_NAME)
        elif inner:
            paths = _values(batch.column(column.name).field("path"))
        for path, row in zip(paths, rows or [{}] * batch.num_rows, strict=True):
            yield path, {inner: path} | row if inner and path else row


def _values(cells: Any, errors: str = "replace") -> list[Any]:
    """A column's values; one that Python cannot hold costs no more than itself."""
    try:
        return cast(list[Any], cells.to_pylist())
    except Exception:  # pyarrow's, pandas's or Python's own
        return [_value(cell, errors) for cell in cells]


def _value(cell: Any, errors: str) -> Any:
    """A cell's value; such as Python cannot hold, a time in the year 40000 or bad UTF-8, as a text, or as None.

    Args:
        cell: pyarrow's.
        errors: what becomes of bytes that are not UTF-8, as for ``bytes.decode``.
    """
    import pyarrow

    with suppress(Exception):
        return cell.as_py()
    with suppress(Exception):
        return cell.cast(pyarrow.string()).cast(pyarrow.binary()).as_py().decode("utf-8", errors)
    return None


def _plain(held: Any) -> bool:
    """Whether a column is carried through: all but bytes, which may be more images."""
    return _kind_of(held) in (None, Kind.PATH)


class _Table(ABC):
    """A table in groups of rows, each of which is read from its start to its end."""

    schema: Any
    """pyarrow's."""
    groups: int

    @abstractmethod
    def count(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def batches(self, group: int, columns: list[str], size: int, paths_of: str | None = None) -> Iterator[Any]:
        """Some columns of a group, in record batches of at most so many rows where that saves memory.

        Args:
            group: its number.
            columns: their names.
            size: rows.
            paths_of: of which of the columns, a struct, only the field ``path`` is wanted.
        """


class _Parquet(_Table):
    def __init__(self, source: Any) -> None:
        from pyarrow.parquet import ParquetFile

        # Buffered, else all bytes of a row group's column are in memory at once.
        self._file = ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        self.schema, self.groups = self._file.schema_arrow, self._file.num_row_groups

    def count(self) -> int:
        return int(self._file.metadata.num_rows)

    def batches(self, group: int, columns: list[str], size: int, paths_of: str | None = None) -> Iterator[Any]:
        wanted = [f"{name}.path" if name == paths_of else name for name in columns]
        yield from self._file.iter_batches(size, row_groups=[group], columns=wanted, use_threads=False)


class _Arrow(_Table):
    """Arrow's file format, which is Feather's as well: a group a record batch."""

    def __init__(self, source: Any) -> None:
        from pyarrow.ipc import open_file

        self._file = open_file(source)
        self.schema, self.groups = self._file.schema, self._file.num_record_batches

    def count(self) -> int:
        return sum(self._file.get_batch(group).num_rows for group in range(self.groups))

    def batches(self, group: int, columns: list[str], size: int, paths_of: str | None = None) -> Iterator[Any]:
        yield self._file.get_batch(group).select(columns)


class _ArrowStream(_Table):
    """Arrow's stream format, as Hugging Face caches data sets: one group."""

    groups = 1

    def __init__(self, source: Any) -> None:
        from pyarrow.ipc import open_stream

        self._open, self._source = open_stream, source
        self.schema = open_stream(source).schema

    def count(self) -> int:
        return sum(batch.num_rows for batch in self._all())

    def batches(self, group: int, columns: list[str], size: int, paths_of: str | None = None) -> Iterator[Any]:
        return (batch.select(columns) for batch in self._all())

    def _all(self) -> Iterator[Any]:
        self._source.seek(0)
        yield from self._open(self._source)


def _version(full: str) -> FileStamp | str | None:
    """What is different once a table has changed."""
    return remote.version(full) if is_address(full) else stamp_of(full)


def _opened(full: str) -> _Table:
    check_package()
    import pyarrow

    parquet = suffix_of(full) in (".parquet", ".pq")
    if is_address(full):
        fs, path = filesystem(full)
        source = tried(full, lambda: fs.open(path, "rb"))
    else:
        with open_file(full):  # which says in plain words why it cannot be opened
            pass
        source = pyarrow.OSFile(full) if parquet else pyarrow.memory_map(full)
    if parquet:
        return _Parquet(source)
    start = source.read(6)
    source.seek(0)
    return _Arrow(source) if start == b"ARROW1" else _ArrowStream(source)


def _open_cell(full: str, version: FileStamp | str | None, group: int, row: int, column: Column) -> BinaryIO:
    """The image in one cell.

    Args:
        full: the table's path or address.
        version: of the table when the run began, which must still be the same.
        group: the cell's group of rows.
        row: its place in the group.
        column: its column.
    """
    with _told():
        cells = _cells(full, version, group, column.name)
        cell = tried(full, partial(cells.cell, row))
        data = (cell["bytes"] if column.kind is Kind.STRUCT else cell).as_py()
        path = _value(cell["path"], _AS_NAME) if data is None and column.kind is Kind.STRUCT else None
    if path:
        return file_ref(beside(full, path), os.path.dirname(full)).open()
    if data is None:
        raise OSError("the table holds no image in this row")
    return io.BytesIO(data)


class _Cells:
    """One group's images, read forwards for all threads that ask; the last few are held for those that come late."""

    def __init__(self, full: str, version: FileStamp | str | None, group: int, column: str) -> None:
        self._full, self._version, self._group, self._column = full, version, group, column
        self._lock = threading.Lock()
        self._begin()

    def cell(self, row: int) -> Any:
        with self._lock:
            if row < (self._held[0][0] if self._held else self._next):
                self._begin()
            while row >= self._next:
                self._advance()
            first, cells = next(held for held in reversed(self._held) if held[0] <= row)
        return cells[row - first]

    def _begin(self) -> None:
        self._batches: Iterator[Any] | None = None
        self._held: deque[tuple[int, Any]] = deque()
        """Each with its first row."""
        self._size = 0
        self._next = 0

    def _advance(self) -> None:
        try:
            if self._batches is None:
                self._batches = self._opened().batches(self._group, [self._column], _CELLS)
            batch = next(self._batches, None)
        except Exception:
            self._begin()
            raise
        if batch is None:
            raise OSError(_CHANGED)
        cells = batch.column(self._column)
        self._held.append((self._next, cells))
        self._next += batch.num_rows
        self._size += cells.nbytes
        while self._size > _HELD and len(self._held) > 1:
            self._size -= self._held.popleft()[1].nbytes

    def _opened(self) -> _Table:
        table = _opened(self._full)
        remote.check_same(self._version, _version(self._full), _CHANGED)
        return table


@lru_cache(maxsize=_GROUPS)
def _cells(full: str, version: FileStamp | str | None, group: int, column: str) -> _Cells:
    return _Cells(full, version, group, column)


@contextmanager
def _told() -> Iterator[None]:
    """What pyarrow and those below it raise, in words for people."""
    try:
        yield
    except ClipclsError:
        raise
    except Exception as exc:
        if type(exc).__module__.startswith("pyarrow"):
            raise OSError(f"damaged or cut short, or no table ({told(exc)})") from exc
        raise told(exc) from exc
