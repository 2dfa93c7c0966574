"""Label sets on disk: text, CSV, TOML, JSON and YAML files, and the named sets that come with clipcls.

In a text file each line is a label, ``|`` between its synonyms. A CSV has a header with ``name`` and any of the other
fields of a label, or its first column holds the names. The others hold a list ``labels``, or are one, of strings as
in a text file or of tables with a label's fields.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clipcls.errors import UsageError
from clipcls.labels import SYNONYM, Label, parse_label
from clipcls.library import SUFFIXES, find_set, set_names
from clipcls.textfile import FileFault, parse_structured, read_text

FIELDS = tuple(field.name for field in fields(Label))
_LISTS = ("synonyms", "templates")


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a file, and what it says of itself."""

    name: str
    labels: tuple[Label, ...]
    language: str = ""
    description: str = ""
    source: str = ""


def load_labels(wanted: str) -> LabelSet:
    """The label set of a file, or of that name.

    Raises:
        UsageError: there is none, or the file cannot be read or is not valid.
    """
    path = Path(wanted)
    if not path.exists() and (found := find_set("labels", wanted)):
        path = found.path
    elif not path.exists() and path.suffix.lower() not in SUFFIXES["labels"]:
        raise UsageError(
            f"no label set and no file named {wanted!r}: use one of {', '.join(set_names('labels'))}, or a file of "
            f"labels ({', '.join(SUFFIXES['labels'])})"
        )
    return read_labels(path)


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
            lines = text.splitlines()
            return LabelSet(path.stem, tuple(parse_label(line) for line in lines if not line.lstrip().startswith("#")))


def _from_csv(text: str, path: Path) -> list[Label]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if any(cell.strip() for cell in row)]
    except csv.Error as exc:
        raise FileFault(path, f"not valid CSV: {exc}") from exc
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "name" not in header:
        return [parse_label(row[0]) for row in rows]
    labels = []
    for row in rows[1:]:
        cells = {key: cell.strip() for key, cell in zip(header, row, strict=False) if key in FIELDS and cell.strip()}
        lists = {key: [part.strip() for part in cells[key].split(SYNONYM)] for key in _LISTS if key in cells}
        labels.append(_from_fields(cells | lists, path))
    return labels


def _from_data(data: Any, path: Path) -> LabelSet:
    about = {}
    if isinstance(data, dict):
        about = {key: str(data[key]) for key in ("name", "language", "description", "source") if key in data}
        data = data.get("labels")
    if not isinstance(data, list):
        raise FileFault(path, "it needs a list of labels, such as labels = [...]")
    return LabelSet(about.pop("name", path.stem), tuple(_from_item(item, path) for item in data), **about)


def _from_item(item: Any, path: Path) -> Label:
    if isinstance(item, str):
        return parse_label(item)
    if isinstance(item, dict):
        return _from_fields(item, path)
    raise FileFault(path, f"a label is a string, or a table with a name: {item!r} is neither")


def _from_fields(given: Mapping[str, Any], path: Path) -> Label:
    values = dict(given)
    if not isinstance(values.get("name"), str):
        raise FileFault(path, f"a label has no name: {str(values)[:60]}")
    for key, value in values.items():
        if key not in FIELDS:
            raise FileFault(path, f"the label {values['name']!r}: unknown field {key!r}; known are {', '.join(FIELDS)}")
        if key in _LISTS:
            parts = [value] if isinstance(value, str) else value
            if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
                raise FileFault(path, f"the label {values['name']!r}: {key} must be a list of strings")
            values[key] = tuple(part for part in parts if part.strip())
        elif key == "id" and isinstance(value, int):
            values[key] = str(value)
        elif not isinstance(value, str):
            raise FileFault(path, f"the label {values['name']!r}: {key} must be a string")
    return Label(**values)
