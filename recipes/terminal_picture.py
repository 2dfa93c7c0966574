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
    terminal, stdout = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "clipcls"), *COMMAND.split()[1:]],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"},
    )
    os.close(stdout)
    table = b""
    while chunk := _read(terminal):
        table += chunk
    assert process.stderr is not None
    notice, *rest = process.stderr.read().decode().splitlines()

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {COMMAND}", "bold"))
    console.print(Text(notice, "dim"))
    console.print(Text.from_ansi(table.decode().replace("\r\n", "\n").rstrip("\n")))
    for line in rest:
        console.print(Text(line, "dim"))
    (ROOT / "docs" / "terminal.svg").write_text(_widened(console.export_svg(title="clipcls")), encoding="utf-8")


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
