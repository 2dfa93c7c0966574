"""What one picture may cost: it is given up when it takes too long, and memory is shared out."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Terminal, wait_for, within
from fakes import FakeDoor, FakeEncoder, picture
from PIL import Image

from clipcls import loading
from clipcls.errors import DecodeError
from clipcls.isolated import Decoder
from clipcls.loading import Limits, Loaded, Loaders
from clipcls.records import FileStamp, ImageRef
from clipcls.sources import ImageSource
from clipcls.store import Store
from clipcls.store.absent import NoStore
from clipcls.tower import Tower

Install = Callable[..., FakeDoor]
FAKE = [sys.executable, str(Path(__file__).parent / "cli_with_fake.py"), "0"]


def endless(scans: int, side: int = 4000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each costs a pass over all of it, and few bytes."""
    file = io.BytesIO()
    Image.new("L", (side, side), 255).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:scan] + data[scan:end] * scans + data[end:]


def processes() -> set[int]:
    """The decoders that this process has started and that still run."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for file in children for pid in file.read_text().split()}


@pytest.fixture
def slow(here: Path) -> Path:
    """A folder with two pictures that take minutes, between others."""
    for at in range(30):
        picture(here / "imgs" / f"{at:02}.png", (255 - at, at, 0))
    spoil(here / "imgs", 20_000)
    return here / "imgs"


def spoil(folder: Path, scans: int) -> None:
    for name in ("05.jpg", "17.jpg"):
        (folder / name).write_bytes(endless(scans))
        os.utime(folder / name, (1_600_000_000, 1_600_000_000))


def test_a_picture_that_takes_too_long_is_a_row_and_the_others_go_on(slow: Path) -> None:
    words = ["classify", "imgs", "--labels", "red,green", "-o", "out.jsonl", "--workers", "2", "--overwrite"]
    with within(30):
        done = subprocess.run([*FAKE, *words, "--time-limit", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3 and "Traceback" not in done.stderr and "2 failed" in done.stderr, done.stderr
    rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 32
    late = {row["path"]: row["error"] for row in rows if row["error"]}
    reason = "not decoded within 1 s (allow more: --time-limit, or time_limit in the settings)"
    assert late == {"imgs/05.jpg": reason, "imgs/17.jpg": reason}

    with within(1.5):  # it is known of the same bytes within the same limit
        done = subprocess.run([*FAKE, *words, "--time-limit", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3 and "32 from the cache" in done.stderr
    done = subprocess.run([*FAKE, *words, "--time-limit", "2"], capture_output=True, text=True, timeout=300)
    assert "not decoded within 2 s" in Path("out.jsonl").read_text("utf-8")


def test_interrupting_does_not_wait_for_it(slow: Path, own_folders: Path) -> None:
    words = ["classify", "imgs/05.jpg", "--labels", "red,green"]
    run = subprocess.Popen([*FAKE, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for((own_folders / "cache").exists)
    time.sleep(1)  # it is being decoded
    with within(2):
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130, said


@pytest.fixture
def loaders(fake: Install) -> Iterator[Callable[..., Loaders]]:
    made: list[Loaders] = []

    def make(limits: Limits, workers: int = 2, store: Store | None = None) -> Loaders:
        tower = Tower(lambda: fake().encoder)
        made.append(Loaders(tower, store or NoStore(), "oc1-fake", workers, limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


def load(loaders: Loaders, *paths: Path) -> list[Loaded]:
    handed = [loaders.submit(ref) for ref in ImageSource([*paths])]
    return [loaders.result(each) for each in handed]


def test_frames_of_a_large_video_are_read_side_by_side(loaders: Callable[..., Loaders], here: Path) -> None:
    both = threading.Barrier(2)
    shown = picture(here / "frame.png").read_bytes()

    def opened() -> io.BytesIO:
        both.wait(timeout=120)
        return io.BytesIO(shown)

    mine = loaders(Limits())
    stamp = FileStamp("a.mp4", 1 << 31, 0)
    handed = [mine.submit(ImageRef(f"a.mp4#t={at}.00", str(here), stamp, opened)) for at in range(2)]
    assert all(mine.result(each).pixels is not None for each in handed)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_after_that_pictures_are_decoded_in_processes(loaders: Callable[..., Loaders], slow: Path) -> None:
    spoil(slow, 600)  # enough seconds: these threads go on beside the tests that follow
    before = processes()
    mine = loaders(Limits(seconds=1.0))
    first = load(mine, slow / "05.jpg")
    assert first[0].error and first[0].remember and first[0].key and processes() == before
    good = load(mine, slow / "00.png", slow / "01.png")
    assert all(found.pixels is not None for found in good)
    decoders = processes() - before
    (late,) = load(mine, slow / "17.jpg")
    assert late.error == first[0].error
    again = load(mine, slow / "02.png", slow / "03.png", slow / "04.png")
    assert all(found.pixels is not None for found in again)
    mine.close()
    for _ in range(100):
        if processes() <= before:
            break
        time.sleep(0.05)
    assert processes() <= before and 1 <= len(decoders) <= 3


def test_all_threads_may_be_stuck_at_once(loaders: Callable[..., Loaders], slow: Path) -> None:
    spoil(slow, 600)
    found = load(loaders(Limits(seconds=1.5), workers=2), slow / "05.jpg", slow / "17.jpg", slow / "00.png")
    assert [bool(each.error) for each in found] == [True, True, False]


def test_a_large_file_that_is_stuck_is_in_nobodys_way(
    loaders: Callable[..., Loaders], slow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_LARGE", 50)
    spoil(slow, 600)
    found = load(loaders(Limits(seconds=1.0), workers=2), slow / "05.jpg", slow / "00.png", slow / "01.png")
    assert [bool(each.error) for each in found] == [True, False, False]


def test_waiting_for_room_or_for_the_model_is_not_counted(
    loaders: Callable[..., Loaders], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoding(data: bytes, *, claim: Callable[[int], object], **_: object) -> Image.Image:
        claim(60_000_000)
        time.sleep(0.6)
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(loading, "decode", decoding)
    found = load(loaders(Limits(seconds=1.0), workers=4), *(picture(here / f"{at}.png", (at, 0, 0)) for at in range(4)))
    assert [each.error for each in found] == [None] * 4


def test_pictures_are_decoded_within_the_room_that_there_is(
    loaders: Callable[..., Loaders], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, held, most = threading.Lock(), 0, 0

    def decoding(data: bytes, *, claim: Callable[[int], object], **_: object) -> Image.Image:
        nonlocal held, most
        claim(50_000_000)
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.02)
        return Image.new("RGB", (2, 2))

    def preprocess(image: Image.Image) -> bytes:
        nonlocal held
        with lock:
            held -= 1
        return b""

    monkeypatch.setattr(loading, "decode", decoding)
    monkeypatch.setattr(FakeEncoder, "preprocess", lambda self, image: preprocess(image))
    paths = [picture(here / f"{at}.png", (at, 0, 0)) for at in range(12)]
    assert all(each.error is None for each in load(loaders(Limits(), workers=6), *paths)) and most == 2
    assert all(each.error is None for each in load(loaders(Limits(20_000_000), workers=2), *paths))
    assert most == 2, "one that is larger than the room waits until it is alone"


def test_a_large_file_waits_for_the_other(
    loaders: Callable[..., Loaders], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_LARGE", 50)
    lock, most, now = threading.Lock(), 0, 0

    def decoding(data: bytes, **_: object) -> Image.Image:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(loading, "decode", decoding)
    paths = [picture(here / f"{at}.png", (at, 0, 0)) for at in range(8)]
    load(loaders(Limits(), workers=4), *paths)
    assert most == 1


def test_no_memory_to_read_or_to_prepare_one_is_a_row(
    loaders: Callable[..., Loaders], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    class Large(io.BytesIO):
        read = full  # type: ignore[assignment]

    path = picture(here / "a.png")
    monkeypatch.setattr(FakeEncoder, "preprocess", full)
    (found,) = load(loaders(Limits()), path)
    assert (found.error, found.remember) == ("not enough memory to prepare it", False)
    mine = loaders(Limits())
    found = mine.result(mine.submit(ImageRef("a.png", str(here), None, Large)))
    assert (found.key, found.error, found.remember) == (None, "cannot be read: not enough memory", False)


def test_another_process_decodes_as_a_thread_does() -> None:
    from conftest import IMAGES

    from clipcls.decode import decode

    decoder = Decoder()
    for path in sorted(path for path in IMAGES.rglob("*.*") if path.is_file()):
        claimed: list[int] = []
        options = {"min_side": 64, "name": path.name, "max_pixels": 10_000_000}
        found: list[tuple[object, ...]] = []
        for way in (decode, decoder.decode):
            try:
                image = way(path.read_bytes(), claim=claimed.append, **options)  # type: ignore[operator]
                found.append((image.size, image.mode, image.tobytes()))
            except DecodeError as exc:
                found.append((str(exc), exc.lasting))
        assert found[0] == found[1] and claimed[::2] == claimed[1::2], path
    decoder.close()


@pytest.mark.parametrize("gone", [False, True], ids=["while it is told", "before it is told"])
def test_a_decoder_that_crashes_costs_one_picture(gone: bool, here: Path) -> None:
    data = picture(here / "a.png").read_bytes()
    decoder = Decoder()

    def crash(pixels: int) -> None:
        decoder.kill()
        if gone:
            decoder.start().wait()

    with pytest.raises(DecodeError, match="crashed") as raised:
        decoder.decode(data, min_side=8, name="a.png", max_pixels=10**6, claim=crash)
    assert not raised.value.lasting
    assert decoder.decode(data, min_side=8, name="a.png", max_pixels=10**6, claim=lambda pixels: None).size == (12, 8)
    decoder.close()


def test_a_decoder_ends_with_the_process_that_asks(here: Path) -> None:
    code = (
        "import sys, os, time; from clipcls import isolated; from clipcls.isolated import Decoder; d = Decoder()\n"
        "def told(pixels): print(d._process.pid, flush=True)\n"
        "d.decode(open(sys.argv[1], 'rb').read(), min_side=8, name='', max_pixels=10**8, claim=told)"
    )
    file = Path("slow.jpg")
    file.write_bytes(endless(20_000))
    asks = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert asks.stdout
    decoder = int(asks.stdout.readline())
    asks.kill()
    asks.wait()
    asks.stdout.close()
    for _ in range(100):
        try:
            os.kill(decoder, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_the_limits_are_settings_too(here: Path, clipcls: Terminal, fake: Install) -> None:
    fake()
    picture(here / "a.png", size=(40, 30))
    Path("clipcls.toml").write_text("max_pixels = 1199\n")
    words = ["classify", "a.png", "--labels", "red,green"]
    (row,) = clipcls.rows(*words, code=3)
    assert "over 0.0012 megapixels" in row["error"]
    (row,) = clipcls.rows(*words, "--max-pixels", "1200")
    assert row["status"] == "ok"
    Path("clipcls.toml").write_text("time_limit = 0\n")
    clipcls(*words, code=2)
    assert "clipcls.toml: time_limit: time-limit must be 1 or more" in clipcls.err
