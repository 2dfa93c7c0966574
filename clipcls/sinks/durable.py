"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def write_whole(path: Path, text: str) -> None:
    """Writes a small UTF-8 file in the place of whatever ``path`` held, for the same people to read and write.

    Raises:
        OSError: it cannot be written; then ``path`` holds what it held.
    """
    draft = path.with_name(f"clipcls-{uuid.uuid4().hex}.partial")  # another process may write the same
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            with suppress(OSError):  # there is none yet, or the disk keeps no permissions
                shutil.copymode(path, draft)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        move(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


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
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # disks that do this for files alone
            raise
    finally:
        os.close(folder)


@contextmanager
def drafted(target: Path, drafts: Path) -> Iterator[Path]:
    """A file to be written in the folder ``drafts``, which then takes the place of ``target`` on the same disk.

    Raises:
        OSError: it cannot be written; then ``target`` is as it was.
    """
    draft = drafts / f"draft-{uuid.uuid4().hex}"
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        move(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def lock(stream: IO[str]) -> None:
    """Claims an open file until it is closed, where the system and the disk can do that.

    Raises:
        BlockingIOError: another process has claimed it.
    """
    if fcntl:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a network disk without locks
            pass


@contextmanager
def finished(stream: IO[str]) -> Iterator[None]:
    """Brings a file's content to the disk; it is closed, and its lock given up, only after what is done with it then.

    Raises:
        OSError: it cannot be written.
    """
    with stream:
        stream.flush()
        os.fsync(stream.fileno())
        if not fcntl:  # Windows moves no open file
            stream.close()
        yield
