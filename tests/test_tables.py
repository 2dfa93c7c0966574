"""Tables with a column of images or of paths; lists; folders with metadata."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from opening import data, error

from clipcls.errors import InputError, UsageError
from clipcls.portable import packed, plain, unpacked
from clipcls.records import ImageRef
from clipcls.sources import ImageSource, tables

pytestmark = pytest.mark.usefixtures("here")


def parquet(path: str, columns: dict[str, Any], rows: int = 1000) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(f"bytes of {name}".encode())


def refs(*paths: str, **options: Any) -> list[ImageRef]:
    source = ImageSource(paths, **options)
    found = list(source)
    assert list(source) == found
    assert source.count() in (None, len(found))
    return found


# Paths


def test_a_column_of_paths(here: Path) -> None:
    touch("d/a.jpg", "d/sub/b.jpg", "c.jpg")
    columns = {"path": ["a.jpg", "sub/b.jpg", str(here / "c.jpg"), "c.jpg", "gone.jpg", None], "n": list(range(6))}
    parquet("d/t.parquet", columns)
    found = refs("d/t.parquet")
    assert [ref.id for ref in found] == [
        "d/a.jpg",
        "d/sub/b.jpg",
        str(here / "c.jpg"),
        "c.jpg",  # from the current folder, since it is not beside the table
        "d/gone.jpg",
        "d/t.parquet#5",
    ]
    assert [dict(ref.extra) for ref in found] == [{"n": n} for n in range(6)]
    assert [data(ref) for ref in found[:2]] == [b"bytes of d/a.jpg", b"bytes of d/sub/b.jpg"]
    assert found[0].stat is not None and found[0].stat.path == str(here / "d/a.jpg"), "files keep their stamps"
    assert error(found[4]) == "No such file or directory"
    assert error(found[5]) == "the table names no file in this row"
    assert [ref.id for ref in refs("d/t.parquet", exclude=["*.jpg"])] == ["d/t.parquet#5"]
    assert [ref.id for ref in refs("d/t.parquet", limit=1)] == ["d/a.jpg"]


def test_addresses_in_a_column_are_addresses() -> None:
    parquet("t.parquet", {"URL": ["http://127.0.0.1:1/a.jpg"], "TEXT": ["a cat"]})
    [ref] = refs("t.parquet")
    assert (ref.id, dict(ref.extra)) == ("http://127.0.0.1:1/a.jpg", {"TEXT": "a cat"})


def test_what_clipcls_wrote_can_be_read_again() -> None:
    touch("imgs/a.jpg")
    parquet("out/part-0.parquet", {"path": ["imgs/a.jpg"], "label": ["cat"], "ranked": [[{"label": "cat"}]]})
    [ref] = refs("out")
    assert ref.id == "imgs/a.jpg" and dict(ref.extra) == {"label": "cat", "ranked": [{"label": "cat"}]}


# Bytes


def write(name: str, table: pa.Table) -> None:
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, name, row_group_size=40)
    elif name.endswith(".feather"):
        pyarrow.feather.write_feather(table, name, compression="lz4", chunksize=40)
    else:
        kind = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
        with pa.OSFile(name, "wb") as file, kind(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=40)


NAMES = ["t.parquet", "file.arrow", "stream.arrow", "t.feather"]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_bytes(name: str) -> None:
    write(name, pa.table({"jpg": [b"picture %d" % n for n in range(100)], "text": [f"t{n}" for n in range(100)]}))
    source = ImageSource([name])
    assert source.count() == 100
    found = list(source)
    assert [ref.id for ref in found] == [f"{name}#{n}" for n in range(100)]
    assert [data(ref) for ref in found] == [b"picture %d" % n for n in range(100)]
    assert [data(found[n]) for n in (99, 0, 50, 49, 41, 41)] == [b"picture %d" % n for n in (99, 0, 50, 49, 41, 41)]
    assert [dict(ref.extra) for ref in found[::99]] == [{"text": "t0"}, {"text": "t99"}]


@pytest.mark.parametrize("name", NAMES)
def test_bytes_as_hugging_face_has_them(name: str) -> None:
    touch("beside.jpg")
    cells = [
        {"bytes": b"x", "path": "x.jpg"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    write(name, pa.table({"image": cells, "label": [1, 2, 3, 4]}))
    found = refs(name)
    assert [ref.id for ref in found] == [f"{name}#{n}" for n in range(4)]
    assert dict(found[0].extra) == {"image_path": "x.jpg", "label": 1} and dict(found[3].extra) == {"label": 4}
    assert [data(ref) for ref in found[:2]] == [b"x", b"bytes of beside.jpg"]
    assert error(found[2]) == error(found[3]) == "the table holds no image in this row"


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_cell_costs_no_image(name: str) -> None:
    bad = pa.array([b"\xff\xfe caf\xc3\xa9", b"fine", None]).view(pa.string())
    year_40000 = pa.array([1 << 60, 1_600_000_000_000_000, None])
    columns = {
        "jpg": [b"0", b"1", b"2"],
        "text": bad,
        "time": year_40000.view(pa.timestamp("us")),
        "day": pa.array([2**31 - 1, 18_000, None], pa.int32()).view(pa.date32()),
        "times": pa.array([[1 << 60], [0], None]).cast(pa.list_(pa.timestamp("us"))),
        "n": [0, 1, 2],
    }
    write(name, pa.table(columns))
    found = refs(name)
    assert [(ref.id, data(ref)) for ref in found] == [(f"{name}#{n}", b"%d" % n) for n in range(3)]
    odd, ordinary, none = ({key: plain(value) for key, value in ref.extra.items()} for ref in found)
    assert odd == {
        "text": "\ufffd\ufffd café",
        "time": "<value out of range: 1152921504606846976>",
        "day": "<value out of range: 2147483647>",
        "times": None,
        "n": 0,
    }
    assert ordinary | {"times": ""} == {
        "text": "fine",
        "time": "2020-09-13 12:26:40",
        "day": "2019-04-14",
        "times": "",
        "n": 1,
    }
    assert none == dict.fromkeys(odd) | {"n": 2}


def test_nanoseconds_without_pandas() -> None:
    at = 1_600_000_000_000_000_000
    write("t.parquet", pa.table({"jpg": [b"0", b"1"], "time": pa.array([at + 1, at], pa.timestamp("ns"))}))
    code = (
        "import sys; sys.modules['pandas'] = None; from clipcls.sources import ImageSource;"
        "print(*(ref.extra['time'] for ref in ImageSource(['t.parquet'])), sep='\\n')"
    )
    expected = [plain(ref.extra["time"]) for ref in refs("t.parquet")]
    assert expected == ["2020-09-13 12:26:40.000000001", "2020-09-13 12:26:40"]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only names that are Unicode")
@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_is_no_utf_8_is_a_path(name: str) -> None:
    Path(os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"coffee")
    paths = pa.array([b"caf\xe9.jpg", b"\xff.jpg", None]).view(pa.string())
    write(name, pa.table({"path": paths}))
    found = refs(name)
    assert data(found[0]) == b"coffee" and [os.fsencode(ref.id) for ref in found[1:]] == [
        b"\xff.jpg",
        b"%b#2" % name.encode(),
    ]
    assert [bool(error(ref)) for ref in found[1:]] == [True, True]
    cells = pa.StructArray.from_arrays([pa.array([None, b"x", None], pa.binary()), paths], ["bytes", "path"])
    write(name, pa.table({"image": cells}))
    os.utime(name, (1, 1))
    found = refs(name)
    assert [data(ref) for ref in found[:2]] == [b"coffee", b"x"]
    assert found[0].extra == {"image_path": "caf\ufffd.jpg"}, "which is only told, and may be written"
    assert error(found[2]) == "the table holds no image in this row"


def test_threads_that_do_not_ask_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet("t.parquet", {"jpg": [b"%d" % n for n in range(2000)]}, rows=700)
    begun = []
    real = tables._opened
    monkeypatch.setattr(tables, "_opened", lambda full: begun.append(full) or real(full))
    found = refs("t.parquet")
    begun.clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(data, found)) == [b"%d" % n for n in range(2000)]
    assert len(begun) < 10, "a group is read once, not once an image"


def test_a_table_that_changed_is_read_anew() -> None:
    parquet("t.parquet", {"jpg": [b"old"]})
    [old] = refs("t.parquet")
    assert data(old) == b"old"
    parquet("t.parquet", {"jpg": [b"newer"]})
    os.utime("t.parquet", (1, 1))
    assert data(refs("t.parquet")[0]) == b"newer"


def test_a_row_that_is_gone_is_told() -> None:
    parquet("t.parquet", {"jpg": [b"%d" % n for n in range(10)]})
    found = refs("t.parquet")
    parquet("t.parquet", {"jpg": [b"0", b"1"]})
    assert error(found[7]) == "the table has changed since the run began; --overwrite starts over"
    assert error(found[0]) == error(found[7]), "which may be another picture now"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_that_changed_since_gives_a_later_process_no_other_picture(name: str) -> None:
    write(name, pa.table({"jpg": [b"one", b"two"]}))
    kept = [json.dumps(packed(ref)) for ref in refs(name)]
    assert [data(unpacked(json.loads(each))) for each in kept] == [b"one", b"two"]
    tables._cells.cache_clear()  # which another process has not
    write(name, pa.table({"jpg": [b"six", b"ten"]}))
    os.utime(name, (1, 1))
    for each in kept:
        assert error(unpacked(json.loads(each))).startswith("the table has changed since the run began")


def test_bytes_stay_in_the_file_until_they_are_wanted() -> None:
    parquet("t.parquet", {"jpg": [os.urandom(100_000) for _ in range(300)], "n": list(range(300))}, rows=100)
    before = pa.total_allocated_bytes()
    found = iter(ImageSource(["t.parquet"]))
    sizes = [len(pickle.dumps(ref)) for ref in found]
    assert max(sizes) < 2000 and pa.total_allocated_bytes() - before < 5_000_000


def test_a_group_is_not_in_memory_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"jpg": [os.urandom(100_000) for _ in range(400)]})
    pyarrow.parquet.write_table(table, "t.parquet", write_batch_size=10)  # else all of it is one page
    del table
    before = pa.total_allocated_bytes()
    monkeypatch.setattr(tables, "_HELD", 5_000_000)
    for ref in refs("t.parquet"):
        ref.open().close()
        assert pa.total_allocated_bytes() - before < 20_000_000


# Which column


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"image": [b"x"], "url": ["u"], "thumb": [b"y"]}, "image"),
        ({"Path": ["p"], "text": ["t"]}, "Path"),
        ({"pixels": [b"x"], "path": ["p"]}, "pixels"),
        ({"file_name": ["p"], "caption": ["t"], "n": [1]}, "file_name"),
        ({"image": ["p.jpg"]}, "image"),
        ({"image": [{"bytes": b"x", "path": None}], "photo": [{"bytes": 1, "path": "no image"}]}, "image"),
    ],
)
def test_the_column_is_found(columns: dict[str, Any], found: str) -> None:
    assert tables.image_column(pa.table(columns).schema, None, "t").name == found


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"a": [b"x"], "b": [b"y"]}, None, "which column holds the images? the images could be in a, b; say which"),
        ({"path": ["x"], "url": ["y"]}, None, "the images could be in path, url; say which with --image-column"),
        ({"text": ["x"], "n": [1]}, None, "which column holds the images? columns text, n; say which"),
        ({"path": ["x"], "n": [1]}, "image", "no column 'image'; it has path, n"),
        ({"path": ["x"], "n": [1]}, "n", "no column of images or paths 'n'; it has path, n"),
    ],
)
def test_the_column_is_not_found(columns: dict[str, Any], asked: str | None, message: str) -> None:
    parquet("t.parquet", columns)
    with pytest.raises(UsageError) as caught:
        list(ImageSource(["t.parquet"], image_column=asked))
    assert str(caught.value).startswith("t.parquet: ") and message in str(caught.value)


def test_the_column_that_is_asked_for() -> None:
    touch("a.jpg")
    parquet("t.parquet", {"path": ["a.jpg"], "text": ["gone.jpg"], "thumb": [b"small"]})
    assert [ref.id for ref in refs("t.parquet", image_column="path")] == ["a.jpg"]
    assert [ref.id for ref in refs("t.parquet", image_column="text")] == ["gone.jpg"]
    [ref] = refs("t.parquet", image_column="thumb")
    assert data(ref) == b"small" and dict(ref.extra) == {"path": "a.jpg", "text": "gone.jpg"}


# Folders of tables, and what is wrong with some


def test_a_folder_of_tables() -> None:
    for n in range(3):
        parquet(f"d/split={n % 2}/part-{n}.parquet", {"jpg": [b"%d" % n] * 2})
    parquet("d/_manifest/plan.parquet", {"jpg": [b"no"]})
    parquet("d/.cache/x.parquet", {"jpg": [b"no"]})
    assert [data(ref) for ref in refs("d")] == [b"0", b"0", b"2", b"2", b"1", b"1"]
    assert [data(ref) for ref in refs("d/*/part-[12].parquet")] == [b"2", b"2", b"1", b"1"]


def test_a_table_that_is_broken_is_a_row() -> None:
    parquet("d/a.parquet", {"jpg": [b"x"] * 10})
    whole = Path("d/a.parquet").read_bytes()
    Path("d/b.parquet").write_bytes(whole[:-20])
    Path("d/c.parquet").write_bytes(b"")
    Path("d/d.arrow").write_bytes(b"ARROW1 and nothing more")
    Path("d/e.feather").write_bytes(b"FEA1")
    parquet("d/f.parquet", {"text": ["other columns"]})
    found = refs("d")
    assert [ref.id for ref in found[10:]] == [
        f"d/{name}" for name in ("b.parquet", "c.parquet", "d.arrow", "e.feather", "f.parquet")
    ]
    assert all(error(ref) for ref in found[10:])
    assert error(found[-1]).startswith("which column holds the images?")
    [alone] = refs("d/b.parquet")
    assert alone.id == "d/b.parquet" and error(alone)


def test_damage_within_a_table_costs_no_more_than_it_hit() -> None:
    parquet("t.parquet", {"jpg": [os.urandom(1000) for _ in range(100)]}, rows=50)
    found = refs("t.parquet")
    first = data(found[0])
    content = bytearray(Path("t.parquet").read_bytes())
    at = pyarrow.parquet.ParquetFile("t.parquet").metadata.row_group(1).column(0).data_page_offset
    content[at : at + 40] = bytes(40)
    Path("t.parquet").write_bytes(content)
    found = refs("t.parquet")
    assert data(found[0]) == first and len(found) == 100
    assert error(found[99])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet("d/t.parquet", {"path": ["a.jpg"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path in ("d/t.parquet", "d", "d/*.parquet"):
        with pytest.raises(UsageError, match=r"need an optional package: pip install \"clipcls\[tables\]\""):
            list(ImageSource([path]))


def test_memory_does_not_grow_with_the_table() -> None:
    parquet("t.parquet", {"path": [f"{n}.jpg" for n in range(30_000)], "text": ["x" * 200] * 30_000}, rows=30_000)
    before = pa.total_allocated_bytes()
    most = 0
    for at, _ in enumerate(ImageSource(["t.parquet"])):
        if at % 1000 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4_000_000


# Lists


def test_a_list_in_a_file() -> None:
    touch("a.jpg", "b.jpg", "@c.jpg")
    Path("list.txt").write_bytes(b"a.jpg\r\n\nb.jpg\ngone.jpg")
    assert [ref.id for ref in refs("@list.txt")] == ["a.jpg", "b.jpg", "gone.jpg"]
    assert [ref.id for ref in refs("b.jpg", "@list.txt")] == ["b.jpg", "a.jpg", "gone.jpg"]
    assert [ref.id for ref in refs("@c.jpg")] == ["@c.jpg"], "a file that is called so"
    with pytest.raises(InputError, match=r"lost.txt: no such file or folder"):
        ImageSource(["@lost.txt"])
    Path("list.lst").write_bytes(b"a.jpg\0b.jpg\0")
    assert [ref.id for ref in refs("@list.lst", null_separated=True)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
def test_a_list_with_a_mark_of_its_encoding(separator: bytes) -> None:
    touch("a.jpg", "\ufeffb.jpg")
    content = "\ufeffa.jpg".encode() + separator + "\ufeffb.jpg".encode() + separator
    Path("list.txt").write_bytes(content)
    options = {"null_separated": separator == b"\0"}
    for found in (refs("@list.txt", **options), list(ImageSource(["-"], stdin=Slow(content), **options))):
        assert [ref.id for ref in found] == ["a.jpg", "\ufeffb.jpg"], "it is one at the start alone"
    Path("list.txt").write_bytes(b"\xef\xbb\xbf")
    assert refs("@list.txt") == []


class Slow(io.BytesIO):
    """A pipe through which one byte comes at a time."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(1)


def test_a_list_may_name_tables_and_shards() -> None:
    parquet("t.parquet", {"jpg": [b"x", b"y"]})
    stdin = io.BytesIO(b"t.parquet\n")
    assert [ref.id for ref in ImageSource(["-"], stdin=stdin)] == ["t.parquet#0", "t.parquet#1"]


# Metadata


def test_an_image_folder_with_metadata() -> None:
    touch("d/train/a.jpg", "d/train/sub/b.jpg", "d/test/c.jpg", "d/test/more/d.jpg", "d/e.jpg")
    Path("d/train/metadata.csv").write_text(
        'file_name,text,label\na.jpg,"a cat, big",1\n./sub/b.jpg,dog,2\n', "utf-8-sig"
    )
    Path("d/test/metadata.jsonl").write_text('{"file_name": "c.jpg", "objects": {"bbox": [1, 2]}}\n\n{"n": 1}\n')
    found = {ref.id: dict(ref.extra) for ref in refs("d")}
    assert found == {
        "d/e.jpg": {},
        "d/test/c.jpg": {"objects": {"bbox": [1, 2]}},
        "d/test/more/d.jpg": {},
        "d/train/a.jpg": {"text": "a cat, big", "label": "1"},
        "d/train/sub/b.jpg": {"text": "dog", "label": "2"},
    }
    assert {ref.id: dict(ref.extra) for ref in refs("d/*")} == found
    assert dict(refs("d/train/")[0].extra) == {"text": "a cat, big", "label": "1"}


def test_metadata_that_cannot_be_understood_cost_no_image(caplog: pytest.LogCaptureFixture) -> None:
    touch("d/a.jpg")
    Path("d/metadata.jsonl").write_text("[1]\n")
    Path("d/metadata.csv").write_text("name,other\na.jpg,1\n")
    with caplog.at_level(logging.WARNING, logger="clipcls"):
        [ref] = refs("d", limit=5)
    assert dict(ref.extra) == {}
    assert "d/metadata.jsonl: what it says of the images is left out: a line that is no JSON object" in caplog.messages


def test_references_are_compared_and_hashed() -> None:
    touch("a.jpg")
    one, two = refs("a.jpg"), refs("a.jpg")
    assert one == two and len({*one, *two}) == 1
    parquet("t.parquet", {"path": ["a.jpg"], "n": [1]})
    assert refs("t.parquet") != one and hash(refs("t.parquet")[0]) == hash(one[0])


def test_plain_sources_import_nothing_more() -> None:
    touch("a.jpg")
    code = (
        "import sys; from clipcls.sources import ImageSource; list(ImageSource(['.', '@list.txt']));"
        "print([name for name in ('pyarrow', 'fsspec', 's3fs', 'tarfile', 'urllib.request') if name in sys.modules])"
    )
    Path("list.txt").write_text("a.jpg")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
