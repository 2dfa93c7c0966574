"""The command line: parse flags, call the library, send records to a sink, answer with an exit code."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from clipcls import __version__
from clipcls.cli import cache
from clipcls.cli.classify import classify
from clipcls.errors import ClipclsError

app = typer.Typer(
    name="clipcls",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(classify)
app.add_typer(cache.app, name="cache")


@app.callback()
def clipcls(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=lambda on: _version(on)),
    ] = False,
) -> None:
    """Sort images by labels nobody trained on: zero-shot classification with CLIP, in Chinese and English.

    clipcls classify ./imgs --labels 大象,冰箱,蚂蚁
    """


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipcls {__version__}")
        raise typer.Exit


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and leave the process with its exit code; ``args`` default to the process's own."""
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words
    _prepare(debug)
    try:
        app(words, prog_name="clipcls")
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    except ClipclsError as exc:
        if debug:
            raise
        typer.echo(f"error: {exc}", err=True)
        code = exc.exit_code
    except Exception as exc:
        if debug:
            raise
        cause = " ".join(f"{type(exc).__name__}: {exc}".split())
        typer.echo(f"error: unexpected: {cause}; run it again with --debug to see where", err=True)
        code = 1
    return _leave(code)


def _prepare(debug: bool) -> None:
    """Streams that can carry any name, and no chatter from the libraries underneath."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A Chinese Windows would pipe as GBK, which cannot hold every name.
            stream.reconfigure(errors="backslashreplace", **({} if stream.isatty() else {"encoding": "utf-8"}))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    handler = _Handler()
    if debug:
        logging.getLogger().addHandler(handler)
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("clipcls")
    logger.handlers, logger.propagate = [handler], False


class _Handler(logging.Handler):
    """Log lines on what is stderr at that moment, so that a progress bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)


def _leave(code: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if code and threading.active_count() > 1:
        # A batch may still compute what nobody wants any more; everything worth keeping is on disk.
        os._exit(code)
    return code
