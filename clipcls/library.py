"""Where named prompt sets and label sets lie: the project's folder, then the user's, then those that come with clipcls.

A set is found by its file's name without the suffix. In a folder ``prompts`` the prompt sets lie at the top and the
label sets in its folder ``labels``; the project's is ``./prompts``, the user's lies in the configuration folder.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

Kind = Literal["prompts", "labels"]
Place = Literal["project", "user", "shipped"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "prompts": (".toml", ".txt", ".json"),
    "labels": (".toml", ".csv", ".json", ".yaml", ".yml", ".txt"),
}
"""Of the files that can hold a set; the first wins where a folder has two of one name."""

_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class SetFile:
    """A file that may hold a set."""

    name: str
    path: Path
    place: Place


def shipped_folder() -> Path:
    """The folder of the sets that come with clipcls: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    in_wheel = package / "_prompts"
    return in_wheel if in_wheel.is_dir() else package.parent / "prompts"


def user_folder() -> Path:
    """The folder of the user's own sets."""
    return Path(platformdirs.user_config_dir("clipcls", appauthor=False)) / "prompts"


def folders(kind: Kind) -> list[tuple[Place, Path]]:
    """Where sets of a kind lie; the first folder wins."""
    roots: list[tuple[Place, Path]] = [("project", Path("prompts")), ("user", user_folder())]
    if Path("prompts").resolve() == shipped_folder().resolve():
        del roots[0]  # in a checkout of clipcls itself
    roots.append(("shipped", shipped_folder()))
    return [(place, root if kind == "prompts" else root / kind) for place, root in roots]


def set_files(kind: Kind) -> Iterator[SetFile]:
    """Every file that may hold a set, folder by folder in the order of precedence, by name within."""
    for place, folder in folders(kind):
        files = [path for path in folder.glob("*") if path.suffix in SUFFIXES[kind] and path.is_file()]
        for path in sorted(files, key=lambda path: (path.stem, SUFFIXES[kind].index(path.suffix))):
            yield SetFile(path.stem, path, place)


def find_set(kind: Kind, name: str) -> SetFile | None:
    """The set that a name stands for; None if there is none."""
    if not _NAME.fullmatch(name):
        return None
    for place, folder in folders(kind):
        for suffix in SUFFIXES[kind]:
            path = folder / f"{name}{suffix}"
            if os.path.isfile(path):  # unlike the path's own method, it takes names too long for a file
                return SetFile(name, path, place)
    return None


def set_names(kind: Kind) -> list[str]:
    """The names of all sets, own and shipped."""
    return sorted({file.name for file in set_files(kind)})
