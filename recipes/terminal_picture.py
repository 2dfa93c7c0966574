"""Draw docs/terminal.svg: what a terminal really shows for the README's first command.

    python recipes/terminal_picture.py

Runs the command with its stdout on a pseudo-terminal of 96 columns, so that the table is the one a person sees.
"""

from __future__ import annotations

import html
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
COMMAND = "clipcls classify tests/images --labels 猫,咖啡,火箭"
COLUMNS = 96


def main() -> None:
    table, (notice, *rest) = on_a_terminal(COMMAND.split()[1:], ROOT, COLUMNS)

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {COMMAND}", "bold"))
    console.print(Text(notice, "dim"))
    console.print(Text.from_ansi(table.rstrip("\n")))
    for line in rest:
        console.print(Text(line, "dim"))
    (ROOT / "docs" / "terminal.svg").write_text(_widened(console.export_svg(title="clipcls")), encoding="utf-8")


def on_a_terminal(words: list[str], folder: Path, columns: int, **environment: str) -> tuple[str, list[str]]:
    """What clipcls shows on a terminal of so many columns, and the lines of what it says on stderr."""
    terminal, stdout = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "clipcls"), *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"} | environment,
    )
    os.close(stdout)
    shown = b""
    while chunk := _read(terminal):
        shown += chunk
    assert process.stderr is not None
    said = process.stderr.read().decode()
    if process.wait() == 2:
        raise SystemExit(said)
    return shown.decode().replace("\r\n", "\n"), said.splitlines()


def _widened(svg: str) -> str:
    """Rich gives every character one cell; Chinese ones take two."""

    def widen(match: re.Match[str]) -> str:
        text = html.unescape(match["text"])
        return f'textLength="{float(match["length"]) * cell_len(text) / len(text):g}"{match["rest"]}>{match["text"]}<'

    return re.sub(r'textLength="(?P<length>[\d.]+)"(?P<rest>[^>]*)>(?P<text>[^<]+)<', widen, svg)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


if __name__ == "__main__":
    main()
