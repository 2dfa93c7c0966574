"""Makes the pictures in ``tests/images`` from scikit-image's sample photographs; the results are committed.

    python tests/make_images.py

Needs scikit-image. Running it again gives the same pictures, and with the same Pillow the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw
from skimage import data

FOLDER = Path(__file__).parent / "images"
LONG_SIDE = 512
ORIENTATION = 0x0112


def photograph(name: str, long_side: int = LONG_SIDE) -> Image.Image:
    picture = Image.fromarray(getattr(data, name)())
    picture.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    return picture


def make_photographs() -> None:
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        photograph(name).save(FOLDER / f"{name}.jpg", quality=88)


def make_odd() -> None:
    """What an image folder holds beside plain photographs."""
    odd = FOLDER / "odd"
    odd.mkdir(exist_ok=True)
    cat, coffee, rocket = photograph("chelsea", 256), photograph("coffee", 256), photograph("rocket", 192)

    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown right when turned clockwise by a quarter
    cat.transpose(Image.Transpose.ROTATE_90).save(odd / "sideways.jpg", quality=85, exif=exif)
    coffee.convert("CMYK").save(odd / "cmyk.jpg", quality=85)
    sixteen_bits = Image.frombytes("I;16", rocket.size, bytes(b for v in rocket.convert("L").tobytes() for b in (v, v)))
    sixteen_bits.save(odd / "grey16.png")
    cat.save(odd / "猫.jpg", quality=85)
    transparent_palette().save(odd / "palette.png", transparency=0, optimize=True)

    frames = [photograph(name, 96).quantize(64) for name in ("coffee", "rocket")]
    frames[0].save(odd / "animated.gif", save_all=True, append_images=frames[1:], duration=500, loop=0)

    whole = (odd / "猫.jpg").read_bytes()
    (odd / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (odd / "empty.jpg").write_bytes(b"")


def transparent_palette() -> Image.Image:
    """A red disc; colour 0 around it is black, and meant to be saved as transparent."""
    picture = Image.new("P", (96, 96))
    picture.putpalette([0, 0, 0, 220, 30, 30])
    ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=1)
    return picture


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    make_photographs()
    make_odd()
