"""``clipcls search``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from clipcls.cli.answers import at_least_one, sampling, walked
from clipcls.cli.common import STARTER_NOTICE, open_classifier, quiet_pipe, say
from clipcls.cli.listing import FORMATS, given_format, show
from clipcls.cli.options import Cache, Debug, Device, Exclude, Fps, Include, Model, Quiet, Recursive, Scenes
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.records import Failure
    from clipcls.search import Float32, Match

_QUERY, _OUTPUT = "Query", "Output"


def search(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="A sentence, taken as it is; with --like it may be left out.")
    ] = "",
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...", help="Image files, folders, globs; without any, all pictures that the cache knows."
        ),
    ] = None,
    and_: Annotated[
        list[str] | None,
        typer.Option(
            "--and", help="A further text; 2:TEXT counts twice (1:16:9 is the text 16:9).", rich_help_panel=_QUERY
        ),
    ] = None,
    not_: Annotated[
        list[str] | None, typer.Option("--not", help="A text to keep away from.", rich_help_panel=_QUERY)
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(help="A picture to be like, or a folder of them; 0.5:FILE counts half.", rich_help_panel=_QUERY),
    ] = None,
    top: Annotated[int, typer.Option("--top", "-n", min=1, help="How many.", rich_help_panel=_QUERY)] = 20,
    threshold: Annotated[float, typer.Option(min=-1.0, max=1.0, help="Least cosine.", rich_help_panel=_QUERY)] = -1.0,
    recursive: Recursive = True,
    include: Include = None,
    exclude: Exclude = None,
    fps: Fps = None,
    scenes: Scenes = False,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="table, csv, jsonl or paths.", rich_help_panel=_OUTPUT)
    ] = None,
    null: Annotated[
        bool, typer.Option("-0", help="Paths alone, each ended by a NUL byte for xargs -0.", rich_help_panel=_OUTPUT)
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Also write a page with the pictures.", rich_help_panel=_OUTPUT),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the images that fit a sentence.

    clipcls search 一只在雪地里的狗 ./imgs --not 人
    """
    from clipcls.search import Match, Query, among
    from clipcls.settings import Settings
    from clipcls.sources import ImageSource

    if like and query and os.path.exists(query):  # --like FILE PATH...: there is no sentence
        query, paths = "", [query, *(paths or [])]
    if not paths and query and os.path.exists(query):
        raise UsageError(f"{query} is a path, and the query comes first: clipcls search SENTENCE {query}")
    asked = Query.parse([query, *(and_ or [])], like or [], not_ or [])
    form = given_format("paths" if null and format is None else format, (*FORMATS, "paths"))
    if null and form != "paths":
        raise UsageError("-0 is for paths; leave --format out")
    if not paths and (include or exclude or not recursive or fps or scenes):
        raise UsageError("--include, --exclude, --no-recursive, --fps and --scenes are for folders: name one")
    if report:
        from clipcls.report import check_page

        check_page(report)
    found = ImageSource(
        paths or [],
        recursive=recursive,
        include=include or [],
        exclude=exclude or [],
        videos=sampling(fps, scenes=scenes),
    )
    settings = Settings.load({"model": model, "device": device})
    failures: list[Failure] = []
    images = at_least_one(found, paths) if paths else iter(())
    with open_classifier(settings, cache) as classifier, quiet_pipe():
        with download_bar():
            vector = asked.vector(classifier)
        if classifier.is_starter and not quiet:
            say(STARTER_NOTICE)
        if paths:
            with walked(classifier, found, images, failures, quiet=quiet) as embedded:
                matches = among(embedded, vector, top, threshold)
        else:
            matches = _known(classifier, vector, top, threshold, quiet=quiet)
        if form == "paths":
            _write_paths(matches, "\0" if null else "\n")
        else:
            show(form, Match, matches)
    if not (matches or quiet):
        _tell_nothing(threshold, known=not paths)
    if report:
        _write_page(report, matches, ", ".join([query, *(and_ or []), *(like or [])]).strip(", "))
    raise typer.Exit(InputError.exit_code if failures else 0)


def _tell_nothing(threshold: float, *, known: bool) -> None:
    """Why no picture was found."""
    if known and threshold > -1:
        say(f"no picture that is where it was reaches a cosine of {threshold}")
    elif known:
        say("none of these pictures is where it was, unchanged: name a folder after the query, once")
    elif threshold > -1:
        say(f"nothing reaches a cosine of {threshold}")


def _known(classifier: Classifier, vector: Float32, top: int, threshold: float, *, quiet: bool) -> list[Match]:
    """The best of all pictures that the cache knows."""
    from clipcls.search import in_store

    began = time.perf_counter()
    matches, count = in_store(classifier, vector, top, threshold)
    if not count:
        raise InputError(
            f"the cache has no pictures of the model {classifier.info.spec}: name a folder after the query, once"
        )
    if not quiet:
        say(f"{count:,} pictures in the cache, {time.perf_counter() - began:.2f} s")
    return matches


def _write_page(file: Path, matches: Sequence[Match], query: str) -> None:
    """The pictures on one page; their bars show the cosine."""
    from clipcls.cli.report import page_items
    from clipcls.records import Prediction, Score
    from clipcls.report import Page, write

    records = [
        Prediction(match.path, (Score(query, max(match.cosine, 0.0), match.cosine),), cached=True) for match in matches
    ]
    items = page_items(records, Path.cwd(), file)
    size = write(Page(title=query, items=items, labels=(query,), measure="cosine"), file)
    say(f"wrote {file}, {size / 1e6:.1f} MB")


def _write_paths(matches: Iterable[Match], end: str) -> None:
    """Paths alone: to a pipe byte for byte as the system knows them, to a terminal as it can show them."""
    from clipcls.sinks.cells import printable
    from clipcls.sinks.stream import send

    terminal = sys.stdout.isatty()
    if not terminal:
        cast(TextIOWrapper, sys.stdout).reconfigure(errors="surrogateescape")
    send(sys.stdout, "".join((printable(match.path) if terminal else match.path) + end for match in matches))
