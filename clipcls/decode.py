"""Bytes to one upright RGB picture.

Called from several threads at once. Pillow is imported when the first picture is decoded, not with this module, so
that ``decode_version`` stays cheap.
"""

from __future__ import annotations

import importlib
import io
import itertools
import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

from clipcls.errors import DecodeError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.JpegImagePlugin import JpegImageFile

MAX_PIXELS = 100_000_000
"""Of one picture, unless someone says otherwise."""

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

LEAST_DRAFT = 2.75
"""How many times the size that a model sees a JPEG has when it is decoded at a fraction of its own size.

It changes no more answers than saving the picture once more as JPEG of quality 92 does (``benchmarks/draft.py``), and
twelve megapixels are still decoded at a quarter for models of up to 272 pixels.
"""

_VERSION = 2
"""Raise it when a picture that failed could now be read, or the other way round."""

_HEAVY = {"WEBP": 2, "JPEG2000": 2}
"""How many times the memory of other formats, which is 12 bytes a pixel at most, decoding takes."""
_FILE_BYTES = 6
"""For every pixel that is allowed, how many bytes a file may have: three colours of 16 bits."""
_BLOCK = 1 << 26
"""Bytes that Pillow allocates at once."""
_MORE = " (allow more: --max-pixels, or max_pixels in the settings)"
_STRIP = 1 << 20
"""Pixels that are converted at once, where that takes more memory than the picture."""

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


Admit = Callable[[int, int, int], None]
"""Takes width, height and cost in pixels of a picture that is about to be decoded, and raises or waits."""


def decode_version(max_pixels: int = MAX_PIXELS) -> str:
    """What decides whether the same bytes can be read: this decoder's version, Pillow's, and the limit."""
    import PIL

    return f"{_VERSION} Pillow {PIL.__version__}" + (f" {max_pixels}" if max_pixels != MAX_PIXELS else "")


def decode(
    data: bytes | BinaryIO,
    *,
    min_side: int | None = None,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    claim: Callable[[int], object] = lambda pixels: None,
) -> Image:
    """One picture, upright, in mode RGB, with transparent parts on white; of an animation the first frame.

    Memory stays under 12 bytes for every pixel that is claimed, and the file's own.

    Args:
        data: the whole file, or a stream of it.
        min_side: pixels the shorter side should have later; a JPEG is then decoded at a fraction of its size, but
            at no less than LEAST_DRAFT times this.
        name: the file's name; only its suffix is looked at, to know a camera RAW file.
        max_pixels: refuse a picture of more; formats that take much memory count twice.
        claim: called with the pixels as they count, before the picture is decoded; may wait until there is room.

    Raises:
        DecodeError: the picture cannot be read; the text says why in one line, without the file's name.
    """
    if not isinstance(data, bytes):
        data = read(data, max_pixels)
    if not data:
        raise DecodeError("the file is empty")
    _mute_pillow()
    _set_up_memory()

    admitted = 0

    def admit(width: int, height: int, cost: int) -> None:
        nonlocal admitted
        if max(width, height) > _EXTREME * min(width, height):
            raise DecodeError(f"too narrow to be looked at: {width} x {height} pixels")
        if cost > max_pixels:
            raise DecodeError(_too_large(width * height * max_pixels // cost))
        if cost > admitted:  # the same picture once more, turned, needs no more: threads might wait for each other
            claim(cost - admitted)
            admitted = cost

    raw, heic = os.path.splitext(name)[1].lower() in RAW_SUFFIXES, _is_heic(data)
    try:
        # Nested, so that one step's picture is gone when the next step makes its own.
        if raw:
            return _to_rgb(_open_raw(data, admit))
        if heic:
            return _to_rgb(_upright(_open_heic(data, admit)))
        return _to_rgb(_upright(_open(data, min_side, max_pixels, admit)))
    except DecodeError:
        raise
    except MemoryError as exc:
        raise DecodeError("not enough memory to decode this image", lasting=False) from exc
    except Exception as exc:  # on garbage Pillow's plugins raise nearly every built-in exception
        # decode_version does not name the camera packages, so what they refuse is tried again.
        raise DecodeError(_reason(exc, data, max_pixels), lasting=not (raw or heic)) from exc


def read(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> bytes:
    """A picture's file, from a stream at its start.

    Raises:
        DecodeError: it cannot be read, or is larger than the file of a picture of ``max_pixels`` has reason to be.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        if size > _FILE_BYTES * max_pixels:
            reason = f"{size / 1e9:.1f} GB is too large for a picture{_MORE}"
            raise DecodeError(reason, lasting=False)
        stream.seek(0)
        return stream.read(size)  # and not on and on where a file grows meanwhile
    except OSError as exc:
        raise DecodeError(f"cannot be read: {exc.strerror or exc}", lasting=False) from exc
    except MemoryError as exc:
        raise DecodeError("cannot be read: not enough memory", lasting=False) from exc


def _too_large(limit: int) -> str:
    return f"too large to be decoded safely, over {limit / 1e6:.3g} megapixels{_MORE}"


def _mute_pillow() -> None:
    """Have Pillow's warnings ignored: one about an odd tag or a large picture is of no use to the person.

    ``warnings.catch_warnings`` is not safe in threads, so the filter is put in once and stays. Someone may have put
    others before it since, hence the look before every picture.
    """
    with _filters_lock:
        if warnings.filters[:1] != [("ignore", None, Warning, re.compile(r"PIL\."), 0)]:
            warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def _set_up_memory() -> None:
    """Have the memory of large pictures given back to the system: glibc keeps what is freed in blocks under 32 MB."""
    from PIL import Image

    Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]


@cache
def _formats() -> tuple[str, ...]:
    """FORMATS less those that this build of Pillow lacks."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes, min_side: int | None, max_pixels: int, admit: Admit) -> Image:
    from PIL import Image

    if data.startswith(_JPEG):
        return _open_jpeg(data, min_side, admit)
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > max(MAX_PIXELS, 2 * Image.MAX_IMAGE_PIXELS):
        Image.MAX_IMAGE_PIXELS = max_pixels  # someone asked for it
    image = Image.open(io.BytesIO(data), formats=_formats())
    _admit(image, admit)
    told = image.size
    image.load()
    if image.size != told:  # an icon's own header may say something else
        _admit(image, admit)
    return image


def _admit(image: Image, admit: Admit) -> None:
    admit(*image.size, image.width * image.height * _HEAVY.get(image.format or "", 1))


def _open_jpeg(data: bytes, min_side: int | None, admit: Admit) -> Image:
    # Not Image.open: that refuses large pictures, also where they are decoded small, and for JPEG, which most pictures
    # are, the modules of all the other formats need not be imported.
    from PIL.JpegImagePlugin import JpegImageFile

    image = JpegImageFile(io.BytesIO(data))
    image.decodermaxblock = len(data)  # all at once: in Pillow's pieces of 64 kB it takes 3% longer
    width, height = image.size
    coefficients = _coefficients(image, data)
    least = math.ceil(LEAST_DRAFT * min_side) if min_side else 0
    drafted = image.draft(None, (least, least)) if least else None
    admit(width, height, image.width * image.height + coefficients)
    image.load()
    return _shaped(image, *drafted[1][2:], min_side) if min_side and drafted else image


def _coefficients(image: JpegImageFile, data: bytes) -> int:
    """What the coefficients of a JPEG in several scans cost, in pixels: libjpeg holds them all, 2 bytes each."""
    layers, end = image.layers, image.fp.tell() if image.fp else 0  # of the header of the first scan
    all_in_one = bytes([0, 6 + 2 * layers, layers])  # its length, and how many colours are in it
    if "progressive" not in image.info and data[end - 6 - 2 * layers : end - 3 - 2 * layers] == all_in_one:
        return 0
    return image.width * image.height * layers // 6


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


def _open_heic(data: bytes, admit: Admit) -> Image:
    heif = _camera_package("pillow_heif", "HEIC").open_heif(io.BytesIO(data))
    width, height = heif.size
    admit(width, height, width * height)
    image: Image = heif.to_pillow()
    return image


def _open_raw(data: bytes, admit: Admit) -> Image:
    """A RAW file at half its width and height, turned upright by LibRaw."""
    from PIL import Image

    with _camera_package("rawpy", "camera RAW").imread(io.BytesIO(data)) as raw:
        width, height = raw.sizes.raw_width, raw.sizes.raw_height
        admit(width, height, width * height)
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
    if bare or not image.has_transparency_data:
        return _in_mode("RGB", image)
    whole = new("RGB", image.size)
    for top, strip in _strips(image):
        on_white = alpha_composite(new("RGBA", strip.size, "white"), _in_mode("RGBA", strip))
        whole.paste(on_white.convert("RGB"), (0, top))
    return whole


def _strips(image: Image) -> Iterator[tuple[int, Image]]:
    """A picture from top to bottom in pieces, of which copies take little memory: where each begins, and its pixels."""
    rows = max(1, _STRIP // max(1, image.width))
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _in_mode(mode: str, image: Image) -> Image:
    return image if image.mode == mode else image.convert(mode)  # which copies a picture that has the mode


def _to_eight_bits(image: Image) -> Image:
    """A grey picture of 16 bits, 32 bits or floats, scaled to 8 bits: by its nominal range where it keeps to one."""
    import numpy as np
    from PIL.Image import fromarray, new

    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else _range(image)
    whole = new("L", image.size)
    for top, strip in _strips(image):
        pixels = np.nan_to_num(np.asarray(strip).astype(np.float64), nan=low, posinf=high, neginf=low)
        scaled = np.rint((pixels - low) / ((high - low) or 1.0) * 255)
        whole.paste(fromarray(scaled.astype(np.uint8)), (0, top))
    return whole


def _range(image: Image) -> tuple[float, float]:
    """The grey values of black and white in a picture of 32 bits."""
    import numpy as np

    seen = []
    for _, strip in _strips(image):
        pixels = np.asarray(strip)
        finite = pixels[np.isfinite(pixels)]
        seen += [float(finite.min()), float(finite.max())] if finite.size else []
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    for nominal in (255.0, 65535.0) if image.mode == "I" else (1.0,):
        if low >= 0 and high <= nominal:
            return 0.0, nominal
    return low, high


def _reason(exc: Exception, data: bytes, max_pixels: int) -> str:
    """One line for people on why Pillow gave up; its own words name classes and addresses."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(exc, Image.DecompressionBombError):
        return _too_large(max_pixels)
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
