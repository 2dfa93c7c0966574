"""How well texts fit images: CLIPScore, and the table of every image with every text.

CLIPScore is 2.5 times the cosine, and 0 where that is negative: Hessel et al. 2021, "CLIPScore: A Reference-free
Evaluation Metric for Image Captioning", section 3. There the model is OpenAI's ViT-B/32, and every text begins with
"A photo depicts"; figures of other models, or without that prefix, cannot be compared with the paper's.
The table is the picture of the method in Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", figure 1: on its diagonal are the images with their own texts.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import numpy as np

from clipcls import zeroshot
from clipcls.errors import DecodeError, InputError
from clipcls.pipeline import Embedded
from clipcls.records import Failure, ImageRef
from clipcls.search import check_text
from clipcls.sources import file_ref
from clipcls.textfile import FileFault, delimiter_of, read_text

if TYPE_CHECKING:
    from clipcls.classifier import Classifier

WEIGHT = 2.5
PAPERS_PREFIX = "A photo depicts "

_IMAGE_COLUMNS, _TEXT_COLUMNS = ("image", "path", "file"), ("text", "caption")
_LARGEST_TABLE = 1 << 30
_BLOCK = 256
"""Texts that are embedded at once."""

Watch = Callable[[Iterable[Embedded | Failure]], Iterable[Embedded | Failure]]


@dataclass(frozen=True, slots=True)
class PairScore:
    """How well a text fits an image."""

    image: str
    text: str
    cosine: float | None
    """None where the image could not be read."""
    clipscore: float | None
    """0 to 2.5."""
    error: str | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every image with every text."""

    images: tuple[ImageRef, ...]
    """Those that could be read."""
    texts: tuple[str, ...]
    cosines: zeroshot.Float64
    """float64 [images, texts]."""
    own: tuple[int | None, ...]
    """The text of each image's pair, by its place in ``texts``; None where images and texts are no pairs."""
    failures: tuple[Failure, ...] = ()

    @property
    def best(self) -> list[int]:
        """The text that fits each image best, by its place in ``texts``."""
        return [int(column) for column in zeroshot.best(self.cosines)]

    @property
    def right(self) -> int:
        """How many images fit their own text best; several may have the same one."""
        pairs = zip(self.own, self.best, strict=True)
        return sum(own is not None and self.texts[own] == self.texts[best] for own, best in pairs)


def read_pairs(table: Path) -> tuple[list[ImageRef], list[str]]:
    """The images of a CSV, with commas, semicolons or tabs, and their texts; paths start at the folder that it lies in.

    Its first line names a column ``image`` (or ``path``, ``file``) and a column ``text`` (or ``caption``).

    Raises:
        UsageError: it cannot be read or understood.
        InputError: there are no pairs in it.
    """
    text = read_text(table, "images and texts", largest=_LARGEST_TABLE)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter_of(text))
    base = os.path.abspath(table.parent)
    images: list[ImageRef] = []
    texts: list[str] = []
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        image, caption = (
            next((header.index(name) for name in names if name in header), None)
            for names in (_IMAGE_COLUMNS, _TEXT_COLUMNS)
        )
        if image is None or caption is None:
            raise FileFault(table, "its first line must name a column image and a column text", 1)
        for row in reader:
            if not any(row):
                continue
            if len(row) <= max(image, caption) or not row[image] or not row[caption].strip():
                raise FileFault(table, "a line without image or text", reader.line_num)
            images.append(file_ref(row[image], base))
            texts.append(row[caption])
    except csv.Error as exc:
        raise FileFault(table, f"not valid CSV: {exc}", max(reader.line_num, 1)) from exc
    if not images:
        raise InputError(f"{table}: no pairs in it; write one a line under the header")
    return images, texts


def clipscore(cosine: float) -> float:
    """The CLIPScore of a cosine: 0 to 2.5."""
    return WEIGHT * max(cosine, 0.0)


def score(
    classifier: Classifier,
    images: Sequence[ImageRef],
    texts: Sequence[str],
    prefix: str = "",
    watch: Watch = lambda images: images,
) -> Iterator[PairScore]:
    """The CLIPScore of each image with the text at its place, in order.

    Args:
        classifier: the model.
        images: n images.
        texts: n texts.
        prefix: put before each text as it is; the paper's is ``PAPERS_PREFIX``.
        watch: sees each image as it comes, and hands it on.

    Raises:
        UsageError: a text is not valid.
        ModelError, DeviceError: see ``Classifier.embedded``.
    """
    seen = iter(watch(classifier.embedded(images)))
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        vectors = classifier.embed_texts([_prefixed(prefix, text) for text in block])
        for text, vector, image in zip(block, vectors, seen, strict=False):  # the images go on after the block
            if isinstance(image, Failure):
                yield PairScore(image.path, text, None, None, image.error)
            else:
                cosine = float(zeroshot.cosines(image.vector[np.newaxis], vector[np.newaxis])[0, 0])
                yield PairScore(image.path, text, cosine, clipscore(cosine), None)


def matrix(
    classifier: Classifier,
    images: Sequence[ImageRef],
    texts: Sequence[str],
    prefix: str = "",
    watch: Watch = lambda images: images,
) -> Matrix:
    """Every image with every text; where there are as many, each image's own text is the one at its place.

    Raises:
        InputError: none of the images can be read.
        UsageError: a text is not valid.
        ModelError, DeviceError: see ``Classifier.embedded``.
    """
    weights = classifier.embed_texts([_prefixed(prefix, text) for text in texts])
    seen = list(watch(classifier.embedded(images)))
    rows = [at for at, image in enumerate(seen) if isinstance(image, Embedded)]
    failures = tuple(image for image in seen if isinstance(image, Failure))
    if not rows:
        raise InputError(f"none of the images can be read; {failures[0].path}: {failures[0].error}")
    vectors = np.stack([image.vector for image in seen if isinstance(image, Embedded)])
    own = tuple(at if len(images) == len(texts) else None for at in rows)
    cosines = zeroshot.cosines(vectors, weights)
    return Matrix(tuple(images[at] for at in rows), tuple(texts), cosines, own, failures)


def _prefixed(prefix: str, text: str) -> str:
    check_text(text)
    return prefix + text


_CELL_WIDTH, _CELL_HEIGHT, _SIDE, _MARGIN = 128, 88, 80, 12
_LINE_UNITS, _LINES, _LINE_HEIGHT = 18, 4, 17
"""Of a heading: narrow characters in a line, lines at most, pixels from one to the next."""
_STYLE = (
    "text{font:13px sans-serif;fill:#222;text-anchor:middle}"
    ".number{font-size:16px}.best{font-weight:bold}.light{fill:#fff}.own{fill:none;stroke:#e8590c;stroke-width:3}"
)
_LIGHT, _DARK = (241, 244, 250), (30, 66, 130)


def picture(matrix: Matrix) -> str:
    """The table as an SVG that needs no other file: images at the left, texts on top, their own cells outlined.

    The images are squares cut from the middle, which is what the model sees of them.
    """
    headings = [_lines(text) for text in matrix.texts]
    top = _MARGIN + max(map(len, headings)) * _LINE_HEIGHT + 8
    left = _MARGIN + _SIDE + 12
    width = left + len(headings) * _CELL_WIDTH + _MARGIN
    height = top + len(matrix.images) * _CELL_HEIGHT + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>Cosines of images and texts</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, lines in enumerate(headings):
        x = left + (column + 0.5) * _CELL_WIDTH
        for line, words in enumerate(lines):
            y = top - 10 - (len(lines) - 1 - line) * _LINE_HEIGHT
            parts.append(f'<text x="{x:g}" y="{y}">{_escaped(words)}</text>')
    for row, image in enumerate(matrix.images):
        y = top + row * _CELL_HEIGHT
        parts.append(
            f'<image x="{_MARGIN}" y="{y + (_CELL_HEIGHT - _SIDE) // 2}" width="{_SIDE}" height="{_SIDE}" '
            f'href="{_thumbnail(image)}"><title>{_escaped(image.id)}</title></image>'
        )
        parts += _cells(matrix, row, left, y)
    return "\n".join([*parts, "</svg>\n"])


def _cells(matrix: Matrix, row: int, left: int, y: int) -> Iterator[str]:
    low, high = float(matrix.cosines.min()), float(matrix.cosines.max())
    best = matrix.best[row]
    for column, cosine in enumerate(matrix.cosines[row].tolist()):
        shade = (cosine - low) / ((high - low) or 1.0)
        colour = ",".join(str(round(a + shade * (b - a))) for a, b in zip(_LIGHT, _DARK, strict=True))
        x, kind = left + column * _CELL_WIDTH, "number" + " best" * (column == best) + " light" * (shade > 0.5)
        size = f'width="{_CELL_WIDTH - 4}" height="{_CELL_HEIGHT - 4}"'
        yield f'<rect x="{x + 2}" y="{y + 2}" {size} fill="rgb({colour})"/>'
        if column == matrix.own[row]:
            yield f'<rect class="own" x="{x + 2}" y="{y + 2}" {size}/>'
        number = f"{round(cosine, 3) + 0.0:.3f}"
        yield f'<text class="{kind}" x="{x + _CELL_WIDTH / 2:g}" y="{y + _CELL_HEIGHT / 2 + 6:g}">{number}</text>'


def _thumbnail(image: ImageRef) -> str:
    """A small JPEG as a data URI, twice as fine as it is shown; of a file that has gone since, an empty one."""
    from PIL import ImageOps

    from clipcls.decode import decode

    small = io.BytesIO()
    try:
        with image.open() as file:
            whole = decode(file, min_side=2 * _SIDE, name=image.id)
    except (OSError, DecodeError):
        return "data:,"
    ImageOps.fit(whole, (2 * _SIDE, 2 * _SIDE)).save(small, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(small.getvalue()).decode()}"


def _lines(text: str) -> list[str]:
    """A heading in lines that fit over a cell: cut between words and wide characters, and off after the last line."""
    lines, used = [""], 0
    for piece in re.findall(r"[\u1100-\uffff]|[^\s\u1100-\uffff]+|\s+", text.strip()):
        units = sum(2 if east_asian_width(char) in "WF" else 1 for char in piece)
        if used + units > _LINE_UNITS and lines[-1].strip():
            lines, used = [*lines, ""], 0
        if used or not piece.isspace():
            lines[-1], used = lines[-1] + piece, used + units
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], lines[_LINES - 1].rstrip() + "…"]
    return [line.rstrip() for line in lines]


def _escaped(text: str) -> str:
    from clipcls.sinks.cells import printable

    return escape(printable(text))
