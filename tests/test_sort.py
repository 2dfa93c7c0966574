from __future__ import annotations

import errno
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Terminal
from fakes import FakeDoor, picture
from hypothesis import given
from hypothesis import strategies as st

from clipcls import sorting
from clipcls.errors import InputError, OutputError
from clipcls.records import Failure, Prediction, Record, Score
from clipcls.sorting import FAILED, UNCERTAIN, Placing, carried_out, folder_names, plan, safe_name, undo

Tree = dict[str, tuple[bytes, int]]


def tree(folder: Path) -> Tree:
    """Every file below a folder, with its bytes and when it was changed."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.lstat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }


def images(folder: Path) -> Tree:
    """Only what a sort put there."""
    return {name: content for name, content in tree(folder).items() if not name.startswith("clipcls-sort-")}


def answer(path: str, *labels: str) -> Prediction:
    return Prediction(path, (Score(labels[0] if labels else "?", 0.5, 0.1),), sure=labels)


def put(path: Path, content: str = "") -> Path:
    """A file that no picture needs to be in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(content or f"the image {path}"))
    os.utime(path, ns=(10**18, 10**18 + len(str(path))))
    return path


def sorted_into(into: Path, records: list[Record], mode: str = "copy", labels: tuple[str, ...] = ()) -> Path:
    """Sorts; the undo file."""
    planned = plan(records, Path.cwd(), into, mode, labels)  # type: ignore[arg-type]
    with carried_out(planned) as (file, placed):
        assert all(isinstance(each, Placing) for each in placed)
    return file


# Names


@pytest.mark.parametrize(
    ("label", "name"),
    [
        *(("大象", "大象"), ("ice cream", "ice cream"), ("👨‍👩‍👧 家", "👨‍👩‍👧 家"), ("a.b", "a.b"), ("e\u0301", "é")),
        *(("../x", "_x"), ("a/b", "a_b"), ("a\\b", "a_b"), ("C:", "C_"), ('<>:"|?*', "_______"), ("a\0\n\x7f", "a___")),
        *((".", "_"), ("..", "_"), ("", "_"), (" . ", "_"), (".git", "git"), ("end. ", "end"), ("\ud800", "_")),
        *(
            ("CON", "_CON"),
            ("nul.txt", "_nul.txt"),
            ("com1", "_com1"),
            ("LPT¹", "_LPT¹"),
            ("CONE", "CONE"),
            ("COM", "COM"),
        ),
        *(("象" * 100, "象" * 85), ("x" * 300, "x" * 255), ("x" * 254 + ". y", "x" * 254)),
    ],
)
def test_safe_names(label: str, name: str) -> None:
    assert safe_name(label) == name


@given(st.lists(st.text() | st.text("aAéÉ./ _()2"), max_size=6))
def test_every_label_has_a_safe_folder_of_its_own(labels: list[str]) -> None:
    names = folder_names(labels)
    assert set(names) == set(labels)
    keys = [name.casefold() for name in names.values()]
    assert len(set(keys)) == len(keys) and UNCERTAIN not in keys and FAILED not in keys
    for name in names.values():
        assert name and 0 < len(name.encode()) <= 255 and name.strip(". ") == name
        assert not set(name) & set('/\\<>:"|?*\0\n')


def test_labels_that_come_out_equal_stay_apart() -> None:
    assert folder_names(["a/b", "a_b", "A_B", "_failed", "_uncertain"]) == {
        "a/b": "a_b (3)",
        "a_b": "a_b",
        "A_B": "A_B (2)",
        "_failed": "_failed (2)",
        "_uncertain": "_uncertain (2)",
    }
    long = folder_names(["x" * 300, "x" * 301])
    assert list(long.values()) == ["x" * 255, "x" * 251 + " (2)"]


# Modes, and back


@pytest.fixture
def three(here: Path) -> list[Record]:
    """A picture with a label, one without, one that cannot be read."""
    names = ("图/大 象.jpg", "图/谁.jpg", "图/坏.jpg")
    for name in names:
        put(here / name)
    return [answer(names[0], "大象"), answer(names[1]), Failure(names[2], "cut off")]


@pytest.mark.parametrize("mode", ["copy", "move", "link", "symlink"])
def test_there_and_back(here: Path, three: list[Record], mode: str) -> None:
    before = tree(here / "图")
    file = sorted_into(here / "out", three, mode)
    after = images(here / "out")
    assert after == {
        "大象/大 象.jpg": before["大 象.jpg"],
        "_uncertain/谁.jpg": before["谁.jpg"],
        "_failed/坏.jpg": before["坏.jpg"],
    } or (
        mode == "symlink"
        and {name: content[0] for name, content in after.items()}
        == {
            "大象/大 象.jpg": before["大 象.jpg"][0],
            "_uncertain/谁.jpg": before["谁.jpg"][0],
            "_failed/坏.jpg": before["坏.jpg"][0],
        }
    )
    assert tree(here / "图") == ({} if mode == "move" else before)
    one = here / "out" / "大象" / "大 象.jpg"
    assert one.is_symlink() == (mode == "symlink")
    if mode == "link":
        assert one.samefile(here / "图" / "大 象.jpg")
    done = undo(file)
    assert (done.images, done.left) == (3, ()) and tree(here / "图") == before
    assert list((here / "out").iterdir()) == [done.file] and done.file.suffix == ".undone"
    with pytest.raises(InputError, match="already"):
        undo(done.file)


def test_names_that_clash_are_both_kept(here: Path) -> None:
    sources = [put(here / folder / name) for folder in "abc" for name in ("IMG.jpg", "img.JPG")]
    put(here / "out" / "cat" / "IMG.jpg", "mine")
    before = tree(here)
    file = sorted_into(here / "out", [answer(str(source), "cat") for source in sources], "move")
    folder = here / "out" / "cat"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("IMG (2).jpg", "IMG (4).jpg", "IMG (6).jpg", "IMG.jpg", "img (3).JPG", "img (5).JPG", "img (7).JPG")
    ]
    assert (folder / "IMG.jpg").read_text() == "mine"
    undo(file).file.unlink()
    assert tree(here) == before


def test_a_long_name_that_clashes(here: Path) -> None:
    name = "象" * 83 + ".jpg"
    sources = [put(here / folder / name) for folder in "ab"]
    sorted_into(here / "out", [answer(str(source), "cat") for source in sources])
    assert sorted(len(os.fsencode(path.name)) for path in (here / "out" / "cat").iterdir()) == [253, 254]


def test_a_name_taken_since_the_plan(here: Path) -> None:
    put(here / "a.jpg")
    planned = plan([answer("a.jpg", "cat")], here, here / "out", "move")
    put(here / "out" / "cat" / "a.jpg", "mine")
    put(here / "out" / "cat" / "a (2).jpg", "mine too")
    with carried_out(planned) as (file, placed):
        assert [each.name for each in placed if isinstance(each, Placing)] == ["a (3).jpg"]
    assert (here / "out" / "cat" / "a.jpg").read_text() == "mine" and not Path("a.jpg").exists()
    assert undo(file).images == 1 and Path("a.jpg").exists()
    assert (here / "out" / "cat" / "a.jpg").read_text() == "mine"


def test_what_is_listed_twice_is_missing_or_lies_there_already(here: Path) -> None:
    put(here / "图" / "a.jpg")
    put(here / "out" / "cat" / "b.jpg")
    (here / "same").symlink_to("图")
    (here / "图" / "pipe.jpg").symlink_to("/dev/null")
    records: list[Record] = [
        *(answer("图/a.jpg", "cat"), answer("./图/a.jpg", "dog"), answer(str(here / "same" / "a.jpg"), "dog")),
        *(answer("图/none.jpg", "cat"), Failure("none.jpg", "not there"), answer("图/pipe.jpg", "cat")),
        *(answer("out/cat/b.jpg", "cat"), answer("nul\0/a.jpg", "cat")),
    ]
    planned = plan(records, here, here / "out")
    assert [each.target for each in planned.placings] == ["cat/a.jpg"] and planned.inside == 1
    assert [failure.path for failure in planned.missing] == ["图/none.jpg", "none.jpg", "图/pipe.jpg", "nul\0/a.jpg"]
    moving = plan([answer("图/pipe.jpg", "cat")], here, here / "out", "move")
    assert "symbolic link" in moving.missing[0].error


def test_the_best_of_several_labels(here: Path) -> None:
    put(here / "a.jpg")
    planned = plan([answer("a.jpg", "dog", "cat")], here, here / "out", "copy", ["cat", "dog"])
    assert planned.placings[0].target == "dog/a.jpg" and list(planned.folders) == ["cat", "dog"]


def test_two_runs_into_one_folder(here: Path) -> None:
    for name in ("1/a.jpg", "2/a.jpg"):
        put(here / name)
    before = tree(here)
    first = sorted_into(here / "out", [answer("1/a.jpg", "cat")], "move")
    second = sorted_into(here / "out", [answer("2/a.jpg", "cat")], "move")
    assert first != second and len(images(here / "out")) == 2
    assert undo(first).left == () and set(images(here / "out")) == {"cat/a (2).jpg"}
    assert undo(second).left == () and images(here / "out") == {}
    shutil.rmtree(here / "out")
    assert tree(here) == before


def test_a_name_that_is_not_utf_8(here: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    put(here / name)
    before = tree(here)
    file = sorted_into(here / "out", [answer(name, "cat")], "move")
    assert list(images(here / "out")) == [f"cat/{name}"]
    file.read_text("utf-8")
    undo(file).file.unlink()
    (here / "out").rmdir()
    assert tree(here) == before


def test_a_folder_that_was_moved_can_be_undone(here: Path, three: list[Record]) -> None:
    before = tree(here / "图")
    file = sorted_into(here / "out", three, "move")
    (here / "out").rename(here / "away")
    assert undo(here / "away" / file.name).images == 3 and tree(here / "图") == before


# Undo after changes


def test_a_copy_that_was_changed_is_left(here: Path, three: list[Record]) -> None:
    file = sorted_into(here / "out", three)
    changed = here / "out" / "大象" / "大 象.jpg"
    changed.write_text("turned upright")
    done = undo(file)
    assert done.images == 2 and [left.path for left in done.left] == [str(changed)] and done.file == file
    changed.unlink()
    assert undo(file).left == () and not (here / "out" / "大象").exists()


def test_a_copy_that_was_only_touched_goes(here: Path, three: list[Record]) -> None:
    file = sorted_into(here / "out", three)
    os.utime(here / "out" / "大象" / "大 象.jpg")
    assert undo(file).left == ()


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_the_last_copy_of_an_image_never_goes(here: Path, three: list[Record], mode: str) -> None:
    before = tree(here / "图")
    file = sorted_into(here / "out", three, mode)
    (here / "图" / "大 象.jpg").unlink()
    (here / "图" / "谁.jpg").unlink()
    (here / "图" / "谁.jpg").symlink_to(here / "out" / "_uncertain" / "谁.jpg")
    (here / "图" / "坏.jpg").unlink()
    put(here / "图" / "坏.jpg", "another")
    done = undo(file)
    assert done.images == 0 and len(done.left) == 3
    kept = {Path(name).name: content for name, content in images(here / "out").items()}
    assert kept == before


def test_a_moved_image_comes_back_as_it_is_now(here: Path, three: list[Record]) -> None:
    file = sorted_into(here / "out", three, "move")
    (here / "out" / "大象" / "大 象.jpg").write_text("turned upright")
    (here / "图").rmdir()
    assert undo(file).images == 3 and (here / "图" / "大 象.jpg").read_text() == "turned upright"


def test_an_old_place_that_is_taken_stays_so(here: Path, three: list[Record]) -> None:
    file = sorted_into(here / "out", three, "move")
    put(here / "图" / "大 象.jpg", "another")
    (here / "out" / "_failed" / "坏.jpg").unlink()
    done = undo(file)
    assert done.images == 1 and len(done.left) == 2
    assert "neither here" in done.left[0].error and "taken" in done.left[1].error
    assert (here / "图" / "大 象.jpg").read_text() == "another" and len(images(here / "out")) == 1


def test_a_link_that_was_replaced_is_left(here: Path, three: list[Record]) -> None:
    file = sorted_into(here / "out", three, "symlink")
    link = here / "out" / "大象" / "大 象.jpg"
    link.unlink()
    put(link, "mine")
    assert len(undo(file).left) == 1 and link.read_text() == "mine"


def test_what_is_new_in_a_folder_keeps_it(here: Path, three: list[Record]) -> None:
    file = sorted_into(here / "out", three)
    put(here / "out" / "大象" / "new.jpg")
    assert undo(file).left == () and set(images(here / "out")) == {"大象/new.jpg"}


def test_an_empty_image_in_the_middle_keeps_its_time(here: Path) -> None:
    source, target = put(here / "a.jpg"), here / "out" / "cat" / "a.jpg"
    source.write_bytes(b"")
    os.utime(source, ns=(1, 1))
    before = tree(here)
    for killed_in_the_undo in (False, True):
        file = sorted_into(here / "out", [answer("a.jpg", "cat")], "move")
        if not killed_in_the_undo:
            target.rename(source)
        (source if killed_in_the_undo else target).write_bytes(b"")
        undo(file).file.unlink()
        assert tree(here) == before


# Undo files


def test_a_torn_line_was_never_begun(here: Path, three: list[Record]) -> None:
    before = tree(here / "图")
    file = sorted_into(here / "out", three, "move")
    whole = file.read_bytes()
    for cut in range(len(whole), -1, -7):
        torn = here / "out" / "torn.undo.jsonl"
        torn.write_bytes(whole[:cut])
        undo(torn)
    undo(file)
    assert tree(here / "图") == before


@pytest.mark.parametrize(
    "content",
    [
        "x\n",
        "{}\n",
        '{"format": 2, "mode": "copy", "base": "/", "folders": []}\n',
        '{"format": 1, "mode": "burn", "base": "/", "folders": []}\n',
        '{"format": 1, "mode": "copy", "base": "/", "folders": [".."]}\n',
        '{"format": 1, "mode": "move", "base": "/", "folders": []}\n{"source": "a"}\n',
        '{"format": 1, "mode": "move", "base": "/", "folders": []}\n'
        '{"source": "a", "folder": "../x", "name": "a", "size": 1, "mtime_ns": 1}\n',
        '{"format": 1, "mode": "copy", "base": "here", "folders": []}\n',
        '{"format": 1, "mode": "copy", "base": "/"}\n',
        "[]\n",
    ],
)
def test_what_is_no_undo_file(here: Path, content: str) -> None:
    file = here / "x.undo.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=r"x\.undo\.jsonl"):
        undo(file)
    with pytest.raises(InputError, match="nowhere"):
        undo(here / "nowhere.undo.jsonl")


def test_no_undo_while_the_sort_runs(here: Path, three: list[Record]) -> None:
    with carried_out(plan(three, here, here / "out")) as (file, placed):
        next(placed)
        with pytest.raises(OutputError, match="in use"):
            undo(file)
    assert undo(file).images == 1


# Other disks


@pytest.fixture
def far(here: Path) -> Iterator[Path]:
    """A folder on another disk."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == here.stat().st_dev:
        pytest.skip("no second disk here")
    folder = shared / f"clipcls-test-{os.getpid()}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("mode", ["copy", "move", "symlink"])
def test_from_disk_to_disk(here: Path, far: Path, three: list[Record], mode: str) -> None:
    before = tree(here / "图")
    file = sorted_into(far, three, mode)
    assert len(images(far)) == 3 and tree(here / "图") == ({} if mode == "move" else before)
    assert undo(file).left == () and tree(here / "图") == before and images(far) == {}


def test_no_hard_link_leads_to_another_disk(here: Path, far: Path, three: list[Record]) -> None:
    with carried_out(plan(three, here, far, "link")) as (file, placed):
        failed = list(placed)
    assert all(isinstance(each, Failure) and "another disk" in each.error for each in failed)
    assert undo(file).images == 0 and images(far) == {}


# Killed

KILLED = """
import errno, os, signal, sys
from clipcls import sorting
from clipcls.cli import run

steps, far = int(sys.argv[1]), sys.argv[2] == "far"
replace = os.replace

def from_disk_to_disk(source, target):
    if os.path.dirname(source) != os.path.dirname(target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")
    replace(source, target)

def line(frame, event, _):
    global steps
    steps -= event == "line"
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return line

def trace(frame, event, _):
    inside = frame.f_code.co_filename == sorting.__file__ and frame.f_code.co_name in WATCHED
    return line if inside else None

WATCHED = {"_append", "_carry_out", "_placed", "_put", "_reserved", "_move", "undo", "_take_back", "_copied"}
if far:
    os.replace = from_disk_to_disk
sys.settrace(trace)
code = run(sys.argv[3:])
print(-steps)
sys.exit(code)
"""


def killed(steps: int, disk: str, *words: str | Path) -> int:
    """Runs clipcls until so many lines of its own have run, or to its end; returns how many ran then."""
    command = [sys.executable, "-c", KILLED, str(steps), disk, *map(str, words)]
    done = subprocess.run(command, capture_output=True, timeout=600)
    if done.returncode == -signal.SIGKILL:
        return 0
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


def listed(folder: Path, count: int) -> Path:
    """A result file of so many images."""
    rows = []
    for i in range(count):
        path = put(folder / f"{i % 3}" / f"图 {i // 3}.jpg", "" if i else " ")
        rows.append(f"{path.relative_to(folder.parent)},ok,{'猫狗鸟'[i % 2]},0.5,0.1,\n")
    put(folder / "0" / "图 0.jpg").write_bytes(b"")  # an empty image is one too
    file = folder.parent / "results.csv"
    file.write_text("path,status,label,probability,cosine,error\n" + "".join(rows))
    return file


def check_killed(here: Path, disk: str, seed: int) -> None:
    chance = random.Random(seed)
    results = listed(here / "图", 30)
    before = tree(here / "图")
    words = ("sort", results, "--into", here / "out", "--move", "--quiet")
    total = killed(0, disk, *words)
    (file,) = (here / "out").glob("*.undo.jsonl")
    back = killed(0, disk, "sort", "--undo", file)
    assert tree(here / "图") == before and total > 200 and back > 100
    shutil.rmtree(here / "out")
    assert killed(chance.randint(1, total), disk, *words) == 0
    files = [*(here / "out").glob("*.undo.jsonl")]
    content = Counter(data for data, _ in [*tree(here / "图").values(), *images(here / "out").values()] if data)
    wanted = Counter(data for data, _ in before.values() if data)
    assert not wanted - content, "an image is lost"
    more = content - wanted
    assert more.total() <= (disk == "far"), "an image is doubled"
    if not files:
        assert tree(here / "图") == before, "nothing was touched"
        return
    if chance.random() < 0.7:  # the undo is killed as well
        killed(chance.randint(1, back), disk, "sort", "--undo", files[0])
        files = [*(here / "out").glob("*.undo.jsonl")]
    if files:
        assert killed(0, disk, "sort", "--undo", files[0])
    assert tree(here / "图") == before
    assert all(path.suffix == ".undone" for path in (here / "out").iterdir())


@pytest.mark.parametrize(("disk", "seed"), [("near", 1), ("near", 2), ("far", 3)])
def test_killed_anywhere(here: Path, disk: str, seed: int) -> None:
    check_killed(here, disk, seed)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["near", "far"])
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_twenty_places(here: Path, disk: str, seed: int) -> None:
    check_killed(here, disk, 100 + seed)


# The command


@pytest.fixture
def colours(here: Path, fake: Callable[..., FakeDoor]) -> Path:
    fake()
    for name, colour in {"红 1": (255, 0, 0), "红 2": (250, 0, 0), "蓝": (0, 0, 255), "灰": (90, 90, 90)}.items():
        picture(here / "图片" / f"{name}.png", colour)
    return here / "图片"


LABELS = ("-l", "红,蓝")


def test_pictures_are_classified_and_sorted(colours: Path, clipcls: Terminal, here: Path) -> None:
    before = tree(colours)
    assert clipcls("sort", "图片", *LABELS, "--threshold", "0.9", "--into", "分类", "--move") == ""
    assert set(images(here / "分类")) == {"红/红 1.png", "红/红 2.png", "蓝/蓝.png", "_uncertain/灰.png"}
    last = clipcls.err.splitlines()[-1]
    assert last.startswith("4 images moved into 3 folders of 分类; to undo it: clipcls sort --undo ")
    assert tree(colours) == {}
    clipcls("sort", *shlex.split(last)[-2:])
    assert tree(colours) == before and "4 images undone" in clipcls.err


def test_the_answers_of_a_result_file(colours: Path, clipcls: Terminal, here: Path) -> None:
    (colours / "坏.png").write_bytes(b"no picture")
    clipcls("classify", "图片", *LABELS, "-o", "out.jsonl", "--threshold", "0.9", code=3)
    (colours / "红 2.png").unlink()
    clipcls("sort", "out.jsonl", "--into", "分类", "--link", code=3)
    assert set(images(here / "分类")) == {"红/红 1.png", "蓝/蓝.png", "_uncertain/灰.png", "_failed/坏.png"}
    assert "图片/红 2.png: No such file" in clipcls.err and "1 uncertain, 1 that cannot be read" in clipcls.err
    clipcls("sort", "out.jsonl", "--into", "分类", code=3)  # a second time nothing is doubled
    assert len(images(here / "分类")) == 4
    assert "4 images left as they are: the same files are in their folders already" in clipcls.err
    for name in ("红 1.png", "蓝.png", "灰.png", "坏.png"):
        (colours / name).unlink()
    clipcls("sort", "out.jsonl", "--into", "分类", "--move", code=3)
    assert "none of the images is where it was; were they sorted already?" in clipcls.err


def test_what_is_no_file_is_not_sorted(colours: Path, clipcls: Terminal, here: Path) -> None:
    with tarfile.open("a.tar", "w") as archive:
        archive.add(colours / "蓝.png", "in/蓝.png")
    clipcls("sort", "a.tar", *LABELS, "--into", "分类", code=3)
    assert "a.tar/in/蓝.png: in an archive, in a table or far away: only files on this machine" in clipcls.err
    assert "error: none of the images is a file" in clipcls.err and "--undo" not in clipcls.err
    rows = ("path,status,label,probability,cosine,error", "a.tar,error,,,,damaged")
    rows += ("t.parquet#3,ok,红,0.9,0.3,", "s3://b/c.png,ok,红,0.9,0.3,", "图片/蓝.png,ok,蓝,0.9,0.3,")
    Path("r.csv").write_text("\n".join(rows), "utf-8")
    clipcls("sort", "r.csv", "--into", "分类", "--move", code=3)
    assert set(images(here / "分类")) == {"蓝/蓝.png"}
    assert Path("a.tar").exists() and "t.parquet#3: in an archive, in a table" in clipcls.err


def test_a_source_that_is_gone_once_its_copy_is_whole(
    colours: Path, clipcls: Terminal, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network disk may be told twice to delete a file, and a disk of another system keeps no permissions."""
    unlink, replace = os.unlink, os.replace

    def twice(path: str, *args: object, **options: object) -> None:
        unlink(path)
        if "图片" in str(path):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def from_disk_to_disk(source: str, target: str) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.unlink", twice)
    monkeypatch.setattr("os.replace", from_disk_to_disk)
    monkeypatch.setattr("os.chmod", refused)
    clipcls("sort", "图片", *LABELS, "--into", "分类", "--move", "--no-cache")
    assert len(images(here / "分类")) == 4 and tree(colours) == {}


def test_a_dry_run_touches_nothing(
    colours: Path, clipcls: Terminal, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(here)
    found = clipcls.rows("sort", "图片", *LABELS, "--into", "分类", "--move", "--dry-run", "--no-cache")
    assert [(row["label"], row["images"], row["folder"]) for row in found[:1]] == [
        ("红", found[0]["images"], "分类/红")
    ]
    assert sum(int(row["images"]) for row in found) == 4
    assert "图片/红 1.png -> 分类/红/红 1.png" in clipcls.err
    monkeypatch.setattr("clipcls.cli.sort._SHOWN", 1)
    clipcls("sort", "图片", *LABELS, "--into", "分类", "--move", "--dry-run", "--no-cache")
    assert clipcls.err.count(" -> ") == 1 and "and 3 more" in clipcls.err
    assert tree(here) == before and not Path("分类").exists()


def test_its_own_output_is_not_sorted_again(colours: Path, clipcls: Terminal, here: Path) -> None:
    words = ("sort", "图片", *LABELS, "--into", "图片/分类", "--move")
    clipcls(*words)
    once = images(here / "图片" / "分类")
    clipcls(*words, code=3)
    assert "left out 4 images" in clipcls.err and "nothing to sort" in clipcls.err
    assert images(here / "图片" / "分类") == once


def test_hostile_labels(colours: Path, clipcls: Terminal, here: Path) -> None:
    labels = here / "labels.json"
    labels.write_text(json.dumps(["../红", "CON", "蓝/" + "x" * 300, "😀"]))
    clipcls("sort", "图片", "--labels-file", labels, "--into", "分类", "--threshold", "0")
    folders = {path.name for path in Path("分类").iterdir() if path.is_dir()}
    assert "_红" in folders and any(name.startswith("蓝_xxx") for name in folders)
    assert {path.name for path in here.iterdir()} == {"图片", "分类", "labels.json"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("图片", *LABELS), "--into"),
        (("--into", "out"), "name a result file"),
        (("图片", *LABELS, "--into", "out", "--move", "--link"), "--move and --link exclude each other"),
        (("图片", "--into", "out"), "no labels"),
        (("out.csv", *LABELS, "--into", "out"), "--labels to clipcls classify"),
        (("out.csv", "--threshold", "0.5", "--into", "out"), "--threshold to clipcls classify"),
        (("out.csv", "图片", "--into", "out"), "one result file"),
        (("图片", "--undo", "x"), "stands alone"),
    ],
)
def test_what_makes_no_sense(colours: Path, clipcls: Terminal, words: tuple[str, ...], told: str) -> None:
    clipcls("sort", *words, code=2)
    assert told in clipcls.err and not Path("out").exists()


def test_a_folder_that_cannot_be_written_to(colours: Path, clipcls: Terminal, here: Path) -> None:
    before = tree(colours)
    (here / "out").write_text("a file")
    clipcls("sort", "图片", *LABELS, "--into", "out", "--move", code=7)
    clipcls("sort", "图片", *LABELS, "--into", "out/deeper", "--move", code=7)
    (here / "full" / "红").parent.mkdir()
    (here / "full" / "红").write_text("a file")
    clipcls("sort", "图片", *LABELS, "--into", "full", "--move", code=7)
    if os.geteuid():
        (here / "locked").mkdir(mode=0o500)
        clipcls("sort", "图片", *LABELS, "--into", "locked", "--move", code=7)
    assert tree(colours) == before and all(line for line in clipcls.err.splitlines())


def test_a_full_disk_ends_it_and_tells_the_way_back(
    colours: Path, clipcls: Terminal, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(colours)
    copyfile = shutil.copyfile

    def full(source: str, draft: Path) -> None:
        copyfile(source, draft)
        if "红 2" in source:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sorting.shutil, "copyfile", full)
    clipcls("sort", "图片", *LABELS, "--into", "out", code=7)
    assert "No space left" in clipcls.err and "clipcls sort --undo out/clipcls-sort-" in clipcls.err
    assert set(images(here / "out")) <= {"红/红 1.png", "蓝/灰.png", "红/灰.png"}, "no half picture, no empty file"
    assert not list(Path("out").rglob("*.partial"))
    clipcls("sort", "--undo", next(Path("out").glob("*.undo.jsonl")))
    assert images(here / "out") == {} and tree(colours) == before


def test_ctrl_c_tells_the_way_back(
    colours: Path, clipcls: Terminal, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(colours)
    replace = os.replace

    def interrupted(source: str, target: str) -> None:
        replace(source, target)
        if "红 2" in str(source):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sorting.os, "replace", interrupted)
        clipcls("sort", "图片", *LABELS, "--into", "out", "--move", code=130)
    assert "cut off after" in clipcls.err and len(tree(colours)) + len(images(here / "out")) == 4
    with monkeypatch.context() as patched:
        patched.setattr(sorting, "undo", stopped)
        clipcls("sort", "--undo", next((here / "out").glob("*.undo.jsonl")), code=130)
        assert "interrupted; the same command goes on" in clipcls.err
        patched.setattr(sorting, "plan", stopped)
        clipcls("sort", "图片", *LABELS, "--into", "other", code=130)
        assert "interrupted: nothing was sorted yet" in clipcls.err and not Path("other").exists()
    clipcls("sort", "--undo", next((here / "out").glob("*.undo.jsonl")))
    assert tree(colours) == before


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_many_that_cannot_be_undone_are_counted(
    colours: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipcls("sort", "图片", *LABELS, "--into", "out")
    for path in Path("out").rglob("*.png"):
        path.write_bytes(b"mine")
    monkeypatch.setattr("clipcls.cli.sort._SHOWN", 1)
    clipcls("sort", "--undo", next(Path("out").glob("*.undo.jsonl")), code=3)
    assert clipcls.err.count("changed since") == 1 and "and 3 more" in clipcls.err


def test_undo_tells_what_is_left(colours: Path, clipcls: Terminal) -> None:
    clipcls("sort", "图片/蓝.png", *LABELS, "--into", "out")
    file = next(Path("out").glob("*.undo.jsonl"))
    Path("out/蓝/蓝.png").write_bytes(b"mine")
    clipcls("sort", "--undo", file, code=3)
    assert "out/蓝/蓝.png: changed since" in clipcls.err and "1 image left" in clipcls.err
    clipcls("sort", "--undo", "nowhere", code=3)
