"""``clipcls report``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, cast

import typer

from clipcls.cli.answers import answers, sampling
from clipcls.cli.common import INTERRUPTED, say
from clipcls.cli.options import (
    Background,
    Cache,
    Debug,
    Device,
    Fps,
    Labels,
    LabelsFile,
    Margin,
    Model,
    Prompts,
    Quiet,
    Scenes,
    Threshold,
)
from clipcls.cli.progress import Tally, progress_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.heads import ZeroShotClassifier
    from clipcls.records import ImageRef, Record
    from clipcls.report import About, Item

_LARGE = 100_000_000
"""Bytes of a page beyond which a person is asked first."""
_SAMPLE = 64
"""Thumbnails that a page's size is reckoned from."""

_ANSWER, _PAGE = "Answer", "Page"


class _Answers(NamedTuple):
    """What a page is made from."""

    records: Sequence[Record]
    base: Path
    """Absolute folder that relative paths start from."""
    labels: tuple[str, ...]
    about: About
    threshold: float = 0.0
    multi_label: bool = False


def report(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS|PATH...", help="A .csv or .jsonl of classify; or pictures, with --labels."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page, an .html file.")],
    labels: Labels = None,
    labels_file: LabelsFile = None,
    prompts: Prompts = None,
    top_k: Annotated[
        int, typer.Option("--top-k", "-k", min=1, help="Labels shown of a picture.", rich_help_panel=_ANSWER)
    ] = 5,
    threshold: Threshold = None,
    margin: Margin = 0.0,
    background: Background = None,
    fps: Fps = None,
    scenes: Scenes = False,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    title: Annotated[str | None, typer.Option(help="The page's heading.", rich_help_panel=_PAGE)] = None,
    page_lang: Annotated[
        str | None,
        typer.Option(metavar="zh|en", help="The page's language; by default its browser's.", rich_help_panel=_PAGE),
    ] = None,
    thumbnails: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep thumbnails in a folder.", rich_help_panel=_PAGE)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page.", rich_help_panel=_PAGE)] = False,
    yes: Annotated[bool, typer.Option("--yes", help="However large it gets.", rich_help_panel=_PAGE)] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show answers as one page, with pictures.

    clipcls report results.csv -o report.html
    """
    from clipcls.report import Page, check_page, write
    from clipcls.results import is_results

    if page_lang not in (None, "zh", "en"):
        raise UsageError(f"unknown language {page_lang!r}: --page-lang is zh or en")
    check_page(output, overwrite=overwrite, thumbnails=thumbnails)
    from_file = len(paths) == 1 and is_results(paths[0])
    if from_file:
        asked = {"--labels": labels, "--labels-file": labels_file, "--prompts": prompts, "--threshold": threshold,
                 "--margin": margin, "--background": background, "--model": model, "--device": device}  # fmt: skip
        if given := [flag for flag, value in asked.items() if value]:
            raise UsageError(f"{paths[0]} is classified already: leave out {', '.join(given)}, or name its pictures")
        found = _read(paths[0])
    else:
        if not (labels or labels_file):
            raise UsageError("give labels with --labels or --labels-file, or name a .csv or .jsonl of clipcls classify")
        with answers(
            paths,
            labels=labels,
            labels_file=labels_file,
            prompts=prompts,
            threshold=threshold,
            margin=margin,
            background=background,
            model=model,
            device=device,
            cache=cache,
            top_k=top_k,
            videos=sampling(fps, scenes=scenes),
            quiet=quiet,
        ) as (head, records):
            found = _classified(head, records, threshold, margin, paths)
    tally = Tally()
    items = page_items(tally.over(found.records), found.base, output)
    if not (thumbnails or yes):
        items = _unless_large(items, len(found.records), output)
    page = Page(
        title=title or (Path(paths[0]).stem if from_file else ", ".join(Path(path).name or path for path in paths)),
        items=items,
        labels=found.labels,
        about=found.about,
        threshold=found.threshold,
        multi_label=found.multi_label,
        lang=cast(Literal["zh", "en"] | None, page_lang),
    )
    with progress_bar(tally, lambda: len(found.records), hidden=quiet):
        size = write(page, output, overwrite=overwrite, thumbnails=thumbnails)
    if not quiet:
        say(f"wrote {output}: {tally.images} image{'s' * (tally.images != 1)}, {_megabytes(size)}")
    raise typer.Exit(InputError.exit_code if tally.failed and not from_file else 0)


def _read(file: str) -> _Answers:
    """The answers in a result file, and what its run file tells."""
    from clipcls.answer import DEFAULT_THRESHOLD
    from clipcls.report import about_run
    from clipcls.results import read_results

    found = read_results(file)
    run = found.run
    if run is None:
        return _Answers(found.records, found.base, (), ())
    default = DEFAULT_THRESHOLD[run.activation] if run.multi_label else 0.0
    threshold = default if run.threshold is None else run.threshold
    names = tuple(label.column for label in run.labels)
    return _Answers(found.records, found.base, names, about_run(run), threshold, run.multi_label)


def _classified(
    head: ZeroShotClassifier, records: Iterable[Record], threshold: float | None, margin: float, paths: Sequence[str]
) -> _Answers:
    """Answers as they are given now."""
    from clipcls.report import about_head

    names = tuple(label.column for label in head.labels)
    about = about_head(head, paths, threshold, margin)
    return _Answers(tuple(records), Path.cwd(), names, about, threshold or 0.0)


def page_items(
    records: Iterable[Record], base: Path, output: Path, truth: Mapping[str, str] | None = None
) -> Iterator[Item]:
    """The records as a page shows them, each with its thumbnail and a link to its picture; and its true label."""
    from clipcls.report import Item, link, thumbnails
    from clipcls.sources import file_ref
    from clipcls.video import Sampling, Videos, moment_of

    videos = Videos(Sampling())
    lost = 0

    def ref(record: Record) -> ImageRef | None:
        if not record.ok:
            return None
        return (videos.again if moment_of(record.path) else file_ref)(record.path, str(base))

    ahead, behind = itertools.tee(records)
    for record, thumbnail in zip(behind, thumbnails(map(ref, ahead)), strict=True):
        if moment := moment_of(record.path):
            place = f"{link(base / moment[0], output)}#t={moment[1]:.2f}"  # where browsers begin to play
        else:
            place = link(base / record.path, output)
        lost += record.ok and thumbnail is None
        yield Item.of(record, thumbnail, (truth or {}).get(record.path), place)
    if lost:
        say(f"warning: {lost} image{'s' * (lost != 1)} cannot be read any more, and shown by name only")


def _unless_large(items: Iterator[Item], count: int, output: Path) -> Iterator[Item]:
    """The items, once the person is content with the page's size."""
    from clipcls.report import expected_size

    some = list(itertools.islice(items, _SAMPLE))
    size = expected_size(some, count)
    if size > _LARGE:
        about = f"{output} would have about {_megabytes(size)}"
        advice = "--thumbnails DIR keeps the thumbnails beside it"
        if not sys.stdin.isatty():
            raise UsageError(f"{about}: {advice}, --yes writes it all the same")
        try:
            sure = typer.confirm(f"{about} ({advice}). Write it?", err=True)
        except typer.Abort:
            raise typer.Exit(INTERRUPTED) from None
        if not sure:
            raise typer.Exit
    return itertools.chain(some, items)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e7 else f"{size / 1e6:.0f} MB"
