"""The embedding store: what it keeps, and what it does when the disk, another process or another version interferes."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import random
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Terminal
from fakes import FakeDoor, picture
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from clipcls.errors import StoreError
from clipcls.records import EncoderInfo, FileStamp, TokenCount
from clipcls.store import FILE_NAME, SCHEMA, PruneResult, Store, database, packed
from clipcls.store.absent import NoStore

Vector = NDArray[np.float32]

MODEL = "model-a"
LONG_AGO = 1_600_000_000_000_000_000
INFO = EncoderInfo("starter", MODEL, "fp32", 8, 100.0, None, "softmax", ("en", "zh"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def vectors(count: int, dim: int = 8, seed: int = 0) -> dict[bytes, Vector]:
    rng = np.random.default_rng(seed)
    return {rng.bytes(32): rng.standard_normal(dim, dtype=np.float32) for _ in range(count)}


def same(found: dict[bytes, Vector], put: dict[bytes, Vector]) -> bool:
    return found.keys() == put.keys() and all(found[key].tobytes() == put[key].tobytes() for key in put)


def scanned(store: Store, dim: int = 8) -> dict[bytes, Vector]:
    blocks = [
        (key.tobytes(), vector)
        for keys, found in store.scan(MODEL, dim)
        for key, vector in zip(keys, found, strict=True)
    ]
    assert len({key for key, _ in blocks}) == len(blocks)
    return dict(blocks)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / packed.FOLDER).glob("*"))


def stamp(path: Path) -> FileStamp:
    stat = path.stat()
    return FileStamp(str(path), stat.st_size, stat.st_mtime_ns)


def old_file(path: Path, content: bytes = b"x") -> FileStamp:
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return stamp(path)


def aside(folder: Path, kind: str = "damaged") -> list[Path]:
    """Databases that were set aside, without what sqlite kept beside them."""
    return [file for file in folder.glob(f"{FILE_NAME}.{kind}-*") if not file.name.endswith(("-wal", "-shm"))]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def raw(store: Store) -> sqlite3.Connection:
    assert store._db._con is not None
    return store._db._con


# What it keeps


def test_images_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    put = vectors(1200, 16)
    store.put_images(MODEL, put)
    assert same(store.images(MODEL, put), put)
    raw(store).setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 100)  # as some builds of sqlite have it
    assert same(store.images(MODEL, put), put)
    store.close()
    with Store.open(tmp_path) as again:
        found = again.images(MODEL, [*put, b"unknown"])
        assert same(found, put)
        assert again.images("model-b", put) == {}
    one = next(iter(found.values()))
    assert (one.dtype, one.shape, one.flags.c_contiguous) == (np.dtype(np.float32), (16,), True)


def test_an_existing_vector_wins(store: Store) -> None:
    first, second = vectors(1), vectors(1, seed=1)
    key = next(iter(first))
    store.put_images(MODEL, first)
    store.put_images(MODEL, {key: next(iter(second.values()))})
    assert same(store.images(MODEL, [key]), first)


def test_a_vector_need_not_be_contiguous(store: Store) -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    store.put_images(MODEL, {b"k": grid[:, 1]})
    assert store.images(MODEL, [b"k"])[b"k"].tolist() == [1, 5, 9]


def test_images_and_texts_do_not_meet(store: Store) -> None:
    vector = np.ones(4, np.float32)
    store.put_texts(MODEL, {"a cat": (vector, TokenCount(5, False)), "x" * 999: (vector, TokenCount(77, True))})
    found = store.texts(MODEL, ["a cat", "x" * 999, "A cat"])
    assert {text: count for text, (_, count) in found.items()} == {
        "a cat": TokenCount(5, False),
        "x" * 999: TokenCount(77, True),
    }
    assert store.info().images == 0
    assert store.info().texts == 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("shared")) as opened:
        yield opened


any_text = st.text(st.characters(exclude_categories=()))
any_vector = hnp.arrays(np.float32, st.integers(1, 20))


@given(texts=st.dictionaries(any_text, st.tuples(any_vector, st.integers(0, 2**40), st.booleans())))
def test_any_prompt_and_vector_round_trips(shared: Store, texts: dict[str, tuple[Vector, int, bool]]) -> None:
    shared.clear()
    put = {text: (vector, TokenCount(tokens, cut)) for text, (vector, tokens, cut) in texts.items()}
    shared.put_texts(MODEL, put)
    found = shared.texts(MODEL, texts)
    assert found.keys() == put.keys()
    for text, (vector, count) in put.items():
        assert found[text][0].tobytes() == vector.tobytes()
        assert found[text][1] == count


@given(reason=any_text, spec=any_text)
@example(reason="caf\udce9", spec="caf\udce9")
def test_any_reason_and_any_spec_can_be_kept(shared: Store, reason: str, spec: str) -> None:
    shared.clear()
    shared.put_failures("pillow 1", {b"d": reason})
    assert shared.failures([b"d"], "pillow 1")[b"d"].encode() == reason.encode(errors="backslashreplace")
    info = replace(INFO, spec=spec, logit_bias=-10.5, activation="sigmoid")
    shared.put_encoder(info, "auto", "cpu", [])
    assert shared.get_encoder(spec, "auto", "cpu") == info
    assert len(shared.info().models) == 1


def test_failures_are_known_by_decoder(store: Store) -> None:
    store.put_failures("pillow 1", {b"a": "truncated", b"b": "not an image"})
    assert store.failures([b"a", b"b", b"c"], "pillow 1") == {b"a": "truncated", b"b": "not an image"}
    assert store.failures([b"a"], "pillow 2") == {}
    store.put_failures("pillow 1", {b"a": "other words"})
    assert store.failures([b"a"], "pillow 1") == {b"a": "other words"}


# Files


def test_digests_of_unchanged_files_are_known(store: Store) -> None:
    stamps = [FileStamp(f"/pictures/{i}.jpg", i, LONG_AGO) for i in range(1500)]
    store.remember_files([(one, str(one.size).encode()) for one in stamps], time.time_ns())
    assert store.digests(stamps) == {one.path: str(one.size).encode() for one in stamps}
    changed = [replace(stamps[0], size=7), replace(stamps[1], mtime_ns=LONG_AGO + 1), FileStamp("/new", 1, 1)]
    assert store.digests([*changed, stamps[2]]) == {stamps[2].path: b"2"}


def test_a_file_written_while_it_was_read_is_not_trusted(store: Store) -> None:
    one = FileStamp("/a.jpg", 1, LONG_AGO)
    for age, trusted in [(0, False), (1_999_999_999, False), (-5, False), (2_000_000_000, True)]:
        store.remember_files([(one, b"d")], LONG_AGO + age)
        assert (store.digests([one]) == {"/a.jpg": b"d"}) is trusted


def test_a_time_beyond_64_bits_is_kept_and_not_trusted(store: Store) -> None:
    one = FileStamp("/a.jpg", 1, 2**70)
    store.remember_files([(one, b"d")], time.time_ns())
    assert store.digests([one]) == {}
    assert store.info().files == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_a_path_need_not_be_utf8(store: Store) -> None:
    one = FileStamp(os.fsdecode(b"/pictures/\xff\xfe.jpg"), 3, LONG_AGO)
    store.remember_files([(one, b"d")], time.time_ns())
    assert store.digests([one]) == {one.path: b"d"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_the_folder_need_not_be_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff") / "a?b#c%20"
    for _ in range(2):
        with Store.open(folder) as store:
            store.put_images(MODEL, vectors(1))
            assert store.info().images == 1


def test_files_are_found_by_content(store: Store) -> None:
    first, copy, other = (FileStamp(f"/{name}.jpg", 1, LONG_AGO) for name in ("a", "b", "c"))
    store.remember_files([(first, b"d"), (copy, b"d"), (other, b"e")], time.time_ns())
    store.remember_files([(FileStamp("/racy.jpg", 1, LONG_AGO), b"d")], LONG_AGO)
    assert store.files([b"d", b"unknown"]) == {b"d": [first, copy]}
    raw(store).execute("UPDATE files SET path = 'damaged' WHERE path = ?", (b"/b.jpg",))
    assert store.files([b"d"]) == {b"d": [first]}


# Scans over all of a model's images


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SPAN", 10)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("dim", [8, 7])
def test_a_scan_gives_every_image_vector_of_a_model(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, dim: int
) -> None:
    put = vectors(35, dim)
    store.put_images(MODEL, put)
    store.put_images("model-b", vectors(40, dim, seed=1))
    store.put_texts(MODEL, {"a": (np.ones(dim, np.float32), TokenCount(3, False))})
    for _ in range(3):
        assert same(scanned(store, dim), put)
    assert len(parts(tmp_path)) == 7
    assert all(len(keys) <= 10 for keys, _ in store.scan(MODEL, dim))
    for part in parts(tmp_path):
        part.unlink()
    assert same(scanned(store, dim), put)
    assert store.info().bytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert warnings(caplog) == []


@pytest.mark.usefixtures("small_parts")
def test_few_vectors_need_no_packed_part(store: Store, tmp_path: Path) -> None:
    put = vectors(9)
    store.put_images(MODEL, put)
    assert same(scanned(store), put)
    assert parts(tmp_path) == []
    store.put_images(MODEL, last := vectors(1, seed=1))
    assert same(scanned(store), put | last)
    assert len(parts(tmp_path)) == 1, "ten do"


def test_a_scan_gives_the_only_vector(store: Store) -> None:
    store.put_images(MODEL, put := vectors(1))
    assert same(scanned(store), put)


@pytest.mark.usefixtures("small_parts")
def test_a_scan_ends_where_its_rows_do(store: Store) -> None:
    store.put_images(MODEL, vectors(30))
    scan = store.scan(MODEL, 8)
    next(scan)
    raw(store).execute("DELETE FROM embeddings WHERE id > 10")
    assert [*scan] == []
    scan = store.scan(MODEL, 8)
    next(scan)
    store.close()
    assert [*scan] == []


@pytest.mark.usefixtures("small_parts")
def test_parts_are_drafted_beside_the_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "on another disk"))
    store.put_images(MODEL, put := vectors(30))
    assert same(scanned(store), put)
    assert len(parts(tmp_path)) == 3
    assert warnings(caplog) == []


def test_the_form_of_a_packed_part_stands(tmp_path: Path) -> None:
    part = packed.Part(tmp_path, bytes(range(16)), MODEL, 7)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    part.write(packed.records([b"a" * 32, b"b" * 32], [*rows], 3))
    assert part.path.name == "000102030405060708090a0b0c0d0e0f-73f95cf180a19624-000007"
    records = b"".join(
        key * 32 + row.tobytes() + bytes(4) + checksum.to_bytes(8, "little")
        for key, row, checksum in ((b"a", rows[0], 0xA6EC59FD6C71B39C), (b"b", rows[1], 0x4C7D0C80AA46F6BF))
    )
    assert part.path.read_bytes() == (2).to_bytes(8, "little") + records


@pytest.mark.usefixtures("small_parts")
def test_a_scan_is_never_out_of_date(store: Store, tmp_path: Path) -> None:
    put: dict[bytes, Vector] = {}
    for round_ in range(30):
        rng = random.Random(round_)
        fresh = vectors(rng.randrange(25), seed=100 + round_)
        store.put_images(MODEL, fresh)
        put |= fresh
        if round_ % 3 == 2:
            # Of the last ones too, so that their ids are given again.
            gone = [key for key in put if rng.random() < 0.3] + list(put)[-rng.randrange(4) :]
            raw(store).executemany("DELETE FROM embeddings WHERE key = ?", [(key,) for key in gone])
            put = {key: vector for key, vector in put.items() if key not in gone}
        assert same(scanned(store), put)
    tokens = {part.name.partition("-")[0] for part in parts(tmp_path)}
    assert len(tokens) == 1


@pytest.mark.usefixtures("small_parts")
def test_prune_and_clear_take_packed_parts_along(store: Store, tmp_path: Path) -> None:
    put = vectors(30)
    kept = list(put)[:20]
    store.put_images(MODEL, put)
    store.put_encoder(INFO, "auto", "cpu", [])
    store.remember_files([(old_file(tmp_path / f"{i}.jpg"), key) for i, key in enumerate(kept)], time.time_ns())
    assert same(scanned(store), put)
    before = store.info().bytes
    store.prune(dry_run=True)
    assert len(parts(tmp_path)) == 3
    pruned = store.prune()
    assert parts(tmp_path) == []
    assert store.info().bytes == before - pruned.bytes
    assert same(scanned(store), {key: put[key] for key in kept})
    assert len(parts(tmp_path)) == 2
    assert store.prune() == PruneResult()
    (tmp_path / "0.jpg").unlink()
    (tmp_path / "1.jpg").write_bytes(b"y")
    store.clear()
    assert parts(tmp_path) == []
    assert scanned(store) == {}


@pytest.mark.usefixtures("small_parts")
def test_parts_outlast_a_prune_that_drops_no_vector(store: Store, tmp_path: Path) -> None:
    store.put_images(MODEL, put := vectors(30))
    store.put_encoder(INFO, "auto", "cpu", [])
    files = [(old_file(tmp_path / f"{i}.jpg"), key) for i, key in enumerate([*put, next(iter(put))])]
    store.remember_files(files, time.time_ns())
    assert same(scanned(store), put)
    before = parts(tmp_path)
    (tmp_path / "30.jpg").unlink()
    assert replace(store.prune(), bytes=0) == PruneResult(files=1)
    assert len(before) == 3 and parts(tmp_path) == before


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("ruin", "cause"),
    [
        *((lambda content, at=at: flipped(content, at), "its length is wrong") for at in (0, 7)),
        *(
            (lambda content, at=at: flipped(content, at), "a checksum is wrong")
            for at in (8, 39, 40, 71, 72, 79, 80, 727)
        ),
        (lambda content: b"", "it is empty"),
        (lambda content: content[:7], "its length is wrong"),
        (lambda content: content[:-72], "its length is wrong"),
        (lambda content: content[:-1], "its length is wrong"),
        (lambda content: content + content[8:], "its length is wrong"),
        (lambda content: bytes(len(content)), "its length is wrong"),
        (lambda content: content[:8] + bytes(len(content) - 8), "a checksum is wrong"),
        (
            lambda content: content[:8] + content[80:152] + content[8:80] + content[152:-72] + content[8:80],
            "a checksum is wrong",
        ),
    ],
)
def test_damage_to_a_packed_part_is_noticed(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, ruin: Callable[[bytes], bytes], cause: str
) -> None:
    put = vectors(20)
    store.put_images(MODEL, put)
    assert same(scanned(store), put)
    part = parts(tmp_path)[1]
    content = part.read_bytes()
    part.write_bytes(ruin(content))
    assert same(scanned(store), put)
    folder = tmp_path / packed.FOLDER
    assert warnings(caplog) == [f"{folder}: packed embeddings are damaged ({cause}); they are packed again"]
    assert part.read_bytes() == content


@pytest.mark.usefixtures("small_parts")
def test_what_is_no_file_where_a_part_should_be_stays(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put = vectors(20)
    store.put_images(MODEL, put)
    assert same(scanned(store), put)
    before = parts(tmp_path)
    before[0].unlink()
    before[0].mkdir()
    assert same(scanned(store), put)
    folder = tmp_path / packed.FOLDER
    assert warnings(caplog) == [
        f"{folder}: packed embeddings are damaged (Is a directory); they are packed again",
        f"{folder}: embeddings cannot be packed (Is a directory); a scan takes longer",
    ]
    assert parts(tmp_path) == before, "no draft is left"


@pytest.mark.usefixtures("small_parts")
def test_one_part_does_not_pass_for_another(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(20)
    store.put_images(MODEL, put)
    assert same(scanned(store), put)
    first, second = parts(tmp_path)
    first.write_bytes(second.read_bytes())
    assert same(scanned(store), put)
    assert len(warnings(caplog)) == 1


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_vector_is_told_and_left_out_of_a_scan(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put = vectors(20)
    store.put_images(MODEL, put)
    bad = list(put)[4]
    raw(store).execute("UPDATE embeddings SET vector = zeroblob(32) WHERE key = ?", (bad,))
    expected = {key: vector for key, vector in put.items() if key != bad}
    assert same(scanned(store), expected)
    assert same(scanned(store), expected)
    assert warnings(caplog) == [
        f"{tmp_path / FILE_NAME}: damaged embeddings were dropped from the cache; they are computed again"
    ]
    store.put_images(MODEL, {bad: put[bad]})
    assert same(scanned(store), put)


def test_a_damaged_key_costs_a_scan_one_vector(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(50, 64)
    path = filled_file(tmp_path, put)
    bad = list(put)[20]
    content = path.read_bytes()
    at = content.find(bad + put[bad].tobytes())  # in the table, and not in its index
    assert at > 0
    path.write_bytes(flipped(content, at))
    with Store.open(tmp_path) as again:
        assert same(scanned(again, 64), {key: vector for key, vector in put.items() if key != bad})
        assert same(again.images(MODEL, put), put)
    assert len(warnings(caplog)) == 1
    assert aside(tmp_path) == []


def test_a_scan_minds_no_gaps(store: Store) -> None:
    put = vectors(20)
    store.put_images(MODEL, put)
    for id_, far in ((18, 2**40), (19, 2**63 - 2), (20, 2**63 - 1)):
        raw(store).execute("UPDATE embeddings SET id = ? WHERE id = ?", (far, id_))
    assert same(scanned(store), put)


def test_vectors_of_another_length_or_key_are_left_out_of_a_scan(store: Store) -> None:
    put = vectors(3)
    store.put_images(MODEL, put | vectors(2, 4, seed=1) | {b"short": np.ones(8, np.float32)})
    assert same(scanned(store), put)


@pytest.mark.usefixtures("small_parts")
def test_a_scan_that_cannot_pack_goes_on(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(30)
    store.put_images(MODEL, put)
    (tmp_path / packed.FOLDER).write_bytes(b"")
    assert same(scanned(store), put)
    assert len(warnings(caplog)) == 1
    (tmp_path / packed.FOLDER).unlink()
    raw(store).execute("PRAGMA query_only = 1")
    assert same(scanned(store), put)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("ruin", ["PRAGMA query_only = 1", "UPDATE packing SET token = 'damaged'"])
def test_without_a_token_nothing_is_packed(store: Store, tmp_path: Path, ruin: str) -> None:
    put = vectors(30)
    store.put_images(MODEL, put)
    raw(store).execute(ruin)
    assert same(scanned(store), put)
    assert parts(tmp_path) == []


@pytest.mark.usefixtures("small_parts")
def test_what_cannot_be_read_is_not_packed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = vectors(30)
    store.put_images(MODEL, put)
    con = raw(store)
    read = Store._records

    def interrupted(*arguments: Any) -> Any:
        con.set_progress_handler(lambda: 1, 1)
        try:
            return read(*arguments)
        finally:
            con.set_progress_handler(None, 1)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_records", interrupted)
        assert scanned(store) == {}
    assert parts(tmp_path) == []
    assert same(scanned(store), put)
    assert warnings(caplog) == [
        f"{tmp_path / FILE_NAME}: the embedding cache cannot be read (interrupted); embeddings are computed again"
    ]


def test_there_is_nothing_to_scan_without_a_store(store: Store) -> None:
    store.put_images(MODEL, vectors(3))
    store.close()
    assert scanned(store) == {}
    assert [*NoStore().scan(MODEL, 8)] == []
    assert store.files([b"d"]) == NoStore().files([b"d"]) == {}


# Versions


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("version", range(1, len(SCHEMA)))
def test_an_older_store_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, version: int) -> None:
    put = vectors(30)
    older = Store(database.Database(tmp_path / FILE_NAME, SCHEMA[:version]))
    older.put_images(MODEL, put)
    assert raw(older).execute("PRAGMA user_version").fetchone() == (version,)
    older.close()
    with Store.open(tmp_path) as opened:
        assert same(opened.images(MODEL, put), put)
        assert same(scanned(opened), put)
        raw(opened).execute("DELETE FROM embeddings WHERE id = 30")
        assert len(scanned(opened)) == 29
    assert warnings(caplog) == []


# Encoders


def test_an_encoder_is_known_until_its_files_change(store: Store, tmp_path: Path) -> None:
    weights, config = tmp_path / "weights", tmp_path / "config"
    files = [old_file(weights), old_file(config)]
    store.put_encoder(INFO, "auto", "cpu", files)
    assert store.get_encoder("starter", "auto", "cpu") == INFO
    assert store.get_encoder("starter", "fp32", "cpu") is None
    assert store.get_encoder("starter", "auto", "cuda") is None
    old_file(config, b"longer")
    assert store.get_encoder("starter", "auto", "cpu") is None
    newer = replace(INFO, fingerprint="model-b", logit_bias=-12.9)
    store.put_encoder(newer, "auto", "cpu", [stamp(weights), stamp(config)])
    assert store.get_encoder("starter", "auto", "cpu") == newer
    os.utime(weights, ns=(LONG_AGO, LONG_AGO + 1))
    assert store.get_encoder("starter", "auto", "cpu") is None
    weights.unlink()
    assert store.get_encoder("starter", "auto", "cpu") is None


def test_a_damaged_encoder_row_is_not_believed(store: Store) -> None:
    store.put_encoder(INFO, "auto", "cpu", [])
    raw(store).execute("UPDATE encoders SET logit_scale = 1.0")
    assert store.get_encoder("starter", "auto", "cpu") is None


def test_numpy_numbers_may_describe_an_encoder(store: Store) -> None:
    numbers: Any = {"dim": np.int64(8), "logit_scale": np.float32(100), "logit_bias": np.float32(-2.5)}
    store.put_encoder(replace(INFO, **numbers), "auto", "cpu", [])
    assert store.get_encoder("starter", "auto", "cpu") == replace(INFO, logit_bias=-2.5)


# Upkeep


def fill(store: Store, folder: Path) -> dict[bytes, Vector]:
    """Two files, of which the first is then deleted; two models, of which the second has no name."""
    put = vectors(2)
    here, gone = put
    files = [(old_file(folder / "here.jpg"), here), (old_file(folder / "gone.jpg"), gone)]
    store.remember_files(files, time.time_ns())
    text = {"a": (np.ones(4, np.float32), TokenCount(3, False))}
    for model in (MODEL, "model-b"):
        store.put_images(model, put)
        store.put_texts(model, text)
    store.put_encoder(INFO, "auto", "cpu", [])
    store.put_failures("pillow 1", {here: "bad", gone: "bad", b"elsewhere": "bad"})
    (folder / "gone.jpg").unlink()
    return put


def test_info_counts(store: Store, tmp_path: Path) -> None:
    fill(store, tmp_path)
    info = store.info()
    assert (info.path, info.files, info.failures, info.images, info.texts) == (tmp_path / FILE_NAME, 2, 3, 4, 2)
    assert [(model.fingerprint, model.specs, model.images, model.texts) for model in info.models] == [
        (MODEL, ("starter",), 2, 1),
        ("model-b", (), 2, 1),
    ]
    assert info.bytes == sum((tmp_path / f"{FILE_NAME}{end}").stat().st_size for end in ("", "-wal", "-shm"))


def test_prune_drops_what_nobody_can_use(store: Store, tmp_path: Path) -> None:
    here, gone = fill(store, tmp_path)
    before = store.info()
    counted = store.prune(dry_run=True)
    assert counted == PruneResult(files=1, images=3, texts=1, failures=2)
    assert replace(store.info(), bytes=0) == replace(before, bytes=0)
    assert replace(store.prune(), bytes=0) == counted
    assert list(store.images(MODEL, [here, gone])) == [here]
    assert list(store.texts(MODEL, ["a"])) == ["a"]
    assert store.images("model-b", [here]) == {}
    assert list(store.failures([here, gone, b"elsewhere"], "pillow 1")) == [here]
    assert store.prune() == PruneResult()


def test_prune_gives_space_back(store: Store) -> None:
    store.put_images(MODEL, vectors(3000, 512))
    before = store.info().bytes
    freed = store.prune().bytes
    assert freed > 6_000_000
    assert store.info().bytes == before - freed


def test_a_file_out_of_reach_is_not_gone(store: Store, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    store.remember_files([(FileStamp(str(loop), 1, LONG_AGO), b"d")], time.time_ns())
    assert store.prune() == PruneResult()


def test_a_frame_is_gone_with_its_video(store: Store, tmp_path: Path) -> None:
    (tmp_path / "odd#t=name.mp4").write_bytes(b"x")
    here, gone = f"{tmp_path}/odd#t=name.mp4#t=2.50", f"{tmp_path}/gone.mp4#t=2.50"
    store.remember_files([(FileStamp(path, 1, LONG_AGO), b"d") for path in (here, gone)], time.time_ns())
    assert store.prune().files == 1
    assert [known.path for known in store.files([b"d"])[b"d"]] == [here]


@pytest.mark.parametrize("path", [7, b"a\0b"])
def test_what_is_no_path_is_gone(store: Store, path: object) -> None:
    raw(store).execute("INSERT INTO files VALUES (?, 1, 1, x'00', 1)", (path,))
    assert store.prune().files == 1
    assert store.info().files == 0


def test_clear_empties_it_for_everyone(store: Store, tmp_path: Path) -> None:
    put = fill(store, tmp_path)
    (tmp_path / f"{FILE_NAME}.damaged-20200101-000000").write_bytes(b"old")
    assert len(store.info().set_aside) == 1
    with Store.open(tmp_path) as other:
        assert other.images(MODEL, put)
        store.clear()
        assert other.images(MODEL, put) == {}
        other.put_images(MODEL, put)
    assert same(store.images(MODEL, put), put)
    info = store.info()
    assert (info.files, info.failures, info.texts, info.set_aside) == (0, 0, 0, ())
    assert store.get_encoder("starter", "auto", "cpu") is None


def test_clear_leaves_what_it_cannot_delete(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / f"{FILE_NAME}.damaged-20200101-000000"
    folder.mkdir()
    store.clear()
    assert store.info().set_aside == (folder,)


# Damage


def filled_file(folder: Path, put: dict[bytes, Vector]) -> Path:
    with Store.open(folder) as store:
        store.put_images(MODEL, put)
        store.remember_files([(FileStamp(f"/{i}.jpg", 1, LONG_AGO), key) for i, key in enumerate(put)], time.time_ns())
        store.put_texts(MODEL, {str(i): (vector, TokenCount(3, False)) for i, vector in enumerate(put.values())})
        store.put_failures("pillow 1", dict.fromkeys(put, "bad"))
        store.put_encoder(INFO, "auto", "cpu", [])
    return folder / FILE_NAME


def use(folder: Path, put: dict[bytes, Vector]) -> None:
    """Do everything with a store that may be damaged: nothing may fail, and every vector must be right."""
    with Store.open(folder) as store:
        texts = {str(i): (vector, TokenCount(3, False)) for i, vector in enumerate(put.values())}
        for _ in range(2):
            for key, vector in store.images(MODEL, put).items():
                assert vector.tobytes() == put[key].tobytes()
            for text, (vector, count) in store.texts(MODEL, texts).items():
                assert (vector.tobytes(), count) == (texts[text][0].tobytes(), texts[text][1])
            store.digests([FileStamp(f"/{i}.jpg", 1, LONG_AGO) for i in range(len(put))])
            store.failures(put, "pillow 1")
            assert store.get_encoder("starter", "auto", "cpu") in (INFO, None)
            store.put_images(MODEL, put)
            store.put_texts(MODEL, texts)
        for keys, found in store.scan(MODEL, 64):
            for key, vector in zip(keys, found, strict=True):
                assert vector.tobytes() == put[key.tobytes()].tobytes()
        store.files(put)
        store.info()
        store.prune()
        store.clear()


def test_a_flipped_byte_costs_one_vector(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(50, 64)
    path = filled_file(tmp_path, put)
    bad = list(put)[20]
    content = bytearray(path.read_bytes())
    for start in (content.find(put[bad].tobytes()), content.rfind(put[bad].tobytes())):
        assert start > 0
        content[start + 100] ^= 4
    path.write_bytes(content)
    with Store.open(tmp_path) as store:
        expected = {key: vector for key, vector in put.items() if key != bad}
        assert same(store.images(MODEL, put), expected)
        assert same(store.images(MODEL, put), expected)
        assert "20" not in store.texts(MODEL, ["19", "20"])
        store.put_images(MODEL, {bad: put[bad]})
        assert same(store.images(MODEL, put), put)
    assert len(warnings(caplog)) == 1
    assert aside(tmp_path) == []


def test_a_vector_cut_short_is_dropped(store: Store) -> None:
    store.put_images(MODEL, vectors(3))
    raw(store).execute("UPDATE embeddings SET vector = substr(vector, 1, 30) WHERE id = 1")
    raw(store).execute("UPDATE embeddings SET vector = 'text' WHERE id = 2")
    assert len(store.images(MODEL, vectors(3))) == 1
    assert store.info().images == 1


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(100_000))


def garbage_everywhere(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal", "-lock"):
        garbage(Path(f"{path}{suffix}"))


def without_table(path: Path) -> None:
    con = sqlite3.connect(path)
    con.execute("DROP TABLE embeddings")
    con.close()


def without_column(path: Path) -> None:
    con = sqlite3.connect(path)
    con.execute("ALTER TABLE files DROP COLUMN hashed_ns")
    con.close()


def foreign(path: Path) -> None:
    path.unlink()
    con = sqlite3.connect(path)
    con.execute("CREATE TABLE files (name)")
    con.close()


@pytest.mark.parametrize("ruin", [garbage, garbage_everywhere, without_table, without_column, foreign])
def test_a_damaged_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ruin: Callable[[Path], None]
) -> None:
    put = vectors(30, 64)
    ruin(filled_file(tmp_path, put))
    use(tmp_path, put)
    (warning,) = warnings(caplog)
    path = re.escape(str(tmp_path / FILE_NAME))
    assert re.fullmatch(
        rf"{path}: the embedding cache is damaged \([^()]+\); it is now {path}\.damaged-20\d{{6}}-\d{{6}}, "
        "and a fresh one is used",
        warning,
    )
    assert "(None)" not in warning
    use(tmp_path, put)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("keep", [0, 1, 50, 100, 4096, 16384, 20_000, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_no_obstacle(tmp_path: Path, keep: float) -> None:
    put = vectors(600, 64)
    path = filled_file(tmp_path, put)
    os.truncate(path, keep if isinstance(keep, int) else int(path.stat().st_size * keep))
    use(tmp_path, put)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_is_no_obstacle(tmp_path: Path, seed: int) -> None:
    put = vectors(100, 64)
    path = filled_file(tmp_path, put)
    content, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(rng.choice([1, 20, 500])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    use(tmp_path, put)


def test_names_of_files_set_aside_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20200101-000000")
    for _ in range(3):
        garbage(tmp_path / FILE_NAME)
        Store.open(tmp_path).close()
    stem = f"{FILE_NAME}.damaged-20200101-000000"
    assert sorted(file.name for file in aside(tmp_path)) == [stem, f"{stem}-1", f"{stem}-2"]


def test_a_newer_version_is_set_aside_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(3)
    path = filled_file(tmp_path, put)
    con = sqlite3.connect(path)
    con.execute("PRAGMA user_version = 3")
    con.close()
    with Store.open(tmp_path) as store:
        assert store.images(MODEL, put) == {}
        (newer,) = aside(tmp_path, "newer")
        assert newer in store.info().set_aside
    use(tmp_path, put)
    assert warnings(caplog) == [
        f"{path}: the embedding cache is from a newer version (format 3, and this clipcls knows 2); "
        f"it is now {newer}, and a fresh one is used"
    ]
    assert aside(tmp_path) == []


def test_damage_in_the_middle_of_a_run(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(30)
    store.put_images(MODEL, put)
    without_table(tmp_path / FILE_NAME)
    assert store.images(MODEL, put) == {}
    store.put_images(MODEL, put)
    assert same(store.images(MODEL, put), put)
    assert len(warnings(caplog)) == 1
    assert len(aside(tmp_path)) == 1


def test_malformed_pages_in_the_middle_of_a_run(store: Store, tmp_path: Path) -> None:
    put = vectors(3000, 512)
    store.put_images(MODEL, put)
    raw(store).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / FILE_NAME).open("r+b") as file:
        file.seek(16384)
        file.write(random.Random(0).randbytes((tmp_path / FILE_NAME).stat().st_size - 16384))
    for key, vector in store.images(MODEL, put).items():
        assert vector.tobytes() == put[key].tobytes()
    store.put_images(MODEL, put)
    assert same(store.images(MODEL, put), put)
    assert len(aside(tmp_path)) == 1


def test_a_fresh_file_of_another_process_is_not_set_aside(store: Store, tmp_path: Path) -> None:
    put = vectors(5)
    with Store.open(tmp_path) as other:
        without_table(tmp_path / FILE_NAME)
        store.put_images(MODEL, put)
        assert same(other.images(MODEL, put), put)
    assert len(aside(tmp_path)) == 1
    assert same(store.images(MODEL, put), put)


def test_damage_that_does_not_end_ends_the_store(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(con: sqlite3.Connection) -> None:
        con.execute("SELECT * FROM nowhere")

    store._db.run(broken, None)
    store._db.run(broken, None)
    store.put_images(MODEL, vectors(1))
    assert store.images(MODEL, vectors(1)) == {}
    assert len(aside(tmp_path)) == 1
    assert len(warnings(caplog)) == 2
    assert warnings(caplog)[1] == (
        f"{tmp_path / FILE_NAME}: the embedding cache is damaged (no such table: nowhere); this run goes on without it"
    )


def test_work_that_was_interrupted_is_not_tried_again(store: Store) -> None:
    tried = []

    def interrupted(con: sqlite3.Connection) -> None:
        tried.append(con)
        con.set_progress_handler(lambda: 1, 1)
        try:
            con.execute("SELECT * FROM files").fetchall()
        finally:
            con.set_progress_handler(None, 1)

    assert store._db.run(interrupted, "default") == "default"  # type: ignore[arg-type]
    assert len(tried) == 1


def test_damage_that_cannot_be_set_aside_ends_the_store(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("in use")

    without_table(tmp_path / FILE_NAME)
    monkeypatch.setattr(os, "rename", refuse)
    store.put_images(MODEL, vectors(1))
    assert store.images(MODEL, vectors(1)) == {}
    assert len(warnings(caplog)) == 1


# A disk that does not play along


@pytest.mark.parametrize("limit", ["max_page_count = 20", "query_only = 1"])
def test_a_store_that_cannot_be_written_is_still_read(
    store: Store, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    first, more = vectors(20, 512), vectors(2000, 512, seed=1)
    store.put_images(MODEL, first)
    raw(store).execute(f"PRAGMA {limit}")
    store.put_images(MODEL, more)
    store.put_images(MODEL, more)
    store.remember_files([(FileStamp("/a", 1, 1), b"d")], 1)
    store.clear()
    assert store.prune() == PruneResult()
    assert same(store.images(MODEL, [*first, *more]), first)
    (warning,) = warnings(caplog)
    assert "cannot be written" in warning


def test_a_lock_that_is_held_too_long_costs_only_that_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    put = vectors(1)
    with Store.open(tmp_path) as store, Store.open(tmp_path) as other:
        raw(other).execute("BEGIN IMMEDIATE")
        store.put_images(MODEL, put)
        store.put_images(MODEL, put)
        assert warnings(caplog) == [
            f"{tmp_path / FILE_NAME}: the embedding cache was locked for too long (database is locked); "
            "some of it was not used"
        ]
        raw(other).execute("ROLLBACK")
        store.put_images(MODEL, put)
        assert same(store.images(MODEL, put), put)


def forbid_locks(folder: Path) -> None:
    """Make opening fail as in a folder that cannot be written; root could write in any."""
    lock = folder / f"{FILE_NAME}-lock"
    lock.unlink()
    lock.mkdir()


def refuses_to_write(store: Store) -> bool:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        raw(store).execute("DELETE FROM failures")
    return True


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put = vectors(5)
    path = filled_file(tmp_path, put)
    forbid_locks(tmp_path)
    with Store.open(tmp_path) as store:
        assert same(store.images(MODEL, put), put)
        store.put_images(MODEL, vectors(1, seed=1))
        assert store.info().images == 5
        assert refuses_to_write(store)
        assert not Path(f"{path}-shm").exists(), "nor could it be made there"
    assert warnings(caplog) == [
        f"{path}: the embedding cache cannot be written (unable to open database file); new embeddings are not kept"
    ]


def test_in_a_folder_that_others_write_what_they_wrote_is_read(tmp_path: Path) -> None:
    put = vectors(5)
    with Store.open(tmp_path) as writer:
        writer.put_images(MODEL, put)
        forbid_locks(tmp_path)
        with Store.open(tmp_path) as store:
            assert same(store.images(MODEL, put), put)
            assert refuses_to_write(store)


def test_threads_share_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    put = vectors(5)
    filled_file(tmp_path, put)
    forbid_locks(tmp_path)
    with Store.open(tmp_path) as store, ThreadPoolExecutor(1) as pool:
        assert same(pool.submit(store.images, MODEL, put).result(), put)


def test_an_older_store_in_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    database.Database(tmp_path / FILE_NAME, SCHEMA[:1]).close()
    forbid_locks(tmp_path)
    with pytest.raises(StoreError, match=r"the embedding cache cannot be opened \(unable to open database file\)"):
        Store.open(tmp_path)


def test_an_older_store_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = filled_file(tmp_path, vectors(1))
    with contextlib.closing(sqlite3.connect(path)) as con:
        con.execute("PRAGMA user_version = 1")
    Path(f"{path}-lock").unlink()
    Path(f"{path}-lock").mkdir()
    with pytest.raises(StoreError, match="unable to open database file"):
        Store.open(tmp_path)


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / FILE_NAME).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "folder"):
        with pytest.raises(StoreError) as caught:
            Store.open(folder)
        message = str(caught.value)
        assert message.startswith(f"{folder}: ")
        assert message.endswith("; go without it (--no-cache) or set CLIPCLS_CACHE_DIR to a folder that can be written")
        assert "\n" not in message


def use_dotfile_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sqlite work as on a file system without shared memory."""
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def without_wal(path: Path | str, **options: Any) -> sqlite3.Connection:
        return connect(f"{Path(path).as_uri()}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", without_wal)


@pytest.mark.skipif(sys.platform == "win32", reason="needs sqlite's unix-dotfile")
@pytest.mark.parametrize("left_in_wal_mode", [False, True])
def test_without_shared_memory_there_is_another_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, left_in_wal_mode: bool
) -> None:
    put = vectors(5)
    if left_in_wal_mode:
        filled_file(tmp_path, put)
    use_dotfile_locks(monkeypatch)
    with Store.open(tmp_path) as store, Store.open(tmp_path) as other:
        store.put_images(MODEL, put)
        assert same(other.images(MODEL, put), put)
        assert raw(store).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    unsupported = "not supported there"
    assert warnings(caplog) == [
        f"{tmp_path / FILE_NAME}: no write-ahead logging ({cause}); the embedding cache uses a slower rollback journal"
        for cause in ("unable to open database file" if left_in_wal_mode else unsupported, unsupported)
    ]
    assert aside(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs sqlite's unix-dotfile")
def test_a_home_without_shared_memory_is_told_once_and_costs_no_answer(
    here: Path, fake: Callable[..., FakeDoor], clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = fake()
    for at in range(300):
        picture(here / "图片" / f"{at}.png", (at % 256, at // 256, 9))
    words = ("classify", "图片", "--labels", "red,green", "--quiet")
    expected = clipcls(*words, "--no-cache")
    use_dotfile_locks(monkeypatch)
    encoded = len(door.encoder.image_batches)
    assert clipcls(*words) == expected
    (line,) = clipcls.err.splitlines()
    assert line.startswith("warning: ") and "no write-ahead logging" in line and "slower rollback journal" in line
    assert clipcls(*words) == expected
    assert len(door.encoder.image_batches) == 2 * encoded, "the second run found all of them"


def test_a_new_file_is_set_up_as_measured(store: Store) -> None:
    settings = {
        "page_size": 16384,
        "journal_mode": "wal",
        "synchronous": 1,
        "wal_autocheckpoint": 8000,
        "user_version": 2,
    }
    assert {name: raw(store).execute(f"PRAGMA {name}").fetchone()[0] for name in settings} == settings


def test_a_closed_store_is_empty(store: Store) -> None:
    put = vectors(1)
    store.put_images(MODEL, put)
    store.close()
    store.close()
    store.put_images(MODEL, put)
    assert store.images(MODEL, put) == {}
    info = store.info()
    assert (info.files, info.failures, info.models) == (0, 0, ())


# Company


def test_threads_share_one_store(store: Store) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for part in range(10):
                put = vectors(20, seed=100 * seed + part)
                store.put_images(MODEL, put)
                assert same(store.images(MODEL, put), put)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.info().images == 1600


def in_processes(target: Callable[..., None], folder: Path, count: int = 4) -> None:
    """Run ``target(folder, number, barrier)`` in several processes; none may fail."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    processes = [context.Process(target=target, args=(folder, number, barrier)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count
    for process in processes:
        process.close()


class Complain(logging.Handler):
    """Turn a warning into an error."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


def create_and_write(folder: Path, number: int, barrier: threading.Barrier) -> None:
    logging.getLogger("clipcls").addHandler(Complain(logging.WARNING))
    for round_ in range(10):
        barrier.wait(60)
        with Store.open(folder / str(round_)) as store:
            for part in range(5):
                put = vectors(20, seed=100 * number + part)
                store.put_images(MODEL, put)
                store.put_images(MODEL, vectors(20, seed=99999))
                assert same(store.images(MODEL, put), put)


def test_processes_may_create_and_write_at_once(tmp_path: Path) -> None:
    in_processes(create_and_write, tmp_path)
    for round_ in range(10):
        with Store.open(tmp_path / str(round_)) as store:
            assert store.info().images == 4 * 5 * 20 + 20


def scan_while_others_write(folder: Path, number: int, barrier: threading.Barrier) -> None:
    logging.getLogger("clipcls").addHandler(Complain(logging.WARNING))
    packed.SPAN = 20
    with Store.open(folder) as store:
        put = vectors(100, seed=number)
        store.put_images(MODEL, put)
        barrier.wait(60)
        for round_ in range(20):
            if number == 0:
                key = list(put)[round_]
                store._db.insert("DELETE FROM embeddings WHERE key = ?", [(key,)])
                del put[key]
            store.put_images(MODEL, fresh := vectors(7, seed=1000 + 100 * number + round_))
            put |= fresh
            found = scanned(store)
            assert all(found[key].tobytes() == vector.tobytes() for key, vector in put.items())


def test_processes_may_scan_while_others_write(tmp_path: Path) -> None:
    in_processes(scan_while_others_write, tmp_path)
    with Store.open(tmp_path) as store:
        assert len(scanned(store)) == store.info().images == 4 * (100 + 20 * 7) - 20


def find_damage(folder: Path, number: int, barrier: threading.Barrier) -> None:
    for round_ in range(10):
        with Store.open(folder / str(round_)) as store:
            put = vectors(20, seed=number)
            barrier.wait(60)
            if number == 0:
                without_table(folder / str(round_) / FILE_NAME)
            barrier.wait(60)
            store.put_images(MODEL, put)
            assert same(store.images(MODEL, put), put)


def test_processes_that_find_damage_at_once_replace_it_once(tmp_path: Path) -> None:
    in_processes(find_damage, tmp_path)
    for round_ in range(10):
        folder = tmp_path / str(round_)
        assert len(aside(folder)) == 1
        with Store.open(folder) as store:
            assert store.info().images == 4 * 20


def open_garbage(folder: Path, number: int, barrier: threading.Barrier) -> None:
    for round_ in range(10):
        if number == 0:
            (folder / str(round_)).mkdir()
            garbage(folder / str(round_) / FILE_NAME)
        barrier.wait(60)
        with Store.open(folder / str(round_)) as store:
            store.put_images(MODEL, vectors(20, seed=number))


def test_processes_that_open_garbage_at_once_replace_it_once(tmp_path: Path) -> None:
    in_processes(open_garbage, tmp_path)
    for round_ in range(10):
        folder = tmp_path / str(round_)
        assert len(aside(folder)) == 1
        with Store.open(folder) as store:
            assert store.info().images == 4 * 20
