"""The models with a short name of their own, and what a person chooses by: ``catalogue.toml``, read. No torch here."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

CATALOGUE = Path(__file__).with_suffix(".toml")

FIGURES = ("imagenet", "chinese_retrieval", "image_params", "image_gflops", "download_mb")
"""Fields that hold a number or None; like the licence, each has a source."""

_GFLOPS = {(True, False): 40.0, (True, True): 12.0, (False, False): 400.0, (False, True): 40.0}
"""By whether it is a CPU, and whether speed matters most: what an image may cost. ViT-B-32 takes 9 and does some 20
images a second on two cores of a CPU; ViT-B-16 takes 35, ViT-L-14 160."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a model before it is loaded; what nobody published is None."""

    alias: str
    spec: str
    """What the alias stands for."""
    languages: tuple[str, ...]
    """ISO 639-1; ``mul`` stands for many more."""
    description: str
    licence: str
    """Of the weights."""
    imagenet: float | None
    """ImageNet-1k zero-shot top-1 with English labels, 0 to 1."""
    chinese_retrieval: float | None
    """Crossmodal-3600 image retrieval recall@1 in Chinese, 0 to 1."""
    image_params: float | None
    """Of the image tower, in millions."""
    image_gflops: float | None
    """Of the image tower, for one image."""
    download_mb: int | None
    """The weights, in megabytes (10^6 bytes)."""
    packages: tuple[str, ...]
    """Python packages that it needs beside open_clip."""
    source: Mapping[str, str] = field(hash=False)
    """By field where its value was published, or how it was counted."""


@cache
def entries() -> tuple[Entry, ...]:
    """The catalogue, in its order."""
    tables = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    sources = tables.pop("sources")
    return tuple(_entry(alias, table, sources) for alias, table in tables.items())


def find(name: str) -> Entry | None:
    """The entry of an alias, or of the exact spec that an alias stands for; None where there is none."""
    return _by_name().get(name)


def near(name: str) -> str:
    """The aliases that a person may have meant, as a question; empty if there are none."""
    by_folded = {entry.alias.casefold(): entry.alias for entry in entries()}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_folded[each] for each in found)}?" if found else ""


def recommended(
    fits: Callable[[Entry], bool], *, chinese: bool, device: str, fast: bool = False
) -> tuple[tuple[Entry, ...], float]:
    """The entries that fit, the best first, and how many GFLOPs an image may take where that is no bar.

    What asks for more than the device does quickly comes last; before that accuracy counts, as far as somebody
    published it, and between equals speed.

    Args:
        fits: whether a model reads the labels.
        chinese: whether any label is Chinese; then retrieval in Chinese counts before ImageNet.
        device: cpu, cuda, cuda:N or mps.
        fast: whether speed matters more than usual.
    """
    budget = _GFLOPS[device == "cpu", fast]

    def worse(entry: Entry) -> tuple[bool, float, float, float]:
        gflops = math.inf if entry.image_gflops is None else entry.image_gflops
        return (
            gflops > budget,
            -(entry.chinese_retrieval or 0) if chinese else 0,
            -(entry.imagenet or 0),
            gflops,
        )

    return tuple(sorted(filter(fits, entries()), key=worse)), budget


@cache
def _by_name() -> dict[str, Entry]:
    return {name: entry for entry in entries() for name in (entry.spec, entry.alias)}


def _entry(alias: str, table: dict[str, Any], sources: dict[str, str]) -> Entry:
    sourced = {name: table[name] for name in ("licence", *FIGURES) if name in table}
    figures = {name: sourced[name]["value"] if name in sourced else None for name in FIGURES}
    return Entry(
        alias=alias,
        spec=table["spec"],
        languages=tuple(table["languages"]),
        description=table["description"],
        licence=sourced["licence"]["value"],
        packages=tuple(table["packages"]),
        source={name: sources[fact["source"]] for name, fact in sourced.items()},
        **figures,
    )
