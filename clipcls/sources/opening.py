"""How the bytes of an image are got at, wherever they lie; all of it can be sent to another process."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO

from clipcls.records import FileStamp, ImageRef
from clipcls.sources import remote

_NOTHING: Mapping[str, Any] = {}
_ROOM = 64 << 20
"""Bytes of members of archives far away that have come by and may be opened next."""


def file_ref(path: str, base: str, extra: Mapping[str, Any] = _NOTHING, size: int | None = None) -> ImageRef:
    """The image in one file or object, which need not exist.

    Args:
        path: the path or address as the person typed it.
        base: the absolute folder that a relative ``path`` starts from.
        extra: what its source says of it.
        size: bytes of an object far away, if they are known.
    """
    path = local_path(path)
    if remote.is_address(path):
        return ImageRef(path, base, None, partial(remote.open_whole, path, size), extra)
    full = os.path.join(base, path)
    return ImageRef(path, base, stamp_of(full), partial(_open_regular, full), extra)


def local_path(path: str) -> str:
    """A path as the file system has it: of a ``file://`` address what it leads to."""
    if not path.lower().startswith("file://"):
        return path
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    return url2pathname(urlsplit(path.replace("#", "%23").replace("?", "%3F")).path)


def stamp_of(full: str) -> FileStamp | None:
    """The stamp of a regular file; None for anything else."""
    try:
        found = os.stat(full)
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileStamp(os.path.normpath(full), found.st_size, found.st_mtime_ns)


def refused(id: str, base: str, reason: str, extra: Mapping[str, Any] = _NOTHING) -> ImageRef:
    """What stands for images that cannot be had: opening it tells why."""
    return ImageRef(id, base, None, partial(_refuse, reason), extra)


def open_file(full: str) -> BinaryIO:
    """A file or object, to be read from its start to its end.

    Raises:
        OSError: it cannot be read.
    """
    return remote.open_stream(full) if remote.is_address(full) else _open_regular(full)


class _Passed:
    """Parts of objects that came by while these were read from their start; who opens one soon need not ask again."""

    def __init__(self) -> None:
        self._parts: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def keep(self, full: str, start: int, data: bytes) -> None:
        """Hold a part until it is taken, or there is no room for it any more."""
        with self._lock:
            self._drop((full, start))
            self._parts[full, start] = data
            self._size += len(data)
            while self._size > _ROOM:
                self._drop(next(iter(self._parts)))

    def take(self, full: str, start: int) -> bytes | None:
        """A part, which is then let go."""
        with self._lock:
            return self._drop((full, start))

    def _drop(self, key: tuple[str, int]) -> bytes | None:
        data = self._parts.pop(key, None)
        self._size -= len(data or b"")
        return data


passed = _Passed()


def open_part(full: str, start: int, size: int, version: str | None = None) -> BinaryIO:
    """Some bytes of a file or object.

    Args:
        full: its path or address.
        start: the first byte.
        size: how many.
        version: of an object, which must still be the same.

    Raises:
        OSError: they cannot be read, are not all there, or the object is another one now.
    """
    if not size:
        data = b""
    elif remote.is_address(full):
        data = passed.take(full, start) or remote.part(full, start, size, version)
    else:
        with _open_regular(full) as file:
            file.seek(start)
            data = file.read(size)
    if len(data) < size:
        raise OSError("the archive that holds it is cut short; copy or download it again")
    return io.BytesIO(data)


def _refuse(reason: str) -> BinaryIO:
    raise OSError(reason)


def _open_regular(path: str) -> BinaryIO:
    # Without O_NONBLOCK a named pipe would block until somebody writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as exc:
        raise OSError(errno.EINVAL, "the path holds a NUL byte (is the list separated by NULs?)", path) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return os.fdopen(descriptor, "rb")
