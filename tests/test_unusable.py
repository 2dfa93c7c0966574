"""Embeddings that are no unit vectors, as damaged weights give them: told in every command, and never ranked."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Terminal
from fakes import FakeDoor, picture

Install = Callable[..., FakeDoor]

LABELS = ("--labels", "red,green")
REASON = "the model gave no usable embedding for it"
COMMANDS: dict[str, tuple[str, ...]] = {
    "classify": ("classify", "图片", *LABELS, "--all-scores"),
    "search": ("search", "red", "图片"),
    "dedup": ("dedup", "图片", "--threshold", "-1"),
    "sort": ("sort", "图片", *LABELS, "--into", "sorted"),
    "report": ("report", "图片", *LABELS, "-o", "report.html"),
    "eval": ("eval", "图片", "--json", "--outliers", "5"),
    "score": ("score", "pairs.csv"),
}
VALUES = pytest.mark.parametrize("value", [np.nan, 0.0, np.inf, 1e-30, 3.0])


@pytest.fixture
def pictures(here: Path) -> Path:
    """Three of each label; the model has no embedding for one."""
    for at in range(3):
        picture(here / "图片" / "red" / f"{at}.png", (250 - at, 0, 0))
        picture(here / "图片" / "green" / f"{at}.png", (0, 250 - at, 0))
    picture(here / "图片" / "red" / "broken.png", (9, 9, 9))
    (here / "pairs.csv").write_text("image,text\n图片/red/0.png,red\n图片/red/broken.png,red\n", "utf-8")
    return here / "图片"


def embeddings(home: Path) -> list[np.ndarray]:
    """All that the store holds."""
    with sqlite3.connect(home / "cache" / "embeddings.sqlite3") as connection:
        return [np.frombuffer(blob, np.float32) for (blob,) in connection.execute("SELECT vector FROM embeddings")]


@VALUES
@pytest.mark.parametrize("command", COMMANDS)
def test_an_image_without_an_embedding_is_a_failure(
    command: str, value: float, pictures: Path, fake: Install, clipcls: Terminal, own_folders: Path
) -> None:
    fake(broken=(9, 9, 9), broken_value=value)
    out = clipcls(*COMMANDS[command], code=3)
    assert "nan" not in out.lower() and "inf" not in out.lower()
    told = out + clipcls.err + "".join(path.read_text("utf-8") for path in Path().glob("*.html"))
    if command == "sort":
        assert [path.parent.name for path in Path("sorted").rglob("broken.png")] == ["_failed"]
    else:
        assert "broken.png" in told and REASON in told
    if command in ("search", "dedup"):
        assert "broken.png" not in out
    kept = embeddings(own_folders)
    assert len(kept) > 0 and all(abs(np.linalg.norm(vector) - 1) < 0.01 for vector in kept)


@VALUES
def test_its_row_holds_no_answer(value: float, pictures: Path, fake: Install, clipcls: Terminal) -> None:
    fake(broken=(9, 9, 9), broken_value=value)
    rows = {Path(row["path"]).name: row for row in csv.DictReader(clipcls(*COMMANDS["classify"], code=3).splitlines())}
    filled = {name for name, cell in rows["broken.png"].items() if cell}
    assert filled == {"path", "status", "error"} and rows["broken.png"]["status"] == "error"
    told = json.loads(clipcls(*COMMANDS["eval"], code=3))
    assert told["evaluation"]["images"] == 6 and [each["error"] for each in told["failed"]] == [REASON]


@VALUES
@pytest.mark.parametrize("command", ["classify", "search", "sort", "report", "score"])
def test_a_text_without_an_embedding_ends_the_run(
    command: str, value: float, pictures: Path, fake: Install, clipcls: Terminal
) -> None:
    fake(broken_word="red", broken_value=value)
    assert clipcls(*COMMANDS[command], code=4) == ""
    *_, line = clipcls.err.splitlines()
    assert clipcls.err.count("error: ") == 1
    assert line.startswith("error: ") and "gives no usable text embeddings: its weights are damaged" in line
    assert not Path("report.html").exists() and not Path("sorted").exists()


@VALUES
def test_a_picture_to_look_like_without_an_embedding(
    value: float, pictures: Path, fake: Install, clipcls: Terminal
) -> None:
    fake(broken=(9, 9, 9), broken_value=value)
    assert clipcls("search", "", "图片", "--like", "图片/red/broken.png", code=3) == ""
    assert REASON in clipcls.err and clipcls.err.count("error: ") == 1
