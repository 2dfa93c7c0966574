"""A model without torch: colours are its pictures' meaning, colour words its texts'."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clipcls.encoders.base import Preparation
from clipcls.errors import OutOfMemory
from clipcls.records import EncoderInfo, FileStamp, TokenCount

WORDS = {"red": 0, "红": 0, "green": 1, "绿": 1, "blue": 2, "蓝": 2}
DIM = 16


def prepare(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((2, 2)), np.float32).mean(axis=(0, 1))


class FakeEncoder:
    """Counts what it is asked; slow, forgetful or broken on request."""

    image_size = 8
    batch_size = 8

    def __init__(
        self,
        *,
        fingerprint: str = "oc1-fake",
        seconds: float = 0.0,
        memory: int = 10**9,
        activation: str = "softmax",
        languages: tuple[str, ...] = (),
        broken: tuple[int, int, int] | None = None,
        broken_word: str | None = None,
        broken_value: float = np.nan,
    ) -> None:
        self.info = EncoderInfo(
            spec="fake/one",
            fingerprint=fingerprint,
            precision="fp32",
            dim=DIM,
            logit_scale=20.0,
            logit_bias=None if activation == "softmax" else -5.0,
            activation=activation,  # type: ignore[arg-type]
            languages=languages,
        )
        self.seconds, self.memory, self.broken = seconds, memory, broken
        self.broken_word, self.broken_value = broken_word, broken_value
        """What the embeddings of the broken colour, and of texts with the word, are filled with."""
        self.prepared: list[int] = []
        """Threads that preprocessed, a picture each."""
        self.image_batches: list[int] = []
        self.texts: list[str] = []

    def preprocess(self, image: Image.Image) -> np.ndarray:
        assert image.mode == "RGB"
        self.prepared.append(threading.get_ident())
        return prepare(image)

    def preparation(self) -> Preparation:
        return Preparation(self.image_size, prepare)

    def tokenize(self, prompts: Sequence[str]) -> list[TokenCount]:
        return [TokenCount(min(len(prompt), 77), len(prompt) > 77) for prompt in prompts]

    def encode_images(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        if len(batch) > self.memory:
            raise OutOfMemory("too many")
        time.sleep(self.seconds)
        self.image_batches.append(len(batch))
        vectors = np.zeros((len(batch), DIM), np.float32)
        vectors[:, :3] = np.stack(batch) + 1.0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for row, pixels in zip(vectors, batch, strict=True):
            if self.broken is not None and np.allclose(pixels, self.broken, atol=2):
                row[:] = self.broken_value
        return vectors

    def encode_texts(self, prompts: Sequence[str]) -> np.ndarray:
        self.texts.extend(prompts)
        return np.stack([self._text(prompt) for prompt in prompts])

    def _text(self, prompt: str) -> np.ndarray:
        if self.broken_word and self.broken_word in prompt:
            return np.full(DIM, self.broken_value, np.float32)
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
        vector = np.random.default_rng(seed).normal(size=DIM) * 0.05
        for word, axis in WORDS.items():
            if word in prompt:
                vector[axis] += 1.0
        return np.asarray(vector / np.linalg.norm(vector), np.float32)


class FakeDoor:
    """Stands in for ``load_encoder`` and counts how often it is used."""

    def __init__(self, encoder: FakeEncoder, watched: Sequence[Path] = ()) -> None:
        self.encoder, self.watched = encoder, watched
        self.loads, self.device = 0, ""

    def __call__(
        self, model: str, *, device: str = "auto", precision: str = "auto", digest: object = None, traced: object = None
    ) -> tuple[FakeEncoder, tuple[FileStamp, ...]]:
        self.loads, self.device = self.loads + 1, device
        return self.encoder, tuple(FileStamp.of(path) for path in self.watched)


def picture(path: Path, colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (12, 8)) -> Path:
    """A one-coloured picture whose file was last changed long enough ago to be trusted."""
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path
