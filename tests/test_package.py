"""The wheel: built from this checkout, installed on its own, run from an empty folder."""

from __future__ import annotations

import csv
import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import IMAGES, ROOT

from clipcls import __version__
from clipcls.library import set_names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=600)
    (built,) = folder.glob("*.whl")
    return built


def test_an_upper_bound_stands_beside_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    wanted += [*tomllib.loads(text)["build-system"]["requires"], project["requires-python"]]
    bounded = [each for each in wanted if re.search("<|==|~=|!=", each)]
    assert any(each.startswith("typer") for each in bounded)
    for each in bounded:
        (line,) = [line for line in text.splitlines() if f'"{each}"' in line]
        assert re.search(r"#\s*\S+ \w+", line.partition(f'"{each}"')[2]), f"{each}: say why no later version will do"


def test_the_tests_that_security_md_names_are_there() -> None:
    named = set(re.findall(r"`(tests/\w+\.py)`", (ROOT / "SECURITY.md").read_text("utf-8")))
    assert len(named) > 8 and all((ROOT / name).is_file() for name in named)


def test_it_holds_what_the_command_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "py.typed",
        "starter/open_clip_model.safetensors",
        "starter/tokenizer.json",
        "starter/image.onnx",
        "starter/text.onnx",
        "starter/README.md",
        "report/page.html.j2",
        "report/page.js",
        "report/style.css",
        "cli/zh.toml",
    ):
        assert f"clipcls/{name}" in names
    assert {f"clipcls/_prompts/{name}.toml" for name in set_names("prompts")} <= names
    top = {name.split("/")[0] for name in names}
    assert top == {"clipcls", f"clipcls-{__version__}.dist-info", f"clipcls-{__version__}.data"}
    assert {name for name in names if ".data/" in name} == {f"clipcls-{__version__}.data/data/share/man/man1/clipcls.1"}


def test_it_installs_and_runs_from_an_empty_folder(wheel: Path, tmp_path: Path, here: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, timeout=600, stderr=subprocess.DEVNULL)
    empty = tmp_path / "空"
    empty.mkdir()
    code = (
        "import sys, clipcls\n"
        f"assert clipcls.__file__.startswith({str(site)!r}), clipcls.__file__\n"
        "from clipcls.cli import main\nmain()"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "classify",
            str(IMAGES / "coffee.jpg"),
            "-l",
            "猫,咖啡",
            "-p",
            "zh",
            "-p",
            "imagenet-7",
        ],
        cwd=empty,
        env={"PYTHONPATH": str(site), "CLIPCLS_CACHE_DIR": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert next(csv.DictReader(done.stdout.splitlines()))["label"] == "咖啡"
    assert (site / "bin" / "clipcls").exists() and list(empty.iterdir()) == []
