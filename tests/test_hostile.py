"""Folders full of damaged and malicious pictures: every file is a row, none is a traceback, and memory stays small."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGES
from fakes import picture
from PIL import Image
from PIL.ExifTags import Base

from clipcls.decode import FORMATS
from clipcls.sources import SUFFIXES

FAKE = [sys.executable, str(Path(__file__).parent / "cli_with_fake.py"), "0"]
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")
MEMORY = 1_500_000_000
"""Bytes of memory that a run may take."""


def well_made() -> dict[str, bytes]:
    """Every format that Pillow writes, in every mode that it takes, and the photographs of the tests."""
    dice = np.random.default_rng(0)
    whole = Image.fromarray(dice.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    found = {path.name: path.read_bytes() for path in IMAGES.rglob("*.*") if path.suffix in (".jpg", ".png", ".gif")}
    for kind in FORMATS:
        for mode in MODES:
            file = io.BytesIO()
            try:
                made = whole.convert("I").convert(mode) if mode in ("I;16", "F") else whole.convert(mode)
                made.save(file, kind)
            except (OSError, ValueError, KeyError, AttributeError):  # it cannot write that
                continue
            found[f"{kind}-{mode}.{kind.lower()}".replace(";", "")] = file.getvalue()
    return found


def mutated(seed: int, sources: list[bytes]) -> bytes:
    """A file with bits flipped, a stretch cut out, doubled or overwritten, or its end missing."""
    dice = np.random.default_rng(seed)
    data = np.frombuffer(sources[dice.integers(len(sources))], np.uint8).copy()
    if not len(data):
        return b""
    match dice.integers(5):
        case 0:
            places = dice.integers(0, min(len(data), 4096), dice.integers(1, 40))
            data[places] ^= (1 << dice.integers(0, 8, len(places))).astype(np.uint8)
        case 1:
            data = data[: len(data) * int(dice.integers(1, 10)) // 10]
        case 2:
            start = dice.integers(len(data))
            data = np.delete(data, slice(start, start + dice.integers(1, 300)))
        case 3:
            start = dice.integers(len(data))
            data = np.concatenate([data[:start], data[max(0, start - 200) :]])
        case _:
            start = dice.integers(min(len(data), 512))
            data[start : start + 8] = dice.choice([0, 255, 127])
    return data.tobytes()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def malicious() -> dict[str, bytes]:
    """Small files that promise or unpack to more than any machine has, or never end."""

    def png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
        head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
        body = b"".join(more) + png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + body

    endless = io.BytesIO()
    frames = [Image.new("P", (8, 8), at % 256) for at in range(400)]
    frames[0].save(endless, "GIF", save_all=True, append_images=frames[1:], loop=0)
    exif = io.BytesIO()
    Image.new("RGB", (20, 10)).save(exif, "JPEG", exif=b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\xff" * 60_000)
    return {
        "bomb.png": png(30_000, 30_000, b"\0" * 1_000_000),
        "absurd.png": png(2**31 - 1, 2**31 - 1, b"\0"),
        "thread.png": png(1, 100_000, b"\0" * 400_000),
        "nothing.png": png(0, 0, b""),
        "text.png": png(1, 1, b"\0" * 4, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b" " * 200_000_000))),
        "profile.png": png(1, 1, b"\0" * 4, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(b" " * 200_000_000))),
        "endless.gif": endless.getvalue() * 3,
        "exif.jpg": exif.getvalue(),
        "huge.bmp": b"BM" + b"\xff" * 100,
        "huge.tif": b"II*\0\x08\0\0\0\xff\xff" + b"\xfe\0\x04\0\xff\xff\xff\xff\x08\0\0\0" * 100,
        "loop.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "page.jpg": b"<!DOCTYPE html><title>404</title>",
        "script.jpg": b"#!/bin/sh\ntouch was-run\n",
        "post.jpg": b"%!PS\n(was-run) (w) file closefile\n",
        "bytes.jpg": bytes(range(256)) * 40,
    }


def peak(pid: int) -> int:
    """Bytes of memory that a process has had at most; not ``ru_maxrss``, which counts its parent's too."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024
    return 0


def classified(folder: str, here: Path) -> tuple[list[dict[str, str]], str]:
    """The rows of a folder, within the memory that a run may take."""
    words = ["classify", folder, "--labels", "red,green,blue", "-o", "out.jsonl", "--overwrite", "--workers", "2"]
    with (here / "said.txt").open("w") as said:
        run = subprocess.Popen([*FAKE, *words], cwd=here, stderr=said)
        most = 0
        while run.poll() is None:
            most = max(most, peak(run.pid))
            time.sleep(0.02)
    told = (here / "said.txt").read_text("utf-8")
    assert run.returncode in (0, 3), told
    assert "Traceback" not in told
    assert 0 < most < MEMORY
    return [json.loads(line) for line in (here / "out.jsonl").read_text("utf-8").splitlines()], told


def check_mutated(here: Path, count: int) -> None:
    sources = list(well_made().values())
    for at in range(count):
        (here / "damaged" / f"{at % 100:02}").mkdir(parents=True, exist_ok=True)
        suffix = (".jpg", ".png", ".tif", ".webp", ".gif")[at % 5]  # which need not tell the truth
        (here / "damaged" / f"{at % 100:02}" / f"{at}{suffix}").write_bytes(mutated(at, sources))
    rows, said = classified("damaged", here)
    assert len(rows) == count == len({row["path"] for row in rows})
    assert all(row["error"] if row["status"] == "error" else row["label"] for row in rows)
    assert all("\n" not in (row["error"] or "") and len(row["error"] or "") < 200 for row in rows)
    failed = sum(row["status"] == "error" for row in rows)
    assert f"{failed} failed" in said and 0.2 < failed / count < 0.95
    again, _ = classified("damaged", here)  # reasons are remembered
    assert again == rows


def test_mutated_pictures(here: Path) -> None:
    check_mutated(here, 400)


@pytest.mark.slow
def test_ten_thousand_mutated_pictures(here: Path) -> None:
    check_mutated(here, 10_000)


def test_every_format_and_mode_is_a_row(here: Path) -> None:
    made = well_made()
    assert len(made) > 70
    (here / "whole").mkdir()
    for name, data in made.items():
        (here / "whole" / name).write_bytes(data)
    rows, _ = classified("whole", here)
    assert len(rows) == sum(Path(name).suffix.lower() in SUFFIXES for name in made) > 60
    broken = {Path(row["path"]).name for row in rows if row["status"] == "error"}
    assert broken == {"truncated.jpg", "empty.jpg"}


def test_bombs_and_lies(here: Path) -> None:
    (here / "evil").mkdir()
    for name, data in malicious().items():
        (here / "evil" / name).write_bytes(data)
    rows, _ = classified("evil", here)
    assert len(rows) == len(malicious())
    fine = {Path(row["path"]).name for row in rows if row["status"] != "error"}
    assert fine <= {"endless.gif", "exif.jpg", "text.png", "profile.png"}
    assert not list(here.rglob("was-run"))


def largest(kind: str) -> tuple[Image.Image, dict[str, Any]]:
    """A picture about as large as may be, and options that make decoding it take much memory."""
    turned = Image.Exif()
    turned[Base.Orientation] = 6
    match kind:
        case "png":
            return Image.new("RGBA", (9_999, 9_999), (255, 0, 0, 128)), {"compress_level": 1, "exif": turned}
        case "tif":
            return Image.new("F", (9_999, 9_999), 7.0), {}
        case "jpg":
            return Image.new("CMYK", (12_000, 12_000)), {"progressive": True, "exif": turned}
        case "webp":
            return Image.new("RGBA", (7_000, 7_000), (255, 0, 0, 128)), {"method": 0, "exif": turned}
        case "jp2":
            return Image.new("RGBA", (7_000, 7_000), (255, 0, 0, 128)), {}
        case _:
            return Image.new("RGBA", (9_999, 9_999), (255, 0, 0, 128)), {"speed": 10}


def check_largest(here: Path, kinds: Iterable[str]) -> None:
    (here / "large").mkdir()
    for kind in kinds:
        image, options = largest(kind)
        image.save(here / "large" / f"0.{kind}", **options)
        with (here / "large" / f"0.{kind}").open("rb") as file:
            (here / "large" / f"1.{kind}").write_bytes(file.read() + b"and another")
    rows, _ = classified("large", here)
    assert [row["error"] for row in rows if row["error"]] == []


def test_the_largest_pictures(here: Path) -> None:
    check_largest(here, ["png", "tif"])


@pytest.mark.slow
def test_the_largest_pictures_of_every_format(here: Path) -> None:
    check_largest(here, ["png", "tif", "jpg", "webp", "jp2", "avif"])


def odd_entries(folder: Path) -> Iterator[str]:
    """What is no file, or none that can be read."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    yield from ("pipe.jpg", "gone.jpg", "device.jpg", "circle.jpg")
    if os.geteuid():
        picture(folder / "secret.jpg").chmod(0)
        yield "secret.jpg"


def test_what_is_no_file_is_a_row_too(here: Path) -> None:
    (here / "odd").mkdir()
    names = sorted(odd_entries(here / "odd"))
    rows, _ = classified("odd", here)
    assert sorted(Path(row["path"]).name for row in rows if row["status"] == "error") == names


NAMES = (
    *("a\nb.png", 'quo"te,.png', "=cmd|' /C calc'!A0.png", "\u202egnp.exe.png", "\ufeffa.png", "猫" * 80 + ".png"),
    *("tab\t.png", "cr\r.png", " .png", "-o.png"),
)


@pytest.mark.parametrize("name", NAMES)
def test_names_read_back_equal(here: Path, name: str) -> None:
    import pandas

    picture(here / "名" / name)
    words = ["classify", "名", "--labels", "red,=1+1", "-o", "out.csv", "--overwrite"]
    subprocess.run([*FAKE, *words], cwd=here, check=True, capture_output=True, timeout=300)
    with (here / "out.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == f"名/{name}"
    assert pandas.read_csv(here / "out.csv")["path"][0] == f"名/{name}"
