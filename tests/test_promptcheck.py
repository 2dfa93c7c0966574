"""Faults of prompt sets, each with the place where it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls.promptcheck import Fault, check_prompts
from clipcls.records import TokenCount


def checked(content: str | bytes, folder: Path, suffix: str, *words: object, **options: object) -> list[Fault]:
    path = folder / f"set{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return check_prompts(path, *words, **options)  # type: ignore[arg-type]


def told(faults: Sequence[Fault]) -> list[str]:
    """Each fault without its path."""
    return [str(fault).removeprefix(f"{fault.path}:") for fault in faults]


FAULTS = {
    "no placeholder": ("a photo", 0, "error: no place for the label: write {label} or {类别} into 'a photo'"),
    "braces of full width": ("一张｛{类别}的照片", 2, "error: a full-width brace ｛: write {类别} with plain braces"),
    "closing brace of full width": ("{}｝", 2, "error: a full-width brace ｝: write {类别} with plain braces"),
    "two kinds": ("{} 和 {} 和 {类别}", 10, "warning: two kinds of placeholder, {} and {类别}: use one"),
    "no known placeholder": ("a {} {class}", 5, "warning: {class} is no placeholder and stays as it is: use {label}"),
    "spaces in it": ("a { label } {}", 2, "warning: { label } is no placeholder and stays as it is: use {label}"),
    "a tag": ("{}<b>", 2, "warning: <b> is no placeholder and stays as it is: use {label} or {类别}"),
    "twice": ("A  Ｐhoto <label>", 0, "warning: the same template again: 'A  Ｐhoto <label>'"),
    "a label": ("a fridge beside a {}", 0, "warning: its word 'fridge' is a label: other labels will look like it"),
}


@pytest.mark.parametrize(("template", "at", "message"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
@pytest.mark.parametrize(
    ("suffix", "form", "line", "column"),
    [
        (".txt", "# a ｛\na photo {}\n\n  TEMPLATE  \n", 4, 3),
        (".toml", '# "it\'s\nname = "x"\ntemplates = ["a photo {}", \'TEMPLATE\']', 3, 29),
        (".toml", 'templates = [\n  "a photo {}", # "no"\n  "TEMPLATE",\n]\n', 3, 4),
        (".toml", 'templates = ["a photo {}", """\nTEMPLATE"""]', 2, 1),
        (".toml", "templates = ['a photo {}', '''TEMPLATE''']", 1, 31),
        (".toml", 'templates = ["a photo {}", """\\\n \n  TEMPLATE"""]', 3, 3),
        (".json", '["a photo {}", "TEMPLATE"]', 1, 17),
        (".json", '{"name": "x",\n "templates": [\n"a photo {}",\n"TEMPLATE"]}', 4, 2),
        (".json", '{\n"imagenet": ["a photo {}", "TEMPLATE", "{}", "my {}", "our {}"]}', 2, 29),
    ],
)
def test_a_fault_has_its_line_and_column(
    tmp_path: Path,
    template: str,
    at: int,
    message: str,
    end: str,
    encoding: str,
    suffix: str,
    form: str,
    line: int,
    column: int,
) -> None:
    content = form.replace("TEMPLATE", template).replace("\n", end).encode(encoding)
    (found,) = told(checked(content, tmp_path, suffix, None, ["fridge"]))
    assert found.startswith(f"{line}:{column + at}: {message}")


@pytest.mark.parametrize(
    ("suffix", "content", "column"),
    [
        (".toml", 'templates = ["\\u4e00\\"\\U0001F418\\t{} ｛"]', 35),
        (".toml", 'templates = ["{} \\uFF5B"]', 18),
        (".toml", 'templates = ["""a""b""{}｛"""]', 25),
        (".toml", 'templates = [""""{}｛"""""]', 20),
        (".toml", "templates = [''''{}''｛''''']", 22),
        (".toml", "templates = ['{}\\｛']", 18),
        (".json", '["\\u4e00\\"\\ud83d\\udc18\\/\\n{} ｛"]', 30),
        (".json", '["\\u007b} \\uff5b"]', 11),
    ],
)
def test_escapes_do_not_move_the_place(tmp_path: Path, suffix: str, content: str, column: int) -> None:
    (found,) = told(checked(content, tmp_path, suffix))
    assert found.startswith(f"1:{column}: error: a full-width brace ｛")


def test_lines_inside_a_string_count(tmp_path: Path) -> None:
    content = 'templates = ["""{}\r\n a\\\r\n\r\n  b\r\n｛"""]\r\nfoo = 1\r\n'
    assert [fault.line for fault in checked(content, tmp_path, ".toml")] == [5, 6]


def test_a_template_is_not_taken_for_a_name_or_a_key_of_the_same_words(tmp_path: Path) -> None:
    content = """
name = "a cat"
description = "a cat"
source = "a cat" # "a cat"
templates = ["{}",
"a cat"]
[labels."a cat"]
templates = ["a cat"]
[labels."x".""" + """]
"""
    content = content.replace('[labels."x".]\n', '[labels]\n"dog" = {templates = ["a cat", "a cat"]}\n')
    with pytest.raises(AssertionError):  # [labels] twice is not valid TOML
        assert "not valid" not in told(checked(content, tmp_path, ".toml"))[0]
    content = content.replace('[labels]\n"dog" = {', '[labels.dog]\n').replace("]}\n", "]\n")
    assert [line.split(": ", 2)[0] for line in told(checked(content, tmp_path, ".toml"))] == ["6:2", "6:2", "10:24"]
