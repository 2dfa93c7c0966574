"""What is printed: rows with their bars, the machine they were measured on, a table and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "i8mm", "bf16")
_PACKAGES = (
    *("clipcls", "torch", "open_clip_torch", "transformers", "timm", "onnxruntime", "tokenizers"),
    *("numpy", "pillow"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    value: float | None
    """None where there is nothing to measure, as ``how`` says."""
    unit: str
    how: str = ""
    """What was run, in words."""
    at_least: float | None = None
    at_most: float | None = None
    turns: tuple[float, ...] = ()
    """What the value is the median of."""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.value <= high

    @property
    def bar(self) -> str:
        bars = (("≥", self.at_least), ("≤", self.at_most))
        return " ".join(f"{sign} {bar:g}" for sign, bar in bars if bar is not None)

    @property
    def spread(self) -> str:
        several = len(self.turns) > 1
        return f"median of {len(self.turns)}: {figure(min(self.turns))} to {figure(max(self.turns))}" if several else ""


def figure(value: float | None) -> str:
    """A number as the table has it."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def flags() -> set[str]:
    """What the processor can do, by the kernel's names."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()[2:]}


def instructions() -> str:
    """The widest vectors of the processor."""
    return "AVX-512" if "avx512f" in flags() else "AVX2" if "avx2" in flags() else platform.machine()


def machine() -> dict[str, str]:
    """What the figures depend on."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.split(": ")[1] for line in lines if "model name" in line), name)
    return {
        "cpu": name,
        "cores": str(CORES),
        "flags": " ".join(flag for flag in _TELLING if flag in flags()),
        "load before": load(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    } | {package: version(package) for package in _PACKAGES}


def load() -> str:
    """The load average of 1, 5 and 15 minutes."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg())


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a section."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "measured", "", "bar", "", "how"):
        table.add_column(heading, justify="right" if heading in ("measured", "bar") else "left", overflow="fold")
    for row in rows:
        verdict = {True: "met", False: "[red]MISSED", None: ""}[row.met]
        how = "; ".join(filter(None, (row.how, row.spread)))
        table.add_row(row.what, figure(row.value), row.unit, row.bar, verdict, how)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    console.print(table)


def save(file: Path, facts: Mapping[str, str], table: Mapping[str, Sequence[Row]]) -> None:
    """Write all that was printed as JSON."""
    rows = {section: [asdict(row) | {"met": row.met} for row in rows] for section, rows in table.items()}
    file.write_text(json.dumps({"machine": facts, "sections": rows}, indent=2, ensure_ascii=False) + "\n", "utf-8")
