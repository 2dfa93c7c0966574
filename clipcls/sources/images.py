"""The one way in: the images behind some paths, whatever they lead to."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from itertools import chain, islice
from typing import BinaryIO

from clipcls.errors import ClipclsError, InputError, UsageError
from clipcls.records import ImageRef
from clipcls.sources.listing import RemoteFolders, is_remote_folder, is_remote_pattern
from clipcls.sources.lists import braced, listed
from clipcls.sources.local import Folders, check, is_pattern
from clipcls.sources.opening import file_ref, local_path, open_file, refused
from clipcls.sources.remote import filesystem, is_address, is_web
from clipcls.sources.selection import (
    TABLE_SUFFIXES,
    TAR_SUFFIXES,
    Found,
    Selection,
    images_first,
    is_compressed,
    suffix_of,
)
from clipcls.video import Sampling, Videos, is_video

_AT_ONCE = 8
"""Archives far away that are read at a time."""
_COMPRESSED = "a compressed archive, which cannot be read; unpack it and name the folder, or make it a plain .tar"


class ImageSource:
    """The images behind some paths, in a stable order; a new iteration walks the folders anew.

    A source that cannot be read, or not to its end, is one reference whose ``open`` tells why.

    Args:
        paths: files, folders, glob patterns (``*``, ``?``, ``[``, ``**``), ``@FILE`` for a file with one path a line,
            or ``-`` for such a list on stdin; also tables (Parquet, Arrow, Feather) with a column of images or of
            paths, and tar archives such as the shards of a WebDataset. ``{000..099}`` stands for so many paths. Any
            of them may be an address: ``s3://bucket/folder/``, ``https://host/a.jpg``.
            A file named here is taken whatever its suffix; folders and patterns give files with an image's suffix,
            or, where there are none, the tables and archives, and leave out hidden ones. With several paths no file
            comes twice.
        recursive: whether folders are searched to any depth; what ``**`` stands for always is.
        include: patterns of which an image must match one, if any are given.
        exclude: patterns of which it must match none. A pattern without ``/`` is compared with the file's name, for
            ``exclude`` also with the folders' below the one named; one with ``/`` with the whole path below it.
            Upper and lower case differ.
        limit: how many images at most.
        videos: which frames of videos are images, too; None takes none.
        stdin: what ``-`` reads, by default the process's own stdin; it can be read only once.
        null_separated: whether the paths in lists end in NUL bytes (``find -print0``) and not in newlines.
        image_column: the column of tables that holds the images or their paths; None finds the one that can be meant.
        whole: whether an iteration goes to the end before any image is opened, so that archives far away, which are
            read for what is in them, can be read several at once.

    Raises:
        InputError: a path does not exist or a folder cannot be read, or a pattern matches nothing; for what is far
            away while iterating, before the first image.
        UsageError: videos in folders were asked for, or a table or an address is named, and the optional package that
            reads them is missing; while iterating, before the first image, a table's column cannot be found.
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
        image_column: str | None = None,
        whole: bool = False,
    ) -> None:
        self._paths = [local_path(os.fsdecode(path)) for path in paths]
        self._selection = Selection(recursive=recursive, include=include, exclude=exclude, videos=videos)
        self.skipped = self._selection.skipped
        self._limit = limit
        self._videos = videos
        self._stdin = stdin
        self._separator = b"\0" if null_separated else b"\n"
        self._column = image_column
        self._whole = whole
        self._base = os.getcwd()
        self._begun = False
        for path in chain.from_iterable(map(braced, self._paths)):
            _check(path)

    def __iter__(self) -> Iterator[ImageRef]:
        self.skipped.clear()
        self._begun = False
        return islice(self._images(), self._limit)

    def count(self) -> int | None:
        """How many images an iteration would give now, without looking at each; None where only looking would tell:
        with stdin or addresses among the paths, archives, or videos whose scenes must be looked for."""
        if any(path == "-" or is_address(path.removeprefix("@")) for path in self._paths):
            return None
        silent = copy(self)
        silent._selection = self._selection.silent()
        videos = Videos(self._videos) if self._videos else None
        images = 0
        try:
            for file in chain.from_iterable(files for _, files in silent._sources()):
                if (found := silent._count(file.path, videos)) is None:
                    return None
                images += found
        except (OSError, ClipclsError):  # which iterating will tell
            return None
        return images if self._limit is None else min(images, self._limit)

    def _count(self, path: str, videos: Videos | None) -> int | None:
        suffix = suffix_of(path)
        if suffix in TAR_SUFFIXES or (suffix in TABLE_SUFFIXES and (self._selection.narrow or is_address(path))):
            return None
        if suffix in TABLE_SUFFIXES:
            from clipcls.sources import tables

            return tables.count(path, self._base)
        return videos.count(file_ref(path, self._base)) if videos and is_video(path) else 1

    def _images(self) -> Iterator[ImageRef]:
        videos = Videos(self._videos) if self._videos else None
        groups = self._groups(videos)
        if self._whole and self._limit is None:
            return chain.from_iterable(_ahead(groups))
        return chain.from_iterable(images for _, images in groups)

    def _groups(self, videos: Videos | None) -> Iterator[tuple[Found | None, Iterator[ImageRef]]]:
        """The images of each file; where files cannot be listed, only what says so."""
        for path, files in self._sources():
            try:
                for file in files:
                    yield file, self._guarded(path, self._of_file(file, videos))
            except (UsageError, OSError) as exc:
                yield None, self._guarded(path, _raising(exc))

    def _guarded(self, name: str, images: Iterable[ImageRef], faults: bool = True) -> Iterator[ImageRef]:
        """Images as they come. What keeps the rest from coming is one that cannot be read, too; but before the first
        image of all it is an error.

        Args:
            name: of what holds the images.
            images: they.
            faults: whether what cannot be read is such an error, and not only what cannot be understood.
        """
        try:
            for image in images:
                self._begun = True
                yield image
        except UsageError as exc:
            if not self._begun:
                raise
            yield refused(name, self._base, str(exc).removeprefix(f"{name}: "))
        except OSError as exc:
            reason = str(exc.strerror or exc)
            if faults and not self._begun:
                raise InputError(f"{name}: cannot be read: {reason}") from exc
            yield refused(name, self._base, reason)

    def _sources(self) -> Iterator[tuple[str, Iterator[Found]]]:
        """Each path, and the files that it leads to."""
        seen: set[str] | None = set() if len(self._paths) > 1 else None
        for path in chain.from_iterable(map(braced, self._paths)):
            files = self._expand(path)
            yield path, files if seen is None else _new(files, seen, self._base)

    def _expand(self, path: str) -> Iterator[Found]:
        if path == "-":
            yield from self._listed(self._stdin or sys.stdin.buffer)
        elif _is_list(path):
            with closing(open_file(path[1:])) as file:
                yield from self._listed(file)
        elif is_address(path):
            yield from self._expand_address(path)
        elif is_pattern(path):
            yield from images_first(Folders(self._selection).matching(path))
        elif os.path.isdir(path):
            yield from images_first(Folders(self._selection).walk("" if path == os.curdir else path))
        elif self._selection.chosen(path):
            yield Found(path)

    def _expand_address(self, address: str) -> Iterator[Found]:
        if is_remote_pattern(address):
            yield from images_first(RemoteFolders(self._selection).matching(address))
        elif is_remote_folder(address):
            yield from images_first(RemoteFolders(self._selection).walk(address))
        elif self._selection.chosen(address):
            yield Found(address)

    def _listed(self, file: BinaryIO) -> Iterator[Found]:
        for path in listed(file, self._separator):
            if self._selection.chosen(path):
                yield Found(local_path(path))

    def _of_file(self, file: Found, videos: Videos | None) -> Iterator[ImageRef]:
        """The images in a file: one, unless it is a video, a table or an archive."""
        path, suffix = file.path, suffix_of(file.path)
        if suffix in TAR_SUFFIXES:
            from clipcls.sources import tars

            yield from self._guarded(path, tars.images(path, self._base, self._selection), faults=False)
        elif suffix in TABLE_SUFFIXES:
            from clipcls.sources import tables

            yield from self._guarded(path, tables.images(path, self._base, self._column, self._selection), faults=False)
        elif is_compressed(path):
            yield refused(path, self._base, _COMPRESSED, file.extra)
        elif not (videos and is_video(path)):
            yield file_ref(path, self._base, file.extra, file.size)
        elif is_address(path):
            yield refused(path, self._base, "videos are read from disk only; download it first", file.extra)
        else:
            yield from videos.frames(file_ref(path, self._base, file.extra))


def _ahead(groups: Iterable[tuple[Found | None, Iterator[ImageRef]]]) -> Iterator[Iterable[ImageRef]]:
    """The images of each file, in the same order; archives far away are read several at once, each to its end."""
    from concurrent.futures import Future, ThreadPoolExecutor

    def reading(waiting: Iterator[ImageRef] | Future[list[ImageRef]]) -> Iterable[ImageRef]:
        return waiting.result() if isinstance(waiting, Future) else waiting

    pool = ThreadPoolExecutor(_AT_ONCE)
    ahead: deque[Iterator[ImageRef] | Future[list[ImageRef]]] = deque()
    try:
        for file, images in groups:
            is_far = file is not None and is_address(file.path) and suffix_of(file.path) in TAR_SUFFIXES
            ahead.append(pool.submit(list, images) if is_far else images)
            if len(ahead) > _AT_ONCE:
                yield reading(ahead.popleft())
        yield from map(reading, ahead)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _raising(exc: Exception) -> Iterator[ImageRef]:
    raise exc
    yield


def _is_list(path: str) -> bool:
    return path.startswith("@") and not os.path.lexists(path)


def _check(path: str) -> None:
    """Raise InputError for a path that leads nowhere, and UsageError for one that a package is missing for."""
    if path == "-":
        return
    if _is_list(path):
        path = path[1:]
    if suffix_of(path) in TABLE_SUFFIXES:
        from clipcls.sources import tables

        tables.check_package()
    if not is_address(path):
        check(path)
    elif not is_web(path) or path.endswith("/") or is_remote_pattern(path) or suffix_of(path) in TABLE_SUFFIXES:
        filesystem(path)


def _new(files: Iterable[Found], seen: set[str], base: str) -> Iterator[Found]:
    """The files that were not seen before."""
    for file in files:
        full = file.path if is_address(file.path) else os.path.normpath(os.path.join(base, file.path))
        if full not in seen:
            seen.add(full)
            yield file
