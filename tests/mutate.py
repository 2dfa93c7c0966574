"""Mutation testing: how much of what the code does would be missed if it were wrong.

``python tests/mutate.py`` breaks the modules that pyproject.toml names in one small way after another, runs their
tests each time, and counts the mutants that no test notices; over 15% in one module, and it exits with 1. It needs
mutmut, which shows a mutant with ``mutmut show NAME`` and tries some of them again with ``mutmut run 'NAME*'``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

LEAST = 0.85
KILLED = ("killed", "timeout")


def mutmut(*words: str, capture: bool = False) -> str:
    command = [str(Path(sys.executable).parent / "mutmut"), *words]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None).stdout


def report() -> bool:
    """Print what was not simply killed, and each module's share; whether that is enough everywhere."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in mutmut("results", "--all", "true", capture=True).splitlines():
        name, _, outcome = line.strip().partition(": ")
        found[name.split(".")[1]][outcome] += 1
        if outcome != "killed":
            print(line.strip())
    shares = []
    for module, outcomes in sorted(found.items()):
        killed, total = sum(outcomes[outcome] for outcome in KILLED), outcomes.total()
        shares.append(killed / total)
        print(f"{module}: {killed} of {total} killed, {shares[-1]:.1%} ({dict(outcomes)})")
    return min(shares) >= LEAST


if __name__ == "__main__":
    shutil.rmtree("mutants", ignore_errors=True)  # mutants that survived an earlier run would not be tried again
    mutmut("run", "--max-children", "2")
    sys.exit(not report())
