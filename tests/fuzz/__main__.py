"""Fuzzing: python tests/fuzz TARGET [--seconds 600] [--findings FOLDER]

Runs one of the targets with atheris, or with hypothesis where atheris is missing, on mutations of its corpus. What is
found is told, and the input that shows it kept: one for each place in the code, in tests/fuzz/findings/TARGET. The
tests run those again. Exits with 1 where there is anything new.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy  # noqa: F401 - what is imported here is not instrumented
import tomli_w  # noqa: F401
import yaml  # noqa: F401
from PIL import Image  # noqa: F401

INSIDE = "--inside"
atheris = None
if INSIDE in sys.argv:
    with suppress(ImportError):
        import atheris

with atheris.instrument_imports(include=["clipcls"]) if atheris else nullcontext():
    import targets

SLOW = 20
"""Seconds that one input may take; after that it is a finding, which ends the run."""
LARGEST = 1 << 13
"""Bytes of an input, unless a seed is larger."""
MEMORY = 2048
"""Megabytes that the process may take."""


def with_atheris(name: str, seconds: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    seeds = list(targets.seeds(name))
    with tempfile.TemporaryDirectory() as work:
        corpus, words = Path(work) / "corpus", Path(work) / "words"
        corpus.mkdir()
        for at, seed in enumerate(seeds):
            (corpus / str(at)).write_bytes(seed)
        listed = ["".join(f"\\x{byte:02x}" for byte in word.encode()) for word in targets.TARGETS[name].words]
        words.write_text("".join(f'"{word}"\n' for word in listed or ["?"]), "ascii")
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "max_total_time": seconds,
            "timeout": SLOW,
            "rss_limit_mb": MEMORY,
            "max_len": max(LARGEST, *map(len, seeds)),
            "dict": words,
            "artifact_prefix": f"{folder}{os.sep}",
        }
        flags = [f"-{option}={value}" for option, value in options.items()]
        atheris.Setup([sys.argv[0], *flags, str(corpus)], targets.Findings(name, folder))
        atheris.Fuzz()


def with_hypothesis(name: str, seconds: int, check: Callable[[bytes], None]) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    seeds = list(targets.seeds(name))
    runs = 0

    @st.composite
    def mutated(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, len(data)))
            data = data[:start] + draw(st.binary(max_size=8)) + data[start + draw(st.integers(0, 20)) :]
        return data

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary() | mutated())
    def some(data: bytes) -> None:
        nonlocal runs
        runs += 1
        check(data)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        some()
    print(f"Done {runs} runs in {seconds} second(s)", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__.partition("\n\n")[2])
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--findings", type=Path, default=targets.HERE / "findings", help="folder for what is found")
    parser.add_argument("--hypothesis", action="store_true", help="do without atheris")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.findings / asked.target
    if not asked.inside:  # libFuzzer ends its process as if all were well
        before = set(folder.glob("*"))
        code = subprocess.run([sys.executable, *sys.argv, INSIDE]).returncode
        return 1 if set(folder.glob("*")) - before else code
    logging.disable()
    if atheris and not asked.hypothesis:
        with_atheris(asked.target, asked.seconds, folder)
    else:
        with_hypothesis(asked.target, asked.seconds, targets.Findings(asked.target, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
