"""The sections of ``scale.py``."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speed.bench import HERE, VIT, Bench, of, ratio, say
from speed.pretended import BEGAN, DIM, RATE
from speed.table import CORES, Row

WEB, CAMERA = ("web", 0.2, 0.5), ("camera", 12.0, 12.0)
"""Photographs as data sets of the web have them, and as cameras write them, in megapixels."""
SHARD = 1000
CARDS, CARD = 2, 1500.0
"""Pretended graphics cards, and images a second of each: see docs/scale.md."""
DRIVER = 200.0
"""Megabytes that 10^6 images may cost the driver over 10^4."""


def of_stages(bench: Bench) -> Iterator[Row]:
    """Each stage alone; one process, and but for the tower one thread."""
    yield from _planning(bench)
    count = 100 if bench.quick else 500
    yield from _loading(bench, bench.pictures(WEB[0], count, *WEB[1:]), "web photographs")
    yield from _loading(bench, bench.pictures(CAMERA[0], 8 if bench.quick else 24, *CAMERA[1:]), "camera photographs")
    yield from _encoding(bench)
    yield from _scoring(bench)


def of_engine(bench: Bench) -> Iterator[Row]:
    """Ray's own cost."""
    files = _small(bench)
    few, many = (20, 200) if bench.quick else (100, 1100)
    short, long = (
        [_ray(bench, files, images=shards, shard=1, rate=0.0) for _ in range(_turns(bench))] for shards in (few, many)
    )
    yield of(
        [each["seconds"] for each in short], f"run of {few} shards", "s", "an image each; with Ray's start and end"
    )
    for what, unit, name in (("a shard more, time", "ms", "seconds"), ("a shard more, driver's CPU", "ms", "cpu")):
        yield of(
            [1e3 * (b[name] - a[name]) / (many - few) for a, b in zip(short, long, strict=True)],
            what, unit, f"{few} to {many} shards of one image",
        )  # fmt: skip
    yield of(
        [1e3 * (b["megabytes"] - a["megabytes"]) / (many - few) for a, b in zip(short, long, strict=True)],
        "a shard more, driver's memory", "kB", f"{few} to {many} shards",
    )  # fmt: skip
    photos = [str(path) for path in bench.pictures(WEB[0], 100 if bench.quick else 500, *WEB[1:])]
    images = 4 * len(photos)
    turns = [_ray(bench, photos, images=images, shard=100, rate=0.0, side=224) for _ in range(_turns(bench))]
    yield of(
        [(images - 100) / each["between"] for each in turns],
        "images/s, a model that takes no time", "images/s", f"web photographs, {CORES} cores, shards of 100",
    )  # fmt: skip
    yield of(
        [images / each["busy"]["decode"] for each in turns], "  of one decode task", "images/s", "by its own clock"
    )


def of_rows(bench: Bench) -> Iterator[Row]:
    """The same engine, with ever more images."""
    files = _small(bench)
    sizes = (1_000, 20_000) if bench.quick else (10_000, 1_000_000)
    few, many = (_ray(bench, files, images=images, shard=SHARD, rate=CARD, actors=CARDS) for images in sizes)
    for images, run in zip(sizes, (few, many), strict=True):
        how = f"planning {run['plan']:.0f} s; busy: " + ", ".join(f"{k} {v:.0f} s" for k, v in run["busy"].items())
        yield Row(f"{images:,} images", run["seconds"], "s", f"shards of {SHARD}; {how}")
        yield Row("  rate", images / run["seconds"], "images/s", f"the models would take {CARDS * CARD:,.0f}")
        yield Row("  driver's peak memory", run["megabytes"], "MB", f"its CPU {run['cpu']:.0f} s")
    yield Row("  more memory", many["megabytes"] - few["megabytes"], "MB", at_most=DRIVER)


def of_waves(bench: Bench) -> Iterator[Row]:
    """What the driver remembers of each shard, and whether the end of a data set frees it."""
    files = _small(bench)
    few, many = (100, 500) if bench.quick else (500, 5_000)
    found = {}
    for shards, wave in ((few, few), (many, few), (many, many)):
        found[shards, wave] = _ray(bench, files, images=shards, shard=1, rate=0.0, wave=wave)["megabytes"]
        how = f"in data sets of {wave:,} shards"
        yield Row(f"{shards:,} shards, driver's peak memory", found[shards, wave], "MB", how)
    one, freed, kept = found.values()
    yield Row("  a shard more, in one data set", 1e3 * (kept - one) / (many - few), "kB")
    yield Row("  a shard more, in another one", 1e3 * (freed - one) / (many - few), "kB")


def of_vit(bench: Bench) -> Iterator[Row]:
    """Both engines on one machine, in turn; both through the same runtime, nothing cached."""
    count = 200 if bench.quick else 2000
    files = [str(path) for path in bench.pictures(WEB[0], count, *WEB[1:])]
    model = str(bench.model(VIT))
    runs: dict[str, list[float]] = {"local": [], "ray": []}
    _run(bench, "local", files[:16], model=model, images=16, shard=16)  # which traces the model
    for turn in range(_turns(bench)):
        for engine in ("local", "ray") if turn % 2 == 0 else ("ray", "local"):
            say(f"{engine} engine, {count:,} images")
            runs[engine].append(_run(bench, engine, files, model=model, images=count, shard=100)["rate"])
    yield of(runs["local"], "local engine", "images/s", f"{VIT} fp32, {count:,} web photographs, {CORES} cores")
    yield of(runs["ray"], "Ray engine", "images/s", "the same, from the first batch to the last part, shards of 100")
    yield ratio(runs["ray"], runs["local"], "Ray beside local", at_least=0.85)


def _turns(bench: Bench) -> int:
    return min(bench.repeat, 3)


def _planning(bench: Bench) -> Iterator[Row]:
    from clipcls.shards import Plan
    from clipcls.sources import file_ref

    count = 20 * SHARD
    files = [bench.work / "empty" / f"{at // SHARD:03}" / f"{at:09}.jpg" for at in range(count)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    output = bench.cache / "planned"

    def plan() -> None:
        shutil.rmtree(output.with_name("planned.plan"), ignore_errors=True)
        output.with_name("planned.plan").mkdir()
        Plan.make(output, _info(), (file_ref(str(file), "/") for file in files), SHARD)

    yield _rate(bench, plan, count, "plan", "files on this disk, each looked at once")
    size = sum(file.stat().st_size for file in output.with_name("planned.plan").iterdir())
    yield Row("  on disk", size / count, "bytes/image", f"{count:,} images, shards of {SHARD}")
    made = Plan.open(output)
    yield _rate(bench, lambda: [made.shard(number) for number in range(len(made))], count, "  read again")


def _info() -> Any:
    from speed.engines import run_info

    class Known:
        from speed.pretended import Pretended

        info = Pretended.info

    return run_info(Known, Path("/"), SHARD)


def _loading(bench: Bench, paths: Sequence[Path], kind: str) -> Iterator[Row]:
    from clipcls.decode import decode, read
    from clipcls.encoders import load_encoder
    from clipcls.engines.ray import _packed, _unpacked
    from clipcls.engines.stages import Decoded
    from clipcls.records import Shard
    from clipcls.sources import file_ref
    from speed.photographs import described

    prepared = load_encoder(str(bench.model(VIT)), device="cpu", traced=bench.cache / "traced")[0].preparation()
    refs = [file_ref(str(path), "/") for path in paths]
    files: list[bytes] = []
    inputs: list[bytes] = []

    def reading() -> None:
        files[:] = []
        for ref in refs:
            with ref.open() as file:
                files.append(read(file))

    def decoding() -> None:
        inputs[:] = [
            pickle.dumps(prepared.preprocess(decode(data, min_side=prepared.image_size)), protocol=5) for data in files
        ]

    def travelling() -> None:
        table = _packed(Decoded(Shard(0, tuple(refs)), inputs, [None] * len(refs), 0.0))
        for data in _unpacked(table, 0).inputs:
            pickle.loads(data)

    reading()
    yield _rate(bench, reading, len(refs), f"read {kind}", described(paths))
    yield _rate(bench, decoding, len(refs), f"decode {kind}", "and resize to 224 pixels, one thread")
    if kind == "web photographs":
        yield _rate(bench, travelling, len(refs), "travel", "into a block and out of it, without the network")
        yield Row("  in a block", sum(map(len, inputs)) / len(inputs) / 1e3, "kB/image")


def _encoding(bench: Bench) -> Iterator[Row]:
    from clipcls.encoders import load_encoder

    encoder, _ = load_encoder(str(bench.model(VIT)), device="cpu", traced=bench.cache / "traced")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 224, 224, 3), np.uint8)
    encoder.encode_images(list(pixels[:8]))
    runtime = "ONNX Runtime" if "onnx" in type(encoder).__module__ else "torch"
    yield _rate(
        bench, lambda: encoder.encode_images(list(pixels)), 64, "encode", f"{VIT} fp32, {runtime}, {CORES} cores"
    )


def _scoring(bench: Bench) -> Iterator[Row]:
    from clipcls.classifier import Classifier
    from clipcls.pipeline import Embedded
    from clipcls.records import Shard
    from clipcls.sinks.parts import ParquetRecords, ParquetVectors
    from clipcls.sources import file_ref

    vectors = np.random.default_rng(0).normal(size=(SHARD, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    refs = tuple(file_ref(f"/data/images/{number:09}.jpg", "/") for number in range(SHARD))
    images = [Embedded(ref.id, vector, False) for ref, vector in zip(refs, vectors, strict=True)]
    records: list[Any] = []
    for labels in (100, 1000):
        with Classifier.load(str(bench.model(VIT)), device="cpu", cache=bench.cache) as classifier:
            head = classifier.zero_shot([f"thing {number}" for number in range(labels)], "a photo of a {}.")
            scored = partial(head.records, images, head.answer(top_k=5))
            records = list(scored())
            yield _rate(bench, partial(_drained, scored), SHARD, f"score, {labels} labels", "one core")
    folder = bench.cache / "written"
    for each in (folder, folder.with_name("written.plan")):
        each.mkdir()
    info = _info()
    for what, parts, results in (
        ("write answers", ParquetRecords(folder, info.fingerprint, layout=info.layout), records),
        ("write vectors", ParquetVectors(folder, info.fingerprint, dim=DIM, dtype="float16"), images),
    ):
        yield _rate(
            bench, partial(parts.write, Shard(0, refs), results), SHARD, what, "Parquet, a part of 1000 with fsync"
        )
        size = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
        yield Row("  on disk", size / SHARD, "bytes/image", "one part")


def _drained(scored: Callable[[], Iterator[Any]]) -> None:
    for _ in scored():
        pass


def _rate(bench: Bench, step: Callable[[], object], count: int, what: str, how: str = "") -> Row:
    """Of a step that does so many images."""
    turns = []
    for _ in range(bench.repeat):
        began = time.perf_counter()
        step()
        turns.append(count / (time.perf_counter() - began))
    return of(turns, what, "images/s", how)


def _small(bench: Bench) -> list[str]:
    """Pictures that take next to no time to decode."""
    from PIL import Image

    folder = bench.work / "small"
    folder.mkdir(exist_ok=True)
    for number in range(100):
        path = folder / f"{number}.png"
        if not path.exists():
            Image.new("RGB", (32, 32), (number, 255 - number, 0)).save(path)
    return [str(path) for path in sorted(folder.iterdir())]


def _ray(
    bench: Bench,
    files: list[str],
    *,
    images: int,
    shard: int,
    rate: float,
    side: int = 32,
    actors: int = 1,
    wave: int | None = None,
) -> dict[str, Any]:
    say(f"Ray engine, {images:,} images in shards of {shard}")
    job = {"images": images, "shard": shard, "actors": actors, "wave": wave}
    return _run(bench, "ray", files, {RATE: f"{rate} {side}"}, model="starter", **job)


def _run(
    bench: Bench, engine: str, files: list[str], surroundings: dict[str, str] | None = None, **job: Any
) -> dict[str, Any]:
    """A run in a process of its own."""
    output, began = bench.cache / "output", bench.cache / "began"
    began.unlink(missing_ok=True)
    homes = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    surroundings = (surroundings or {BEGAN: str(began)}) | {
        "RAY_RUNTIME_ENV_HOOK": "speed.pretended.runtime_env",
        "PYTHONPATH": homes,
    }
    asked = json.dumps({"engine": engine, "files": files, "output": str(output)} | job)
    try:
        done = subprocess.run(
            [sys.executable, HERE / "engines.py", "-"],
            input=asked,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | surroundings,
        )
        if done.returncode:
            raise SystemExit(f"the {engine} engine ended with {done.returncode}:\n{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    finally:
        for folder in (output, output.with_name("output.plan")):
            shutil.rmtree(folder, ignore_errors=True)
