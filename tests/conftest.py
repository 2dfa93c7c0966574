from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import FakeDoor, FakeEncoder
from hypothesis import Phase, settings

from clipcls.cli import StderrHandler, run

settings.register_profile("patient", deadline=None)  # a machine that has other work is slow, not wrong
settings.register_profile(
    "brief", deadline=None, max_examples=20, database=None, phases=[Phase.explicit, Phase.generate]
)  # for mutation testing, where tests run a thousand times and nobody reads what failed
settings.load_profile("patient")

ROOT = Path(__file__).parent.parent
IMAGES = Path(__file__).parent / "images"


def _idle() -> bool:
    began = time.perf_counter()
    sum(range(5_000_000))  # one line, which coverage does not slow
    return time.perf_counter() - began < 0.15  # 0.06 s where nothing else takes the core


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Holds a bar in seconds, where the machine is idle before and after; on a busy one the clock says nothing."""
    idle = _idle()
    began = time.perf_counter()
    yield
    took = time.perf_counter() - began
    assert took < seconds or not (idle and _idle())


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches the person's cache, configuration or hub downloads, nor the network."""
    home = tmp_path_factory.mktemp("home")
    for variable, folder in {
        "CLIPCLS_CACHE_DIR": "cache",
        "XDG_CONFIG_HOME": "config",
        "XDG_CACHE_HOME": "xdg",
        "XDG_DATA_HOME": "data",
        "HF_HOME": "hub",
    }.items():
        monkeypatch.setenv(variable, str(home / folder))
    for variable in ("CLIPCLS_MODEL", "CLIPCLS_DEVICE", "CLIPCLS_PROMPTS", "HF_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CLIPCLS_LANG", "en")  # whatever the locale
    monkeypatch.setenv("CLIPCLS_TRACE", "0")  # takes seconds for each new model; who tests it says so
    return home


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage does not look at the processes of this test: that takes time, memory, and modules of its own."""
    for variable in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeDoor]]:
    """Puts a FakeEncoder behind every model name."""

    def install(encoder: FakeEncoder | None = None, **options: object) -> FakeDoor:
        door = FakeDoor(encoder or FakeEncoder(**options))  # type: ignore[arg-type]
        monkeypatch.setattr("clipcls.pipeline.load_encoder", door)
        return door

    yield install


class Terminal:
    """Runs clipcls and holds what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        found = run([str(word) for word in words])
        self.out, self.err = self._capsys.readouterr()
        assert found == code, self.err
        assert "Traceback" not in self.err
        return self.out

    def rows(self, *words: str | Path, code: int = 0) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self(*words, code=code), newline="")))


@pytest.fixture
def clipcls(capsys: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    logger = logging.getLogger("clipcls")
    handler = StderrHandler()
    logger.addHandler(handler)
    yield Terminal(capsys)
    logger.removeHandler(handler)
