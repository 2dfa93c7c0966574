"""Faults of prompt templates, each with its place in the file."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcls.errors import UsageError
from clipcls.labels import composed, is_chinese
from clipcls.promptfiles import KEYS, parse_prompts, unusable
from clipcls.prompts import PLACEHOLDERS, PromptSet, expand, placeholders
from clipcls.records import TokenCount
from clipcls.textfile import FileFault, parse_structured, read_text

Severity = Literal["error", "warning"]
CountTokens = Callable[[Sequence[str]], Sequence[TokenCount]]

EXAMPLES = {"zh": "大象", "en": "elephant"}
"""Labels that stand in where none was given, by language."""

_FULL_WIDTH = re.compile("[｛｝]")
_STRAY = re.compile("[{<] *+\\w*+ *+[}>]")
_LETTER = r"[^\W\u3040-\u9fff]"
"""Of a script with spaces between its words."""

_BASIC, _PLAIN = r'"(?:\\.|[^"\\\n])*+"', r"'[^'\n]*+'"
_LITERAL = {
    ".json": re.compile(_BASIC),
    ".toml": re.compile(
        "|".join(
            (
                r"#[^\n]*+",
                rf"^[ \t]*+\[(?:{_BASIC}|{_PLAIN}|[^]\"'#\n])*+\]",  # a table's header
                r'"""(?:\\.|[^"\\]|"(?!""))*+"{3,5}',
                r"'''(?:[^']|'(?!''))*+'{3,5}",
                _BASIC,
                _PLAIN,
            )
        ),
        re.DOTALL | re.MULTILINE,
    ),
}
"""What can hold quotes in a valid file."""
_KEY_FOLLOWS = re.compile(r"\s*+[.=:]")
_KEY = re.compile(rf"^[ \t]*+(?:\[\[?[ \t]*+)?({_BASIC}|{_PLAIN}|[\w-]++)(?=[ \t]*+[.=\]])", re.MULTILINE)
_CHARACTER = re.compile(
    r"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|\\u\w{4}|\\U\w{8}|\\[ \t]*+\n[ \t\n]*+|\\.|.", re.DOTALL
)
"""One character as a string with escapes has it; a backslash at the end of a line makes none."""


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
    offsets: Sequence[int]
    """Where in the file each of its characters begins, and where it ends."""
    label: str | None = None
    """The one label that it is for."""

    @property
    def start(self) -> int:
        return self.offsets[0]


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
        placed = list(_place(text, path, part))
    except FileFault as exc:
        return [Fault(path, exc.line, exc.column, "error", exc.reason)]
    except UsageError as exc:
        return [Fault(path, 1, 1, "error", str(exc))]
    found = [*_unknown_keys(text, path), *_faults_alone(placed, prompt_set), *_faults_together(placed)]
    found += _overlaps(placed, [*labels, *prompt_set.labels])
    if count_tokens:
        found += _too_long(placed, labels, count_tokens)
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    faults = []
    for at, severity, message in sorted(found, key=lambda fault: fault[0]):
        line = bisect(lines, at)
        faults.append(Fault(path, line, at - lines[line - 1] + 1, severity, message))
    return faults


_Found = tuple[int, Severity, str]


def _faults_alone(placed: Sequence[_Placed], prompt_set: PromptSet) -> Iterator[_Found]:
    """What is wrong with each template by itself."""
    for template in placed:
        text, start, offsets = template.text, template.start, template.offsets
        if wrong := unusable(text):
            yield start, "error", wrong
            continue
        for brace in _FULL_WIDTH.finditer(text):
            yield offsets[brace.start()], "error", f"a full-width brace {brace[0]}: write {{类别}} with plain braces"
        places = placeholders(text)
        if not places and template.label is None:
            yield start, "error", f"no place for the label: write {{label}} or {{类别}} into {text[:40]!r}"
        if second := next((place for place in places if place[0] != places[0][0]), None):
            kinds = f"{places[0][0]} and {second[0]}"
            yield offsets[second.start()], "warning", f"two kinds of placeholder, {kinds}: use one"
        for match in _STRAY.finditer(text):
            if match[0] not in PLACEHOLDERS:
                known = "use {label} or {类别}"
                at = offsets[match.start()]
                yield at, "warning", f"{match[0][:40]} is no placeholder and stays as it is: {known}"
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
    words = [(template.start, composed(expand(template.text, "\n"))) for template in placed if template.label is None]
    for label in filter(None, dict.fromkeys(map(composed, labels))):
        name = re.escape(label)
        pattern = name if is_chinese(label) else f"(?<!{_LETTER}){name}(?!{_LETTER})"
        for start, text in words:
            # Whether it is there at all is told a hundred times sooner than whether it is a word.
            if label.lower() in text.lower() and (match := re.search(pattern, text, re.IGNORECASE)):
                yield start, "warning", f"its word {match[0][:40]!r} is a label: other labels will look like it"


def _too_long(placed: Sequence[_Placed], labels: Sequence[str], count_tokens: CountTokens) -> Iterator[_Found]:
    longest = max(labels, key=len) if labels else None
    readable = [template for template in placed if not unusable(template.text)]
    prompts = []
    for template in readable:
        language = "zh" if is_chinese(expand(template.text, "")) else "en"
        prompts.append(expand(template.text, template.label or longest or EXAMPLES[language]))
    for template, prompt, count in zip(readable, prompts, count_tokens(prompts), strict=True):
        if count.cut:
            what = f"longer than the model's {count.tokens} tokens, its end is not read: {prompt[-20:]!r}"
            yield template.start, "warning", what


def _unknown_keys(text: str, path: Path) -> Iterator[_Found]:
    if path.suffix.lower() != ".toml":
        return
    bare = _LITERAL[".toml"].sub(lambda match: " " * len(match[0]) if _is_value(match) else match[0], text)
    places: dict[str, int] = {}
    for match in _KEY.finditer(bare):
        places.setdefault(match[1].strip("\"'"), match.start(1))
    for key in parse_structured(text, path):
        if key not in KEYS:
            yield places.get(key, 0), "warning", f"unknown key {key[:40]!r}; known are {', '.join(KEYS)}"


def _place(text: str, path: Path, part: str | None) -> Iterator[_Placed]:
    """Every template as it is written, duplicates too, with its place.

    Neither parser tells places. So the file is parsed once more with the place of each string written in its stead.

    Raises:
        UsageError: see ``parse_prompts``.
    """
    literals = _LITERAL.get(suffix := path.suffix.lower())
    if literals is None:
        yield from _place_lines(text)
        return
    marks: dict[str, tuple[str, list[int]]] = {}

    def mark(match: re.Match[str]) -> str:
        literal = match[0]
        if not _is_value(match):
            return literal
        value = json.loads(literal) if suffix == ".json" else tomllib.loads(f"x = {literal}")["x"]
        name = f"{match.start()}{'{}' if placeholders(value) else ''}"  # tells data sets from labels in JSON
        marks[name] = value, _offsets(literal, match.start())
        return f'"{name}"'

    marked = parse_prompts(literals.sub(mark, text), path, part)
    for label, names in ((None, marked.templates), *marked.labels.items()):
        yield from (_Placed(*marks[name], label) for name in names)


def _place_lines(text: str) -> Iterator[_Placed]:
    start = 0
    for line in text.split("\n"):
        template = line.strip()
        if template and not template.startswith("#"):
            at = start + len(line) - len(line.lstrip())
            yield _Placed(template, range(at, at + len(template) + 1))
        start += len(line) + 1


def _is_value(match: re.Match[str]) -> bool:
    """Whether it is a string, and no comment, header or key."""
    return match[0][0] in "\"'" and not _KEY_FOLLOWS.match(match.string, match.end())


def _offsets(literal: str, at: int) -> list[int]:
    """Where each character of a string that stands at an offset begins, and where the last one ends."""
    quotes = 3 if literal[:3] in ('"""', "'''") else 1
    start, end = quotes, len(literal) - quotes
    if quotes == 3 and literal[start] == "\n":
        start += 1
    if literal[0] == "'":
        return [at + offset for offset in range(start, end + 1)]
    found = [
        at + match.start() for match in _CHARACTER.finditer(literal, start, end) if match[0].strip(" \t\n") != "\\"
    ]
    return [*found, at + end]
