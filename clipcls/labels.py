"""Label sets: what a person wants to tell apart, parsed from flags and files."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipcls.errors import UsageError
from clipcls.textfile import read_text

logger = logging.getLogger("clipcls")

_SEPARATORS = re.compile("[,，、]")
_KANA = re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


@dataclass(frozen=True, slots=True)
class Label:
    """One thing to look for."""

    name: str
    """The word or words that are written into the prompts and shown in results."""
    id: str | None = None
    """Tells apart labels that share a name, as ImageNet's two kinds of "missile" do."""

    @property
    def column(self) -> str:
        """What a results file calls this label: unique within a label set."""
        return self.name if self.id is None else f"{self.name} [{self.id}]"


def split_labels(text: str) -> list[str]:
    """The labels in one command-line argument, where ``,`` ``，`` and ``、`` all separate."""
    return _SEPARATORS.split(text)


def read_labels(path: Path) -> list[str]:
    """The labels in a text file: one a line; empty lines and lines that begin with ``#`` do not count.

    Raises:
        UsageError: the file cannot be read or is not UTF-8 text.
    """
    return [line for line in read_text(path, "labels").splitlines() if not line.lstrip().startswith("#")]


def label_set(labels: str | Iterable[str | Label]) -> tuple[Label, ...]:
    """The labels in their order, without surplus space, empty ones and duplicates; a dropped duplicate is logged.

    One string is taken as on the command line. Names are compared in Unicode's composed form (NFC). Two labels of one
    name are both kept if their ids differ.

    Raises:
        UsageError: no label is left, one is not valid text, or two could not be told apart in results.
    """
    kept: dict[tuple[str, str | None], Label] = {}
    dropped = []
    for given in split_labels(labels) if isinstance(labels, str) else labels:
        label = given if isinstance(given, Label) else Label(given)
        label = Label(" ".join(label.name.split()), label.id)
        if not label.name:
            continue
        _check_text(label.name)
        key = (unicodedata.normalize("NFC", label.name), label.id)
        if key in kept:
            dropped.append(label.name)
        else:
            kept[key] = label
    if not kept:
        raise UsageError("no labels given: name at least one, as in --labels 大象,冰箱,蚂蚁")
    for label in kept.values():
        if label.id is not None and (unicodedata.normalize("NFC", label.column), None) in kept:
            raise UsageError(f"two labels would both be called {label.column!r} in results; rename one")
    if dropped:
        logger.warning("dropped labels given more than once: %s", ", ".join(dict.fromkeys(dropped)))
    return tuple(kept.values())


def _check_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise UsageError(f"the label {shown!r} is not valid UTF-8 text; write it in UTF-8") from exc


def is_chinese(text: str) -> bool:
    """Whether the text has Chinese characters and no Japanese kana."""
    return bool(_HAN.search(text)) and not _KANA.search(text)
