"""``benchmarks/speed.py``: it starts, its photographs are what it says of them, and its rows hold their bars."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

SPEED = ROOT / "benchmarks" / "speed.py"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package beside the script."""
    monkeypatch.syspath_prepend(str(SPEED.parent))
    import speed.photographs
    import speed.table

    yield speed
    for name in [name for name in sys.modules if name.split(".")[0] == "speed"]:
        del sys.modules[name]


def speed(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, SPEED, *words], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stderr
    return done


def test_help_names_the_sections() -> None:
    said = speed("--help").stdout
    for section in ("help", "start", "texts", "limit", "images", "big", "rerun", "memory"):
        assert f"\n{section} " in said
    assert "there is no section" in speed("nonsense", code=2).stderr


@pytest.mark.parametrize("megapixels", [0.2, 1.5])
def test_photographs_have_the_stated_size_and_weight(parts: Any, tmp_path: Path, megapixels: float) -> None:
    for seed in range(3):
        path = tmp_path / f"{seed}.jpg"
        parts.photographs.photograph(path, megapixels, np.random.default_rng(seed))
        with Image.open(path) as image:
            pixels = image.width * image.height
            assert image.mode == "RGB"
            assert [sampling[1:3] for sampling in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
        assert pixels == pytest.approx(megapixels * 1e6, rel=0.01)
        assert 1.9 < 8 * path.stat().st_size / pixels < 3.3
    assert f"3 JPEG of {megapixels:.2g} to {megapixels:.2g} megapixels" in parts.photographs.described(
        sorted(tmp_path.iterdir())
    )


def test_photographs_are_made_once_and_none_twice(parts: Any, tmp_path: Path) -> None:
    first = parts.photographs.photographs(tmp_path, 3, 0.02, 0.04)
    written = [path.read_bytes() for path in first]
    assert len(set(written)) == 3
    assert parts.photographs.photographs(tmp_path, 3, 0.02, 0.04) == first
    assert [path.read_bytes() for path in first] == written


def test_a_row_knows_whether_its_bar_is_met(parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = parts.table.Row
    met, missed, none = row("a", 2.0, "s", at_most=2), row("b", 1.9, "times", at_least=2), row("c", 5, "s")
    assert [each.met for each in (met, missed, none)] == [True, False, None]
    parts.table.show("title", [met, missed, none])
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line[1:2] in "abc"] == [
        "met",
        "MISSED",
        "s",
    ]
    file = tmp_path / "table.json"
    parts.table.save(file, parts.table.machine(), {"title": [met, missed, none]})
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert [each["met"] for each in saved["sections"]["title"]] == [True, False, None]
    assert {"cpu", "cores", "flags", "load before", "torch"} <= set(saved["machine"])


def test_a_quick_section_runs_to_a_table_and_json(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    words = ("help", "--quick", "--repeat", "1", "--json", file, "--work", tmp_path / "work")
    done = subprocess.run([sys.executable, SPEED, *words], capture_output=True, text=True, timeout=600, check=False)
    rows = json.loads(file.read_text(encoding="utf-8"))["sections"]["help"]
    assert done.returncode == int(any(row["met"] is False for row in rows))  # a slow machine may miss a bar
    assert [row["what"] for row in rows] == ["clipcls --help", "clipcls classify --help"]
    assert all(row["what"] in done.stdout for row in rows)


def test_what_decoding_small_costs_is_counted(parts: Any) -> None:
    import draft

    exact = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    moved = exact.copy()
    moved[3] = exact[2]  # one of four has another answer
    heads = {"English": np.repeat(np.eye(4, dtype=np.float32), 250, axis=0) * np.linspace(1, 0.5, 1000)[:, None]}
    vectors = {draft.WHOLE: exact, draft.small(draft.OURS): moved}
    rows = {row.what: row for row in draft.compared(vectors, heads)}
    assert rows["  same answer, 1,000 labels, English"].value == 75
    assert rows["  same answer, 1,000 labels, English"].met is False
    near = {draft.WHOLE: exact, draft.small(draft.OURS): exact}
    assert all(row.met for row in draft.compared(near, heads))
    photograph = draft.camera(Image.open(ROOT / "tests/images/chelsea.jpg"), 2.0, np.random.default_rng(0))
    with Image.open(io.BytesIO(photograph)) as image:
        assert image.width * image.height == pytest.approx(2e6, rel=0.01)
