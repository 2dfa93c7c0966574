"""The two row formats, CSV and JSON Lines: what a record looks like, and how its path is found again."""

from __future__ import annotations

import base64
import csv
import json
import os
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from clipcls.labels import SYNONYM
from clipcls.records import Failure, Prediction, Record, Score
from clipcls.sinks.cells import csv_row, protect_cell, rounded, unprotect_cell, well_formed

Format = Literal["table", "csv", "jsonl", "parquet"]
PartFormat = Literal["csv", "jsonl", "parquet", "clip-retrieval"]
"""What the results of a run that is cut into shards are written as."""
RunFormat = Literal["table", "csv", "jsonl", "parquet", "clip-retrieval"]
"""Either."""

# Python refuses cells over 128 kB, and the answer of ten thousand labels is one cell.
csv.field_size_limit(1 << 30)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a row holds."""

    columns: tuple[str, ...]
    """One name a label, in label order; no two are equal."""
    top_k: int = 1
    """How many labels of an image are listed, best first; at most as many as there are labels."""
    all_scores: bool = False
    """Whether every label's score is listed as well."""
    excel: bool = False
    """Whether a CSV is meant for Excel: with a byte-order mark, and no text cell that Excel would run."""
    unknown_label: str = ""
    """What stands for the answer where no label is sure enough."""
    multi_label: bool = False
    """Whether an image can have several labels as its answer."""
    groups: bool = False
    """Whether the best group is listed."""
    best: bool = False
    """Whether the answer can be another than the best label, which is then listed beside it."""

    @property
    def ranks(self) -> int:
        """How many labels an image can have listed."""
        return min(self.top_k, len(self.columns))

    def answer(self, prediction: Prediction) -> str:
        """The label or labels that are an image's answer."""
        return SYNONYM.join(prediction.labels) or self.unknown_label


class Rows(Protocol):
    """A text format of one row a record."""

    quoted: bool
    """Whether a line break between double quotes belongs to its row."""

    def head(self) -> str:
        """What stands before the first row."""

    def row(self, record: Record) -> str:
        """One row with its line break."""

    def read(self, row: str) -> tuple[str, bool]:
        """The path as ``well_formed`` wrote it, and whether the image could be classified.

        Raises:
            ValueError: ``row`` is not one of this format's rows.
        """


def rows_for(name: str, layout: Layout) -> Rows:
    """The row format of that name.

    Raises:
        ValueError: it has no rows of text that could be read again, as a table has none.
    """
    if name == "csv":
        return CsvRows(layout)
    if name == "jsonl":
        return JsonlRows(layout)
    raise ValueError(f"{name} is not a row format")


class CsvRows:
    """CSV with ``\\n``: a header, then a row an image. Unless it is for Excel, it reads back as it was written."""

    quoted = True

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        names = ["path", "status"]
        for rank in range(1, layout.ranks + 1):
            end = "" if rank == 1 else f"_{rank}"
            names += [f"label{end}", f"probability{end}", f"cosine{end}"]
        if layout.best:
            names.insert(names.index("probability"), "best")
        if layout.groups:
            names += ["group", "group_probability"]
        if layout.all_scores:
            names += [f"{score}:{column}" for score in ("probability", "cosine") for column in layout.columns]
        self._names = [*names, "error"]

    def head(self) -> str:
        """The header."""
        mark = "\ufeff" if self._layout.excel else ""
        return mark + csv_row(self._text(name) for name in self._names)

    def row(self, record: Record) -> str:
        """One row.

        Raises:
            ValueError: the record has other scores than the header.
        """
        blank = len(self._names) - 3
        if isinstance(record, Failure):
            return csv_row([self._text(record.path), "error", *[""] * blank, self._text(record.error)])
        cells: list[str] = []
        for place, score in enumerate(record.ranked[: self._layout.ranks]):
            label = score.label if place else self._layout.answer(record)
            best = [self._text(score.label)] if self._layout.best and not place else []
            cells += [self._text(label), *best, _number(score.probability), _number(score.cosine)]
        if self._layout.groups and record.group:
            cells += [self._text(record.group.name), _number(record.group.probability)]
        if self._layout.all_scores:
            scores = record.all_scores or ()
            cells += [_number(score.probability) for score in scores]
            cells += [_number(score.cosine) for score in scores]
        if len(cells) != blank:
            raise ValueError(f"{len(cells)} cells of scores where the header has {blank}")
        return csv_row([self._text(record.path), status(record), *cells, ""])

    def read(self, row: str) -> tuple[str, bool]:
        """See ``Rows.read``."""
        try:
            (cells,) = csv.reader([row], strict=True)
        except csv.Error as exc:
            raise ValueError(str(exc)) from exc
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} cells instead of {len(self._names)}")
        return unprotect_cell(cells[0]) if self._layout.excel else cells[0], cells[1] != "error"

    def _text(self, cell: str) -> str:
        cell = well_formed(cell)
        return protect_cell(cell) if self._layout.excel else cell


class JsonlRows:
    """JSON Lines: one object a line, numbers to six decimals."""

    quoted = False

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def head(self) -> str:
        """Nothing."""
        return ""

    def row(self, record: Record) -> str:
        """One object."""
        shown: dict[str, Any] = {
            "path": well_formed(record.path),
            "path_bytes": _path_bytes(record.path),
            "status": status(record),
            "label": None,
            "probability": None,
            "cosine": None,
            "ranked": [],
        }
        scores = {}
        if isinstance(record, Prediction):
            answer = well_formed(self._layout.answer(record))
            shown |= {"label": answer or (None if record.uncertain else ""), **_numbers(record.top)}
            shown["ranked"] = [_score(score) for score in record.ranked[: self._layout.ranks]]
            scores = dict(zip(self._layout.columns, map(_numbers, record.all_scores or ()), strict=False))
        if self._layout.multi_label:
            shown["labels"] = [well_formed(label) for label in getattr(record, "labels", ())]
        if self._layout.groups:
            shown["group"] = _group(record)
        if self._layout.all_scores:
            shown["scores"] = scores
        shown["error"] = None if record.error is None else well_formed(record.error)
        return json.dumps(shown, ensure_ascii=False) + "\n"

    def read(self, row: str) -> tuple[str, bool]:
        """See ``Rows.read``."""
        match json.loads(row):
            case {"path": str(path), "status": str(status)}:
                return path, status != "error"
        raise ValueError("no path and status")


def _number(number: float) -> str:
    text = f"{number:.6f}"
    return "0.000000" if text == "-0.000000" else text


def status(record: Record) -> str:
    """``ok``, ``uncertain`` or ``error``."""
    if isinstance(record, Failure):
        return "error"
    return "uncertain" if record.uncertain else "ok"


def _group(record: Record) -> dict[str, Any] | None:
    if isinstance(record, Failure) or record.group is None:
        return None
    return {"name": well_formed(record.group.name), "probability": rounded(record.group.probability)}


def _score(score: Score) -> dict[str, Any]:
    return {"label": well_formed(score.label), **_numbers(score)}


def _numbers(score: Score) -> dict[str, float]:
    return {"probability": rounded(score.probability), "cosine": rounded(score.cosine)}


def _path_bytes(path: str) -> str | None:
    if path.isascii() or not any("\udc80" <= char <= "\udcff" for char in path):
        return None
    return base64.b64encode(os.fsencode(path)).decode()
