"""Records listed on stdout: as a table for people, as CSV or JSON Lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from clipcls.cli.tables import Column, show_table
from clipcls.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMATS = ("table", "csv", "jsonl")


def given_format(asked: str | None, known: Sequence[str] = FORMATS) -> str:
    """The format that was asked for; by default a table on a terminal, and CSV elsewhere.

    Raises:
        UsageError: it is none of those known, or a table was to go elsewhere.
    """
    terminal = sys.stdout.isatty()
    if asked is None:
        return "table" if terminal else "csv"
    if asked not in known:
        raise UsageError(f"unknown format {asked!r}: use {', '.join(known)}")
    if asked == "table" and not terminal:
        raise UsageError("a table is as wide as the terminal, and stdout is none; leave --format out for CSV")
    return asked


def show(form: str, kind: type[DataclassInstance], records: Sequence[DataclassInstance]) -> None:
    """Print records of one kind, a field a column: cosines to six decimals, or on a terminal to four."""
    from clipcls.sinks.cells import csv_row, well_formed
    from clipcls.sinks.stream import send

    if form == "jsonl":
        send(sys.stdout, "".join(_json(record) for record in records))
        return
    columns = [
        Column(field.name, right=str(field.type).startswith(("float", "int")), told=field.name in ("verdict", "error"))
        for field in fields(kind)
    ]
    decimals = 4 if form == "table" else 6
    rows = [[_cell(value, decimals) for value in asdict(record).values()] for record in records]
    if form == "table":
        show_table(columns, rows)
    else:
        send(
            sys.stdout, "".join(csv_row(map(well_formed, row)) for row in [[column.name for column in columns], *rows])
        )


def _cell(value: Any, decimals: int) -> str:
    if value is None:
        return ""
    return f"{round(value, decimals) + 0.0:.{decimals}f}" if isinstance(value, float) else str(value)


def _json(record: DataclassInstance) -> str:
    from clipcls.sinks.cells import rounded, well_formed

    shown = {}
    for name, value in asdict(record).items():
        if isinstance(value, float):
            value = rounded(value)
        elif isinstance(value, str):
            value = well_formed(value)
        shown[name] = value
    return json.dumps(shown, ensure_ascii=False) + "\n"
