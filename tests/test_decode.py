from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import threading
import types
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFile, ImageOps

from clipcls import decode as module
from clipcls.decode import FORMATS, LEAST_DRAFT, decode, decode_version
from clipcls.errors import DecodeError
from clipcls.sources import SUFFIXES

IMAGES = Path(__file__).parent / "images"
ORIENTATION = 0x0112


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """White, with a red upper left and a blue upper right corner: no turn or mirror image looks like it."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill=(220, 20, 20))
    draw.rectangle((width // 2, 0, width, height // 2 - 1), fill=(20, 20, 220))
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference, 0 to 255."""
    assert one.size == other.size
    return float(np.asarray(ImageChops.difference(one, other)).mean())


def reason(data: bytes, name: str = "") -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(data, name=name)
    text = str(caught.value)
    assert text and "\n" not in text and " at 0x" not in text and "Error" not in text and "PIL" not in text
    return caught.value


@pytest.mark.parametrize("path", sorted([*IMAGES.glob("*.jpg"), *(IMAGES / "odd").iterdir()]), ids=lambda p: p.name)
def test_every_picture_of_the_sample_folder(path: Path) -> None:
    if path.name in ("empty.jpg", "truncated.jpg"):
        assert reason(path.read_bytes()).lasting
    else:
        image = decode(path.read_bytes(), min_side=64, name=path.name)
        assert image.mode == "RGB" and min(image.size) >= 64


def test_the_sideways_cat_and_the_cmyk_coffee_look_as_they_should() -> None:
    upright = decode((IMAGES / "odd" / "猫.jpg").read_bytes())
    assert difference(decode((IMAGES / "odd" / "sideways.jpg").read_bytes()), upright) < 4
    coffee = decode((IMAGES / "coffee.jpg").read_bytes()).resize((256, 171))
    assert difference(decode((IMAGES / "odd" / "cmyk.jpg").read_bytes()).resize((256, 171)), coffee) < 8


def test_bytes_and_streams_give_the_same_picture() -> None:
    data = (IMAGES / "odd" / "猫.jpg").read_bytes()
    assert decode(io.BytesIO(data)).tobytes() == decode(data).tobytes()


def test_a_stream_that_cannot_be_read_may_work_later() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(DecodeError, match="Input/output error") as caught:
        decode(Broken())
    assert not caught.value.lasting


# Orientation

BACK = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", BACK)
def test_every_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    back = BACK[orientation]
    stored = corners().transpose(back) if back is not None else corners()
    options = {"compression": "tiff_lzw"} if kind == "TIFF" and orientation % 2 else {}
    assert difference(decode(saved(stored, kind, exif=exif, **options)), corners()) < 8


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"]
)
def test_broken_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert difference(decode(saved(corners(), "JPEG", exif=exif)), corners()) < 8


def orientation_and_a_broken_tag() -> bytes:
    """Upside down as its EXIF says, which also has a tag whose value lies outside the block."""
    entries = struct.pack("<HHHII", 2, ORIENTATION, 3, 1, 3) + struct.pack("<HHII", 0x010F, 2, 4000, 90000)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries + bytes(4)
    return saved(corners().transpose(Image.Transpose.ROTATE_180), "JPEG", exif=exif)


def test_orientation_survives_another_broken_tag() -> None:
    assert difference(decode(orientation_and_a_broken_tag()), corners()) < 8


# Against Pillow's own steps, one after the other

_dice = np.random.default_rng(7)
NOISE = Image.fromarray(_dice.integers(0, 256, (37, 51, 4), np.uint8))


def plainly(data: bytes) -> Image.Image:
    """Upright, on white, in RGB: by Pillow's own means, without regard to time and memory."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image.convert("RGBA"))
    return (canvas if image.has_transparency_data else image).convert("RGB")


@pytest.mark.parametrize("orientation", BACK)
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        *[(mode, "JPEG", {}) for mode in ("L", "RGB", "CMYK")],
        ("RGB", "JPEG", {"progressive": True}),
        *[(mode, "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        ("L", "PNG", {"transparency": 9}),
        ("P", "PNG", {"transparency": 9}),
        ("RGB", "PNG", {"transparency": (9, 8, 7)}),
        *[(mode, "WEBP", {"lossless": True, "exact": True}) for mode in ("RGB", "RGBA")],
    ],
)
def test_not_one_pixel_differs_from_pillows_own_steps(
    mode: str, kind: str, options: dict[str, object], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = saved(NOISE.convert("RGB").convert(mode) if mode == "P" else NOISE.convert(mode), kind, exif=exif, **options)
    found, expected = decode(data), plainly(data)
    assert (found.mode, found.size) == ("RGB", expected.size)
    assert found.tobytes() == expected.tobytes()


def test_a_jpeg_longer_than_what_pillow_reads_at_once() -> None:
    data = saved(Image.effect_noise((900, 600), 90).convert("RGB"), "JPEG", quality=95)
    assert len(data) > 4 * ImageFile.MAXBLOCK
    assert decode(data).tobytes() == plainly(data).tobytes()
    assert "cut short" in str(reason(data[:-2000]))


# Size


def test_a_large_jpeg_is_decoded_small_but_not_too_small() -> None:
    data = saved(Image.new("RGB", (2000, 1500), "teal"), "JPEG")
    assert decode(data).size == (2000, 1500)
    small = decode(data, min_side=100)
    assert 200 <= min(small.size) < 400
    assert decode(data, min_side=750).size == (2000, 1500)


def test_a_phone_picture_with_two_frames_is_decoded_small_too() -> None:
    picture = corners((1600, 1200))
    data = saved(picture, "MPO", save_all=True, append_images=[Image.new("RGB", (80, 60))])
    small = decode(data, min_side=100)
    assert small.size == (400, 300)
    assert difference(small, corners((400, 300))) < 4


SIDE = 32
"""Pixels of a model's shorter side."""


def seen(image: Image.Image) -> tuple[int, int]:
    """A picture's size once its shorter side is SIDE."""
    return int(SIDE * image.width / min(image.size)), int(SIDE * image.height / min(image.size))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_decoded_small_keeps_the_shape_that_a_model_sees(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    other = 0
    least = LEAST_DRAFT * SIDE
    for width in range(int(2 * least), int(2 * least) + 64):
        data = saved(Image.new("RGB", (width, int(2 * least) + 3), "teal"), "JPEG", exif=exif)
        whole, small = decode(data), decode(data, min_side=SIDE)
        assert min(whole.size) > min(small.size) >= least
        other += seen(whole) != seen(small)
    assert other <= 1, "of 64 widths; if the sides are only rounded up, 8"


# Colour


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"),
        saved(Image.new("LA", (8, 8), (0, 0)), "PNG"),
        saved(Image.new("RGB", (8, 8), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        saved(Image.new("L", (8, 8), 3), "PNG", transparency=3),
        saved(Image.new("1", (8, 8), 0), "PNG", transparency=0),
        saved(Image.new("P", (8, 8), 0), "PNG", transparency=0),
        saved(Image.new("P", (8, 8), 0), "GIF", transparency=0),
        saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True, exact=True),
        saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "TIFF"),
        saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "TGA"),
    ],
    ids=["rgba", "la", "rgb-trns", "l-trns", "1-trns", "palette", "gif", "webp", "tiff", "tga"],
)
def test_transparent_becomes_white(data: bytes) -> None:
    assert decode(data).getcolors() == [(64, (255, 255, 255))]


@pytest.mark.parametrize("mode", ["PA", "RGBa"])
def test_transparent_becomes_white_in_rare_modes(mode: str) -> None:
    assert module._to_rgb(Image.new(mode, (8, 8))).getcolors() == [(64, (255, 255, 255))]


def test_half_transparent_is_mixed_with_white() -> None:
    data = saved(Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG")
    red, green, blue = decode(data).getpixel((0, 0))  # type: ignore[misc]
    assert red == 255 and green == blue and 126 <= green <= 128


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert difference(decode(data), frames[0]) < 4, kind


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_colour_models(mode: str) -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    if mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", (4, 4), v) for v in (136, 208, 195)])
    else:
        image = red.convert(mode)
    assert difference(module._to_rgb(image), red) < 12


def grey(image: Image.Image) -> list[int]:
    return [int(value) for value in np.asarray(image)[..., 0].ravel()]


SIXTEEN = np.array([[0, 257, 0x8080, 65535]], dtype=np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(SIXTEEN), "PNG"),
        saved(Image.fromarray(SIXTEEN), "TIFF"),
        saved(Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"),
        b"P5 4 1 65535\n" + SIXTEEN.byteswap().tobytes(),
    ],
    ids=["png", "tiff", "tiff-32", "pgm"],
)
def test_sixteen_bits_are_scaled(data: bytes) -> None:
    assert grey(decode(data)) == [0, 1, 128, 255]


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (4, 1), SIXTEEN.byteswap().tobytes())
    assert grey(module._to_rgb(image)) == [0, 1, 128, 255]


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("pixels", "kind", "expected"),
    [
        ([0, 7, 128, 255], np.int32, [0, 7, 128, 255]),
        ([-100, 0, 100, 0], np.int32, [0, 128, 255, 128]),
        ([0, 1_000_000, 500_000, 0], np.int32, [0, 255, 128, 0]),
        ([-5, -5, -5, -5], np.int32, [0, 0, 0, 0]),
        ([0, 0.5, 1, 0.2], np.float32, [0, 128, 255, 51]),
        ([0, 50, 100, 20], np.float32, [0, 128, 255, 51]),
        ([NAN, 0, 1, INF], np.float32, [0, 0, 255, 255]),
        ([-INF, -1, 3, NAN], np.float32, [0, 0, 255, 0]),
        ([NAN, NAN, INF, -INF], np.float32, [0, 0, 255, 0]),
        ([-3e38, 3e38, 0, 0], np.float32, [0, 255, 128, 128]),
    ],
)
def test_wide_pixels(pixels: list[float], kind: type, expected: list[int]) -> None:
    image = Image.fromarray(np.array([pixels], dtype=kind))
    assert grey(decode(saved(image, "TIFF"))) == expected


def test_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert grey(decode(saved(image, "PNG"))) == [0, 255]


# What cannot be read


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (bytes(500), "zero bytes"),
        (b"hello", "not an image"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"  <!DOCTYPE html><html>", "web page"),
        (b"<svg xmlns=''/>", "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"GRIB" + bytes(99), "not an image"),
    ],
)
def test_reasons(data: bytes, words: str) -> None:
    error = reason(data)
    assert words in str(error) and error.lasting


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "TGA", "PPM"])
def test_a_truncated_file(kind: str) -> None:
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    data = saved(picture, kind)
    assert reason(data[: len(data) // 2]).lasting


def test_a_cut_off_photograph_is_called_that() -> None:
    assert "cut short" in str(reason((IMAGES / "odd" / "truncated.jpg").read_bytes()))


def huge_png(width: int, height: int) -> bytes:
    """A small PNG file that says it is huge."""
    data = bytearray(saved(Image.new("RGB", (1, 1)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_a_decompression_bomb() -> None:
    for size in ((60_000, 60_000), (11_000, 10_000)):
        error = reason(huge_png(*size))
        assert "too large" in str(error) and "over 100 megapixels (allow more: --max-pixels" in str(error)
        assert error.lasting


@pytest.mark.parametrize(("kind", "pixels"), [("PNG", 1536), ("WEBP", 3072), ("JPEG2000", 3072), ("JPEG", 1536)])
def test_the_limit_is_on_pixels_and_twice_on_formats_that_take_much_memory(kind: str, pixels: int) -> None:
    data = saved(corners(), kind)
    claimed: list[int] = []
    assert decode(data, max_pixels=pixels, claim=claimed.append).size == corners().size
    assert claimed == [pixels]
    with pytest.raises(DecodeError, match=f"over {1536 * (pixels - 1) // pixels / 1e6:.3g} megapixels"):
        decode(data, max_pixels=pixels - 1)


@pytest.mark.parametrize(
    ("options", "cost"),
    [({}, 0), ({"progressive": True}, 1 / 2), ({"subsampling": 0, "progressive": True}, 1 / 2)],
)
def test_a_jpeg_costs_what_it_takes_to_decode_it_small(options: dict[str, object], cost: float) -> None:
    data = saved(Image.new("RGB", (1600, 1200)), "JPEG", **options)
    claimed: list[int] = []
    decode(data, min_side=54, claim=claimed.append)
    assert claimed == [200 * 150 + 1600 * 1200 * cost]


def test_a_jpeg_with_a_scan_for_each_colour_costs_its_coefficients() -> None:
    data = saved(Image.new("RGB", (1600, 1200)), "JPEG")
    scan = data.index(b"\xff\xda")
    claimed: list[int] = []
    with suppress(DecodeError):  # its other scans are missing
        one = data[: scan + 2] + b"\0\x08\x01\x01\x00\0\x3f\0" + data[scan + 14 :]
        decode(one, min_side=54, claim=claimed.append)
    assert claimed == [200 * 150 + 1600 * 1200 // 2]


def test_a_gigapixel_jpeg_is_decoded_small() -> None:
    data = saved(Image.new("L", (20_000, 10_000)), "JPEG")
    assert decode(data, min_side=224).size == (2500, 1250)


def test_more_can_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    assert "too large" in str(reason(saved(corners(), "PNG")))  # Pillow's own limit is twice that
    assert decode(saved(corners(), "PNG"), max_pixels=200_000_000).size == corners().size


def test_out_of_memory_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "_open", full)
    assert not reason(b"x").lasting


@pytest.mark.parametrize(
    "kind",
    [
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        EOFError,
        IndexError,
        TypeError,
        KeyError,
        OverflowError,
        ZeroDivisionError,
        RuntimeError,
        AssertionError,
        NotImplementedError,
    ],
)
def test_any_exception_of_a_plugin(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise kind("<_io.BytesIO object at 0x7f>")

    monkeypatch.setattr(module, "_open", fail)
    assert reason(b"x").lasting


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "TGA", "PCX", "SGI", "DDS", "QOI", "PPM"]
)
def test_damaged_bytes_give_a_picture_or_a_reason(kind: str) -> None:
    chance = random.Random(kind)
    whole = saved(corners(), kind)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(min(len(data), 200))] = chance.randrange(256)
        try:
            assert decode(bytes(data), min_side=8).mode == "RGB"
        except DecodeError as error:
            assert "\n" not in str(error) and " at 0x" not in str(error)


def test_only_listed_formats_and_every_suffix_has_one() -> None:
    Image.init()
    assert not {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"} & set(FORMATS)
    assert set(FORMATS) <= set(Image.OPEN)
    # MPO is opened as JPEG.
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} <= {*FORMATS, "MPO"}


# Warnings and threads


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture of more than 1000 pixels makes Pillow warn."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


def test_pillow_warnings_do_not_escape(small_limit: None) -> None:
    data = saved(corners(), "PNG")  # 1536 pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert difference(decode(data), corners()) == 0
        before = list(warnings.filters)
        decode(data)
        assert warnings.filters == before
        with pytest.raises(UserWarning):
            warnings.warn("from elsewhere", stacklevel=1)


def test_odd_tags_are_not_worth_a_warning() -> None:
    data = orientation_and_a_broken_tag()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):  # what Pillow does by itself
            Image.open(io.BytesIO(data)).getexif()
        for _ in range(2):
            assert difference(decode(data), corners()) < 8
            warnings.simplefilter("error")  # now before ours


def test_many_threads_at_once(small_limit: None) -> None:
    data = [saved(corners(), kind) for kind in ("PNG", "BMP", "TIFF", "GIF")] * 20
    start = threading.Barrier(4)

    def work(part: list[bytes]) -> float:
        start.wait()
        return max(difference(decode(each), corners()) for each in part)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            assert max(pool.map(work, [data[at::4] for at in range(4)])) < 8


def test_the_version_is_cheap_and_names_pillow() -> None:
    assert PIL.__version__ in decode_version()
    code = "import sys, clipcls.decode as d; d.decode_version(); sys.exit('PIL.Image' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# HEIC and camera RAW


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def test_heic_whatever_the_name() -> None:
    data = heic(corners((96, 64)))
    for name in ("a.HEIC", "a.jpg", ""):
        assert difference(decode(data, name=name), corners((96, 64))) < 8


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    back = BACK[orientation]
    stored = corners((96, 64)).transpose(back) if back is not None else corners((96, 64))
    data = heic(stored, exif=exif.tobytes())
    assert difference(decode(data), corners((96, 64))) < 8


def test_transparent_heic() -> None:
    assert np.asarray(decode(heic(Image.new("RGBA", (64, 64), (0, 0, 0, 0))))).min() > 250


def test_damaged_heic_is_tried_again_next_time() -> None:
    data = heic(corners((96, 64)))
    assert not reason(data[: len(data) // 2]).lasting


def test_a_huge_heic() -> None:
    with pytest.raises(DecodeError, match="too large"):
        decode(heic(corners((96, 64))), max_pixels=6143)


@pytest.mark.parametrize(("package", "name"), [("pillow_heif", "a.heic"), ("rawpy", "a.NEF")])
def test_a_missing_camera_package(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" if name == "a.heic" else saved(corners(), "TIFF")
    monkeypatch.setitem(sys.modules, package, None)
    error = reason(data, name)
    assert 'pip install "clipcls[camera]"' in str(error) and not error.lasting


def dng(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """The least of a DNG that LibRaw opens: one uncompressed 16-bit RGGB mosaic."""
    height, width = pixels.shape
    short, long, byte, text, srational = 3, 4, 1, 2, 10
    matrix = struct.pack("<18i", *(v for at in range(9) for v in (10000 if at % 4 == 0 else 0, 10000)))
    tags: list[tuple[int, int, int, bytes]] = [
        (254, long, 1, struct.pack("<I", 0)),
        (256, long, 1, struct.pack("<I", width)),
        (257, long, 1, struct.pack("<I", height)),
        (258, short, 1, struct.pack("<H", 16)),
        (259, short, 1, struct.pack("<H", 1)),
        (262, short, 1, struct.pack("<H", 32803)),
        (271, text, 5, b"Test\0"),
        (272, text, 5, b"Test\0"),
        (273, long, 1, b"DATA"),
        (274, short, 1, struct.pack("<H", orientation)),
        (277, short, 1, struct.pack("<H", 1)),
        (278, long, 1, struct.pack("<I", height)),
        (279, long, 1, struct.pack("<I", pixels.nbytes)),
        (33421, short, 2, struct.pack("<HH", 2, 2)),
        (33422, byte, 4, bytes([0, 1, 1, 2])),
        (50706, byte, 4, bytes([1, 4, 0, 0])),
        (50708, text, 5, b"Test\0"),
        (50717, short, 1, struct.pack("<H", 65535)),
        (50721, srational, 9, matrix),
        (50728, 5, 3, struct.pack("<6I", 1, 1, 1, 1, 1, 1)),
        (50778, short, 1, struct.pack("<H", 21)),
    ]
    extra_at = 8 + 2 + 12 * len(tags) + 4
    extra = b"".join(value + bytes(len(value) % 2) for _, _, _, value in tags if len(value) > 4)
    directory, used = b"", 0
    for tag, kind, count, value in tags:
        if value == b"DATA":
            field = struct.pack("<I", extra_at + len(extra))
        elif len(value) > 4:
            field = struct.pack("<I", extra_at + used)
            used += len(value) + len(value) % 2
        else:
            field = value.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, count) + field
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory + bytes(4) + extra + pixels.tobytes()


def test_a_dng_is_read_upright_at_half_size() -> None:
    pytest.importorskip("rawpy")
    mosaic = np.full((128, 192), 2000, dtype="<u2")
    mosaic[:64] = 60000  # bright upper half
    image = np.asarray(decode(dng(mosaic), name="photo.DNG")).astype(int)
    assert image.shape == (64, 96, 3)
    assert image[:24].mean() > image[40:].mean() + 100
    turned = np.asarray(decode(dng(np.rot90(mosaic).copy(), orientation=6), name="photo.dng")).astype(int)
    assert turned.shape == (64, 96, 3)
    assert turned[:24].mean() > turned[40:].mean() + 100


def test_a_damaged_raw_file() -> None:
    pytest.importorskip("rawpy")
    assert not reason(b"II*\0garbage" * 20, "a.nef").lasting


def test_a_picture_that_turns_while_it_is_read_claims_once() -> None:
    """Pillow turns a TIFF as its XMP says when it is loaded; threads that each claimed twice waited for each other."""
    turned = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    file = io.BytesIO()
    Image.new("RGB", (40, 20)).save(file, "TIFF", tiffinfo={700: turned.encode()})
    claimed: list[int] = []
    assert decode(file.getvalue(), claim=claimed.append).size == (20, 40)
    assert claimed == [800]


def test_raw_goes_by_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raw:
        sizes = types.SimpleNamespace(raw_width=6, raw_height=4)

        def __enter__(self) -> Raw:
            return self

        def __exit__(self, *_: object) -> None: ...

        def postprocess(self, **options: object) -> np.ndarray:
            assert options["half_size"]
            return np.full((2, 3, 3), 9, dtype=np.uint8)

    fake = types.SimpleNamespace(imread=lambda stream: Raw())
    monkeypatch.setitem(sys.modules, "rawpy", fake)  # type: ignore[arg-type]
    preview = saved(corners(), "TIFF")
    assert decode(preview, name="dir.tif/a.Cr2", max_pixels=24).size == (3, 2)
    with pytest.raises(DecodeError, match="too large"):
        decode(preview, name="a.cr2", max_pixels=23)
    assert decode(preview, name="a.tif").size == corners().size


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1)])
def test_a_thread_of_pixels_is_refused(size: tuple[int, int]) -> None:
    data = io.BytesIO()
    Image.new("RGB", size).save(data, "PNG")
    with pytest.raises(DecodeError, match=f"too narrow to be looked at: {size[0]} x {size[1]} pixels"):
        decode(data.getvalue())
