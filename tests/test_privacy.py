"""clipcls sends nothing anywhere: no command but those that fetch a model so much as asks for an address."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import IMAGES
from PIL import Image

from clipcls.cli import app
from clipcls.cli.commands import COMMANDS, full_command

GUARD = """
import os, socket

def told(what):
    def refuse(*arguments, **options):
        with open(os.environ["TOLD"], "a") as file:
            print(what, arguments[-1:], file=file)
        raise OSError("the network is blocked")
    return refuse

for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, told(name))
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, told(name))
"""
LABELS = ("--labels", "猫,咖啡")
RUNS = {
    "classify": [f"classify photos {{labels}} {end}" for end in ("-o out.csv", "-o out/", "--write-xmp")],
    "embed": ["embed photos -o embedded"],
    "search": ["search 一只猫 photos", "search 一只猫"],
    "sort": ["sort photos {labels} --into sorted"],
    "report": ["report photos {labels} -o report.html"],
    "dedup": ["dedup photos"],
    "score": ["score pairs.csv", "score pairs.csv --matrix -o matrix.svg"],
    "eval": ["eval labelled --probe --calibrate --outliers 1 --report eval.html"],
    "prompts list": ["prompts list"],
    "prompts show": ["prompts show zh --labels 猫"],
    "prompts path": ["prompts path zh"],
    "prompts new": ["prompts new mine.toml --from zh"],
    "prompts edit": ["prompts edit mine.toml"],
    "prompts check": ["prompts check mine.toml --labels 猫"],
    "prompts compare": ["prompts compare labelled --prompts zh --prompts en"],
    "prompts rank": ["prompts rank labelled --prompts zh"],
    "prompts tune": ["prompts tune labelled --prompts zh --folds 2"],
    "prompts confuse": ["prompts confuse labelled"],
    "labels list": ["labels list"],
    "labels show": ["labels show cifar-10-zh"],
    "labels check": ["labels check cifar-10-zh"],
    "models list": ["models list"],
    "models info": ["models info starter", "models info xlmr-b32"],
    "models path": ["models path starter"],
    "models use": ["models use starter"],
    "models recommend": ["models recommend --labels 猫"],
    "models trace": ["models trace starter"],
    "models export": ["models export starter exported"],
    "models import": ["models import exported --name mine"],
    "models remove": ["models remove mine --yes"],
    "cache info": ["cache info"],
    "cache path": ["cache path"],
    "cache prune": ["cache prune"],
    "cache clear": ["cache clear --yes"],
    "config show": ["config show"],
    "config path": ["config path"],
    "doctor": ["doctor"],
}
FETCHING = {"models pull"}
"""What a network is for."""


def all_commands() -> set[str]:
    found = set()
    for name in COMMANDS:
        below = getattr(full_command(name), "commands", {})
        found |= {f"{name} {each}" for each in below} or {name}
    return found


def test_each_command_is_tried_here() -> None:
    assert set(RUNS) | FETCHING == all_commands()
    assert not RUNS.keys() & FETCHING
    assert app.registered_commands == app.registered_groups == [], "a command that COMMANDS does not list"


def test_each_run_is_of_its_command() -> None:
    for name, lines in RUNS.items():
        assert lines and all(f"{line} ".startswith(f"{name} ") for line in lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("照片")
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    for target in ("photos", "labelled/猫", "labelled/咖啡"):
        (folder / target).mkdir(parents=True)
    for name, label in (("chelsea", "猫"), ("coffee", "咖啡")):
        shutil.copy(IMAGES / f"{name}.jpg", folder / "photos")
        with Image.open(IMAGES / f"{name}.jpg") as photo:
            for at in range(4):
                photo.crop((9 * at, 0, *photo.size)).save(folder / "labelled" / label / f"{at}.jpg")
    (folder / "pairs.csv").write_text("image,text\nphotos/chelsea.jpg,一只猫\nphotos/coffee.jpg,咖啡\n", "utf-8")
    return folder


def test_no_command_asks_the_network(place: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(place / "guard"),
        "TOLD": str(place / "told.txt"),
        "CLIPCLS_CACHE_DIR": str(place / "cache"),
        "XDG_CONFIG_HOME": str(place / "config"),
        "EDITOR": "true",
        "CLIPCLS": str(Path(sys.executable).parent / "clipcls"),
    }
    del environment["HF_HUB_OFFLINE"]  # which would keep the hub's package from asking
    for command in RUNS:
        for line in RUNS[command]:
            done = subprocess.run(
                ["bash", "-c", f'"$CLIPCLS" {line.format(labels=" ".join(LABELS))}'],
                cwd=place,
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            assert not (place / "told.txt").exists(), f"{line}: {(place / 'told.txt').read_text()}"


def test_the_guard_sees_who_asks(place: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(place / "guard"), "TOLD": str(tmp_path / "told.txt")}
    environment["HF_HUB_OFFLINE"] = "0"
    words = [str(Path(sys.executable).parent / "clipcls"), "models", "pull", "clip-b32"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 4 and (tmp_path / "told.txt").read_text()
