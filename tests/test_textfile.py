from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls import textfile
from clipcls.errors import UsageError
from clipcls.textfile import FileFault, fits, parse_structured, place_of, read_text, write_new_text

TEXT = "大象\n冰箱 fridge\n｛类别｝，蚂蚁。\n"


def read(content: bytes, folder: Path) -> str:
    (folder / "a.txt").write_bytes(content)
    return read_text(folder / "a.txt", "labels")


def fault(content: bytes, folder: Path) -> FileFault:
    with pytest.raises(FileFault) as raised:
        read(content, folder)
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk", "gb18030"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_editors_write_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    assert read(TEXT.replace("\n", end).encode(encoding), tmp_path) == TEXT


def test_utf_16_of_either_byte_order(tmp_path: Path) -> None:
    assert read(b"\xfe\xff" + TEXT.encode("utf-16-be"), tmp_path) == TEXT


def test_gbk_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clipcls"):
        read("大象".encode("gbk"), tmp_path)
    assert caplog.messages == [f"{tmp_path / 'a.txt'} is not UTF-8; read as GBK"]


@pytest.mark.parametrize(
    "content", ["Bär\nKäfer".encode("latin-1"), "café".encode("cp1252"), "naïveté à l'été".encode("latin-1")]
)
def test_other_encodings_are_not_taken_for_gbk(tmp_path: Path, content: bytes) -> None:
    assert "not UTF-8, UTF-16 or GBK text; save the file as UTF-8" in str(fault(content, tmp_path))


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [
        (b"caf\xe9", 1, 4),
        ("大象\r\n大".encode() + b"\xff", 2, 2),
        (b"\xef\xbb\xbfab\xff", 1, 3),
        ("a\nbc".encode("utf-16") + b"\0\xd8", 2, 3),
    ],
)
def test_the_place_of_bytes_that_are_no_text(tmp_path: Path, content: bytes, line: int, column: int) -> None:
    found = fault(content, tmp_path)
    assert (found.line, found.column) == (line, column) and f"line {line}: not UTF-8" in str(found)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"a\0b", "a\0b".encode("utf-16"), b"\0"])
def test_a_binary_file_is_told_apart(tmp_path: Path, content: bytes) -> None:
    assert "a binary file, not text; name a text file of labels" in str(fault(content, tmp_path))


def test_100_mb_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(FileFault, match=r"a\.txt: larger than 16 MB; name a text file of labels"):
        read_text(tmp_path / "a.txt", "labels")
    monkeypatch.setattr(textfile, "_LARGEST", 3)
    assert read(b"abc", tmp_path) == "abc"
    assert "larger" in str(fault(b"abcd", tmp_path))


@pytest.mark.parametrize(
    ("name", "cause"),
    [("missing", "No such file"), ("", "Is a directory"), ("a\0b", "null byte"), ("a" * 300, "File name too long")],
)
def test_what_cannot_be_opened_is_one_line(tmp_path: Path, name: str, cause: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot read labels from (?s:.*): .*{cause}.*; name a text file of labels"):
        read_text(tmp_path / name, "labels")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch(0o000)
    with pytest.raises(UsageError, match="Permission denied"):
        read_text(tmp_path / "a.txt", "labels")


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_text_or_a_fault(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        assert "\r" not in read(content, folder)
    except FileFault as exc:
        assert "\n" not in exc.reason and exc.line >= 1 and exc.column >= 1


@pytest.mark.parametrize(("at", "place"), [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (4, (3, 1)), (6, (3, 3))])
def test_places_count_from_1(at: int, place: tuple[int, int]) -> None:
    assert place_of("ab\n\ncd", at) == place


@pytest.mark.parametrize(
    ("name", "text", "line", "column", "reason"),
    [
        ("a.toml", "a = 1\nb =\n", 2, 4, "not valid TOML: Invalid value"),
        ("a.toml", 'a = 1\nb = "x', 2, 7, "not valid TOML: Unterminated string"),
        ("a.toml", "a = " + "9" * 5000, 1, 1, "not valid TOML: a number has too many digits"),
        ("a.toml", "a = " + "[" * 5000, 1, 1, "not valid TOML: nested too deeply"),
        ("a.json", '["a",\n "b"\n "c"]', 3, 2, "not valid JSON: Expecting ',' delimiter"),
        ("a.JSON", "", 1, 1, "not valid JSON: Expecting value"),
        ("a.json", "9" * 5000, 1, 1, "not valid JSON: a number has too many digits"),
        ("a.json", "[" * 100_000, 1, 1, "not valid JSON: nested too deeply"),
        ("a.yaml", "- a\n- [b\n", 3, 1, "not valid YAML: "),
        ("a.yml", "- 2020-13-45", 1, 1, "not valid YAML: month must be in"),
        ("a.yml", "- !!bool x", 1, 1, "not valid YAML: 'x'"),
        ("a.yml", "- !!timestamp x", 1, 1, "not valid YAML: "),
        ("a.yml", "- !!python/object/apply:os.getcwd []", 1, 3, "not valid YAML: could not determine a constructor"),
        ("a.yml", "- \x01", 1, 1, "not valid YAML: "),
    ],
)
def test_what_is_not_valid_has_its_place(name: str, text: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(FileFault) as raised:
        parse_structured(text, Path(name))
    assert raised.value.reason.startswith(reason)
    assert (raised.value.line, raised.value.column) == (line, column)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@dataclass(frozen=True)
class Inner:
    text: str


@dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...] = ()
    number: float = 1.0
    maybe: int | None = None
    one_of: Literal["a", "b"] = "a"
    counts: dict[str, int] = field(default_factory=dict)
    any: Any = None


@pytest.mark.parametrize("good", [{}, {"inner": (Inner("x"),), "number": 2, "maybe": 3, "counts": {"a": 1}, "any": []}])
def test_what_was_read_fits_its_type(good: dict[str, Any]) -> None:
    assert fits(Outer(**good), Outer)


@pytest.mark.parametrize(
    "bad",
    [
        {"inner": (Inner(5),)},  # type: ignore[arg-type]
        {"inner": ["x"]},
        *({"number": number} for number in ("1", True, float("nan"), float("inf"), None)),
        {"maybe": "x"},
        {"maybe": True},
        {"one_of": "c"},
        {"one_of": []},
        {"counts": {"a": "b"}},
        {"counts": []},
    ],
)
def test_what_was_read_does_not_fit_its_type(bad: dict[str, Any]) -> None:
    assert not fits(Outer(**bad), Outer)
    assert not fits(bad, Outer)


def test_a_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and stays as it is"):
        write_new_text(tmp_path / "a.txt", "yours")
    assert (tmp_path / "a.txt").read_text() == "mine"
