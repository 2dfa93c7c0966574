"""Stages whose results are kept, so that a build that was cut off goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Stages:
    """A folder of results, each under its name and a digest of all that it depends on."""

    def __init__(self, folder: Path, say: Callable[[str], None], base: dict[str, Any]) -> None:
        """All results change with ``base``, and each with what is named when it is asked for."""
        self._folder, self._say, self._base = folder, say, base
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, make: Callable[[], Any], **depends: Any) -> Any:
        """The result of a stage, made now unless it is there.

        Args:
            name: of the stage and of its file.
            make: gives tensors, numbers and texts in dicts and lists.
            depends: what else the result changes with: steps, views.
        """
        key = hashlib.sha256(json.dumps(self._base | depends, sort_keys=True).encode()).hexdigest()[:16]
        path = self._folder / f"{name}-{key}.pt"
        if path.exists():
            self._say(f"{name}: there already")
            return torch.load(path, weights_only=True)
        self._say(f"{name} ...")
        began = time.monotonic()
        result = make()
        partial = path.with_suffix(".partial")
        torch.save(result, partial)
        partial.rename(path)
        self._say(f"{name}: {time.monotonic() - began:.0f} s")
        return result
