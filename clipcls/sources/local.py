"""Files on disk: those that are named, and those that folders and glob patterns stand for, in a stable order."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic

from clipcls.errors import InputError
from clipcls.sources.metadata import Notes
from clipcls.sources.selection import Found, Selection, fits

_log = logging.getLogger("clipcls")


class Folders:
    """The images in folders on disk, and those that patterns match.

    Args:
        selection: which files are taken.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    def matching(self, pattern: str) -> Iterator[Found]:
        """Images, tables and archives that match a pattern, and those in matching folders."""
        root, found, deep = _split_pattern(pattern)
        for relative in found:
            if self._selection.excluded(relative):
                continue
            if os.path.isdir(os.path.join(root, relative) or os.curdir):
                yield from self.walk(root, relative, deep)
            elif not deep and self._takes(relative):
                yield Found(os.path.join(root, relative))

    def walk(self, root: str, start: str = "", deep: Sequence[str] = ()) -> Iterator[Found]:
        """Images, tables and archives below ``root/start``, only those that match the pattern ``deep`` if there is one.

        Each folder is entered once, so links that lead in a circle do no harm.
        """
        above, inside = len(start.split(os.sep)) if start else 0, os.path.join(root, "")
        visited: set[tuple[int, int]] = set()
        notes = Notes()
        pending = self._list(root, start, visited, notes)
        while pending:
            relative, is_folder = pending.pop()
            if is_folder:
                if self._selection.recursive or deep:
                    pending += self._list(root, relative, visited, notes)
            elif (not deep or fits(relative.split(os.sep)[above:], deep)) and self._takes(relative):
                yield Found(inside + relative, notes.of(relative.replace(os.sep, "/")))

    def _takes(self, relative: str) -> bool:
        return self._selection.takes_container(relative) or self._selection.takes(relative)

    def _list(self, root: str, relative: str, visited: set[tuple[int, int]], notes: Notes) -> list[tuple[str, bool]]:
        """One folder's entries in reverse order: the path below ``root``, and whether it is a folder.

        What its metadata say is added to ``notes``.
        """
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
            if not self._selection.quiet:
                _log.warning("%s: this folder is left out: %s", folder, exc.strerror or exc)
            return []
        if not self._selection.quiet:
            notes.add(relative.replace(os.sep, "/"), folder, {os.path.basename(name) for name, _ in found})
        return sorted((entry for entry in found if not self._selection.excluded(entry[0])), reverse=True)


def check(path: str) -> None:
    """Refuse a path that leads nowhere.

    Raises:
        InputError: there is no such file or folder, it cannot be read, or nothing matches the pattern.
    """
    if is_pattern(path):
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


def is_pattern(path: str) -> bool:
    """Whether a path has wildcards, and is not the name of a file that has them in it."""
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
