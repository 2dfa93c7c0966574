"""How busy the stages of a run are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Busy:
    """Seconds that each stage has worked, added up over threads and processes."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Count some work."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Count the work that is done inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def shares(self, seconds: float) -> dict[str, float]:
        """How many workers each stage has kept busy, on average over so many seconds."""
        with self._lock:
            return {stage: round(worked / seconds, 2) for stage, worked in self._seconds.items()}
