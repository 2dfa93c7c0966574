"""What it costs in answers to decode JPEGs small: ``python benchmarks/draft.py PICTURES [--count 400]``.

PICTURES is a folder or a tar of photographs, as ``../shared/starter/data/caltech-101.tar``. Each is enlarged to a
camera's size, given grain and saved as JPEG; the starter then looks at it decoded whole and decoded at a fraction of
its size, as clipcls does. Beside that stand other least sizes, and the same picture saved once more as JPEG of quality
92, which nobody would call another picture: with 1,000 labels some answers hang on very little. The least size of
clipcls was chosen with ``imagenet-samples.tar``.

The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from speed.table import CORES, Row, machine, show

from clipcls import Classifier, ImageSource, decode, load_labels
from clipcls.encoders import load_encoder
from clipcls.encoders.base import Preparation

OURS = decode.LEAST_DRAFT
FACTORS = (2.0, OURS, 3.5)
WHOLE, AGAIN = "decoded whole", "saved again, quality 92, decoded whole"
MEGAPIXELS = 1.2, 12.0
GRAIN = 4.0
"""Grey levels, of 255."""
LABELS = {"English": "imagenet-1k", "Chinese": "imagenet-1k-zh"}
SETS = (1000, 100, 10)
"""Labels of a question. The smaller ones share out the 1,000; each picture has the one with its best label."""

Vectors = npt.NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", help="a folder or a tar of photographs")
    parser.add_argument("--count", type=int, default=400, help="how many of them")
    options = parser.parse_args()
    print("\n".join(f"{key:<18}{value}" for key, value in machine().items()) + "\n")
    encoder, _ = load_encoder("starter", device="cpu")
    images = list(ImageSource([options.pictures]))
    files = [image.open().read() for image in images[:: max(1, len(images) // options.count)][: options.count]]
    with ProcessPoolExecutor(CORES) as pool:
        seen = list(pool.map(partial(views, encoder.preparation()), range(len(files)), files))
    vectors = {way: encoder.encode_images([each[way] for each in seen]) for way in seen[0]}
    with Classifier.load("starter", device="cpu", cache=False) as classifier:
        heads = {language: classifier.zero_shot(load_labels(name).labels).weights for language, name in LABELS.items()}
    rows = list(compared(vectors, heads))
    show("draft", rows)
    return int(any(row.met is False for row in rows))


def views(preparation: Preparation, number: int, data: bytes) -> dict[str, Any]:
    """A photograph as the image tower sees it, by how it was decoded."""
    dice = np.random.default_rng(number)
    photograph = camera(decode.decode(data), MEGAPIXELS[0] * (MEGAPIXELS[1] / MEGAPIXELS[0]) ** dice.random(), dice)
    whole = decode.decode(photograph)
    pictures = {WHOLE: whole, AGAIN: decode.decode(jpeg(whole, 92))}
    for factor in FACTORS:
        decode.LEAST_DRAFT = factor
        pictures[small(factor)] = decode.decode(photograph, min_side=preparation.image_size)
    return {way: preparation.preprocess(picture) for way, picture in pictures.items()}


def small(factor: float) -> str:
    return f"at no less than {factor:g} times the size" + " (clipcls)" * (factor == OURS)


def camera(picture: Image.Image, megapixels: float, dice: np.random.Generator) -> bytes:
    """A picture enlarged to so many megapixels, with grain, as JPEG of quality 85 to 90."""
    scale = (megapixels * 1e6 / (picture.width * picture.height)) ** 0.5
    size = round(picture.width * scale), round(picture.height * scale)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + GRAIN * dice.standard_normal((*pixels.shape[:2], 1), np.float32)
    return jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), int(dice.integers(85, 91)))


def jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def compared(vectors: Mapping[str, Vectors], heads: Mapping[str, Vectors]) -> Iterator[Row]:
    """How near each way comes to the whole picture, and how often it has the same answer."""
    exact = vectors[WHOLE]
    middle = exact.mean(axis=0)
    centred = {way: unit(each - middle) for way, each in vectors.items()}
    for way in [way for way in vectors if way != WHOLE]:
        ours = way == small(OURS)
        cosine = float((centred[way] * centred[WHOLE]).sum(axis=1).mean())
        how = f"{len(exact)} photographs of {MEGAPIXELS[0]:g} to {MEGAPIXELS[1]:g} megapixels; against {WHOLE}"
        yield Row(way, cosine, "mean-centred cosine", how, at_least=0.999 if ours else None)
        for language, weights in heads.items():
            scores, expected = vectors[way] @ weights.T, (exact @ weights.T).argmax(axis=1)
            for size in SETS:
                same = 100 * float((best(scores, expected, size) == expected).mean())
                yield Row(f"  same answer, {size:,} labels, {language}", same, "%", at_least=99.5 if ours else None)


def best(scores: Vectors, expected: npt.NDArray[np.intp], size: int) -> npt.NDArray[np.intp]:
    """Each picture's answer to the question of so many labels that has the expected one among them: [n]."""
    first = expected // size * size
    questions = np.take_along_axis(scores, first[:, None] + np.arange(size), axis=1)
    found: npt.NDArray[np.intp] = first + questions.argmax(axis=1)
    return found


def unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    raise SystemExit(main())
