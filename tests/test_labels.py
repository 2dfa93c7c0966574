from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcls.errors import UsageError
from clipcls.labelfiles import read_labels
from clipcls.labels import Label, is_chinese, label_set, split_labels


def names(*given: str | Label) -> list[str]:
    return [label.name for label in label_set(given)]


@pytest.mark.parametrize("text", ["大象,冰箱,蚂蚁", "大象，冰箱，蚂蚁", "大象、冰箱、蚂蚁", " 大象 ,，冰箱、, 蚂蚁,"])
def test_every_comma_separates(text: str) -> None:
    assert names(*split_labels(text)) == ["大象", "冰箱", "蚂蚁"]


def test_spaces_inside_a_label_stay() -> None:
    assert names(*split_labels("polar bear, C++")) == ["polar bear", "C++"]


def test_duplicates_are_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert names("cat", "dog", " cat", "cat", "dog") == ["cat", "dog"]
    assert caplog.messages == ["dropped labels given more than once: cat, dog"]


def test_composed_and_decomposed_names_are_the_same_label() -> None:
    assert names("café", "cafe\u0301") == ["café"]


def test_labels_with_ids_may_share_a_name() -> None:
    labels = label_set([Label("missile", "n03773504"), Label("missile", "n04008634")])
    assert [label.column for label in labels] == ["missile [n03773504]", "missile [n04008634]"]
    assert len(label_set([Label("missile", "a"), Label("missile", "a")])) == 1


@pytest.mark.parametrize("given_labels", [[], [""], [" ", "\t"]])
def test_no_label_is_an_error(given_labels: list[str]) -> None:
    with pytest.raises(UsageError, match=r"no labels given.*--labels"):
        label_set(given_labels)


def test_a_label_that_is_no_text_is_an_error() -> None:
    with pytest.raises(UsageError, match="not valid UTF-8"):
        label_set(["caf\udce9"])


def test_a_file_holds_one_label_a_line(tmp_path: Path) -> None:
    file = tmp_path / "标签.txt"
    file.write_bytes("\ufeff大象\r\n# a comment\r\n\r\n  # another\r\npolar bear, big\r\nC#\r\n".encode())
    assert names(*read_labels(file).labels) == ["大象", "polar bear, big", "C#"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read labels from .*: No such file"),
        (b"caf\xe9\n", "line 1: not UTF-8, UTF-16 or GBK text; save the file"),
        (b"\x89PNG\r\n\0\0", "a binary file, not text"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        read_labels(file)
    assert "\n" not in str(raised.value)


def test_the_line_of_bytes_that_are_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"cat\ndog\ncaf\xe9\n")
    with pytest.raises(UsageError, match="line 3"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("大象", True),
        ("冰箱 fridge", True),
        ("elephant", False),
        ("象のぬいぐるみ", False),
        ("ｱﾘ蟻", False),
        ("𠮷", True),
    ],
)
def test_chinese_is_han_without_kana(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_a_label_set_is_stable(given_labels: list[str]) -> None:
    try:
        once = label_set(given_labels)
    except UsageError:
        assert not any(name.strip() for name in given_labels)
    else:
        assert label_set(once) == once
        assert len({label.column for label in once}) == len(once)
