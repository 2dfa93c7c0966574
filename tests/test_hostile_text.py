"""Paths, labels and reasons of any text: what is written reads back equal in Python, pandas and DuckDB."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas
import pytest
from conftest import Terminal, within
from fakes import FakeDoor, picture

from clipcls.records import Failure, Prediction, Record, Score
from clipcls.results import read_results
from clipcls.sinks.cells import unprotect_cell, well_formed
from clipcls.sinks.rows import Format, Layout, rows_for

TEXTS = (
    *("a\0b.jpg", "\udcff\udc80.jpg", "\ud83d", "two\nlines", "two\r\nlines", "two\rlines", "\n", "\u2028\x85\x0b\x1c"),
    *('quo"te', '"', '""', '",', "a,b;c\td", "\ufeffmark", "a\ufeff", "\u202egnp.exe", "\u200f\u2067שלום\u2069", "😀é"),
    *(" spaces ", "NULL", "NA", "nan", "None", "true", "1e5", "007", "2020-01-01", "\\N", "\\", "#no comment", "{}"),
    *("=1+1", "'=1+1", "@SUM(A1)", "＝1", "-1", "\x1b[31mred", "\x7f", "long " * 20_000, "猫" * 100_000),
)
SPREADSHEET_RUNS = tuple("=+-@\t\r＝＋－＠")
EVIL = "=cmd|' /C calc'!A0"


def written(kind: Format, path: Path, *, excel: bool = False) -> Path:
    """A file of every text as a path, as a label and as a reason."""
    rows = rows_for(kind, Layout(TEXTS, excel=excel))
    records: list[Record] = [Prediction(text, (Score(text, 0.5, 0.25),)) for text in TEXTS]
    records += [Failure(text, text) for text in TEXTS]
    path.write_text(rows.head() + "".join(map(rows.row, records)), "utf-8", newline="")
    return path


EXPECTED = [(text, text, "") for text in map(well_formed, TEXTS)] + [
    (text, "", text) for text in map(well_formed, TEXTS)
]


def by_python(path: Path) -> list[tuple[str, str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file))
    return [(row["path"], row["label"] or "", row["error"] or "") for row in rows]


def by_pandas(path: Path) -> list[tuple[str, str, str]]:
    if path.suffix == ".csv":
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    else:
        table = pandas.read_json(path, lines=True, dtype=False)
    rows = table[["path", "label", "error"]].itertuples(index=False, name=None)
    return [(path, *("" if pandas.isna(text) else text for text in more)) for path, *more in rows]


def by_duckdb(path: Path) -> list[tuple[str, str, str]]:
    read = "read_csv(?, header=true, all_varchar=true, quote='\"', escape='\"', delim=',')"
    if path.suffix == ".jsonl":
        read = "read_json(?, format='newline_delimited', columns={path: 'VARCHAR', label: 'VARCHAR', error: 'VARCHAR'})"
    sql = f"SELECT path, ifnull(label, ''), ifnull(error, '') FROM {read}"
    return duckdb.connect().execute(sql, [str(path)]).fetchall()


def by_clipcls(path: Path) -> list[tuple[str, str, str]]:
    return [
        (record.path, "", record.error) if isinstance(record, Failure) else (record.path, record.top.label, "")
        for record in read_results(path).records
    ]


@pytest.mark.parametrize("read", [by_python, by_pandas, by_duckdb])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_any_text_reads_back_equal(tmp_path: Path, kind: Format, read: Callable[[Path], object]) -> None:
    assert read(written(kind, tmp_path / f"out.{kind}")) == EXPECTED


@pytest.mark.parametrize(("kind", "excel"), [("csv", False), ("csv", True), ("jsonl", False)])
def test_any_text_comes_back(tmp_path: Path, kind: Format, excel: bool) -> None:
    found = by_clipcls(written(kind, tmp_path / f"out.{kind}", excel=excel))
    paths = [text for text, _, _ in found]
    assert [(label, error) for _, label, error in found] == [(label, error) for _, label, error in EXPECTED]
    # JSON Lines keep a name's bytes beside it.
    assert list(map(well_formed, paths)) == [path for path, _, _ in EXPECTED]
    assert (paths[1] == TEXTS[1]) is (kind == "jsonl")


def cells_of(text: str, separator: str) -> list[str]:
    """The cells as Excel makes them, whose separator is the system's and need not be the file's."""
    reader = csv.reader(text.removeprefix("\ufeff").splitlines(keepends=True), delimiter=separator)
    return [cell for row in reader for cell in row]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text",
    [
        *(f"{before}{EVIL}" for before in ("", "'", "a;", "a\t", "a\n", "a\r", 'a;"', "a,", '"', '",', ";;", ";'")),
        *("＝1", "+1", "-1", "@x", "\t=1", "\r=1"),
    ],
)
def test_a_spreadsheet_runs_nothing(text: str, separator: str) -> None:
    rows = rows_for("csv", Layout((text, "x"), top_k=2, all_scores=True, excel=True, groups=False))
    scores = (Score(text, 0.5, 0.25), Score("x", 0.5, 0.25))
    file = rows.head() + rows.row(Prediction(text, scores, scores)) + rows.row(Failure(text, text))
    assert [cell for cell in cells_of(file, separator) if cell.startswith(SPREADSHEET_RUNS)] == []
    with_commas = [unprotect_cell(cell) for cell in cells_of(file, ",")]
    assert with_commas.count(text) == 4 and with_commas.count(f"cosine:{text}") == 1


def test_ten_thousand_labels(here: Path, fake: Callable[..., FakeDoor], clipcls: Terminal) -> None:
    fake()
    picture(here / "a" / "red.png")
    picture(here / "a" / "blue.png", (0, 0, 255))
    (here / "labels.txt").write_text(
        "\n".join([*(f"label number {at:05}" for at in range(9_998)), "red", "blue"]), "utf-8"
    )
    words = ["classify", "a", "--labels-file", "labels.txt", "--prompts", "a {label}"]
    with within(60):
        for name in ("out.csv", "out.jsonl"):
            clipcls(*words, "--all-scores", "--top-k", "10000", "-o", name)
            found = [record for record in read_results(here / name).records if isinstance(record, Prediction)]
            assert [(record.path, *record.labels) for record in found] == [("a/blue.png", "blue"), ("a/red.png", "red")]
            assert all(len(record.ranked) == len(record.all_scores or ()) == 10_000 for record in found)
        clipcls(*words, "--multi-label", "--threshold", "0", "-o", "all.csv")
        assert all(len(record.labels) == 10_000 for record in read_results(here / "all.csv").records if record.ok)
    assert pandas.read_csv(here / "out.csv").shape == (2, 2 + 3 * 10_000 + 2 * 10_000 + 1)
