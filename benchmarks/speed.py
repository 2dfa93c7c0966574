"""How fast clipcls is, beside others and beside the limit: ``python benchmarks/speed.py [SECTION ...]``.

help        clipcls --help, whole process.
start       one new picture and three new labels, whole process; beside open_clip's README and transformers' pipeline.
texts       a zero-shot head of 100 labels and 80 templates, beside open_clip's build_zero_shot_classifier.
limit       image towers on pictures in memory, beside torch's and a float32 matrix product; int8 and bf16.
images      end to end, beside the limit, open_clip's README, a DataLoader (as pybioclip works), transformers' pipeline.
big         loading and preprocessing photographs of 12 megapixels, beside open_clip's transform.
rerun       other labels for pictures that are known, whole process.
memory      peaks over few and over many pictures, beside a bare process that has the same model.

All runs on the CPU, with random weights (the starter has its own) and photographs that are made here. What is compared
takes turns on the same machine; each figure is the median of its turns, each ratio the median of ratios in one turn.
Rivals are processes of their own, with
the batch size, workers, threads and waiting of threads (OMP_WAIT_POLICY) that suit them best here; README scripts run
as they are. The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from speed.bench import Bench, Section, say
from speed.speeds import of_big, of_images, of_limit, of_texts
from speed.starts import of_help, of_memory, of_rerun, of_start
from speed.table import Row, load, machine, save, show

SECTIONS: dict[str, Section] = {
    "help": of_help,
    "start": of_start,
    "texts": of_texts,
    "limit": of_limit,
    "images": of_images,
    "big": of_big,
    "rerun": of_rerun,
    "memory": of_memory,
}


def main(words: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, and print it; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; without any, all")
    parser.add_argument("--quick", action="store_true", help="fewer labels, pictures and turns")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns of each comparison (5, or 2 with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to put the figures too")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where models and photographs are made and kept")
    options = parser.parse_args(words)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}")
    facts = machine()
    print("\n".join(f"{key:<18}{value}" for key, value in facts.items()) + "\n")
    table: dict[str, list[Row]] = {}
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clipcls-speed-")))
        work.mkdir(parents=True, exist_ok=True)
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cache-", dir=work)))
        alone(cache)
        repeat = options.repeat or (2 if options.quick else 5)
        bench = Bench(work.resolve(), cache.resolve(), options.quick, repeat)
        for section in options.sections or SECTIONS:
            say(f"section {section}")
            rows = table.setdefault(section, [])
            try:
                for row in SECTIONS[section](bench):
                    rows.append(row)
            finally:  # what was measured before something failed is shown too
                show(section, rows)
                facts["load after"] = load()
                if options.json:
                    save(options.json, facts, table)
    return int(any(row.met is False for rows in table.values() for row in rows))


def alone(cache: Path) -> None:
    """Nothing of this person's settings, caches and downloads is seen or touched, nor the network."""
    for name in [name for name in os.environ if name.startswith("CLIPCLS_")]:
        del os.environ[name]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled once, and not at every start
    os.environ["CLIPCLS_CACHE_DIR"] = str(cache.resolve())
    os.environ["XDG_CONFIG_HOME"] = str(cache.resolve() / "config")
    os.environ["HF_HUB_OFFLINE"] = "1"


if __name__ == "__main__":
    sys.exit(main())
