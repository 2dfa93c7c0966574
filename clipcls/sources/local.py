"""Where images come from: files, folders, glob patterns, a list on stdin; always in a stable order."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from fnmatch import fnmatchcase
from functools import partial
from glob import glob, has_magic
from importlib.util import find_spec
from io import BufferedIOBase
from itertools import chain, islice
from typing import BinaryIO, cast

from clipcls.decode import HEIC_SUFFIXES, RAW_SUFFIXES
from clipcls.errors import InputError, UsageError
from clipcls.records import FileStamp, ImageRef
from clipcls.video import VIDEO_EXTRA, VIDEO_SUFFIXES, Sampling, Videos, is_video

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
        *(".tga", ".ico", ".icns", ".pcx", ".qoi", ".dds", ".psd", ".sgi", ".rgb", ".bw", ".xbm"),
    )
)
"""Files taken from folders and glob patterns, by lower-case suffix: what Pillow decodes by itself."""
CAMERA_SUFFIXES = HEIC_SUFFIXES | RAW_SUFFIXES
"""Files taken from folders and glob patterns only where the optional package that reads them is installed."""

_SYSTEM_FOLDERS = frozenset({"@eaDir"})  # thumbnails that a Synology NAS keeps beside the photographs
_log = logging.getLogger("clipcls")


def file_ref(path: str, base: str) -> ImageRef:
    """The image in one file, which need not exist.

    Args:
        path: the path as the person typed it.
        base: the absolute folder that a relative ``path`` starts from.
    """
    full = os.path.join(base, path)
    stamp = None
    try:
        found = os.stat(full)
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        pass
    else:
        if stat.S_ISREG(found.st_mode):
            stamp = FileStamp(os.path.normpath(full), found.st_size, found.st_mtime_ns)
    return ImageRef(path, base, stamp, partial(_open_regular, full))


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


class ImageSource:
    """The images behind some paths, in a stable order; a new iteration walks the folders anew.

    Args:
        paths: files, folders, glob patterns (``*``, ``?``, ``[``, ``**``), or ``-`` for one path a line on stdin.
            A file named here is taken whatever its suffix; folders and patterns give files with an image's suffix,
            and leave out hidden ones. With several paths no file comes twice.
        recursive: whether folders are searched to any depth; what ``**`` stands for always is.
        include: patterns of which a file must match one, if any are given.
        exclude: patterns of which it must match none. A pattern without ``/`` is compared with the file's name, for
            ``exclude`` also with the folders' below the one named; one with ``/`` with the whole path below it.
            Upper and lower case differ.
        limit: how many images at most.
        videos: which frames of videos are images, too; None takes none.
        stdin: what ``-`` reads, by default the process's own stdin; it can be read only once.
        null_separated: whether the paths on stdin end in NUL bytes (``find -print0``) and not in newlines.

    Raises:
        InputError: a path does not exist or a folder cannot be read, or a pattern matches nothing.
        UsageError: videos in folders were asked for, and the optional package that reads them is missing.
    """

    skipped: Counter[str]
    """By suffix, camera files left out for want of the optional package, and videos that only naming them, or
    ``Sampling.folders``, would have brought in; filled while iterating."""

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        recursive: bool = True,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        limit: int | None = None,
        videos: Sampling | None = None,
        stdin: BinaryIO | None = None,
        null_separated: bool = False,
    ) -> None:
        self.skipped = Counter()
        self._paths = [os.fsdecode(path) for path in paths]
        self._recursive = recursive
        self._include = [pattern.rstrip("/") for pattern in include]
        self._exclude = [pattern.rstrip("/") for pattern in exclude]
        self._limit = limit
        self._videos = videos
        self._stdin = stdin
        self._separator = b"\0" if null_separated else b"\n"
        self._base = os.getcwd()
        self._quiet = False
        self._suffixes = SUFFIXES
        if find_spec("pillow_heif"):
            self._suffixes |= HEIC_SUFFIXES
        if find_spec("rawpy"):
            self._suffixes |= RAW_SUFFIXES
        if videos and videos.folders:
            if not find_spec("av"):
                raise UsageError(f'videos need an optional package: pip install "{VIDEO_EXTRA}"')
            self._suffixes |= VIDEO_SUFFIXES
        for path in self._paths:
            _check(path)

    def __iter__(self) -> Iterator[ImageRef]:
        self.skipped.clear()
        return islice(self._images(), self._limit)

    def _images(self) -> Iterator[ImageRef]:
        videos = Videos(self._videos) if self._videos else None
        for path in self._files():
            file = file_ref(path, self._base)
            if videos and is_video(path):
                yield from videos.frames(file)
            else:
                yield file

    def count(self) -> int | None:
        """How many images an iteration would give now, without looking at each; None when stdin is among the paths, or
        a video whose scenes must be looked for."""
        if "-" in self._paths:
            return None
        silent = copy(self)
        silent.skipped, silent._quiet = Counter(), True
        videos = Videos(self._videos) if self._videos else None
        images = 0
        for path in silent._files():
            found = videos.count(file_ref(path, self._base)) if videos and is_video(path) else 1
            if found is None:
                return None
            images += found
        return images if self._limit is None else min(images, self._limit)

    def _files(self) -> Iterator[str]:
        """The files' paths as the person would type them."""
        files: Iterator[str] = chain.from_iterable(map(self._expand, self._paths))
        if len(self._paths) > 1:
            files = _once(files, self._base)
        return islice(files, self._limit)

    def _expand(self, path: str) -> Iterator[str]:
        if path == "-":
            yield from filter(self._chosen, _listed(self._stdin or sys.stdin.buffer, self._separator))
        elif _is_pattern(path):
            yield from self._expand_pattern(path)
        elif os.path.isdir(path):
            yield from self._walk("" if path == os.curdir else path)
        elif self._chosen(path):
            yield path

    def _chosen(self, path: str) -> bool:
        """Whether ``include`` and ``exclude`` let a file through that is named itself."""
        return (not self._include or _matches(path, self._include)) and not _matches(path, self._exclude)

    def _expand_pattern(self, pattern: str) -> Iterator[str]:
        """Images that match a pattern, and those in matching folders."""
        root, found, deep = _split_pattern(pattern)
        for relative in found:
            if self._excluded(relative):
                continue
            if os.path.isdir(os.path.join(root, relative) or os.curdir):
                yield from self._walk(root, relative, deep)
            elif not deep and self._takes(relative):
                yield os.path.join(root, relative)

    def _walk(self, root: str, start: str = "", deep: Sequence[str] = ()) -> Iterator[str]:
        """Images below ``root/start``, only those that match the pattern ``deep`` if there is one.

        Each folder is entered once, so links that lead in a circle do no harm.
        """
        above, inside = len(start.split(os.sep)) if start else 0, os.path.join(root, "")
        visited: set[tuple[int, int]] = set()
        pending = self._list(root, start, visited)
        while pending:
            relative, is_folder = pending.pop()
            if is_folder:
                if self._recursive or deep:
                    pending += self._list(root, relative, visited)
            elif (not deep or _fits(relative.split(os.sep)[above:], deep)) and self._takes(relative):
                yield inside + relative

    def _list(self, root: str, relative: str, visited: set[tuple[int, int]]) -> list[tuple[str, bool]]:
        """One folder's entries in reverse order: the path below ``root``, and whether it is a folder."""
        folder = os.path.join(root, relative) or os.curdir
        inside = os.path.join(relative, "")
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in visited and status.st_ino:  # some network file systems number everything 0
                return []
            visited.add(identity)
            with os.scandir(folder) as entries:
                found = [(inside + e.name, _is_folder(e)) for e in entries if not e.name.startswith(".")]
        except OSError as exc:
            if not self._quiet:
                _log.warning("%s: this folder is left out: %s", folder, exc.strerror or exc)
            return []
        return sorted((entry for entry in found if not self._excluded(entry[0])), reverse=True)

    def _excluded(self, relative: str) -> bool:
        path = relative.replace(os.sep, "/")
        parts = path.split("/")
        return not _SYSTEM_FOLDERS.isdisjoint(parts) or any(
            fnmatchcase(path, pattern) if "/" in pattern else any(fnmatchcase(part, pattern) for part in parts)
            for pattern in self._exclude
        )

    def _takes(self, relative: str) -> bool:
        """Whether a file met in a folder is wanted; camera files and videos that are not are counted."""
        if self._include and not _matches(relative, self._include):
            return False
        suffix = os.path.splitext(relative)[1].lower()
        if suffix in self._suffixes:
            return True
        if suffix in CAMERA_SUFFIXES or (self._videos and suffix in VIDEO_SUFFIXES):
            self.skipped[suffix] += 1
        return False


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a file's name, or for a pattern with ``/`` its whole path, matches one of the patterns."""
    path = path.replace(os.sep, "/")
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def _check(path: str) -> None:
    """Raise InputError for a path that leads nowhere."""
    if path == "-":
        return
    if _is_pattern(path):
        if not _split_pattern(path)[1]:
            raise InputError(f"{path}: nothing matches this pattern; check it, or name the folder instead")
        return
    try:
        if os.path.isdir(path):
            os.scandir(path).close()
        else:
            os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
        raise InputError(f"{path or repr(path)}: no such file or folder; {_advice(path)}") from exc
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror or exc}; check its permissions") from exc


def _advice(path: str) -> str:
    """What to do about a path that does not exist."""
    from difflib import get_close_matches

    folder, name = os.path.split(path.rstrip(os.sep))
    try:
        similar = get_close_matches(name, os.listdir(folder or os.curdir), 1)
    except (OSError, ValueError):
        similar = []
    return f"did you mean {os.path.join(folder, similar[0])}?" if similar else "check the spelling"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself; opening it tells why
        return False


def _is_pattern(path: str) -> bool:
    return has_magic(path) and not os.path.lexists(path)


def _split_pattern(pattern: str) -> tuple[str, list[str], list[str]]:
    """A pattern's leading folder without wildcards, the paths below it that match up to any ``**``, and the rest.

    From ``**`` on it is for ``_walk`` to match: ``glob`` would follow links in a circle.
    """
    parts = re.split(r"[\\/]" if os.sep == "\\" else "/", pattern)
    first = next(at for at, part in enumerate(parts) if has_magic(part))
    star = parts.index("**") if "**" in parts else len(parts)
    root = os.sep.join([*parts[:first], ""])
    deep = [part for part in parts[star:] if part]
    if deep[-1:] == ["**"]:
        deep.append("*")  # at the end it stands for what is inside
    if first < star:
        return root, sorted(glob(os.path.join(*parts[first:star]), root_dir=root or None)), deep
    return root, [""] if os.path.isdir(root or os.curdir) else [], deep


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, matches a pattern in which ``**`` stands for any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (bool(parts) and _fits(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _once(paths: Iterable[str], base: str) -> Iterator[str]:
    seen: set[str] = set()
    for path in paths:
        full = os.path.normpath(os.path.join(base, path))
        if full not in seen:
            seen.add(full)
            yield path


def _listed(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    """The paths in a list, each as soon as it arrives."""
    rest = b""
    while chunk := cast(BufferedIOBase, stream).read1(1 << 16):
        *lines, rest = (rest + chunk).split(separator)
        yield from _names(lines, separator)
    yield from _names([rest], separator)


def _names(lines: Iterable[bytes], separator: bytes) -> Iterator[str]:
    for line in lines:
        name = line.rstrip(b"\r\n") if separator == b"\n" else line
        if name.strip():
            yield os.fsdecode(name)
