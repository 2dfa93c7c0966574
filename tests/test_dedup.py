"""``clipcls dedup``: groups of images that are nearly the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGES, Terminal
from fakes import FakeDoor, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipcls import duplicates as module
from clipcls.duplicates import Copy, duplicates, groups
from clipcls.pipeline import Embedded

Install = Callable[..., FakeDoor]


def units(count: int, seed: int = 0, dim: int = 24) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def components(close: np.ndarray) -> list[list[int]]:
    """By definition: what can be reached from a row, over one step after the other."""
    left, found = set(range(len(close))), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            edge = {int(other) for row in edge for other in np.flatnonzero(close[row])} - group
        left -= group
        found.append(sorted(group))
    return [group for group in found if len(group) > 1]


@given(st.integers(0, 1000), st.integers(1, 120), st.floats(0.2, 1.0))
@settings(max_examples=60, deadline=None)
def test_groups_are_the_connected_components(seed: int, count: int, threshold: float) -> None:
    vectors = units(count, seed, dim=6)
    vectors[count // 2 :] = vectors[: count - count // 2] + 0.05 * vectors[count // 2 :]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE", 16)
        found = [rows.tolist() for rows in groups(vectors, threshold)]
        close = np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 5)
        if not (np.abs(close - threshold) < 2e-5).any():  # rounding would decide
            assert found == components(close >= threshold)


def test_groups_over_several_tiles_of_their_real_size() -> None:
    vectors = units(2500)
    copies = {5: (1500, 2400), 1100: (1101,)}
    for first, others in copies.items():
        vectors[list(others)] = vectors[first]
    assert [rows.tolist() for rows in groups(vectors, 0.98)] == [[5, 1500, 2400], [1100, 1101]]
    assert groups(vectors[:3], 0.98) == [] and groups(vectors[:0], 0.98) == []


def test_thousands_of_one_picture_are_one_group() -> None:
    vectors = np.repeat(units(1), 5000, axis=0)
    (rows,) = groups(vectors, 1.0)
    assert rows.tolist() == list(range(5000))


def test_a_group_is_what_is_near_the_image_to_keep_and_no_chain(here: Path) -> None:
    angles = np.array([0.0, 0.15, 0.3, 1.5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    images = []
    for at, vector in enumerate(vectors):
        Path(f"{at}").write_bytes(b"x" * (10 - at))
        images.append(Embedded(f"{at}", vector, False))
    found = duplicates(iter(images), 0.98)
    assert [(copy.path, copy.verdict) for copy in found] == [("0", "keep"), ("1", "similar")]
    assert found[1].cosine == pytest.approx(np.cos(0.15), abs=1e-6)
    found = duplicates(images[::-1], 0.94)
    assert [(copy.group, copy.path) for copy in found] == [(1, "0"), (1, "2"), (1, "1")]


def test_the_largest_file_is_kept_and_equal_bytes_are_identical(here: Path) -> None:
    vector = units(1)[0]
    for name, content in {"a": b"1", "b": b"22", "c": b"33", "d": b"22", "e": b"1"}.items():
        Path(name).write_bytes(content)
    found = duplicates([Embedded(name, vector, False) for name in ("a", "b", "c", "d", "e", "gone")], 0.98)
    assert [(copy.path, copy.bytes, copy.verdict) for copy in found] == [
        ("b", 2, "keep"),
        ("a", 1, "similar"),
        ("c", 2, "similar"),
        ("d", 2, "identical"),
        ("e", 1, "identical"),
        ("gone", 0, "similar"),
    ]
    assert {copy.group for copy in found} == {1} and isinstance(found[0], Copy)
    assert duplicates([], 0.98) == []


def test_what_the_command_shows(here: Path, fake: Install, clipcls: Terminal) -> None:
    fake()
    picture(Path("照片/红.png"), (255, 0, 0), size=(40, 40))
    shutil.copy("照片/红.png", "照片/红 copy.png")
    picture(Path("照片/=red,\n.png"), (254, 0, 0))
    picture(Path("照片/blue.png"), (0, 0, 255))
    picture(Path("照片/green.png"), (0, 255, 0))
    before = sorted(Path("照片").iterdir())
    rows = clipcls.rows("dedup", "照片")
    assert [(row["group"], row["path"], row["verdict"]) for row in rows] == [
        ("1", "照片/红 copy.png", "keep"),
        ("1", "照片/=red,\n.png", "similar"),
        ("1", "照片/红.png", "identical"),
    ]
    assert "1 group; 2 beyond the one to keep of each, 1 of them identical" in clipcls.err
    assert sorted(Path("照片").iterdir()) == before
    lines = [json.loads(line) for line in clipcls("dedup", "照片", "-f", "jsonl", "-q").splitlines()]
    assert lines[0]["group"] == 1 and lines[0]["bytes"] > 0 and lines[0]["cosine"] == 1.0 and clipcls.err == ""
    assert clipcls.rows("dedup", "照片", "--exclude", "*红*") == []
    assert len(clipcls.rows("dedup", "照片", "--threshold", "-1")) == 5


def test_many_images_are_told_of(
    here: Path, fake: Install, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake()
    picture(Path("a/1.png"))
    picture(Path("a/2.png"))
    monkeypatch.setattr(module, "_MANY", 2)
    with caplog.at_level("INFO", "clipcls"):
        clipcls("dedup", "a")
    assert "comparing 2 images with each other" in caplog.messages


def test_an_image_that_cannot_be_read_is_told(here: Path, fake: Install, clipcls: Terminal) -> None:
    fake()
    picture(Path("a/1.png"))
    picture(Path("a/2.png"))
    Path("a/broken.jpg").write_bytes(b"")
    assert len(clipcls.rows("dedup", "a", code=3)) == 2
    assert "left out: a/broken.jpg: the file is empty" in clipcls.err
    clipcls("dedup", "a", "-f", "html", code=2)
    Path("empty").mkdir()
    clipcls("dedup", "empty", code=3)


def test_it_finds_what_was_done_to_a_photograph_lightly(here: Path, clipcls: Terminal) -> None:
    for name in ("chelsea", "coffee", "rocket", "astronaut"):
        with Image.open(IMAGES / f"{name}.jpg") as photo:
            photo.save(f"{name}.png")
            photo.save(f"{name}.webp", quality=90)
            photo.point(lambda value: min(255, round(1.04 * value))).save(f"{name}.jpg", quality=90)
    rows = clipcls.rows("dedup", ".", "--threshold", "0.96")
    found = {row["group"]: [Path(each["path"]).stem for each in rows if each["group"] == row["group"]] for row in rows}
    assert list(found.values()) == [[name] * 3 for name in ("astronaut", "chelsea", "coffee", "rocket")]
    assert all(row["path"].endswith(".png") for row in rows if row["verdict"] == "keep")


def test_what_it_lists_is_what_sort_moves_away(here: Path, fake: Install, clipcls: Terminal) -> None:
    fake()
    for name, colour in {"a": (255, 0, 0), "b": (0, 255, 0)}.items():
        picture(here / "图" / f"{name}.png", colour, (30, 20))
        picture(here / "图" / f"{name} small.png", colour)
    shutil.copy(here / "图" / "a.png", here / "图" / "a copy.png")
    Path("copies.csv").write_text(clipcls("dedup", "图"), "utf-8")
    clipcls("sort", "copies.csv", "--into", "apart", "--move")
    assert {path.relative_to(here / "apart").as_posix() for path in (here / "apart").rglob("*.png")} == {
        "identical/a.png",
        "similar/a small.png",
        "similar/b small.png",
    }
    assert sorted(path.name for path in (here / "图").iterdir()) == ["a copy.png", "b.png"]
