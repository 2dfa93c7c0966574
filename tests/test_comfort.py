"""What makes a command line comfortable: where a setting comes from, completion in the shell, the manual page."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Terminal

from clipcls.cli.commands import COMMANDS, full_command
from clipcls.cli.manual import manual

CLIPCLS = str(Path(sys.executable).parent / "clipcls")


def test_where_each_setting_comes_from(here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    user = Path(os.environ["XDG_CONFIG_HOME"]) / "clipcls" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('model = "clip-b32"\nworkers = 3\ndevice = "cpu"\n')
    Path("clipcls.toml").write_text('prompts = ["zh", "plain"]\nworkers = 4\n')
    monkeypatch.setenv("CLIPCLS_DEVICE", "cuda:1")
    rows = {row["setting"]: (row["value"], row["from"]) for row in clipcls.rows("config", "show")}
    assert rows["model"] == ("clip-b32", str(user))
    assert rows["workers"] == ("4", "clipcls.toml") and rows["prompts"] == ("zh, plain", "clipcls.toml")
    assert rows["device"] == ("cuda:1", "CLIPCLS_DEVICE") and rows["batch_size"] == ("0", "default")
    assert rows["trace"] == ("false", "CLIPCLS_TRACE")
    assert clipcls("config", "path").splitlines() == [str(here / "clipcls.toml"), str(user)]


def test_a_setting_that_is_wrong_is_told_with_its_place(here: Path, clipcls: Terminal) -> None:
    Path("clipcls.toml").write_text("workers = -1\n")
    clipcls("config", "show", code=2)
    assert "clipcls.toml: workers" in clipcls.err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("clipcls mod", {"models"}),
        ("clipcls models tr", {"trace"}),
        ("clipcls classify --back", {"--background"}),
        ("clipcls eval x --model xlmr", {"xlmr-b32"}),
        ("clipcls eval x --prompts zh-", {"zh-plain"}),
        ("clipcls eval x --labels-file cifar-10-", {"cifar-10-zh"}),
    ],
)
def test_completion(typed: str, offered: set[str]) -> None:
    environment = os.environ | {"_CLIPCLS_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    done = subprocess.run([CLIPCLS], env=environment, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) >= offered and all(
        each.startswith(typed.split()[-1]) for each in done.stdout.split()
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([CLIPCLS, "--show-completion", shell], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "_CLIPCLS_COMPLETE" in done.stdout
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0


def test_every_command_shows_an_example() -> None:
    for name in COMMANDS:
        command = full_command(name)
        below = getattr(command, "commands", {})
        for each in below.values() or [command]:
            assert f"clipcls {name}" in (each.help or ""), f"{name} {each.name}"


def test_the_manual_page_is_that_of_these_commands() -> None:
    assert (ROOT / "docs" / "clipcls.1").read_text("utf-8") == manual(), "python -m clipcls.cli.manual > docs/clipcls.1"


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_manual_page_has_no_fault() -> None:
    done = subprocess.run(["groff", "-man", "-Kutf8", "-Tutf8", "-ww"], input=manual(), capture_output=True, text=True)
    assert done.stderr == "" and "clipcls classify" in done.stdout
