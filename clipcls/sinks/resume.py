"""What an interrupted run left behind: the rows that are whole, and whose they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from clipcls.errors import OutputError
from clipcls.sinks.cells import printable, well_formed
from clipcls.sinks.rows import Rows


@dataclass(frozen=True, slots=True)
class Written:
    """The whole rows of a file."""

    end: int = 0
    """Where the last of them ends, in bytes; 0 where not even the header is whole."""
    paths: Counter[str] = field(default_factory=Counter)
    """How many rows each path has; as ``written_path`` gives them."""
    images: int = 0
    failed: int = 0


def written_path(path: str) -> str:
    """The form in which a path is found again in a result file."""
    return well_formed(path)


def read_written(path: Path, rows: Rows, head: str | None = None) -> Written:
    """The whole rows of a file that was cut off anywhere; what follows the last of them is left out.

    Args:
        path: the file.
        rows: what was written into it.
        head: what stands before the first row; None for what ``rows`` puts there.

    Raises:
        OutputError: the file holds something that ``rows`` would not have written.
        OSError: it cannot be read.
    """
    start = (rows.head() if head is None else head).encode()
    end = failed = images = 0
    paths: Counter[str] = Counter()
    with path.open("rb") as file:
        for row in _whole_rows(file, quoted=rows.quoted):
            try:
                if start and end == 0:
                    if row != start:
                        raise ValueError("another header")
                else:
                    name, ok = rows.read(row.decode())
                    paths[name] += 1
                    images += 1
                    failed += not ok
            except ValueError as exc:
                raise OutputError(
                    f"{printable(str(path))}: what stands at byte {end} was not written by this command ({exc}); "
                    "undo what changed the file, or start over with --overwrite"
                ) from exc
            end += len(row)
    return Written(end, paths, images, failed)


def _whole_rows(file: BinaryIO, *, quoted: bool) -> Iterator[bytes]:
    row: list[bytes] = []
    open_quote = False
    for line in file:
        row.append(line)
        open_quote ^= quoted and line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not open_quote:
            yield b"".join(row)
            row.clear()
