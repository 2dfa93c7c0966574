"""Image vectors packed for a scan over all of them: sqlite's rows take several times as long to read and check.

A part holds one model's vectors among ``SPAN`` row ids. It is derived from the sqlite file, written once and whole, and
never changed; any file here may be deleted at any time. A part belongs to the state of the table that its token names:
while that stands, rows are only added, with ascending ids, so that a full span stays as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = "packed"
SPAN = 16_384
"""Row ids of one part: 34 MB of 512 floats each are read at once, and as few are read from sqlite at the end."""
KEY_BYTES = 32

Records = NDArray[np.void]
"""Structured [n]: ``key`` (32 bytes), ``vector`` (float32 [D], and a zero where D is odd), ``checksum`` (uint64)."""


class Damaged(Exception):
    """A part is not what was written."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of packed vectors."""

    folder: Path
    token: bytes
    """Of the state of the table of embeddings that it was made from."""
    fingerprint: str
    number: int
    """Its row ids are those over ``number * SPAN``, up to ``(number + 1) * SPAN``."""

    @property
    def path(self) -> Path:
        """Where it is, if it was written."""
        model = hashlib.sha256(self.fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.folder / f"{self.token.hex()}-{model}-{self.number:06}"

    def read(self, dim: int) -> Records | None:
        """What was written, every checksum verified; None if nothing was.

        Raises:
            Damaged: it is not what was written, or cannot be read.
        """
        kind = _record(dim)
        try:
            with self.path.open("rb") as file:
                count = int.from_bytes(file.read(8), "little")
                # Mapped: to read 34 MB into fresh memory takes several times as long.
                content = np.memmap(file, np.uint8, "r")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise Damaged(exc.strerror) from exc
        except ValueError as exc:
            raise Damaged("it is empty") from exc
        # A file cut short by a power failure may end between two records.
        if content.size != 8 + count * kind.itemsize:
            raise Damaged("its length is wrong")
        records = np.asarray(content[8:]).view(kind)
        if (records["checksum"] != self._checksums(records)).any():
            raise Damaged("a checksum is wrong")
        return records

    def write(self, records: Records) -> None:
        """Keep records, whole or not at all; another process may write the same at the same time.

        Raises:
            OSError: it cannot be written.
        """
        records["checksum"] = self._checksums(records)
        self.folder.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=f"{self.path.name}.", dir=self.folder, delete=False) as draft:
            try:
                draft.write(len(records).to_bytes(8, "little"))
                draft.write(records.data)
                draft.close()
                os.replace(draft.name, self.path)
            except BaseException:
                draft.close()
                with contextlib.suppress(OSError):
                    os.unlink(draft.name)
                raise

    def remove(self) -> None:
        """Delete the file; the vectors are still in sqlite."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _checksums(self, records: Records) -> NDArray[np.uint64]:
        """One a record: uint64 [n]; of a damaged key or vector it differs.

        The words, each times its own odd number, are summed modulo 2**64: a change within one word cannot go unseen,
        any other but with a chance of some 2**-64. A CRC of as much takes five times as long.
        """
        words = records.view("<u8").reshape(-1, records.itemsize // 8)[:, :-1]
        weights = np.frombuffer(hashlib.shake_128(b"weights").digest(8 * words.shape[1]), "<u8") | np.uint64(1)
        # Name and place, so that no other record, nor one of zeros, passes for this one.
        name = np.frombuffer(hashlib.sha256(self.path.name.encode()).digest(), "<u8")[0]
        checksums: NDArray[np.uint64] = words @ weights + name + np.arange(len(words), dtype=np.uint64)
        return checksums


def records(keys: Sequence[bytes], vectors: Sequence[NDArray[np.float32]], dim: int) -> Records:
    """Records of vectors, float32 [D] each, by keys of 32 bytes; without checksums."""
    made = np.zeros(len(keys), _record(dim))
    made["key"] = np.frombuffer(b"".join(keys), f"V{KEY_BYTES}")
    for row, vector in zip(made["vector"], vectors, strict=True):
        row[:dim] = vector
    return made


def clean(folder: Path, keep: bytes | None = None) -> None:
    """Delete all parts but those of one token, and what killed processes left."""
    for file in _files(folder):
        if keep is None or not file.name.startswith(keep.hex()):
            with contextlib.suppress(OSError):
                file.unlink()


def size(folder: Path) -> int:
    """Bytes on disk."""
    total = 0
    for file in _files(folder):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from folder.iterdir()


def _record(dim: int) -> np.dtype[Any]:
    return np.dtype([("key", f"V{KEY_BYTES}"), ("vector", "<f4", (dim + dim % 2,)), ("checksum", "<u8")])
