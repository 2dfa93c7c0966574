"""The command line of a benchmark: sections by name, a table, JSON."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from speed.bench import Bench, Section, say
from speed.table import Row, load, machine, save, show


def command(about: str | None, sections: Mapping[str, Section], words: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, and print it; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(sections)}; without any, all")
    parser.add_argument("--quick", action="store_true", help="fewer labels, pictures and turns")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns of each comparison (5, or 2 with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to put the figures too")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where models and photographs are made and kept")
    options = parser.parse_args(words)
    if unknown := set(options.sections) - set(sections):
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
        for section in options.sections or sections:
            say(f"section {section}")
            rows = table.setdefault(section, [])
            try:
                for row in sections[section](bench):
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
