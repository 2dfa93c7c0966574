"""Prompt sets on disk: finding, reading and writing them.

A set is a TOML file like those that come with clipcls, a text file with one template a line, or JSON as LAION's
CLIP_benchmark uses it: data set to templates, label to prompts, or data set to label to prompts. Of a JSON file with
several data sets one is meant by ``FILE.json#DATASET``.
"""

from __future__ import annotations

import logging
import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from clipcls.errors import UsageError
from clipcls.labels import composed, is_chinese
from clipcls.library import SUFFIXES, find_set, set_names
from clipcls.prompts import PromptSet, placeholders, union
from clipcls.textfile import FileFault, parse_structured, read_text, refuse_existing, write_new_text

logger = logging.getLogger("clipcls")

KEYS = ("name", "language", "description", "source", "templates", "labels")
"""What a TOML file of a set may hold."""
_NO_COMMENT = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
"""Besides line breaks, what a comment of a TOML file must not hold."""
_HALF = re.compile("[\ud800-\udfff]")

_HEADER = """\
A prompt set for clipcls · clipcls 的提示词集
Each template is a sentence; the label goes where {label} or {类别} stands.
每个模板是一个句子，标签写在 {类别} 或 {label} 的位置。
Write as you would describe your own pictures: photographs, drawings, aerial views, what they show and how.
像描述自己的图片那样写：照片、绘画、航拍，拍的是什么、怎么拍的。
clipcls prompts check FILE finds faults; clipcls prompts compare DIR --prompts A --prompts B tells which set is better.
"""
_FOOTER = """
# Templates for one label alone, in place of those above; they need no {label}.
# 只用于某一个标签的模板，代替上面的模板，不必写 {类别}：
# [labels."大象"]
# templates = ["一张大象的照片，长鼻子，大耳朵，灰色的皮"]
"""


def load_prompts(wanted: str | Sequence[str]) -> PromptSet:
    """The prompt set that one or more of a set's name, a file and a template stand for: their union.

    Raises:
        UsageError: there is no such set, the file cannot be read, or a template has no place for the label.
    """
    return union([_load_one(item) for item in ([wanted] if isinstance(wanted, str) else wanted)])


Choice = Callable[[str], PromptSet]
"""Which set a label's name is written into."""


def chosen(wanted: str | Sequence[str] | PromptSet | Choice | None, *, zh: str = "zh", other: str = "en") -> Choice:
    """Which set a label's name is written into: what is wanted, or by the name's script one of two.

    Raises:
        UsageError: see ``load_prompts``.
    """
    if callable(wanted):
        return wanted
    if wanted:
        prompt_set = wanted if isinstance(wanted, PromptSet) else load_prompts(wanted)
        return lambda name: prompt_set
    by_script = {"zh": load_prompts(zh), "en": load_prompts(other)}
    return lambda name: by_script["zh" if is_chinese(name) else "en"]


def find_prompts(wanted: str) -> tuple[Path, str | None]:
    """The file of a set, by its name or its path, and the data set meant in it.

    Raises:
        UsageError: there is no set of that name.
    """
    file, _, part = wanted.rpartition("#")
    meant = ((wanted, None), (file, part or None))
    for name, data_set in meant:
        if found := find_set("prompts", name):
            return found.path, data_set
        if os.path.exists(name):
            return Path(name), data_set
    for name, data_set in reversed(meant):
        if Path(name).suffix.lower() in SUFFIXES["prompts"]:
            return Path(name), data_set
    if any(char in wanted for char in "{}<>｛｝ "):
        raise UsageError(f"{wanted[:60]!r} has no place for the label: write {{label}} or {{类别}} into it")
    raise UsageError(
        f"no prompt set named {wanted[:60]!r}: use one of {', '.join(set_names('prompts'))}, a .toml, .txt or .json "
        "file, or a template with a place for the label, such as '这是一张有关{类别}的照片' or "
        "'a photo of a {label}'"
    )


def read_prompts(path: Path, part: str | None = None) -> PromptSet:
    """A prompt set from a ``.toml``, ``.json`` or text file, where lines that begin with ``#`` do not count.

    Raises:
        UsageError: the file cannot be read, is not valid, or a template has no place for the label.
    """
    prompt_set = parse_prompts(read_text(path, "prompt templates"), path, part)
    for template in prompt_set.templates:
        if not placeholders(template):
            raise FileFault(
                path, f"the template {template[:60]!r} has no place for the label; write {{label}} or {{类别}} in it"
            )
    for template in chain(prompt_set.templates, *prompt_set.labels.values()):
        if wrong := unusable(template):
            raise FileFault(path, f"{wrong} ({template[:60]!r})")
    return prompt_set


def unusable(template: str) -> str:
    """Why no model can read a template, in words; empty if one can."""
    if not template.strip():
        return "an empty template; delete it or write one"
    return "a template that is not valid text; write it in UTF-8" if _HALF.search(template) else ""


def parse_prompts(text: str, path: Path, part: str | None = None) -> PromptSet:
    """The set in a file's text, whose templates may still have faults.

    Raises:
        UsageError: it is not valid, or has no templates.
    """
    match path.suffix.lower():
        case ".toml":
            prompt_set = _from_table(parse_structured(text, path), path)
        case ".json":
            prompt_set = _from_json(parse_structured(text, path), path, part)
        case _:
            lines = map(str.strip, text.split("\n"))
            prompt_set = PromptSet(path.stem, _unique(line for line in lines if line and not line.startswith("#")))
    if part and path.suffix.lower() != ".json":
        raise FileFault(path, f"only a .json file holds several data sets; leave out {'#' + part!r}")
    if not prompt_set.templates and not prompt_set.labels:
        raise FileFault(path, "no templates in it")
    return prompt_set


def format_prompts(prompt_set: PromptSet, comment: str = "") -> str:
    """A set as the text of a TOML file that reads back equal, under a comment."""
    import tomli_w

    table = {key: getattr(prompt_set, key) for key in KEYS if key != "labels"}
    if prompt_set.labels:
        table["labels"] = {name: {"templates": own} for name, own in prompt_set.labels.items()}
    lines = "".join(_NO_COMMENT.sub("�", f"# {line}".rstrip()) + "\n" for line in comment.splitlines())
    return lines + tomli_w.dumps(table, indent=2)


def new_prompts(path: Path, start: str | None = None) -> Path:
    """Write a set to begin with, full of comments; its path, to which a missing suffix is added.

    Args:
        path: a ``.toml`` file that does not exist; its folder is made if need be.
        start: the set whose templates it begins with.

    Raises:
        UsageError: the file exists, is of another kind, or there is no such set to start with.
        OutputError: it cannot be written.
    """
    path = check_new(path)
    first = PromptSet("", ("一张{类别}的照片",), "zh") if start is None else load_prompts(start)
    write_new(path, replace(first, name=path.stem), _HEADER, _FOOTER)
    return path


def check_new(path: Path) -> Path:
    """The path of a set that is to be written, with a missing suffix added.

    Raises:
        UsageError: the file exists or is of another kind.
    """
    if not path.name:
        raise UsageError(f"{path} is a folder; name a file in it, such as {path / 'mine.toml'}")
    if not path.suffix:
        path = path.with_name(f"{path.name}.toml")
    if path.suffix != ".toml":
        raise UsageError(f"{path}: a prompt set is written as .toml; name it {path.with_suffix('.toml')}")
    refuse_existing(path)
    return path


def write_new(path: Path, prompt_set: PromptSet, comment: str, after: str = "") -> None:
    """Write a set to a file that does not exist, between two comments.

    Raises:
        UsageError: it exists.
        OutputError: it cannot be written.
    """
    write_new_text(path, format_prompts(prompt_set, comment) + after)


def _load_one(wanted: str) -> PromptSet:
    if placeholders(wanted):
        if wrong := unusable(wanted):
            raise UsageError(f"{wrong} ({wanted[:60]!r})")
        return PromptSet(wanted, (wanted,))
    path, part = find_prompts(wanted)
    return read_prompts(path, part)


def _from_table(table: Any, path: Path) -> PromptSet:
    about = {key: table.get(key, "") for key in ("name", "language", "description", "source")}
    for key, value in about.items():
        if not isinstance(value, str):
            raise FileFault(path, f"{key} must be a string")
    own = table.get("labels", {})
    if not isinstance(own, dict) or not all(isinstance(label, dict) for label in own.values()):
        raise FileFault(path, 'templates of single labels look like this: [labels."大象"] and below templates = [...]')
    named = {name: _strings(label.get("templates"), path, f"the label {name[:40]!r}: ") for name, label in own.items()}
    templates = _strings(table.get("templates", [] if named else None), path)
    return PromptSet(about.pop("name") or path.stem, templates, **about, labels=_composed(named))


def _from_json(data: Any, path: Path, part: str | None) -> PromptSet:
    if isinstance(data, list):
        return PromptSet(path.stem, _strings(data, path))
    if not isinstance(data, dict):
        raise FileFault(path, "it needs a list of templates, or an object of such lists")
    if isinstance(data.get("templates"), list):
        return _from_table(data, path)
    if part is not None or _is_by_data_set(data):
        part, data = _one_data_set(data, path, part)
        if isinstance(data, list):
            return PromptSet(part or path.stem, _strings(data, path))
    named = {name: _strings(own, path, f"{name[:40]!r}: ") for name, own in data.items()}
    return PromptSet(part or path.stem, (), labels=_composed(named))


def _is_by_data_set(data: Mapping[str, Any]) -> bool:
    """Whether the keys are data sets: then the lists hold templates, or there are labels a level below."""
    if any(isinstance(value, dict) for value in data.values()):
        return True
    listed = [text for value in data.values() if isinstance(value, list) for text in value if isinstance(text, str)]
    return sum(bool(placeholders(text)) for text in listed) * 2 > len(listed)


def _one_data_set(data: Mapping[str, Any], path: Path, part: str | None) -> tuple[str, Any]:
    if part is None and len(data) == 1:
        (part,) = data
    if part is None or part not in data:
        wrong = "it holds several data sets" if part is None else f"it holds no data set {part!r}"
        some = [f"{path}#{name}" for name in data]
        raise FileFault(path, f"{wrong}; name one of {', '.join(some[:6])}{' …' if len(some) > 6 else ''}")
    if not isinstance(data[part], (list, dict)):
        raise FileFault(path, f"{part}: it needs a list of strings or an object of such lists")
    return part, data[part]


def _strings(value: Any, path: Path, whose: str = "") -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FileFault(path, f'{whose}it needs a list of strings, templates = ["...", "..."]')
    return _unique(value)


def _unique(templates: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(templates))


def _composed(named: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {composed(name): own for name, own in named.items() if own}
