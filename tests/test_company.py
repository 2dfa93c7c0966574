"""Runs that are not alone: several on one store, and pictures that change or vanish while they are read."""

from __future__ import annotations

import csv
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fakes import picture

FAKE = [sys.executable, str(Path(__file__).parent / "cli_with_fake.py")]
LIST = Path("list.txt")
LABELS = ("--labels", "red,green,blue")


def pictures(count: int) -> list[Path]:
    """Pictures that all differ, and a list of them."""
    paths = [Path("图片") / f"{at // 100:02}" / f"{at:04}.png" for at in range(count)]
    for at, path in enumerate(paths):
        picture(path, (at % 256, at // 256, 100), (4, 3))
    LIST.write_text("".join(f"{path}\n" for path in paths), "utf-8")
    return paths


def start(*words: str, seconds: float = 0.0, cache: str = "cache") -> subprocess.Popen[str]:
    """A run on its own; what it finds on stdin is the list of pictures."""
    with LIST.open() as listed:
        return subprocess.Popen(
            [*FAKE, str(seconds), "classify", *words, *LABELS, "--quiet"],
            env=os.environ | {"CLIPCLS_CACHE_DIR": cache},
            stdin=listed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )


def answered(run: subprocess.Popen[str], *codes: int) -> str:
    """What a run wrote to stdout; it said nothing."""
    out, err = run.communicate(timeout=600)
    assert run.returncode in codes and err == "", err
    return out


def check_store(count: int) -> None:
    with sqlite3.connect("cache/embeddings.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (kept,) = connection.execute("SELECT count(DISTINCT key) FROM embeddings WHERE kind = 'image'").fetchone()
    assert kept == count
    assert not [path.name for path in Path("cache").iterdir() if "damaged" in path.name]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_on_one_store_neither_wait_in_vain_nor_lose_a_vector(here: Path, processes: int) -> None:
    pictures(2000)
    alone = answered(start("图片", cache="another"), 0)
    assert alone.count(",ok,") == 2000
    runs = [start("图片") for _ in range(processes)]
    assert [answered(run, 0) for run in runs] == [alone] * processes
    check_store(2000)
    assert answered(start("图片"), 0) == alone


def disturb(path: Path, dice: random.Random) -> None:
    """What other programs do to a picture, halfway."""
    match dice.randrange(5):
        case 0:
            with path.open("r+b") as file:
                file.truncate(dice.randrange(60))
        case 1:
            path.unlink()
        case 2:
            with path.open("ab") as file:
                file.write(dice.randbytes(dice.randrange(200_000)))
        case 3:
            draft = picture(path.with_suffix(".draft.png"), (dice.randrange(256), 255, dice.randrange(256)))
            os.utime(draft)
            draft.replace(path)
        case _:
            picture(path, (255, dice.randrange(256), dice.randrange(256)))  # in its place, byte by byte
            os.utime(path)


@pytest.mark.parametrize("seed", range(3))
def test_pictures_that_change_while_they_are_read_are_rows_and_seen_anew(here: Path, seed: int) -> None:
    dice, paths = random.Random(seed), pictures(1500)
    listed = [*map(str, paths)]
    run = start("-o", "out.csv", "-", seconds=0.004)
    while not Path("out.csv.partial").exists() and run.poll() is None:
        time.sleep(0.005)
    changed = 0
    while run.poll() is None and paths:
        disturb(paths.pop(dice.randrange(len(paths))), dice)
        changed += 1
        time.sleep(0.0005)
    assert answered(run, 0, 3) == "" and changed > 100
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["path"] for row in rows) == Counter(listed)
    assert all(row["error"] if row["status"] == "error" else row["label"] for row in rows)
    kept = answered(start("-"), 3)
    assert kept == answered(start("-", "--no-cache"), 3)
    assert kept != Path("out.csv").read_text("utf-8")
