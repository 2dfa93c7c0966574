from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipcls.errors import UsageError
from clipcls.settings import Settings


def user_file() -> Path:
    file = Path(os.environ["XDG_CONFIG_HOME"]) / "clipcls" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def test_defaults(here: Path) -> None:
    assert Settings.load() == Settings(trace=False, cache_dir=os.environ["CLIPCLS_CACHE_DIR"])
    assert Settings().model == "starter"


def test_flag_then_environment_then_project_then_user(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_file().write_text('model = "user"\ndevice = "cpu"\nbatch_size = 8\nworkers = 2\n')
    assert Settings.load().model == "user"
    Path("clipcls.toml").write_text('model = "project"\nprompts = ["zh", "en"]\nbatch_size = 16\n')
    monkeypatch.setenv("CLIPCLS_MODEL", "environment")
    settings = Settings.load({"batch_size": 4, "model": None})
    assert (settings.model, settings.device, settings.prompts) == ("environment", "cpu", ("zh", "en"))
    assert (settings.batch_size, settings.workers) == (4, 2)
    assert Settings.load({"model": "flag"}).model == "flag"


def test_one_prompt_set_needs_no_list(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("clipcls.toml").write_text('prompts = "zh"\n')
    assert Settings.load().prompts == ("zh",)
    monkeypatch.setenv("CLIPCLS_PROMPTS", "en")
    monkeypatch.setenv("CLIPCLS_WORKERS", "3")
    assert (Settings.load().prompts, Settings.load().workers) == (("en",), 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell = 'x'", "clipcls.toml: modell: unknown setting; known are model, device"),
        ("model = 3", "clipcls.toml: model: must be a string"),
        ("workers = 'two'", "clipcls.toml: workers: must be a whole number"),
        ("workers = true", "must be a whole number"),
        ("prompts = [1]", "must be a string or a list of strings"),
        ("workers = -1", "clipcls.toml: workers: workers must be 1 or more"),
        ("model = ", "clipcls.toml, line 1: not valid TOML"),
        ("device = 'gpu'", "clipcls.toml: device: unknown device 'gpu': use auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_bad_setting_names_its_place(here: Path, text: str, message: str) -> None:
    Path("clipcls.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        Settings.load()


def test_a_bad_variable_names_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPCLS_WORKERS", "many")
    with pytest.raises(UsageError, match="CLIPCLS_WORKERS: must be a whole number"):
        Settings.load()
