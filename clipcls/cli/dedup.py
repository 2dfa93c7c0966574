"""``clipcls dedup``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clipcls.cli.answers import at_least_one, walked
from clipcls.cli.common import STARTER_NOTICE, open_classifier, quiet_pipe, say
from clipcls.cli.listing import given_format, show
from clipcls.cli.options import Cache, Debug, Device, Exclude, Format, Include, Model, Quiet, Recursive
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError

if TYPE_CHECKING:
    from clipcls.duplicates import Copy
    from clipcls.records import Failure


def dedup(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Image files, folders, globs.")],
    threshold: Annotated[
        float,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="Least cosine of two that belong together. With the starter, pictures that were recompressed, "
            "brightened or halved mostly reach 0.98, cropped or very small ones 0.9; but so may different pictures of "
            "one kind of thing: look before you delete.",
        ),
    ] = 0.98,
    recursive: Recursive = True,
    include: Include = None,
    exclude: Exclude = None,
    model: Model = None,
    device: Device = None,
    cache: Cache = True,
    format: Format = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find images that are nearly the same.

    It lists groups, each with the image to keep first, the largest file; it moves and deletes nothing. Once you have
    looked through the list, clipcls sort LIST.csv --into DIR --move moves all but the images to keep.

    clipcls dedup ./imgs > copies.csv
    """
    from clipcls.duplicates import Copy, duplicates
    from clipcls.settings import Settings
    from clipcls.sources import ImageSource

    form = given_format(format)
    settings = Settings.load({"model": model, "device": device})
    found = ImageSource(paths, recursive=recursive, include=include or [], exclude=exclude or [])
    images = at_least_one(found, paths)
    failures: list[Failure] = []
    with open_classifier(settings, cache) as classifier, quiet_pipe():
        with download_bar():
            classifier.info  # noqa: B018  # loads the model, if that has to be
        if classifier.is_starter and not quiet:
            say(STARTER_NOTICE)
        with walked(classifier, found, images, failures, quiet=quiet) as embedded:
            copies = duplicates(embedded, threshold)
        show(form, Copy, copies)
    if not quiet:
        say(_summary(copies))
        if any(copy.verdict == "similar" for copy in copies):
            say("look before you move any: different pictures of one kind of thing may be as near; 0.995 is stricter")
    raise typer.Exit(InputError.exit_code if failures else 0)


def _summary(copies: list[Copy]) -> str:
    surplus = [copy for copy in copies if copy.verdict != "keep"]
    identical = sum(copy.verdict == "identical" for copy in surplus)
    count = len(copies) - len(surplus)
    return (
        f"{count} group{'s' * (count != 1)}; {len(surplus)} beyond the one to keep of each, {identical} of them "
        f"identical; together {sum(copy.bytes for copy in surplus) / 1e6:.1f} MB"
    )
