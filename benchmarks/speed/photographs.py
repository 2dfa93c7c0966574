"""Pictures with the statistics of photographs: things before things, each with edges and a texture of every scale."""

from __future__ import annotations

import cmath
import io
import math
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from speed.table import CORES

QUALITIES = (85, 90)
BITS = (2.2, 3.0)
"""A pixel, which makes 3 to 5 megabytes of 12 megapixels."""
_LONG_AGO = time.time() - 30 * 86400
_SAMPLE = 1024
"""Pixels along the side of the part on which bits are counted before the whole is written."""


def photographs(folder: Path, count: int, low: float, high: float) -> list[Path]:
    """JPEG files of ``low`` to ``high`` megapixels, no two alike; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        with ProcessPoolExecutor(CORES) as pool:  # other processes, since this one must stay small
            list(pool.map(partial(_numbered, folder, low, high), missing, chunksize=max(1, len(missing) // 50)))
    return paths


def described(paths: Sequence[Path]) -> str:
    """Sizes and bits a pixel of some pictures, read from the files."""
    from PIL import Image

    pixels, bits, weights = [], [], []
    for path in paths:
        with Image.open(path) as image:
            pixels.append(image.width * image.height)
        weights.append(path.stat().st_size / 1e6)
        bits.append(8e6 * weights[-1] / pixels[-1])
    low, high = QUALITIES
    return (
        f"{len(paths)} JPEG of {min(pixels) / 1e6:.2g} to {max(pixels) / 1e6:.2g} megapixels, {min(weights):.2g} to "
        f"{max(weights):.2g} MB, {min(bits):.2f} to {max(bits):.2f} bits a pixel, 4:2:0, quality {low}-{high}"
    )


def _numbered(folder: Path, low: float, high: float, number: int) -> None:
    import numpy as np

    dice = np.random.default_rng([number, zlib.crc32(folder.name.encode())])  # no two folders share a picture
    photograph(folder / f"{number:05}.jpg", low * (high / low) ** dice.random(), dice)


def photograph(path: Path, megapixels: float, dice: Any) -> None:
    """One picture; the strength of its texture is chosen by the bits a pixel that it is to have."""
    import numpy as np
    from PIL import Image

    aspect = dice.choice([3 / 4, 4 / 3, 3 / 2, 16 / 9])
    size = round((megapixels * 1e6 * aspect) ** 0.5), round((megapixels * 1e6 / aspect) ** 0.5)
    things = np.asarray(_things(size, dice), np.float32)
    texture = _texture(size, dice)[..., None]
    quality = int(dice.integers(QUALITIES[0], QUALITIES[1] + 1))
    wanted = dice.uniform(*BITS)

    def written(strength: float, part: tuple[slice, ...]) -> bytes:
        pixels = np.clip(things[part] + strength * texture[part], 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        return file.getvalue()

    spots = [max(0, (side - _SAMPLE) // 2) for side in reversed(size)]
    sample = tuple(slice(spot, spot + _SAMPLE) for spot in spots)
    weak, strong = 0.0, 60.0
    for _ in range(6):
        strength = (weak + strong) / 2
        bits = 8 * len(written(strength, sample)) / things[sample][..., 0].size
        weak, strong = (strength, strong) if bits < wanted else (weak, strength)
    draft = path.with_suffix(".partial")
    draft.write_bytes(written(strength, ()))
    os.utime(draft, (_LONG_AGO, _LONG_AGO))  # clipcls reads a file again that has only just changed
    draft.rename(path)


def _things(size: tuple[int, int], dice: Any) -> Any:
    """Discs and polygons of all sizes, the later ones before the earlier: as in the world, few large and many small."""
    from PIL import Image, ImageDraw

    light = dice.integers(40, 216, (3, 3, 3)).astype("uint8")
    image = Image.fromarray(light).resize(size, Image.Resampling.BICUBIC)
    draw, short = ImageDraw.Draw(image), min(size)
    for _ in range(250):
        radius = short * 0.01 / (1 - dice.random() * 0.97) ** 0.9
        x, y = dice.random() * size[0], dice.random() * size[1]
        colour = tuple(int(each) for each in dice.normal(125, 22) + dice.normal(0, 22, 3))
        corners = sorted(dice.random(int(dice.integers(3, 8))))
        if len(corners) > 5:
            draw.ellipse((x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=colour)
        else:
            points = [complex(x, y) + cmath.rect(radius, math.tau * corner) for corner in corners]
            draw.polygon([(point.real, point.imag) for point in points], fill=colour)
    return image


def _texture(size: tuple[int, int], dice: Any) -> Any:
    """Noise of equal contrast in every octave, which is a spectrum of 1/f: float32 [height, width], deviation 1."""
    import numpy as np
    from PIL import Image

    octaves = max(1, int(np.log2(min(size) / 4)))
    noise: Any = None
    for octave in range(octaves, -1, -1):
        width, height = ((side + (1 << octave) - 1) >> octave for side in size)
        finer = dice.standard_normal((height, width), np.float32)
        if noise is not None:
            finer += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
        noise = finer
    return noise / noise.std()
