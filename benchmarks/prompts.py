"""What trying prompts costs: ``python benchmarks/prompts.py [compare|all]``.

compare     ``clipcls prompts compare`` of two sets of 7 templates on 1,000 cached images in 20 folders, ViT-B-32 with
            random weights, on the CPU, whole process: with new wordings each time, beyond a run in which one single
            prompt is new (that is what loading the text tower costs); and with nothing new.

The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median

from main_job import ARCHITECTURE, CLIPCLS, MEGAPIXELS, PHOTOGRAPHS, Bench, Row, imports, main, random_model, run

THINGS = ("car", "cup", "boat", "dog", "tree", "lamp", "hat", "shoe", "clock", "fish")
LABELS = [f"{kind} {thing}" for kind in ("red", "old") for thing in THINGS]
TEMPLATES = (
    "a {} photo of a {{label}}",
    "a {} close-up of the {{label}}",
    "one {} picture of my {{label}}",
    "a {} drawing of a {{label}}",
    "{} art of the {{label}}",
    "a {{label}} in a {} room",
    "a cropped {} photo of a {{label}}",
)
REPEATS = 3


def of_compare(bench: Bench) -> Iterator[Row]:
    folder = labelled(bench)
    model = random_model(bench.folder / ARCHITECTURE)
    fresh = (f"n{number}" for number in count())

    def seconds(*sets: Path | str) -> float:
        return run(*command(folder, model, *sets)).seconds

    known = [written(bench.folder, next(fresh), 7) for _ in range(2)]
    yield Row(f"{PHOTOGRAPHS:,} images, all computed", seconds(*known), "s")
    loading = min(seconds(known[0], written(bench.folder, next(fresh), 1)) for _ in range(REPEATS))
    yield Row("one template new: loading the text tower", loading, "s", note="20 prompts, best")
    new = [seconds(*(written(bench.folder, next(fresh), 7) for _ in range(2))) for _ in range(REPEATS)]
    note = f"280 prompts, median {median(new) - loading:.2f} s"
    yield Row("two sets new, beyond loading, best", min(new) - loading, "s", at_most=3, note=note)
    cached = [seconds(*known) for _ in range(REPEATS)]
    yield Row("nothing new, whole process, best", min(cached), "s", at_most=1, note=f"median {median(cached):.2f} s")
    yield imports(*command(folder, model, *known)[1:])


def command(folder: Path, model: Path, *sets: Path | str) -> list[str | Path]:
    rivals = [word for each in sets for word in ("--prompts", each)]
    return [CLIPCLS, "prompts", "compare", folder, "--model", model, "--device", "cpu", *rivals]


def labelled(bench: Bench) -> Path:
    """The pictures in one folder a label."""
    folder = bench.folder / "labelled"
    for at, picture in enumerate(sorted(bench.pictures(PHOTOGRAPHS, MEGAPIXELS).iterdir())):
        target = folder / LABELS[at % len(LABELS)] / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.rename(target)
    return folder


def written(folder: Path, word: str, templates: int) -> Path:
    """A prompt set that nobody has seen."""
    file = folder / f"{word}.txt"
    file.write_text("\n".join(template.format(word) for template in TEMPLATES[:templates]), "utf-8")
    return file


if __name__ == "__main__":
    raise SystemExit(main({"compare": of_compare}, str(__doc__)))
