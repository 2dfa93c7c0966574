"""``clipcls sort``."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clipcls import sorting
from clipcls.cli.answers import answers
from clipcls.cli.common import say
from clipcls.cli.options import (
    Background,
    Cache,
    Debug,
    Device,
    Labels,
    LabelsFile,
    Margin,
    Model,
    Prompts,
    Quiet,
    Threshold,
)
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.tables import Column, show_table
from clipcls.errors import InputError, UsageError
from clipcls.records import Failure
from clipcls.results import is_results, read_results
from clipcls.sinks.cells import printable
from clipcls.sorting import FAILED, NO_FILE, UNCERTAIN, Mode, Plan

_FILES = "Files"
_SHOWN = 5
"""Moves, and failures, that are told one by one."""
_DONE = {"copy": "copied", "move": "moved", "link": "hard-linked", "symlink": "linked"}


def sort(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="RESULTS|PATH...", help="A file that classify wrote, or image files, folders, globs."),
    ] = None,
    into: Annotated[Path | None, typer.Option(help="The folder that gets a folder a label.")] = None,
    labels: Labels = None,
    labels_file: LabelsFile = None,
    prompts: Prompts = None,
    move: Annotated[
        bool, typer.Option("--move", help="Move the images instead of copying them.", rich_help_panel=_FILES)
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard links: no room taken, on one disk.", rich_help_panel=_FILES)
    ] = False,
    symlink: Annotated[bool, typer.Option("--symlink", help="Symbolic links.", rich_help_panel=_FILES)] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go where.", rich_help_panel=_FILES)
    ] = False,
    undo: Annotated[
        Path | None, typer.Option(help="Undo the sort that wrote this file.", metavar="FILE", rich_help_panel=_FILES)
    ] = None,
    threshold: Threshold = None,
    margin: Margin = 0.0,
    background: Background = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Put images into one folder a label.

    clipcls sort ./imgs --labels 大象,冰箱,蚂蚁 --into sorted --move

    Images of no label go to _uncertain, those that cannot be read to _failed, and one with several labels to the
    folder of the best. Nothing that exists is replaced. The undo file in DIR takes everything back.
    """
    answer: dict[str, Any] = {
        "labels": labels,
        "labels_file": labels_file,
        "prompts": prompts,
        "threshold": threshold,
        "margin": margin,
        "background": background,
        "model": model,
        "device": device,
    }
    if undo:
        if any((paths, into, move, link, symlink, dry_run, *answer.values())):
            raise UsageError("--undo FILE stands alone: the file knows what was sorted, and where")
        raise typer.Exit(_undo(undo, quiet=quiet))
    if not paths or not into:
        raise UsageError("name a result file or images, and --into DIR, as in clipcls sort results.csv --into sorted")
    mode = _mode(move=move, link=link, symlink=symlink)
    if any(map(is_results, paths)):
        planned = _plan_of_results(paths, into, mode, answer)
    else:
        planned = _plan_of_images(paths, into, mode, answer | {"cache": cache, "quiet": quiet})
    if planned.inside and not quiet:
        say(f"left out {_images(planned.inside)} in {into}, where sorted images are")
    if planned.there and not quiet:
        say(f"{_images(planned.there)} left as they are: the same files are in their folders already")
    _tell(planned.missing)
    if not planned.placings:
        if planned.there:
            raise typer.Exit(InputError.exit_code if planned.missing else 0)
        if planned.missing and all(each.error == NO_FILE for each in planned.missing):
            raise InputError(f"none of the images is a file: {NO_FILE}")
        if planned.missing:
            raise InputError(
                f"none of the images is where it was; were they sorted already? clipcls sort --undo {into}/*.undo.jsonl"
            )
        raise InputError(f"there is nothing to sort into {into}; name images that lie elsewhere")
    failed = [*planned.missing]
    if dry_run:
        _show(planned)
    else:
        failed += _carry_out(planned, quiet=quiet)
    raise typer.Exit(InputError.exit_code if failed or _counts(planned)[FAILED] else 0)


def _mode(**asked: bool) -> Mode:
    chosen: list[Any] = [mode for mode, on in asked.items() if on]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other: give the one you mean")
    mode: Mode = chosen[0] if chosen else "copy"
    return mode


def _plan_of_results(paths: list[str], into: Path, mode: Mode, answer: dict[str, Any]) -> Plan:
    if len(paths) > 1:
        raise UsageError(f"one result file at a time, and nothing besides: {', '.join(paths)}")
    if given := [name.replace("_", "-") for name, value in answer.items() if value]:
        raise UsageError(f"{paths[0]} holds answers already: give --{given[0]} to clipcls classify")
    results = read_results(paths[0])
    columns = results.run.layout.columns if results.run else ()
    return sorting.plan(results.records, results.base, into, mode, columns)


def _plan_of_images(paths: list[str], into: Path, mode: Mode, answer: dict[str, Any]) -> Plan:
    with _told_if_too_early(), answers(paths, **answer) as (head, records):
        return sorting.plan(records, Path.cwd(), into, mode, [label.column for label in head.labels])


@contextmanager
def _told_if_too_early() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted: nothing was sorted yet")
        raise


def _carry_out(planned: Plan, *, quiet: bool) -> list[Failure]:
    """The images in their folders; returns those that could not be put there."""
    failed = []
    tally = Tally()
    with (
        sorting.carried_out(planned) as (file, placed),
        _told_when_cut_off(tally, planned, file),
        progress_bar(tally, lambda: len(planned.placings), hidden=quiet),
    ):
        for each in placed:
            tally.images += 1
            if isinstance(each, Failure):
                failed.append(each)
    _tell(failed)
    if not quiet:
        counts = _counts(planned)
        if counts[UNCERTAIN] or counts[FAILED]:
            say(f"{counts[UNCERTAIN]} uncertain, {counts[FAILED]} that cannot be read, in folders of their own")
        say(
            f"{_images(tally.images - len(failed))} {_DONE[planned.mode]} into {len(counts)} "
            f"folder{'s' * (len(counts) != 1)} of {planned.into}; to undo it: {_undo_command(file)}"
        )
    return failed


@contextmanager
def _told_when_cut_off(tally: Tally, planned: Plan, file: Path) -> Iterator[None]:
    """Tell how to undo a sort that does not reach its end."""
    try:
        yield
    except BaseException:
        say(f"cut off after {tally.images} of {_images(len(planned.placings))}; to undo them: {_undo_command(file)}")
        raise


def _undo(file: Path, *, quiet: bool) -> int:
    try:
        done = sorting.undo(file)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        raise
    _tell(done.left)
    if done.left:
        say(f"{_images(len(done.left))} left; to undo them too, once that is settled: {_undo_command(done.file)}")
    if not quiet:
        say(f"{_images(done.images)} undone")
    return InputError.exit_code if done.left else 0


def _show(planned: Plan) -> None:
    """What would go where."""
    counts = _counts(planned)
    names = {folder: label for label, folder in planned.folders.items()} | dict.fromkeys((UNCERTAIN, FAILED), "")
    rows = [(label, str(counts[folder]), str(planned.into / folder)) for folder, label in names.items()]
    for each in planned.placings[:_SHOWN]:
        say(printable(f"{each.source} -> {planned.into / each.target}"))
    if (more := len(planned.placings) - _SHOWN) > 0:
        say(f"and {more} more")
    show_table(
        (Column("label"), Column("images", right=True), Column("folder")), [row for row in rows if row[1] != "0"]
    )


def _tell(failures: Iterable[Failure]) -> None:
    """A few failures with their reasons, and how many more there are."""
    found = list(failures)
    for failure in found[:_SHOWN]:
        say(printable(f"{failure.path}: {failure.error}"))
    if len(found) > _SHOWN:
        say(f"and {len(found) - _SHOWN} more")


def _counts(planned: Plan) -> Counter[str]:
    """How many images each folder gets."""
    return Counter(each.folder for each in planned.placings)


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _undo_command(file: Path) -> str:
    return f"clipcls sort --undo {shlex.quote(os.fspath(file))}"
