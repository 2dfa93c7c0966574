"""Frames of videos: made here with PyAV, tiny, of plain colours that tell which frame one has got."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import Terminal
from fakes import FakeDoor, picture

import clipcls.video
from clipcls.decode import decode
from clipcls.errors import UsageError
from clipcls.records import ImageRef
from clipcls.sources import ImageSource, file_ref
from clipcls.store import Store
from clipcls.video import VIDEO_SUFFIXES, Sampling, Videos, video_of

av = pytest.importorskip("av")

Install = Callable[..., FakeDoor]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
CODECS = {".mp4": "mpeg4", ".mkv": "libx264", ".webm": "libvpx", ".avi": "mpeg4", ".mov": "libx264", ".mts": "libx264"}


@pytest.fixture(autouse=True)
def folder(here: Path) -> Path:
    return here


def film(
    path: str | Path,
    colours: Sequence[tuple[int, int, int]],
    *,
    rate: int = 10,
    seconds: float = 1.0,
    size: tuple[int, int] = (48, 32),
    options: dict[str, str] | None = None,
) -> Path:
    """A video that shows each colour for some seconds; a fifth of its left is black, so that a turn is seen."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".mts": "mpegts"}.get(path.suffix)
    with av.open(str(path), "w", format=kind, options=options or {}) as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for colour in colours:
            pixels = np.full((size[1], size[0], 3), colour, np.uint8)
            pixels[:, : size[0] // 5] = 0
            for _ in range(round(rate * seconds)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    os.utime(path, (1_600_000_000, 1_600_000_000))
    return path


def frames(path: str | Path, **sampling: object) -> list[ImageRef]:
    return list(Videos(Sampling(**sampling)).frames(file_ref(str(path), os.getcwd())))  # type: ignore[arg-type]


def count(path: str | Path, **sampling: object) -> int | None:
    return Videos(Sampling(**sampling)).count(file_ref(str(path), os.getcwd()))  # type: ignore[arg-type]


def colour(ref: ImageRef) -> tuple[int, int, int]:
    """The plain colour at the right of a frame, as far as the codec has kept it."""
    with ref.open() as file:
        image = decode(file.read())
    channels = image.getpixel((image.width - 4, image.height // 2))
    assert isinstance(channels, tuple)
    return tuple(255 if channel > 127 else 0 for channel in channels)  # type: ignore[return-value]


def error(ref: ImageRef) -> str:
    with pytest.raises(OSError) as caught:
        ref.open()
    return caught.value.strerror or str(caught.value)


# Which frames


@pytest.mark.parametrize("suffix", CODECS)
def test_a_frame_a_second(suffix: str, folder: Path) -> None:
    path = film(f"片/大象{suffix}", [RED, GREEN, BLUE])
    shown = frames(path)
    assert [ref.id for ref in shown] == [f"{path}#t=0.00", f"{path}#t=1.00", f"{path}#t=2.00"]
    assert [colour(ref) for ref in shown] == [RED, GREEN, BLUE]
    assert [colour(ref) for ref in reversed(shown)] == [BLUE, GREEN, RED]  # by seeking back
    assert count(path) == 3
    stamp, status = shown[1].stat, path.stat()
    assert stamp is not None and stamp.path == str(folder / path) + "#t=1.00"
    assert (stamp.size, stamp.mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_more_and_fewer_frames_a_second() -> None:
    path = film("a.mp4", [RED, GREEN, BLUE])
    assert [ref.id[-4:] for ref in frames(path, fps=3)] == (
        ["0.00", "0.33", "0.67", "1.00", "1.33", "1.67", "2.00", "2.33", "2.67"]
    )
    assert [colour(ref) for ref in frames(path, fps=2)] == [RED, RED, GREEN, GREEN, BLUE, BLUE]
    assert [colour(ref) for ref in frames(path, fps=0.5)] == [RED, BLUE]
    assert [ref.id[-4:] for ref in frames(path, fps=0.1)] == ["0.00"]


def test_what_shows_is_the_frame_that_began_before() -> None:
    # So few frames that the decoder holds most of them until it hears that there are no more.
    slides = film("slides.mkv", [RED, GREEN, BLUE], rate=1, seconds=4)
    assert [colour(ref) for ref in frames(slides, fps=0.5)] == [RED, RED, GREEN, GREEN, BLUE, BLUE]


def test_scenes() -> None:
    path = film("a.mp4", [RED, GREEN, GREEN, (255, 255, 255)])
    shown = frames(path, scenes=True)
    assert [(ref.id, colour(ref)) for ref in shown] == [
        ("a.mp4#t=0.00", RED),
        ("a.mp4#t=1.00", GREEN),
        ("a.mp4#t=3.00", (255, 255, 255)),
    ]
    assert count("a.mp4", scenes=True) is None


def test_a_slow_fade_is_no_change() -> None:
    film("a.mp4", [(grey, grey, grey) for grey in range(0, 250, 5)], seconds=0.1)
    assert len(frames("a.mp4", scenes=True)) == 1


@pytest.mark.parametrize(("turn", "wide"), [(0, True), (90, False), (180, True), (270, False)])
def test_a_phone_held_sideways(turn: int, wide: bool) -> None:
    path = film("a.mp4", [RED])
    one, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    minus = (-(1 << 16)).to_bytes(4, "big", signed=True)
    a, b = {0: (one, zero), 90: (zero, one), 180: (minus, zero), 270: (zero, minus)}[turn]
    c = {one: minus, minus: one, zero: zero}[b]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix of the track
    data[at : at + 20] = a + b + zero + c + a
    path.write_bytes(data)
    with frames(path)[0].open() as file:
        image = decode(file.read())
    assert image.size == ((48, 32) if wide else (32, 48))
    black = {0: (3, 16), 90: (16, 3), 180: (44, 16), 270: (16, 44)}[turn]
    assert max(image.getpixel(black)) < 60  # type: ignore[arg-type, type-var]


def test_the_pixels_are_kept_as_decoded() -> None:
    film("a.mp4", [RED, GREEN])
    with av.open("a.mp4") as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with frames("a.mp4")[0].open() as file:
        assert np.array_equal(np.asarray(decode(file.read())), first)


def test_threads_that_ask_all_at_once() -> None:
    path = film("a.mp4", [RED, GREEN, BLUE] * 8, seconds=0.5)
    shown = frames(path, fps=2)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(colour, shown)) == [RED, GREEN, BLUE] * 8
        assert list(pool.map(colour, shown[::-1])) == [BLUE, GREEN, RED] * 8


# What is wrong with a video


def test_no_video_at_all() -> None:
    Path("text.mp4").write_text("nothing to see")
    Path("empty.mp4").touch()
    Path("list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    for name in ("text.mp4", "empty.mp4", "list.mp4"):
        [ref] = frames(name)
        assert ref.id == name and ref.stat is None
        assert error(ref) == "not a video, or too damaged to be recognised as one"
        assert count(name) == 1
    [ref] = frames("gone.mp4")
    assert error(ref) == "No such file or directory" and count("gone.mp4") == 1
    os.mkfifo("pipe.mp4")
    [ref] = frames("pipe.mp4")
    assert error(ref) == "not a regular file" and count("pipe.mp4") == 1


def test_only_sound() -> None:
    with av.open("a.mkv", "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode()])
    [ref] = frames("a.mkv")
    assert error(ref) == "there are no pictures in it, only sound"


def test_no_frames() -> None:
    path = film("a.mp4", [RED], options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    [ref] = frames("a.mp4")
    assert error(ref) == "the video holds no frames"


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi", "a.mts"])
def test_a_video_that_is_cut_short(name: str) -> None:
    # With the index in front, as it is written for the web: else a cut mp4 cannot be read at all.
    path = film(name, [RED, GREEN, BLUE] * 4, options={"movflags": "faststart"} if name == "a.mp4" else None)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    shown = frames(path)
    if name == "a.mts":  # which promises nothing
        good = shown
    else:
        *good, bad = shown
        assert error(bad).startswith("the video is cut short at")
        assert bad.stat is None and bad.id.startswith(f"{name}#t=")
    assert 4 < len(good) < 12
    assert [colour(ref) for ref in good] == ([RED, GREEN, BLUE] * 4)[: len(good)]
    assert count(path) == len(shown)


def test_a_frame_that_cannot_be_turned_into_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    film("a.mp4", [RED, GREEN])

    def refused(frame: object) -> bytes:
        raise ValueError("Conversion to numpy array with format `odd` is not yet supported")

    shown = frames("a.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(clipcls.video, "_picture", refused)
        assert error(shown[0]) == "this kind of picture cannot be read; convert the video to MP4 first"
    assert colour(shown[1]) == GREEN


def test_a_moment_at_which_nothing_can_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    film("a.mp4", [RED, GREEN])
    shown = frames("a.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(clipcls.video, "_decoded", lambda path, start: iter(()))
        assert error(shown[1]) == "no frame can be decoded at 1.00 seconds"
    assert colour(shown[1]) == GREEN


def test_damage_in_the_middle_costs_no_more_than_what_it_hit() -> None:
    path = film("a.mkv", [RED, GREEN, BLUE], options=None)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    for ref in frames(path):
        ref.open().close()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    film("f/a.mp4", [RED])
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    monkeypatch.setattr("clipcls.sources.selection.find_spec", lambda name: None)
    [ref] = ImageSource(["f/a.mp4"], videos=Sampling(folders=False))
    assert error(ref) == 'videos need an optional package: pip install "clipcls[video]"'
    with pytest.raises(UsageError, match=r"clipcls\[video\]"):
        ImageSource(["f"], videos=Sampling())


# Where videos come from


def test_named_or_met() -> None:
    picture(Path("f/a.png"))
    film("f/b.mp4", [RED, GREEN])
    shutil.copy("f/b.mp4", "f/C.MP4")
    b = ["f/b.mp4#t=0.00", "f/b.mp4#t=1.00"]
    for paths, videos, expected in (
        (["f"], None, ["f/a.png"]),
        (["f/b.mp4"], None, ["f/b.mp4"]),
        (["f"], Sampling(folders=False), ["f/a.png"]),
        (["f/b.mp4", "f"], Sampling(folders=False), [*b, "f/a.png"]),
        (["f"], Sampling(), ["f/C.MP4#t=0.00", "f/C.MP4#t=1.00", "f/a.png", *b]),
    ):
        source = ImageSource(paths, videos=videos)
        assert [ref.id for ref in source] == expected
        assert source.count() == len(expected)
        assert source.skipped.total() == (2 if videos and not videos.folders else 0)
    source = ImageSource(["f"], videos=Sampling(), limit=1)
    assert [ref.id for ref in source] == ["f/C.MP4#t=0.00"] and source.count() == 1
    assert all(suffix == suffix.lower() for suffix in VIDEO_SUFFIXES)


def test_whose_frame() -> None:
    assert video_of("片/a.mp4#t=12.50") == "片/a.mp4"
    assert video_of("a#t=1.00.MKV#t=0.00") == "a#t=1.00.MKV"
    for other in ("a.mp4", "a.mp4#t=1", "a.png#t=1.00", "#t=1.00"):
        assert video_of(other) is None


# The command


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The videos that a decoder was opened for."""
    seen: list[str] = []
    real = clipcls.video._decoded

    def watched(path: str, start: float = 0.0) -> Iterator[object]:
        seen.append(path)
        return real(path, start)

    monkeypatch.setattr(clipcls.video, "_decoded", watched)
    return seen


LABELS = ("--labels", "red,green,blue")


def test_classify_gives_a_row_a_frame_and_decodes_but_once(
    fake: Install, clipcls: Terminal, opened: list[str], folder: Path
) -> None:
    encoder = fake().encoder
    film("片/大象.mp4", [RED, GREEN, BLUE])
    first = clipcls.rows("classify", "片/大象.mp4", *LABELS)
    assert [(row["path"], row["label"]) for row in first] == [
        ("片/大象.mp4#t=0.00", "red"),
        ("片/大象.mp4#t=1.00", "green"),
        ("片/大象.mp4#t=2.00", "blue"),
    ]
    assert "3 images, 0 failed" in clipcls.err
    assert opened and set(opened) == {str(folder / "片/大象.mp4")}
    opened.clear()
    encoder.image_batches.clear()
    assert clipcls.rows("classify", "片/大象.mp4", *LABELS) == first
    assert "3 from the cache" in clipcls.err
    assert not opened and not encoder.image_batches
    finer = clipcls.rows("classify", "片/大象.mp4", *LABELS, "--fps", "2")
    assert finer[::2] == first and len(opened) < 4


def test_videos_in_a_folder_are_told_of(fake: Install, clipcls: Terminal) -> None:
    fake()
    picture(Path("f/a.png"))
    film("f/b.mp4", [RED])
    Path("f/c.heic").touch()
    assert len(clipcls.rows("classify", "f", *LABELS, "--exclude", "*.heic")) == 1
    assert "skipped 1 .mp4 (add --fps 1 to look at their frames)" in clipcls.err
    assert len(clipcls.rows("classify", "f", *LABELS, "--exclude", "*.heic", "--fps", "4")) == 5
    assert "skipped" not in clipcls.err
    clipcls("classify", "f", *LABELS, "--include", "*.mp4", code=3)
    assert "no images found in f; skipped 1 .mp4 (add --fps 1" in clipcls.err


def test_a_row_a_video(fake: Install, clipcls: Terminal) -> None:
    fake()
    picture(Path("a.png"), GREEN)
    film("b.mp4", [RED, RED, RED, BLUE])
    film("c.mp4", [BLUE, BLUE])
    each = clipcls.rows("classify", "a.png", "b.mp4", "c.mp4", *LABELS, "--all-scores")
    for pooling, combine in (("mean", np.mean), ("max", np.max)):
        rows = clipcls.rows("classify", "a.png", "b.mp4", "c.mp4", *LABELS, "--all-scores", "--video", pooling)
        assert [row["path"] for row in rows] == ["a.png", "b.mp4", "c.mp4"]
        assert [row["label"] for row in rows][::2] == ["green", "blue"]
        for label in ("red", "green", "blue"):
            column = f"probability:{label}"
            shown = [float(row[column]) for row in each if row["path"].startswith("b.mp4#")]
            assert float(rows[1][column]) == pytest.approx(combine(shown), abs=2e-6)
    assert rows[0] == each[0]
    sure = clipcls.rows("classify", "b.mp4", *LABELS, "--video", "mean", "--threshold", "0.9")
    assert [row["status"] for row in sure] == ["uncertain"] and sure[0]["best"] == "red"
    rows = clipcls.rows("classify", "b.mp4", "-l", "green", "--background", "red", "--video", "mean")
    assert rows[0]["status"] == "uncertain"


def test_a_video_given_twice_and_one_cut_short(fake: Install, clipcls: Terminal) -> None:
    fake()
    path = film("a.mkv", [RED] * 9)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    rows = clipcls.rows("classify", "a.mkv", *LABELS, "--video", "mean", code=3)
    assert [row["status"] for row in rows] == ["error", "ok"]
    assert "cut short" in rows[0]["error"] and rows[1]["path"] == "a.mkv"


@pytest.mark.parametrize("pooling", ["frames", "mean"])
def test_resume(fake: Install, clipcls: Terminal, pooling: str) -> None:
    fake()
    film("a.mp4", [RED, GREEN])
    film("b.mp4", [BLUE, BLUE])
    words = ("classify", "a.mp4", "b.mp4", *LABELS, "-o", "r.jsonl", "--video", pooling)
    clipcls(*words)
    whole = Path("r.jsonl").read_text("utf-8")
    Path("r.jsonl").rename("r.jsonl.partial")
    first = whole.splitlines(keepends=True)[0]
    Path("r.jsonl.partial").write_text(first, "utf-8")
    Path("r.jsonl.run.json").rename("r.jsonl.partial.run.json")
    clipcls(*words, "--resume")
    assert Path("r.jsonl").read_text("utf-8") == whole
    clipcls(*words, "--fps", "2", "--resume", code=7)
    assert "fps: None then, 2.0 now" in clipcls.err
    assert json.loads(first)["path"] == ("a.mp4" if pooling == "mean" else "a.mp4#t=0.00")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fps", "1", "--scenes"], "--fps and --scenes exclude each other"),
        (["--video", "median"], "unknown --video 'median': use frames, mean, max"),
        (["--video", "max", "--groups"], "use --video mean"),
    ],
)
def test_flags_that_make_no_sense(fake: Install, clipcls: Terminal, words: list[str], said: str) -> None:
    fake()
    film("a.mp4", [RED])
    clipcls("classify", "a.mp4", *LABELS, *words, code=2)
    assert said in clipcls.err


def test_prune_keeps_the_frames_of_videos_that_are_there(fake: Install, clipcls: Terminal, own_folders: Path) -> None:
    fake()
    path = film("a.mp4", [RED, GREEN])
    clipcls("classify", "a.mp4", *LABELS)
    with Store.open(own_folders / "cache") as store:
        assert store.prune().files == 0
        path.unlink()
        pruned = store.prune()
        assert (pruned.files, pruned.images) == (2, 2)


def test_two_runs_are_equal(fake: Install, clipcls: Terminal) -> None:
    fake()
    film("a.mkv", [RED, GREEN, BLUE] * 3, seconds=0.7)
    runs = [clipcls("classify", "a.mkv", *LABELS, "--fps", "3", "--no-cache", "--workers", "4") for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_video_that_is_replaced_is_looked_at_anew() -> None:
    for shown in (RED, BLUE):
        assert [colour(ref) for ref in frames(film("a.mp4", [shown]))] == [shown]


def test_a_large_video_is_no_large_picture() -> None:
    path = film("a.mp4", [RED], options={"movflags": "faststart"})
    with path.open("ab") as file:
        file.write((1 << 31).to_bytes(4, "big") + b"free")
        file.truncate(path.stat().st_size + (1 << 31) - 8)
    assert [colour(ref) for ref in frames(path)] == [RED]
