"""Faults of prompt templates, each with its place in the file."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipcls.errors import UsageError
from clipcls.labels import is_chinese
from clipcls.promptfiles import KEYS, parse_prompts
from clipcls.prompts import PLACEHOLDERS, PromptSet, expand, placeholders
from clipcls.records import TokenCount
from clipcls.textfile import FileFault, parse_structured, read_text

Severity = Literal["error", "warning"]
CountTokens = Callable[[Sequence[str]], Sequence[TokenCount]]

EXAMPLES = {"zh": "大象", "en": "elephant"}
"""Labels that stand in where none was given, by language."""

_FULL_WIDTH = re.compile("[｛｝]")
_STRAY = re.compile(r"[{<]\s*\w*\s*[}>]")
_LITERAL = {
    ".toml": re.compile(r'#[^\n]*|"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL),
    ".json": re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL),
}
_DECODE: dict[str, Callable[[str], Any]] = {
    ".toml": lambda literal: tomllib.loads(f"x = {literal}")["x"],
    ".json": json.loads,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, or looks wrong, with a file of templates; lines and columns count from 1."""

    path: Path
    line: int
    column: int
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.severity}: {self.message}"


@dataclass(frozen=True, slots=True)
class _Placed:
    """A template and where it stands."""

    text: str
    start: int
    """Offset of its first character in the file."""
    label: str | None = None
    """The one label that it is for."""


def check_prompts(
    path: Path, part: str | None = None, labels: Sequence[str] = (), count_tokens: CountTokens | None = None
) -> list[Fault]:
    """Every fault of a file of templates, in the order of its lines; none is raised.

    Args:
        path: the file.
        part: the data set meant in a JSON file with several.
        labels: names that the templates are meant for.
        count_tokens: tells how much of a text tower's context each prompt takes; None leaves lengths unchecked.
    """
    try:
        text = read_text(path, "prompt templates")
        prompt_set = parse_prompts(text, path, part)
    except FileFault as exc:
        return [Fault(path, exc.line, exc.column, "error", exc.reason)]
    except UsageError as exc:
        return [Fault(path, 1, 1, "error", str(exc))]
    placed = list(_place(text, path, prompt_set))
    found = [*_unknown_keys(text, path), *_faults_alone(placed, prompt_set), *_faults_together(placed)]
    found += _overlaps(placed, [*labels, *prompt_set.labels])
    if count_tokens:
        found += _too_long(placed, labels, count_tokens)
    return sorted((Fault(path, *_line(text, at), severity, message) for at, severity, message in found), key=_order)


_Found = tuple[int, Severity, str]


def _faults_alone(placed: Sequence[_Placed], prompt_set: PromptSet) -> Iterator[_Found]:
    """What is wrong with each template by itself."""
    for template in placed:
        text, start = template.text, template.start
        kinds = list(dict.fromkeys(match[0] for match in placeholders(text)))
        if not text.strip():
            yield start, "error", "an empty template"
            continue
        for brace in _FULL_WIDTH.finditer(text):
            yield start + brace.start(), "error", f"a full-width brace {brace[0]}: write {{类别}} with plain braces"
        if not kinds and template.label is None:
            yield start, "error", f"no place for the label: write {{label}} or {{类别}} into {text[:40]!r}"
        if len(kinds) > 1:
            second = text.index(kinds[1])
            yield start + second, "warning", f"two kinds of placeholder, {kinds[0]} and {kinds[1]}: use one"
        for match in _STRAY.finditer(text):
            if match[0] not in PLACEHOLDERS:
                known = "use {label} or {类别}"
                yield start + match.start(), "warning", f"{match[0]} is no placeholder and stays as it is: {known}"
        if wrong := _wrong_language(expand(text, ""), prompt_set.language):
            yield start, "warning", wrong


def _wrong_language(words: str, declared: str) -> str:
    letters = any(char.isalpha() for char in words)
    if declared.startswith("zh") and letters and not is_chinese(words):
        return "the set is declared as Chinese, and this template is not"
    if declared.startswith("en") and letters and not words.isascii() and is_chinese(words):
        return "the set is declared as English, and this template is Chinese"
    return ""


def _faults_together(placed: Sequence[_Placed]) -> Iterator[_Found]:
    """Templates that are the same but for case, spaces, full-width forms or the kind of placeholder."""
    seen: set[tuple[str | None, str]] = set()
    for template in placed:
        key = template.label, " ".join(unicodedata.normalize("NFKC", expand(template.text, "{}")).casefold().split())
        if key in seen and key[1]:
            yield template.start, "warning", f"the same template again: {template.text[:40]!r}"
        seen.add(key)


def _overlaps(placed: Sequence[_Placed], labels: Sequence[str]) -> Iterator[_Found]:
    """Templates that name a label: they pull every other label towards it."""
    for template in placed:
        if template.label is not None:
            continue
        words = expand(template.text, "\n")
        for label in labels:
            pattern = re.escape(label) if is_chinese(label) else rf"\b{re.escape(label)}\b"
            if match := re.search(pattern, words, re.IGNORECASE):
                yield template.start, "warning", f"its word {match[0]!r} is a label: other labels will look like it"


def _too_long(placed: Sequence[_Placed], labels: Sequence[str], count_tokens: CountTokens) -> Iterator[_Found]:
    longest = max(labels, key=len) if labels else None
    filled = []
    for template in placed:
        language = "zh" if is_chinese(template.text) else "en"
        filled.append(expand(template.text, template.label or longest or EXAMPLES[language]))
    for template, prompt, count in zip(placed, filled, count_tokens(filled), strict=True):
        if count.cut:
            yield (
                template.start,
                "warning",
                f"longer than the model's {count.tokens} tokens, its end is not read: {prompt[-20:]!r}",
            )


def _unknown_keys(text: str, path: Path) -> Iterator[_Found]:
    if path.suffix.lower() == ".toml":
        for key in parse_structured(text, path):
            if key not in KEYS:
                at = re.search(rf"^[\s\[\"']*{re.escape(key)}\b", text, re.MULTILINE)
                yield at.start() if at else 0, "warning", f"unknown key {key!r}; known are {', '.join(KEYS)}"


def _place(text: str, path: Path, prompt_set: PromptSet) -> Iterator[_Placed]:
    """Every template as it is written, duplicates too, with its place."""
    suffix = path.suffix.lower()
    if suffix not in _LITERAL:
        start = 0
        for line in text.splitlines(keepends=True):
            if line.strip() and not line.lstrip().startswith("#"):
                yield _Placed(line.strip(), start + len(line) - len(line.lstrip()))
            start += len(line)
        return
    # Neither parser tells places; but each string is a literal of the file, and those come in the same order.
    shared = set(prompt_set.templates)
    own = {template: name for name, templates in prompt_set.labels.items() for template in templates}
    for match in _LITERAL[suffix].finditer(text):
        if match[0].startswith("#") or _is_key(text, match):
            continue
        value = _DECODE[suffix](match[0])
        if value in shared or value in own:
            inner = match.start() + (3 if match[0][:3] in ('"""', "'''") else 1)
            yield _Placed(value, inner, None if value in shared else own[value])


def _is_key(text: str, match: re.Match[str]) -> bool:
    """Whether a literal is a key, in ``key = ``, ``[table.key]`` or ``key:``, or a value such as the name."""
    before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()].rstrip()
    after = text[match.end() :].lstrip(" \t")
    is_value = before.endswith("=") and not before.replace(" ", "").startswith("templates=")
    return after[:1] in ("=", ":", ".") or before.lstrip().startswith("[labels") or is_value


def _line(text: str, at: int) -> tuple[int, int]:
    line = text.count("\n", 0, at) + 1
    return line, at - text.rfind("\n", 0, at)


def _order(fault: Fault) -> tuple[int, int]:
    return fault.line, fault.column
