"""The README's worked comparison: Caltech-101's pictures under their Chinese names, and prompt sets tried on them.

    python recipes/compare_prompts.py --data DIR | tee recipes/compare_prompts.txt

DIR holds caltech-101.tar (Li, Andreeto, Ranzato, Perona 2004, data.caltech.edu, CC BY 4.0; its pictures ``choose/``,
which trained nothing, scaled to 288 pixels), which does not come with the project. The names are those of
recipes/starter/names/caltech-101.tsv. The run that the README shows lies beside this file.
"""

from __future__ import annotations

import argparse
import csv
import re
import tarfile
import tempfile
from pathlib import Path

from terminal_picture import on_a_terminal

NAMES = Path(__file__).parent / "starter" / "names" / "caltech-101.tsv"

COMMANDS = (
    "prompts compare pictures --prompts zh-plain --prompts zh --prompts en --prompts 一幅{类别}的抽象画",
    "prompts rank pictures --prompts zh",
    "prompts tune pictures --prompts zh --prompts plain --out best.toml",
    "prompts confuse pictures --prompts zh --top 5",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of caltech-101.tar")
    with tempfile.TemporaryDirectory() as folder:
        unpack(parser.parse_args().data / "caltech-101.tar", Path(folder, "pictures"))
        for command in COMMANDS:
            shown, said = on_a_terminal(command.split(), Path(folder), 110, CLIPCLS_CACHE_DIR=f"{folder}/cache")
            plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
            print(f"$ clipcls {command}", *said, *map(str.rstrip, plain.splitlines()), sep="\n", end="\n\n", flush=True)
        print(f"$ cat best.toml\n{Path(folder, 'best.toml').read_text('utf-8')}", end="")


def unpack(archive: Path, folder: Path) -> None:
    """The pictures that trained nothing, one folder a label; a name that two of the data set's folders have is one."""
    with NAMES.open(encoding="utf-8", newline="") as file:
        names = {key: chinese.split("/")[0] for key, _, chinese in csv.reader(file, delimiter="\t")}
    with tarfile.open(archive) as tar:
        for member in tar:
            _, part, name, file_name = member.name.split("/")
            if part == "choose" and name in names:
                target = folder / names[name] / f"{name}-{file_name}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
