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
@pytest.mark.parametrize(
    ("encoding", "end"), [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("gbk", "\r\n"), ("gbk", "\r")]
)
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
        (".toml", 'templates = ["\\u4e00\\"\\U0001F418\\t{} ｛"]', 38),
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
    content = """name = "a cat"
description = "a cat" # "a cat"
templates = ["{}",
"a cat"]
[labels."a cat"]
templates = ["a cat"]
[labels.'dog']
templates = ["a cat", "a cat"]
"""
    assert told(checked(content, tmp_path, ".toml")) == [
        "4:2: error: no place for the label: write {label} or {类别} into 'a cat'",
        "4:2: warning: its word 'a cat' is a label: other labels will look like it",
        "8:24: warning: the same template again: 'a cat'",
    ]
    content = '{"name": "a",\n"templates": ["a", "{}"],\n'
    content += '"labels": {"a": {"templates": ["a"]}, "templates": {"templates": [""]}}}'
    assert [line[:12] for line in told(checked(content, tmp_path, ".json"))] == [
        "2:16: error:",
        "2:16: warnin",
        "3:68: error:",
    ]


@pytest.mark.parametrize(
    ("suffix", "content", "place"),
    [
        (".toml", 'templates = ["{}", " "]', "1:21"),
        (".toml", 'templates = ["{}", """\n"""]', "2:1"),
        (".toml", "templates = ['{}']\nlabels.x.templates = ['']", "2:24"),
        (".json", '["{}", ""]', "1:9"),
        (".json", '{"cat": ["", "a cat"]}', "1:11"),
    ],
)
def test_an_empty_template(tmp_path: Path, suffix: str, content: str, place: str) -> None:
    assert told(checked(content, tmp_path, suffix)) == [f"{place}: error: an empty template; delete it or write one"]


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    faults = checked('["{}", "\\ud800 {}"]', tmp_path, ".json", count_tokens=count)
    assert told(faults) == ["1:9: error: a template that is not valid text; write it in UTF-8"]


@pytest.mark.parametrize(
    ("language", "template", "message"),
    [
        ("zh", "a photo of {}", "the set is declared as Chinese, and this template is not"),
        ("zh", "{类别}の写真", "the set is declared as Chinese, and this template is not"),
        ("zh-CN", "photo {类别}", "the set is declared as Chinese, and this template is not"),
        ("en", "一张{label}的照片", "the set is declared as English, and this template is Chinese"),
        ("zh", "一张{label}的照片", None),
        ("zh", "{label}", None),
        ("zh", "{}。", None),
        ("en", "a naïve {类别}", None),
        ("", "一张{label}的 photo", None),
        ("fr", "une photo de {}", None),
    ],
)
def test_the_wrong_language(tmp_path: Path, language: str, template: str, message: str | None) -> None:
    faults = checked(f'language = "{language}"\ntemplates = ["{template}"]', tmp_path, ".toml")
    assert told(faults) == ([f"2:15: warning: {message}"] if message else [])


@pytest.mark.parametrize(
    ("template", "label", "overlaps"),
    [
        ("a cat and a {}", "cat", True),
        ("A CAT, {}", "cat", True),
        ("a category of {}", "cat", False),
        ("a photo of a {}", "a photo of", True),
        ("一张cat的{}", "cat", True),
        ("一张大象照片{}", "大象", True),
        ("アリと{}", "アリ", True),
        ("cafe\u0301 {}", "café", True),
        ("élan {}", "lan", False),
        ("C++ code {}", "C++", True),
        ("大{}象", "大象", False),
        ("{label}", "label", False),
        ("a.b {}", "acb", False),
    ],
)
def test_words_that_are_a_label(tmp_path: Path, template: str, label: str, overlaps: bool) -> None:
    assert bool(checked(template, tmp_path, ".txt", None, [label])) is overlaps


def test_a_label_of_the_set_and_of_the_person_is_told_once(tmp_path: Path) -> None:
    content = 'templates = ["a cat, {}"]\nlabels.cat.templates = ["cat"]\nlabels."".templates = ["nothing"]'
    assert len(checked(content, tmp_path, ".toml", None, ["cat", "dog"])) == 1


def count(prompts: Sequence[str]) -> list[TokenCount]:
    return [TokenCount(min(len(prompt.encode()), 20), len(prompt.encode()) > 20) for prompt in prompts]


@pytest.mark.parametrize(
    ("labels", "cut"),
    [
        ([], [2, 4]),
        (["ant", "an elephant's trunk"], [1, 2, 3, 4]),
        (["ant"], [2]),
    ],
)
def test_what_is_longer_than_the_context(tmp_path: Path, labels: list[str], cut: list[int]) -> None:
    content = "a {类别} here\nan exceptionally long {}\n一{}\na rather new {}\n"
    faults = checked(content, tmp_path, ".txt", None, labels, count)
    assert [fault.line for fault in faults] == cut
    assert all("longer than the model's 20 tokens, its end is not read: " in fault.message for fault in faults)


def test_a_labels_own_templates_are_measured_with_its_name(tmp_path: Path) -> None:
    content = 'labels."a long-necked giraffe".templates = ["{}"]\nlabels.cat.templates = ["{}"]'
    assert [fault.line for fault in checked(content, tmp_path, ".toml", None, [], count)] == [1]


@pytest.mark.parametrize(
    ("content", "place", "key"),
    [
        ('template = ["{}"]\ntemplates = ["{}"]', "1:1", "template"),
        ('# foo = 1\nname = "foo = 1"\n  "foo" = 1\ntemplates = ["{}"]', "3:3", "foo"),
        ('source = """\nfoo = 1\n"""\nfoo.bar = 1\ntemplates = ["{}"]', "4:1", "foo"),
        ('templates = ["{}"]\n[labels.x]\ntemplates = ["foo"]\n[ foo ]', "4:3", "foo"),
        ('templates = ["{}"]\n[[foo.bar]]', "2:3", "foo"),
        ('templates = ["{}"]\nfoo = [\n["{}", 3, # it\'s\n"a"]]', "2:1", "foo"),
    ],
)
def test_an_unknown_key(tmp_path: Path, content: str, place: str, key: str) -> None:
    known = "known are name, language, description, source, templates, labels"
    assert told(checked(content, tmp_path, ".toml")) == [f"{place}: warning: unknown key '{key}'; {known}"]


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".toml", "templates = [\n'a'\n'b']", "3:1: error: not valid TOML: Unclosed array"),
        (".json", '["a"\n "b"]', "2:2: error: not valid JSON: Expecting ',' delimiter"),
        (".txt", b"{}\nab\xff", "2:3: error: not UTF-8, UTF-16 or GBK text; save the file as UTF-8 and try again"),
        (".txt", b"\x89PNG\0", "1:1: error: a binary file, not text; name a text file of prompt templates"),
        (".txt", "# {}", "1:1: error: no templates in it"),
        (".toml", "templates = 3", '1:1: error: it needs a list of strings, templates = ["...", "..."]'),
        (".json", "3", "1:1: error: it needs a list of templates, or an object of such lists"),
        (".json", '{"a": ["{}"], "b\\n": ["{}"]}', "1:1: error: it holds several data sets; name one of "),
    ],
)
def test_what_cannot_be_read_is_one_fault(tmp_path: Path, suffix: str, content: str | bytes, message: str) -> None:
    (line,) = told(checked(content, tmp_path, suffix))
    assert line.startswith(message) and "\n" not in line


def test_a_folder_and_a_missing_file_are_faults(tmp_path: Path) -> None:
    (tmp_path / "a.toml").mkdir()
    for name, cause in {"a.toml": "Is a directory", "b.toml": "No such file or directory"}.items():
        (fault,) = check_prompts(tmp_path / name)
        assert fault.severity == "error" and cause in fault.message


def test_only_the_data_set_that_is_meant_is_checked(tmp_path: Path) -> None:
    content = '{"x": {"cat": [""]},\n "y": ["{c}", "{}｛"],\n "z": ["a", "{}"]}'
    assert [line[:4] for line in told(checked(content, tmp_path, ".json", "y"))] == ["2:18"]
    assert [line[:4] for line in told(checked(content, tmp_path, ".json", "x"))] == ["1:17"]
    assert [line[:4] for line in told(checked(content, tmp_path, ".json", "z"))] == ["3:9:"]
    assert "it holds no data set 'w'" in told(checked(content, tmp_path, ".json", "w"))[0]


def test_faults_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    faults = checked('templates = ["｛a", "b {} {类别}", "b {}"]\nfoo = 1', tmp_path, ".toml", None, ["b"])
    assert [(fault.line, fault.column) for fault in faults] == [(1, 15), (1, 15), (1, 21), (1, 26), (1, 34), (2, 1)]


@pytest.mark.parametrize("path", sorted((ROOT / "prompts").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_sets_have_no_fault(path: Path) -> None:
    assert check_prompts(path) == []


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".txt", "{}\n" * 60_000),
        (".txt", "{" + " " * 200_000 + "\n<" + "a" * 200_000),
        (".toml", "templates = ['{}']\n" + "".join(f"k{i} = 1\n" for i in range(3000))),
        (".toml", "\n" * 100_000 + "templates = ['{}']\nx = 1" + " " * 100_000),
        (".toml", 'templates = ["{}"]\nx = """' + '\\"' * 100_000 + '"""'),
        (".json", "[" + '"{}",' * 20_000 + '"{}"]'),
    ],
)
def test_long_files_take_no_time(tmp_path: Path, suffix: str, content: str) -> None:
    checked(content, tmp_path, suffix, None, ["cat"])


# Anything at all.

SUFFIXES = st.sampled_from([".toml", ".txt", ".json"])
CHARACTERS = "=:[]{},'\"#\n\r\\1<>. ｛"
WORDS = ["templates = [", '{"a": ["', "[labels.", "language = 'zh'", "nan", "大象", "a.b", "labels", "templates"]
PIECES = st.sampled_from([*CHARACTERS, *WORDS, '"""', "'''", "{}", '"{}"', "'{类别}'", "\\ud800"])


@settings(deadline=None)
@given(SUFFIXES, st.binary() | st.lists(PIECES).map(lambda parts: "".join(parts).encode()), st.none() | st.just("a"))
def test_any_bytes_can_be_checked(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes, part: str | None
) -> None:
    for fault in checked(content, tmp_path_factory.getbasetemp(), suffix, part, ["a", "大象"], count):
        assert fault.line >= 1 and fault.column >= 1 and "\n" not in str(fault)


MARK = "｛"
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=f"\"'\\｝{MARK}"), max_size=6)
ESCAPED = st.sampled_from(["\\t", "\\\\", '\\"', "\\u4e00", "\\n"])
LITERALS = {
    ".json": [('"', '"', PLAIN | ESCAPED)],
    ".toml": [
        ('"', '"', PLAIN | ESCAPED | st.just("\\U0001F418") | st.just("'")),
        ("'", "'", PLAIN | st.just("\\") | st.just('"')),
        ('"""', '"""', PLAIN | ESCAPED | st.sampled_from(["\n", "\\\n  \n ", '" ', '"" ', "'"])),
        ("'''", "'''", PLAIN | st.sampled_from(["\n", "\\", "' ", "'' ", '"'])),
    ],
}


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, list[tuple[int, int]]]:
    """A suffix, a file of templates with a full-width brace each, and where the braces stand."""
    suffix = draw(st.sampled_from([*LITERALS]))
    text = draw(
        st.sampled_from(["[", "[\n "] if suffix == ".json" else ["templates = [", "name = '[x'\ntemplates=[\n"])
    )
    places = []
    for at in range(draw(st.integers(1, 4))):
        before, after, parts = draw(st.sampled_from(LITERALS[suffix]))
        text += ", " * (at > 0) + before + str(at) + "".join(draw(st.lists(parts, max_size=4)))
        places.append((text.count("\n") + 1, len(text) - text.rfind("\n")))
        text += MARK + "".join(draw(st.lists(parts, max_size=4))) + "." + after
        if suffix == ".toml":
            text += draw(st.sampled_from(["", ' # it\'s "no" [x]\n', "\n"]))
    return suffix, text + "]", places


@settings(deadline=None)
@given(files())
def test_places_are_right_however_strings_are_written(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, str, list[tuple[int, int]]]
) -> None:
    suffix, text, places = file
    faults = checked(text, tmp_path_factory.getbasetemp(), suffix)
    assert [(fault.line, fault.column) for fault in faults if "full-width" in fault.message] == places, told(faults)


@settings(deadline=None)
@given(
    st.recursive(
        st.text(max_size=3) | st.just("{}") | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3) | st.just("templates"), inner),
    )
)
def test_any_json_can_be_checked(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    checked(json.dumps(data, indent=1), tmp_path_factory.getbasetemp(), ".json")
