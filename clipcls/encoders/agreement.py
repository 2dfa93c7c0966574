"""How near a model's answers in one precision are to those in float32, and how much faster they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipcls.decode import decode
from clipcls.encoders import load_encoder
from clipcls.labelfiles import load_labels
from clipcls.promptfiles import chosen
from clipcls.prompts import wordings

if TYPE_CHECKING:
    from PIL import Image

    from clipcls.encoders.base import Encoder, Vectors

PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
_CROPS = 200
_SECONDS = 10.0
"""As long as a tower is given; a large one sees fewer pictures."""
_TOGETHER = 8
LEAST_SAME, LEAST_FASTER = 0.995, 1.5
"""Share of equal best labels, and ratio of speeds, from which another precision is worth a word."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A precision against float32, over parts of photographs and the labels of cifar-10 in English and Chinese."""

    precision: str
    """What was compared; ``auto`` is told as what it came to."""
    images: float
    """Least cosine between the embeddings of a picture, 1 being the same."""
    texts: float
    """Least cosine between the embeddings of a prompt."""
    centred: float
    """Least cosine between the embeddings of a picture less the mean of all: a plain one says little where all
    pictures are near each other."""
    same: float
    """Share of the pictures whose best label is the same."""
    faster: float
    """Images a second as a multiple of float32's."""
    pictures: int
    """How many there were time for."""

    @property
    def worth_it(self) -> bool:
        """Whether a person should hear of it."""
        return self.same >= LEAST_SAME and self.faster >= LEAST_FASTER


class Measured(NamedTuple):
    """What one precision made of the pictures and prompts."""

    images: Vectors
    texts: Vectors
    rate: float
    """Images a second, of the image tower alone."""


def agreements(
    model: str, precisions: Sequence[str], device: str = "auto", traced: Path | None = None
) -> Iterator[Agreement]:
    """Put the same pictures and prompts through a model in float32 and in other precisions.

    Args:
        model: any name that ``load_encoder`` takes.
        precisions: of them each that the device has.
        device: auto, cpu, cuda, cuda:N or mps.
        traced: the folder that keeps what is traced of models.

    Raises:
        ModelError: the model cannot be loaded.
        DeviceError: the device is missing, or has no such precision.
    """
    exact = measure(load_encoder(model, device=device, precision="fp32", traced=traced)[0])
    for precision in precisions:
        encoder = load_encoder(model, device=device, precision=precision, traced=traced)[0]
        yield compared(exact, measure(encoder), encoder.info.precision)


def measure(encoder: Encoder, seconds: float = _SECONDS) -> Measured:
    """Pictures and prompts through both towers; as many pictures as the time allows."""
    batch = [encoder.preprocess(picture) for picture in _crops()]
    encoder.encode_images(batch[:_TOGETHER])  # opens the tower, and warms it
    images: list[Vectors] = []
    began = time.perf_counter()
    for start in range(0, len(batch), _TOGETHER):
        images.append(encoder.encode_images(batch[start : start + _TOGETHER]))
        spent = time.perf_counter() - began
        if spent > seconds:
            break
    labels = [label for name in ("cifar-10", "cifar-10-zh") for label in load_labels(name).labels]
    prompts = [wording.prompts[0] for wording in wordings(labels, chosen(None))]
    vectors = np.concatenate(images)
    return Measured(vectors, encoder.encode_texts(prompts), len(vectors) / spent)


def pace(encoder: Encoder) -> float:
    """Images a second, of one small batch."""
    batch = [encoder.preprocess(picture) for picture in photographs()[:2]]
    encoder.encode_images(batch)  # opens the tower, and warms it
    began = time.perf_counter()
    encoder.encode_images(batch)
    return len(batch) / (time.perf_counter() - began)


def compared(exact: Measured, near: Measured, precision: str) -> Agreement:
    """A precision's answers against float32's."""
    count = min(len(exact.images), len(near.images))
    ours, theirs = near.images[:count], exact.images[:count]
    middle = theirs.mean(axis=0)
    centred = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (ours - middle, theirs - middle)]
    best = [(pictures @ exact.texts.T).argmax(axis=1) for pictures in (ours, theirs)]
    return Agreement(
        precision,
        images=float((ours * theirs).sum(axis=1).min()),
        texts=float((near.texts * exact.texts).sum(axis=1).min()),
        centred=float((centred[0] * centred[1]).sum(axis=1).min()),
        same=float((best[0] == best[1]).mean()),
        faster=near.rate / exact.rate,
        pictures=count,
    )


def photographs() -> list[Image.Image]:
    """The photographs that come with clipcls."""
    return [decode(path.read_bytes()) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]


def _crops() -> Iterator[Image.Image]:
    """Parts of the photographs, the same at every call, of half to all of their shorter side."""
    dice, whole = np.random.default_rng(0), photographs()
    for at in range(_CROPS):
        picture = whole[at % len(whole)]
        side = int(min(picture.size) * dice.uniform(0.5, 1))
        left, top = (int(dice.integers(0, length - side + 1)) for length in picture.size)
        yield picture.crop((left, top, left + side, top + side))
