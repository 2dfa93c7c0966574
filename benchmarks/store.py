"""What the store costs with a million pictures: ``python benchmarks/store.py [--count 1000000]``.

insertion   random unit vectors of 512 floats, and their files' digests, in the batches of a CPU and of a GPU,
            against the rate at which the fastest tower makes vectors; and what they take on the disk.
lookup      10,000 pictures by path, in a fresh process, side by side in one folder and strewn over the million; as
            many at once as the pipeline asks for, and all at once.
scan        every vector, its checksum verified, times one sentence's: first from sqlite's rows, which
            packs them, and then packed.
files       the paths of 100 contents, as a search asks in the end.

Each in a process of its own, on a store made anew in a temporary folder (5 kB a row, so 5 GB; TMPDIR says where), with
the files in memory as far as they fit. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from main_job import Row, machine

from clipcls.pipeline import _CHUNK
from clipcls.records import FileStamp

MODEL, DIM = "oc1-8f9e86781035d3c2da64e6795a0c92bc7e0d175c", 512
LOOKED_UP = 10_000
TOWERS = {"CPU": (32, 100), "GPU": (512, 10_000)}
"""Pictures in a batch, and about how many a second the fastest tower here makes vectors of."""
STEPS = 20
LONG_AGO = 1_600_000_000_000_000_000
REPEATS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many pictures")
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        part, folder, *words = options.only
        print(json.dumps(PARTS[part](Path(folder), options.count, *words)))
        return 0
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    missed = False
    with tempfile.TemporaryDirectory(prefix="clipcls-") as folder:

        def measured(*words: str) -> list[float]:
            command = [sys.executable, __file__, "--count", str(options.count), "--only", words[0], folder, *words[1:]]
            figures: list[float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            return figures

        for row in rows(options.count, measured):
            print(row, flush=True)
            missed |= row.missed
    return int(missed)


def rows(count: int, measured: Callable[..., list[float]]) -> Iterator[Row]:
    for step, (tower, (batch, rate)) in enumerate(TOWERS.items()):
        share = count // STEPS if step == 0 else count - count // STEPS
        inserted, last, size = measured("insertion", str(step * (count // STEPS)), str(share), str(batch))
        note = f"{share:,} rows, {batch} at once; the last {last:,.0f} rows/s"
        yield Row(f"insertion in batches of a {tower}", inserted, "rows/s", at_least=rate, note=note)
        if tower == "CPU":
            note = f"of the time at {rate} images/s"
            yield Row("  share of a run's time", 100 * rate / (rate + inserted), "%", at_most=1, note=note)
    yield Row("on the disk", size / count, "bytes/row", note=f"{4 * DIM} are the vector; {size / 1e9:.2f} GB")
    for how, at_once in (("one folder", _CHUNK), ("strewn", _CHUNK), ("strewn", LOOKED_UP)):
        runs = sorted(measured("lookup", how, str(at_once)) for _ in range(REPEATS))
        note = f"{at_once:,} at once; {spread(runs)}"
        yield Row(f"lookup of {LOOKED_UP:,} by path, {how}", runs[0][0], "s", at_most=0.3, note=note)
    seconds, processor, size = measured("scan")
    note = f"{count / seconds:,.0f} rows/s; {processor:.2f} s of processor; {size / count:,.0f} bytes/row more"
    yield Row("scan of sqlite's rows, which packs them", seconds, "s", note=note)
    runs = sorted(measured("scan") for _ in range(REPEATS))
    note = f"{count / runs[0][0]:,.0f} rows/s; {spread(runs)}"
    yield Row("scan of packed rows", runs[0][0], "s", at_most=1.5, note=note)
    runs = sorted(measured("files") for _ in range(REPEATS))
    yield Row("files of 100 contents", runs[0][0], "s", at_most=0.5, note=spread(runs))


def spread(runs: list[list[float]]) -> str:
    """Of runs that begin with seconds by the clock and of processor time."""
    return f"median {median(run[0] for run in runs):.3f}; at least {min(run[1] for run in runs):.3f} s of processor"


def digest(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def insertion(folder: Path, _: int, first: str, count: str, batch: str) -> list[float]:
    """Rows a second, over all and of the last twentieth; bytes on the disk."""
    import numpy as np

    from clipcls.store import Store

    dice = np.random.default_rng(int(first))
    seconds = []
    with Store.open(folder) as store:
        for start in range(int(first), int(first) + int(count), int(batch)):
            numbers = range(start, min(start + int(batch), int(first) + int(count)))
            vectors = dice.standard_normal((len(numbers), DIM), np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            keys = [digest(number) for number in numbers]
            files = [(stamp(number), key) for number, key in zip(numbers, keys, strict=True)]
            began = time.perf_counter()
            store.put_images(MODEL, dict(zip(keys, vectors, strict=True)))
            store.remember_files(files, time.time_ns())
            seconds.append(time.perf_counter() - began)
    tail = seconds[-max(1, len(seconds) // 20) :]
    return [int(count) / sum(seconds), len(tail) * int(batch) / sum(tail), on_disk(folder)]


def lookup(folder: Path, count: int, how: str, at_once: str) -> list[float]:
    """Seconds by the clock and of processor time."""
    import numpy as np

    from clipcls.store import Store

    found = min(LOOKED_UP, count)
    numbers = range(found) if how == "one folder" else np.random.default_rng(0).choice(count, found, replace=False)
    stamps = [stamp(int(number)) for number in numbers]
    vectors = 0
    clock = Clock()
    with Store.open(folder) as store:
        for start in range(0, found, int(at_once)):
            digests = store.digests(stamps[start : start + int(at_once)])
            vectors += len(store.images(MODEL, digests.values()))
    assert vectors == found
    return clock.read()


def scan(folder: Path, count: int) -> list[float]:
    """Seconds by the clock and of processor time; bytes of the packed parts."""
    import numpy as np

    from clipcls.store import Store, packed

    sentence = np.random.default_rng(0).standard_normal(DIM, np.float32)
    scores = np.empty(count, np.float32)
    done = 0
    clock = Clock()
    with Store.open(folder) as store:
        for keys, vectors in store.scan(MODEL, DIM):
            scores[done : done + len(keys)] = vectors @ sentence
            done += len(keys)
    assert done == count
    return [*clock.read(), packed.size(folder / packed.FOLDER)]


def files(folder: Path, count: int) -> list[float]:
    """Seconds by the clock and of processor time."""
    from clipcls.store import Store

    asked = [digest(number) for number in range(0, count, max(1, count // 100))]
    clock = Clock()
    with Store.open(folder) as store:
        assert len(store.files(asked)) == len(asked)
    return clock.read()


class Clock:
    """Seconds since it was made: by the clock, and of processor time, which the machine's load changes little."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> list[float]:
        return [time.perf_counter() - self._began[0], time.process_time() - self._began[1]]


def stamp(number: int) -> FileStamp:
    return FileStamp(f"/pictures/{number // 10_000:04}/IMG_{number:07}.jpg", number, LONG_AGO)


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


PARTS = {"insertion": insertion, "lookup": lookup, "scan": scan, "files": files}

if __name__ == "__main__":
    raise SystemExit(main())
