"""Bytes to one upright RGB picture.

Called from several threads at once. Pillow is imported when the first picture is decoded, not with this module, so
that ``decode_version`` stays cheap.
"""

from __future__ import annotations

import importlib
import io
import itertools
import logging
import os
import re
import threading
import warnings
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

from clipcls.errors import DecodeError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "PCX", "QOI"),
    *("DDS", "PSD", "SGI", "XBM", "TGA"),
)
"""What Pillow decodes by itself, by its own names; the formats for which it starts other programs are left out.

TGA comes last: it has no signature.
"""
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef"),
        *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
CAMERA_EXTRA = "clipcls[camera]"
"""The extra whose packages read HEIC and camera RAW files."""

_VERSION = 1
"""Raise it when a picture that failed could now be read, or the other way round."""

_EXTREME = 200
"""How many times longer than wide a picture may be: bringing its short side to a model's size enlarges the long one."""

_JPEG = b"\xff\xd8\xff"
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_NOT_IMAGES = (
    (b"%pdf", "a PDF document"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file, perhaps an SVG drawing"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"%!ps", "a PostScript file"),
    (b"version https://git-lfs", "a Git LFS pointer (git lfs pull fetches the image)"),
    (b"\0\0\0\x0cjxl ", "a JPEG XL picture; convert it to JPEG or PNG"),
)

_filters_lock = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its notes on odd files go to stderr


def decode_version() -> str:
    """What decides whether the same bytes can be read: this decoder's version and Pillow's."""
    import PIL

    return f"{_VERSION} Pillow {PIL.__version__}"


def decode(data: bytes | BinaryIO, *, min_side: int | None = None, name: str = "") -> Image:
    """One picture, upright, in mode RGB, with transparent parts on white; of an animation the first frame.

    Args:
        data: the whole file, or a stream of it.
        min_side: pixels the shorter side should have later; a JPEG is then decoded at a fraction of its size, but
            at no less than twice this.
        name: the file's name; only its suffix is looked at, to know a camera RAW file.

    Raises:
        DecodeError: the picture cannot be read; the text says why in one line, without the file's name.
    """
    if not isinstance(data, bytes):
        data = _read(data)
    if not data:
        raise DecodeError("the file is empty")
    _mute_pillow()
    raw, heic = os.path.splitext(name)[1].lower() in RAW_SUFFIXES, _is_heic(data)
    try:
        if raw:
            image = _open_raw(data)
        elif heic:
            image = _open_heic(data)
        else:
            image = _open(data, min_side)
        if max(image.size) > _EXTREME * min(image.size):
            raise DecodeError(f"too narrow to be looked at: {image.width} x {image.height} pixels")
        return _to_rgb(_upright(image))
    except DecodeError:
        raise
    except MemoryError as exc:
        raise DecodeError("not enough memory to decode this image", lasting=False) from exc
    except Exception as exc:  # on garbage Pillow's plugins raise nearly every built-in exception
        # decode_version does not name the camera packages, so what they refuse is tried again.
        raise DecodeError(_reason(exc, data), lasting=not (raw or heic)) from exc


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read()
    except OSError as exc:
        raise DecodeError(f"cannot be read: {exc.strerror or 'input/output error'}", lasting=False) from exc


def _mute_pillow() -> None:
    """Have Pillow's warnings ignored: one about an odd tag or a large picture is of no use to the person.

    ``warnings.catch_warnings`` is not safe in threads, so the filter is put in once and stays. Someone may have put
    others before it since, hence the look before every picture.
    """
    with _filters_lock:
        if warnings.filters[:1] != [("ignore", None, Warning, re.compile(r"PIL\."), 0)]:
            warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def _formats() -> tuple[str, ...]:
    """FORMATS less those that this build of Pillow lacks."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes, min_side: int | None) -> Image:
    from PIL import Image

    # For JPEG, which most pictures are, the modules of all the other formats need not be imported.
    jpeg = data.startswith(_JPEG)
    image = Image.open(io.BytesIO(data), formats=("JPEG",) if jpeg else _formats())
    if jpeg:
        image.decodermaxblock = len(data)  # all at once: in Pillow's pieces of 64 kB it takes 3% longer
    drafted = image.draft(None, (2 * min_side, 2 * min_side)) if min_side else None
    image.load()
    return _shaped(image, *drafted[1][2:], min_side) if min_side and drafted else image


def _shaped(image: Image, width: float, height: float, side: int) -> Image:
    """A picture decoded at a fraction of its size, without a last column or row that would change its shape.

    Its sides are rounded up, and of a wider picture a model may see one pixel more, which moves all that it sees.

    Args:
        width, height: the fraction of its sides, not rounded.
        side: pixels that the shorter side will have.
    """
    shape = _shape(width, height, side)
    for size in itertools.product((image.width, int(width)), (image.height, int(height))):
        if _shape(*size, side) == shape:
            return image if size == image.size else image.crop((0, 0, *size))
    return image


def _shape(width: float, height: float, side: int) -> tuple[int, int]:
    """The size of a picture once its shorter side has been brought to so many pixels, as models do it."""
    return int(side * width / min(width, height)), int(side * height / min(width, height))


def _is_heic(data: bytes) -> bool:
    """Whether the file's ``ftyp`` box names a HEVC-coded brand, as its own or as a compatible one."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return any(box[at : at + 4] in _HEIC_BRANDS for at in range(0, len(box), 4))


def _open_heic(data: bytes) -> Image:
    from PIL import Image

    heif = _camera_package("pillow_heif", "HEIC").open_heif(io.BytesIO(data))
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and heif.size[0] * heif.size[1] > 2 * limit:
        raise Image.DecompressionBombError
    image: Image.Image = heif.to_pillow()
    return image


def _open_raw(data: bytes) -> Image:
    """A RAW file at half its width and height, turned upright by LibRaw."""
    from PIL import Image

    with _camera_package("rawpy", "camera RAW").imread(io.BytesIO(data)) as raw:
        return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True, output_bps=8))


def _camera_package(module: str, kind: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        reason = f'{kind} files need an optional package: pip install "{CAMERA_EXTRA}"'
        raise DecodeError(reason, lasting=False) from exc


def _upright(image: Image) -> Image:
    """The picture turned as its EXIF orientation says.

    Not ``ImageOps.exif_transpose``: that also writes the EXIF block anew, which fails when another tag is broken.
    """
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = None
    with suppress(Exception):  # a broken EXIF block must not cost the picture
        turn = turns.get(image.getexif()[Base.Orientation])
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image) -> Image:
    from PIL.Image import alpha_composite, new

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    bare = image.mode == "P" and image.palette is None  # as Pillow leaves an ICNS, and then cannot be asked
    if not bare and image.has_transparency_data:
        image = alpha_composite(new("RGBA", image.size, "white"), _in_mode("RGBA", image))
    return _in_mode("RGB", image)


def _in_mode(mode: str, image: Image) -> Image:
    return image if image.mode == mode else image.convert(mode)  # which copies a picture that has the mode


def _to_eight_bits(image: Image) -> Image:
    """A grey picture of 16 bits, 32 bits or floats, scaled to 8 bits: by its nominal range where it keeps to one."""
    import numpy as np
    from PIL.Image import fromarray

    pixels = np.asarray(image)
    if image.mode.startswith("I;16"):
        return fromarray((pixels // 257).astype(np.uint8))
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    for nominal in (255.0, 65535.0) if image.mode == "I" else (1.0,):
        if low >= 0 and high <= nominal:
            low, high = 0.0, nominal
            break
    scaled = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), 64):  # in strips, since float64 takes eight times the memory
        strip = np.nan_to_num(pixels[top : top + 64].astype(np.float64), nan=low, posinf=high, neginf=low)
        scaled[top : top + 64] = np.rint((strip - low) / ((high - low) or 1.0) * 255)
    return fromarray(scaled)


def _reason(exc: Exception, data: bytes) -> str:
    """One line for people on why Pillow gave up; its own words name classes and addresses."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(exc, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        return f"too large to be decoded safely (over {limit} megapixels); make it smaller first"
    if isinstance(exc, UnidentifiedImageError):
        start = data[:256].lstrip().lower()
        for prefix, what in _NOT_IMAGES:
            if start.startswith(prefix):
                return f"not a supported image but {what}"
        if not any(data):
            return "the file holds nothing but zero bytes"
        return "not an image, or too damaged to be recognised as one"
    if isinstance(exc, EOFError) or re.search("(?i)truncated|unexpected end|not enough image data", str(exc)):
        return "the image is cut short; copy or download the file again"
    return "the image is damaged, or of a variant that cannot be read"
