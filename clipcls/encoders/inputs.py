"""What the towers are given, made without torch: the numbers that open_clip and transformers would make."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from clipcls.encoders.files import TEXT_CONFIG, ModelFiles

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

_PLAIN = re.compile("[A-Za-z0-9 .,!?'()\u4e00-\u9fff。、-]*")
"""Text in which ftfy finds nothing to mend; importing it takes longer than all the rest that a prompt needs."""


class Pictures:
    """open_clip's transform for square towers: the shortest side resized, the centre cut out, mean and deviation.

    Raises:
        LookupError, TypeError, ValueError: the configuration asks for something else.
    """

    def __init__(self, files: ModelFiles) -> None:
        cfg, size = files.preprocess_cfg, files.model_cfg["vision_cfg"]["image_size"]
        if not isinstance(size, int) or cfg.get("resize_mode", "shortest") != "shortest":
            raise ValueError("its pictures are not cut to a square")
        self.size = size
        self._interpolation = {"bicubic": "BICUBIC", "bilinear": "BILINEAR"}[cfg.get("interpolation", "bicubic")]
        mean, std = (np.asarray(cfg[key], np.float32).reshape(3, 1) for key in ("mean", "std"))
        self._levels = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
        """What each of the 256 levels becomes: float32 [3, 256]."""

    def cut(self, image: Image.Image) -> Pixels:
        """An RGB picture's centre: uint8 [size, size, 3]."""
        from PIL.Image import Resampling

        short, size = min(image.size), self.size
        width, height = (int(size * side / short) for side in image.size)
        image = image.resize((width, height), Resampling[self._interpolation])
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(image.crop((left, top, left + size, top + size)))

    def stack(self, pictures: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """The image tower's input: float32 [n, 3, size, size]."""
        stacked = np.empty((len(pictures), 3, self.size, self.size), np.float32)
        for picture, planes in zip(pictures, stacked, strict=True):
            for channel in range(3):
                planes[channel] = self._levels[channel][picture[..., channel]]
        return stacked


class Prompts:
    """open_clip's cleaning and transformers' tokens, from a folder's ``tokenizer.json``.

    Raises:
        Exception: the files are damaged, or the configuration asks for something else.
    """

    def __init__(self, files: ModelFiles) -> None:
        text_cfg = files.model_cfg["text_cfg"]
        if not files.text_folder or not files.tokenizer_folder:
            raise ValueError("its text tower is not Hugging Face's")
        if text_cfg.get("tokenizer_kwargs") or text_cfg.get("tokenizer_mode"):
            raise ValueError("its tokenizer has options of its own")
        self._tokenizer = Tokenizer.from_file(str(files.tokenizer_folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(text_cfg.get("context_length", 77))
        self._tokenizer.no_padding()
        config = json.loads((files.text_folder / TEXT_CONFIG).read_text(encoding="utf-8"))
        self._padding = int(config["pad_token_id"])

    def encode(self, prompts: Sequence[str]) -> list[Encoding]:
        """Each prompt's tokens, cut at the context; what did not fit is in ``overflowing``."""
        return self._tokenizer.encode_batch_fast([_clean(prompt) for prompt in prompts])

    def stack(self, encodings: Sequence[Encoding]) -> npt.NDArray[np.int64]:
        """The text tower's input, padded to the longest of these: int64 [n, tokens]."""
        stacked = np.full((len(encodings), max(map(len, encodings))), self._padding, np.int64)
        for row, encoding in zip(stacked, encodings, strict=True):
            row[: len(encoding)] = encoding.ids
        return stacked


def _clean(text: str) -> str:
    """What open_clip does to a text before a Hugging Face tokenizer sees it."""
    if not _PLAIN.fullmatch(text):
        from ftfy import fix_text

        text = html.unescape(html.unescape(fix_text(text)))
    return " ".join(text.split())
