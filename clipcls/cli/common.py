"""What several commands share: the notice about the starter, a quiet end when a pipe closes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipcls import __version__
from clipcls.cli.language import told
from clipcls.errors import StoreError, UsageError

if TYPE_CHECKING:
    from clipcls.classifier import Classifier
    from clipcls.labels import Label
    from clipcls.settings import Settings

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

STARTER_NOTICE = (
    "using the built-in starter model: good for everyday objects, animals and food, in Chinese and English; "
    "for people, scenes, text or better answers choose a full CLIP, such as --model xlmr-b32 (clipcls models list)"
)


def say(line: str) -> None:
    """One line on stderr, in the person's language; a progress bar stays below it."""
    # Not typer.echo: that goes to the stream that was there before the bar.
    sys.stderr.write(told(line) + "\n")
    sys.stderr.flush()


def show(line: str) -> None:
    """One line on stdout for a person, in their language."""
    typer.echo(told(line))


def confirm_deleting(what: str) -> None:
    """Ask before something is deleted; where the answer is no, or nobody can be asked, the command ends."""
    if not sys.stdin.isatty():
        raise UsageError(f"this deletes {what}: add --yes where nobody can be asked")
    try:
        sure = typer.confirm(told(f"Delete {what}?"), err=True)
    except typer.Abort:
        raise typer.Exit(INTERRUPTED) from None
    if not sure:
        raise typer.Exit


def given_labels(given: list[str] | None, file: str | None) -> list[str | Label]:
    """The labels of flags and of a file, in that order."""
    from clipcls.labelfiles import load_labels
    from clipcls.labels import split_labels

    return [name for text in given or [] for name in split_labels(text)] + [*(load_labels(file).labels if file else ())]


def open_classifier(settings: Settings, cache: bool) -> Classifier:
    """The classifier; where the cache folder cannot be used, one without a cache."""
    from clipcls.classifier import Classifier

    def load(cache: Path | bool) -> Classifier:
        return Classifier.load(
            settings.model,
            device=settings.device,
            precision=settings.precision,
            cache=cache,
            batch_size=settings.batch_size,
            workers=settings.workers,
            max_pixels=settings.max_pixels,
            time_limit=settings.time_limit,
        )

    try:
        return load(settings.cache_folder if cache else False)
    except StoreError as exc:
        say(f"warning: {exc}; this run keeps no embeddings")
        return load(False)


def versions() -> dict[str, str]:
    """Of clipcls and of what it computes with, by package name."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"clipcls": __version__}
    for name in ("open_clip_torch", "torch", "transformers", "onnxruntime", "tokenizers", "pillow", "numpy", "av"):
        with suppress(PackageNotFoundError):  # another build may go by another name
            found[name] = version(name)
    return found


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without a word when whoever read stdout has had enough, as in ``clipcls ... | head``."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
