"""What a folder's ``metadata.csv`` and ``metadata.jsonl`` say of its images, as in Hugging Face's image folders."""

from __future__ import annotations

import csv
import io
import json
import logging
import posixpath
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TextIO

from clipcls.sources.opening import open_file

NAMES = ("metadata.csv", "metadata.jsonl")
_FILE = ("file_name", "image_file_name")
"""The column that names an image by its path below the metadata's folder."""

_log = logging.getLogger("clipcls")

Row = Mapping[str, Any]


class Notes:
    """What the metadata in some folders say, by an image's path below the folder where they all lie."""

    def __init__(self) -> None:
        self._by_folder: dict[str, dict[str, Row]] = {}

    def add(self, folder: str, place: str, names: Collection[str]) -> None:
        """Read a folder's metadata, if it has any; such as cannot be understood are told of and left out.

        Args:
            folder: its path below the one where all lie, with ``/``.
            place: its path, or its address.
            names: of the files in it.
        """
        for name in NAMES:
            if name in names:
                self._read(folder, f"{place.rstrip('/')}/{name}")

    def of(self, relative: str) -> Row:
        """What is said of an image by the nearest metadata above it."""
        if not self._by_folder:
            return {}
        folder = relative
        while folder:
            folder = posixpath.dirname(folder)
            if found := self._by_folder.get(folder):
                return found.get(relative[len(folder) :].lstrip("/"), {})
        return {}

    def _read(self, folder: str, path: str) -> None:
        try:
            with open_file(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
                rows = _csv_rows(text) if path.endswith(".csv") else _json_rows(text)
                found = dict(filter(None, map(_split, rows)))
        except (OSError, ValueError, csv.Error) as exc:
            _log.warning("%s: what it says of the images is left out: %s", path, getattr(exc, "strerror", None) or exc)
            return
        self._by_folder.setdefault(folder, {}).update(found)


def _csv_rows(text: TextIO) -> Iterator[dict[str, Any]]:
    for row in csv.DictReader(text, strict=True):
        yield {name: value for name, value in row.items() if name is not None}


def _json_rows(text: TextIO) -> Iterator[dict[str, Any]]:
    for line in text:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line that is no JSON object")
            yield row


def _split(row: dict[str, Any]) -> tuple[str, Row] | None:
    """An image's path, and what else its row says; None for a row that names none."""
    name = next((row.pop(column) for column in _FILE if isinstance(row.get(column), str)), "")
    return (posixpath.normpath(name), row) if name else None
