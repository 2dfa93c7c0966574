"""Sizes that no model has: to build what such a configuration describes would take all memory, or hours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipcls.errors import ModelError

_MOST = {
    **dict.fromkeys(("layers", "num_hidden_layers"), 1_000),
    **dict.fromkeys(("image_size", "height", "shortest_edge"), 4_096),
    "context_length": 10_000,  # a causal tower keeps a mask of its square
    **dict.fromkeys(("width", "embed_dim", "hidden_size", "projection_dim"), 100_000),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings"), 1_000_000),
    "vocab_size": 10_000_000,
}
"""By the names of open_clip's and transformers' settings ten times what the largest models have, or more."""


def check_sizes(path: Path, table: Any) -> None:
    """Refuse a configuration that no model can have.

    Raises:
        ModelError: one of its sizes is absurd.
    """
    for name, size in _sizes(table):
        if size > _MOST[name]:
            raise ModelError(f"{path} sets {name} to {size:g}, which no model has: it is damaged, get it anew")


def _sizes(table: Any) -> Iterator[tuple[str, float]]:
    """The sizes in a configuration and in the tables in it."""
    waiting = [table]
    while waiting:
        each = waiting.pop()
        for name, value in each.items() if isinstance(each, dict) else ():
            waiting.append(value)
            for size in value if isinstance(value, list) else (value,):
                if name in _MOST and isinstance(size, int | float):
                    yield name, size
