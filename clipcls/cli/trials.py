"""``clipcls prompts compare|rank|tune|confuse``: wordings tried on a folder with one folder a label."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcls.cli.common import Debug, Device, LabelsFile, Model, given_labels, open_classifier, quiet_pipe, say
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.tables import Column, show_table
from clipcls.cli.transfers import download_bar
from clipcls.errors import UsageError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.labelled import LabelledImages
    from clipcls.measures import Difference, Figures, Interval
    from clipcls.tuning import Tuned

Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder that holds one folder a label.")]
OneSet = Annotated[
    list[str] | None,
    typer.Option("--prompts", "-p", help="A prompt set, file or template; several are taken together."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, as JSON.")]
Cache = Annotated[bool, typer.Option(help="Keep embeddings for the next run.")]

_FIGURES = (Column("top-1", right=True), Column("mean recall", right=True))


def register(app: typer.Typer) -> None:
    """Add the commands to ``clipcls prompts``."""
    for command in (compare, rank, tune, confuse):
        app.command()(command)


def compare(
    folder: Folder,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompts", "-p", help="A prompt set, file or template: a rival each.")
    ] = None,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare prompt sets on images whose labels are known, and tell whether a difference is real.

    clipcls prompts compare DIR --prompts zh --prompts mine.toml
    """
    from clipcls.trials import compare

    rivals = prompts or []
    if len(rivals) < 2:
        raise UsageError("compare needs two rivals: give --prompts twice or more")
    with _labelled(folder, labels_file, model, device, cache) as (classifier, images):
        tried = compare(classifier, images, rivals)
    if json_:
        found = [asdict(each) for each in tried]
        _print_json(images, sets=[{key: each[key] for key in each if key != "correct"} for each in found])
        return
    rows = [(each.name, str(each.templates), *_shown(each.figures), *_compared(each.difference)) for each in tried]
    against = f"top-1 over {tried[0].name}"
    show_table((Column("prompts"), Column("templates", right=True), *_FIGURES, Column(against), Column("")), rows)


def rank(
    folder: Folder,
    prompts: OneSet = None,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Rank the templates of a set: each one alone, and what leaving it out of the ensemble costs."""
    from clipcls.promptfiles import load_prompts
    from clipcls.trials import rank

    prompt_set = load_prompts(_needed(prompts))
    with _labelled(folder, labels_file, model, device, cache) as (classifier, images):
        whole, ranked = rank(classifier, images, prompt_set)
    if json_:
        _print_json(images, whole=asdict(whole.figures), templates=[asdict(row) for row in ranked])
        return
    rows = [(f"all {whole.templates} together", *_shown(whole.figures), "", "")]
    rows += [(row.template, *_shown(row.alone), *_compared(row.cost, "costs", "helps")) for row in ranked]
    show_table((Column("template"), *_FIGURES, Column("leaving it out costs"), Column("")), rows)


def tune(
    folder: Folder,
    prompts: OneSet = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the chosen set to this .toml file.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Choose the templates that work best on your images, and measure that on images that had no part in it."""
    from clipcls.promptfiles import load_prompts, write_new
    from clipcls.tuning import tune, tuned_set

    pool = load_prompts(_needed(prompts))
    if out is not None and os.path.lexists(out):
        raise UsageError(f"{out} exists and stays as it is: name another file, or move it away")
    with _labelled(folder, labels_file, model, device, cache) as (classifier, images):
        spec = classifier.info.spec
        result = tune(classifier, images, pool, folds=folds, seed=seed)
    if out is not None:
        write_new(out, *tuned_set(result, pool, out.stem, f"{len(images.paths)} images of {folder}, model {spec}"))
    if json_:
        _print_json(images, **asdict(result))
    else:
        _tell_tuned(result, len(pool.templates))
    if out is not None:
        say(f"wrote {out}")


def confuse(
    folder: Folder,
    prompts: OneSet = None,
    top: Annotated[int, typer.Option(min=1, help="How many pairs.")] = 10,
    labels_file: LabelsFile = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    json_: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show which labels are taken for each other, how close their prompts are, and on which images."""
    from clipcls.trials import confuse

    with _labelled(folder, labels_file, model, device, cache) as (classifier, images):
        pairs = confuse(classifier, images, prompts)[:top]
    if json_:
        _print_json(images, pairs=[asdict(pair) for pair in pairs])
        return
    if not pairs:
        say("no image was taken for another label")
    rows = [
        (
            *pair.labels,
            f"{pair.taken[0]} of {pair.images[0]}",
            f"{pair.taken[1]} of {pair.images[1]}",
            f"{pair.cosine:.3f}",
            _some(pair.paths),
        )
        for pair in pairs
    ]
    names = ("first", "second", "first taken for second", "second for first")
    show_table((*map(Column, names), Column("cosine", right=True), Column("images")), rows)


@contextmanager
def _labelled(
    folder: str, labels_file: str | None, model: str | None, device: str | None, cache: bool
) -> Iterator[tuple[Classifier, LabelledImages]]:
    """A classifier, and the folder's images as it sees them."""
    from clipcls.labelled import LabelledFolder
    from clipcls.labels import label_set
    from clipcls.settings import Settings

    settings = Settings.load({"model": model, "device": device})
    found = LabelledFolder(folder, label_set(given_labels(None, labels_file)) if labels_file else None)
    tally = Tally()
    with open_classifier(settings, cache) as classifier:
        with download_bar():
            classifier.info  # noqa: B018  # loads the model, if that has to be
        with progress_bar(tally, found.count, hidden=False):
            images = classifier.labelled(found, tally.over)
        say(f"{len(set(images.truth.tolist()))} labels; {tally.line()}")
        for failure in images.failures[:3]:
            say(f"left out: {failure.path}: {failure.error}")
        yield classifier, images


def _needed(prompts: list[str] | None) -> list[str]:
    if not prompts:
        raise UsageError("name the prompt set with --prompts, such as --prompts zh")
    return prompts


def _shown(figures: Figures) -> tuple[str, str]:
    return f"{figures.top1:.1%}", f"{figures.recall:.1%}"


def _compared(difference: Difference | None, worse: str = "worse", better: str = "better") -> tuple[str, str]:
    """A difference in top-1 with its interval, and what to make of it."""
    if difference is None:
        return "", ""
    top1 = difference.top1
    return _points(top1), (better if top1.value > 0 else worse) if top1.real else "within noise"


def _points(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _tell_tuned(result: Tuned, pool: int) -> None:
    rows = [
        (f"chosen, {_range(result.sizes)} of {pool} templates", *_shown(result.chosen), "", ""),
        (f"all {pool} together", *_shown(result.whole), *_compared(result.over_whole)),
        ("plain", *_shown(result.plain), *_compared(result.over_plain)),
    ]
    show_table((Column("prompts"), *_FIGURES, Column("the choice over it, top-1"), Column("")), rows)
    say(result.verdict)
    for template in result.templates:
        say(f"  {template}")


def _range(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])


def _some(paths: tuple[str, ...]) -> str:
    return " ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _print_json(images: LabelledImages, **found: Any) -> None:
    about = {
        "images": len(images.paths),
        "labels": len(set(images.truth.tolist())),
        "failed": [asdict(failure) for failure in images.failures],
    }
    with quiet_pipe():
        typer.echo(json.dumps(about | found, ensure_ascii=False, indent=2))
