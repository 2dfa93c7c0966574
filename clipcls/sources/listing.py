"""Folders far away: buckets, and whatever else fsspec can list; in a stable order, a folder at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from clipcls.sources.metadata import NAMES, Notes
from clipcls.sources.remote import filesystem, is_web, tried
from clipcls.sources.selection import CAMERA_SUFFIXES, SUFFIXES, TAR_SUFFIXES, Found, Selection, fits, suffix_of

_S3 = ("s3://", "s3a://")
_MAGIC = re.compile(r"[*?\[]")
_WEB_MAGIC = re.compile(r"\*")  # where a question mark and brackets are part of addresses


class _Entry(NamedTuple):
    name: str
    is_folder: bool
    size: int | None


def is_remote_pattern(address: str) -> bool:
    """Whether an address has wildcards."""
    return (_WEB_MAGIC if is_web(address) else _MAGIC).search(address) is not None


def is_remote_folder(address: str) -> bool:
    """Whether an address is a folder's: asked only where its name does not tell.

    Raises:
        OSError: it cannot be asked.
    """
    if address.endswith("/"):
        return True
    if is_web(address) or suffix_of(address) in SUFFIXES | CAMERA_SUFFIXES | TAR_SUFFIXES:
        return False
    fs, path = filesystem(address)
    return bool(tried(address, partial(fs.isdir, path)))


class RemoteFolders:
    """The images in folders far away, and those that patterns match.

    Args:
        selection: which files are taken.

    Raises:
        OSError: while iterating, a folder cannot be listed.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    def matching(self, pattern: str) -> Iterator[Found]:
        """Images, tables and archives that match a pattern, and those in matching folders."""
        scheme, _, rest = pattern.partition("://")
        parts = rest.split("/")
        magic = _WEB_MAGIC if is_web(pattern) else _MAGIC
        first = next(at for at, part in enumerate(parts) if magic.search(part))
        wanted = [part for part in parts[first:] if part]
        if wanted[-1:] == ["**"]:
            wanted.append("*")  # at the end it stands for what is inside
        yield from _Walk(f"{scheme}://" + "/".join([*parts[:first], ""]), self._selection, wanted).files()

    def walk(self, address: str) -> Iterator[Found]:
        """Images, tables and archives in a folder."""
        yield from _Walk(address.rstrip("/") + "/", self._selection).files()


class _Walk:
    """One pass through the folders below an address, which ends in a slash."""

    def __init__(self, root: str, selection: Selection, pattern: Sequence[str] = ()) -> None:
        self._root, self._selection, self._pattern = root, selection, pattern
        self._fs, path = filesystem(root)
        self._fs.invalidate_cache()  # what it knows of an earlier pass
        self._path = path.rstrip("/") + "/" if path.rstrip("/") else path
        self._by_page = root.startswith(_S3) and hasattr(self._fs, "call_s3")
        self._notes = Notes()

    def files(self, folder: str = "") -> Iterator[Found]:
        """The files below ``folder``, which is empty or ends in a slash."""
        if not self._selection.quiet and (not self._pattern or fits(_parts(folder), self._pattern)):
            self._notes.add(folder.rstrip("/"), self._root + folder, self._metadata(folder))
        for entry in self._entries(folder):
            relative = folder + entry.name
            if entry.name.startswith(".") or self._selection.excluded(relative):
                continue
            if entry.is_folder:
                if self._enters(_parts(relative)):
                    yield from self.files(relative + "/")
            elif fits(_parts(relative), self._pattern) and self._takes(relative):
                yield Found(self._root + relative, self._notes.of(relative), entry.size)

    def _takes(self, relative: str) -> bool:
        return self._selection.takes_container(relative) or self._selection.takes(relative)

    def _enters(self, parts: Sequence[str]) -> bool:
        """Whether something in a folder could be wanted."""
        for at, part in enumerate(parts):
            if at == len(self._pattern):  # what the pattern matches is a folder above
                return self._selection.recursive
            if self._pattern[at] == "**":
                return True
            if not fnmatchcase(part, self._pattern[at]):
                return False
        return True

    def _entries(self, folder: str) -> Iterator[_Entry]:
        if self._by_page:
            return (entry for page in self._pages(folder) for entry in page)
        return iter(sorted(tried(self._root, partial(self._listed, folder))))

    def _listed(self, folder: str) -> list[_Entry]:
        place, entries = self._path + folder, []
        for found in self._fs.ls(place, detail=True):
            above, _, name = str(found["name"]).rstrip("/").rpartition("/")
            is_itself = f"{above}/{name}/" == place
            is_elsewhere = is_web(self._root) and f"{above}/" != place  # a page may link anywhere
            if not is_itself and not is_elsewhere:
                entries.append(_Entry(name, found["type"] == "directory", found.get("size")))
        return entries

    def _pages(self, folder: str, start: str = "") -> Iterator[list[_Entry]]:
        """A bucket's folder by pages of a thousand, so that memory does not grow with what lies in it.

        Args:
            folder: below the root.
            start: what the names begin with.
        """
        bucket, _, prefix = (self._path + folder).partition("/")
        more: dict[str, str] = {}
        while True:
            ask = partial(
                self._fs.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix + start, Delimiter="/", **more
            )
            page = tried(self._root, ask)
            yield sorted(_page_entries(page, prefix))
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _metadata(self, folder: str) -> list[str]:
        """The names of a folder's metadata files, which are asked for before its images come."""
        if self._by_page:
            return [entry.name for page in self._pages(folder, NAMES[0].partition(".")[0] + ".") for entry in page]
        return [entry.name for entry in tried(self._root, partial(self._listed, folder))]


def _page_entries(page: dict[str, Any], prefix: str) -> Iterator[_Entry]:
    for found in page.get("Contents", ()):
        if name := found["Key"][len(prefix) :]:  # a key that is the folder's own marks that there is one
            yield _Entry(name, False, found["Size"])
    for found in page.get("CommonPrefixes", ()):
        yield _Entry(found["Prefix"][len(prefix) :].rstrip("/"), True, None)


def _parts(relative: str) -> list[str]:
    return [part for part in relative.split("/") if part]
