"""Pictures classified or embedded for a command, with a bar meanwhile and a line when it is through."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clipcls.cli.common import STARTER_NOTICE, given_labels, open_classifier, say
from clipcls.cli.progress import Tally, progress_bar
from clipcls.cli.transfers import download_bar
from clipcls.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.heads import ZeroShotClassifier
    from clipcls.labelled import Labelled
    from clipcls.pipeline import Embedded
    from clipcls.records import Failure, ImageRef, Record
    from clipcls.sources import ImageSource
    from clipcls.video import Sampling


_SHOWN = 3
"""Failures that are told by name."""


@contextmanager
def answers(
    paths: list[str],
    *,
    labels: list[str] | None,
    labels_file: str | None,
    prompts: list[str] | None,
    threshold: float | None = None,
    margin: float = 0.0,
    background: list[str] | None = None,
    model: str | None = None,
    device: str | None = None,
    cache: bool = True,
    top_k: int = 1,
    videos: Sampling | None = None,
    quiet: bool = False,
) -> Iterator[tuple[ZeroShotClassifier, Iterator[Record]]]:
    """A zero-shot classifier, and its answers for the images behind some paths; the arguments are classify's options.

    Raises:
        InputError: there are no images.
    """
    from clipcls.settings import Settings
    from clipcls.sources import ImageSource

    settings = Settings.load({"model": model, "device": device, "prompts": prompts or None})
    wanted = given_labels(labels, labels_file)
    found = ImageSource(paths, videos=videos)
    images = at_least_one(found, paths)
    tally = Tally()
    with open_classifier(settings, cache) as classifier:
        with download_bar():
            head = classifier.zero_shot(wanted, settings.prompts or None, background=given_labels(background, None))
        if classifier.is_starter and not quiet:
            say(STARTER_NOTICE)
        records = head.classify(images, top_k=top_k, threshold=threshold, margin=margin)
        with progress_bar(tally, found.count, hidden=quiet):
            yield head, tally.over(records)
        if not quiet:
            say(f"{tally.line()}{left_out(found)}")


@contextmanager
def walked(
    classifier: Classifier,
    found: ImageSource,
    images: Iterable[ImageRef],
    failures: list[Failure],
    *,
    quiet: bool,
) -> Iterator[Iterator[Embedded]]:
    """Embeddings of images, with a bar meanwhile and a line when they are through.

    Those that cannot be read are added to ``failures``, and some of them told.
    """
    from clipcls.records import Failure

    tally = Tally()

    def readable() -> Iterator[Embedded]:
        for image in tally.over(classifier.embedded(images)):
            if isinstance(image, Failure):
                failures.append(image)
            else:
                yield image

    with progress_bar(tally, found.count, hidden=quiet):
        yield readable()
    if not quiet:
        say(f"{tally.line()}{left_out(found)}")
    tell_failures(failures)


def tell_failures(failures: Sequence[Failure]) -> None:
    """Name some of the images that could not be read."""
    from clipcls.sinks.cells import printable

    for failure in failures[:_SHOWN]:
        say(f"left out: {printable(failure.path)}: {printable(failure.error)}")
    if len(failures) > _SHOWN:
        say(f"and {len(failures) - _SHOWN} more")


def sampling(fps: float | None, *, scenes: bool) -> Sampling:
    """What ``--fps`` and ``--scenes`` ask for; without either one frame a second of the videos that are named."""
    from clipcls.video import Sampling

    if fps and scenes:
        raise UsageError("--fps and --scenes exclude each other: so many frames a second, or one a scene")
    return Sampling(fps or 1.0, scenes, folders=scenes or fps is not None)


def at_least_one(found: ImageSource, paths: list[str]) -> Iterator[ImageRef]:
    """The images, once it is known that there are any: a wrong folder should not cost the loading of a model.

    Raises:
        InputError: there are none.
    """
    images = iter(found)
    first = next(images, None)
    if first is None:
        raise InputError(f"no images found in {', '.join(paths)}{left_out(found)}")
    return itertools.chain([first], images)


def left_out(found: ImageSource | Labelled) -> str:
    """What was left out: for want of a package, or because nobody asked for videos; and what brings it in."""
    from clipcls.decode import CAMERA_EXTRA
    from clipcls.video import VIDEO_SUFFIXES

    kinds: dict[str, list[str]] = {}
    for suffix, count in sorted(found.skipped.items()):
        remedy = "add --fps 1 to look at their frames"
        if suffix not in VIDEO_SUFFIXES:
            remedy = f"pip install '{CAMERA_EXTRA}' reads them"
        kinds.setdefault(remedy, []).append(f"{count} {suffix}")
    skipped = ", ".join(f"{', '.join(counts)} ({remedy})" for remedy, counts in kinds.items())
    return f"; skipped {skipped}" if skipped else ""
