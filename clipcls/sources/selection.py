"""Which of the files that are met in folders, patterns and archives are images to look at."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from clipcls.decode import HEIC_SUFFIXES, RAW_SUFFIXES
from clipcls.errors import UsageError
from clipcls.video import VIDEO_EXTRA, VIDEO_SUFFIXES, Sampling

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
TABLE_SUFFIXES = frozenset({".parquet", ".pq", ".arrow", ".feather", ".ipc"})
"""Tables with a column of images, or of their paths."""
TAR_SUFFIXES = frozenset({".tar"})
"""Archives of images, such as the shards of a WebDataset; compressed ones cannot be read from the middle."""
COMPRESSED = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z"),
    *(".zip", ".7z", ".rar"),
)
"""What archives are called that must be unpacked first."""
CONTAINER_SUFFIXES = TABLE_SUFFIXES | TAR_SUFFIXES

_SYSTEM_FOLDERS = frozenset({"@eaDir"})  # thumbnails that a Synology NAS keeps beside the photographs


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a path led to: an image, a video, or a table or archive that holds images."""

    path: str
    """As the person would type it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the folder's metadata say of it."""
    size: int | None = None
    """Bytes, where a listing told."""


class Selection:
    """Which files are taken; see ``ImageSource`` for the arguments."""

    skipped: Counter[str]
    """By suffix, files left out for want of an optional package, or because nobody asked for videos."""

    def __init__(
        self, *, recursive: bool, include: Sequence[str], exclude: Sequence[str], videos: Sampling | None
    ) -> None:
        self.skipped = Counter()
        self.recursive = recursive
        self.quiet = False
        """Whether nothing is said, since the same files are walked another time."""
        self._include = [pattern.rstrip("/") for pattern in include]
        self._exclude = [pattern.rstrip("/") for pattern in exclude]
        self._videos = videos
        self._suffixes = SUFFIXES
        if find_spec("pillow_heif"):
            self._suffixes |= HEIC_SUFFIXES
        if find_spec("rawpy"):
            self._suffixes |= RAW_SUFFIXES
        if videos and videos.folders:
            if not find_spec("av"):
                raise UsageError(f'videos need an optional package: pip install "{VIDEO_EXTRA}"')
            self._suffixes |= VIDEO_SUFFIXES

    @property
    def narrow(self) -> bool:
        """Whether there are patterns, so that only looking at every name tells how many are taken."""
        return bool(self._include or self._exclude)

    def silent(self) -> Selection:
        """The same, to count with."""
        other = copy(self)
        other.skipped, other.quiet = Counter(), True
        return other

    def chosen(self, path: str) -> bool:
        """Whether a file is taken that is named itself."""
        return (self._includes(path) or suffix_of(path) in CONTAINER_SUFFIXES) and not _matches(path, self._exclude)

    def excluded(self, relative: str) -> bool:
        """Whether a file or folder met in a folder is left out, by its path below that folder."""
        path = relative.replace(os.sep, "/")
        parts = path.split("/")
        return not _SYSTEM_FOLDERS.isdisjoint(parts) or any(
            fnmatchcase(path, pattern) if "/" in pattern else any(fnmatchcase(part, pattern) for part in parts)
            for pattern in self._exclude
        )

    def takes(self, relative: str) -> bool:
        """Whether a file met in a folder is wanted; camera files and videos that are not are counted."""
        if not self._includes(relative):
            return False
        suffix = suffix_of(relative)
        if suffix in self._suffixes:
            return True
        if suffix in CAMERA_SUFFIXES or (self._videos and suffix in VIDEO_SUFFIXES):
            self.skipped[suffix] += 1
        return False

    def takes_container(self, relative: str) -> bool:
        """Whether a file met in a folder is a table or archive; a name that begins with ``_`` marks what is none."""
        path = relative.replace(os.sep, "/")
        return suffix_of(path) in CONTAINER_SUFFIXES and not any(part.startswith("_") for part in path.split("/"))

    def _includes(self, path: str) -> bool:
        return not self._include or _matches(path, self._include)


@lru_cache(4)  # one file is asked after several times, by its path and by the part of it below a folder
def suffix_of(path: str) -> str:
    """A path's suffix in lower case; of an address without what follows ``?``."""
    return os.path.splitext(_bare(path))[1].lower()


def is_compressed(path: str) -> bool:
    """Whether a path's name is that of an archive that must be unpacked first."""
    return _bare(path).lower().endswith(COMPRESSED)


def _bare(path: str) -> str:
    return path.partition("?")[0] if "://" in path else path


def images_first(files: Iterable[Found]) -> Iterator[Found]:
    """What a folder or pattern stands for: its images; where there are none, the tables and archives in it."""
    containers: list[Found] | None = []
    for file in files:
        if suffix_of(file.path) not in CONTAINER_SUFFIXES:
            containers = None
            yield file
        elif containers is not None:
            containers.append(file)
    yield from containers or ()


def fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, matches a pattern in which ``**`` stands for any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return fits(parts, pattern[1:]) or (bool(parts) and fits(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


def _matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a file's name, or for a pattern with ``/`` its whole path, matches one of the patterns."""
    path = path.replace(os.sep, "/")
    name = path.rpartition("/")[2]
    return any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)
