"""Small pictures for a terminal: as its own graphics where the environment tells that it has any, else as half blocks.

Terminals can also be asked what they can do, but one that does not answer would have the run hang.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from clipcls.decode import decode
from clipcls.errors import DecodeError
from clipcls.sources import file_ref
from clipcls.video import Sampling, Videos, is_video, moment_of

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["kitty", "iterm", "sixel", "blocks", "coarse"]
"""A graphics protocol; or half blocks, in 24-bit colours or in the 256 that nearly every terminal has."""

_COLUMNS, _ROWS = 32, 8
"""Terminal cells that a picture takes at most."""
_CELL = 10, 20
"""Width and height of a cell in pixels, about; exact only where the terminal scales by itself."""
_CHUNK = 4096
"""Characters that kitty takes at once."""
_STEPS = np.array([0, 95, 135, 175, 215, 255])
"""The levels of the 6 x 6 x 6 colours from 16 on of a terminal's 256."""


def terminal(environ: Mapping[str, str]) -> Kind | None:
    """What a terminal can show, by its environment; None where not even colours."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    windows = "WT_SESSION" in environ
    if term in ("", "dumb") and not windows:
        return None
    if not ("TMUX" in environ or "STY" in environ or term.startswith(("tmux", "screen"))):
        if "KITTY_WINDOW_ID" in environ or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm", "mintty") or environ.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
        if term.startswith(("foot", "mlterm", "contour", "yaft")) or "sixel" in term:
            return "sixel"
    deep = environ.get("COLORTERM") in ("truecolor", "24bit") or term.endswith("-direct")
    return "blocks" if deep or windows else "coarse"


class Pictures:
    """Images as text that a terminal shows as a picture."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._columns = min(_COLUMNS, shutil.get_terminal_size().columns)
        self._base = os.getcwd()
        self._videos = Videos(Sampling())

    def of(self, path: str) -> str:
        """One image, or a video's first, with the line break that ends it; empty where it cannot be shown."""
        if is_video(path):
            path += "#t=0.00"
        ref = self._videos.again(path, self._base) if moment_of(path) else file_ref(path, self._base)
        try:
            with ref.open() as file:
                image = decode(file, min_side=_ROWS * _CELL[1], name=path)
        except (OSError, DecodeError):
            return ""
        return drawn(image, self._kind, self._columns)


def drawn(image: Image, kind: Kind, columns: int = _COLUMNS) -> str:
    """A picture in mode RGB as text, at most so many columns wide."""
    if kind in ("blocks", "coarse"):
        return _blocks(image, columns, deep=kind == "blocks")
    small = image.copy()
    small.thumbnail((columns * _CELL[0], _ROWS * _CELL[1]))
    if kind == "sixel":
        return _sixel(small) + "\n"
    rows = math.ceil(small.height / _CELL[1])
    png = io.BytesIO()
    small.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    if kind == "kitty":
        return _kitty(data, rows) + "\n"
    # Ended by ESC \ and not by a bell, which rich would leave out.
    size = len(png.getvalue())
    return f"\x1b]1337;File=inline=1;size={size};height={rows};preserveAspectRatio=1:{data}\x1b\\\n"


def _kitty(data: str, rows: int) -> str:
    """A PNG by kitty's protocol, which must not answer (q=2): it would answer to the person's shell."""
    chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    keys = itertools.chain([f"a=T,f=100,q=2,r={rows},"], itertools.repeat(""))
    return "".join(
        f"\x1b_G{key}m={int(chunk is not chunks[-1])};{chunk}\x1b\\" for key, chunk in zip(keys, chunks, strict=False)
    )


def _sixel(image: Image) -> str:
    """A picture in 256 colours of its own: bands six pixels high, in each of them a line a colour."""
    flat = image.quantize(256)
    palette = np.array(flat.getpalette(), int).reshape(-1, 3)
    colours = [f"#{at};2;{r};{g};{b}" for at, (r, g, b) in enumerate((palette * 100 + 127) // 255)]
    pixels = np.asarray(flat)
    bands = ["$".join(_lines(pixels[top : top + 6])) for top in range(0, len(pixels), 6)]
    return f'\x1bPq"1;1;{flat.width};{flat.height}{"".join(colours)}{"-".join(bands)}\x1b\\'


def _lines(band: np.ndarray) -> Iterator[str]:
    """One line a colour: in each character, six pixels from the top down as bits."""
    weights = 1 << np.arange(len(band))
    for colour in np.unique(band):
        bits = ((band == colour) * weights[:, None]).sum(axis=0)
        runs = ((chr(63 + value), len([*same])) for value, same in itertools.groupby(bits.tolist()))
        yield f"#{colour}" + "".join(f"!{count}{char}" if count > 3 else char * count for char, count in runs)


def _blocks(image: Image, columns: int, *, deep: bool) -> str:
    """A picture of upper half blocks: each has one pixel's colour, and the one's below it behind."""
    scale = min(1.0, columns / image.width, 2 * _ROWS / image.height)
    rows = max(1, round(image.height * scale / 2))
    pixels = np.asarray(image.resize((max(1, round(image.width * scale)), 2 * rows)))
    lines = []
    for top in range(0, 2 * rows, 2):
        cells = [_colours(upper, lower, deep=deep) for upper, lower in zip(*pixels[top : top + 2], strict=True)]
        runs = ((codes, len([*same])) for codes, same in itertools.groupby(cells))
        lines.append("".join(f"\x1b[{codes}m" + "▀" * count for codes, count in runs) + "\x1b[0m\n")
    return "".join(lines)


def _colours(upper: np.ndarray, lower: np.ndarray, *, deep: bool) -> str:
    if deep:
        return "38;2;{};{};{};48;2;{};{};{}".format(*upper, *lower)
    levels = [[int(np.abs(_STEPS - int(channel)).argmin()) for channel in pixel] for pixel in (upper, lower)]
    fore, back = (16 + 36 * red + 6 * green + blue for red, green, blue in levels)
    return f"38;5;{fore};48;5;{back}"
