"""``clipcls score``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli.answers import at_least_one, tell_failures
from clipcls.cli.common import STARTER_NOTICE, open_classifier, quiet_pipe, say
from clipcls.cli.listing import given_format, show
from clipcls.cli.options import Cache, Debug, Device, Format, Model, Quiet
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.clipscore import Matrix
    from clipcls.records import ImageRef

_MATRIX = "Matrix"


def score(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PAIRS.csv", help="A table with the columns image and text; or, with --text, images and folders."
        ),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="A text, in place of a table: the first for the first image, and so on."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Put before each text. The paper's is 'A photo depicts ', for English captions.")
    ] = "",
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Every image with every text, as cosines.", rich_help_panel=_MATRIX)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.svg", help="Draw the matrix.", rich_help_panel=_MATRIX),
    ] = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    format: Format = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tell how well texts fit images.

    CLIPScore: 2.5 times the cosine, and 0 where that is negative. Paths in a table start at the table's folder.

    clipcls score captions.csv
    """
    from clipcls.search import warn_of_language
    from clipcls.settings import Settings

    form = given_format(format)
    _check_drawing(output, matrix)
    images, texts = _given(paths, text)
    if len(images) != len(texts) and not matrix:
        raise UsageError(
            f"{len(images)} images and {len(texts)} texts make no pairs: give as many, or --matrix for each with each"
        )
    settings = Settings.load({"model": model, "device": device})
    with open_classifier(settings, cache) as classifier, quiet_pipe():
        with download_bar():
            warn_of_language([prefix, *texts], classifier.info)
        if classifier.is_starter and not quiet:
            say(STARTER_NOTICE)
        if matrix:
            failed = _matrix(classifier, images, texts, prefix, form, output, quiet=quiet)
        else:
            failed = _pairs(classifier, images, texts, prefix, form, quiet=quiet)
    raise typer.Exit(InputError.exit_code if failed else 0)


def _check_drawing(output: Path | None, matrix: bool) -> None:
    from clipcls.textfile import refuse_existing

    if output is None:
        return
    if not matrix:
        raise UsageError("--output draws the matrix: add --matrix, or send the scores to a file with >")
    if output.suffix.lower() != ".svg":
        raise UsageError(f"{output.name}: the drawing is an SVG; name it {output.with_suffix('.svg').name}")
    refuse_existing(output)


def _given(paths: list[str], text: list[str] | None) -> tuple[list[ImageRef], list[str]]:
    """The images and texts of a table, or of the command line."""
    from clipcls.clipscore import read_pairs
    from clipcls.sources import ImageSource

    if text:
        return list(at_least_one(ImageSource(paths), paths)), text
    if len(paths) > 1:
        raise UsageError("name one table of images and texts, or give the texts with --text")
    return read_pairs(Path(paths[0]))


def _pairs(
    classifier: Classifier, images: Sequence[ImageRef], texts: Sequence[str], prefix: str, form: str, *, quiet: bool
) -> int:
    """Show the score of each pair, and tell their mean; how many have none."""
    from clipcls import clipscore

    tally = Tally()
    with progress_bar(tally, lambda: len(images), hidden=quiet):
        scores = list(clipscore.score(classifier, images, texts, prefix, tally.over))
    show(form, clipscore.PairScore, scores)
    known = [(each.clipscore, each.cosine) for each in scores if each.clipscore is not None and each.cosine is not None]
    if not quiet:
        say(tally.line())
        if known:
            mean, cosine = (sum(column) / len(known) for column in zip(*known, strict=True))
            say(f"mean CLIPScore {mean:.4f}, mean cosine {cosine:.4f}, of {len(known)} pairs")
    return len(scores) - len(known)


def _matrix(
    classifier: Classifier,
    images: Sequence[ImageRef],
    texts: Sequence[str],
    prefix: str,
    form: str,
    output: Path | None,
    *,
    quiet: bool,
) -> int:
    """Show or draw every image with every text; how many images could not be read."""
    from clipcls import clipscore
    from clipcls.textfile import write_new_text

    tally = Tally()
    with progress_bar(tally, lambda: len(images), hidden=quiet):
        found = clipscore.matrix(classifier, images, texts, prefix, tally.over)
    if output is not None:
        write_new_text(output, clipscore.picture(found))
        say(f"wrote {output}")
    elif form == "table":
        _show_table(found)
    else:
        _show_rows(found, form)
    if not quiet:
        say(tally.line())
        if found.own[0] is not None:
            say(f"{found.right} of {len(found.images)} images fit their own text best")
    tell_failures(found.failures)
    return len(found.failures)


def _show_rows(found: Matrix, form: str) -> None:
    from clipcls.sinks.cells import csv_row, rounded, well_formed
    from clipcls.sinks.stream import send

    names = [image.id for image in found.images]
    if form == "csv":
        rows = [["image", *found.texts]]
        rows += [
            [name, *(f"{rounded(cosine):.6f}" for cosine in row)]
            for name, row in zip(names, found.cosines.tolist(), strict=True)
        ]
        send(sys.stdout, "".join(csv_row(map(well_formed, row)) for row in rows))
        return
    for name, row in zip(names, found.cosines.tolist(), strict=True):
        cosines = [{"text": text, "cosine": rounded(cosine)} for text, cosine in zip(found.texts, row, strict=True)]
        send(sys.stdout, json.dumps({"image": well_formed(name), "cosines": cosines}, ensure_ascii=False) + "\n")


def _show_table(found: Matrix) -> None:
    """For a terminal: an image's own text bold, the best of its row with a star."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clipcls.sinks.cells import printable
    from clipcls.sinks.stream import send

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("image", overflow="fold")
    for text in found.texts:
        table.add_column(Text(printable(text)), justify="right", overflow="fold", min_width=len("-0.000*"))
    for row, image in enumerate(found.images):
        cells = [
            Text(
                f"{round(cosine, 3) + 0.0:.3f}{'*' if column == found.best[row] else ' '}",
                "bold" if column == found.own[row] else "",
            )
            for column, cosine in enumerate(found.cosines[row].tolist())
        ]
        table.add_row(Text(printable(image.id)), *cells)
    console = Console(file=sys.stdout)
    with console.capture() as shown:  # a console that prints itself turns a broken pipe into SystemExit
        console.print(table)
    send(sys.stdout, shown.get())
