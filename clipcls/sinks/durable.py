"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a small UTF-8 file in the place of whatever ``path`` held.

    Raises:
        OSError: it cannot be written; then ``path`` holds what it held.
    """
    draft = path.with_name(path.name + ".partial")
    with draft.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    move(draft, path)


def move(source: Path, target: Path) -> None:
    """Puts ``source`` in the place of ``target``, in the same folder.

    Raises:
        OSError: it cannot be moved.
    """
    source.replace(target)
    try:
        folder = os.open(target.parent, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders; elsewhere one may be writable but not readable
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
