from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcls import library
from clipcls.errors import UsageError
from clipcls.labels import Label
from clipcls.library import set_names, shipped_folder
from clipcls.promptfiles import chosen, load_prompts
from clipcls.prompts import PLACEHOLDERS, expand, wordings


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
