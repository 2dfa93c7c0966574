from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import within
from fakes import FakeDoor, FakeEncoder, picture
from PIL import Image

from clipcls import loading, pipeline
from clipcls.errors import DeviceError, ModelError
from clipcls.pipeline import Embedded, Embedder
from clipcls.records import Failure, ImageRef
from clipcls.sources import ImageSource
from clipcls.store import Store

Install = Callable[..., FakeDoor]


@pytest.fixture
def open_embedder(tmp_path: Path) -> Iterator[Callable[..., Embedder]]:
    opened: list[Embedder] = []

    def make(*, keep: bool = True, **options: object) -> Embedder:
        store = Store.open(tmp_path / "store") if keep else None
        opened.append(Embedder("fake/one", store=store, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for embedder in opened:
        embedder.close()


def results(embedder: Embedder, *paths: Path) -> list[Embedded | Failure]:
    return [result for block in embedder.images(ImageSource([*paths])) for result in block]


def pictures(folder: Path, count: int) -> list[Path]:
    return [picture(folder / f"{i:04}.png", (i % 256, i // 256, 7)) for i in range(count)]


def test_images_come_in_input_order_and_are_encoded_in_batches(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    encoder = fake().encoder
    paths = pictures(tmp_path / "imgs", 23)
    found = results(open_embedder(batch_size=4, workers=3), tmp_path / "imgs")
    assert [result.path for result in found] == [str(path) for path in paths]
    assert encoder.image_batches == [4, 4, 4, 4, 4, 3]
    assert len({encoder.prepared[i] for i in range(23)} & {threading.get_ident()}) == 0
    for result in found:
        assert isinstance(result, Embedded) and not result.cached
        assert np.linalg.norm(result.vector) == pytest.approx(1.0, abs=1e-6)


def test_the_second_run_loads_and_decodes_nothing(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = fake()
    pictures(tmp_path / "imgs", 10)
    first = results(open_embedder(), tmp_path / "imgs")
    open_embedder().texts(["red", "blue"])
    monkeypatch.setattr("clipcls.sources.opening._open_regular", pytest.fail)
    door.loads = 0
    again = open_embedder()
    second = results(again, tmp_path / "imgs")
    vectors, _ = again.texts(["red", "blue"])
    assert door.loads == 0 and vectors.shape == (2, 16)
    assert [(a.path, a.vector.tobytes()) for a in first] == [(b.path, b.vector.tobytes()) for b in second]
    assert all(result.cached for result in second)


def test_moved_and_touched_files_are_recognised_by_content(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    door = fake()
    pictures(tmp_path / "imgs", 5)
    results(open_embedder(), tmp_path / "imgs")
    (tmp_path / "imgs").rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "0001.png")
    door.loads = 0
    found = results(open_embedder(), tmp_path / "moved")
    assert all(result.cached for result in found) and len(found) == 5
    assert door.loads == 0, "the model is not needed for pictures that are known by content"


def test_equal_files_are_encoded_once_and_score_the_same(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    encoder = fake().encoder
    for i in range(40):
        picture(tmp_path / "imgs" / f"{i}.png", (i % 4, 0, 0))
    found = results(open_embedder(batch_size=3, workers=2), tmp_path / "imgs")
    assert sum(encoder.image_batches) == 4
    assert len({result.vector.tobytes() for result in found}) == 4


def test_a_changed_picture_is_embedded_again(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    encoder = fake().encoder
    path = picture(tmp_path / "a.png", (255, 0, 0))
    before = results(open_embedder(), path)[0]
    path.unlink()
    picture(path, (0, 0, 255))
    os.utime(path, (1_600_000_001, 1_600_000_001))
    after = results(open_embedder(), path)[0]
    assert before.vector.tobytes() != after.vector.tobytes() and encoder.image_batches == [1, 1]


def test_bad_pictures_become_failures_and_are_remembered(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    picture(tmp_path / "imgs" / "a.png")
    for name, data in {"b.jpg": b"", "c.png": b"no picture"}.items():
        (tmp_path / "imgs" / name).write_bytes(data)
        os.utime(tmp_path / "imgs" / name, (1_600_000_000, 1_600_000_000))
    (tmp_path / "imgs" / "d.jpg").symlink_to("nowhere")
    first = results(open_embedder(), tmp_path / "imgs")
    monkeypatch.setattr(loading, "decode", pytest.fail)
    second = results(open_embedder(), tmp_path / "imgs")
    for run, cached in ((first, False), (second, True)):
        good, empty, garbage, broken = run
        assert isinstance(good, Embedded)
        assert isinstance(empty, Failure) and empty.error == "the file is empty" and empty.cached is cached
        assert isinstance(garbage, Failure) and garbage.cached is cached
        assert isinstance(broken, Failure) and broken.error == "cannot be read: No such file or directory"
        assert not broken.cached, "the file may be back next time"


def test_a_batch_that_does_not_fit_is_halved(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder], caplog: pytest.LogCaptureFixture
) -> None:
    encoder = fake(memory=3).encoder
    pictures(tmp_path / "imgs", 20)
    found = results(open_embedder(batch_size=8), tmp_path / "imgs")
    assert len(found) == 20 and all(isinstance(result, Embedded) for result in found)
    assert max(encoder.image_batches) == 2 and sum(encoder.image_batches) == 20
    assert caplog.messages == [
        "out of memory with 8 images at once; trying 4",
        "out of memory with 4 images at once; trying 2",
    ]


def test_no_room_for_one_picture_is_an_error(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    fake(memory=0)
    with pytest.raises(DeviceError):
        results(open_embedder(), picture(tmp_path / "a.png"))


def test_an_unusable_embedding_is_a_failure_and_is_not_kept(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    encoder = fake(broken=(9, 9, 9)).encoder
    picture(tmp_path / "imgs" / "a.png", (9, 9, 9))
    picture(tmp_path / "imgs" / "b.png", (80, 9, 9))
    bad, good = results(open_embedder(), tmp_path / "imgs")
    assert isinstance(bad, Failure) and "no usable embedding" in bad.error
    assert isinstance(good, Embedded)
    encoder.broken = None
    assert isinstance(results(open_embedder(), tmp_path / "imgs")[0], Embedded)


def test_prompts_are_embedded_once(fake: Install, open_embedder: Callable[..., Embedder]) -> None:
    encoder = fake().encoder
    vectors, tokens = open_embedder().texts(["a red one", "a blue one", "a red one", "x" * 100])
    assert encoder.texts == ["a red one", "a blue one", "x" * 100]
    assert vectors[0].tobytes() == vectors[2].tobytes()
    assert [count.cut for count in tokens] == [False, False, False, True]
    _, again = open_embedder().texts(["x" * 100, "a green one"])
    assert encoder.texts[3:] == ["a green one"] and again[0].cut and again[0].tokens == 77


def test_many_prompts_are_told(
    fake: Install,
    open_embedder: Callable[..., Embedder],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake()
    monkeypatch.setattr(pipeline, "_MANY_TEXTS", 3)
    with caplog.at_level("INFO", "clipcls"):
        open_embedder().texts(["a", "b"])
        assert caplog.messages == []
        open_embedder().texts(["a", "c", "d", "e"])
    assert caplog.messages == ["embedding 3 prompts, which is done once"]


def test_the_source_is_read_only_a_little_ahead(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    fake()
    taken = 0
    path = picture(tmp_path / "a.png")

    def refs() -> Iterator[ImageRef]:
        nonlocal taken
        for i in range(100_000):
            taken += 1
            yield ImageRef(str(i), "/", None, lambda: path.open("rb"))

    blocks = open_embedder(keep=False, batch_size=4, workers=2).images(refs())
    seen = 0
    for block in blocks:
        seen += len(block)
        if seen > 2000:
            break
    blocks.close()
    assert taken - seen < 1000


def test_pixels_are_held_only_a_little_ahead(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pixels(np.ndarray):
        held = most = 0

        def __del__(self) -> None:
            Pixels.held -= 1

    def preprocess(image: Image.Image) -> np.ndarray:
        pixels = np.asarray(image.resize((2, 2)), np.float32).mean(axis=(0, 1)).view(Pixels)
        Pixels.held += 1
        Pixels.most = max(Pixels.most, Pixels.held)
        return pixels

    monkeypatch.setattr(fake(seconds=0.002).encoder, "preprocess", preprocess)
    pictures(tmp_path / "imgs", 200)
    results(open_embedder(batch_size=4, workers=2), tmp_path / "imgs")
    # Ready or being made: two batches and one a worker. In the tower's hands: two batches.
    assert 2 * 4 <= Pixels.most <= 2 * 4 + 2 + 2 * 4


def test_giving_up_keeps_the_batches_that_were_finished(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    encoder = fake(seconds=0.05).encoder
    pictures(tmp_path / "imgs", 40)
    blocks = open_embedder(batch_size=2, workers=2).images(ImageSource([tmp_path / "imgs"]))
    seen = sum(len(next(blocks)) for _ in range(3))
    with within(1):
        blocks.close()
    time.sleep(0.2)
    done = sum(encoder.image_batches)
    assert seen <= done < 40
    encoder.image_batches.clear()
    results(open_embedder(), tmp_path / "imgs")
    assert sum(encoder.image_batches) <= 40 - seen


def test_a_model_that_changed_never_gets_old_vectors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    path = picture(tmp_path / "a.png")
    first = FakeDoor(FakeEncoder(fingerprint="oc1-one"), [weights])
    monkeypatch.setattr(pipeline, "load_encoder", first)
    results(open_embedder(), path)
    weights.write_bytes(b"another")
    second = FakeDoor(FakeEncoder(fingerprint="oc1-two"), [weights])
    monkeypatch.setattr(pipeline, "load_encoder", second)
    embedder = open_embedder()
    assert embedder.info.fingerprint == "oc1-two"
    assert not results(embedder, path)[0].cached and second.encoder.image_batches == [1]


def test_an_embedding_of_an_older_clipcls_is_not_used(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = fake()
    results(open_embedder(), picture(tmp_path / "a.png"))
    monkeypatch.setattr(pipeline, "ENCODER_VERSION", "oc2")
    door.encoder = FakeEncoder(fingerprint="oc2-fake")
    assert open_embedder().info.fingerprint == "oc2-fake"


def test_a_model_that_changes_between_two_looks_is_an_error(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    door = fake()
    results(open_embedder(), picture(tmp_path / "a.png"))
    embedder = open_embedder()
    assert embedder.info.fingerprint == "oc1-fake"
    door.encoder = FakeEncoder(fingerprint="oc1-other")
    with pytest.raises(ModelError, match="changed during the run; run the command again"):
        results(embedder, picture(tmp_path / "b.png", (1, 2, 3)))
    assert open_embedder().info.fingerprint == "oc1-other", "run again, it is the other model"


def test_a_picture_that_changes_while_it_is_read_is_read_again_next_time(
    fake: Install, tmp_path: Path, open_embedder: Callable[..., Embedder]
) -> None:
    fake()
    path = picture(tmp_path / "a.png", (255, 0, 0))
    stamped = next(iter(ImageSource([path])))
    blue = picture(tmp_path / "b.png", (0, 0, 255)).read_bytes()

    def changed() -> io.BytesIO:
        path.write_bytes(blue)
        return io.BytesIO(blue)

    ref = ImageRef(stamped.id, stamped.base, stamped.stat, changed)  # type: ignore[arg-type]
    (during,) = [result for block in open_embedder().images([ref]) for result in block]
    (after,) = results(open_embedder(), path)
    assert during.vector.tobytes() == after.vector.tobytes(), "what was read is what was embedded"
