"""Label sets on disk: text, CSV, TOML, JSON and YAML files, and the named sets that come with clipcls.

In a text file each line is a label, ``|`` between its synonyms. A CSV, with commas, semicolons or tabs,
has a header with ``name`` and any of the other fields of a label, or a single column that holds what a line of a text
file does. The others hold a list ``labels``, or are one, of strings as in a text file or of tables with a label's
fields.
"""

from __future__ import annotations

import csv
import io
import logging
import os.path
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clipcls.errors import UsageError
from clipcls.labels import SYNONYM, Label, parse_label, split_labels
from clipcls.library import SUFFIXES, find_set, set_names
from clipcls.textfile import FileFault, delimiter_of, parse_structured, read_text

logger = logging.getLogger("clipcls")

FIELDS = tuple(field.name for field in fields(Label))
_LISTS = ("synonyms", "templates")
_HEADS = ("label", "labels", "class", "标签", "类别")
"""What others call a column of names."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a file, and what it says of itself."""

    name: str
    labels: tuple[Label, ...]
    language: str = ""
    description: str = ""
    source: str = ""


def load_labels(wanted: str) -> LabelSet:
    """The label set of that name, or of a file.

    Raises:
        UsageError: there is none, or the file cannot be read or is not valid.
    """
    named = find_set("labels", wanted)
    path = named.path if named else Path(wanted)
    if not named and path.suffix.lower() not in SUFFIXES["labels"] and not os.path.exists(wanted):
        raise UsageError(
            f"no label set and no file named {wanted!r}: use one of {', '.join(set_names('labels'))}, or a file of "
            f"labels ({', '.join(SUFFIXES['labels'])})"
        )
    found = read_labels(path)
    if not any(label.name for label in found.labels):
        raise UsageError(f"{path}: no labels in it; write at least one, a line each")
    return found


def read_labels(path: Path) -> LabelSet:
    """The label set in a file; see the module for its forms.

    Raises:
        UsageError: the file cannot be read or is not valid.
    """
    text = read_text(path, "labels")
    match path.suffix.lower():
        case ".csv":
            return LabelSet(path.stem, tuple(_from_csv(text, path)))
        case ".toml" | ".json" | ".yaml" | ".yml":
            return _from_data(parse_structured(text, path), path)
        case _:
            return LabelSet(path.stem, tuple(_from_lines(text, path)))


def _from_lines(text: str, path: Path) -> Iterator[Label]:
    lines = [line.strip() for line in text.splitlines()]
    labels = [line for line in lines if line and not line.startswith("#")]
    if len(labels) == 1 and len(split_labels(labels[0])) > 1:
        logger.warning("%s holds one label, %s: each label needs a line of its own", path, repr(labels[0][:40]))
    return map(parse_label, labels)


def _from_csv(text: str, path: Path) -> Iterator[Label]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter_of(text))
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in row]
                if "name" in header:
                    continue
                if header[0] in _HEADS and not any(header[1:]):
                    logger.warning("%s: %s is taken for a label; a column of labels is called name", path, row[0])
            if "name" in header:
                if any(cell.strip() for cell in row[len(header) :]):
                    reason = "more fields than the header names: quote a field that holds a comma"
                    raise FileFault(path, reason, reader.line_num)
                yield _from_row(dict(zip(header, row, strict=False)), path, reader.line_num)
            elif any(cell.strip() for cell in row[1:]):
                raise FileFault(path, f"several columns, and no header with name and any of {', '.join(FIELDS[1:])}", 1)
            else:
                yield parse_label(row[0])
    except csv.Error as exc:
        raise FileFault(path, f"not valid CSV: {exc}", max(reader.line_num, 1)) from exc


def _from_row(row: Mapping[str, str], path: Path, line: int) -> Label:
    cells: dict[str, Any] = {key: row[key].strip() for key in row if key and row[key].strip()}
    for key in _LISTS:
        if key in cells:
            cells[key] = [part.strip() for part in cells[key].split(SYNONYM)]
    return _from_fields(cells, path, line)


def _from_data(data: Any, path: Path) -> LabelSet:
    about = {}
    if isinstance(data, dict):
        about = {key: data[key] for key in ("name", "language", "description", "source") if key in data}
        for key, value in about.items():
            if not isinstance(value, str):
                raise FileFault(path, f"{key} must be a string")
        data = data.get("labels")
    if not isinstance(data, list):
        raise FileFault(path, "it needs a list of labels, such as labels = [...]")
    return LabelSet(about.pop("name", path.stem), tuple(_from_item(item, path) for item in data), **about)


def _from_item(item: Any, path: Path) -> Label:
    if isinstance(item, str):
        return parse_label(item)
    if isinstance(item, dict):
        return _from_fields(item, path)
    raise FileFault(path, f"a label is a string, or a table with a name, and not of type {type(item).__name__}")


def _from_fields(given: Mapping[Any, Any], path: Path, line: int | None = None) -> Label:
    values = dict(given)
    name = values.get("name")
    if not isinstance(name, str) or not name.strip():
        raise FileFault(path, "a label has no name, or one that is no string", line)
    about = f"the label {name[:40]!r}: "
    for key, value in given.items():
        if key not in FIELDS:
            shown = repr(key[:40]) if isinstance(key, str) else f"of type {type(key).__name__}"
            raise FileFault(path, f"{about}unknown field {shown}; known are {', '.join(FIELDS)}", line)
        if key in _LISTS:
            parts = [value] if isinstance(value, str) else value
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                raise FileFault(path, f"{about}{key} must be a list of strings", line)
            values[key] = tuple(part for part in parts if part.strip())
        elif key == "id" and type(value) is int and value.bit_length() <= 64:
            values[key] = str(value)
        elif not isinstance(value, str):
            raise FileFault(path, f"{about}{key} must be a string", line)
    first = parse_label(name)
    values |= {"name": first.name, "synonyms": first.synonyms + values.get("synonyms", ())}
    return Label(**values)
