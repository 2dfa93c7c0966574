"""The manual page, made from the commands themselves: ``python -m clipcls.cli.manual > docs/clipcls.1``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from clipcls import __version__
from clipcls.cli import app
from clipcls.cli.commands import COMMANDS, full_command

_EXIT_CODES = """0 all went well; 1 unexpected; 2 a bad flag, label, template or setting; 3 no images, or some that
cannot be read; 4 the model; 5 the device; 6 the cache; 7 the output cannot be written; 130 interrupted."""

_ENVIRONMENT = (
    ("CLIPCLS_LANG", "The language of messages, zh or en."),
    ("CLIPCLS_CACHE_DIR", "Where embeddings and traced models are kept; clipcls cache path shows the place."),
    ("CLIPCLS_MODEL, CLIPCLS_DEVICE, ...", "Settings, as clipcls config show lists them; a flag comes first."),
    ("HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME", "A mirror of the model hub, 1 to ask none, and where weights lie."),
)


def manual() -> str:
    """The page in man's own macros, as ``man ./clipcls.1`` shows it."""
    top = get_command(app)
    lines = [
        f'.TH CLIPCLS 1 "" "clipcls {__version__}" "User Commands"',
        *(".SH NAME", "clipcls \\- sort images by labels nobody trained on"),
        *(".SH SYNOPSIS", ".B clipcls", "COMMAND [OPTIONS] [ARGUMENTS]"),
        *(".SH DESCRIPTION", *_paragraphs(top.help or "")),
        *(".SH OPTIONS", *_options(top, "clipcls")),
        *(".SH COMMANDS", *(line for name in COMMANDS for line in _command(f"clipcls {name}", full_command(name)))),
        *(".SH ENVIRONMENT", *(line for name, text in _ENVIRONMENT for line in (".TP", f".B {name}", _text(text)))),
        *(".SH EXIT STATUS", _text(" ".join(_EXIT_CODES.split()))),
    ]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    """One command and those below it."""
    yield f".SS {_text(name)}"
    yield from _paragraphs(command.help or "")
    yield from _options(command, name)
    for below in getattr(command, "commands", {}).values():
        yield from _command(f"{name} {below.name}", below)


def _options(command: Any, name: str) -> Iterator[str]:
    """Its own arguments and options."""
    context = command.make_context(name, [], resilient_parsing=True)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and not {"-h", "--help"} & set(parameter.opts):
            yield from (".TP", f".B {_text(record[0])}", _text(record[1] or "").strip())


def _paragraphs(text: str) -> Iterator[str]:
    for part in text.split("\n\n"):
        yield from (".PP", _text(" ".join(part.split())))


def _text(text: str) -> str:
    """Text in which nothing is a macro or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    sys.stdout.write(manual())
