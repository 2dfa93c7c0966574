"""Lists of paths: on stdin, or in a file; and paths that stand for several by braces."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")


def listed(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    """The paths in a list, each as soon as it arrives."""
    lines = _lines(stream, separator)
    yield from _names(chain([next(lines).removeprefix(codecs.BOM_UTF8)], lines), separator)


def braced(path: str) -> Iterator[str]:
    """The paths that ``{00000..00099}`` and ``{train,test}`` stand for; a file that is called so is itself."""
    found = _BRACES.search(path)
    if not found or os.path.lexists(path):
        yield path
        return
    before, after = path[: found.start()], path[found.end() :]
    for part in _alternatives(found):
        yield from braced(before + part + after)


def _alternatives(found: re.Match[str]) -> Iterable[str]:
    first, last, names = found.groups()
    if names is not None:
        return names.split(",")
    step = 1 if int(first) <= int(last) else -1
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    return (f"{number:0{width}}" for number in range(int(first), int(last) + step, step))


def _lines(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """A list's lines, of which even an empty one has one."""
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(1 << 16):
        *lines, rest = (rest + chunk).split(separator)
        yield from lines
    yield rest


def _names(lines: Iterable[bytes], separator: bytes) -> Iterator[str]:
    for line in lines:
        name = line.rstrip(b"\r\n") if separator == b"\n" else line
        if name.strip():
            yield os.fsdecode(name)
