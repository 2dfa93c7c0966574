"""The command line: parse flags, call the library, send records to a sink, answer with an exit code."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer

from clipcls import __version__
from clipcls.cli.commands import Commands
from clipcls.cli.common import INTERRUPTED, say
from clipcls.cli.language import chosen, speak
from clipcls.cli.options import Debug
from clipcls.errors import ClipclsError, OutputError, UsageError

app = typer.Typer(
    name="clipcls",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def clipcls(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=lambda on: _version(on)),
    ] = False,
    lang: Annotated[
        str | None, typer.Option(metavar="zh|en", help="The language of messages; by default your locale's.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Sort images by labels nobody trained on: zero-shot classification with CLIP, in Chinese and English.

    clipcls classify ./imgs --labels 大象,冰箱,蚂蚁
    """


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipcls {__version__}")
        raise typer.Exit


def main() -> NoReturn:
    """The process's command line, from flags to exit code."""
    words = sys.argv[1:]
    debug = "--debug" in words
    try:
        signal.signal(signal.SIGTERM, _terminated)
        _prepare(debug)
        code = run(words, debug=debug)
        sys.stdout.flush()
        sys.stderr.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OSError:  # stdout or stderr has gone
        code = OutputError.exit_code
    # All that is worth keeping is on disk. An orderly exit would wait for a batch that nobody wants any more, and
    # takes a second where torch was imported.
    os._exit(code)


def _terminated(*_: object) -> NoReturn:
    """Whoever ends the process by SIGTERM, such as a batch system, wants what Ctrl-C does."""
    raise KeyboardInterrupt


def run(words: Sequence[str], *, debug: bool = False) -> int:
    """One command, with its errors told on stderr; the exit codes are those of ``clipcls.errors``."""
    words = [*words]
    try:
        speak(chosen([]))  # in which it is told what is wrong with --lang
        speak(chosen(words))  # --lang may stand anywhere, so Typer never sees it
        code = app(words, prog_name="clipcls", standalone_mode=False)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except typer.Abort:
        return INTERRUPTED
    except Exception as exc:
        if debug:
            import traceback

            traceback.print_exc()
        from clipcls.sinks.cells import printable

        if isinstance(exc, ClipclsError):
            say(f"error: {printable(str(exc))}")  # a path may hold a line break
            return exc.exit_code
        if hasattr(exc, "format_message"):  # Typer's own, of flags and arguments
            _say_misuse(exc)
            return UsageError.exit_code
        cause = " ".join(f"{type(exc).__name__}: {exc}".split())
        say(f"error: unexpected: {printable(cause)}; run it again with --debug to see where")
        return ClipclsError.exit_code
    return code if isinstance(code, int) else 0


def _say_misuse(exc: Any) -> None:
    """What Typer says of flags and arguments, in one line; it says nothing where it has shown the help page."""
    from clipcls.sinks.cells import printable

    message = " ".join(exc.format_message().replace(". Did you", ", did you").split()).rstrip(".?")
    if message:
        command = getattr(exc.ctx, "command_path", "clipcls")
        say(f"error: {printable(message[0].lower() + message[1:])}; see {command} --help")


def _prepare(debug: bool) -> None:
    """Streams that can carry any name, and no chatter from the libraries underneath."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A Chinese Windows would pipe as GBK, which cannot hold every name, and write every line break its own way.
        piped: dict[str, Any] = {} if stream.isatty() else {"encoding": "utf-8", "newline": ""}
        cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace", **piped)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # numpy's products here are small: threads that wait for each other cost more than they bring.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    handler = StderrHandler()
    if debug:
        logging.getLogger().addHandler(handler)
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("clipcls")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


class StderrHandler(logging.Handler):
    """Log lines on what is stderr at that moment, so that a progress bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        level = record.levelno
        prefix = "" if level == logging.INFO else "warning: " if level == logging.WARNING else "error: "
        say(prefix + record.getMessage())
