"""What makes pictures fast must not show: neither in embeddings nor in memory."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGES, ROOT
from PIL import Image

from clipcls.decode import LEAST_DRAFT, decode
from clipcls.encoders import load_encoder

PHOTOS = [IMAGES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")]
LABELS = ("a person", "a cat", "a cup of coffee", "a rocket", "an elephant", "a car", "a tree", "a house")


def camera(short: int, place: int) -> bytes:
    """Part of a photograph, enlarged, with grain, as a JPEG of which no side need be even."""
    dice = np.random.default_rng(short + place)
    with Image.open(PHOTOS[place % len(PHOTOS)]) as photo:
        width, height = photo.width * dice.uniform(0.7, 1), photo.height * dice.uniform(0.7, 1)
        left, top = dice.uniform(0, photo.width - width), dice.uniform(0, photo.height - height)
        size = round(short * width / min(width, height)), round(short * height / min(width, height))
        large = photo.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    grainy = np.asarray(large, np.float32) + dice.normal(0, 4, (large.height, large.width, 1))
    file = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=87, subsampling="4:2:0")
    return file.getvalue()


def test_photographs_decoded_small_mean_what_they_mean_whole() -> None:
    starter, _ = load_encoder("starter", device="cpu")
    whole, small = [], []
    for place in range(12):
        data = camera((1450, 1871)[place % 2], place)
        large, drafted = decode(data), decode(data, min_side=starter.image_size)
        assert LEAST_DRAFT * starter.image_size <= min(drafted.size) <= min(large.size) / 2 + 1
        whole.append(starter.preprocess(large))
        small.append(starter.preprocess(drafted))
    vectors = [starter.encode_images(each) for each in (whole, small)]
    texts = starter.encode_texts([f"a photo of {label}" for label in LABELS])
    best, second = np.sort(vectors[0] @ texts.T, 1)[:, :-3:-1].T
    same = np.argmax(vectors[0] @ texts.T, 1) == np.argmax(vectors[1] @ texts.T, 1)
    assert same[best - second > 0.02].all() and same.sum() >= 11
    mean = vectors[0].mean(axis=0)
    centred = [(each - mean) / np.linalg.norm(each - mean, axis=1, keepdims=True) for each in vectors]
    cosines = (centred[0] * centred[1]).sum(axis=1)
    assert cosines.mean() >= 0.999 and cosines.min() >= 0.996


PEAK = """
import io, sys, pathlib
from PIL import Image
from clipcls.encoders import load_encoder
from clipcls.pipeline import Embedder
from clipcls.records import ImageRef

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

photo, copies = pathlib.Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
if not copies:
    encoder, _ = load_encoder("starter", device="cpu")
    side = encoder.image_size
    encoder.encode_images([encoder.preprocess(Image.new("RGB", (side, side)))] * encoder.batch_size)
else:
    embedder = Embedder("starter", device="cpu")
    # What follows a JPEG's end is no part of the picture, but makes another file of it.
    refs = (ImageRef(str(i), "/", None, lambda i=i: io.BytesIO(photo + i.to_bytes(4, "big"))) for i in range(copies))
    assert sum(len(block) for block in embedder.images(refs)) == copies
    embedder.close()
print(peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_that_of_one_batch_and_little_more(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(camera(1600, 1))

    def peak(copies: int) -> float:
        command = [sys.executable, "-c", PEAK, str(path), str(copies)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    bare, few, more = peak(0), peak(10), peak(40)
    assert few <= bare + 300 and more <= bare + 300
    assert more <= few * 1.1 + 10
