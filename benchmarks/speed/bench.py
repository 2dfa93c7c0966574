"""Where everything lies, and how other processes are run and asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from speed.models import WEIGHTS
from speed.photographs import photographs
from speed.table import CORES, Row

HERE = Path(__file__).parent
CLIPCLS = Path(sysconfig.get_path("scripts"), "clipcls")
VIT, MOBILE, STARTER = "ViT-B-32", "MobileCLIP2-S0", "starter"
TEMPLATE = "a photo of a {}."
PASSIVE, SPINNING = "PASSIVE", "the default"
"""Of OMP_WAIT_POLICY."""
_TOWER = {"do": "tower", "count": 8, "batch": 8}


@dataclass(frozen=True, slots=True)
class Process:
    """What a finished process took, and what it said."""

    seconds: float
    megabytes: float
    stderr: str


@dataclass(frozen=True, slots=True)
class Bench:
    """The folder of all that is made, and how much is measured.

    ``cache`` is new in every run, so that nothing is known; ``work`` may be from an earlier one.
    """

    work: Path
    cache: Path
    quick: bool
    repeat: int

    def pictures(self, kind: str, count: int, low: float, high: float) -> list[Path]:
        """Photographs of so many megapixels, all of one kind in one folder."""
        say(f"{count:,} photographs: {kind}")
        return photographs(self.work / f"{kind}-{count}", count, low, high)

    def model(self, architecture: str, library: str = "open_clip") -> Path:
        """A model's folder; what its name means to clipcls if that is the starter."""
        if architecture == STARTER:
            return Path(STARTER)
        folder = self.work / f"{library}-{architecture}"
        if not folder.exists():
            say(f"{architecture} for {library}")
            draft = folder.with_suffix(".partial")
            draft.mkdir(exist_ok=True)
            run(sys.executable, HERE / "models.py", library, architecture, draft)
            draft.rename(folder)
        return folder

    def weights(self, architecture: str) -> Path:
        """open_clip's weights."""
        return self.model(architecture) / WEIGHTS

    @contextmanager
    def clipcls(self, architecture: str, precision: str = "auto") -> Iterator[Child]:
        """The library in a process, the model already traced."""
        with child("clipcls", self.model(architecture), precision):
            pass
        with child("clipcls", self.model(architecture), precision) as started:
            yield started

    @contextmanager
    def open_clip(self, architecture: str) -> Iterator[Child]:
        """open_clip in a process, its threads waiting as is faster here."""
        arguments = "open_clip", architecture, str(self.weights(architecture))
        with child(*arguments, waiting=best_waiting(json.dumps(_TOWER), *arguments)) as started:
            yield started

    @contextmanager
    def transformers(self, architecture: str, photos: Sequence[str]) -> Iterator[Child]:
        """transformers' pipeline in a process, its threads waiting as is faster here."""
        arguments = "transformers", str(self.model(architecture, "transformers"))
        job = {"do": "loader", "files": list(photos[:8]), "batch": 8, "workers": 0, "threads": CORES}
        with child(*arguments, waiting=best_waiting(json.dumps(job), *arguments)) as started:
            yield started


class Child:
    """A process of ``child.py``: ask it by the name of a method."""

    def __init__(self, process: subprocess.Popen[str], errors: Any, waiting: str) -> None:
        self._process, self._errors, self.waiting = process, errors, waiting
        self.hear()

    def hear(self) -> Any:
        """Its next answer."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"{self._process.args} ended early:\n{self._errors.read().decode(errors='replace')}")
        return json.loads(line)

    def ask(self, do: str, **job: Any) -> Any:
        """Have it do something, and wait for the answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do} | job) + "\n")
        self._process.stdin.flush()
        return self.hear()


@contextmanager
def child(*arguments: str | Path, waiting: str = PASSIVE) -> Iterator[Child]:
    """A process of ``child.py``, ready to be asked; clipcls's own command sets PASSIVE too."""
    surroundings = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if waiting == PASSIVE:
        surroundings["OMP_WAIT_POLICY"] = PASSIVE
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(
            [sys.executable, HERE / "child.py", *arguments],
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": errors,
                "text": True,
                "env": surroundings,
            },
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        yield Child(process, errors, waiting)
        assert process.stdin
        process.stdin.close()
        process.wait(60)


@cache
def best_waiting(job: str, *arguments: str) -> str:
    """How the threads of OpenMP, which torch computes with, are best told to wait for each other.

    Where others use the same cores, threads that spin as torch has them cost it half its speed and more.
    """
    say(f"{arguments[0]}: how its threads wait best")
    seconds = {}
    for waiting in (SPINNING, PASSIVE):
        with child(*arguments, waiting=waiting) as tried:
            seconds[waiting] = min(tried.ask(**json.loads(job)) for _ in range(3))
    return min(seconds, key=seconds.__getitem__)


def run(*command: str | Path, cache: Path | None = None, check: bool = True) -> Process:
    """Run a command to its end; its peak memory is its own, not its children's."""
    surroundings = os.environ | ({"CLIPCLS_CACHE_DIR": str(cache)} if cache else {})
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=surroundings)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        stderr = errors.read().decode(errors="replace")
    if check and process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{stderr}")
    return Process(seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), stderr)


def say(what: str) -> None:
    """Tell a person who waits what is going on."""
    print(f"... {what}", file=sys.stderr, flush=True)


def of(turns: Sequence[float], what: str, unit: str, how: str = "", **bars: float | None) -> Row:
    """A row of the median of some turns."""
    return Row(what, median(turns), unit, how, turns=tuple(turns), **bars)


def ratio(
    ours: Sequence[float], theirs: Sequence[float], what: str, unit: str = "times", how: str = "", **bars: float | None
) -> Row:
    """A row of the median ratio of figures that were measured side by side."""
    return of([one / other for one, other in zip(ours, theirs, strict=True)], f"  {what}", unit, how, **bars)


Section = Callable[[Bench], Iterator[Row]]
