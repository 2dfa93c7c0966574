"""The embedding store: what was computed once for a picture or a prompt is read from disk the next time.

Everything is kept by content and by model, so nothing in it can be out of date, only unused (``Store.prune``).
All of it lies in one sqlite file; the parts of ``packed`` are copies that make ``Store.scan`` fast.
It is a cache: it may be deleted at any time, and apart from ``Store.open`` nothing here raises when the disk fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import zlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipcls.records import EncoderInfo, FileStamp, TokenCount
from clipcls.store import packed
from clipcls.store.database import Database, Row

__all__ = ["ModelCount", "PruneResult", "Store", "StoreInfo"]

Vector = NDArray[np.float32]
Sound = tuple[bytes, Vector, Any, Any]
"""A key, its vector, and of a text how many tokens it takes and whether it was cut."""

FILE_NAME = "embeddings.sqlite3"
FIRST = (
    """CREATE TABLE files (
        path BLOB NOT NULL PRIMARY KEY,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        digest BLOB NOT NULL,
        hashed_ns INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE encoders (
        spec BLOB NOT NULL,
        precision_asked TEXT NOT NULL,
        device_asked TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        precision TEXT NOT NULL,
        dim INTEGER NOT NULL,
        logit_scale REAL NOT NULL,
        logit_bias REAL,
        activation TEXT NOT NULL,
        languages TEXT NOT NULL,
        files TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (spec, precision_asked, device_asked)
    ) WITHOUT ROWID""",
    # With vectors in its rows a rowid table with an index is 2 to 3 times faster than WITHOUT ROWID.
    """CREATE TABLE embeddings (
        id INTEGER PRIMARY KEY,
        fingerprint TEXT NOT NULL,
        kind TEXT NOT NULL,
        key BLOB NOT NULL,
        vector BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        tokens INTEGER,
        cut INTEGER
    )""",
    "CREATE UNIQUE INDEX embeddings_key ON embeddings (fingerprint, kind, key)",
    """CREATE TABLE failures (
        digest BLOB NOT NULL,
        decoder TEXT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (digest, decoder)
    ) WITHOUT ROWID""",
)
PACKING = (
    # Tells which packed parts are right: null once a row was deleted, since ids may then be given again.
    "CREATE TABLE packing (token BLOB)",
    "INSERT INTO packing VALUES (NULL)",
    """CREATE TRIGGER embeddings_deleted AFTER DELETE ON embeddings BEGIN
        UPDATE packing SET token = NULL WHERE token IS NOT NULL;
    END""",
)
SCHEMA = (FIRST, PACKING)
"""What makes each version out of the one before, in order."""
TABLES = ("files", "encoders", "embeddings", "failures")

NAMED = "typeof(fingerprint) = 'text'"  # anything else is damage: sqlite keeps any value in any column
NO_MODEL = "fingerprint NOT IN (SELECT fingerprint FROM encoders)"
NO_FILE = "NOT IN (SELECT digest FROM files)"

# git's rule: a file changed again within the clock's granularity after it was read looks unchanged.
TRUSTED = "mtime_ns <= hashed_ns - 2000000000"
MAX_INTEGER = 2**63 - 1
ROW = "id, key, vector, checksum, tokens, cut"


@dataclass(frozen=True, slots=True)
class ModelCount:
    """What the store holds for one model."""

    fingerprint: str
    specs: tuple[str, ...]
    """The names it was asked for by; empty when a name now means another model."""
    images: int
    texts: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What the store holds."""

    path: Path
    bytes: int
    """On disk, with sqlite's log and the packed parts."""
    files: int
    failures: int
    models: tuple[ModelCount, ...]
    set_aside: tuple[Path, ...]
    """Files of damaged stores, and of newer versions', that were replaced; ``clear`` deletes them."""

    @property
    def images(self) -> int:
        """Image vectors of all models."""
        return sum(model.images for model in self.models)

    @property
    def texts(self) -> int:
        """Text vectors of all models."""
        return sum(model.texts for model in self.models)


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What ``prune`` dropped, or would drop."""

    files: int = 0
    images: int = 0
    texts: int = 0
    failures: int = 0
    bytes: int = 0
    """Given back to the disk; 0 after a dry run."""


class Store:
    """Embeddings, digests, models and failures of earlier runs; a context manager.

    Threads may share one store, and processes one folder. Reads give what there is: a key that is not in the result
    is not in the store. A file that turns out damaged is renamed and replaced by a fresh one, and a store that cannot
    be written goes on without writing; both are logged, and neither raises.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._packed = database.path.with_name(packed.FOLDER)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open the store in a folder; folder and store are made if need be.

        Raises:
            StoreError: the folder cannot be made, or nothing can be opened in it.
        """
        return cls(Database(folder / FILE_NAME, SCHEMA))

    def close(self) -> None:
        """Close the file; the store is empty to whoever still reads it."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def digests(self, stamps: Sequence[FileStamp]) -> dict[str, bytes]:
        """The content digests, by path, of the files that have not changed since they were read."""
        asked = {os.fsencode(stamp.path): stamp for stamp in stamps}
        sql = f"SELECT path, size, mtime_ns, digest FROM files WHERE {TRUSTED} AND path"
        known = {
            path: digest
            for path, *seen, digest in self._db.lookup(sql, asked)
            if path in asked and (*seen,) == _seen(asked[path]) and isinstance(digest, bytes)
        }
        return {asked[path].path: digest for path, digest in known.items()}

    def remember_files(self, pairs: Sequence[tuple[FileStamp, bytes]], hashed_ns: int) -> None:
        """Keep files' digests.

        Args:
            pairs: each file's stamp, taken before it was read, and the digest of its bytes.
            hashed_ns: ``time.time_ns()`` from before the first of them was read.
        """
        rows = [(os.fsencode(stamp.path), *_seen(stamp), digest, hashed_ns) for stamp, digest in pairs]
        self._db.insert("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

    def get_encoder(self, spec: str, precision: str, device: str) -> EncoderInfo | None:
        """What a name stood for when it was last loaded; None if never, or if one of its files has changed since."""
        asked = (_encode(spec), precision, device)
        rows = self._db.rows("SELECT * FROM encoders WHERE (spec, precision_asked, device_asked) = (?, ?, ?)", asked)
        for *_, fingerprint, used, dim, scale, bias, activation, languages, files, checksum in rows:
            known = (fingerprint, used, dim, scale, bias, activation, languages, files)
            if _checksum(b"", (*asked, *known)) == checksum and all(_unchanged(*file) for file in json.loads(files)):
                return EncoderInfo(spec, *known[:6], languages=tuple(json.loads(languages)))
        return None

    def put_encoder(self, info: EncoderInfo, precision: str, device: str, files: Sequence[FileStamp]) -> None:
        """Keep what a name stands for.

        Args:
            info: the model that was loaded.
            precision: as it was asked for, such as ``auto``.
            device: as it was asked for.
            files: weights, configuration and tokenizer, stamped before they were read; any change forgets the model.
        """
        asked = (_encode(info.spec), precision, device)
        known = (
            info.fingerprint,
            info.precision,
            int(info.dim),
            float(info.logit_scale),
            None if info.logit_bias is None else float(info.logit_bias),
            info.activation,
            json.dumps(info.languages),
            json.dumps([[file.path, file.size, file.mtime_ns] for file in files]),
        )
        row = (*asked, *known, _checksum(b"", (*asked, *known)))
        self._db.insert(f"INSERT OR REPLACE INTO encoders VALUES ({','.join('?' * len(row))})", [row])

    def images(self, fingerprint: str, digests: Iterable[bytes]) -> dict[bytes, Vector]:
        """Known image embeddings by digest: read-only float32 [D]."""
        return {key: vector for key, vector, _, _ in self._vectors(fingerprint, "image", digests)}

    def put_images(self, fingerprint: str, vectors: Mapping[bytes, Vector]) -> None:
        """Keep image embeddings, float32 [D] by digest; those already there stay as they are."""
        self._put_vectors(fingerprint, "image", [(key, vector, None, None) for key, vector in vectors.items()])

    def scan(self, fingerprint: str, dim: int) -> Iterator[tuple[NDArray[np.void], Vector]]:
        """All image embeddings of a model with their checksums verified, in blocks of at most ``packed.SPAN``.

        Args:
            fingerprint: of the model.
            dim: length of its embeddings, D.

        Yields:
            The digests, as 32 bytes each, void [n] (``tobytes`` of one is what ``files`` takes), and the vectors,
            float32 [n, D], not to be written to. Vectors with other keys than SHA-256 digests are left out.
        """
        token, last = self._packing()
        for number in self._numbers(last):
            part = packed.Part(self._packed, token, fingerprint, number)
            full = (number + 1) * packed.SPAN <= last
            records = self._part(part, dim) if token and full else self._records(part, dim)
            if records is not None and len(records):
                yield records["key"], records["vector"][:, :dim]

    def files(self, digests: Iterable[bytes]) -> dict[bytes, list[FileStamp]]:
        """The files that had these contents when they were last read, as they were then; a scan over all files."""
        asked = set(digests)
        found: dict[bytes, list[FileStamp]] = {}
        for digest, path, size, mtime_ns in self._db.lookup(
            f"SELECT digest, path, size, mtime_ns FROM files WHERE {TRUSTED} AND digest", asked
        ):
            whole = isinstance(path, bytes) and isinstance(size, int) and isinstance(mtime_ns, int)
            if digest in asked and whole:
                found.setdefault(digest, []).append(FileStamp(os.fsdecode(path), size, mtime_ns))
        return found

    def texts(self, fingerprint: str, prompts: Iterable[str]) -> dict[str, tuple[Vector, TokenCount]]:
        """Known text embeddings by prompt: read-only float32 [D], and how many tokens the prompt takes."""
        asked = {_text_key(prompt): prompt for prompt in prompts}
        rows = self._vectors(fingerprint, "text", asked)
        return {asked[key]: (vector, TokenCount(tokens, bool(cut))) for key, vector, tokens, cut in rows}

    def put_texts(self, fingerprint: str, texts: Mapping[str, tuple[Vector, TokenCount]]) -> None:
        """Keep text embeddings, float32 [D], and token counts by prompt; those already there stay as they are."""
        rows = [(_text_key(text), vector, int(count.tokens), int(count.cut)) for text, (vector, count) in texts.items()]
        self._put_vectors(fingerprint, "text", rows)

    def failures(self, digests: Iterable[bytes], decoder: str) -> dict[bytes, str]:
        """Why pictures cannot be read, by digest, as far as this version of the decoder has tried."""
        rows = self._db.lookup(
            "SELECT digest, reason FROM failures WHERE decoder = ? AND digest", set(digests), decoder
        )
        return {digest: reason for digest, reason in rows if isinstance(reason, str)}

    def put_failures(self, decoder: str, reasons: Mapping[bytes, str]) -> None:
        """Keep why pictures cannot be read, by digest."""
        rows = [
            (digest, decoder, reason.encode(errors="backslashreplace").decode()) for digest, reason in reasons.items()
        ]
        self._db.insert("INSERT OR REPLACE INTO failures VALUES (?, ?, ?)", rows)

    def info(self) -> StoreInfo:
        """Count what there is."""
        counted = self._db.rows("SELECT (SELECT count(*) FROM files), (SELECT count(*) FROM failures)")
        files, failures = counted[0] if counted else (0, 0)
        specs: dict[str, set[str]] = {}
        for fingerprint, spec in self._db.rows(
            f"SELECT fingerprint, spec FROM encoders WHERE typeof(spec) = 'blob' AND {NAMED}"
        ):
            specs.setdefault(fingerprint, set()).add(spec.decode(errors="replace"))
        vectors: Counter[tuple[str, str]] = Counter()
        for fingerprint, kind, count in self._db.rows(
            f"SELECT fingerprint, kind, count(*) FROM embeddings WHERE {NAMED} GROUP BY 1, 2"
        ):
            specs.setdefault(fingerprint, set())
            vectors[fingerprint, kind] = count
        models = tuple(
            ModelCount(f, tuple(sorted(names)), vectors[f, "image"], vectors[f, "text"]) for f, names in specs.items()
        )
        return StoreInfo(self._db.path, self._size(), files, failures, models, tuple(self._db.set_aside()))

    def clear(self) -> None:
        """Delete all there is, also while other processes use it, and the files that were set aside."""

        def work(con: sqlite3.Connection) -> None:
            for table in TABLES:
                con.execute(f"DELETE FROM {table}")

        self._db.write(work, None)
        self._db.compact()
        packed.clean(self._packed)
        for file in self._db.set_aside():
            with contextlib.suppress(OSError):
                file.unlink()

    def prune(self, *, dry_run: bool = False) -> PruneResult:
        """Drop what no later run can use, and give its space back to the disk.

        That is: files that are gone, image vectors and failures of contents that no file has, and all vectors of
        models that no name stands for any more. Contents that never were a file's are dropped too.

        Args:
            dry_run: only count.
        """
        gone = [row for row in self._db.rows("SELECT path FROM files") if _gone(row[0])]

        def work(con: sqlite3.Connection) -> PruneResult:
            con.executemany("DELETE FROM files WHERE path = ?", gone)
            images = con.execute(
                f"DELETE FROM embeddings WHERE kind = 'image' AND ({NO_MODEL} OR key {NO_FILE})"
            ).rowcount
            texts = con.execute(f"DELETE FROM embeddings WHERE kind = 'text' AND {NO_MODEL}").rowcount
            failures = con.execute(f"DELETE FROM failures WHERE digest {NO_FILE}").rowcount
            if dry_run:
                con.execute("ROLLBACK")
            return PruneResult(len(gone), images, texts, failures)

        before = self._size()
        result = self._db.write(work, PruneResult())
        if dry_run or result == PruneResult():
            return result
        self._db.compact()
        token, _ = self._packing(renew=False)
        packed.clean(self._packed, keep=token or None)
        return replace(result, bytes=max(0, before - self._size()))

    def _size(self) -> int:
        return self._db.size() + packed.size(self._packed)

    def _packing(self, *, renew: bool = True) -> tuple[bytes, int]:
        """The token of the table as it is now, empty if it has none and gets none, and the last id in it."""
        state = self._db.rows("SELECT token, ifnull((SELECT max(id) FROM embeddings), 0) FROM packing")
        token, last = state[0] if state else (None, 0)
        if token is None and renew and last >= packed.SPAN:

            def work(con: sqlite3.Connection) -> None:
                con.execute("UPDATE packing SET token = randomblob(16) WHERE token IS NULL")

            self._db.write(work, None)
            token, last = self._packing(renew=False)
            packed.clean(self._packed, keep=token)
        return token if isinstance(token, bytes) else b"", last

    def _numbers(self, last: int) -> Iterator[int]:
        """The numbers of the parts that have rows, whatever gaps ``prune`` and damage left between their ids."""
        end = 0
        while end < last:
            first = self._db.rows("SELECT min(id) FROM embeddings WHERE id > ?", (end,))
            if not first or first[0][0] is None:
                return
            number = (first[0][0] - 1) // packed.SPAN
            yield number
            end = (number + 1) * packed.SPAN

    def _part(self, part: packed.Part, dim: int) -> packed.Records | None:
        """One part's records, from its file or else from sqlite, and then written."""
        try:
            if (found := part.read(dim)) is not None:
                return found
        except packed.Damaged as error:
            self._db.warn_once(f"{self._packed}: packed embeddings are damaged ({error}); they are packed again")
            part.remove()
        made = self._records(part, dim)
        try:
            if made is not None:
                part.write(made)
        except FileNotFoundError:
            pass  # rows were deleted since, and another process has tidied up
        except OSError as error:
            self._db.warn_once(f"{self._packed}: embeddings cannot be packed ({error.strerror}); a scan takes longer")
        return made

    def _records(self, part: packed.Part, dim: int) -> packed.Records | None:
        """One part's sound vectors, from sqlite; None if it could not be read."""
        # By id: in the order of the index every row would lie on another page.
        sql = (
            f"SELECT {ROW} FROM embeddings NOT INDEXED WHERE id BETWEEN ? AND ? AND fingerprint = ? AND kind = 'image'"
        )
        first = part.number * packed.SPAN + 1
        values = (first, min(first + packed.SPAN - 1, MAX_INTEGER), part.fingerprint)
        rows: list[Row] | None = self._db.run(lambda con: con.execute(sql, values).fetchall(), None)
        if rows is None:
            return None
        sound, damaged = _verified(part.fingerprint, "image", rows)
        if damaged:
            self._tell_of_damage()
            # Through the index: to sqlite the whole file is damaged when a row is deleted whose key the index lacks.
            self._vectors(part.fingerprint, "image", [key for _, key in damaged if isinstance(key, bytes)])
        fit = [(key, vector) for key, vector, _, _ in sound if (len(key), len(vector)) == (packed.KEY_BYTES, dim)]
        return packed.records([key for key, _ in fit], [vector for _, vector in fit], dim)

    def _vectors(self, fingerprint: str, kind: str, keys: Iterable[bytes]) -> list[Sound]:
        """Sound rows; damaged ones are deleted."""
        sql = f"SELECT {ROW} FROM embeddings WHERE fingerprint = ? AND kind = ? AND key"
        asked = set(keys)
        sound, damaged = _verified(fingerprint, kind, self._db.lookup(sql, asked, fingerprint, kind), asked)
        if damaged:
            self._tell_of_damage()
            self._db.insert("DELETE FROM embeddings WHERE id = ?", [(row_id,) for row_id, _ in damaged])
        return sound

    def _tell_of_damage(self) -> None:
        self._db.warn_once(f"{self._db.path}: damaged embeddings were dropped from the cache; they are computed again")

    def _put_vectors(
        self, fingerprint: str, kind: str, items: Iterable[tuple[bytes, Vector, int | None, int | None]]
    ) -> None:
        rows = []
        for key, vector, tokens, cut in items:
            blob = vector.astype("<f4", copy=False).tobytes()
            rows.append(
                (fingerprint, kind, key, blob, _checksum(blob, (fingerprint, kind, key, tokens, cut)), tokens, cut)
            )
        columns = "fingerprint, kind, key, vector, checksum, tokens, cut"
        self._db.insert(f"INSERT OR IGNORE INTO embeddings ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _verified(
    fingerprint: str, kind: str, rows: Iterable[Row], asked: Container[bytes] | None = None
) -> tuple[list[Sound], list[tuple[int, Any]]]:
    """Rows of ``ROW`` that are as they were written, with one of the keys asked for; and the others' ids and keys."""
    sound: list[Sound] = []
    damaged = []
    for row_id, key, blob, checksum, tokens, cut in rows:
        whole = isinstance(blob, bytes) and len(blob) % 4 == 0 and (asked is None or key in asked)
        if whole and _checksum(blob, (fingerprint, kind, key, tokens, cut)) == checksum:
            sound.append((key, np.frombuffer(blob, "<f4").astype(np.float32, copy=False), tokens, cut))
        else:
            damaged.append((row_id, key))
    return sound, damaged


def _checksum(blob: bytes, rest: tuple[object, ...]) -> int:
    return zlib.crc32(repr(rest).encode(), zlib.crc32(blob))


def _encode(text: str) -> bytes:
    """Any string's bytes: names and prompts may hold surrogates, which sqlite's own text cannot."""
    return text.encode("utf-8", "surrogatepass")


def _text_key(prompt: str) -> bytes:
    return hashlib.sha256(_encode(prompt)).digest()


def _seen(stamp: FileStamp) -> tuple[int, int]:
    """Size and time as far as sqlite can count; later times than it can are in the future, and never trusted."""
    return stamp.size, min(stamp.mtime_ns, MAX_INTEGER)


def _unchanged(path: str, size: int, mtime_ns: int) -> bool:
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (size, mtime_ns)


def _gone(path: Any) -> bool:
    """Whether a file, or the video that a frame is of, is certainly not there, rather than out of reach just now."""
    if not isinstance(path, bytes):
        return True  # damage: sqlite keeps any value in any column
    try:
        os.stat(os.fsdecode(path))
    except (FileNotFoundError, NotADirectoryError):
        video, mark, _ = path.rpartition(b"#t=")
        return not mark or _gone(video)
    except OSError:
        return False
    except ValueError:
        return True  # a NUL, so damage too
    return False
