"""How far a run is: a bar on the terminal while it goes, one line when it is over."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeVar, cast

from clipcls.records import Done, Failure, Prediction

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from clipcls.busy import Busy
    from clipcls.pipeline import Embedded

TOLD_EVERY = 30.0
"""Seconds between two lines of a long run."""

Seen = TypeVar("Seen", bound="Prediction | Failure | Embedded")


class Tally:
    """Counts the records that pass through it."""

    def __init__(self) -> None:
        self.images = self.failed = self.uncertain = self.cached = 0
        self.busy: Busy | None = None
        """Where it is known how busy the stages are."""
        self._began = time.perf_counter()

    def over(self, records: Iterable[Seen]) -> Iterator[Seen]:
        """The records, counted."""
        for record in records:
            self.images += 1
            self.failed += isinstance(record, Failure)
            self.uncertain += isinstance(record, Prediction) and record.uncertain
            self.cached += record.cached
            yield record

    def add(self, done: Done) -> None:
        """Count a shard that another process did."""
        self.images += done.images
        self.failed += done.failed
        self.uncertain += done.uncertain
        self.cached += done.cached

    def shares(self) -> dict[str, float]:
        """How many workers each stage has kept busy, on average."""
        return self.busy.shares(self.seconds()) if self.busy else {}

    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self._began

    def line(self) -> str:
        """The run in one line."""
        seconds = self.seconds()
        uncertain = f"{self.uncertain} uncertain, " if self.uncertain else ""
        return (
            f"{self.images} image{'s' * (self.images != 1)}, {self.failed} failed, {uncertain}{seconds:.1f} s, "
            f"{self.images / seconds:.1f} images/s, {self.cached} from the cache"
        )


@contextmanager
def progress_bar(tally: Tally, count: Callable[[], int | None], *, hidden: bool) -> Iterator[TextIO]:
    """A bar that follows the tally, if stderr is a terminal; ``count`` tells the total, and may take its time.

    Yields:
        The stream for rows that go to stdout: where that is a terminal as well, they scroll by above the bar.
    """
    if hidden or not sys.stderr.isatty():
        yield sys.stdout
        return
    with _bar() as bar:
        task = bar.add_task("images", total=None)
        threading.Thread(target=lambda: bar.update(task, total=count()), daemon=True).start()
        over = threading.Event()
        follower = threading.Thread(target=_follow, args=(bar, task, tally, over), daemon=True)
        follower.start()
        try:
            yield cast(TextIO, AboveTheBar(bar)) if sys.stdout.isatty() else sys.stdout
        finally:
            over.set()
            follower.join()


@contextmanager
def long_progress(tally: Tally, images: int, *, hidden: bool) -> Iterator[None]:
    """A bar for a run that may take days, or, where stderr is no terminal, a line of JSON now and then."""
    if hidden or sys.stderr.isatty():
        with progress_bar(tally, lambda: images, hidden=hidden):
            yield
        return
    over = threading.Event()
    teller = threading.Thread(target=_tell, args=(tally, images, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _tell(tally: Tally, images: int, over: threading.Event) -> None:
    while not over.wait(TOLD_EVERY):
        speed = tally.images / tally.seconds()
        state = {
            "images": tally.images,
            "of": images,
            "failed": tally.failed,
            "images_per_second": round(speed, 1),
            "seconds_left": round((images - tally.images) / speed) if speed else None,
            "busy": tally.shares(),
        }
        sys.stderr.write(json.dumps(state) + "\n")
        sys.stderr.flush()


class AboveTheBar:
    """A terminal's text stream, of which each write puts whole lines above the bar, as they are."""

    encoding = "utf-8"

    def __init__(self, bar: Progress) -> None:
        self._console = bar.console

    def write(self, text: str) -> int:
        """Show whole lines."""
        self._console.out(text, highlight=False, end="")
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """It is a terminal."""
        return True


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} images/s" if task.speed else "")

    class Notes(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields.get("notes", ""), "dim")

    # Where rows scroll by on the same terminal, one console must draw both.
    console = Console(stderr=not sys.stdout.isatty())
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn(), Notes())
    return Progress(*columns, console=console, transient=True, redirect_stdout=False)


def _follow(bar: Progress, task: TaskID, tally: Tally, over: threading.Event) -> None:
    while not over.wait(0.2):
        busy = [f"{stage} {share:.1f}" for stage, share in tally.shares().items()]
        failed = [f"{tally.failed} failed"] if tally.failed else []
        bar.update(task, completed=tally.images, notes=", ".join(failed + busy))
