from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Terminal
from fakes import FakeDoor, picture
from hypothesis import given
from hypothesis import strategies as st

from clipcls.labels import label_set, script
from clipcls.languages import complaints, reads
from clipcls.promptfiles import chosen
from clipcls.prompts import wordings
from clipcls.records import EncoderInfo

Install = Callable[..., FakeDoor]


def told(labels: str, prompts: str | None = None, languages: tuple[str, ...] = ("en", "zh")) -> list[str]:
    info = EncoderInfo("some/model", "oc1-x", "fp32", 4, 10.0, None, "softmax", languages)
    return list(complaints(wordings(label_set(labels), chosen(prompts)), info, asked=prompts is not None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("大象", "Chinese"),
        ("T恤", "Chinese"),
        ("ゾウ", "Japanese"),
        ("象のぬいぐるみ", "Japanese"),
        ("코끼리", "Hangul"),
        ("слон", "Cyrillic"),
        ("ελέφαντας", "Greek"),
        ("فيل", "Arabic"),
        ("ช้าง", "Thai"),
        ("éléphant", "Latin"),
        ("ＡＢＣ", "Latin"),
        ("C++ 3.0", "Latin"),
        ("123 ☃", ""),
        ("", ""),
    ],
)
def test_scripts(text: str, expected: str) -> None:
    assert script(text) == expected


@given(st.text())
def test_any_text_has_a_script_or_none(text: str) -> None:
    assert isinstance(script(text), str)
    assert reads((), script(text)) and reads(("mul",), script(text))


@pytest.mark.parametrize(
    ("languages", "kind", "fits"),
    [
        (("en",), "Latin", True),
        (("en",), "Chinese", False),
        (("zh",), "Chinese", True),
        (("zh",), "Latin", False),
        (("ja",), "Chinese", True),
        (("en", "zh"), "Cyrillic", False),
        (("en", "zh"), "Gothic", False),
        (("mul",), "Gothic", True),
        ((), "Chinese", True),
    ],
)
def test_what_a_model_reads(languages: tuple[str, ...], kind: str, fits: bool) -> None:
    assert reads(languages, kind) is fits


def test_a_complaint_names_script_model_labels_and_two_models_that_fit() -> None:
    (complaint,) = told("大象,冰箱,cat", languages=("en",))
    assert complaint.startswith("some/model was trained on English and does not know Chinese (大象、冰箱)")
    assert complaint.count("--model ") == 2 and "--model starter" in complaint


def test_each_script_is_told_of_once() -> None:
    assert len(told("слон,собака,코끼리,cat")) == 2


@pytest.mark.parametrize(
    ("labels", "prompts", "languages"),
    [
        ("大象,cat", None, ("en", "zh")),
        ("cat,dog", None, ("en",)),
        ("слон", None, ("mul",)),
        ("大象", None, ()),
        ("T恤,iPhone", "zh", ("en", "zh")),
        ("大象|elephant,cat", None, ("en", "zh")),
        ("大象", "plain", ("en", "zh")),
        ("123,456", "zh", ("en", "zh")),
    ],
)
def test_nothing_is_said_where_all_fits(labels: str, prompts: str | None, languages: tuple[str, ...]) -> None:
    assert told(labels, prompts, languages) == []


@pytest.mark.parametrize(("labels", "prompts"), [("大象,cat", "en"), ("cat,dog", "zh"), ("слон", "en")])
def test_prompts_in_another_language_than_the_labels(labels: str, prompts: str) -> None:
    (complaint,) = told(labels, prompts, ("mul",))
    assert "the prompts are in another language than the label" in complaint


def test_an_english_model_that_is_given_chinese_prompts() -> None:
    (complaint,) = told("cat", "zh", ("en",))
    assert "does not know Chinese (cat)" in complaint


def test_strict_is_an_error_before_anything_is_computed(fake: Install, here: Path, clipcls: Terminal) -> None:
    door = fake(languages=("en",))
    picture(here / "a.png")
    clipcls("classify", "a.png", "-l", "红,绿")
    assert clipcls.err.count("does not know Chinese") == 1
    clipcls("classify", "a.png", "-l", "紫,橙", "--strict-language", code=2)
    assert clipcls.err.startswith("error: fake/one") or "error: starter" in clipcls.err
    assert not any("紫" in text for text in door.encoder.texts)
