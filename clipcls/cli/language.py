"""The person's language: English as the sources write it, or Chinese by the catalogue ``zh.toml``.

Nothing below the command line knows of it: a message is translated where it leaves the program, whole, by its English
text. In a key of the catalogue ``{}`` stands for what an f-string or a ``%s`` fills in and ``{s}`` for a plural's s.
In the translation ``{}`` is the next of them and ``{0}`` a certain one; ``{*}`` and ``{0*}`` are themselves messages,
such as the cause in an error.
"""

from __future__ import annotations

import itertools
import locale
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from clipcls.errors import UsageError

Language = Literal["zh", "en"]

CATALOGUE = Path(__file__).with_name("zh.toml")
_HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_UNBROKEN = r"\s*[（“]*(?:[\u2e80-\uffef]|[^\s（“\u2e80-\uffef]+)[，。、；：？！）”…]*\s*"
"""A word of another script or one Chinese character, with the punctuation that must not be parted from it.

Compiled when first used, which takes 8 ms."""

_language: Language = "en"


def chosen(words: list[str]) -> Language:
    """The language asked for by ``--lang``, which is taken out of the words, by CLIPCLS_LANG or by the locale.

    Raises:
        UsageError: it is neither zh nor en.
    """
    asked = None
    at = 0
    while at < len(words) and words[at] != "--":
        flag, equals, value = words[at].partition("=")
        if flag != "--lang":
            at += 1
            continue
        length = 1 if equals else 2
        asked = _known(value if equals else "".join(words[at + 1 : at + 2]))
        del words[at : at + length]
    if asked:
        return asked
    wanted = os.environ.get("CLIPCLS_LANG")
    return _known(wanted, " in CLIPCLS_LANG") if wanted else _by_locale()


def speak(language: Language) -> None:
    """Tell everything in this language from now on."""
    global _language
    _language = language


def told(text: str) -> str:
    """A message in the person's language; as it is where nobody has translated it."""
    return text if _language == "en" else _in_chinese(text)


class Translated:
    """Mixed into a Typer command: its help page in the person's language."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the page."""
        command: Any = self
        command.help = command.help and "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
        if _language == "en":
            super().format_help(ctx, formatter)  # type: ignore[misc]
            return
        from typer import rich_utils

        for each in (command, *getattr(command, "commands", {}).values(), *command.get_params(ctx)):
            each.help = each.help and "\n\n".join(told(" ".join(part.split())) for part in each.help.split("\n\n"))
            if getattr(each, "rich_help_panel", None):
                each.rich_help_panel = told(each.rich_help_panel)
        titles = {name: word for name, word in vars(rich_utils).items() if name.endswith(("_TITLE", "_STRING"))}
        vars(rich_utils).update({name: told(word) for name, word in titles.items()})
        try:
            with chinese_lines():
                super().format_help(ctx, formatter)  # type: ignore[misc]
        finally:
            vars(rich_utils).update(titles)

    def get_usage(self, ctx: Any) -> str:
        """The line that shows how the command is called."""
        usage = str(super().get_usage(ctx))  # type: ignore[misc]
        return usage.replace("Usage: ", told("Usage: "), 1)


@contextmanager
def chinese_lines() -> Iterator[None]:
    """Let rich break lines where Chinese may be broken."""
    import rich.text

    divide_line = vars(rich.text)["divide_line"]
    vars(rich.text)["divide_line"] = line_ends
    try:
        yield
    finally:
        vars(rich.text)["divide_line"] = divide_line


def line_ends(text: str, width: int, fold: bool = True) -> list[int]:
    """Where to break a text into lines of a width, which rich does at spaces alone, and Chinese has few."""
    from rich.cells import cell_len, chop_cells

    ends, used = [], 0
    for unit in re.finditer(_UNBROKEN, text):
        at = unit.start()
        for piece in chop_cells(unit[0], width):
            size = cell_len(piece)
            if used and used + size > width and not piece.isspace():
                ends.append(at)
                used = 0
            used += size
            at += len(piece)
    return ends


def _known(language: str, place: str = "") -> Language:
    if language in get_args(Language):
        return cast(Language, language)
    raise UsageError(f"unknown language {language!r}{place}: use zh or en")


def _by_locale() -> Language:
    """The language of the locale, as gettext finds it."""
    names = filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG")))
    name = next(names, "") or locale.getlocale()[0] or ""
    several = os.environ.get("LANGUAGE", "").split(":") if name.partition(".")[0] not in ("", "C", "POSIX") else []
    for each in (*several, name):
        if each.lower().startswith(("zh", "chinese")):  # Windows says Chinese (Simplified)_China
            return "zh"
        if each.lower().startswith("en"):
            break
    return "en"


def _in_chinese(text: str) -> str:
    if (said := _whole(text, across=False)) is not None:
        return said
    clauses = text.split("; ")
    several = [_in_chinese(each) for each in clauses] if len(clauses) > 1 else clauses
    if not all(map(str.__ne__, several, clauses)):
        found = _after_place(text, across=False) or _whole(text, across=True) or _after_place(text, across=True)
        if found:
            return found
    return "；".join(several) if several != clauses else text


def _after_place(text: str, *, across: bool) -> str | None:
    """A message after a colon: what stands before it may be a place that nobody translates, such as a file."""
    for colon in itertools.islice(re.finditer(": ", text), 3):
        if (said := _whole(text[colon.end() :], across=across)) is not None:
            return f"{text[: colon.start()]}：{said}"
    return None


def _whole(text: str, *, across: bool) -> str | None:
    """A message that the catalogue has as it is; ``across``: even if a gap takes in what may be further messages."""
    known, entries = _catalogue()
    if text in known:
        return known[text]
    return next(filter(None, (entry.said(text, across=across) for entry in entries)), None)


class _Entry:
    """A message with gaps, and its translation."""

    def __init__(self, key: str, translation: str) -> None:
        self._translation = translation
        self._literals, self._gaps = parts(key)
        self._pattern: re.Pattern[str] | None = None
        # Where several fit, the one that begins like the text is meant, and of those the one that says most.
        self.rank = len(self._literals[0]), sum(map(len, self._literals))

    def said(self, text: str, *, across: bool) -> str | None:
        """A text in Chinese; None if it is another message."""
        if not text.startswith(self._literals[0]) or not all(literal in text for literal in self._literals):
            return None
        if self._pattern is None:
            gaps = ("(.*?)" if gap == "" else f"(?:{gap})?" for gap in self._gaps)
            self._pattern = re.compile("".join(_woven(map(re.escape, self._literals), gaps)), re.DOTALL)
        match = self._pattern.fullmatch(text)
        if match is None:
            return None
        literals, holes = parts(self._translation)
        order = iter(match.groups())
        filled = []
        for hole in holes:
            number = hole.rstrip("*")
            value = match[int(number) + 1] if number else next(order)
            if "; " in value and not hole.endswith("*") and not across:
                return None
            filled.append(_in_chinese(value) if hole.endswith("*") else value)
        return "".join(_woven(literals, filled))


def parts(text: str) -> tuple[list[str], list[str]]:
    """The literal text around the gaps of a key or a translation, and what stands in their braces."""
    literals, holes = [""], []
    at = 0
    for hole in _HOLE.finditer(text):
        literals[-1] += text[at : hole.start()]
        at = hole.end()
        if hole[1] is None:
            literals[-1] += hole[0][0]
        else:
            literals.append("")
            holes.append(hole[1])
    literals[-1] += text[at:]
    return literals, holes


def _woven(literals: Any, between: Any) -> Iterator[str]:
    """Literals with something between each two."""
    between = iter(between)
    for literal in literals:
        yield literal
        yield next(between, "")


@cache
def _catalogue() -> tuple[dict[str, str], Sequence[_Entry]]:
    """The messages without gaps, and those with, the likeliest first."""
    import tomllib

    known, entries = {}, []
    for key, translation in tomllib.loads(CATALOGUE.read_text(encoding="utf-8")).items():
        literals, gaps = parts(key)
        if gaps:
            entries.append(_Entry(key, translation))
        else:
            known[literals[0]] = "".join(parts(translation)[0])
    return known, sorted(entries, key=lambda entry: entry.rank, reverse=True)
