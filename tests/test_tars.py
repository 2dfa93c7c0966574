"""Tar archives of images, such as WebDataset's shards."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opening import data, error

from clipcls.errors import InputError
from clipcls.records import ImageRef
from clipcls.sources import ImageSource

pytestmark = pytest.mark.usefixtures("here")


def shard(path: str, members: Mapping[str, bytes], **options: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000
            archive.addfile(info, io.BytesIO(content))
    return Path(path)


def refs(*paths: str | Path, **options: Any) -> list[ImageRef]:
    return list(ImageSource(paths, **options))


def test_every_image_in_a_shard_and_what_is_told_of_it(here: Path) -> None:
    shard(
        "s.tar",
        {
            "000.jpg": b"first",
            "000.txt": b" a cat\n",
            "000.json": b'{"url": "https://a/b.jpg"}',
            "001.cls": b"7",
            "001.left.png": b"left",
            "001.right.png": b"right",
            "deep/000.jpg": b"another key",
            "002.npy": b"no image",
            "002.txt": b"of nothing",
            "._000.jpg": b"a Mac's",
        },
    )
    found = refs("s.tar")
    assert [(ref.id, data(ref), dict(ref.extra)) for ref in found] == [
        ("s.tar/000.jpg", b"first", {"caption": "a cat", "json": '{"url": "https://a/b.jpg"}'}),
        ("s.tar/001.left.png", b"left", {"cls": "7"}),
        ("s.tar/001.right.png", b"right", {"cls": "7"}),
        ("s.tar/deep/000.jpg", b"another key", {}),
    ]
    assert ImageSource(["s.tar"]).count() is None
    stamp = found[0].stat
    assert stamp is not None and (stamp.size, stamp.mtime_ns) == (5, os.stat("s.tar").st_mtime_ns)
    assert len({ref.stat for ref in found}) == 4, "each has a stamp of its own"


def test_a_name_that_comes_twice_is_two_images() -> None:
    with tarfile.open("s.tar", "w") as archive:
        for content in (b"one", b"two"):
            info = tarfile.TarInfo("./a.jpg")
            info.size = 3
            archive.addfile(info, io.BytesIO(content))
    first, second = refs("s.tar")
    assert first.id == second.id == "s.tar/a.jpg" and first.stat != second.stat
    assert (data(first), data(second)) == (b"one", b"two")


def test_shards_by_braces_patterns_and_folders() -> None:
    for n in range(12):
        shard(f"d/shard-{n:05}.tar", {"a.jpg": b"%d" % n})
    expected = [f"d/shard-{n:05}.tar/a.jpg" for n in range(12)]
    for path in (
        "d/shard-{00000..00011}.tar",
        "d/*.tar",
        "d/shard-0*.tar",
        "d",
        "**/*.tar",
        "d/shard-{0000,0001}?.tar",
    ):
        assert [ref.id for ref in refs(path)] == expected, path
    assert [ref.id for ref in refs("d/shard-{00011..00009}.tar")] == expected[:8:-1]
    assert [ref.id for ref in refs("d/shard-00001.tar", "d")] == [expected[1], expected[0], *expected[2:]]
    assert [ref.id for ref in refs("d", limit=3)] == expected[:3]
    with pytest.raises(InputError, match=r"d/shard-00012\.tar: no such file or folder; did you mean"):
        ImageSource(["d/shard-{00000..00012}.tar"])


def test_numbers_in_braces_keep_their_width() -> None:
    for name in ("8.jpg", "9.jpg", "10.jpg", "08.jpg", "09.jpg", "{1..2}.jpg"):
        Path(name).write_bytes(b"")
    assert [ref.id for ref in refs("{8..10}.jpg")] == ["8.jpg", "9.jpg", "10.jpg"]
    assert [ref.id for ref in refs("{08..10}.jpg")] == ["08.jpg", "09.jpg", "10.jpg"]
    assert [ref.id for ref in refs("{1..2}.jpg")] == ["{1..2}.jpg"], "a file that is called so"


def test_shards_beside_images_are_left_alone() -> None:
    shard("d/a.tar", {"in.jpg": b"in"})
    Path("d/z.jpg").write_bytes(b"out")
    assert [ref.id for ref in refs("d")] == ["d/z.jpg"]
    assert [ref.id for ref in refs("d/*")] == ["d/z.jpg"]
    assert [ref.id for ref in refs("d/*.tar")] == ["d/a.tar/in.jpg"]
    shard("e/_plan/p.tar", {"in.jpg": b"in"})
    shard("e/.hidden/p.tar", {"in.jpg": b"in"})
    assert refs("e") == []


def test_members_are_filtered_and_counted() -> None:
    shard("s.tar", {"cats/a.jpg": b"", "cats/old/b.jpg": b"", "dogs/c.png": b"", "d.notes": b""})
    for path in ("s.tar", "*.tar", "."):
        assert [ref.id for ref in refs(path, include=["*.png"])] == ["s.tar/dogs/c.png"]
    assert refs(".", exclude=["s.*"]) == refs("s.tar", exclude=["s.*"]) == []
    assert [ref.id for ref in refs("s.tar", exclude=["old"])] == ["s.tar/cats/a.jpg", "s.tar/dogs/c.png"]


def test_a_link_in_a_shard_is_a_row() -> None:
    with tarfile.open("s.tar", "w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "b.jpg"
        archive.addfile(info)
    [ref] = refs("s.tar")
    assert error(ref).startswith("only a link in the archive")


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_image_of_a_truncated_shard_is_lost_quietly(choice: st.DataObject) -> None:
    whole = shard("whole.tar", {f"{n}.jpg": bytes([n]) * (300 * n) for n in range(8)}, format=tarfile.USTAR_FORMAT)
    content = whole.read_bytes()
    ends = [0]  # of members, in bytes
    for n in range(8):
        ends.append(ends[-1] + 512 + -(-300 * n // 512) * 512)
    cut = choice.draw(st.integers(1, ends[-1] - 1).filter(lambda at: at not in ends))
    Path("cut.tar").write_bytes(content[:cut])
    *found, last = refs("cut.tar")
    complete = sum(end <= cut for end in ends[1:])
    assert [data(ref) for ref in found[:complete]] == [bytes([n]) * (300 * n) for n in range(complete)]
    assert last.id == "cut.tar" and "cut short" in error(last)
    for ref in found[complete:]:
        assert len(data(ref)) if cut >= ends[complete] + 512 + 300 * complete else error(ref)


@pytest.mark.parametrize("at", [512 * 2 + 10, 512 * 2 + 130, 512 * 2 + 150])
def test_damage_in_a_header_is_told(at: int) -> None:
    path = shard("s.tar", {f"{n}.jpg": b"x" * 512 for n in range(5)}, format=tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    first, told = refs("s.tar")
    assert data(first) == b"x" * 512
    assert told.id == "s.tar" and error(told).startswith("damaged or cut short, or no tar archive")


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, b"\x1f\x8b" + bytes(1000)])
def test_what_is_no_shard_is_a_row(content: bytes) -> None:
    Path("s.tar").write_bytes(content)
    [ref] = refs("s.tar")
    assert ref.id == "s.tar" and "no tar archive" in error(ref)


@pytest.mark.parametrize("name", ["s.tar.gz", "S.TGZ", "s.tar.zst", "s.tar.bz2", "s.zip"])
def test_a_compressed_archive_is_told_from_a_damaged_picture(name: str) -> None:
    shard(name, {"a.jpg": b"a"})
    for path in (name, f"http://127.0.0.1:1/{name}?a=b.c"):
        [ref] = refs(path)
        assert ref.id == path
        assert error(ref).startswith("a compressed archive, which cannot be read; unpack it")
    assert ImageSource([name]).count() == 1


def test_names_of_members_that_begin_anyhow() -> None:
    names = ["././a.jpg", "x/./b.jpg", "x/.././c.jpg", "../d.jpg", "x//e.jpg", "./.hidden/f.jpg", "x/.g.jpg"]
    shard("s.tar", {name: name.encode() for name in names} | {"./x/e.txt": b"caption"})
    found = refs("s.tar")
    assert [ref.id for ref in found] == [
        f"s.tar/{name}" for name in ("a.jpg", "x/b.jpg", "c.jpg", "../d.jpg", "x/e.jpg")
    ]
    assert [data(ref).decode() for ref in found] == names[:5]


def test_a_shard_that_is_gone_is_a_row() -> None:
    Path("list.txt").write_text("gone.tar\n")
    [ref] = refs("@list.txt")
    assert (ref.id, error(ref)) == ("gone.tar", "No such file or directory")


def test_memory_does_not_grow_with_the_shard() -> None:
    def peak(members: int) -> int:
        path = shard("s.tar", {f"{n:06}.jpg": b"x" for n in range(members)})
        tracemalloc.start()
        assert sum(1 for _ in ImageSource([path])) == members
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(6000) < peak(600) + 300_000
