"""Pictures in the terminal: each protocol read back, and none where nobody could see them."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from fakes import picture
from PIL import Image

from clipcls.records import Failure, Prediction, Score
from clipcls.sinks.pictures import Pictures, drawn, terminal

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def photo() -> Image.Image:
    """Red at the left, blue at the right, too large for a terminal."""
    image = Image.new("RGB", (800, 400), RED)
    image.paste(BLUE, (400, 0, 800, 400))
    return image


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ("", None),
        ("TERM=dumb", None),
        ("TERM=xterm-256color", "coarse"),
        ("TERM=xterm-256color COLORTERM=truecolor", "blocks"),
        ("TERM=xterm-direct", "blocks"),
        ("WT_SESSION=1", "blocks"),
        ("TERM=xterm-kitty", "kitty"),
        ("TERM=xterm-256color KITTY_WINDOW_ID=1", "kitty"),
        ("TERM=xterm-ghostty TERM_PROGRAM=ghostty", "kitty"),
        ("TERM=xterm-256color TERM_PROGRAM=iTerm.app COLORTERM=truecolor", "iterm"),
        ("TERM=xterm-256color LC_TERMINAL=iTerm2", "iterm"),
        ("TERM=xterm-256color TERM_PROGRAM=WezTerm", "iterm"),
        ("TERM=foot COLORTERM=truecolor", "sixel"),
        ("TERM=mlterm", "sixel"),
        ("TERM=tmux-256color TERM_PROGRAM=tmux KITTY_WINDOW_ID=1 COLORTERM=truecolor TMUX=/tmp/t,1,0", "blocks"),
        ("TERM=screen KITTY_WINDOW_ID=1 STY=1", "coarse"),
        ("TERM=xterm-256color TERM_PROGRAM=Apple_Terminal", "coarse"),
    ],
)
def test_what_a_terminal_can_show(environ: str, kind: str | None) -> None:
    assert terminal(dict(pair.split("=", 1) for pair in environ.split())) == kind


def is_the_photo(image: Image.Image) -> bool:
    left, right = (image.convert("RGB").getpixel((x, image.height // 2)) for x in (2, image.width - 3))
    return (left, right) == (RED, BLUE)


def test_kitty(photo: Image.Image) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 320, 3), dtype=np.uint8))
    for image in (photo, noise):
        text = drawn(image, "kitty")
        assert text.endswith("\x1b\\\n")
        parts = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", text)
        assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) + "\n" == text
        assert parts[0][0].startswith("a=T,f=100,q=2,r=8,m=")
        assert [keys[-3:] for keys, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"] or len(parts) == 1
        assert all(len(data) <= 4096 for _, data in parts)
        shown = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in parts))))
        assert shown.size == (320, 160)
    assert len(parts) > 2 and np.array_equal(np.asarray(shown), np.asarray(noise))


def test_iterm(photo: Image.Image) -> None:
    match = re.fullmatch(
        "\x1b]1337;File=inline=1;size=(\\d+);height=8;preserveAspectRatio=1:(.*)\x1b\\\\\n", drawn(photo, "iterm")
    )
    assert match
    data = base64.b64decode(match[2])
    assert len(data) == int(match[1]) and is_the_photo(Image.open(io.BytesIO(data)))


def unsixel(text: str) -> Image.Image:
    """The picture in a sixel text."""
    match = re.fullmatch('\x1bPq"1;1;(\\d+);(\\d+)((?:#\\d+;2;\\d+;\\d+;\\d+)+)(.*)\x1b\\\\\n', text, re.DOTALL)
    assert match
    width, height = int(match[1]), int(match[2])
    colours = {int(at): rgb for at, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", match[3])}
    pixels = np.full((height + 6, width, 3), 99, np.uint8)
    for band, lines in enumerate(match[4].split("-")):
        for line in lines.split("$"):
            colour, runs = re.fullmatch(r"#(\d+)(.*)", line).groups()  # type: ignore[union-attr]
            column = 0
            for count, char in re.findall(r"(?:!(\d+))?([?-~])", runs):
                for _ in range(int(count or 1)):
                    for bit in range(6):
                        if (ord(char) - 63) >> bit & 1:
                            pixels[6 * band + bit, column] = [round(int(x) * 2.55) for x in colours[int(colour)]]
                    column += 1
            assert column == width
    return Image.fromarray(pixels[:height])


def test_sixel(photo: Image.Image) -> None:
    shown = unsixel(drawn(photo, "sixel"))
    assert shown.size == (320, 160) and is_the_photo(shown)
    odd = Image.fromarray(np.random.default_rng(0).integers(0, 256, (11, 7, 3), dtype=np.uint8))
    assert np.abs(np.asarray(unsixel(drawn(odd, "sixel")), int) - np.asarray(odd)).mean() < 4


@pytest.mark.parametrize("kind", ["blocks", "coarse"])
def test_half_blocks(photo: Image.Image, kind: str) -> None:
    text = drawn(photo, kind)  # type: ignore[arg-type]
    lines = re.sub("\x1b\\[[0-9;]*m", "", text).splitlines()
    assert lines == ["▀" * 32] * 8
    red = "38;2;255;0;0;48;2;255;0;0" if kind == "blocks" else "38;5;196;48;5;196"
    assert text.startswith(f"\x1b[{red}m▀") and all(line.endswith("\x1b[0m") for line in text.splitlines())
    narrow = re.sub("\x1b\\[[0-9;]*m", "", drawn(photo, kind, 10)).splitlines()  # type: ignore[arg-type]
    assert {len(line) for line in narrow} == {10} and len(narrow) in (2, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 150), (150, 1), (3, 5)])
def test_pictures_of_any_shape(size: tuple[int, int]) -> None:
    for kind in ("kitty", "iterm", "sixel", "blocks", "coarse"):
        text = drawn(Image.new("RGB", size, RED), kind)  # type: ignore[arg-type]
        assert text.endswith("\n") and "\a" not in text


def test_a_picture_that_cannot_be_shown_is_left_out(here: Path) -> None:
    Path("broken.png").write_text("no picture")
    assert Pictures("blocks").of("broken.png") == Pictures("blocks").of("gone.png") == ""
    picture(Path("红.png"))
    assert "▀" in Pictures("blocks").of("红.png")


def test_frames_of_videos(here: Path) -> None:
    pytest.importorskip("av")
    from test_video import film

    film("a.mp4", [BLUE, RED])
    pictures = Pictures("coarse")
    assert "196m" in pictures.of("a.mp4#t=1.00")
    assert "196m" not in pictures.of("a.mp4") == pictures.of("a.mp4#t=0.00")
    assert pictures.of("gone.mp4#t=0.00") == ""


def test_a_picture_stands_above_its_row() -> None:
    from rich.console import Console

    from clipcls.sinks.rows import Layout
    from clipcls.sinks.table import TableSink

    stream = io.StringIO()
    sink = TableSink(Console(file=stream, width=100), Layout(("red",)))
    sink.picture = lambda path: f"<{path}>\n"
    sink.write(Prediction("a.png", (Score("red", 0.9, 0.3),)))
    sink.write(Failure("b.png", "broken"))
    heading, shown, first, second = stream.getvalue().splitlines()
    assert heading.startswith("path") and shown == "<a.png>"
    assert first.startswith("a.png") and second.startswith("b.png")


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / "cli_with_fake.py"), "0", "classify", *words, "-l", "red,blue"]


def on_a_terminal(words: list[str], *, bar: bool = False, **environ: str) -> str:
    """What a command prints on a terminal, where its stderr goes as well if there is to be a progress bar."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("TMUX", "STY", "COLORTERM")}
    process = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs if bar else subprocess.DEVNULL, env=clean | environ
    )
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            said += chunk
    except OSError:  # so Linux tells that the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return said.decode()


@pytest.mark.parametrize("bar", [False, True])
def test_on_a_terminal_and_piped(here: Path, bar: bool) -> None:
    picture(here / "imgs" / "a.png", RED)
    picture(here / "imgs" / "b.png", BLUE)
    words = command("imgs", "--show", *(() if bar else ("--quiet",)))
    deep = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "100"}
    said = on_a_terminal(words, bar=bar, **deep)
    assert "38;2;255;0;0;48;2;255;0;0m▀" in said and "38;2;0;0;255;48;2;0;0;255m▀" in said
    plain = on_a_terminal([word for word in words if word != "--show"], **deep)
    assert "▀" not in plain
    kitty = on_a_terminal(words, bar=bar, TERM="xterm-kitty", COLUMNS="100")
    [first, _] = re.findall("\x1b_Ga=T,f=100,q=2,r=1,m=0;([^\x1b]*)\x1b\\\\", kitty)
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (12, 8)
    piped = subprocess.run(words, capture_output=True, env=os.environ | deep, timeout=300, check=True).stdout.decode()
    assert piped.startswith("path,status") and "\x1b" not in piped and "▀" not in piped
    table = subprocess.run([*words, "-f", "table"], capture_output=True, env=os.environ | deep, timeout=300, check=True)
    assert b"\x1b" not in table.stdout and "▀".encode() not in table.stdout
