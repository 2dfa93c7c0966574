"""The README's commands and its Python example, word for word, in a copy of the repository's folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text("utf-8")
CHINESE = (ROOT / "README.zh.md").read_text("utf-8")
BLOCK = re.compile(r"(<!-- needs [a-z ]+ -->\n)?```(\w+)\n(.*?)```\n", re.DOTALL)
BLOCKS = [(language, text, bool(network)) for network, language, text in BLOCK.findall(README)]
COMMANDS = [
    line
    for language, text, network in BLOCKS
    if language == "sh" and not network
    for line in text.splitlines()
    if "-m venv" not in line  # .ci/run runs those, each on a clean copy
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "tests" / "images", copy / "tests" / "images")
    for name in ("labels.txt", "labels.toml", "pairs.csv"):
        shutil.copy(ROOT / "tests" / name, copy / "tests")
    return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"CLIPCLS_CACHE_DIR": str(tmp_path_factory.mktemp("cache")), "PATH": binaries}


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 12
    assert sum("-m venv" in text for language, text, network in BLOCKS if language == "sh" and not network) == 2


def test_every_command_works(checkout: Path, environment: dict[str, str]) -> None:
    for command in COMMANDS:
        done = run(command, checkout, environment)
        broken_pictures = "tests/images " in f"{command} " or "odd/empty" in command
        assert done.returncode in ((0, 3) if broken_pictures else (0,)), f"{command}\n{done.stderr}"
        assert "error:" not in done.stderr


def test_the_output_shown_is_the_output(checkout: Path, environment: dict[str, str]) -> None:
    (shown,) = (text for language, text, _ in BLOCKS if language == "csv")
    (command,) = (line for line in COMMANDS if "odd/empty.jpg" in line)
    real = run(command, checkout, environment).stdout
    number = re.compile(r"\d\.\d{6}")
    assert number.sub("#", real) == number.sub("#", shown)
    for told, found in zip(number.findall(shown), number.findall(real), strict=True):
        assert float(told) == pytest.approx(float(found), abs=0.002)  # processors round differently


def test_the_python_example_runs(checkout: Path, environment: dict[str, str]) -> None:
    (example,) = (text for language, text, _ in BLOCKS if language == "python")
    check = "assert vectors.shape == (1, 384) and abs((vectors**2).sum() - 1) < 1e-5\n"
    done = subprocess.run(
        [sys.executable, "-c", example + check],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "tests/images/coffee.jpg 咖啡 0.99" in done.stdout and "empty.jpg the file is empty" in done.stdout


def test_every_option_and_exit_code_is_described(environment: dict[str, str], checkout: Path) -> None:
    commands = [
        "classify",
        "embed",
        "doctor",
        "eval",
        "search",
        "sort",
        "report",
        "dedup",
        "score",
        "models pull",
        "models trace",
        "models info",
        "models recommend",
        "prompts new",
        "prompts tune",
    ]
    helps = "; ".join(f"clipcls {command} --help" for command in [*commands, "cache prune", "cache clear"])
    shown = run(f"{helps}; clipcls --help", checkout, environment | {"COLUMNS": "200"}).stdout
    for option in re.findall(r"(?<![-|])--[a-z][a-z0-9-]+", README):
        if option not in ("--index-url", "--data", "--seconds"):  # pip's, a recipe's, and the fuzzer's
            assert option in shown, option
    from clipcls import errors

    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type)}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}


def test_the_pages_on_the_method_show_the_matrix_that_the_command_draws(
    checkout: Path, environment: dict[str, str]
) -> None:
    pages = [(ROOT / "docs" / name).read_text("utf-8") for name in ("method.md", "method.zh.md")]
    (command,) = {line for page in pages for line in page.splitlines() if line.startswith("clipcls score")}
    done = run(command, checkout, environment)
    assert done.returncode == 0, done.stderr
    cells = re.compile(r">(-?\d\.\d{3})<")
    shown, drawn = (
        cells.findall(path.read_text("utf-8")) for path in (ROOT / "docs/matrix.svg", checkout / "matrix.svg")
    )
    assert len(shown) == 16 and [float(each) for each in drawn] == pytest.approx(list(map(float, shown)), abs=0.003)


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "README.zh.md", "docs/method.md", "docs/method.zh.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text("utf-8")):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_chinese_page_shows_the_same_commands() -> None:
    def commands(page: str) -> set[str]:
        return {
            re.sub(r"[A-Za-z\u4e00-\u9fff]+(,[\w]+)+", "LABELS", line)
            for _, language, text in BLOCK.findall(page)
            if language == "sh"
            for line in text.splitlines()
        }

    assert commands(CHINESE) == commands(README)


def test_the_comparison_shown_is_the_one_recorded() -> None:
    recorded = (ROOT / "recipes" / "compare_prompts.txt").read_text("utf-8").splitlines()
    for page in (README, CHINESE):
        (shown,) = (text for _, language, text in BLOCK.findall(page) if language == "text")
        assert [line for line in shown.splitlines() if line not in recorded] == []
