"""Objects far away: whole, in part and as a stream. The web is read without more packages, all else through fsspec.

What may pass, such as a server that is busy or a connection that breaks, is tried again; what is left of it is an
``OSError`` whose text is one line for people.
"""

from __future__ import annotations

import io
import re
import string
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import lru_cache, partial
from typing import Any, BinaryIO, TypeVar, cast

from clipcls.errors import UsageError

T = TypeVar("T")

REMOTE_EXTRA = "clipcls[remote]"
"""The extra whose packages read what is far away."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z0-9+.-]+)*://")
_WEB = ("http://", "https://")
_PATIENT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
"""Whose packages try again by themselves."""
_PAUSES = (0.5, 2.0)
"""Seconds, about, before something is tried again."""
_TIMEOUT = 30.0
"""Seconds without a byte from a web server."""
_LARGEST = 1 << 30
"""Bytes of an object that is fetched as a whole."""
_PATIENCE = 300.0
"""Seconds for all the bytes of a picture from a web server."""
_BLOCK = 1 << 20
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP's answers that may be others soon."""
_BROKEN = re.compile("Connect|Timeout|Disconnect|Payload|IncompleteRead|Protocol|SlowDown|Reset")
"""What the names of other packages' errors hold when a connection failed."""
_WHOLE_ONLY = re.compile("range requests|seek streaming HTTP")
"""What fsspec says of a web server that sends files only from their start."""
_TELLING = (
    *("ETag", "etag", "generation", "blob_id", "content_md5"),
    *("Last-Modified", "LastModified", "last_modified", "modified", "mtime", "created"),
)
"""Under which names file systems and web servers tell what is different once an object has changed, best first."""
CHANGED = "the archive has changed since the run began; --overwrite starts over"


def is_address(path: str) -> bool:
    """Whether a path is an address, such as ``s3://bucket/a.jpg``."""
    return _ADDRESS.match(path) is not None


def is_web(address: str) -> bool:
    """Whether an address is a web server's."""
    return address.lower().startswith(_WEB)


def filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it.

    Raises:
        UsageError: a package is missing, or nothing is known by the address's scheme.
    """
    scheme, _, place = address.partition("://")
    # To fsspec another address begins at "::", as for an archive in a bucket; here it can only be part of a name.
    part_of_name = "::" in place and (scheme in _PATIENT or is_web(address))
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(f"{scheme}://{place.partition('/')[0]}" if part_of_name else address)
        if part_of_name:
            path = fs._strip_protocol(address)
    except ImportError as exc:
        raise UsageError(f'{scheme}:// needs an optional package: pip install "{REMOTE_EXTRA}" ({exc})') from exc
    except ValueError as exc:
        raise UsageError(f"{address}: {_line(exc)}") from exc
    return fs, str(path)


def open_whole(address: str, size: int | None = None) -> BinaryIO:
    """An object's bytes, all of them fetched.

    Args:
        address: where it lies.
        size: its length, if it is known.

    Raises:
        OSError: it cannot be had; the text says why in one line.
    """
    return io.BytesIO(tried(address, partial(_whole, address, size)))


def part(address: str, start: int, size: int, version: str | None = None) -> bytes:
    """Some bytes of an object, fewer where it ends before.

    Args:
        address: where it lies.
        start: the first byte.
        size: how many.
        version: the object's when it was listed, by ``version_of``; None where nothing told.

    Raises:
        OSError: they cannot be had, or the object is another one now; the text says why in one line.
    """
    return tried(address, partial(_part, address, start, size, version))


def open_stream(address: str) -> BinaryIO:
    """An object that is read from its start to its end, a piece at a time. The errors are ``open_whole``'s."""
    return io.BufferedReader(_Stream(address), _BLOCK)


def version(address: str) -> str | None:
    """What is different once an object has changed; None where nothing tells. The errors are ``open_whole``'s."""
    fs, path = filesystem(address)
    return _version_in(tried(address, partial(fs.info, path)))


def version_of(stream: BinaryIO) -> str | None:
    """The same, of what ``open_stream`` opened, without another request."""
    return getattr(getattr(stream, "raw", None), "version", None)


def check_same(listed: object, now: object, changed: str) -> None:
    """Raise an OSError that says ``changed`` where two versions differ; of None nothing is known."""
    if listed and now and listed != now:
        raise OSError(changed)


def tried(address: str, work: Callable[[], T]) -> T:
    """What a piece of work returns that asks for an object; trouble that may pass has it done again.

    Raises:
        OSError: it failed; the text says why in one line.
    """
    from random import uniform

    own = address.partition("://")[0].rpartition("::")[2].lower() in _PATIENT
    pauses = iter(() if own else _PAUSES)
    while True:
        try:
            return work()
        except Exception as exc:  # every package has its own
            pause = next(pauses, None)
            if pause is None or not _may_pass(exc):
                raise told(exc) from exc
        time.sleep(pause * uniform(0.7, 1.3))


def _whole(address: str, size: int | None) -> bytes:
    if is_web(address):
        with closing(_response(address)) as response:
            return _content(response)
    fs, path = filesystem(address)
    if size is None:
        size = fs.size(path)
    if size is not None and size > _LARGEST:
        raise OSError(_too_large(size))
    return cast(bytes, fs.cat_file(path))


def _part(address: str, start: int, size: int, version: str | None) -> bytes:
    if not is_web(address):
        if version:
            check_same(version, _version_now(address, version), CHANGED)
        fs, path = filesystem(address)
        return cast(bytes, fs.cat_file(path, start=start, end=start + size))
    with closing(_response(address, start, start + size)) as response:
        check_same(version, _version_in(response.headers), CHANGED)
        return _content(response, size)


@lru_cache(maxsize=4096)
def _version_now(address: str, _listed: str) -> str | None:
    """An object's version, for which each process asks once; and again where it was listed anew."""
    return version(address)


def _version_in(told: Mapping[str, Any]) -> str | None:
    """The version in what is told of an object. ETags have quotation marks in some answers and not in others."""
    return next((str(told[name]).strip('"') for name in _TELLING if told.get(name)), None)


def _response(address: str, start: int = 0, end: int | None = None) -> Any:
    """A web server's answer, from a byte on; one that knows no ranges sends what is before, too, which is read."""
    from urllib.error import HTTPError
    from urllib.parse import quote
    from urllib.request import Request, urlopen

    from clipcls import __version__

    headers = {"User-Agent": f"clipcls/{__version__}"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    request = Request(quote(address, safe=string.punctuation), headers=headers)
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as exc:
        exc.close()
        raise
    if start and response.status != 206:
        while start and (skipped := response.read(min(start, _BLOCK))):
            start -= len(skipped)
    return response


def _content(response: Any, most: int | None = None) -> bytes:
    """What a server sends, or its first bytes; all of it within some minutes, however slowly they come."""
    blocks, size, until = [], 0, time.monotonic() + _PATIENCE
    while most is None or size < most:
        if not (block := response.read1(_BLOCK if most is None else most - size)):
            break
        blocks.append(block)
        size += len(block)
        if size > _LARGEST:
            raise OSError(_too_large(size))
        if time.monotonic() > until:
            raise OSError("it comes too slowly")
    if size != most:
        _not_broken(response)
    return b"".join(blocks)


def _not_broken(response: Any) -> None:
    """Raise where a server's answer ended before its end, which http.client lets pass."""
    if response.length:
        raise ConnectionError(f"the server broke off {response.length} bytes before the end")


def _too_large(size: int) -> str:
    return f"{size / 1e9:.1f} GB or more is too large for a picture"


class _Stream(io.RawIOBase):
    """An object in one pass; where the connection breaks, it goes on from there."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._at = 0
        self._file: Any = None
        self.version: str | None = None
        tried(address, self._open)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = tried(self._address, partial(self._next, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def _open(self) -> None:
        if is_web(self._address):
            self._file = _response(self._address, self._at)
            now = _version_in(self._file.headers)
        else:
            fs, path = filesystem(self._address)
            self._file = fs.open(path, "rb")
            self._file.seek(self._at)
            now = _version_in(getattr(self._file, "details", None) or {})
        check_same(self.version, now, CHANGED)
        self.version = now

    def _next(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._open()
            data: bytes = self._file.read(size)
            if not data and is_web(self._address):
                _not_broken(self._file)
        except Exception:
            if self._file is not None:
                self._file.close()
                self._file = None
            raise
        self._at += len(data)
        return data


def _status(exc: BaseException) -> int | None:
    """HTTP's answer that an error tells of."""
    found = getattr(exc, "code", None) or getattr(exc, "status", None)
    return found if isinstance(found, int) else None


def _may_pass(exc: BaseException) -> bool:
    if (status := _status(exc)) is not None:
        return status in _BUSY
    cause = getattr(exc, "reason", None)  # of urllib's errors
    if isinstance(cause, OSError):
        return _may_pass(cause)
    return isinstance(exc, ConnectionError | TimeoutError) or _BROKEN.search(type(exc).__name__) is not None


def told(exc: Exception) -> OSError:
    """An error as one line for people."""
    cause = getattr(exc, "reason", None)
    if isinstance(cause, OSError):
        return told(cause)
    status = _status(exc)
    http = f" (HTTP {status})" if status else ""
    if isinstance(exc, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(f"there is nothing at this address{http}")
    if isinstance(exc, PermissionError) or status in (401, 403):
        return PermissionError(f"access denied{http}; check your credentials")
    if isinstance(exc, TimeoutError) or status == 408:
        return TimeoutError("no answer in time")
    if status:
        return OSError(f"the server answers with an error{http}")
    if _WHOLE_ONLY.search(str(exc)):
        return OSError("the web server sends this file only as a whole; download it first")
    if _BROKEN.search(type(exc).__name__) and not isinstance(exc, OSError):
        return ConnectionError("the server cannot be reached, or breaks off")
    return OSError(_line(exc))


def _line(exc: BaseException) -> str:
    text = " ".join((getattr(exc, "strerror", None) or str(exc)).split())
    return text[:200] or type(exc).__name__
