"""Small tables of results on stdout: aligned for people, CSV in a pipe."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from clipcls.cli.common import quiet_pipe
from clipcls.cli.language import chinese_lines, told
from clipcls.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from clipcls.library import Kind


class Column(NamedTuple):
    """A column's heading, and how its cells are set."""

    name: str
    right: bool = False
    """On which side they are aligned."""
    whole: bool = False
    """Whether they stay on one line, such as names that are to be copied."""
    given: bool = False
    """Whether the heading is a person's own word, which is not translated."""
    told: bool = False
    """Whether the cells are sentences of ours, translated like the heading."""
    spare: bool = False
    """Whether it goes where a terminal has no room for all columns, the last first."""


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: to a terminal aligned and wrapped to its width, elsewhere as CSV."""
    from clipcls.sinks.cells import well_formed

    with quiet_pipe():
        if not sys.stdout.isatty():
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(column.name for column in columns)
            writer.writerows([well_formed(cell) for cell in row] for row in rows)
            return
        from rich.console import Console

        console = Console(file=sys.stdout)
        shown = list(columns)
        room = console.options.update(width=10_000)  # as much as any word needs: a measure ends at the width
        while (spare := [column for column in shown if column.spare]) and (
            console.measure(_table(shown, columns, rows), options=room).minimum > console.width
        ):
            shown.remove(spare[-1])
        with (
            chinese_lines(),
            console.capture() as drawn,
        ):  # a console that prints itself turns a broken pipe into SystemExit
            console.print(_table(shown, columns, rows))
        sys.stdout.write(drawn.get())


def _table(shown: Sequence[Column], columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """The table with those of its columns that are shown; rich cannot take one out again without measuring it wrong."""
    from rich.table import Table

    from clipcls.sinks.cells import printable

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in shown:
        side: Literal["left", "right"] = "right" if column.right else "left"
        name = column.name if column.given else told(column.name)
        table.add_column(name, justify=side, overflow="fold", no_wrap=column.whole)
    for row in rows:
        cells = [(column, cell) for column, cell in zip(columns, row, strict=True) if column in shown]
        table.add_row(*(printable(told(cell) if column.told else cell).replace("[", r"\[") for column, cell in cells))
    return table


def list_sets(kind: Kind, size: str, describe: Callable[[Path], tuple[str, str, str]]) -> None:
    """Print every set of a kind, with where it lies, and whether another of its name hides it.

    Args:
        kind: prompts or labels.
        size: the heading over a set's size.
        describe: gives a file's language, size and description.
    """
    from clipcls.library import set_files

    rows = []
    seen: set[str] = set()
    for file in set_files(kind):
        place = f"{file.place} (hidden)" if file.name in seen else file.place
        seen.add(file.name)
        try:
            language, count, when = describe(file.path)
        except UsageError as exc:
            language, count, when = "", "", f"cannot be used: {exc}"
        rows.append((file.name, language, count, place, when))
    show_table(
        (Column("name"), Column("language"), Column(size, right=True), Column("from"), Column("when", told=True)), rows
    )
