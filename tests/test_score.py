"""``clipcls score``: CLIPScore of pairs, and the table of every image with every text."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import IMAGES, Terminal
from fakes import FakeDoor, picture
from PIL import Image

from clipcls.classifier import Classifier
from clipcls.clipscore import PAPERS_PREFIX, _lines, clipscore, matrix, read_pairs, score
from clipcls.clipscore import picture as drawing
from clipcls.errors import InputError, UsageError
from clipcls.sources import ImageSource

Install = Callable[..., FakeDoor]

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def table(here: Path, fake: Install) -> Path:
    """Three pictures and their captions, in a folder of their own."""
    fake()
    for name, colour in COLOURS.items():
        picture(here / "数据" / "图" / f"{name}.png", colour)
    rows = 'image,text\n图/red.png,一块红布\n图/green.png,a green thing\n图/blue.png,"a red thing, not blue"\n'
    (here / "数据" / "pairs.csv").write_text("\ufeff" + rows, "utf-8")
    return Path("数据/pairs.csv")


def test_clipscore_is_the_papers() -> None:
    assert clipscore(0.3) == pytest.approx(0.75) and clipscore(-0.2) == 0 and clipscore(1) == 2.5
    assert PAPERS_PREFIX == "A photo depicts "


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image,text\na.jpg,猫\n", "utf-8"),
        ("﻿Path;Caption\r\na.jpg;猫\r\n", "utf-8"),
        ("id\tcaption\tfile\n1\t猫\ta.jpg\n\n", "utf-8"),
        ("image,text\na.jpg,猫在这里\n", "gbk"),
        ("image,text\na.jpg,猫\n", "utf-16"),
    ],
)
def test_tables_as_people_write_them(here: Path, text: str, encoding: str) -> None:
    Path("t").mkdir()
    Path("t/pairs.csv").write_text(text, encoding)
    (image,), (caption,) = read_pairs(Path("t/pairs.csv"))
    assert image.id == "a.jpg" and image.base == str(here / "t") and caption[0] == "猫"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "line 1: its first line must name a column image and a column text"),
        ("", "its first line must name"),
        ("image,text\na.jpg\n", "line 2: a line without image or text"),
        ("image,text\na.jpg, \n", "line 2: a line without image or text"),
        ('image,text\na.jpg,"x\n', "not valid CSV"),
    ],
)
def test_tables_that_make_no_sense(here: Path, text: str, message: str) -> None:
    Path("pairs.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_pairs(Path("pairs.csv"))


def test_a_table_without_rows(here: Path) -> None:
    Path("pairs.csv").write_text("image,text\n")
    with pytest.raises(InputError, match="no pairs in it"):
        read_pairs(Path("pairs.csv"))


def test_each_pair_has_its_score_in_input_order(table: Path, clipcls: Terminal) -> None:
    rows = clipcls.rows("score", table)
    assert [row["image"] for row in rows] == ["图/red.png", "图/green.png", "图/blue.png"]
    assert rows[2]["text"] == "a red thing, not blue"
    for row in rows:
        assert float(row["clipscore"]) == pytest.approx(2.5 * max(float(row["cosine"]), 0), abs=2e-6)
    mean = np.mean([float(row["clipscore"]) for row in rows])
    assert f"mean CLIPScore {mean:.4f}" in clipcls.err and "of 3 pairs" in clipcls.err
    with Classifier.load("fake/one") as classifier:
        found = list(score(classifier, *read_pairs(table)))
        image, text = classifier.embed_images("数据/图/red.png"), classifier.embed_texts("一块红布")
    assert found[0].cosine == pytest.approx(float(image[0] @ text[0]), abs=1e-6)
    assert [f"{each.cosine:.6f}" for each in found] == [row["cosine"] for row in rows]


def test_many_pairs_go_block_by_block(here: Path, fake: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    fake()
    monkeypatch.setattr("clipcls.clipscore._BLOCK", 4)
    images = [next(iter(ImageSource([picture(here / f"{at}.png", (20 * at, 0, 0))]))) for at in range(11)]
    with Classifier.load("fake/one") as classifier:
        found = list(score(classifier, images, [f"text {at}" for at in range(11)]))
    assert [(Path(each.image).stem, each.text) for each in found] == [(str(at), f"text {at}") for at in range(11)]


def test_an_image_that_cannot_be_read_is_a_row_with_the_reason(table: Path, clipcls: Terminal) -> None:
    with table.open("a", encoding="utf-8") as file:
        file.write("图/gone.png,a red thing\n")
    rows = clipcls.rows("score", table, code=3)
    assert rows[3] == {
        "image": "图/gone.png",
        "text": "a red thing",
        "cosine": "",
        "clipscore": "",
        "error": "cannot be read: No such file or directory",
    }
    assert "of 3 pairs" in clipcls.err
    last = json.loads(clipcls("score", table, "-f", "jsonl", "-q", code=3).splitlines()[-1])
    assert last["cosine"] is None and last["error"] and clipcls.err == ""


def test_the_prefix_is_put_before_each_text(table: Path, clipcls: Terminal, fake: Install) -> None:
    door = fake()
    clipcls("score", table, "--prefix", PAPERS_PREFIX)
    assert door.encoder.texts[1] == "A photo depicts a green thing"


def test_texts_of_the_command_line(table: Path, clipcls: Terminal) -> None:
    (row,) = clipcls.rows("score", "数据/图/red.png", "--text", "a {} red thing")
    assert (row["image"], row["text"]) == ("数据/图/red.png", "a {} red thing")
    clipcls("score", "数据/图", "--text", "red", "--text", "blue", code=2)
    assert "3 images and 2 texts make no pairs" in clipcls.err
    rows = clipcls.rows("score", "数据/图", "--text", "red", "--text", "blue", "--matrix")
    assert len(rows) == 3 and list(rows[0]) == ["image", "red", "blue"]
    assert "fit their own text" not in clipcls.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.csv", "b.csv"), "name one table"),
        (("nowhere.csv",), "cannot read images and texts from nowhere.csv"),
        (("数据/pairs.csv", "-o", "a.svg"), "add --matrix"),
        (("数据/pairs.csv", "--matrix", "-o", "a.png"), "name it a.svg"),
        (("数据/pairs.csv", "--matrix", "-o", "there.svg"), "there.svg exists and stays as it is"),
        (("数据/图/red.png", "--text", "a\udce9"), "not valid UTF-8"),
    ],
)
def test_what_makes_no_sense_is_refused(table: Path, clipcls: Terminal, words: tuple[str, ...], message: str) -> None:
    Path("there.svg").touch()
    clipcls("score", *words, code=2)
    assert message in clipcls.err


def test_images_may_share_a_text(table: Path, clipcls: Terminal) -> None:
    Path("数据/same.csv").write_text("image,text\n图/red.png,a red thing\n图/green.png,a red thing\n", "utf-8")
    clipcls("score", "--matrix", "数据/same.csv")
    assert "2 of 2 images fit their own text best" in clipcls.err


def test_the_matrix_is_every_image_with_every_text(table: Path, clipcls: Terminal) -> None:
    rows = clipcls.rows("score", "--matrix", table)
    assert [row["image"] for row in rows] == ["图/red.png", "图/green.png", "图/blue.png"]
    assert list(rows[0])[1:] == ["一块红布", "a green thing", "a red thing, not blue"]
    cosines = np.array([[float(cosine) for cosine in list(row.values())[1:]] for row in rows])
    right = int((cosines.argmax(axis=1) == np.arange(3)).sum())
    assert f"{right} of 3 images fit their own text best" in clipcls.err
    pairs = clipcls.rows("score", table)
    assert [row["cosine"] for row in pairs] == [list(row.values())[at + 1] for at, row in enumerate(rows)]
    lines = [json.loads(line) for line in clipcls("score", "--matrix", table, "-f", "jsonl").splitlines()]
    assert lines[1]["cosines"][1] == {"text": "a green thing", "cosine": float(rows[1]["a green thing"])}


def test_the_matrix_on_a_terminal(table: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    shown = clipcls("score", "--matrix", table, "-q")
    assert shown.count("*") == 3 and "一块红布" in shown and "图/red.png" in shown


def test_an_image_that_cannot_be_read_has_no_row_in_the_matrix(table: Path, clipcls: Terminal) -> None:
    Path("数据/图/green.png").write_bytes(b"")
    rows = clipcls.rows("score", "--matrix", table, code=3)
    assert len(rows) == 2 and len(rows[0]) == 4
    assert "left out: 图/green.png: the file is empty" in clipcls.err and "2 of 2 images" in clipcls.err
    for name in COLOURS:
        Path(f"数据/图/{name}.png").write_bytes(b"")
    clipcls("score", "--matrix", table, code=3)
    assert "none of the images can be read" in clipcls.err


def test_the_picture_needs_nothing_else(table: Path, clipcls: Terminal) -> None:
    with table.open("a", encoding="utf-8") as file:
        file.write('图/red.png,"<b> & ""very"" long: ' + "words and 汉字" * 20 + '"\n')
    assert clipcls("score", "--matrix", table, "-o", "out/表.svg") == ""
    assert "wrote out/表.svg" in clipcls.err
    text = Path("out/表.svg").read_text("utf-8")
    root = ElementTree.fromstring(text)
    assert re.findall(r'href="(?!data:)', text) == [] and text.count("http") == 1  # the namespace
    images = root.findall(f"{SVG}image")
    assert [image.findtext(f"{SVG}title") for image in images] == [
        "图/red.png",
        "图/green.png",
        "图/blue.png",
        "图/red.png",
    ]
    for image, colour in zip(images, COLOURS.values(), strict=False):
        data = base64.b64decode(image.attrib["href"].removeprefix("data:image/jpeg;base64,"))
        with Image.open(io.BytesIO(data)) as small:
            assert small.size == (160, 160) and np.allclose(np.asarray(small)[80, 80], colour, atol=3)
    numbers = [each for each in root.findall(f"{SVG}text") if "number" in each.get("class", "")]
    assert len(numbers) == 16 and sum("best" in each.attrib["class"] for each in numbers) == 4
    assert len([each for each in root.findall(f"{SVG}rect") if each.get("class") == "own"]) == 4


def test_a_picture_of_images_that_are_gone_or_texts_without_pairs(here: Path, fake: Install) -> None:
    fake()
    image = next(iter(ImageSource([picture(here / "a.png")])))
    with Classifier.load("fake/one") as classifier:
        found = matrix(classifier, [image], ["red", "blue"])
    Path("a.png").unlink()
    text = drawing(found)
    assert 'href="data:,"' in text and 'class="own"' not in text and ElementTree.fromstring(text) is not None


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("一只橘猫的脸", ["一只橘猫的脸"]),
        ("一只猫在雪地里追着一只红色的球跑", ["一只猫在雪地里追着", "一只红色的球跑"]),
        ("a photo of a rocket on its pad", ["a photo of a", "rocket on its pad"]),
        ("supercalifragilisticexpialidocious", ["supercalifragilisticexpialidocious"]),
        ("  ", [""]),
    ],
)
def test_headings_are_cut_between_words(text: str, lines: list[str]) -> None:
    assert _lines(text) == lines


def test_long_headings_lose_their_end() -> None:
    lines = _lines("word " * 50)
    assert len(lines) == 4 and lines[-1].endswith("…")


def test_the_starter_pairs_photographs_with_their_captions(here: Path, clipcls: Terminal) -> None:
    texts = ("一只橘猫的脸", "一杯咖啡")
    words = [word for text in texts for word in ("--text", text)]
    clipcls("score", IMAGES / "chelsea.jpg", IMAGES / "coffee.jpg", *words, "--matrix")
    assert "2 of 2 images fit their own text best" in clipcls.err
