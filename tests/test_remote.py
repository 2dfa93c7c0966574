"""Images far away: on a web server, and in a bucket behind a real S3 server."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import Terminal
from fakes import FakeDoor, picture
from opening import data, error
from servers import Web, free_port, s3_server, tar

from clipcls.errors import InputError, UsageError
from clipcls.portable import packed, unpacked
from clipcls.records import ImageRef
from clipcls.sources import ImageSource, file_ref, opening, remote, tables

Install = Callable[..., FakeDoor]


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def person() -> Iterator[Mapping[str, str]]:
    with s3_server() as variables:
        yield variables


@pytest.fixture
def s3(person: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """boto3's client for an empty bucket called ``pictures``, which clipcls's environment leads to as well."""
    import boto3
    from s3fs import S3FileSystem

    for name, value in person.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    client: Any = boto3.Session().client("s3")  # the default one keeps the first user it meets
    client.create_bucket(Bucket="pictures")
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="pictures"):
        if keys := [{"Key": found["Key"]} for found in page.get("Contents", ())]:
            client.delete_objects(Bucket="pictures", Delete={"Objects": keys})
    client.delete_bucket(Bucket="pictures")
    S3FileSystem.clear_instance_cache()


def put(s3: Any, *names: str) -> None:
    for name in names:
        s3.put_object(Bucket="pictures", Key=name, Body=f"bytes of {name}".encode())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What S3 was asked for."""
    from s3fs import S3FileSystem

    requests: Counter[str] = Counter()
    real = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **wanted: Any) -> Any:
        requests[method] += 1
        return await real(self, method, *args, **wanted)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    return requests


def ids(*paths: str, **options: Any) -> list[str]:
    found = [ref.id for ref in ImageSource(paths, **options)]
    assert [ref.id for ref in ImageSource(paths, **options)] == found
    return found


# The web


def test_a_picture_on_the_web(web: Web) -> None:
    web.files["/a%20b/%E7%8C%AB.jpg?x=1&y=[2]"] = b"meow"
    address = f"{web.url}/a%20b/猫.jpg?x=1&y=[2]"
    [ref] = ImageSource([address])
    assert (ref.id, ref.stat, data(ref)) == (address, None, b"meow")
    assert web.asked.total() == 1, "one picture is one request"
    assert all(agent.startswith("clipcls/") for agent in web.agents)
    assert data(file_ref(address, os.getcwd())) == b"meow"


def test_nothing_more_is_installed_for_the_web(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    web.files["/a.jpg"] = b"a"
    web.files["/b.tar"] = tar({"b.jpg": b"b"})
    assert [data(ref) for ref in ImageSource([f"{web.url}/a.jpg", f"{web.url}/b.tar"])] == [b"a", b"b"]
    with pytest.raises(UsageError, match=r"http:// needs an optional package: pip install \"clipcls\[remote\]\""):
        ImageSource([f"{web.url}/folder/"])
    with pytest.raises(UsageError, match=r"s3:// needs an optional package"):
        ImageSource(["s3://pictures/"])


@pytest.mark.parametrize("faults", [[503], [500, 429], ["cut"], ["reset", "cut"]])
def test_what_may_pass_is_tried_again(web: Web, faults: list[int | str]) -> None:
    web.files["/a.jpg"] = b"x" * 100_000
    web.faults["/a.jpg"] = list(faults)
    assert data(file_ref(f"{web.url}/a.jpg", "/")) == b"x" * 100_000
    assert web.asked["/a.jpg"] == len(faults) + 1


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([404], "there is nothing at this address (HTTP 404)"),
        ([410], "there is nothing at this address (HTTP 410)"),
        ([403], "access denied (HTTP 403); check your credentials"),
        ([451], "the server answers with an error (HTTP 451)"),
        ([503] * 3, "the server answers with an error (HTTP 503)"),
        (["cut"] * 3, "the server broke off 50 bytes before the end"),
    ],
)
def test_what_does_not_pass_is_told_in_a_line(web: Web, faults: list[int | str], reason: str) -> None:
    web.files["/a.jpg"] = b"x" * 100
    web.faults["/a.jpg"] = list(faults)
    assert error(file_ref(f"{web.url}/a.jpg", "/")) == reason
    assert web.asked["/a.jpg"] == len(faults)


def test_a_server_that_is_not_there_or_says_nothing(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error(file_ref("http://127.0.0.1:1/a.jpg", "/")) == "Connection refused"
    monkeypatch.setattr(remote, "_TIMEOUT", 0.2)
    with __import__("socket").create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert error(file_ref(f"http://127.0.0.1:{port}/a.jpg", "/")) == "no answer in time"


def test_a_server_that_is_too_slow(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PATIENCE", 0.1)
    web.files["/a.jpg"] = b"x" * 100
    web.faults["/a.jpg"] = ["drip"]
    assert error(file_ref(f"{web.url}/a.jpg", "/")) == "it comes too slowly"
    assert web.asked["/a.jpg"] == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_member_of_a_shard_is_asked_for_again_where_the_server_broke_off(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    web.files["/s.tar"] = tar({"a.jpg": b"a" * 5000, "b.jpg": b"b" * 5000})
    _, b = pickle.loads(pickle.dumps(list(ImageSource([f"{web.url}/s.tar"]))))
    assert data(b) == b"b" * 5000  # which came by
    web.faults["/s.tar"] = ["cut", 503]
    assert data(b) == b"b" * 5000
    assert web.asked["/s.tar"] == 4


def test_an_endless_file_is_not_fetched(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_LARGEST", 1000)
    web.files["/a.jpg"] = b"x" * 1001
    assert error(file_ref(f"{web.url}/a.jpg", "/")) == "0.0 GB or more is too large for a picture"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_shard_on_the_web(web: Web, ranges: bool) -> None:
    web.ranges = ranges
    content = {f"{n:03}.jpg": bytes([n]) * 2000 for n in range(50)} | {"049.txt": b"a cat"}
    web.files["/s-0.tar"] = web.files["/s-1.tar"] = tar(content)
    refs = list(ImageSource([f"{web.url}/s-{{0..1}}.tar"]))
    assert [ref.id for ref in refs[:50]] == [f"{web.url}/s-0.tar/{n:03}.jpg" for n in range(50)]
    assert len(refs) == 100 and refs[-1].extra == {"caption": "a cat"}
    asked = web.asked.total()
    assert [data(ref) for ref in refs[50:]] == [bytes([n]) * 2000 for n in range(50)]
    assert web.asked.total() == asked == 2, "they came by, and are held for a while"
    assert [data(ref) for ref in refs[50:]] == [bytes([n]) * 2000 for n in range(50)]
    assert web.asked.total() == asked + 50, "a process elsewhere asks for each"


def test_a_shard_is_read_on_where_the_connection_broke(web: Web) -> None:
    web.files["/s.tar"] = tar({f"{n}.jpg": bytes([n]) * 200_000 for n in range(40)})
    web.faults["/s.tar"] = ["cut", "cut"]
    assert len(list(ImageSource([f"{web.url}/s.tar"]))) == 40
    assert web.asked["/s.tar"] == 3


def test_a_shard_that_is_not_there_is_a_row(web: Web) -> None:
    web.files["/s-0.tar"] = tar({"a.jpg": b"a"})
    refs = list(ImageSource([f"{web.url}/s-{{0..1}}.tar"]))
    assert [ref.id for ref in refs] == [f"{web.url}/s-0.tar/a.jpg", f"{web.url}/s-1.tar"]
    assert error(refs[1]) == "there is nothing at this address (HTTP 404)"


def test_shards_are_read_several_at_once_where_all_are_listed_first() -> None:
    meeting = Barrier(4)

    class Meeting(Web):
        def answer(self, request: Any, *, body: bool) -> None:
            meeting.wait(20)  # for three more requests
            super().answer(request, body=body)

    with closing(Meeting()) as web:
        for n in range(7):
            web.files[f"/s-{n}.tar"] = tar({f"{m}.jpg": b"%d" % m for m in range(3)})
        del web.files["/s-5.tar"]
        refs = list(ImageSource([f"{web.url}/s-{{0..7}}.tar"], whole=True))
    names = [ref.id.removeprefix(web.url) for ref in refs]
    members = [[f"/s-{n}.tar/{m}.jpg" for m in range(3)] if n not in (5, 7) else [f"/s-{n}.tar"] for n in range(8)]
    assert names == list(chain.from_iterable(members))


def test_folders_and_tables_on_the_web(web: Web, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"url": ["b.jpg", f"{web.url}/c.jpg"]}), tmp_path / "t.parquet")
    web.files["/f/t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    web.files["/f/"] = (
        b'<a href="a.jpg">a</a> <a href="notes.txt">n</a> <a href="t.parquet">t</a> <a href="../z.jpg">z</a>'
    )
    web.files["/f/a.jpg"] = web.files["/f/b.jpg"] = b"bytes"
    assert ids(f"{web.url}/f/") == ids(f"{web.url}/f/*.jpg") == [f"{web.url}/f/a.jpg"]
    refs = list(ImageSource([f"{web.url}/f/t.parquet"]))
    assert [ref.id for ref in refs] == [f"{web.url}/f/b.jpg", f"{web.url}/c.jpg"]
    assert data(refs[0]) == b"bytes"


def test_a_list_of_addresses(web: Web, here: Path) -> None:
    web.files["/a.jpg"] = b"a"
    Path("b.jpg").write_bytes(b"b")
    Path("list.txt").write_text(f"{web.url}/a.jpg\nb.jpg\n{(here / 'b.jpg').as_uri()}\n", "utf-8")
    assert [data(ref) for ref in ImageSource(["@list.txt"])] == [b"a", b"b", b"b"]
    web.files["/list.txt"] = Path("list.txt").read_bytes()
    assert [data(ref) for ref in ImageSource([f"@{web.url}/list.txt"])] == [b"a", b"b", b"b"]
    with pytest.raises(InputError, match=r"@http.*/none.txt: cannot be read: there is nothing at this address"):
        list(ImageSource([f"@{web.url}/none.txt"]))


def elsewhere(refs: Iterable[ImageRef]) -> list[ImageRef]:
    """The references as a resumed run has them, in a process that nothing passed by and that asked for nothing."""
    remote._version_now.cache_clear()
    opening.passed = opening._Passed()
    return [unpacked(json.loads(json.dumps(packed(ref)))) for ref in refs]


def test_what_changed_on_the_web_gives_no_other_picture(web: Web, tmp_path: Path) -> None:
    web.tags = True
    for name, content in (("a", [b"one", b"two"]), ("b", [b"six", b"ten"])):
        web.files[f"/{name}.tar"] = tar({f"{n}.jpg": each for n, each in enumerate(content)})
        pyarrow.parquet.write_table(pyarrow.table({"jpg": content}), tmp_path / name)
        web.files[f"/{name}.parquet"] = (tmp_path / name).read_bytes()
    refs = list(ImageSource([f"{web.url}/a.tar", f"{web.url}/a.parquet"]))
    assert [data(ref) for ref in elsewhere(refs)] == [b"one", b"two"] * 2
    web.files |= {"/a.tar": web.files["/b.tar"], "/a.parquet": web.files["/b.parquet"]}
    tables._cells.cache_clear()
    reasons = [error(ref) for ref in elsewhere(refs)]
    end = "has changed since the run began; --overwrite starts over"
    assert reasons == [f"the archive {end}"] * 2 + [f"the table {end}"] * 2
    web.tags = False
    assert [data(ref) for ref in elsewhere(refs[:2])] == [b"six", b"ten"], "a server that tells no version"


def test_a_shard_that_is_another_one_after_the_connection_broke(web: Web) -> None:
    web.tags = True
    web.files["/s.tar"] = tar({f"{n}.jpg": bytes([n]) * 200_000 for n in range(40)})
    web.faults["/s.tar"] = ["cut"]
    refs = iter(ImageSource([f"{web.url}/s.tar"]))
    next(refs)
    web.files["/s.tar"] += bytes(10240)
    *_, last = refs
    assert error(last).startswith("the archive has changed since the run began")


@pytest.mark.parametrize("sizes", [True, False])
def test_a_table_on_a_server_without_ranges(web: Web, tmp_path: Path, sizes: bool) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"jpg": [os.urandom(6 << 20)] * 2}), tmp_path / "t.parquet")
    web.files["/t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    web.ranges, web.sizes = False, sizes
    [ref] = ImageSource([f"{web.url}/t.parquet"])
    assert error(ref) == "the web server sends this file only as a whole; download it first"


def test_a_row_that_is_gone_from_a_table_on_the_web(web: Web, tmp_path: Path) -> None:
    for rows in (10, 2):
        pyarrow.parquet.write_table(pyarrow.table({"jpg": [b"%d" % n for n in range(rows)]}), tmp_path / f"{rows}")
    web.files["/t.parquet"] = (tmp_path / "10").read_bytes()
    refs = list(ImageSource([f"{web.url}/t.parquet"]))
    web.files["/t.parquet"] = (tmp_path / "2").read_bytes()
    assert error(refs[7]).startswith("the table has changed since the run began"), "which no server told"


# A bucket


def test_a_bucket_is_a_folder(s3: Any) -> None:
    put(s3, "f/b.jpg", "f/a/z.png", "f/a.jpg", "f/notes.txt", "f/.x/h.jpg", "f/猫 1.jpg", "other/o.jpg", "f/")
    everything = ["s3://pictures/f/a/z.png", "s3://pictures/f/a.jpg", "s3://pictures/f/b.jpg"]
    assert ids("s3://pictures/f/") == [*everything, "s3://pictures/f/猫 1.jpg"]
    assert ids("s3://pictures/f") == ids("s3://pictures/f/")
    assert ids("s3://pictures") == [*ids("s3://pictures/f/"), "s3://pictures/other/o.jpg"]
    assert "s3://pictures/f/a/z.png" not in ids("s3://pictures/f/", recursive=False)
    assert ids("s3://pictures/f/", exclude=["a"], include=["*.jpg"]) == [
        "s3://pictures/f/a.jpg",
        "s3://pictures/f/b.jpg",
        "s3://pictures/f/猫 1.jpg",
    ]
    assert ids("s3://pictures/f/", limit=2) == everything[:2]
    assert ids("s3://pictures/f/b.jpg", "s3://pictures/f/") == [
        "s3://pictures/f/b.jpg",
        *everything[:2],
        "s3://pictures/f/猫 1.jpg",
    ]
    [*_, cat] = ImageSource(["s3://pictures/f/"])
    assert data(cat) == "bytes of f/猫 1.jpg".encode()
    assert ImageSource(["s3://pictures/f/"]).count() is None


def test_colons_in_the_names_of_a_bucket(s3: Any, tmp_path: Path) -> None:
    put(s3, "odd::f/a::b.gif", "odd::f/s3::c.gif")
    s3.put_object(Bucket="pictures", Key="t::t/s::s.tar", Body=tar({"d::d.gif": b"d"}))
    refs = [ref for path in ("odd::f/", "t::t") for ref in ImageSource([f"s3://pictures/{path}"])]
    assert [(ref.id.removeprefix("s3://pictures/"), data(ref)) for ref in refs] == [
        ("odd::f/a::b.gif", b"bytes of odd::f/a::b.gif"),
        ("odd::f/s3::c.gif", b"bytes of odd::f/s3::c.gif"),
        ("t::t/s::s.tar/d::d.gif", b"d"),
    ]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("in.gif", b"in")
    s3.upload_file(str(tmp_path / "z.zip"), "pictures", "z.zip")
    for address in ("zip://in.gif::s3://pictures/z.zip", "simplecache::zip://in.gif::s3://pictures/z.zip"):
        assert data(file_ref(address, "/")) == b"in", "an address in an address"


def test_patterns_in_a_bucket(s3: Any) -> None:
    put(s3, "f/a.jpg", "f/b.txt", "f/2020/c.jpg", "f/2021/x/d.png", "f/2021/e.jpg", "other/a.jpg")

    def below(*patterns: str, **options: Any) -> list[str]:
        found = ids(*(f"s3://pictures/{pattern}" for pattern in patterns), **options)
        return sorted(each.removeprefix("s3://pictures/") for each in found)

    assert below("f/*.jpg") == ["f/a.jpg"]
    assert below("f/*") == ["f/2020/c.jpg", "f/2021/e.jpg", "f/2021/x/d.png", "f/a.jpg"]
    assert below("f/*", recursive=False) == ["f/2020/c.jpg", "f/2021/e.jpg", "f/a.jpg"]
    assert below("f/202[1-9]") == ["f/2021/e.jpg", "f/2021/x/d.png"]
    assert below("*/a.jpg") == below("{f,other}/a.jpg") == ["f/a.jpg", "other/a.jpg"]
    assert below("f/**/*.jpg") == ["f/2020/c.jpg", "f/2021/e.jpg", "f/a.jpg"]
    assert below("**/x/*") == below("f/20*/**/x") == ["f/2021/x/d.png"]
    assert below("f/**") == below("f/*")
    assert below("nothing/*.jpg") == []


def test_a_bucket_is_listed_page_by_page(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, *(f"f/{n:02}.jpg" for n in range(25)), "f/z/last.jpg", "y/a.jpg", "y/no.jpg", "z/a.jpg")
    from s3fs import S3FileSystem

    pages, real = [], S3FileSystem.call_s3

    def small(self: Any, method: str, **wanted: Any) -> Any:
        pages.append(wanted["Prefix"])
        return real(self, method, **wanted, MaxKeys=10)

    monkeypatch.setattr(S3FileSystem, "call_s3", small)
    refs = iter(ImageSource(["s3://pictures/f/"]))
    assert next(refs).id == "s3://pictures/f/00.jpg"
    before = len(pages)
    assert [ref.id for ref in refs][-1] == "s3://pictures/f/z/last.jpg"
    assert before == 2 and len(pages) > 4, "metadata and one page before the first image"
    pages.clear()
    assert [ref.id for ref in ImageSource(["s3://pictures/[xy]/a.jpg"])] == ["s3://pictures/y/a.jpg"]
    assert pages == ["", "y/"], "what the pattern leaves out is not looked into"


def test_what_is_not_in_the_bucket(s3: Any) -> None:
    put(s3, "a.jpg")
    a, gone = ImageSource(["s3://pictures/a.jpg", "s3://pictures/gone.jpg"])
    assert data(a) == b"bytes of a.jpg"
    assert error(gone).startswith("there is nothing at this address")
    assert ids("s3://pictures/none/") == []
    with pytest.raises(InputError, match=r"s3://nowhere/f/: cannot be read: there is nothing at this address"):
        list(ImageSource(["s3://nowhere/f/"]))
    refs = list(ImageSource(["s3://pictures/a.jpg", "s3://nowhere/f/"]))
    assert [ref.id for ref in refs] == ["s3://pictures/a.jpg", "s3://nowhere/f/"], "once begun, it is a row"


def test_an_empty_object_and_one_of_known_size(s3: Any) -> None:
    s3.put_object(Bucket="pictures", Key="f/empty.jpg", Body=b"")
    [ref] = ImageSource(["s3://pictures/f/"])
    assert data(ref) == data(file_ref(ref.id, "/")) == b""


@pytest.mark.parametrize("fault", [500, 503, "reset", "cut"])
def test_what_may_pass_is_tried_again_by_s3_as_well(
    web: Web, person: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, fault: int | str
) -> None:
    from s3fs import S3FileSystem

    for name, value in {**person, "AWS_ENDPOINT_URL": web.url}.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    web.files["/pictures/a.jpg"] = b"x" * 10_000
    web.faults["/pictures/a.jpg"] = [fault, fault] if fault != "cut" else [200, fault]
    assert data(file_ref("s3://pictures/a.jpg", "/")) == b"x" * 10_000
    assert not web.faults["/pictures/a.jpg"]
    S3FileSystem.clear_instance_cache()


def test_an_endless_object_is_not_fetched(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3, "f/a.jpg")
    monkeypatch.setattr(remote, "_LARGEST", 10)
    [ref] = ImageSource(["s3://pictures/f/"])
    for each in (ref, file_ref(ref.id, "/")):
        assert error(each) == "0.0 GB or more is too large for a picture"


def test_the_wrong_key_opens_nothing(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    put(s3, "f/a.jpg")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=r"s3://pictures/f/: cannot be read: access denied; check your credentials"):
        list(ImageSource(["s3://pictures/f/"]))
    assert error(file_ref("s3://pictures/f/a.jpg", "/")) == "access denied; check your credentials"


def test_shards_and_tables_in_a_bucket(s3: Any, tmp_path: Path) -> None:
    for n in range(3):
        s3.put_object(Bucket="pictures", Key=f"t/s-{n}.tar", Body=tar({"a.jpg": b"%d" % n, "a.json": b'{"n": 1}'}))
    for paths in (["s3://pictures/t/s-{0..2}.tar"], ["s3://pictures/t/*.tar"], ["s3://pictures/t/"]):
        refs = list(ImageSource(paths))
        assert [ref.id for ref in refs] == [f"s3://pictures/t/s-{n}.tar/a.jpg" for n in range(3)]
        assert [data(ref) for ref in refs] == [b"0", b"1", b"2"] and refs[0].extra == {"json": '{"n": 1}'}
    table = pyarrow.table({"jpg": [b"x%d" % n for n in range(100)], "n": list(range(100))})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=30)
    s3.upload_file(str(tmp_path / "t.parquet"), "pictures", "p/t.parquet")
    refs = list(ImageSource(["s3://pictures/p"]))
    assert [data(refs[n]) for n in (0, 99, 31, 31, 2)] == [b"x0", b"x99", b"x31", b"x31", b"x2"]
    pyarrow.parquet.write_table(pyarrow.table({"jpg": [b"changed"]}), tmp_path / "t.parquet")
    s3.upload_file(str(tmp_path / "t.parquet"), "pictures", "p/t.parquet")
    assert [data(ref) for ref in ImageSource(["s3://pictures/p"])] == [b"changed"]
    s3.put_object(Bucket="pictures", Key="spark.parquet/part-0.parquet", Body=(tmp_path / "t.parquet").read_bytes())
    assert ids("s3://pictures/spark.parquet") == ["s3://pictures/spark.parquet/part-0.parquet#0"]
    assert refs[99].id == "s3://pictures/p/t.parquet#99" and refs[99].extra == {"n": 99}


def test_what_changed_in_a_bucket_gives_no_other_picture(s3: Any, tmp_path: Path, asked: Counter[str]) -> None:
    def store(content: list[bytes]) -> None:
        shard = tar({f"{n}.jpg": each for n, each in enumerate(content)})
        s3.put_object(Bucket="pictures", Key="s.tar", Body=shard)
        pyarrow.parquet.write_table(pyarrow.table({"jpg": content}), tmp_path / "t.parquet")
        s3.upload_file(str(tmp_path / "t.parquet"), "pictures", "t.parquet")

    store([b"%03d" % n for n in range(20)])
    refs = list(ImageSource(["s3://pictures/s.tar", "s3://pictures/t.parquet"]))
    asked.clear()
    assert [data(ref) for ref in elsewhere(refs[:20])] == [b"%03d" % n for n in range(20)]
    assert asked == {"get_object": 20, "head_object": 1}, "one request an archive more"
    assert [data(ref) for ref in elsewhere(refs[20:])] == [b"%03d" % n for n in range(20)]
    store([b"%03d" % n for n in range(50, 70)])
    tables._cells.cache_clear()
    reasons = {error(ref): ref.id for ref in elsewhere(refs)}
    end = "has changed since the run began; --overwrite starts over"
    assert reasons == {
        f"the archive {end}": "s3://pictures/s.tar/19.jpg",
        f"the table {end}": "s3://pictures/t.parquet#19",
    }
    again = list(ImageSource(["s3://pictures/s.tar"]))
    assert data(elsewhere(again)[0]) == b"050", "listed anew"


@pytest.mark.parametrize("folder", ["", "src/", "src//deep/"])
def test_paths_in_a_table_in_a_bucket(s3: Any, tmp_path: Path, folder: str) -> None:
    up = "../" * folder.count("/")
    paths = [
        f"{up}pics/a.jpg",
        "./b.jpg",
        "x..//c.jpg",
        "y/../b.jpg",
        f"{up}../../pics/a.jpg",
        "s3://pictures/z/../z.jpg",
    ]
    pyarrow.parquet.write_table(pyarrow.table({"path": paths}), tmp_path / "t.parquet")
    s3.upload_file(str(tmp_path / "t.parquet"), "pictures", f"{folder}t.parquet")
    found = [ref.id.removeprefix("s3://pictures/") for ref in ImageSource([f"s3://pictures/{folder}t.parquet"])]
    expected = ["pics/a.jpg", f"{folder}b.jpg", f"{folder}x..//c.jpg", f"{folder}b.jpg", "pics/a.jpg", "z/../z.jpg"]
    assert found == expected


def test_metadata_in_a_bucket(s3: Any) -> None:
    put(s3, "f/a.jpg", "f/sub/b.jpg", "f/z/c.jpg")
    s3.put_object(Bucket="pictures", Key="f/metadata.csv", Body=b"file_name,text\na.jpg,one\nsub/b.jpg,two\n")
    s3.put_object(Bucket="pictures", Key="f/z/metadata.jsonl", Body=b'{"file_name": "c.jpg", "n": 3}\n')
    extras = {ref.id.rpartition("/")[2]: ref.extra for ref in ImageSource(["s3://pictures/f/"])}
    assert extras == {"a.jpg": {"text": "one"}, "b.jpg": {"text": "two"}, "c.jpg": {"n": 3}}


def test_a_bucket_of_google(monkeypatch: pytest.MonkeyPatch) -> None:
    from gcp_storage_emulator.server import create_server
    from gcsfs import GCSFileSystem

    port = free_port()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # looks for no machine of Google's around it
    GCSFileSystem.clear_instance_cache()
    with create_server("127.0.0.1", port, in_memory=True, default_bucket="pictures"):
        there = GCSFileSystem()
        for name, content in {"f/a b.jpg": b"a", "f/sub/猫.png": b"b", "t/s.tar": tar({"c.jpg": b"c"})}.items():
            there.pipe(f"pictures/{name}", content)
        refs = list(ImageSource(["gs://pictures/f/", "gs://pictures/t/s.tar", "gs://pictures/none.jpg"]))
        found = ["gs://pictures/f/a b.jpg", "gs://pictures/f/sub/猫.png", "gs://pictures/t/s.tar/c.jpg"]
        assert [ref.id for ref in refs] == [*found, "gs://pictures/none.jpg"]
        assert [data(ref) for ref in refs[:3]] == [data(ref) for ref in elsewhere(refs[:3])] == [b"a", b"b", b"c"]
        there.pipe("pictures/t/s.tar", tar({"d.jpg": b"d"}))
        assert error(elsewhere(refs)[2]).startswith("the archive has changed since the run began")
        assert error(refs[3]) == "there is nothing at this address"
    GCSFileSystem.clear_instance_cache()


def test_any_other_file_system_of_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec
    from fsspec.registry import _registry

    memory = fsspec.filesystem("memory")
    for name in ("/m/a.jpg", "/m/sub/b.png", "/m/c.txt"):
        memory.pipe(name, name.encode())
    try:
        assert ids("memory://m/") == ids("memory://m") == ["memory://m/a.jpg", "memory://m/sub/b.png"]
        assert ids("memory://m/**/*.png") == ["memory://m/sub/b.png"]
        assert data(file_ref("memory://m/a.jpg", "/")) == b"/m/a.jpg"
        assert error(file_ref("memory://m/none.jpg", "/")) == "there is nothing at this address"
    finally:
        memory.rm("/m", recursive=True)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(_registry, "gs", raising=False)  # where another test had it
    with pytest.raises(UsageError, match=r"gs:// needs an optional package: pip install \"clipcls\[remote\]\""):
        ImageSource(["gs://bucket/f/"])
    with pytest.raises(UsageError, match=r"nosuch://a/: "):
        ImageSource(["nosuch://a/"])
    [ref] = ImageSource(["-"], stdin=io.BytesIO(b"gs://bucket/a.jpg"))
    assert "clipcls[remote]" in error(ref), "in a list it is a row"


# The same answers


COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (120, 60, 30), (90, 200, 60)]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand pictures, of which ten are poisoned."""
    folder = tmp_path_factory.mktemp("thousand") / "imgs"
    for n in range(1000):
        red, green, blue = COLOURS[n % 5]
        picture(folder / f"{n:04}.png", (red, (green + n) % 256, blue))
    for n in range(50, 1000, 100):
        (folder / f"{n:04}.png").write_bytes(b"poison %d" % n if n % 200 == 50 else b"")
    return folder


def answers(clipcls: Terminal, *words: str | Path) -> list[list[str]]:
    rows = clipcls.rows("classify", *words, "--labels", "red,green,blue", "--no-cache", "--quiet", code=3)
    assert len(rows) == 1000
    return [[row["path"].rpartition("/")[2], *(row[name] for name in row if name != "path")] for row in rows]


def test_a_thousand_pictures_have_the_same_answers_everywhere(
    fake: Install, s3: Any, web: Web, thousand: Path, tmp_path: Path, clipcls: Terminal
) -> None:
    fake()
    expected = answers(clipcls, thousand)
    assert len({row[0] for row in expected}) == 1000
    names = sorted(thousand.iterdir())
    for name in names:
        s3.put_object(Bucket="pictures", Key=f"set/imgs/{name.name}", Body=name.read_bytes())
    assert answers(clipcls, "s3://pictures/set/") == expected
    for n in range(4):
        shard = tar({name.name: name.read_bytes() for name in names[n * 250 : (n + 1) * 250]})
        (tmp_path / f"shard-{n:05}.tar").write_bytes(shard)
        s3.put_object(Bucket="pictures", Key=f"shards/shard-{n:05}.tar", Body=shard)
        web.files[f"/shard-{n:05}.tar"] = shard
    assert answers(clipcls, tmp_path / "shard-{00000..00003}.tar") == expected
    assert answers(clipcls, "s3://pictures/shards/shard-{00000..00003}.tar") == expected
    assert answers(clipcls, f"{web.url}/shard-{{00000..00003}}.tar") == expected
    columns = {"png": [name.read_bytes() for name in names]}, {"path": [f"imgs/{name.name}" for name in names]}
    for at, column in enumerate(columns):
        pyarrow.parquet.write_table(pyarrow.table(column), tmp_path / f"{at}.parquet", row_group_size=300)
    (tmp_path / "imgs").symlink_to(thousand)
    assert answers(clipcls, tmp_path / "1.parquet") == expected
    rows = [row[1:] for row in answers(clipcls, tmp_path / "0.parquet")]
    assert rows == [row[1:] for row in expected], "which have numbers and no names"


def test_a_command_of_its_own_reads_the_bucket_by_the_environment(s3: Any, thousand: Path) -> None:
    for name in sorted(thousand.iterdir())[:20]:
        s3.put_object(Bucket="pictures", Key=f"few/{name.name}", Body=name.read_bytes())
    command = [sys.executable, str(Path(__file__).parent / "cli_with_fake.py"), "0", "classify"]
    words = ["--labels", "red,green", "--no-cache", "--format", "csv"]
    found = [
        subprocess.run([*command, where, *words], capture_output=True, text=True, timeout=600)
        for where in ("s3://pictures/few/", "s3://pictures/none/*.jpg")
    ]
    assert found[0].returncode == 0 and len(found[0].stdout.splitlines()) == 21
    assert found[1].returncode == 3 and "no images found in s3://pictures/none/*.jpg" in found[1].stderr
