"""Runs that are cut off: killed at any moment, out of disk, without a place to write; nothing is lost or doubled."""

from __future__ import annotations

import csv
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import FakeEncoder, picture

BATCH = FakeEncoder.batch_size
COUNTING = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fakes import FakeDoor, FakeEncoder
import clipcls.pipeline
from clipcls.cli import main

class Counting(FakeEncoder):
    def encode_images(self, batch):
        found = super().encode_images(batch)
        with open("encoded.txt", "a") as file:
            print(len(batch), file=file)
        return found

clipcls.pipeline.load_encoder = FakeDoor(Counting(seconds=0.004))
main()
"""
WORDS = ["classify", "图片", "--labels", "red,green,blue", "-o", "out.csv", "--resume", "--quiet"]


def pictures(count: int) -> set[str]:
    """Pictures that all differ, and their paths."""
    for at in range(count):
        picture(Path("图片") / f"{at // 100}" / f"{at}.png", (at % 256, at // 256, 100), (4, 3))
    return {str(path) for path in Path("图片").rglob("*.png")}


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COUNTING, *WORDS], stderr=subprocess.PIPE)


def check_killed(kills: int, count: int, seed: int) -> None:
    dice, expected = random.Random(seed), pictures(count)
    hit = 0
    while hit < kills:
        run = start()
        time.sleep(dice.uniform(0.2, 0.9))
        run.kill()
        _, said = run.communicate()
        assert run.returncode in (0, -signal.SIGKILL), said
        if run.returncode == 0:  # it was through: from here the kills hit a run anew
            whole(expected)
            for path in ("out.csv", "out.csv.run.json", "encoded.txt"):
                Path(path).unlink()
            shutil.rmtree(os.environ["CLIPCLS_CACHE_DIR"])
            continue
        hit += 1
        again = encoded() - kept()
        assert again <= hit * BATCH, f"{again} encoded and not kept after {hit} kills"
    done = start()
    _, said = done.communicate(timeout=600)
    assert done.returncode == 0, said
    whole(expected)


def encoded() -> int:
    """How many pictures the tower has encoded."""
    return sum(map(int, Path("encoded.txt").read_text().split())) if Path("encoded.txt").exists() else 0


def kept() -> int:
    """How many the store has; it opens clean."""
    file = Path(os.environ["CLIPCLS_CACHE_DIR"]) / "embeddings.sqlite3"
    if not file.exists():
        return 0
    with sqlite3.connect(file) as connection:
        try:
            (state,) = connection.execute("PRAGMA integrity_check").fetchone()
            assert state == "ok"
            (count,) = connection.execute("SELECT count(*) FROM embeddings WHERE kind = 'image'").fetchone()
        except sqlite3.OperationalError:  # killed before there were tables
            return 0
    return int(count)


def whole(expected: set[str], output: Path = Path("out.csv")) -> None:
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["path"] for row in rows) == Counter(expected)
    assert {row["status"] for row in rows} == {"ok"}
    assert not output.with_name("out.csv.partial").exists()
    cache = Path(os.environ["CLIPCLS_CACHE_DIR"])
    if not cache.exists():
        return
    assert [path.name for path in cache.iterdir() if "damaged" in path.name or "set" in path.name] == []


def test_kills_lose_and_double_nothing(here: Path) -> None:
    check_killed(3, 400, seed=1)


@pytest.mark.slow
def test_fifty_kills_lose_and_double_nothing(here: Path) -> None:
    check_killed(50, 2000, seed=2)


# No room


class Disk:
    """A disk of its own, as far as this system lets anybody mount one; else files that may not grow."""

    def __init__(self, folder: Path, size: int, way: str) -> None:
        self.folder, self.size, self.way = folder, size, way
        folder.mkdir()
        if way == "disk":
            self.mount("-t", "tmpfs", "-o", f"size={size}", "none")

    def mount(self, *words: str) -> None:
        done = subprocess.run(["mount", *words, str(self.folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    def limit(self) -> None:
        """For a process before it begins."""
        if self.way == "limit" and self.size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))

    def make_room(self) -> None:
        self.size = 0
        if self.way == "disk":
            self.mount("-o", "remount,size=100m")

    def close(self) -> None:
        if os.path.ismount(self.folder):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture(params=["disk", "limit"])
def disk(request: pytest.FixtureRequest, here: Path) -> Iterator[Callable[[str, int], Disk]]:
    made: list[Disk] = []

    def make(name: str, size: int) -> Disk:
        made.append(Disk(here / name, size, request.param))
        return made[-1]

    yield make
    for each in made:
        each.close()


def on(disk: Disk, *words: str) -> subprocess.CompletedProcess[str]:
    """A run of clipcls under whatever limit there is."""
    return subprocess.run(
        [sys.executable, "-c", COUNTING, "classify", "图片", "--labels", "red,green,blue", "--quiet", *words],
        capture_output=True, text=True, timeout=600, preexec_fn=disk.limit,
    )  # fmt: skip


def test_a_full_disk_under_the_results_is_told_and_resumed_from(here: Path, disk: Callable[[str, int], Disk]) -> None:
    expected = pictures(2000)
    results = disk("results", 48 << 10)
    done = on(results, "-o", "results/out.csv", "--no-cache")
    assert done.returncode == 7, done.stderr
    told = done.stderr.splitlines()
    assert told[-1].startswith("error: results/out.csv cannot be written: ") and "--resume" in told[-1]
    assert told[:-1] == ["the rows so far are in results/out.csv.partial; the same command with --resume goes on"]
    assert not Path("results/out.csv").exists()
    before = encoded()
    assert 0 < before < 2000
    again = on(results, "-o", "results/out.csv", "--no-cache", "--resume")  # still no room
    assert again.returncode == 7 and again.stderr.splitlines()[-1].startswith("error: results/out.csv cannot be")
    results.make_room()
    done = on(results, "-o", "results/out.csv", "--no-cache", "--resume")
    assert done.returncode == 0, done.stderr
    whole(expected, Path("results/out.csv"))
    assert encoded() <= 2000 + 8 * BATCH  # but for what was on its way when it ended


def test_a_full_disk_under_the_store_costs_no_answer(
    here: Path, disk: Callable[[str, int], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pictures(2000)
    store = disk("store", 256 << 10)
    monkeypatch.setenv("CLIPCLS_CACHE_DIR", "store")
    done = on(store, "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert "embedding cache cannot be written" in done.stderr and done.stderr.count("\n") == 1
    whole(expected)
    store.make_room()
    done = on(store, "-o", "again.csv")
    assert done.returncode == 0 and done.stderr == ""
    assert Path("again.csv").read_bytes() == Path("out.csv").read_bytes()
    assert kept() == 2000 and encoded() <= 4000
    whole(expected)


def test_no_room_for_a_store_at_all(
    here: Path, disk: Callable[[str, int], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pictures(100)
    store = disk("store", 12 << 10)
    monkeypatch.setenv("CLIPCLS_CACHE_DIR", "store")
    done = on(store, "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: ") and done.stderr.count("\n") == 1
    whole(expected)
    store.make_room()
    assert on(store, "-o", "again.csv").returncode == 0
    assert kept() == 100


def check_told_before_any_work(name: str) -> None:
    pictures(3)
    words = ["classify", "图片", "--labels", "red,green", "-o", name]
    done = subprocess.run([sys.executable, "-c", COUNTING, *words], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (7, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {name}") and encoded() == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_in_which_nobody_may_write(here: Path) -> None:
    check_told_before_any_work("/proc/self/out.csv")


def test_a_disk_that_is_read_only(here: Path) -> None:
    disk = Disk(here / "readonly", 1 << 20, "disk")
    try:
        disk.mount("-o", "remount,ro")
        check_told_before_any_work("readonly/out.csv")
    finally:
        disk.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_stdout_that_is_full_is_one_line(here: Path) -> None:
    pictures(3)
    with Path("/dev/full").open("w") as full:
        words = ["classify", "图片", "--labels", "red,green", "--quiet"]
        done = subprocess.run([sys.executable, "-c", COUNTING, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 7 and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_a_folder_that_vanishes_is_told(here: Path) -> None:
    pictures(1200)
    Path("out").mkdir()
    words = ["classify", "图片", "--labels", "red,green", "-o", "out/out.csv", "--quiet"]
    run = subprocess.Popen([sys.executable, "-c", COUNTING, *words], stderr=subprocess.PIPE, text=True)
    while not Path("encoded.txt").exists() and run.poll() is None:
        time.sleep(0.01)
    Path("out").rename("elsewhere")
    _, said = run.communicate(timeout=300)
    assert run.returncode == 7 and "Traceback" not in said and "out/out.csv" in said
    done = subprocess.run([sys.executable, "-c", COUNTING, *WORDS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert encoded() <= 1200 + 3 * BATCH


# Runs that are cut into shards


SHARD = 40
IN_SHARDS = {
    "embed": ["embed", "图片", "-o", "out"],
    "classify": ["classify", "图片", "--labels", "red,green,blue", "-o", "out/"],
}


def rows_of_parts() -> list[str]:
    """The paths of all rows, as anybody reads them."""
    import duckdb

    if not any(Path("out").glob("*.parquet")):
        return []
    return [path for (path,) in duckdb.sql("SELECT path FROM 'out/*.parquet' WHERE error IS NULL").fetchall()]


def check_shards_killed(command: str, kills: int, count: int, seed: int) -> None:
    """Without a store, so that what is in no part must be encoded again."""
    dice, expected = random.Random(seed), Counter(pictures(count))
    words = [*IN_SHARDS[command], "--no-cache", "--resume", "--quiet", "--shard-size", str(SHARD)]
    lost: list[int] = []
    before = 0
    """Of those, how many this run lost."""
    while len(lost) < kills:
        run = subprocess.Popen([sys.executable, "-c", COUNTING, *words], stderr=subprocess.PIPE)
        time.sleep(dice.uniform(0.2, 1.2))
        run.kill()
        _, said = run.communicate()
        assert run.returncode in (0, -signal.SIGKILL), said
        found = Counter(rows_of_parts())
        assert found <= expected
        if run.returncode == 0:  # it was through: from here the kills hit a run anew
            assert found == expected
            shutil.rmtree("out")
            Path("out.run.json").unlink()
            Path("encoded.txt").unlink()
            before = 0
            continue
        lost.append(encoded() - found.total() - before)
        before += lost[-1]
    assert all(0 <= each <= SHARD + 3 * BATCH for each in lost), lost
    assert kills < 10 or sum(lost) <= kills * SHARD, lost  # of a few, all may come at a bad moment
    done = subprocess.run([sys.executable, "-c", COUNTING, *words], stderr=subprocess.PIPE, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert Counter(rows_of_parts()) == expected
    assert sorted(path.name for path in Path().glob("out*")) == ["out", "out.run.json"]


@pytest.mark.parametrize("command", IN_SHARDS)
def test_kills_cost_a_run_in_shards_no_more_than_a_shard_each(here: Path, command: str) -> None:
    check_shards_killed(command, 3, 800, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("command", IN_SHARDS)
def test_thirty_kills_cost_a_run_in_shards_no_more_than_a_shard_each(here: Path, command: str) -> None:
    check_shards_killed(command, 30, 3000, seed=4)
