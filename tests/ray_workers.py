"""What the workers of a test's Ray do before all else: a fake model stands behind every name, and they keep a log."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fakes import FakeDoor, FakeEncoder

BATCH = 4
"""Images that the fake model takes at once."""
CRASH, STUCK = b"crash", b"stuck"
"""What the files of pictures begin with that end their decoder, or keep it waiting; in a process of its own neither."""


def folder() -> Path:
    """Where the log lies, and ``seconds``: how long a batch takes."""
    return Path(os.environ["CLIPCLS_TEST_FOLDER"])


def runtime_env(given: dict[str, Any] | None) -> dict[str, Any]:
    """What RAY_RUNTIME_ENV_HOOK asks for."""
    return (given or {}) | {"worker_process_setup_hook": "ray_workers.install"}


def install() -> None:
    """Put the fake model into this worker."""
    from clipcls import loading
    from clipcls.engines import stages

    log("workers", str(os.getpid()))
    real = loading.decode

    def decode(data: bytes, **options: Any) -> Any:
        if data.startswith(CRASH):
            log("crashed", str(os.getpid()))
            os._exit(1)
        if data.startswith(STUCK):
            time.sleep(30)
        return real(data, **options)

    loading.decode = decode  # type: ignore[assignment]
    stages.load_encoder = load_encoder  # type: ignore[assignment]


def load_encoder(model: str, **options: Any) -> Any:
    """The fake model, wherever it is asked for."""
    log("devices", f"{options['device']} of {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    return FakeDoor(Slow())(model, **options)


class Slow(FakeEncoder):
    """Writes down who encoded how many."""

    batch_size = BATCH

    def encode_images(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        time.sleep(float((folder() / "seconds").read_text()))
        log("encoded", f"{os.getpid()} {len(batch)}")
        return super().encode_images(batch)


def log(name: str, line: str) -> None:
    with (folder() / name).open("a") as file:
        file.write(line + "\n")


def logged(name: str) -> list[list[int]]:
    file = folder() / name
    return [[int(word) for word in line.split()] for line in file.read_text().splitlines()] if file.exists() else []
