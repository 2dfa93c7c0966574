from __future__ import annotations

import glob
import importlib.util
import io
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipcls.errors import InputError
from clipcls.sources import CAMERA_SUFFIXES, SUFFIXES, ImageSource, file_ref, images, selection

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX file systems")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes of " + os.fsencode(name))


def without_packages(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(selection, "find_spec", lambda name: None if name in missing else real("os"))


def ids(*paths: str | Path, **options: object) -> list[str]:
    source = ImageSource(paths, **options)  # type: ignore[arg-type]
    found = [ref.id for ref in source]
    assert [ref.id for ref in source] == found
    assert source.count() == len(found)
    return found


def listed(data: bytes, **options: object) -> list[str]:
    return [ref.id for ref in ImageSource(["-"], stdin=io.BytesIO(data), **options)]  # type: ignore[arg-type]


# References


def test_a_reference_says_what_it_is(here: Path) -> None:
    touch("imgs/a.jpg")
    [ref] = ImageSource(["imgs"])
    assert (ref.id, ref.base) == (os.path.join("imgs", "a.jpg"), str(here))
    assert ref.stat is not None
    status = os.stat("imgs/a.jpg")
    assert ref.stat.path == str(here / "imgs" / "a.jpg")
    assert (ref.stat.size, ref.stat.mtime_ns) == (status.st_size, status.st_mtime_ns)
    with ref.open() as stream:
        assert stream.read() == b"bytes of imgs/a.jpg"


def test_a_reference_opens_after_the_process_moved_elsewhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch("a.jpg", "elsewhere/b.jpg")
    ref = file_ref("a.jpg", str(here))
    monkeypatch.chdir("elsewhere")
    ref.open().close()


def test_a_missing_file_fails_when_opened(here: Path) -> None:
    ref = file_ref("gone.jpg", str(here))
    assert ref.stat is None
    with pytest.raises(FileNotFoundError):
        ref.open()


def test_a_nul_in_a_path_is_an_os_error(here: Path) -> None:
    ref = file_ref("a\0b.jpg", str(here))
    assert ref.stat is None
    with pytest.raises(OSError, match="NUL"):
        ref.open()


@POSIX
def test_only_regular_files_are_opened(here: Path) -> None:
    os.mkfifo("pipe.jpg")
    Path("folder.jpg").mkdir()
    Path("null.jpg").symlink_to("/dev/null")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket.jpg")
    for name in ("pipe.jpg", "folder.jpg", "null.jpg"):
        ref = file_ref(name, str(here))
        assert ref.stat is None
        with pytest.raises(OSError, match="not a regular file"):
            ref.open()
    with pytest.raises(OSError):
        file_ref("socket.jpg", str(here)).open()
    server.close()


# Paths


def test_ids_are_paths_as_one_would_type_them(here: Path) -> None:
    touch("imgs/sub/a.jpg", "top.png")
    assert ids("imgs") == ["imgs/sub/a.jpg"]
    assert ids("imgs/") == ["imgs/sub/a.jpg"]
    assert ids("./imgs") == ["./imgs/sub/a.jpg"]
    assert ids(".") == ["imgs/sub/a.jpg", "top.png"]
    assert ids(here / "imgs") == [str(here / "imgs/sub/a.jpg")]
    assert ids("imgs/../top.png") == ["imgs/../top.png"]


def test_a_named_file_is_taken_whatever_its_suffix() -> None:
    touch("notes.txt", "photo.heic", ".hidden")
    assert ids("notes.txt", "photo.heic", ".hidden") == ["notes.txt", "photo.heic", ".hidden"]


def test_named_files_are_filtered_as_well() -> None:
    touch("f/a.jpg", "f/b.png", "c.jpg")
    assert ids("f/a.jpg", "f/b.png", "c.jpg", include=["*.jpg"], exclude=["c*"]) == ["f/a.jpg"]
    assert ids("f/a.jpg", "c.jpg", exclude=["f/*"]) == ["c.jpg"]
    assert ids("f/a.jpg", exclude=["f"]) == ["f/a.jpg"], "its folder was named on purpose"


def test_folders_are_walked_in_order() -> None:
    touch("f/b.jpg", "f/a/z.png", "f/a.jpg", "f/c/d/e.WebP", "f/notes.txt", "f/B.TIFF", "f/猫.jpg", "f/noext")
    assert ids("f") == ["f/B.TIFF", "f/a/z.png", "f/a.jpg", "f/b.jpg", "f/c/d/e.WebP", "f/猫.jpg"]
    assert ids("f", recursive=False) == ["f/B.TIFF", "f/a.jpg", "f/b.jpg", "f/猫.jpg"]


def test_hidden_and_system_files_are_left_out() -> None:
    touch("f/.x/a.jpg", "f/._a.jpg", "f/.b.jpg", "f/@eaDir/a.jpg", "f/a.jpg", ".h/a.jpg")
    assert ids("f") == ["f/a.jpg"]
    assert ids(".h") == [".h/a.jpg"]
    assert ids("f/*", "f/**/*.jpg") == ["f/a.jpg"]


def test_an_empty_folder() -> None:
    Path("empty").mkdir()
    assert ids("empty") == []


@POSIX
def test_what_cannot_be_opened_is_not_dropped() -> None:
    touch("f/real.jpg", "f/x.jpg/inner.png")
    os.mkfifo("f/pipe.png")
    Path("f/broken.jpg").symlink_to("nowhere.jpg")
    Path("f/itself.jpg").symlink_to("itself.jpg")
    expected = ["f/broken.jpg", "f/itself.jpg", "f/pipe.png", "f/real.jpg", "f/x.jpg/inner.png"]
    assert ids("f") == ids("f/*") == ids("f/**") == expected
    assert ids("f/broken.jpg") == ["f/broken.jpg"]


@POSIX
def test_links_in_a_circle() -> None:
    touch("f/a.jpg", "f/sub/b.jpg", "other/c.jpg")
    for link in ("f/loop", "f/sub/up", "f/sub/up2"):
        Path(link).symlink_to(Path("f").resolve())
    Path("f/z").symlink_to(Path("other").resolve())
    assert ids("f") == ids("f/**") == ids("f/**/*.jpg") == ["f/a.jpg", "f/sub/b.jpg", "f/z/c.jpg"]


@POSIX
def test_names_that_are_not_utf8(here: Path) -> None:
    name = os.fsdecode(b"f/\xff\xfe.jpg")
    try:
        touch(name)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert ids("f") == [name]
    assert listed(b"f/\xff\xfe.jpg\n") == [name]
    [ref] = ImageSource(["f"])
    assert ref.stat is not None and os.fsencode(ref.stat.path).endswith(b"\xff\xfe.jpg")
    with ref.open() as stream:
        assert stream.read() == b"bytes of f/\xff\xfe.jpg"


def test_an_unreadable_subfolder_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch("f/a.jpg", "f/locked/b.jpg", "f/z.jpg")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = ImageSource(["f"])
    with caplog.at_level(logging.WARNING, logger="clipcls"):
        assert source.count() == 2
        assert [ref.id for ref in source] == ["f/a.jpg", "f/z.jpg"]
    assert [record.getMessage() for record in caplog.records] == [
        "f/locked: this folder is left out: Permission denied"
    ]


@pytest.mark.parametrize("path", ["gone", "gone.jpg", "gone/deeper.jpg", "a.jpg/b.jpg", "", "x\0y"])
def test_a_path_that_does_not_exist(path: str) -> None:
    touch("a.jpg")
    with pytest.raises(InputError, match="no such file or folder") as caught:
        ImageSource(["a.jpg", path])
    assert "\n" not in str(caught.value)


def test_a_misspelt_path_gets_a_suggestion() -> None:
    touch("data/imgs/a.jpg")
    with pytest.raises(InputError, match=r"data/img: .*did you mean data/imgs\?"):
        ImageSource(["data/img"])


def test_an_unreadable_folder_named_by_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("f/a.jpg")

    def scandir(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="f: Permission denied; check"):
        ImageSource(["f"])


def test_the_same_file_comes_once(here: Path) -> None:
    touch("f/a.jpg", "f/b.jpg")
    assert ids("f/b.jpg", "f", "./f/a.jpg", here / "f", "f/*.jpg") == ["f/b.jpg", "f/a.jpg"]


def test_limit_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("f/a/1.jpg", "f/b/2.jpg", "f/c/3.jpg")
    assert ids("f", limit=2) == ["f/a/1.jpg", "f/b/2.jpg"]
    assert ids("f", limit=0) == []
    opened = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(path.rstrip("/")) or real(path))
    source = ImageSource(["f"], limit=1)
    opened.clear()
    assert len(list(source)) == 1
    assert opened == ["f", "f/a"]


def test_counting_looks_at_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("f/a.jpg", "f/b.jpg")
    source = ImageSource(["f"])
    monkeypatch.setattr(images, "file_ref", None)
    assert source.count() == 2


# Camera files


def test_camera_files_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("f/a.jpg", "f/b.HEIC", "f/c.heic", "f/d.nef", "f/.e.nef", "f/no/f.nef")
    without_packages(monkeypatch, "pillow_heif", "rawpy")
    source = ImageSource(["f"], exclude=["no"])
    assert source.count() == 1 and source.skipped.total() == 0
    for _ in range(2):
        assert [ref.id for ref in source] == ["f/a.jpg"]
        assert source.skipped == {".heic": 2, ".nef": 1}


def test_camera_files_are_taken_where_they_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("f/b.HEIC", "f/d.nef")
    without_packages(monkeypatch)
    assert ids("f") == ["f/b.HEIC", "f/d.nef"]
    without_packages(monkeypatch, "rawpy")
    assert ids("f/*") == ["f/b.HEIC"]


def test_no_suffix_is_both() -> None:
    assert not SUFFIXES & CAMERA_SUFFIXES
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES | CAMERA_SUFFIXES)


# Patterns


def test_patterns() -> None:
    touch("f/a.jpg", "f/b.txt", "f/2020/c.jpg", "f/2021/x/d.png", "f/2021/e.jpg", "other/a.jpg")
    assert ids("f/*.jpg") == ["f/a.jpg"]
    assert ids("f/*") == ["f/2020/c.jpg", "f/2021/e.jpg", "f/2021/x/d.png", "f/a.jpg"]
    assert ids("f/*", recursive=False) == ["f/2020/c.jpg", "f/2021/e.jpg", "f/a.jpg"]
    assert ids("f/202[1-9]") == ["f/2021/e.jpg", "f/2021/x/d.png"]
    assert ids("*/a.jpg") == ["f/a.jpg", "other/a.jpg"]
    assert ids("f/?.*") == ["f/a.jpg"]
    assert ids("f/**/*.jpg") == ["f/2020/c.jpg", "f/2021/e.jpg", "f/a.jpg"]
    assert ids("**/x/*") == ids("**/x") == ids("f/20*/**/x") == ["f/2021/x/d.png"]
    assert ids("**/*.jpg") == ["f/2020/c.jpg", "f/2021/e.jpg", "f/a.jpg", "other/a.jpg"]
    assert ids("f/*/") == ids("f/*/**/") == ["f/2020/c.jpg", "f/2021/e.jpg", "f/2021/x/d.png"]
    assert ids("./o*/*") == ["./other/a.jpg"]


def test_an_absolute_pattern(here: Path) -> None:
    touch("f/a.jpg")
    assert ids(here / "*" / "*.jpg") == ids(here / "**" / "*.jpg") == [str(here / "f" / "a.jpg")]


def test_a_name_with_wildcards_that_exists_is_no_pattern() -> None:
    touch("f[1]/a.jpg", "f1/b.jpg", "what?.jpg", "whats.jpg")
    assert ids("f[1]", "what?.jpg") == ["f[1]/a.jpg", "what?.jpg"]


def test_patterns_and_exclude() -> None:
    touch("f/thumbs/a.jpg", "f/b.jpg", "f/x/thumbs/c.jpg")
    for pattern in ("f/*", "f/**", "f/**/*.jpg", "*"):
        assert ids(pattern, exclude=["thumbs"]) == ["f/b.jpg"]


def test_a_pattern_that_matches_nothing() -> None:
    touch("f/a.jpg")
    for pattern in ("f/*.png", "g*/**"):
        with pytest.raises(InputError, match="nothing matches"):
            ImageSource([pattern])


NAMES = st.sampled_from(["a", "b", "ab", "a.jpg", "b.png", "ab.jpg"])
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=8)
PARTS = st.sampled_from(["**", "*", "a*", "?", "[ab]", "*.jpg", "a", "b.png", "*b*"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).filter(lambda parts: glob.has_magic("/".join(parts)))


@given(TREES, PATTERNS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_patterns_mean_what_they_mean_to_glob(
    tmp_path_factory: pytest.TempPathFactory, tree: list[list[str]], parts: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in tree:
        try:
            (root / Path(*path)).parent.mkdir(parents=True, exist_ok=True)
            (root / Path(*path)).touch()
        except OSError:  # the same name as a file and as a folder
            continue
    pattern = os.path.join(root, *parts)
    expected = set()
    for match in glob.glob(pattern, recursive=True):
        if not os.path.lexists(match):  # glob gives "file/" for "file/**"
            continue
        below = Path(match).rglob("*") if os.path.isdir(match) else [Path(match)]
        expected |= {str(path) for path in below if path.is_file() and path.suffix in SUFFIXES}
    try:
        found = [ref.id for ref in ImageSource([pattern])]
    except InputError:
        found = []
    assert len(found) == len(set(found))
    assert {os.path.normpath(path) for path in found} == expected


# Include and exclude


def test_include_and_exclude() -> None:
    touch("f/a.jpg", "f/b.png", "f/cats/c.jpg", "f/cats/old/d.jpg", "f/dogs/e.jpg", "f/old.jpg/g.jpg")
    assert ids("f", include=["*.png"]) == ["f/b.png"]
    assert ids("f", include=["*.png", "c.*"]) == ["f/b.png", "f/cats/c.jpg"]
    assert ids("f", include=["cats/*"]) == ["f/cats/c.jpg", "f/cats/old/d.jpg"]
    assert ids("f", include=["cats"]) == []
    assert ids("f", exclude=["cats/"]) == ["f/a.jpg", "f/b.png", "f/dogs/e.jpg", "f/old.jpg/g.jpg"]
    assert ids("f", exclude=["old*"]) == ["f/a.jpg", "f/b.png", "f/cats/c.jpg", "f/dogs/e.jpg"]
    assert ids("f", exclude=["cats/old"], include=["*.jpg"]) == [
        "f/a.jpg",
        "f/cats/c.jpg",
        "f/dogs/e.jpg",
        "f/old.jpg/g.jpg",
    ]
    assert ids("f", exclude=["f", "*.JPG"]) == ids("f")


def test_exclude_prunes_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("f/a.jpg", "f/big/b.jpg")
    source = ImageSource(["f"], exclude=["big"])
    opened = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(path.rstrip("/")) or real(path))
    assert [ref.id for ref in source] == ["f/a.jpg"]
    assert opened == ["f"]


FILTERS = st.lists(st.sampled_from(["a*", "*.jpg", "b", "a/*", "*/b*", "ab.jpg", "[!a]*", "b/"]), max_size=3)


@given(FILTERS, FILTERS)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_filters_against_their_definition(here: Path, include: list[str], exclude: list[str]) -> None:
    names = ["a.jpg", "b.png", "a/a.jpg", "a/b/c.jpg", "b/ab.jpg", "c/b/a.png", "c/ab.jpg"]
    touch(*(f"f/{name}" for name in names))

    def hit(path: PurePosixPath, pattern: str, folders: bool) -> bool:
        pattern = pattern.removesuffix("/")
        if "/" in pattern:
            above = path.parents if folders else []
            return any(fnmatchcase(str(each), pattern) for each in [path, *above])
        return any(fnmatchcase(part, pattern) for part in (path.parts if folders else [path.name]))

    expected = {
        f"f/{path}"
        for path in map(PurePosixPath, names)
        if (not include or any(hit(path, p, False) for p in include)) and not any(hit(path, p, True) for p in exclude)
    }
    assert set(ids("f", include=include, exclude=exclude)) == expected


# The list on stdin


def test_paths_on_stdin() -> None:
    touch("a.jpg", "b c.jpg")
    assert listed(b"a.jpg\n\n  \r\nb c.jpg\r\ngone.jpg\nlast.jpg") == ["a.jpg", "b c.jpg", "gone.jpg", "last.jpg"]
    assert listed(b"") == []
    assert listed(b"a.jpg\nb.jpg\nc.jpg\n", limit=2) == ["a.jpg", "b.jpg"]
    assert listed("猫.jpg\n".encode()) == ["猫.jpg"]


def test_paths_on_stdin_separated_by_nuls() -> None:
    assert listed(b"a.jpg\0new\nline.jpg\0\0b.jpg", null_separated=True) == ["a.jpg", "new\nline.jpg", "b.jpg"]


def test_a_missing_file_on_stdin_fails_when_opened() -> None:
    [ref] = ImageSource(["-"], stdin=io.BytesIO(b"gone.jpg"))
    with pytest.raises(FileNotFoundError):
        ref.open()


def test_stdin_has_no_count_and_mixes_with_paths() -> None:
    touch("f/a.jpg", "b.jpg")
    source = ImageSource(["f", "-"], stdin=io.BytesIO(b"b.jpg\n./f/a.jpg\nb.jpg\n"))
    assert source.count() is None
    assert [ref.id for ref in source] == ["f/a.jpg", "b.jpg"]


def test_the_process_own_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\n")))
    assert [ref.id for ref in ImageSource(["-"])] == ["a.jpg"]


def test_stdin_is_streamed() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as out:
        refs: Iterator[object] = iter(ImageSource(["-"], stdin=stdin))
        for name in ("a.jpg", "b.jpg"):
            out.write(name.encode() + b"\n")
            guard = threading.Timer(10, out.close)  # rather an error than a test that hangs
            guard.start()
            assert next(refs).id == name  # type: ignore[attr-defined]
            guard.cancel()


@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda b: not set(b) & set(b"\0\r\n") and b.strip())))
def test_any_list_comes_through(names: list[bytes]) -> None:
    assert [os.fsencode(name) for name in listed(b"\n".join(names))] == names
    assert [os.fsencode(name) for name in listed(b"\0".join(names), null_separated=True)] == names
