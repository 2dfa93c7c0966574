"""How a value becomes text: bad bytes, control characters, formula-like cells and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

# NUL counts as ill-formed because C readers (pandas among them) end a cell at it.
_ILL_FORMED = re.compile("[\x00\ud800-\udfff]")
# Besides what moves the cursor or starts an escape sequence: line separators and marks that reorder what is shown.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_TRIGGERS = "[=+\\-@\t\r＝＋－＠]"  # Excel takes the full-width ones for the plain ones
# Besides at a cell's start: where the system's list separator is no comma, Excel takes a cell apart, quoted or not.
_START = '(?<![^;"\t\r\n])'
_RUN_BY_EXCEL = re.compile(f"{_START}(?='*{_TRIGGERS})")
_QUOTED = re.compile('["\r\n]')
_TO_QUOTE = re.compile('[,"\r\n]')
_PROTECTED = re.compile(f"{_START}'(?='*{_TRIGGERS})")


def well_formed(text: str) -> str:
    r"""``text`` as any UTF-8 file can hold it: a byte that was not UTF-8 is written ``\xNN``, a lone surrogate
    ``\uNNNN``."""
    return _ILL_FORMED.sub(_escape, text)


def printable(text: str) -> str:
    r"""``text`` as a terminal or a one-line message can show it: control characters too are written ``\xNN``."""
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode hides the byte NN as U+DCNN
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def protect_cell(cell: str) -> str:
    """``cell`` with a ``'`` where Excel would run what follows as a formula; ``unprotect_cell`` takes it out again."""
    return _RUN_BY_EXCEL.sub("'", cell)


def unprotect_cell(cell: str) -> str:
    """The cell that ``protect_cell`` was given."""
    return _PROTECTED.sub("", cell)


def csv_row(cells: Iterable[str]) -> str:
    """One row of CSV with its line break; the cells are to be well-formed."""
    # Not csv.writer: before Python 3.13 it leaves a lone carriage return unquoted, and no reader gets it back.
    listed = list(cells)
    row = ",".join(listed)
    if row.count(",") >= len(listed) or _QUOTED.search(row):
        row = ",".join('"' + cell.replace('"', '""') + '"' if _TO_QUOTE.search(cell) else cell for cell in listed)
    return row + "\n"


def rounded(number: float) -> float:
    """``number`` to six decimals, never a negative zero."""
    return round(number, 6) + 0.0
