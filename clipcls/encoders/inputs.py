"""What the towers are given, made without torch: the numbers that open_clip and transformers would make."""

from __future__ import annotations

import html
import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from clipcls.encoders.traced import Cleaning, PictureFacts, TextFacts
from clipcls.labels import script

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]

_PLAIN = re.compile("[A-Za-z0-9 .,!?'()\u4e00-\u9fff。、-]*")
"""Text in which ftfy finds nothing to mend; importing it takes longer than all the rest that a prompt needs."""


class Pictures:
    """open_clip's transform, which transformers' image processors for CLIP share: resize, cut out or pad, normalise.

    Raises:
        LookupError, TypeError, ValueError: the facts are damaged.
    """

    def __init__(self, facts: PictureFacts) -> None:
        self._height, self._width = facts.size
        self._facts = facts
        self._resized = {"shortest": self._shortest, "longest": self._longest, "squash": self._squashed}[facts.resize]
        self._interpolation = {"bicubic": "BICUBIC", "bilinear": "BILINEAR"}[facts.interpolation]
        self.size = max(facts.edge, *facts.size)
        self._mean, self._std = (np.asarray(values, np.float32).reshape(3, 1, 1) for values in (facts.mean, facts.std))

    def cut(self, image: Image.Image) -> Pixels:
        """An RGB picture as the image tower is to see it: uint8 [height, width, 3]."""
        from PIL.Image import Resampling, new

        image = image.resize(self._resized(*image.size), Resampling[self._interpolation])
        if image.width < self._width or image.height < self._height:
            size = (max(image.width, self._width), max(image.height, self._height))
            ground = new("RGB", size, (self._facts.fill,) * 3)
            ground.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
            image = ground
        left, top = round((image.width - self._width) / 2), round((image.height - self._height) / 2)
        return np.asarray(image.crop((left, top, left + self._width, top + self._height)))

    def _shortest(self, width: int, height: int) -> tuple[int, int]:
        short, edge = min(width, height), self._facts.edge
        return int(edge * width / short), int(edge * height / short)

    def _longest(self, width: int, height: int) -> tuple[int, int]:
        ratio = max(height / self._height, width / self._width)
        return round(width / ratio), round(height / ratio)

    def _squashed(self, width: int, height: int) -> tuple[int, int]:
        return self._width, self._height

    def stack(self, pictures: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """The image tower's input: float32 [n, 3, height, width]."""
        stacked = np.empty((len(pictures), 3, self._height, self._width), np.float32)
        for picture, planes in zip(pictures, stacked, strict=True):
            planes[:] = np.ascontiguousarray(picture.transpose(2, 0, 1))
            planes /= np.float32(255)
            planes -= self._mean
            planes /= self._std
        return stacked


class Prompts:
    """A traced model's cleaning and tokens.

    Raises:
        Exception: the files are damaged.
    """

    def __init__(self, facts: TextFacts, tokenizer: Path) -> None:
        self._facts = facts
        self._clean = _CLEANINGS[facts.cleaning]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(facts.context)
        self._tokenizer.no_padding()

    def encode(self, prompts: Sequence[str]) -> list[Encoding]:
        """Each prompt's tokens, cut at the context; what did not fit is in ``overflowing``."""
        return self._tokenizer.encode_batch_fast([self._clean(prompt) for prompt in prompts])

    def ids(self, prompts: Sequence[str]) -> list[Tokens]:
        """What the text tower is to read of each prompt, without padding: int64 [tokens]."""
        rows = [np.asarray(encoding.ids, np.int64) for encoding in self.encode(prompts)]
        for row, prompt in zip(rows, prompts, strict=True):
            if self._facts.first:
                row[0] = self._facts.first.get(script(prompt), self._facts.first["Latin"])
            if self._facts.dropped is not None:
                row[row == self._facts.dropped] = 0
        return rows

    def stack(self, rows: Sequence[Tokens]) -> tuple[Tokens, Tokens]:
        """The text tower's input, and a mask that is 1 where there is a token: int64 [n, tokens].

        Padded to the longest of these, or to the context for a tower that looks at the padding.
        """
        length = self._facts.context if self._facts.full else max(map(len, rows))
        stacked = np.full((len(rows), length), self._facts.padding, np.int64)
        mask = np.zeros_like(stacked)
        for at, row in enumerate(rows):
            stacked[at, : len(row)], mask[at, : len(row)] = row, 1
        return stacked, mask


def _mended(text: str) -> str:
    """open_clip's ``basic_clean``."""
    if not _PLAIN.fullmatch(text):
        from ftfy import fix_text

        text = html.unescape(html.unescape(fix_text(text)))
    return text


def _whitespace(text: str) -> str:
    return " ".join(_mended(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    text = _mended(text).strip().replace("_", " ").translate(_NO_PUNCTUATION).lower()
    return " ".join(text.split())


def _chinese_clip(text: str) -> str:
    """As cn_clip does, which trained them."""
    return text.lower().translate(_QUOTES)


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES = str.maketrans("“”", '""')
_CLEANINGS: dict[Cleaning, Callable[[str], str]] = {
    "none": str,
    "whitespace": _whitespace,
    "lower": _lower,
    "canonicalize": _canonicalize,
    "chinese_clip": _chinese_clip,
}
"""What is done to a text before its tokens are looked up: open_clip's three ways, and Chinese-CLIP's."""
