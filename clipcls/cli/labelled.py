"""Pictures whose labels are known, for the commands that judge by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipcls.cli.answers import left_out, tell_failures
from clipcls.cli.common import given_labels, open_classifier, quiet_pipe, say
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.labelled import LabelledImages

Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder that holds one folder a label.")]


@contextmanager
def labelled(
    folder: str,
    *,
    truth: str | None = None,
    labels: list[str] | None = None,
    labels_file: str | None = None,
    model: str | None = None,
    device: str | None = None,
    cache: bool = True,
    quiet: bool = False,
) -> Iterator[tuple[Classifier, LabelledImages]]:
    """A classifier, and a folder's images as it sees them, with the labels of its folders or of the table ``truth``."""
    from clipcls.labelled import LabelledFiles, LabelledFolder
    from clipcls.labels import label_set
    from clipcls.settings import Settings

    settings = Settings.load({"model": model, "device": device})
    known = label_set(given_labels(labels, labels_file)) if labels or labels_file else None
    found = LabelledFiles(folder, truth, known) if truth else LabelledFolder(folder, known)
    tally = Tally()
    with open_classifier(settings, cache) as classifier:
        with download_bar():
            classifier.info  # noqa: B018  # loads the model, if that has to be
        with progress_bar(tally, found.count, hidden=quiet):
            images = classifier.labelled(found, tally.over)
        if not quiet:
            say(f"{len(set(images.truth.tolist()))} labels; {tally.line()}{left_out(found)}")
        tell_failures(images.failures)
        yield classifier, images


def end(images: LabelledImages) -> None:
    """Tell by the exit code that some images could not be read."""
    if images.failures:
        raise typer.Exit(InputError.exit_code)


def print_json(images: LabelledImages, **found: Any) -> None:
    """What was found, and of which images."""
    about = {
        "images": len(images.paths),
        "labels": len(set(images.truth.tolist())),
        "failed": [asdict(failure) for failure in images.failures],
    }
    with quiet_pipe():
        typer.echo(json.dumps(about | found, ensure_ascii=False, indent=2))
