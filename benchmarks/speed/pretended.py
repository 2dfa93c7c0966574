"""What Ray's workers do first in a benchmark: a model of a stated speed that computes nothing, or one that is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipcls.encoders.base import Preparation
from clipcls.records import EncoderInfo, TokenCount

FINGERPRINT = "pretended"
DIM = 512
RATE, BEGAN = "CLIPCLS_PRETENDED_RATE", "CLIPCLS_PRETENDED_BEGAN"
"""Images a second, 0 for no waiting, and pixels along a side; or the file that the time of the first batch goes to."""


def runtime_env(given: dict[str, Any] | None) -> dict[str, Any]:
    """What RAY_RUNTIME_ENV_HOOK asks for."""
    return (given or {}) | {"worker_process_setup_hook": "speed.pretended.install"}


def install() -> None:
    """Put the model into this worker."""
    from clipcls.engines import stages

    stages.load_encoder = timed(stages.load_encoder) if BEGAN in os.environ else pretended


def square(side: int, image: Any) -> Any:
    """A picture as the model would have it: uint8 [side, side, 3]."""
    return np.asarray(image.resize((side, side)))


class Pretended:
    """Takes as long for its images as a model of so many a second."""

    batch_size = 64
    info = EncoderInfo("pretended", FINGERPRINT, "fp32", DIM, 100.0, None, "softmax")

    def __init__(self, rate: float, side: int) -> None:
        self._rate, self._free = rate, 0.0
        self.image_size = side
        self.preprocess = partial(square, side)
        self._vectors = np.random.default_rng(0).normal(size=(self.batch_size, DIM)).astype(np.float32)
        self._vectors /= np.linalg.norm(self._vectors, axis=1, keepdims=True)

    def preparation(self) -> Preparation:
        return Preparation(self.image_size, self.preprocess)

    def tokenize(self, prompts: Sequence[str]) -> list[TokenCount]:
        return [TokenCount(8, False) for _ in prompts]

    def encode_images(self, batch: Sequence[Any]) -> Any:
        if self._rate:  # not a sleep for each batch, which would add up its errors
            self._free = max(self._free, time.perf_counter()) + len(batch) / self._rate
            time.sleep(max(0.0, self._free - time.perf_counter()))
        return self._vectors[: len(batch)]

    def encode_texts(self, prompts: Sequence[str]) -> Any:
        rows = np.stack([np.random.default_rng(len(prompt)).normal(size=DIM) for prompt in prompts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def pretended(model: str, **_: Any) -> tuple[Pretended, tuple[()]]:
    """In the place of ``load_encoder``."""
    rate, side = os.environ[RATE].split()
    return Pretended(float(rate), int(side)), ()


def timed(load: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """``load_encoder`` whose models write down when they began with their first images."""

    def loaded(*model: Any, **options: Any) -> tuple[Any, Any]:
        encoder, files = load(*model, **options)
        encode = encoder.encode_images

        def encode_images(batch: Sequence[Any]) -> Any:
            began = Path(os.environ[BEGAN])
            if not began.exists():
                began.write_text(repr(time.time()))
            return encode(batch)

        encoder.encode_images = encode_images
        return encoder, files

    return loaded
