"""``clipcls search``: queries, the running best of a stream, what the cache knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import IMAGES, ROOT, Terminal
from fakes import FakeDoor, picture

from clipcls.classifier import Classifier
from clipcls.errors import UsageError
from clipcls.pipeline import Embedded
from clipcls.search import Query, Term, TopK, among, in_store, parse_term, weighted_sum

Install = Callable[..., FakeDoor]

FAKE = [sys.executable, str(ROOT / "tests" / "cli_with_fake.py"), "0"]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "pink": (255, 120, 120)}


@pytest.fixture
def folder(here: Path, fake: Install) -> Path:
    """Four one-coloured pictures."""
    fake()
    for name, colour in COLOURS.items():
        picture(here / "照片" / f"{name}.png", colour)
    return Path("照片")


def units(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 32), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("text", "value", "weight"),
    [
        ("一只狗", "一只狗", 1),
        ("2:一只狗", "一只狗", 2),
        ("0.5：雪", "雪", 0.5),
        ("1:16:9 screen", "16:9 screen", 1),
        ("0:zero", "0:zero", 1),
        ("-2:x", "-2:x", 1),
        ("note: this", "note: this", 1),
        ("nan:x", "nan:x", 1),
        ("2:", "2:", 1),
        ("./2:photo.jpg", "./2:photo.jpg", 1),
    ],
)
def test_a_weight_is_a_positive_number_before_the_first_colon(text: str, value: str, weight: float) -> None:
    assert parse_term(text) == Term(value, weight)


def test_a_query_needs_something_to_look_for() -> None:
    for texts, without in ((["", "  "], []), ([], ["人"])):
        with pytest.raises(UsageError, match="nothing to look for"):
            Query.parse(texts, [], without)
    assert Query.parse([""], ["a.jpg"], ["2:人"]) == Query((Term("人", -2.0),), (Term("a.jpg"),))
    with pytest.raises(UsageError, match="not valid UTF-8"):
        Query.parse(["a\udce9"])


def test_the_query_vector_is_the_normalised_weighted_sum() -> None:
    a, b, c = vectors = units(3)
    expected = 2 * a + b - 0.5 * c
    found = weighted_sum(vectors, [2, 1, -0.5])
    assert found.dtype == np.float32 and found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    with pytest.raises(UsageError, match="cancel out"):
        weighted_sum(np.stack([a, a]), [1, -1])


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_the_running_best_is_that_of_brute_force(block: int) -> None:
    vectors = units(1000)
    vectors[500:600] = vectors[100:200]  # ties
    query = units(1, seed=1)[0]
    best = TopK(query, 10)
    for start in range(0, 1000, block):
        best.add(np.arange(start, start + block)[: 1000 - start], vectors[start : start + block])
        assert len(best.ranked()) <= 10
    cosines = vectors.astype(np.float64) @ query.astype(np.float64)
    expected = np.argsort(-np.round(cosines, 9), kind="stable")[:10]
    assert [key for key, _ in best.ranked()] == expected.tolist() and best.seen == 1000
    assert [cosine for _, cosine in best.ranked()] == pytest.approx(cosines[expected], abs=1e-9)


def test_equals_stay_in_input_order_over_all_blocks() -> None:
    vector = units(1)[0]
    found = among((Embedded(f"{at}", vector, False) for at in range(3000)), vector, 1500)
    assert [match.path for match in found] == [str(at) for at in range(1500)]


def test_the_threshold_counts_to_six_decimals() -> None:
    vector = units(1)[0]
    images = [Embedded("same", vector, False), Embedded("other", units(1, seed=5)[0], False)]
    assert [match.path for match in among(images, vector, 5, threshold=1.0)] == ["same"]
    assert among(images, -vector, 5, threshold=0.9) == []


def test_images_are_ranked_for_a_sentence_as_it_is(folder: Path, clipcls: Terminal, fake: Install) -> None:
    door = fake()
    rows = clipcls.rows("search", "一张红色的照片", folder)
    assert [Path(row["path"]).stem for row in rows[:2]] == ["red", "pink"] and len(rows) == 4
    assert door.encoder.texts == ["一张红色的照片"]
    assert rows[0]["path"] == "照片/red.png" and float(rows[0]["cosine"]) > 0.9
    assert "4 images, 0 failed" in clipcls.err
    assert len(clipcls.rows("search", "red", folder, "--top", 2)) == 2
    assert len(clipcls.rows("search", "red", folder, "--threshold", 0.9)) == 1


def test_several_texts_weights_and_what_is_not_wanted(folder: Path, clipcls: Terminal) -> None:
    def first(*words: str) -> str:
        return Path(clipcls.rows("search", *words)[0]["path"]).stem

    assert first("3:红", str(folder), "--and", "蓝") == "red"
    assert first("红", str(folder), "--and", "3:蓝") == "blue"
    assert first("红", str(folder), "--not", "0.5:绿", "--not", "0.5:blue") == "red"
    assert clipcls.rows("search", "red", folder, "--not", "green")[-1]["path"].endswith("green.png")


def test_pictures_like_another(folder: Path, clipcls: Terminal) -> None:
    rows = clipcls.rows("search", "", folder, "--like", folder / "blue.png")
    assert rows[0]["path"] == "照片/blue.png" and float(rows[0]["cosine"]) == pytest.approx(1, abs=1e-5)
    assert clipcls.rows("search", "--like", folder / "blue.png", folder) == rows  # the sentence may be left out
    assert clipcls.rows("search", "--like", folder / "blue.png")[0]["path"].endswith("照片/blue.png")
    mean = clipcls.rows("search", "", folder, "--like", folder)
    assert float(mean[0]["cosine"]) < 1
    assert clipcls.rows("search", "", folder, "--like", folder / "blue.png", "--and", "3:red")[0]["path"] != (
        "照片/blue.png"
    )
    clipcls("search", "", folder, "--like", "nowhere.png", code=3)
    (folder / "broken.png").write_bytes(b"")
    clipcls("search", "", folder, "--like", folder / "broken.png", code=3)
    assert "broken.png: the file is empty" in clipcls.err
    Path("empty").mkdir()
    clipcls("search", "", folder, "--like", "empty", code=3)
    assert "no images in it" in clipcls.err


def test_a_threshold_that_nothing_reaches_is_told(folder: Path, clipcls: Terminal) -> None:
    assert clipcls.rows("search", "red", folder, "--threshold", 1) == []
    assert "nothing reaches a cosine of 1" in clipcls.err


def test_a_cache_whose_pictures_have_moved_says_so(folder: Path, clipcls: Terminal) -> None:
    clipcls("search", "red", folder)
    folder.rename("elsewhere")
    assert clipcls.rows("search", "red") == []
    assert "none of these pictures is where it was, unchanged: name a folder after the query, once" in clipcls.err
    assert clipcls.rows("search", "red", "--threshold", 0) == []
    assert "no picture that is where it was reaches a cosine of 0" in clipcls.err


def test_an_image_that_cannot_be_read_is_told(folder: Path, clipcls: Terminal) -> None:
    for at in range(5):
        (folder / f"broken{at}.jpg").write_bytes(b"")
    rows = clipcls.rows("search", "red", folder, code=3)
    assert len(rows) == 4 and clipcls.err.count("left out: ") == 3 and "and 2 more" in clipcls.err


def test_formats(folder: Path, clipcls: Terminal) -> None:
    (line,) = clipcls("search", "red", folder, "--top", 1, "-f", "jsonl").splitlines()
    assert json.loads(line).keys() == {"path", "cosine"} and "照片" in line
    assert clipcls("search", "red", folder, "--top", 1, "-f", "paths") == "照片/red.png\n"
    picture(Path("-0") / "=a,\r.png")
    (row,) = clipcls.rows("search", "red", "./-0", "-f", "csv")
    assert row["path"] == "./-0/=a,\r.png"


def test_paths_for_xargs_are_the_systems_own_bytes(folder: Path) -> None:
    picture(folder / os.fsdecode(b"caf\xe9\n.png"), (254, 0, 0))
    done = subprocess.run([*FAKE, "search", "red", folder, "-0", "--top", "2"], capture_output=True, check=True)
    assert sorted(done.stdout.split(b"\0")) == sorted(
        [b"", "照片/red.png".encode(), "照片/".encode() + b"caf\xe9\n.png"]
    )
    shown = subprocess.run([*FAKE, "search", "red", folder, "-f", "csv"], capture_output=True, check=True)
    assert b"caf\\xe9" in shown.stdout


def test_a_page_of_what_was_found(folder: Path, clipcls: Terminal) -> None:
    clipcls("search", "red", folder, "--top", "2", "--report", "found.html")
    page = Path("found.html").read_text("utf-8")
    assert page.count("data:image/webp") == 2 and "照片/red.png" in page
    clipcls("search", "red", folder, "--report", "found.html", code=7)
    assert "found.html exists" in clipcls.err


def test_head_ends_it_quietly(folder: Path) -> None:
    command = f"{' '.join(FAKE)} search red 照片 --quiet -f jsonl | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n" and done.stderr == ""


def test_without_a_path_all_that_the_cache_knows(folder: Path, clipcls: Terminal) -> None:
    clipcls("search", "red", folder)
    picture(folder / "copy.png", COLOURS["red"])
    clipcls("search", "red", folder)
    rows = clipcls.rows("search", "红")
    assert [Path(row["path"]).name for row in rows[:3]] == ["copy.png", "red.png", "pink.png"]
    assert all(os.path.isabs(row["path"]) for row in rows) and "4 pictures in the cache" in clipcls.err
    (folder / "copy.png").unlink()
    picture(folder / "red.png", (1, 2, 3), size=(40, 40))  # changed since
    assert Path(clipcls.rows("search", "red", "--top", 1)[0]["path"]).name == "pink.png"


def test_as_many_as_were_asked_for_however_many_files_are_gone(
    here: Path, fake: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    monkeypatch.setattr("clipcls.search._SPARE", 2)
    for at in range(60):
        picture(here / "many" / f"{at:02}.png", (255, 2 * at, 2 * at))
    with Classifier.load("fake/one") as classifier:
        (red,) = classifier.embed_texts(["red"])
        every = among(classifier.embedded("many"), red, 60)  # type: ignore[arg-type]
        for match in every[:50]:
            Path(match.path).unlink()
        found, count = in_store(classifier, red, 5)
        assert [Path(match.path).name for match in found] == [Path(match.path).name for match in every[50:55]]
        assert count == 60 and len(in_store(classifier, red, 20)[0]) == 10


def test_the_cache_ranks_as_a_walk_does(folder: Path, clipcls: Terminal) -> None:
    walked = clipcls.rows("search", "a blue thing", folder)
    known = clipcls.rows("search", "a blue thing")
    assert [(Path(row["path"]).name, row["cosine"]) for row in known] == [
        (Path(row["path"]).name, row["cosine"]) for row in walked
    ]


@pytest.mark.parametrize("words", [(), ("--no-cache",)])
def test_a_cache_without_pictures(folder: Path, clipcls: Terminal, words: tuple[str, ...]) -> None:
    clipcls("search", "red", *words, code=3)
    assert "name a folder after the query" in clipcls.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("",), "nothing to look for"),
        (("./照片",), "the query comes first"),
        (("red", "照片", "-f", "html"), "unknown format 'html': use table, csv, jsonl, paths"),
        (("red", "照片", "-f", "table"), "as wide as the terminal"),
        (("red", "照片", "-0", "-f", "csv"), "-0 is for paths"),
        (("red", "--include", "*.png"), "are for folders"),
        (("red", "照片", "--not", "red"), "cancel out"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, clipcls: Terminal, words: tuple[str, ...], message: str) -> None:
    clipcls("search", *words, code=2)
    assert message in clipcls.err and clipcls.err.count("\n") == 1


def test_a_sentence_that_the_model_cannot_read(folder: Path, clipcls: Terminal, fake: Install) -> None:
    fake(languages=("en",))
    clipcls("search", "一只狗", folder)
    assert "was trained on English and does not know Chinese (一只狗)" in clipcls.err
    clipcls("search", "a dog {}", folder)
    assert "does not know" not in clipcls.err


def test_the_starter_finds_a_cat(here: Path, clipcls: Terminal) -> None:
    photos = [IMAGES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")]
    assert Path(clipcls.rows("search", "猫", *photos)[0]["path"]).stem == "chelsea"
    assert "built-in starter" in clipcls.err
    like = clipcls.rows("search", "", "--like", IMAGES / "odd" / "cmyk.jpg", "--not", "一只猫", "-q")
    assert Path(like[0]["path"]).stem == "cmyk" and Path(like[1]["path"]).stem == "coffee" and clipcls.err == ""
