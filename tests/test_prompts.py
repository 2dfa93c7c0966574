from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls import library
from clipcls.errors import OutputError, UsageError
from clipcls.labels import Label, composed
from clipcls.library import find_set, folders, set_files, set_names, shipped_folder
from clipcls.promptfiles import (
    chosen,
    find_prompts,
    format_prompts,
    load_prompts,
    new_prompts,
    parse_prompts,
    read_prompts,
    write_new,
)
from clipcls.prompts import PLACEHOLDERS, PromptSet, expand, placeholders, union, wordings


@pytest.mark.parametrize("placeholder", ["{}", "{label}", "{类别}", "<类别>", "<label>", "{c}"])
def test_every_placeholder_takes_the_label(placeholder: str) -> None:
    assert expand(f"一张{placeholder}的照片, {placeholder}!", "大象") == "一张大象的照片, 大象!"


def test_braces_that_are_no_placeholder_stay() -> None:
    assert expand("{x} {0} {} }{", "a{label}b\\1") == "{x} {0} a{label}b\\1 }{"


@given(st.text(), st.text())
def test_expansion_never_fails(before: str, label: str) -> None:
    for placeholder in PLACEHOLDERS:
        assert label in expand(before + placeholder, label)


def test_shipped_sets_can_be_used() -> None:
    assert {"zh", "en", "imagenet-80", "imagenet-7", "plain"} <= set(set_names("prompts"))
    for name in set_names("prompts"):
        shipped = load_prompts(name)
        assert shipped.name == name and shipped.templates and shipped.source and shipped.description


def test_chinese_prompts_are_led_by_the_sentence_of_the_readme() -> None:
    assert load_prompts("zh").templates[0] == "这是一张有关{类别}的照片"


def test_imagenet_sets_are_open_clips() -> None:
    import open_clip

    for name, functions in {
        "imagenet-80": open_clip.OPENAI_IMAGENET_TEMPLATES,
        "imagenet-7": open_clip.SIMPLE_IMAGENET_TEMPLATES,
    }.items():
        assert list(load_prompts(name).templates) == [function("{}") for function in functions]
        assert "MIT" in load_prompts(name).source


def test_a_template_is_a_set_of_its_own() -> None:
    assert load_prompts("一张<类别>的画").templates == ("一张<类别>的画",)


def test_several_are_joined_without_duplicates() -> None:
    joined = load_prompts(["plain", "a {} here", "{label}"])
    assert joined.templates == ("{label}", "a {} here")


def test_files(here: Path) -> None:
    Path("own.toml").write_text('language = "en"\ntemplates = ["a {}", "b {}", "a {}"]\n', "utf-8")
    Path("list").write_text("# mine\n一张{}\n\n  两张{}  \n", "utf-8")
    own = load_prompts("own.toml")
    assert (own.name, own.language, own.templates) == ("own", "en", ("a {}", "b {}"))
    assert load_prompts("list").templates == ("一张{}", "两张{}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.toml", None, "cannot read prompt templates from missing.toml: No such file"),
        ("a.toml", b"templates = [", "a.toml, line 1: not valid TOML"),
        ("a.toml", b"name = 'x'", "it needs a list of strings"),
        ("a.toml", b"templates = [1]", "it needs a list of strings"),
        ("a.toml", b"templates = []", "no templates"),
        ("a.toml", b"templates = ['{}']\nlanguage = 3", "language must be a string"),
        ("a.toml", b"templates = ['a photo']", "'a photo' has no place for the label"),
        ("a.txt", b"# nothing\n", "no templates"),
        ("a.txt", b"\xff\xfe", "no templates"),
        ("a.txt", b"caf\xe9 {}", "line 1: not UTF-8, UTF-16 or GBK text"),
    ],
)
def test_a_bad_file_is_one_clear_line(here: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        load_prompts(name)
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_prompt_file(here: Path) -> None:
    Path("folder").mkdir()
    with pytest.raises(UsageError, match="cannot read prompt templates from folder: Is a directory"):
        load_prompts("folder")


def test_an_unknown_name_tells_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"no prompt set named 'zhh'.*imagenet-80.*\{类别\}"):
        load_prompts("zhh")


def test_each_labels_script_chooses() -> None:
    labels = [Label("大象"), Label("fridge"), Label("アリ")]
    zh, en = load_prompts("zh").templates, load_prompts("en").templates
    assert [wording.templates for wording in wordings(labels, chosen(None))] == [zh, en, en]
    assert [wording.templates for wording in wordings(labels, chosen("plain"))] == [("{label}",)] * 3


def test_shipped_folder_in_a_checkout_and_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shipped_folder() == Path(library.__file__).parent.parent / "prompts"
    installed = tmp_path / "clipcls"
    shutil.copytree(shipped_folder(), installed / "_prompts")
    (tmp_path / "prompts").mkdir()  # somebody else's package
    monkeypatch.setattr(library, "__file__", str(installed / "library.py"))
    assert shipped_folder() == installed / "_prompts"
    assert load_prompts("zh").language == "zh"


def test_toml_files_are_readable_by_people() -> None:
    for file in shipped_folder().glob("*.toml"):
        text = file.read_text("utf-8")
        assert "\\u" not in text and tomllib.loads(text)["name"] == file.stem


# Sets.


def test_a_labels_own_templates_are_found_however_its_name_is_composed() -> None:
    own = PromptSet("a", ("{}",), labels={"café": ("coffee",)})
    assert own.for_label("cafe\u0301") == own.for_label("café") == ("coffee",)
    assert own.for_label("cafés") == ("{}",)


def test_a_union_has_what_each_set_has_for_a_label() -> None:
    first = PromptSet("a", ("a {}", "{}"), "en", "x", "y", {"cat": ("a cat",), "dog": ("dogs",)})
    second = PromptSet("b", ("{}", "b {}"), labels={"cat": ("a cat", "purrs")})
    both = union([first, second])
    assert (both.name, both.templates, both.language) == ("a+b", ("a {}", "{}", "b {}"), "")
    assert both.labels == {"cat": ("a cat", "purrs"), "dog": ("dogs", "{}", "b {}")}
    assert union([first]) is first


def test_wordings_are_every_name_of_every_label() -> None:
    labels = [Label("大象", synonyms=("elephant",)), Label("ant", templates=("tiny {}", "six legs"))]
    zh, en = PromptSet("zh", ("一张{}",), labels={"大象": ("长鼻子",)}), PromptSet("en", ("a {}",))
    found = wordings(labels, lambda name: en if name.isascii() else zh)
    assert [(each.label.name, each.name, each.prompts) for each in found] == [
        ("大象", "大象", ["长鼻子"]),
        ("大象", "elephant", ["a elephant"]),
        ("ant", "ant", ["tiny ant", "six legs"]),
    ]


def test_a_label_without_prompts_is_an_error() -> None:
    only = PromptSet("mine", (), labels={"cat": ("a cat",)})
    assert wordings([Label("cat")], chosen(only))[0].prompts == ["a cat"]
    with pytest.raises(UsageError, match=r"mine has no prompts for the label 'dog': add some, or a second --prompts"):
        wordings([Label("cat", synonyms=("dog",))], chosen(only))


# Files.

ELEPHANT = """
name = "mine"
language = "zh"
description = "when"
source = "me"
templates = ["一张{类别}", "{}"]
[labels."大象"]
templates = ["长鼻子", "{}"]
[labels."cafe\u0301"]
templates = ["coffee"]
[labels.none]
templates = []
"""
MINE = PromptSet("mine", ("一张{类别}", "{}"), "zh", "when", "me", {"大象": ("长鼻子", "{}"), "café": ("coffee",)})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_a_toml_file_holds_everything(here: Path, encoding: str) -> None:
    Path("a.toml").write_bytes(ELEPHANT.replace("\n", "\r\n").encode(encoding))
    assert load_prompts("a.toml") == MINE


def test_a_json_file_may_hold_what_a_toml_file_does(here: Path) -> None:
    Path("a.json").write_text(json.dumps(tomllib.loads(ELEPHANT)), "utf-8")
    assert load_prompts("a.json") == MINE


BY_TEMPLATES = {"cars": ["a {c}", "{c}!"], "vtab/pets": ["a pet {c}"]}
BY_LABEL = {"大象": ["长鼻子", "a {c}"], "cafe\u0301": ["coffee"], "ant": ["six legs"]}


@pytest.mark.parametrize(
    ("content", "part", "expected"),
    [
        (["a {c}", "{c}!", "a {c}"], None, PromptSet("a", ("a {c}", "{c}!"))),
        (BY_TEMPLATES, "cars", PromptSet("cars", ("a {c}", "{c}!"))),
        (BY_TEMPLATES, "vtab/pets", PromptSet("vtab/pets", ("a pet {c}",))),
        ({"cars": ["a {c}", "the car"]}, "cars", PromptSet("cars", ("a {c}", "the car"))),
        ({"cars": ["a {c}"]}, None, PromptSet("cars", ("a {c}",))),
        (
            BY_LABEL,
            None,
            PromptSet("a", (), labels={"大象": ("长鼻子", "a {c}"), "café": ("coffee",), "ant": ("six legs",)}),
        ),
        ({"zoo": {"ant": ["a"]}}, None, PromptSet("zoo", (), labels={"ant": ("a",)})),
        ({"zoo": {"ant": ["a"]}, "x": {"y": ["z"]}}, "x", PromptSet("x", (), labels={"y": ("z",)})),
        ({"zoo": {"ant": ["a"]}, "x": ["{c}"]}, "x", PromptSet("x", ("{c}",))),
        (
            {"templates": ["{}"], "labels": {"x": {"templates": ["y"]}}},
            None,
            PromptSet("a", ("{}",), labels={"x": ("y",)}),
        ),
    ],
)
def test_every_form_of_clip_benchmarks_json(here: Path, content: object, part: str | None, expected: PromptSet) -> None:
    Path("a.json").write_text(json.dumps(content), "utf-8")
    assert parse_prompts(Path("a.json").read_text("utf-8"), Path("a.json"), part) == expected
    if all(map(placeholders, expected.templates)):
        assert load_prompts("a.json" + (f"#{part}" if part else "")) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"x": ["{}"], "y": ["{}"]}', "it holds several data sets; name one of a.json#x, a.json#y"),
        ("a.json#z", '{"x": ["{}"]}', "it holds no data set 'z'; name one of a.json#x"),
        ("a.json", json.dumps({f"d{i}": ["{}"] for i in range(9)}), "a.json#d5 …"),
        ("a.json", '{"x": ["{}"], "y\\nz": ["{}"]}', "a.json#y z"),
        ("a.json#x", '{"x": 3}', "x: it needs a list of strings or an object of such lists"),
        ("a.json#x", '{"x": {"y": 3}}', "'y': it needs a list of strings"),
        ("a.json", '{"x": 3}', "'x': it needs a list of strings"),
        ("a.json", "{}", "no templates in it"),
        ("a.json", "[]", "no templates in it"),
        ("a.json", "null", "it needs a list of templates, or an object of such lists"),
        ("a.json", '["{}", "\\ud800{}"]', "a template that is not valid text; write it in UTF-8"),
        ("a.json", '{"cat": [" "]}', "an empty template; delete it or write one"),
        ("a.toml", "templates = ['{}']\nlabels = 3", "templates of single labels look like this: "),
        ("a.toml", "templates = ['{}']\n[labels.x]\ntemplate = ['a']", "the label 'x': it needs a list of strings"),
        ("a.toml#x", "templates = ['{}']", "only a .json file holds several data sets; leave out '#x'"),
        ("a.txt", "{}\n" + "a" * 1000, "has no place for the label"),
    ],
)
def test_a_file_with_a_mistake_is_one_clear_line(here: Path, name: str, content: str, message: str) -> None:
    Path(name.partition("#")[0]).write_text(content, "utf-8")
    with pytest.raises(UsageError) as raised:
        load_prompts(name)
    assert message in str(raised.value) and len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 300


@pytest.mark.parametrize("wanted", ["", "a" * 300, "一张照片，" * 50, "a\0b", "#", "a#b", "../zh"])
def test_what_is_no_set_tells_what_there_is(here: Path, wanted: str) -> None:
    with pytest.raises(UsageError, match=r"no prompt set named .*imagenet-80.*\{类别\}"):
        load_prompts(wanted)


def test_a_template_that_is_no_text_is_an_error() -> None:
    with pytest.raises(UsageError, match="not valid text"):
        load_prompts("caf\udce9 {}")


def test_numbers_signs_in_names(here: Path) -> None:
    Path("a#b.txt").write_text("a#b {}")
    Path("a#c").write_text("a#c {}")
    Path("d#").mkdir()
    assert load_prompts("a#b.txt").templates == ("a#b {}",) and load_prompts("a#c").templates == ("a#c {}",)
    assert find_prompts("d#/e.toml") == (Path("d#/e.toml"), None)
    assert find_prompts("a.json#b.txt") == (Path("a.json"), "b.txt")


NAMES = st.text(st.characters(exclude_categories=["Cs"]))
TEMPLATES = st.lists(NAMES, unique=True).map(tuple)


@settings(deadline=None)
@given(
    st.builds(
        PromptSet,
        NAMES.filter(bool),
        TEMPLATES,
        NAMES,
        NAMES,
        NAMES,
        st.dictionaries(NAMES.map(composed), TEMPLATES.filter(bool), max_size=3),
    ).filter(lambda each: each.templates or each.labels),
    st.text(),
)
def test_a_set_saved_and_read_again_is_equal(prompt_set: PromptSet, comment: str) -> None:
    text = format_prompts(prompt_set, comment)
    text.encode()
    assert parse_prompts(text, Path("any.toml")) == prompt_set


# New ones.


@pytest.mark.parametrize(("name", "written"), [("a.toml", "a.toml"), ("deep/down/大象", "deep/down/大象.toml")])
def test_a_new_set_can_be_used_at_once(here: Path, name: str, written: str) -> None:
    assert new_prompts(Path(name)) == Path(written)
    text = Path(written).read_text("utf-8")
    assert text.startswith("# ") and '# [labels."大象"]' in text and "clipcls prompts check" in text
    found = load_prompts(written)
    assert (found.name, found.templates, found.language) == (Path(written).stem, ("一张{类别}的照片",), "zh")


def test_its_example_for_one_label_works_without_its_number_signs(here: Path) -> None:
    new_prompts(Path("a.toml"))
    lines = Path("a.toml").read_text("utf-8").splitlines()
    start = lines.index('# [labels."大象"]')
    own = parse_prompts(
        "\n".join([*lines[:start], *(line.removeprefix("# ") for line in lines[start:])]), Path("a.toml")
    )
    assert own.labels["大象"] == ("一张大象的照片，长鼻子，大耳朵，灰色的皮",)


@pytest.mark.parametrize("start", ["zh", "imagenet-7", "a {} b", "own.json"])
def test_a_new_set_may_begin_with_another(here: Path, start: str) -> None:
    Path("own.json").write_text('{"cat": ["a cat"], "dog": ["a dog"]}')
    new_prompts(Path("mine.toml"), start)
    first, found = load_prompts(start), load_prompts("mine.toml")
    assert (found.templates, found.labels, found.name) == (first.templates, first.labels, "mine")
    assert (found.language, found.source) == (first.language, first.source)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("there.toml", UsageError, "there.toml exists and stays as it is: name another file, or move it away"),
        ("there", UsageError, "there.toml exists and stays"),
        ("folder.toml", UsageError, "folder.toml exists and stays"),
        ("a.txt", UsageError, "a.txt: a prompt set is written as .toml; name it a.toml"),
        ("", UsageError, ". is a folder; name a file in it, such as mine.toml"),
        ("/", UsageError, "/ is a folder; name a file in it, such as /mine.toml"),
        ("there.toml/a.toml", OutputError, "there.toml/a.toml cannot be written"),
        ("there.toml/b/a.toml", OutputError, "there.toml/b/a.toml cannot be written: Not a directory"),
        ("a" * 300, OutputError, "cannot be written: File name too long"),
        ("a\0b", OutputError, "cannot be written: embedded null byte"),
        ("caf\udce9.toml", OutputError, "cannot be written: "),
    ],
)
def test_a_new_set_that_cannot_be_written(here: Path, name: str, error: type[Exception], message: str) -> None:
    Path("there.toml").write_text("precious")
    Path("folder.toml").mkdir()
    with pytest.raises(error) as raised:
        new_prompts(Path(name))
    assert message in str(raised.value)
    assert Path("there.toml").read_text() == "precious" and len(list(here.iterdir())) == 2


def test_a_comment_may_be_anything(here: Path) -> None:
    write_new(Path("a.toml"), MINE, "a\n\n\x00\x1b[1m\x7f\udce9\u2028b", "\n# after\n")
    assert read_prompts(Path("a.toml")) == MINE
    assert Path("a.toml").read_bytes().endswith(b"# after\n")


# Where sets lie.


@pytest.fixture
def places(here: Path, own_folders: Path) -> dict[str, Path]:
    found = {"project": Path("prompts"), "user": own_folders / "config" / "clipcls" / "prompts"}
    for folder in found.values():
        (folder / "labels").mkdir(parents=True)
    return found


def test_the_projects_set_wins_then_the_users_then_the_shipped(places: dict[str, Path]) -> None:
    assert [place for place, _ in folders("prompts")] == ["project", "user", "shipped"]
    assert load_prompts("zh").templates[0] == "这是一张有关{类别}的照片"
    (places["user"] / "zh.txt").write_text("user {}")
    assert load_prompts("zh").templates == ("user {}",)
    (places["project"] / "zh.json").write_text('["project {}"]')
    assert load_prompts("zh").templates == ("project {}",)
    assert [file.place for file in set_files("prompts") if file.name == "zh"] == ["project", "user", "shipped"]


def test_the_first_suffix_wins_within_a_folder(places: dict[str, Path]) -> None:
    for suffix in (".txt", ".json", ".toml"):
        (places["project"] / f"a{suffix}").touch()
    assert find_prompts("a") == (Path("prompts/a.toml"), None)
    assert [file.path.suffix for file in set_files("prompts") if file.name == "a"] == [".toml", ".txt", ".json"]


def test_only_files_that_can_hold_a_set_are_sets(places: dict[str, Path]) -> None:
    (places["project"] / "a.toml").mkdir()
    for name in ("b.toml~", "c.yaml", "d", "labels/e.toml"):
        (places["project"] / name).touch()
    (places["project"] / "labels" / "f.yaml").touch()
    assert not {"a", "b", "c", "d", "e", "f", "labels"} & set(set_names("prompts"))
    assert {"e", "f"} <= set(set_names("labels")) and find_set("prompts", "a") is None


def test_a_data_set_of_a_named_json_file(places: dict[str, Path]) -> None:
    (places["user"] / "lab.json").write_text('{"x": ["x {c}"], "y": ["y {c}"]}')
    assert load_prompts("lab#y").templates == ("y {c}",)


def test_a_set_wins_over_a_file_of_its_name(places: dict[str, Path]) -> None:
    Path("zh").write_text("file {}")
    assert load_prompts("zh").name == "zh" and load_prompts("./zh").templates == ("file {}",)


def test_in_a_checkout_the_shipped_sets_are_not_the_projects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped_folder().parent)
    assert [place for place, _ in folders("labels")] == ["user", "shipped"]
