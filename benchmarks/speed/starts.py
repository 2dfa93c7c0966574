"""Whole processes: help, first and second start, a run over what is known, memory."""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from speed.bench import CLIPCLS, HERE, STARTER, TEMPLATE, VIT, Bench, of, ratio, run, say
from speed.table import Row

KNOWN = ("elephant", "fridge", "ant", "car", "cup", "boat", "dog", "tree", "lamp")
LITTLE = 0.02
"""Megapixels of a picture where only the number of pictures matters."""


def of_help(bench: Bench) -> Iterator[Row]:
    """How long a person waits for help."""
    for words, bar in ((("--help",), 0.2), (("classify", "--help"), 0.3)):
        run(CLIPCLS, *words)
        seconds = [run(CLIPCLS, *words).seconds for _ in range(2 * bench.repeat)]
        yield of(seconds, f"clipcls {' '.join(words)}", "s", "whole process", at_most=bar)


def of_start(bench: Bench) -> Iterator[Row]:
    """One picture that nobody has seen and three new labels, whole processes taking turns."""
    photos = map(str, bench.pictures("start", 2 * bench.repeat + 2, 0.2, 1))
    model, shape = bench.model(VIT), bench.model(VIT, "transformers")
    cache = bench.cache / "start"  # of its own: another section has the model traced

    def ours(*more: str) -> float:
        words = ["--labels", ",".join(new_labels(3)), "--prompts", TEMPLATE, "--model", str(model)]
        return run(CLIPCLS, "classify", next(photos), *words, *more, cache=cache).seconds

    def readme(library: str, *arguments: str | Path) -> float:
        photo = bench.work / f"start-{2 * bench.repeat + 2}" / "00000.jpg"
        return run(sys.executable, HERE / f"readme_{library}.py", *arguments, photo, *new_labels(3)).seconds

    say("first start")
    yield Row(f"clipcls, {VIT}, first start", ours("--device", "cpu"), "s", "the model is new to clipcls")
    readme("open_clip", VIT, bench.weights(VIT)), readme("transformers", shape)  # brings the files into memory
    say("starts in turns")
    turns = [
        (
            ours("--device", "cpu"),
            readme("open_clip", VIT, bench.weights(VIT)),
            readme("transformers", shape),
            ours(),
        )
        for _ in range(bench.repeat)
    ]
    mine, theirs, hugging, plain = zip(*turns, strict=True)
    how = "one new picture of 0.2 to 1 megapixels, three new labels, whole process"
    yield of(mine, f"clipcls, {VIT}, second start", "s", f"{how}, --device cpu", at_most=1.3)
    yield of(plain, "clipcls, without --device", "s", "the same")
    yield of(theirs, "open_clip's README script", "s", "the same, weights from a .safetensors file")
    yield ratio(theirs, mine, "clipcls faster by")
    yield of(hugging, "transformers' pipeline script", "s", "the same, the same architecture")
    yield ratio(hugging, mine, "clipcls faster by")


def of_rerun(bench: Bench) -> Iterator[Row]:
    """Other labels for pictures whose embeddings are kept; they are kept in the work folder for the next time too."""
    amount = 1000 if bench.quick else 10_000
    folder = bench.pictures("little", amount, LITTLE, LITTLE)[0].parent
    for name in (STARTER, VIT):
        yield from _rerun(bench, name, folder, amount)


def _rerun(bench: Bench, name: str, folder: Path, amount: int) -> Iterator[Row]:
    cache = bench.work / "cache-rerun"

    def seconds(labels: list[str] | tuple[str, ...], known: bool = True) -> float:
        words = ["--labels", ",".join(labels), "--prompts", TEMPLATE, "--model", str(bench.model(name))]
        output = ["--output", str(bench.work / "rerun.csv"), "--overwrite", "--device", "cpu"]
        done = run(CLIPCLS, "classify", folder, *words, *output, cache=cache)
        if known and f" {amount} from the cache" not in done.stderr.replace(",", ""):
            raise SystemExit(f"not all pictures were known:\n{done.stderr}")
        return done.seconds

    say(f"{name}: {amount:,} pictures, unless they are known")
    seconds(KNOWN, known=False)
    say(f"{name}: runs over what is known")
    turns = [
        (seconds(random.sample(KNOWN, 3)), seconds(new_labels(1)), seconds(new_labels(30))) for _ in range(bench.repeat)
    ]
    none, one, thirty = zip(*turns, strict=True)
    less = " (--quick: instead of 10,000)" if bench.quick else ""
    how = f"clipcls classify, {amount:,} pictures{less}, CSV to a file, whole process"
    yield of(none, f"{name}, other known labels", "s", how, at_most=0.5)
    yield of(one, f"{name}, one new prompt", "s", "the same")
    yield of(thirty, f"{name}, 30 new prompts", "s", "the same")
    loading = median(one) - median(none)
    rest = median(thirty) - loading
    how = f"30 new prompts less the {loading:.2f} s that one new prompt takes more than none"
    yield Row("  beyond loading one text tower", rest, "s", how, at_most=1)


def of_memory(bench: Bench) -> Iterator[Row]:
    """Peaks of processes over few and many pictures, nothing of them known, against a bare one."""
    few, many = (50, 500) if bench.quick else (500, 5000)
    less = " (--quick: a tenth of the pictures)" if bench.quick else ""
    folders = [bench.pictures("little-new", amount, LITTLE, LITTLE)[0].parent for amount in (few, many)]
    for name in (STARTER, VIT):
        model = bench.model(name)
        words = ["--prompts", TEMPLATE, "--model", model, "--device", "cpu"]
        output = ["--output", bench.work / "memory.csv", "--overwrite"]
        bare = [sys.executable, HERE / "child.py", "bare", model]
        run(*bare)  # the model is traced here
        say(f"{name}: memory")
        bares = [run(*bare).megabytes for _ in range(bench.repeat)]
        yield of(bares, f"{name}, bare process", "MB", "its encoder alone, one batch of pictures and three prompts")
        for amount, folder in zip((few, many), folders, strict=True):
            done = run(CLIPCLS, "classify", folder, "--labels", ",".join(new_labels(3)), *words, *output)
            if "from the cache" in done.stderr and " 0 from the cache" not in done.stderr:
                raise SystemExit(f"some pictures were known:\n{done.stderr}")
            yield Row(
                f"{name}, {amount:,} pictures", done.megabytes, "MB", f"clipcls classify, {done.seconds:.1f} s{less}"
            )
            yield Row("  above the bare process", done.megabytes - median(bares), "MB", at_most=300)


def new_labels(amount: int) -> list[str]:
    """Words that no cache has met."""
    return ["".join(random.choices(string.ascii_lowercase, k=6)) for _ in range(amount)]
