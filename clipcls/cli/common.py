"""What several commands share: options, the notice about the starter, a quiet end when a pipe closes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

STARTER_NOTICE = (
    "using the built-in starter model: good for everyday objects, animals and food, in Chinese and English; "
    "for people, scenes, text or better answers choose a full CLIP, "
    "such as --model xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"
)


def say(line: str) -> None:
    """One line on stderr; a progress bar stays below it."""
    # Not typer.echo: that goes to the stream that was there before the bar.
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without a word when whoever read stdout has had enough, as in ``clipcls ... | head``."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
