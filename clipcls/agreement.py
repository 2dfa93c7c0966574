"""How near a model's embeddings in one precision are to those in float32."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipcls.classifier import Classifier
from clipcls.labelfiles import load_labels
from clipcls.promptfiles import chosen
from clipcls.prompts import wordings

_PICTURES = 32
_SIDE = 256
_PATCHES = (2, 4, 8, 16)
"""Patches of colour along a picture's side: from large shapes to texture."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Least cosines between the embeddings in a precision and those in float32, 1 being the same."""

    precision: str
    """What was compared with float32; ``auto`` is told as what it came to."""
    images: float
    """Over made pictures of coloured patches."""
    texts: float
    """Over the labels of cifar-10 in English and Chinese, in their default prompts."""


def agreement(model: str, precision: str, device: str = "auto") -> Agreement:
    """Put the same pictures and prompts through a model in float32 and in another precision.

    Raises:
        ModelError: the model cannot be loaded.
        DeviceError: the device is missing, or has no such precision.
    """
    labels = [label for name in ("cifar-10", "cifar-10-zh") for label in load_labels(name).labels]
    prompts = [prompt for wording in wordings(labels, chosen(None)) for prompt in wording.prompts]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        pictures = _pictures(Path(folder))
        for each in ("fp32", precision):
            with Classifier.load(model, device=device, precision=each, cache=False) as classifier:
                found.append((classifier.embed_images(pictures), classifier.embed_texts(prompts)))
                used = classifier.info.precision
    images, texts = (float((exact * near).sum(axis=1).min()) for exact, near in zip(*found, strict=True))
    return Agreement(used, images, texts)


def _pictures(folder: Path) -> list[Path]:
    from PIL import Image

    dice = np.random.default_rng(0)
    paths = []
    for at in range(_PICTURES):
        patches = dice.integers(0, 256, (*[_PATCHES[at % len(_PATCHES)]] * 2, 3), np.uint8)
        paths.append(folder / f"{at}.png")
        Image.fromarray(patches).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(paths[-1])
    return paths
