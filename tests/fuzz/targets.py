"""What is fuzzed: each target takes any bytes as a file of some kind, and raises where clipcls does what it must not.

A file is read, or refused by a ``ClipclsError`` of one line; whatever else comes out is a finding. What was read is
written again and read back equal. The store opens whatever its files hold, and keeps what is put into it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from clipcls import settings
from clipcls.calibration import read_calibration, write_calibration
from clipcls.clipscore import read_pairs
from clipcls.decode import FORMATS, decode
from clipcls.errors import ClipclsError
from clipcls.labelfiles import FIELDS, read_labels
from clipcls.labelled import LabelledFiles
from clipcls.labels import label_set
from clipcls.probe import LinearClassifier
from clipcls.promptfiles import KEYS, format_prompts, read_prompts
from clipcls.records import EncoderInfo, Failure, FileStamp, TokenCount
from clipcls.results import read_results
from clipcls.sinks.runinfo import read_run, run_path, write_run
from clipcls.store import FILE_NAME, Store, packed

HERE = Path(__file__).parent
INFO = EncoderInfo("fuzz/one", "oc1-fuzz", "fp32", 7, 20.0, None, "softmax")


@contextmanager
def one_line() -> Iterator[None]:
    """What clipcls refuses, it refuses in one line."""
    try:
        yield
    except ClipclsError as exc:
        assert len(str(exc).splitlines()) == 1, f"not one line: {str(exc)!r}"


def labels(kind: str, data: bytes, folder: Path) -> None:
    path = folder / f"labels.{kind}"
    path.write_bytes(data)
    with one_line():
        found = label_set(read_labels(path).labels)
        again = path.with_suffix(".json")
        again.write_text(json.dumps({"labels": [asdict(label) | _no_none(label) for label in found]}), "utf-8")
        assert label_set(read_labels(again).labels) == found


def _no_none(label: Any) -> dict[str, str]:
    return {"id": label.id or "", "display": label.display or ""}


def prompts(kind: str, data: bytes, folder: Path) -> None:
    path = folder / f"prompts.{kind}"
    path.write_bytes(data)
    with one_line():
        found = read_prompts(path)
        again = folder / "again.toml"
        again.write_text(format_prompts(found, found.description), "utf-8", newline="")
        assert read_prompts(again) == found


def tables(kind: str, data: bytes, folder: Path) -> None:
    path = folder / "table.csv"
    path.write_bytes(data)
    with one_line():
        if kind == "pairs.csv":
            images, texts = read_pairs(path)
            assert len(images) == len(texts) > 0 and all(text.strip() for text in texts)
        else:
            assert LabelledFiles(folder, path).count()


def results(kind: str, data: bytes, folder: Path) -> None:
    beside = kind == "run.json"
    path = folder / ("out.csv" if beside else f"out.{kind}")
    run_path(path).unlink(missing_ok=True)
    if beside:
        shutil.copy(HERE / "corpus" / "results" / "all.csv", path)
    (run_path(path) if beside else path).write_bytes(data)
    with one_line():
        found = read_results(path)
        for record in found.records:
            if isinstance(record, Failure):
                assert isinstance(record.path, str) and isinstance(record.error, str)
                continue
            scores = [*record.ranked, *(record.all_scores or ())]
            assert all(isinstance(text, str) for text in (record.path, *record.labels, *(s.label for s in scores)))
            assert all(map(math.isfinite, (number for s in scores for number in (s.probability, s.cosine))))
        if found.run:
            assert found.run.layout
            write_run(path, found.run)
            assert read_run(path) == found.run


def saved(kind: str, data: bytes, folder: Path) -> None:
    path = folder / f"saved.{kind}"
    path.write_bytes(data)
    with one_line():
        match kind:
            case "calibration.toml":
                found = read_calibration(path)
                again = folder / "again.toml"
                again.unlink(missing_ok=True)
                write_calibration(again, found)
                assert read_calibration(again) == found
                found.refuse_others(path, INFO, found.classifier, found.labels)
            case "config.toml":
                settings._from_file(path)
            case _:
                head = LinearClassifier(SimpleNamespace(info=INFO), path)  # type: ignore[arg-type]
                scores = head.scores(np.eye(INFO.dim, dtype=np.float32))
                assert np.isfinite(scores.probabilities).all() and np.isfinite(scores.cosines).all()


def pictures(kind: str, data: bytes, folder: Path) -> None:
    with one_line():
        image = decode(data, min_side=8)
        assert image.mode == "RGB" and min(image.size) > 0


VECTORS = {bytes([at]) * 32: np.full(7, at + 0.5, np.float32) for at in range(25)}
PROMPTS = {text: (np.full(7, at, np.float32), TokenCount(5, False)) for at, text in enumerate(("a cat", "一只猫"))}
FRESH = {b"f" * 32: np.arange(7, dtype=np.float32)}
FRESH_TEXT = {"a dog": (FRESH[b"f" * 32], TokenCount(5, False))}
STAMPS = [FileStamp(f"/pictures/{at}.jpg", at, 1_600_000_000 * 10**9) for at in range(5)]
COLUMNS = (
    *("files.path", "files.size", "files.mtime_ns", "files.digest", "files.hashed_ns"),
    *("encoders.spec", "encoders.fingerprint", "encoders.dim", "encoders.logit_scale", "encoders.logit_bias"),
    *("encoders.languages", "encoders.files", "encoders.checksum", "failures.digest", "failures.reason"),
    *("embeddings.id", "embeddings.fingerprint", "embeddings.kind", "embeddings.key", "embeddings.vector"),
    *("embeddings.checksum", "embeddings.tokens", "embeddings.cut", "packing.token"),
)


@contextmanager
def small_parts() -> Iterator[None]:
    span, packed.SPAN = packed.SPAN, 10
    try:
        yield
    finally:
        packed.SPAN = span


def store(kind: str, data: bytes, folder: Path) -> None:
    with small_parts():
        _lay_out(kind, data, folder)
        _use(folder)


def _lay_out(kind: str, data: bytes, folder: Path) -> None:
    """A store's folder of which one file is what was given, or has been changed by it."""
    for name, content in _good_store().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    main = folder / FILE_NAME
    part = min((folder / packed.FOLDER).iterdir())
    match kind:
        case "edits":
            main.write_bytes(_edited(main.read_bytes(), data))
        case "rows":
            _update(main, data)
        case "part":
            part.write_bytes(data)
        case "part-edits":
            part.write_bytes(_edited(part.read_bytes(), data))
        case _:
            (folder / f"{FILE_NAME}{kind.removeprefix('sqlite3')}").write_bytes(data)


@cache
def _good_store() -> dict[str, bytes]:
    """The files of a small store with something of everything."""
    with tempfile.TemporaryDirectory() as name, small_parts():
        folder = Path(name)
        with Store.open(folder) as good:
            good.put_images(INFO.fingerprint, VECTORS)
            good.put_texts(INFO.fingerprint, PROMPTS)
            good.put_encoder(INFO, "auto", "cpu", [])
            good.remember_files(list(zip(STAMPS, VECTORS, strict=False)), 1_700_000_000 * 10**9)
            good.put_failures("pillow 1", {b"bad": "the image is cut short"})
            assert sum(len(keys) for keys, _ in good.scan(INFO.fingerprint, INFO.dim)) == len(VECTORS)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _edited(content: bytes, data: bytes) -> bytes:
    """The content after edits of four bytes each: two for a place that holds something, and what stands there then."""
    places = np.flatnonzero(np.frombuffer(content, np.uint8))
    changed = bytearray(content)
    for at in range(0, len(data) - 3, 4):
        place = places[int.from_bytes(data[at : at + 2], "little") % len(places)]
        changed[place : place + 2] = data[at + 2 : at + 4]
    return bytes(changed[: len(content)])


def _update(main: Path, data: bytes) -> None:
    """Put values of any kind into columns: six bytes each for column, kind and value."""
    with closing(sqlite3.connect(main, isolation_level=None)) as con:
        for at in range(0, len(data) - 5, 6):
            table, column = COLUMNS[data[at] % len(COLUMNS)].split(".")
            raw = data[at + 2 : at + 6]
            whole = int.from_bytes(raw, "little", signed=True)
            value: Any = (None, whole, whole << 31, struct.unpack("<f", raw)[0], raw, raw)[data[at + 1] % 6]
            given = "CAST(? AS TEXT)" if data[at + 1] % 6 == 5 else "?"
            with suppress(sqlite3.Error):
                con.execute(f"UPDATE OR IGNORE {table} SET {column} = {given}", (value,))


def _use(folder: Path) -> None:
    """Whatever the files hold, what is read is what was once kept, and what is put in comes back."""
    with Store.open(folder) as opened:
        _check_reads(opened)
        opened.prune(dry_run=True)
        if not _keeps(opened):
            # Some damage is met only now; then there is a fresh file, and that one has none.
            assert opened.info().set_aside and _keeps(opened), "what was put in does not come back"
        before = opened.info().set_aside
    with Store.open(folder) as opened:
        found = opened.images(INFO.fingerprint, FRESH)
        assert _same(found, FRESH) or opened.info().set_aside != before, "what was put in is gone the next time"
        _check_reads(opened)
        opened.prune()
        opened.clear()
        assert opened.images(INFO.fingerprint, FRESH) == {}
        assert opened.info().set_aside == () and _keeps(opened)


def _keeps(opened: Store) -> bool:
    """Whether one of each kind is there after it was put in."""
    model = INFO.fingerprint
    opened.put_images(model, FRESH)
    opened.put_texts(model, FRESH_TEXT)
    opened.put_encoder(INFO, "auto", "cpu", [])
    opened.put_failures("pillow 1", {b"worse": "empty"})
    opened.remember_files([(STAMPS[0], b"digest")], 1_700_000_000 * 10**9)
    return (
        _same(opened.images(model, FRESH), FRESH)
        and opened.texts(model, FRESH_TEXT).keys() == FRESH_TEXT.keys()
        and opened.get_encoder(INFO.spec, "auto", "cpu") == INFO
        and opened.failures([b"worse"], "pillow 1") == {b"worse": "empty"}
        and opened.digests(STAMPS[:1]) == {STAMPS[0].path: b"digest"}
    )


def _check_reads(opened: Store) -> None:
    model = INFO.fingerprint
    for found in (opened.images(model, VECTORS), _scanned(opened)):
        assert all(_same({key: vector}, {key: VECTORS[key]}) for key, vector in found.items() if key in VECTORS)
    for text, (vector, count) in opened.texts(model, PROMPTS).items():
        assert _same({b"": vector}, {b"": PROMPTS[text][0]}) and count == PROMPTS[text][1]
    assert all(isinstance(digest, bytes) for digest in opened.digests(STAMPS).values())
    assert all(isinstance(reason, str) for reason in opened.failures([b"bad"], "pillow 1").values())
    for stamps in opened.files(VECTORS).values():
        assert all(isinstance(stamp.size, int) and isinstance(stamp.mtime_ns, int) for stamp in stamps)
    assert opened.get_encoder(INFO.spec, "auto", "cpu") in (INFO, None)
    info = opened.info()
    assert info.images >= 0 and all(isinstance(one.fingerprint, str) for one in info.models)


def _scanned(opened: Store) -> dict[bytes, Any]:
    return {
        key.tobytes(): vector
        for keys, vectors in opened.scan(INFO.fingerprint, INFO.dim)
        for key, vector in zip(keys, vectors, strict=True)
    }


def _same(found: dict[bytes, Any], expected: dict[bytes, Any]) -> bool:
    return found.keys() == expected.keys() and all(found[key].tobytes() == expected[key].tobytes() for key in found)


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to fuzz."""

    run: Callable[[str, bytes, Path], None]
    """Takes a kind of file, what it holds, and an empty folder."""
    kinds: tuple[str, ...]
    """An input's first byte chooses among them; a file of the corpus ends with its kind."""
    words: tuple[str, ...] = ()
    """What mutations may put in."""

    def __call__(self, data: bytes) -> None:
        kind = self.kinds[data[0] % len(self.kinds)] if data else self.kinds[0]
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            self.run(kind, data[1:], Path(folder))

    def as_input(self, file: Path) -> bytes:
        """The input that stands for a file of the corpus."""
        kind = max((kind for kind in self.kinds if file.name.endswith(kind)), key=len)
        return bytes([self.kinds.index(kind)]) + file.read_bytes()


TARGETS = {
    "labels": Target(
        labels,
        ("txt", "csv", "toml", "json", "yaml"),
        (*FIELDS, "labels", "language", "source", "labels = [", "[[labels]]", "|", "\ufeff", "大象"),
    ),
    "prompts": Target(
        prompts,
        ("toml", "json", "txt"),
        (*KEYS, "{label}", "{类别}", "｛类别｝", "templates = [", "[labels.", "\ufeff"),
    ),
    "tables": Target(
        tables, ("pairs.csv", "labelled.csv"), ("path", "image", "file", "label", "text", "caption", '"', ";", "\t")
    ),
    "results": Target(
        results,
        ("csv", "jsonl", "run.json"),
        (
            *("path", "status", "label", "probability", "cosine", "error", "ranked", "scores", "group", "labels"),
            *("group_probability", "path_bytes", "uncertain", "best", "label_2", "probability:", "cosine:", "verdict"),
            *("logit_scale", "versions", "base", "prompts", "selection", "NaN", "1e999", "null", "true", "\\ud800"),
        ),
    ),
    "saved": Target(
        saved,
        ("calibration.toml", "config.toml", "npz"),
        ("temperature", "labels", "fingerprint", "model", "device", "batch_size", "trace", "inf", "nan", "1e999"),
    ),
    "pictures": Target(pictures, ("picture",)),
    "store": Target(
        store, ("edits", "rows", "part", "part-edits", "sqlite3", "sqlite3-wal", "sqlite3-journal", "sqlite3-lock")
    ),
}


def seeds(name: str) -> Iterator[bytes]:
    """What mutations of a target begin with: its corpus, what is kept of earlier findings, and files made here."""
    target = TARGETS[name]
    for file in sorted((HERE / "corpus" / name).glob("*")):
        yield target.as_input(file)
    for file in kept(name):
        yield file.read_bytes()
    if name == "pictures":
        yield from map(b"\0".__add__, _small_pictures())
    elif name == "store":
        yield b"\4" + _good_store()[FILE_NAME]
        yield b"\2" + next(content for path, content in _good_store().items() if packed.FOLDER in path)


def kept(name: str) -> Sequence[Path]:
    """Inputs that once were findings, as they were."""
    return sorted((HERE / "findings" / name).glob("*"))


def _small_pictures() -> Iterator[bytes]:
    whole = Image.fromarray(np.arange(9 * 7 * 3, dtype=np.uint8).reshape(9, 7, 3))
    for format_ in FORMATS:
        file = io.BytesIO()
        with suppress(OSError, ValueError, KeyError):  # Pillow cannot write that
            whole.convert("1" if format_ == "XBM" else "RGB").save(file, format_)
            yield file.getvalue()


class Findings:
    """Runs a target, and keeps one input for each place where something went wrong."""

    def __init__(self, name: str, folder: Path) -> None:
        self._target, self._folder = TARGETS[name], folder
        self._seen: set[str] = set()

    def __call__(self, data: bytes) -> None:
        try:
            self._target(data)
        except Exception as exc:
            place = _place(exc)
            if place not in self._seen:
                self._seen.add(place)
                self._folder.mkdir(parents=True, exist_ok=True)
                file = self._folder / f"{place}-{hashlib.sha1(data).hexdigest()[:8]}"
                file.write_bytes(data)
                print(f"FINDING {file}\n{''.join(traceback.format_exception(exc))}", file=sys.stderr, flush=True)


def _place(exc: Exception) -> str:
    """Where in clipcls something was raised, or which check failed."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(settings.__file__).parent)]
    frame = frames[-1] if isinstance(exc, AssertionError) else (own or frames)[-1]
    return f"{type(exc).__name__}-{Path(frame.filename).stem}-{frame.lineno}".lower()
