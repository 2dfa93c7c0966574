"""Tar archives of images, such as the shards of a WebDataset: every image in them, where it lies, and what is told of
it by members that share its key.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from clipcls.records import FileStamp, ImageRef
from clipcls.sources.opening import open_file, open_part, passed, refused, stamp_of
from clipcls.sources.remote import is_address, version_of
from clipcls.sources.selection import Selection

if TYPE_CHECKING:
    from tarfile import TarFile, TarInfo

_TOLD = {"txt": "caption", "json": "json", "cls": "cls"}
"""What members beside an image are carried through, by their ending, and under which name."""
_LONGEST = 1 << 20
"""Bytes of such a member."""
_KEPT = 8 << 20
"""Bytes of an image at most that is kept as it comes by."""
_BLOCK = 1 << 20


def images(path: str, base: str, selection: Selection) -> Iterator[ImageRef]:
    """The images in an archive, under ids such as ``shard-00000.tar/key.jpg``, in the archive's order.

    Args:
        path: the archive's path or address, as the person typed it.
        base: the absolute folder that a relative ``path`` starts from.
        selection: which members are taken.

    Raises:
        OSError: the archive cannot be read, or not to its end; the text says why in one line.
    """
    full = path if is_address(path) else os.path.join(base, path)
    whole = stamp_of(full)
    with closing(open_file(full)) as file:
        version = version_of(file)
        for members, told in _samples(file, full, selection):
            for member in members:
                name = f"{path}/{_name(member)}"
                if not member.isreg() or member.issparse():
                    yield refused(name, base, "only a link in the archive, or a file with holes; unpack it first", told)
                    continue
                stamp = whole and FileStamp(f"{whole.path}#{member.offset_data}", member.size, whole.mtime_ns)
                opening = partial(open_part, full, member.offset_data, member.size, version)
                yield ImageRef(name, base, stamp, opening, told)


def _samples(file: BinaryIO, full: str, selection: Selection) -> Iterator[tuple[list[TarInfo], dict[str, Any]]]:
    """Images that follow each other under one key, and what is told of them; where none are, nothing."""
    try:
        with _opened(file, streamed=is_address(full)) as archive:
            yield from _grouped(archive, selection, full)
    except OSError:
        raise
    except Exception as exc:  # of damaged headers tarfile raises what comes
        raise OSError(f"damaged or cut short, or no tar archive ({' '.join(str(exc).split())})") from exc


def _grouped(archive: TarFile, selection: Selection, full: str) -> Iterator[tuple[list[TarInfo], dict[str, Any]]]:
    key = ""
    found: list[TarInfo] = []
    told: dict[str, Any] = {}
    try:
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # else it remembers them all
            name = _name(member)
            if member.isdir() or any(part.startswith(".") and part != ".." for part in name.split("/")):
                continue
            stem, kind = _split(name)
            if stem != key:
                if found:
                    yield found, told
                key, found, told = stem, [], {}
            if kind in _TOLD:
                told[_TOLD[kind]] = _text(archive, member)
            elif not selection.excluded(name) and selection.takes(name):
                found.append(member)
                if is_address(full) and member.size <= _KEPT and (data := _content(archive, member)):
                    passed.keep(full, member.offset_data, data)
    except Exception:
        if found:
            yield found, told  # what came before the damage
        raise
    if found:
        yield found, told


def _opened(file: Any, *, streamed: bool) -> TarFile:
    """An archive that ends with an error where it is damaged, and not quietly as if there were no more in it."""
    import tarfile

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            try:
                return super().frombuf(buf, encoding, errors)
            except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError as exc:
                raise tarfile.ReadError(str(exc)) from exc

    return tarfile.open(fileobj=file, mode="r|" if streamed else "r:", tarinfo=Header, bufsize=_BLOCK)


def _text(archive: TarFile, member: TarInfo) -> str | None:
    data = _content(archive, member) if member.size <= _LONGEST else None
    return None if data is None else data.decode("utf-8", "replace").strip()


def _content(archive: TarFile, member: TarInfo) -> bytes | None:
    """A member's bytes; None if they are not in one piece, or not all there."""
    file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
    data = file.read() if file else b""
    return data if len(data) == member.size else None


def _name(member: TarInfo) -> str:
    return posixpath.normpath(member.name)


def _split(name: str) -> tuple[str, str]:
    """A member's key, up to the first dot of its file's name, and what follows in lower case."""
    folder, _, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}/{stem}", kind.lower()
