"""What a search over a million cached pictures takes: ``python benchmarks/search.py [--rows 1000000]``.

first       ``clipcls search TEXT``, whole process, when the store's vectors have never been scanned: packs them too.
search      the same again: the process from start to answer, and of that the search itself, with the files in memory.
gone        all but every tenth file is gone, so that the best are looked for further down.
exact       the ten best are those of one product of all vectors in numpy.

The store holds random unit vectors of the starter's length, each of a file of its own; only the best 1,000's files are
there. It is made anew in a temporary folder (TMPDIR says where; 4 kB a row). The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from main_job import CLIPCLS, Row, machine

QUERY = "一只在雪地里的狗"
BAR = 2.0
"""Seconds of a million vectors, the text tower not counted."""
REPEATS = 3
BATCH = 10_000
THERE = 1_000
"""Best pictures whose files are made."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many pictures")
    options = parser.parse_args()
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    missed = False
    with tempfile.TemporaryDirectory(prefix="clipcls-") as folder:
        os.environ["CLIPCLS_CACHE_DIR"] = str(Path(folder, "cache"))
        for row in rows(Path(folder), options.rows):
            print(row, flush=True)
            missed |= row.missed
    return int(missed)


def rows(folder: Path, count: int) -> Iterator[Row]:
    began = time.perf_counter()
    expected = fill(folder, count)
    yield Row("the store filled", time.perf_counter() - began, "s", note=f"{count:,} rows")
    found, whole, searched = search()
    yield Row("first search, which packs", whole, "s", note=f"{searched:.2f} s of it the search")
    runs = [search() for _ in range(REPEATS)]
    note = f"best of {REPEATS}; median {median(run[1] for run in runs):.2f}; "
    yield Row("search, whole process", min(run[1] for run in runs), "s", note=note + "the sentence was embedded before")
    bar = BAR if count == 1_000_000 else None
    note = f"median {median(run[2] for run in runs):.2f}; {count / min(run[2] for run in runs):,.0f} rows/s"
    yield Row("  of that the search", min(run[2] for run in runs), "s", at_most=bar, note=note)
    same = sum(a == b for a, b in zip(found, expected, strict=False))
    yield Row("  of its ten best as in numpy", same, "", at_least=10)
    for at, path in enumerate(expected):
        if at % 10:
            Path(path).unlink()
    left, _, searched = search()
    yield Row("search where nine files of ten are gone", searched, "s", note="files looked up further down")
    yield Row(
        "  of its ten best as in numpy",
        sum(a == b for a, b in zip(left, expected[::10], strict=False)),
        "",
        at_least=10,
    )


def fill(folder: Path, count: int) -> list[str]:
    """Put random unit vectors into the starter's store; the paths of the best for the query, best first."""
    import numpy as np

    from clipcls import Classifier
    from clipcls.records import FileStamp

    dice = np.random.default_rng(0)
    with Classifier.load("starter") as classifier:
        (query,) = classifier.embed_texts(QUERY)
        scores = np.empty(count)
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            vectors = dice.standard_normal((len(numbers), classifier.info.dim), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            scores[numbers.start : numbers.stop] = vectors @ query.astype(np.float64)
            keys = [number.to_bytes(32, "big") for number in numbers]
            classifier.store.put_images(classifier.info.fingerprint, dict(zip(keys, vectors, strict=True)))
            stamps = [FileStamp(str(picture(folder, number)), 1, 10**18) for number in numbers]
            classifier.store.remember_files(list(zip(stamps, keys, strict=True)), time.time_ns())
    best = np.argsort(-scores, kind="stable")[:THERE]
    for number in map(int, best):
        path = picture(folder, number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, ns=(10**18, 10**18))
    return [str(picture(folder, int(number))) for number in best]


def picture(folder: Path, number: int) -> Path:
    return folder / f"{number // 10_000:04}" / f"IMG_{number:07}.jpg"


def search() -> tuple[list[str], float, float]:
    """The ten best; seconds of the whole process, and of the search by its own account."""
    command = [CLIPCLS, "search", QUERY, "--top", "10", "--format", "csv"]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    whole = time.perf_counter() - began
    told = re.search(r"pictures in the cache, ([\d.]+) s", done.stderr)
    assert told, done.stderr
    return [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))], whole, float(told[1])


if __name__ == "__main__":
    sys.exit(main())
