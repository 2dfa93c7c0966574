"""How far a run is: a bar on the terminal while it goes, one line when it is over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clipcls.records import Failure, Record

if TYPE_CHECKING:
    from rich.progress import Progress


class Tally:
    """Counts the records that pass through it."""

    def __init__(self) -> None:
        self.images = self.failed = self.cached = 0
        self._began = self._loaded = time.perf_counter()

    def over(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records, counted."""
        self._loaded = time.perf_counter()
        for record in records:
            self.images += 1
            self.failed += isinstance(record, Failure)
            self.cached += record.cached
            yield record

    def line(self) -> str:
        """The run in one line."""
        now = time.perf_counter()
        return (
            f"{self.images} image{'s' * (self.images != 1)}, {self.failed} failed, {now - self._began:.1f} s, "
            f"{self.images / (now - self._loaded):.1f} images/s after loading, {self.cached} from the cache"
        )


@contextmanager
def progress_bar(tally: Tally, count: Callable[[], int | None], *, hidden: bool) -> Iterator[None]:
    """A bar that follows the tally, if stderr is a terminal; ``count`` tells the total, and may take its time."""
    if hidden or not sys.stderr.isatty():
        yield
        return
    with _bar() as bar:
        task = bar.add_task("images", total=None)
        threading.Thread(target=lambda: bar.update(task, total=count()), daemon=True).start()
        over = threading.Event()
        follower = threading.Thread(target=_follow, args=(bar, task, tally, over), daemon=True)
        follower.start()
        try:
            yield
        finally:
            over.set()
            follower.join()


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

    # Where a table scrolls by on the same terminal, one console must draw both.
    console = Console(stderr=not sys.stdout.isatty())
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _follow(bar: Progress, task: int, tally: Tally, over: threading.Event) -> None:
    from rich.progress import TaskID

    while not over.wait(0.2):
        bar.update(TaskID(task), completed=tally.images)
