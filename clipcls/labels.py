"""Label sets: what a person wants to tell apart."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from clipcls.errors import UsageError

logger = logging.getLogger("clipcls")

_SEPARATORS = re.compile("[,，、]")
_KANA = re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_JAPANESE = ("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA")
SYNONYM = "|"
"""Between the names of one label, where a label is written as one string."""


@dataclass(frozen=True, slots=True)
class Label:
    """One thing to look for."""

    name: str
    """The word or words that are written into the prompts."""
    id: str | None = None
    """Tells apart labels that share a name, as ImageNet's two kinds of "missile" do."""
    synonyms: tuple[str, ...] = ()
    """Further names, each written into prompts of its own."""
    display: str | None = None
    """What results call it in place of its name."""
    description: str = ""
    """A note for people; no model reads it."""
    templates: tuple[str, ...] = ()
    """Prompt templates for this label alone, in place of the prompt set's; they need no place for the label."""
    group: str = ""
    """What it is a kind of."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the synonyms."""
        return (self.name, *self.synonyms)

    @property
    def column(self) -> str:
        """What a results file calls this label: unique within a label set."""
        shown = self.display or self.name
        return shown if self.id is None else f"{shown} [{self.id}]"


def split_labels(text: str) -> list[str]:
    """The labels in one command-line argument, where ``,`` ``，`` and ``、`` all separate."""
    return _SEPARATORS.split(text)


def parse_label(text: str) -> Label:
    """The label in one string, where ``|`` separates its synonyms, as in ``大象|象|elephant``."""
    name, *synonyms = [part for part in map(_clean, text.split(SYNONYM)) if part] or [""]
    return Label(name, synonyms=tuple(synonyms))


def label_set(labels: str | Iterable[str | Label]) -> tuple[Label, ...]:
    """The labels in their order, without surplus space, empty ones and duplicates; a dropped duplicate is logged.

    A string is taken as ``parse_label`` takes it, and one string alone as on the command line. Names are compared in
    Unicode's composed form (NFC). Two labels of one name are both kept if their ids differ.

    Raises:
        UsageError: no label is left, one is not valid text, or two could not be told apart in results.
    """
    kept: dict[tuple[str, str | None], Label] = {}
    dropped = []
    for given in split_labels(labels) if isinstance(labels, str) else labels:
        label = _tidy(parse_label(given) if isinstance(given, str) else given)
        if not label.name:
            continue
        key = (composed(label.name), label.id)
        if key in kept:
            dropped.append(label.name)
        else:
            kept[key] = label
    if not kept:
        raise UsageError("no labels given: name at least one, as in --labels 大象,冰箱,蚂蚁")
    _check_columns(kept.values())
    if dropped:
        logger.warning("dropped labels given more than once: %s", ", ".join(dict.fromkeys(dropped)))
    return tuple(kept.values())


def shared_names(labels: Iterable[Label]) -> dict[str, list[str]]:
    """Names that are written into the prompts of more than one label, and those labels' columns."""
    owners: dict[str, list[str]] = {}
    for label in labels:
        for name in label.names:
            owners.setdefault(composed(name), []).append(label.column)
    return {name: columns for name, columns in owners.items() if len(columns) > 1}


def composed(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which names are compared: macOS writes file names decomposed."""
    return unicodedata.normalize("NFC", text)


def is_chinese(text: str) -> bool:
    """Whether the text has Chinese characters and no Japanese kana."""
    return bool(_HAN.search(text)) and not _KANA.search(text)


@cache
def script(text: str) -> str:
    """The script that tells most of a text's language: any other before Latin, which all the world mixes in.

    Returns:
        The name of a script, or Chinese or Japanese; empty where there are no letters.
    """
    names = [unicodedata.name(char, "") for char in text if char.isalpha()]
    if is_chinese(text):
        return "Chinese"
    if any(name.startswith(_JAPANESE) for name in names):
        return "Japanese"
    firsts = [name.removeprefix("FULLWIDTH ").partition(" ")[0].capitalize() for name in names]
    return next((first for first in firsts if first != "Latin"), "Latin" if firsts else "")


def _clean(text: str) -> str:
    return " ".join(text.split())


def _tidy(label: Label) -> Label:
    """The label without surplus space in its names, and each name once.

    Raises:
        UsageError: a name is not valid text.
    """
    name, display = _clean(label.name), _clean(label.display or "") or None
    unique = {composed(synonym): synonym for synonym in map(_clean, label.synonyms) if synonym}
    unique.pop(composed(name), None)
    for text in (name, display or "", *unique.values(), *label.templates, label.group, label.id or ""):
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            shown = text.encode(errors="backslashreplace").decode()
            raise UsageError(f"the label {shown!r} is not valid UTF-8 text; write it in UTF-8") from exc
    return replace(
        label, name=name, id=_clean(label.id or "") or None, synonyms=tuple(unique.values()), display=display
    )


def _check_columns(labels: Iterable[Label]) -> None:
    seen: set[str] = set()
    for label in labels:
        column = composed(label.column)
        if column in seen:
            raise UsageError(f"two labels would both be called {label.column!r} in results; rename one")
        seen.add(column)
