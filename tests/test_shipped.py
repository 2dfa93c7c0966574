"""The prompt sets and label sets that come with clipcls."""

from __future__ import annotations

import tomllib
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from clipcls.prompts import PLACEHOLDERS

FOLDER = ROOT / "prompts"
PROMPTS = sorted(FOLDER.glob("*.toml"))
LABELS = sorted((FOLDER / "labels").glob("*.toml"))


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _stem(path: Path) -> str:
    return path.stem


# Prompt sets.


def test_prompt_sets_are_all_there() -> None:
    expected = "zh zh-plain en plain imagenet-80 imagenet-7 photo sketch satellite texture food pets actions scenes"
    assert set(expected.split()) <= {path.stem for path in PROMPTS}


@pytest.mark.parametrize("path", PROMPTS, ids=_stem)
def test_a_prompt_set_says_what_it_is(path: Path) -> None:
    table = _read(path)
    assert set(table) == {"name", "language", "description", "source", "templates"}
    assert table["name"] == path.stem
    assert table["language"] in (("",) if path.stem == "plain" else ("zh", "en"))
    assert table["description"].strip() and table["source"].strip()


@pytest.mark.parametrize("path", PROMPTS, ids=_stem)
def test_templates_have_a_place_for_the_label_and_differ(path: Path) -> None:
    templates = _read(path)["templates"]
    assert templates
    for template in templates:
        assert any(placeholder in template for placeholder in PLACEHOLDERS), template
        assert not set("｛｝") & set(template), template
    assert len({_normal(template) for template in templates}) == len(templates)


def test_chinese_prompts_are_an_ensemble_and_one_sentence() -> None:
    zh, plain = (_read(FOLDER / f"{name}.toml")["templates"] for name in ("zh", "zh-plain"))
    assert len(zh) >= 12
    assert plain == ["一张{类别}的照片"] and plain[0] in zh


# Label sets.


@pytest.mark.parametrize("path", LABELS, ids=_stem)
def test_a_label_set_is_valid(path: Path) -> None:
    table = _read(path)
    assert set(table) == {"name", "language", "description", "source", "labels"}
    assert table["name"] == path.stem
    assert table["language"] in ("zh", "en")
    assert table["description"].strip() and table["source"].strip()
    assert table["labels"]
    for label in table["labels"]:
        assert {"name"} <= set(label) <= {"id", "name", "synonyms", "description", "group"}
        texts = [text for key, text in label.items() if key != "synonyms"] + label.get("synonyms", ["one"])
        assert texts and all(isinstance(text, str) and text and text == " ".join(text.split()) for text in texts)
    assert len({(label["name"], label.get("id")) for label in table["labels"]}) == len(table["labels"])


@pytest.mark.parametrize("path", LABELS, ids=_stem)
def test_a_synonym_means_one_label(path: Path) -> None:
    labels = _read(path)["labels"]
    names = {_normal(label["name"]) for label in labels}
    synonyms = [_normal(synonym) for label in labels for synonym in label.get("synonyms", [])]
    assert len(set(synonyms)) == len(synonyms)
    assert not names & set(synonyms)


def test_label_sets_have_their_classes() -> None:
    counts = {path.stem: len(_read(path)["labels"]) for path in LABELS}
    assert counts == {"imagenet-1k": 1000, "imagenet-1k-zh": 1000, "cifar-10": 10, "cifar-10-zh": 10}


def test_languages_have_the_same_classes_in_the_same_order() -> None:
    english, chinese = (_read(FOLDER / "labels" / f"imagenet-1k{end}.toml")["labels"] for end in ("", "-zh"))
    assert [(label["id"], label["name"]) for label in english] == [
        (label["id"], label["description"]) for label in chinese
    ]
    assert (english[0], english[-1]["id"]) == ({"id": "n01440764", "name": "tench"}, "n15075141")
    assert [label["id"] for label in english if label["name"] == "missile"] == ["n03773504", "n04008634"]


def test_the_recipe_makes_these_label_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    from label_sets import label_sets

    assert label_sets() == {path.stem: path.read_text(encoding="utf-8") for path in LABELS}


def test_a_synonym_of_two_labels_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    from label_sets import without_shared_synonyms

    names = [["a", "x", "z"], ["b", "X", "c"], ["c"], ["d", "e"], ["d"]]
    assert without_shared_synonyms(names) == [["a", "z"], ["b"], ["c"], ["d", "e"], ["d"]]
