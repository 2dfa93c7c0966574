"""Mutation testing: how much of what the code does would be missed if it were wrong.

``python tests/mutate.py`` breaks the modules that pyproject.toml names in one small way after another, runs their
tests each time, and counts the mutants that no test notices; over 15% in a module, and it exits with 1. It needs
mutmut, which shows a mutant with ``mutmut show NAME`` and runs some of them again with ``mutmut run 'NAME*'``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

LEAST = 0.85
KILLED = {"killed", "timeout"}


def mutmut(*words: str, **options: object) -> str:
    command = [str(Path(sys.executable).parent / "mutmut"), *words]
    return str(subprocess.run(command, check=True, text=True, **options).stdout)  # type: ignore[call-overload]


def main() -> int:
    shutil.rmtree("mutants", ignore_errors=True)  # what survived an earlier run is not tried again
    mutmut("run", "--max-children", "2")
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in mutmut("results", "--all", "true", stdout=subprocess.PIPE).splitlines():
        name, _, outcome = line.strip().partition(": ")
        found[name.split(".")[1]][outcome] += 1
        if outcome not in KILLED:
            print(line.strip())
    missed = False
    for module, outcomes in sorted(found.items()):
        killed, total = sum(outcomes[outcome] for outcome in KILLED), outcomes.total()
        print(f"{module}: {killed} of {total} killed, {killed / total:.1%} ({dict(outcomes)})")
        missed |= killed < LEAST * total
    return int(missed or not found)


if __name__ == "__main__":
    sys.exit(main())
