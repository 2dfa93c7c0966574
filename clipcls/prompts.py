"""Prompt templates: find, read, check and expand them.

A template is a sentence with a place for the label. Several of them make a prompt ensemble (Radford et al. 2021,
"Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4): the label is written into
each, and the normalised mean of their embeddings stands for it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipcls.errors import UsageError
from clipcls.labels import Label, is_chinese
from clipcls.textfile import read_text

PLACEHOLDERS = ("{}", "{label}", "{类别}", "<类别>", "<label>", "{c}")
"""Where the label goes; all mean the same."""

_PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS)))


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Templates that are used together as an ensemble."""

    name: str
    templates: tuple[str, ...]
    language: str = ""
    description: str = ""
    source: str = ""


def expand(template: str, label: str) -> str:
    """The template with the label in place of every placeholder; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda _: label, template)


def load_prompts(wanted: str | Sequence[str]) -> PromptSet:
    """The prompt set that one or more of a shipped set's name, a file and a template stand for: their union.

    Raises:
        UsageError: there is no such set, the file cannot be read, or a template has no place for the label.
    """
    sets = [_load_one(item) for item in ([wanted] if isinstance(wanted, str) else wanted)]
    if len(sets) == 1:
        return sets[0]
    templates = dict.fromkeys(template for prompt_set in sets for template in prompt_set.templates)
    return PromptSet("+".join(prompt_set.name for prompt_set in sets), tuple(templates))


def shipped_folder() -> Path:
    """The folder of the prompt sets that come with clipcls: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    in_wheel = package / "_prompts"
    return in_wheel if in_wheel.is_dir() else package.parent / "prompts"


def shipped_names() -> list[str]:
    """The names of the prompt sets that come with clipcls."""
    return sorted(path.stem for path in shipped_folder().glob("*.toml"))


def templates_for(labels: Sequence[Label], prompts: PromptSet | None) -> list[tuple[str, ...]]:
    """Each label's templates: the given set's, or, without one, those of the label's own script."""
    if prompts is not None:
        return [prompts.templates] * len(labels)
    names = ["zh" if is_chinese(label.name) else "en" for label in labels]
    sets = {name: load_prompts(name) for name in set(names)}
    return [sets[name].templates for name in names]


def _load_one(wanted: str) -> PromptSet:
    if _PLACEHOLDER.search(wanted):
        return PromptSet(wanted, (wanted,))
    shipped = shipped_folder() / f"{wanted}.toml"
    if re.fullmatch(r"[\w-]+", wanted) and shipped.is_file():
        return read_prompts(shipped)
    path = Path(wanted)
    if path.suffix in (".toml", ".txt") or path.exists():
        return read_prompts(path)
    raise UsageError(
        f"no prompt set named {wanted!r}: use one of {', '.join(shipped_names())}, a .toml or .txt file, "
        f"or a template with a place for the label, such as '这是一张有关{{类别}}的照片' or 'a photo of a {{label}}'"
    )


def read_prompts(path: Path) -> PromptSet:
    """A prompt set from a ``.toml`` file, or from a text file with one template a line (``#`` lines do not count).

    Raises:
        UsageError: the file cannot be read, is not valid, or a template has no place for the label.
    """
    text = read_text(path, "prompt templates")
    if path.suffix == ".toml":
        prompt_set = _parse_toml(text, path)
    else:
        lines = (line.strip() for line in text.splitlines())
        prompt_set = PromptSet(path.stem, tuple(line for line in lines if line and not line.startswith("#")))
    if not prompt_set.templates:
        raise UsageError(f"{path}: no templates in it")
    for template in prompt_set.templates:
        if not _PLACEHOLDER.search(template):
            raise UsageError(
                f"{path}: the template {template!r} has no place for the label; write {{label}} or {{类别}} in it"
            )
    return prompt_set


def _parse_toml(text: str, path: Path) -> PromptSet:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{path}: not valid TOML: {exc}") from exc
    templates = table.get("templates")
    if not isinstance(templates, list) or not all(isinstance(template, str) for template in templates):
        raise UsageError(f'{path}: it needs a list of strings, templates = ["...", "..."]')
    about = {key: table.get(key, "") for key in ("name", "language", "description", "source")}
    for key, value in about.items():
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} must be a string")
    return PromptSet(
        name=about["name"] or path.stem,
        templates=tuple(dict.fromkeys(templates)),
        language=about["language"],
        description=about["description"],
        source=about["source"],
    )
