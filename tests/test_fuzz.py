"""Fuzzing, a little of it: the seeds and all earlier findings again, and some seconds of mutations of each target.

``python tests/fuzz TARGET`` does it for longer.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import targets
from fuzz.targets import TARGETS, Findings, Target, kept, seeds

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_earlier_findings(name: str) -> None:
    inputs = list(seeds(name))
    assert len(inputs) > 4
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_every_kind_of_file_has_a_seed(name: str) -> None:
    known = {data[0] for data in seeds(name)}
    assert known >= set(range(len(TARGETS[name].kinds)))


@pytest.mark.parametrize("name", TARGETS)
def test_some_seconds_of_mutations_find_nothing(tmp_path: Path, name: str) -> None:
    done = fuzzed(name, "--seconds", "1", "--findings", str(tmp_path))
    assert done.returncode == 0, done.stderr[-5000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs and int(runs[1]) >= len(list(seeds(name)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_atheris(tmp_path: Path) -> None:
    done = fuzzed("labels", "--hypothesis", "--seconds", "1", "--findings", str(tmp_path))
    assert done.returncode == 0, done.stderr[-5000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs and int(runs[1]) >= 100


def fuzzed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(HERE / "fuzz"), *words], capture_output=True, text=True, timeout=600)


def test_one_input_is_kept_for_each_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad(kind: str, data: bytes, folder: Path) -> None:
        assert len(data) < 2, "two"
        if data == b"x":
            raise ValueError("x")

    monkeypatch.setitem(targets.TARGETS, "bad", Target(bad, ("a", "b")))
    check = Findings("bad", tmp_path / "new")
    for data in (b"", b"\0", b"\0xy", b"\1abc", b"\0x", b"\1x"):
        check(data)
    assert sorted(path.read_bytes() for path in (tmp_path / "new").iterdir()) == [b"\0x", b"\0xy"]
    assert capsys.readouterr().err.count("FINDING") == 2


def test_messages_of_two_lines_are_findings() -> None:
    with pytest.raises(AssertionError, match="not one line"), targets.one_line():
        raise targets.ClipclsError("a\nb")


def test_findings_are_kept_as_tests() -> None:
    assert all(path.is_file() for name in TARGETS for path in kept(name))
    assert len(list((HERE / "fuzz" / "findings").iterdir())) >= 1
