"""Runs that are cut off: killed at any moment, out of disk, without a place to write; nothing is lost or doubled."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
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


def whole(expected: set[str]) -> None:
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["path"] for row in rows) == Counter(expected)
    assert {row["status"] for row in rows} == {"ok"}
    assert not Path("out.csv.partial").exists()
    cache = Path(os.environ["CLIPCLS_CACHE_DIR"])
    assert [path.name for path in cache.iterdir() if "damaged" in path.name or "set" in path.name] == []


def test_kills_lose_and_double_nothing(here: Path) -> None:
    check_killed(3, 400, seed=1)


@pytest.mark.slow
def test_fifty_kills_lose_and_double_nothing(here: Path) -> None:
    check_killed(50, 2000, seed=2)


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
    _, said = run.communicate(timeout=60)
    assert run.returncode == 7 and "Traceback" not in said and "out/out.csv" in said
    done = subprocess.run([sys.executable, "-c", COUNTING, *WORDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert encoded() <= 1200 + 3 * BATCH
