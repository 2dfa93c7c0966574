"""The training pictures: read straight from their tar files, split once, and seen in many ways."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

SMALL = 32
"""Shorter side in pixels of the small pictures that the card reports on."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a data set."""

    name: str
    """Its path in the tar file."""
    folder: str
    """The class as the data set names it: a synset, or a folder."""
    data: bytes

    def load(self) -> Image.Image:
        with Image.open(io.BytesIO(self.data)) as image:
            return image.convert("RGB")


def read(data: Path, collection: str, part: str = "") -> list[Picture]:
    """The pictures of ``imagenet-samples``, ``caltech-101`` or ``groceries`` (``part``: train or choose), by name."""
    return sorted(_members(data / f"{collection}.tar", part), key=lambda picture: picture.name)


def _members(path: Path, part: str) -> Iterator[Picture]:
    with tarfile.open(path) as tar:
        for member in tar:
            pieces = member.name.split("/")
            if not member.name.endswith(".jpg") or (part and pieces[1] != part):
                continue
            file = tar.extractfile(member)
            assert file is not None
            # n01440764_tench.jpg; train/ant/image_0002.jpg; train/Fruit/Apple/Golden-Delicious/x.jpg
            folder = pieces[1].split("_")[0] if len(pieces) == 2 else pieces[3 if len(pieces) > 4 else 2]
            yield Picture(member.name, folder, file.read())


def reports(name: str) -> bool:
    """Whether a picture of ``choose/`` belongs to the half that only reports; the other half chooses.

    The parity of the first byte of SHA-256 of its path in the tar file.
    """
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1


def view(image: Image.Image, kind: str, size: int, key: str) -> Image.Image:
    """A picture as one view of it, ``size`` x ``size``; the same key always gives the same view.

    Args:
        image: an RGB picture.
        kind: ``clean`` (the model's own preprocessing), ``flip``, ``small`` (shrunk to 32 pixels first), ``crop``,
            ``soft`` (shrunk, blurred or compressed) or ``odd`` (other colours, lines, angles); a number may follow.
        size: side of the result in pixels.
        key: what the chance in it depends on, beside the kind.
    """
    chance = random.Random(f"{key}/{kind}")
    kind = kind.rstrip("0123456789")
    if kind == "small":
        image = shrunk(image, SMALL)
    elif kind == "crop":
        image = _random_crop(image, chance, 0.25)
    elif kind == "soft":
        image = _softened(_random_crop(image, chance, 0.5), chance)
    elif kind == "odd":
        image = _oddity(_random_crop(image, chance, 0.4), chance)
    if kind == "flip" or (kind in ("crop", "soft", "odd") and chance.random() < 0.5):
        image = ImageOps.mirror(image)
    return image.resize((size, size), Image.Resampling.BICUBIC)  # squashed, as the model sees pictures


def shrunk(image: Image.Image, shorter: int) -> Image.Image:
    """A picture scaled to a shorter side of this many pixels."""
    scale = shorter / min(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def _random_crop(image: Image.Image, chance: random.Random, least: float) -> Image.Image:
    """A part of the picture: an area from ``least`` to all of it, of an aspect from 3:4 to 4:3."""
    area = image.width * image.height * chance.uniform(least, 1)
    aspect = chance.uniform(3 / 4, 4 / 3)
    width = min(image.width, round((area * aspect) ** 0.5))
    height = min(image.height, round((area / aspect) ** 0.5))
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _softened(image: Image.Image, chance: random.Random) -> Image.Image:
    if chance.random() < 0.25:
        return image.filter(ImageFilter.GaussianBlur(min(image.size) * chance.uniform(0.01, 0.04)))
    side = round(20 * 6 ** chance.random())  # 20 to 120 pixels, small ones as often as large
    target = (side, side) if chance.random() < 0.3 else shrunk(image, side).size
    image = image.resize(target, chance.choice([Image.Resampling.BOX, Image.Resampling.BICUBIC]))
    if chance.random() < 0.4:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=chance.randint(15, 70))
        image = Image.open(packed).convert("RGB")
    return image


def _oddity(image: Image.Image, chance: random.Random) -> Image.Image:
    what = chance.choice(["colour", "colour", "grey", "lines", "turn", "poster"])
    if what == "grey":
        image = ImageOps.grayscale(image).convert("RGB")
    elif what == "lines":
        image = ImageOps.autocontrast(ImageOps.grayscale(image).filter(ImageFilter.CONTOUR)).convert("RGB")
    elif what == "turn":
        image = image.rotate(chance.uniform(-35, 35), Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    elif what == "poster":
        image = ImageOps.posterize(image, 2)
    if what != "lines":
        for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = enhance(image).enhance(chance.uniform(0.5, 1.6))
    return image
