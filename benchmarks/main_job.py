"""What the main job costs: ``python benchmarks/main_job.py [help|warm|memory|throughput|all]``.

help        ``clipcls --help``, whole process.
warm        a fully cached run over 1,000 photographs, three Chinese labels, starter, whole process.
memory      peak memory of a run over 500 and over 5,000 small pictures, starter, first computed and then cached.
throughput  images a second end to end through the library, ViT-B-32 with random weights, on the CPU; against
            1 / (1 / tower + 1 / decoding), the rate at which the image tower and decoding, each measured alone
            on all cores, would share these cores without any loss.

Everything is made anew in a temporary folder, the embedding cache included. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

PHOTOS = sorted((Path(__file__).parent.parent / "tests" / "images").glob("*.jpg"))
CLIPCLS = Path(sysconfig.get_path("scripts"), "clipcls")
LABELS = "大象,冰箱,蚂蚁"
REPEATS = 5
PHOTOGRAPHS, MEGAPIXELS = 1000, 0.5
FEW, MANY, SMALL_MEGAPIXELS = 500, 5000, 0.02
ARCHITECTURE = "ViT-B-32"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LONG_AGO = time.time() - 30 * 86400


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        return (self.at_most is not None and self.value > self.at_most) or (
            self.at_least is not None and self.value < self.at_least
        )

    def __str__(self) -> str:
        bars = [f"{sign} {bar:g}" for sign, bar in (("<=", self.at_most), (">=", self.at_least)) if bar is not None]
        verdict = ("MISSED" if self.missed else "ok") if bars else ""
        return f"{self.what:<42}{self.value:>9.4g} {self.unit:<9}{''.join(bars):<11}{verdict:<7}{self.note}".rstrip()


@dataclass(frozen=True)
class Process:
    """What a finished process took, and what it said."""

    seconds: float
    megabytes: float
    stderr: str


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and how much of the throughput to measure."""

    folder: Path
    images: int
    rounds: int

    def pictures(self, count: int, megapixels: float) -> Path:
        """A folder of distinct pictures, made when it is first asked for."""
        folder = self.folder / f"{count}-of-{megapixels}-megapixels"
        if not folder.exists():
            folder.mkdir()
            # In other processes, since this one must stay small: a child's peak memory counts what its parent held.
            with ProcessPoolExecutor(CORES) as pool:
                seeds = range(count, 2 * count)  # no two folders share a picture, or the cache would know it
                list(pool.map(partial(photograph, folder, megapixels), seeds, chunksize=50))
        return folder


def photograph(folder: Path, megapixels: float, seed: int) -> None:
    """Part of a real photograph, recoloured, in uneven light, with grain."""
    import numpy as np
    from PIL import Image

    dice = np.random.default_rng(seed)
    aspect, share = dice.choice([3 / 4, 1, 4 / 3, 3 / 2, 16 / 9]), dice.uniform(0.6, 1)
    size = round((megapixels * 1e6 * aspect) ** 0.5), round((megapixels * 1e6 / aspect) ** 0.5)
    with Image.open(PHOTOS[seed % len(PHOTOS)]) as photo:
        left, top = (side * dice.uniform(0, 1 - share) for side in photo.size)
        box = left, top, left + share * photo.width, top + share * photo.height
        pixels = np.asarray(photo.convert("RGB").resize(size, Image.Resampling.BICUBIC, box), np.float32)
    light = Image.fromarray(dice.integers(0, 256, (3, 3, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = dice.normal(0, 6, pixels.shape)
    pixels = 0.8 * pixels * dice.uniform(0.7, 1.2, 3) + 0.2 * np.asarray(light) + grain
    path = folder / f"{seed:05}.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=87)
    os.utime(path, (LONG_AGO, LONG_AGO))  # a file that has only just changed is read again


def run(*command: str | Path, pipe: bool = False) -> Process:
    """Run a command to its end; with ``pipe`` somebody reads what it prints."""
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE if pipe else subprocess.DEVNULL, stderr=errors)
        if process.stdout:
            process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        stderr = errors.read().decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{stderr}")
    return Process(seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), stderr)


def classify(images: Path, output: Path) -> list[str | Path]:
    return [CLIPCLS, "classify", images, "--labels", LABELS, "--output", output, "--overwrite"]


def imports(*arguments: str | Path) -> Row:
    """Whether a command imports torch, by Python's own account."""
    said = run(sys.executable, "-X", "importtime", CLIPCLS, *arguments).stderr
    modules = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}
    return Row("  torch imported", float("torch" in modules), "", at_most=0, note=f"{len(modules)} modules are")


def of_help(bench: Bench) -> Iterator[Row]:
    seconds = sorted(run(CLIPCLS, "--help", pipe=True).seconds for _ in range(REPEATS))
    yield Row("clipcls --help, best", seconds[0], "s", at_most=0.25, note=f"median {median(seconds):.3f} s")
    yield imports("--help")


def of_warm(bench: Bench) -> Iterator[Row]:
    to_file = classify(bench.pictures(PHOTOGRAPHS, MEGAPIXELS), bench.folder / "warm.csv")
    to_pipe = to_file[: to_file.index("--output")]
    cold = run(*to_file)
    yield Row(f"{PHOTOGRAPHS:,} images, computed", cold.seconds, "s")
    runs = [(run(*to_file), run(*to_pipe, pipe=True)) for _ in range(REPEATS)]
    for what, column in zip(("a file", "a pipe"), zip(*runs, strict=True), strict=True):
        assert all(f" {PHOTOGRAPHS} from the cache" in process.stderr for process in column)
        seconds = sorted(process.seconds for process in column)
        what = f"{PHOTOGRAPHS:,} images, cached, CSV to {what}, median"
        yield Row(what, median(seconds), "s", at_most=0.6, note=f"best {seconds[0]:.3f} s")
    yield imports(*to_file[1:])


def of_memory(bench: Bench) -> Iterator[Row]:
    for how in ("computed", "cached"):
        peaks = []
        for count in (FEW, MANY):
            done = run(*classify(bench.pictures(count, SMALL_MEGAPIXELS), bench.folder / "memory.csv"))
            assert f" {count if how == 'cached' else 0} from the cache" in done.stderr
            peaks.append(done.megabytes)
            yield Row(f"{count:,} images, {how}, peak", peaks[-1], "MB", note=f"{done.seconds:.1f} s")
        yield Row(f"  {MANY:,} against {FEW:,}", peaks[1] / peaks[0], "", at_most=1.1)


def of_throughput(bench: Bench) -> Iterator[Row]:
    """Decoding, tower and both together take turns over the same photographs, so that all see the same machine."""
    from clipcls import Classifier
    from clipcls.decode import decode
    from clipcls.encoders import load_encoder

    files = sorted(bench.pictures(PHOTOGRAPHS, MEGAPIXELS).iterdir())[: bench.images]
    model = str(random_model(bench.folder / ARCHITECTURE))
    encoder, _ = load_encoder(model, device="cpu")
    size = encoder.batch_size
    ready: list[object] = []

    def load(file: Path) -> object:
        return encoder.preprocess(decode(file.read_bytes(), min_side=encoder.image_size, name=file.name))

    def decoding(files: list[Path]) -> None:
        ready[:] = loaders.map(load, files)

    def encode() -> None:
        for start in range(0, len(ready), size):
            encoder.encode_images(ready[start : start + size])

    def tower(files: list[Path]) -> None:
        thread.submit(encode).result()  # as the pipeline has it; in the main thread memory takes longer to get

    def together(files: list[Path]) -> None:
        assert all(record.ok for record in head.classify(files))

    with (
        Classifier.load(model, device="cpu", cache=False) as classifier,
        ThreadPoolExecutor(CORES) as loaders,
        ThreadPoolExecutor(1) as thread,
    ):
        head = classifier.zero_shot(["elephant", "fridge", "ant"], prompts="plain")
        steps = (decoding, tower, together)
        for step in steps:
            step(files[:size])
        parts = [files[start :: bench.rounds] for start in range(bench.rounds)]
        rates = [[len(part) / lasted(step, part) for step in steps] for part in parts]

    expected = [1 / (1 / encoded + 1 / decoded) for decoded, encoded, _ in rates]
    ratios = [both / ideal for (*_, both), ideal in zip(rates, expected, strict=True)]
    decoded, encoded, both = (median(column) for column in zip(*rates, strict=True))
    note = f"{len(files):,} photographs of {MEGAPIXELS} megapixels, in {len(parts)} turns"
    yield Row(f"decoding alone, {CORES} threads", decoded, "images/s", note=note)
    yield Row(f"image tower alone, {ARCHITECTURE}", encoded, "images/s", note=f"batches of {size}")
    yield Row("both, sharing the cores without loss", median(expected), "images/s")
    yield Row("end to end", both, "images/s")
    note = "each turn: " + ", ".join(f"{ratio:.3f}" for ratio in ratios)
    yield Row("  end to end against sharing without loss", median(ratios), "", at_least=0.85, note=note)


def lasted(step: Callable[[list[Path]], None], files: list[Path]) -> float:
    began = time.perf_counter()
    step(files)
    return time.perf_counter() - began


def random_model(folder: Path) -> Path:
    """An ordinary open_clip folder; its answers are noise, its work is that of trained weights."""
    import open_clip
    from safetensors.torch import save_file

    logging.disable()  # open_clip's warning of what is meant here
    model = open_clip.create_model(ARCHITECTURE)
    logging.disable(logging.NOTSET)
    folder.mkdir()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": open_clip.get_model_config(ARCHITECTURE), "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def machine() -> dict[str, str]:
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next((line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line), name)
    return {
        "cpu": f"{name}, {CORES} cores",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
    } | {
        package: version(package)
        for package in ("clipcls", "torch", "open_clip_torch", "onnxruntime", "numpy", "pillow")
    }


def main(parts: Mapping[str, Callable[[Bench], Iterator[Row]]], description: str, images: int = PHOTOGRAPHS) -> int:
    """Measure what the command line asks for, and print it; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=[*parts, "all"])
    parser.add_argument("--images", type=int, default=images, help="how many photographs for the throughput")
    parser.add_argument("--rounds", type=int, default=5, help="in how many turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to put the figures too")
    options = parser.parse_args()
    where = machine()
    print("; ".join(f"{key} {value}" for key, value in where.items()))
    table: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="clipcls-") as folder:
        os.environ["CLIPCLS_CACHE_DIR"] = str(Path(folder, "cache"))
        bench = Bench(Path(folder), options.images, options.rounds)
        for part in parts if options.part == "all" else [options.part]:
            print(f"\n{part}")
            table[part] = []
            for row in parts[part](bench):
                print(row, flush=True)
                table[part].append(row)
    if options.json:
        rows = {part: [asdict(row) | {"missed": row.missed} for row in rows] for part, rows in table.items()}
        options.json.write_text(json.dumps({"machine": where} | rows, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return int(any(row.missed for rows in table.values() for row in rows))


if __name__ == "__main__":
    # torch comes last
    parts = {"help": of_help, "warm": of_warm, "memory": of_memory, "throughput": of_throughput}
    raise SystemExit(main(parts, str(__doc__)))
