"""Inside a process that runs already: text head, towers and their limit, photographs small and big."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from speed.bench import MOBILE, STARTER, VIT, Bench, Child, child, of, ratio, say
from speed.photographs import described
from speed.table import CORES, Row, instructions

WIDE = instructions() == "AVX-512"
BATCHES, WORKERS = (8, 32), (0, 1, 2)
MERGED = {VIT: "", MOBILE: " with timm's reparameterize_model"}


def of_texts(bench: Bench) -> Iterator[Row]:
    """A head of many labels and templates."""
    amount = 5 if bench.quick else 100
    repeat = 1  # open_clip takes minutes
    with bench.clipcls(VIT) as ours, bench.open_clip(VIT) as theirs:
        names = theirs.ask("imagenet")
        labels, templates = names["labels"], names["templates"]
        say("open_clip's batches")
        tried = min(amount, 10)
        rates = {
            at_once: theirs.ask("texts", labels=labels[-tried:], templates=templates, at_once=at_once)[0]
            for at_once in sorted({1, tried})
        }
        at_once = min(rates, key=rates.__getitem__)
        turns, differences = [], []
        say(f"{amount} labels")
        for turn in range(repeat):
            some = {"labels": labels[turn * amount : (turn + 1) * amount], "templates": templates}
            file = str(bench.work / "head.npy")
            mine = ours.ask("texts", **some, weights=file)
            other, difference = theirs.ask("texts", **some, at_once=at_once, weights=file)
            turns.append((mine, other))
            differences.append(difference)
        runtime = ours.ask("about")["runtime"]
    mine, other = zip(*turns, strict=True)
    prompts = f"{VIT}, {amount} labels x {len(templates)} templates of ImageNet"
    prompts += " (--quick: 5 instead of 100)" if bench.quick else ""
    yield of(mine, "clipcls zero_shot", "s", f"{prompts}, {runtime}, nothing known")
    yield of(
        other, "open_clip build_zero_shot_classifier", "s", f"the same, {at_once} classes a batch, {threads(theirs)}"
    )
    yield ratio(other, mine, "clipcls faster by", at_least=7)
    yield Row("  largest difference of class weights", max(differences), "", at_most=1e-5)


def of_limit(bench: Bench) -> Iterator[Row]:
    """Towers on pictures in memory, beside what the cores can do at all."""
    for name in (VIT, MOBILE):
        yield from _limit(bench, name)
    yield from _precisions(bench)


def _limit(bench: Bench, name: str) -> Iterator[Row]:
    count = 32 if bench.quick else 96
    photos = [str(path) for path in bench.pictures("small", count, 0.2, 1)]
    with bench.clipcls(name) as ours, bench.open_clip(name) as theirs, child("product") as cores:
        ours.ask("decode", files=photos)
        about, cost = ours.ask("about"), theirs.ask("gigaflop")
        say(f"{name}: torch's batches")
        theirs.ask("tower", count=1, batch=1)
        seconds = {batch: theirs.ask("tower", count=32, batch=batch) for batch in (1, 2, 8, 32)}
        batch = min(seconds, key=seconds.__getitem__)
        ours.ask("tower")
        say(f"{name}: towers in turns")
        turns, products = [], []
        for _ in range(bench.repeat):
            rates = count / ours.ask("tower"), count / theirs.ask("tower", count=count, batch=batch)
            products.append(max(cores.ask("gigaflops").items(), key=lambda item: item[1]))
            turns.append((*rates, products[-1][1]))
    mine, other, limit = zip(*turns, strict=True)
    yield of(
        limit, f"float32 matrix product, beside {name}", "GFLOP/s", f"2048 x 2048, {CORES} cores, {products[0][0]}"
    )
    how = f"{count} pictures in memory, {about['runtime']}, batches of {about['batch']}, {CORES} threads"
    yield of(mine, f"{name}, tower of clipcls", "images/s", how)
    how = f"{count} tensors in memory, open_clip{MERGED[name]}, batches of {batch}, {threads(theirs)}"
    yield of(other, f"{name}, tower of torch", "images/s", how)
    bar = {"at_least": 1.8 if WIDE else 1.1} if name == VIT else {}
    yield ratio(mine, other, "clipcls against torch", how=instructions(), **bar)
    for what, rates in (("clipcls", mine), ("torch", other)):
        shares = [100 * cost * rate / product for rate, product in zip(rates, limit, strict=True)]
        yield of(shares, f"  share of the matrix product, {what}", "%", f"{cost:.2f} GFLOP an image")


def _precisions(bench: Bench) -> Iterator[Row]:
    count = 32 if bench.quick else 96
    photos = [str(path) for path in bench.pictures("small", count, 0.2, 1)]
    names = ("fp32", "int8", "bf16")
    with ExitStack() as stack:
        ways = [stack.enter_context(bench.clipcls(VIT, precision)) for precision in names]
        embeddings, turns = [], []
        for way in ways:
            embeddings.append(way.ask("embed", files=photos[:8]))
            way.ask("decode", files=photos)
        say("precisions in turns")
        turns = [[count / way.ask("tower") for way in ways] for _ in range(bench.repeat)]
        runtimes = [way.ask("about")["runtime"] for way in ways]
    columns = list(zip(*turns, strict=True))
    for name, rates, rows, runtime in zip(names, columns, embeddings, runtimes, strict=True):
        cosines = [sum(a * b for a, b in zip(*pair, strict=True)) for pair in zip(rows, embeddings[0], strict=True)]
        how = f"{runtime}, least cosine with fp32 {min(cosines):.5f} (random weights)"
        yield of(rates, f"{VIT}, --precision {name}", "images/s", how)
        if name != "fp32":
            yield ratio(rates, columns[0], "against fp32")


def of_images(bench: Bench) -> Iterator[Row]:
    """End to end: photographs as files in, labels out; nothing is known, and all that is new is stored."""
    yield from _images(bench, VIT, "small", 0.2, 1, Bars(0.92, 1.6 if WIDE else 1.1, 1.7))
    yield from _images(bench, STARTER, "small", 0.2, 1, Bars(0.92))
    yield from _images(bench, MOBILE, "small", 0.2, 1, Bars())
    yield from _images(bench, VIT, "varied", 0.2, 12, Bars())


@dataclass(frozen=True, slots=True)
class Bars:
    """What end to end is to reach, against the limit and against rivals."""

    limit: float | None = None
    loader: float | None = None
    pipeline: float | None = None


@dataclass(frozen=True, slots=True)
class Rival:
    """A way that is measured beside ours, at its best."""

    name: str
    process: Child
    job: dict[str, Any]
    how: str
    bar: float | None = None

    def rate(self, photos: Sequence[str]) -> float:
        return len(photos) / float(self.process.ask(**self.job, files=photos))


def _images(bench: Bench, name: str, kind: str, low: float, high: float, bars: Bars) -> Iterator[Row]:
    each = 24 if bench.quick else 64
    first = 16 if bench.quick else 64
    photos = [str(path) for path in bench.pictures(kind, first + bench.repeat * each, low, high)]
    trial, rest = photos[:first], photos[first:]
    with ExitStack() as stack:
        ours = stack.enter_context(bench.clipcls(name))
        rivals = list(_rivals(bench, stack, name, trial, bars))
        ours.ask("classify", files=trial)
        say(f"{name}, {kind}: in turns")
        turns, other = [], []
        for turn in range(bench.repeat):
            part = rest[turn * each : (turn + 1) * each]
            turns.append([each / ours.ask(step, files=part) for step in ("classify", "decode")])
            turns[-1].append(each / ours.ask("tower"))
            other.append([rival.rate(part) for rival in rivals])
        about = ours.ask("about")
    whole, decoding, tower = zip(*turns, strict=True)
    limit = [1 / (1 / one + 1 / two) for one, two in zip(decoding, tower, strict=True)]
    title = f"{name}, {kind}"
    what = described([Path(photo) for photo in rest])
    yield of(decoding, f"{title}: reading, decoding, resizing alone", "images/s", f"{CORES} threads; {what}")
    yield of(
        tower,
        f"{title}: image tower alone",
        "images/s",
        f"{about['runtime']}, pictures in memory, batches of {about['batch']}",
    )
    yield of(limit, f"{title}: limit", "images/s", "1 / (1 / tower + 1 / decoding)")
    yield of(whole, f"{title}: clipcls end to end", "images/s", "Classifier, with the store, uncached")
    yield ratio(whole, limit, "against the limit", at_least=bars.limit)
    for rival, rates in zip(rivals, zip(*other, strict=True), strict=True):
        yield of(rates, f"{title}: {rival.name}", "images/s", rival.how)
        yield ratio(whole, rates, "clipcls against it", at_least=rival.bar)
    if name == MOBILE:
        yield Row(f"{title}: transformers' pipeline", None, "", "transformers has no such architecture")


def _rivals(bench: Bench, stack: ExitStack, name: str, trial: list[str], bars: Bars) -> Iterator[Rival]:
    if name == STARTER:
        return  # a model of our own
    theirs = stack.enter_context(bench.open_clip(name))
    yield Rival(
        "open_clip's README way",
        theirs,
        {"do": "one_by_one"},
        f"one picture after the other, {threads(theirs)}{MERGED[name]}",
    )
    say(f"{name}: the DataLoader at its best")
    job, how = _best(theirs, trial, bench.quick)
    yield Rival(
        "open_clip and a DataLoader, as pybioclip", theirs, job, f"{how}{MERGED[name]}; {instructions()}", bars.loader
    )
    if name != MOBILE:
        pipeline = stack.enter_context(bench.transformers(name, trial))
        say(f"{name}: the pipeline at its best")
        job, how = _best(pipeline, trial, bench.quick)
        yield Rival("transformers' pipeline", pipeline, job, how, bars.pipeline)


def _best(process: Child, trial: list[str], quick: bool) -> tuple[dict[str, Any], str]:
    """The fastest way to ask a process to go through some pictures, and its description."""
    fewer = CORES if quick else max(1, CORES - 1)
    ways = [
        {"do": "loader", "batch": batch, "workers": workers, "threads": threads}
        for batch, workers in product(BATCHES, WORKERS)
        for threads in sorted({CORES, fewer if workers else CORES})
    ]
    process.ask(**ways[0], files=trial[:8])
    seconds = [process.ask(**way, files=trial) for way in ways]
    best = ways[seconds.index(min(seconds))]
    how = f"batches of {best['batch']}, {best['workers']} workers, {threads(process, best['threads'])}"
    return best, f"{how}: the best of {len(ways)} tried on {len(trial)} pictures"


def of_big(bench: Bench) -> Iterator[Row]:
    """Load and preprocess as a camera makes them, one thread."""
    photos = bench.pictures("big", 6 if bench.quick else 20, 11.8, 12.2)
    with bench.clipcls(VIT) as ours, bench.open_clip(VIT) as theirs:
        for process in (ours, theirs):
            process.ask("prepare", file=str(photos[0]))
        say("big photographs in turns")
        turns = [
            tuple(1000 * process.ask("prepare", file=str(photo)) for process in (ours, theirs))
            for photo in photos * (1 if bench.quick else bench.repeat)
        ]
    mine, other = zip(*turns, strict=True)
    yield of(mine, "clipcls: decode, preprocess", "ms", f"one thread; {described(photos)}")
    yield of(other, "open_clip: Image.open, convert, transform", "ms", "the same pictures in turns")
    yield ratio(other, mine, "clipcls faster by", at_least=3)


def threads(process: Child, count: int = CORES) -> str:
    """How many threads a rival has, and how they wait for each other."""
    return f"{count} threads (OMP_WAIT_POLICY: {process.waiting})"
