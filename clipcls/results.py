"""Result files read back: what ``classify`` wrote, as the records it was written from; and what ``dedup`` listed."""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, takewhile
from pathlib import Path
from typing import IO, Any

from clipcls.errors import InputError, OutputError
from clipcls.labels import SYNONYM
from clipcls.records import Failure, GroupScore, Prediction, Record, Score
from clipcls.sinks.cells import printable, unprotect_cell
from clipcls.sinks.runinfo import RunInfo, read_run, run_path

SUFFIXES = (".csv", ".jsonl", ".ndjson")
_COPIES = ("group", "path", "cosine", "verdict")
"""Columns of what ``clipcls dedup`` lists: images that are like one to keep have the verdict as their label, and that
one is left out."""
_MARK = "\ufeff"
_NEEDED = ("path", "status", "label", "probability", "cosine", "error")
_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")
_SCORE = "probability:"


@dataclass(frozen=True, slots=True)
class Results:
    """A result file's content."""

    run: RunInfo | None
    """None where no run file lies beside it."""
    records: tuple[Record, ...]
    """In the file's order, with its six decimals; ``cached`` is not in the file."""
    base: Path
    """Absolute folder that relative paths start from: where the run was started; the current folder where that is not
    known, is gone, or has none of the images any more and the current one has."""


def is_results(path: str | os.PathLike[str]) -> bool:
    """Whether a path is named like a result file, whether it is there or not."""
    return Path(path).suffix.lower() in SUFFIXES and not os.path.isdir(path)


def read_results(path: str | os.PathLike[str]) -> Results:
    """A result file's content.

    Raises:
        InputError: it is not there, is no result file, or is damaged.
    """
    file = Path(path)
    if not is_results(file):
        raise InputError(f"{_name(file)} is no result file: name a .csv or .jsonl file that clipcls classify wrote")
    try:
        run = read_run(file)
        read = _csv_records if file.suffix.lower() == ".csv" else _json_records
        with file.open(encoding="utf-8", newline="") as stream:
            records = tuple(read(stream, file, run))
    except OSError as exc:
        raise InputError(
            f"{_name(file)} cannot be read: {exc.strerror or exc}; clipcls classify ... --output writes one"
        ) from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{_name(file)} is not UTF-8: if Excel saved it, save it again as CSV UTF-8") from exc
    except OutputError as exc:  # meant for who writes the file
        beside = _name(run_path(file))
        raise InputError(f"{beside} is damaged or from another version of clipcls; move it away to do without") from exc
    base = _base(run, records)
    if file.suffix.lower() == ".csv":
        records = tuple(_as_named(record, base) for record in records)
    return Results(run, records, base)


def _csv_records(stream: IO[str], file: Path, run: RunInfo | None) -> Iterator[Record]:
    head = stream.readline()
    marked = head.startswith(_MARK)
    head = head.removeprefix(_MARK)
    # Excel saves with semicolons, and decimal commas, in half of Europe.
    rows = csv.reader(chain([head], stream), strict=True, delimiter=";" if head.startswith("path;") else ",")
    excel = run.excel if run else marked
    try:
        names = next(rows, [])
        copies = set(_COPIES) <= set(names)
        if not copies and not set(_NEEDED) <= set(names):
            raise InputError(f"{_name(file)} is no result file: it lacks the columns that clipcls classify writes")
        for cells in rows:
            if cells:
                texts = map(unprotect_cell, cells) if excel else cells
                row = dict(zip(names, texts, strict=True))
                if not copies:
                    yield _csv_record(row)
                elif row["verdict"] != "keep":
                    yield Prediction(row["path"], (_csv_score(row["verdict"], "1", row["cosine"]),))
    except UnicodeDecodeError:
        raise
    except (ValueError, KeyError, csv.Error) as exc:
        raise _damaged(file, rows.line_num, exc) from exc


def _csv_record(row: dict[str, str]) -> Record:
    if row["status"] == "error":
        return Failure(row["path"], row["error"])
    ranked = [_csv_score(row.get("best", row["label"]), row["probability"], row["cosine"])]
    ends = takewhile(lambda end: f"label{end}" in row, (f"_{rank}" for rank in count(2)))
    ranked += [_csv_score(row[f"label{end}"], row[f"probability{end}"], row[f"cosine{end}"]) for end in ends]
    columns = [name.removeprefix(_SCORE) for name in row if name.startswith(_SCORE)]
    scores = tuple(_csv_score(name, row[_SCORE + name], row[f"cosine:{name}"]) for name in columns)
    group = GroupScore(row["group"], _number(row["group_probability"])) if row.get("group_probability") else None
    answer = row["label"].split(SYNONYM) if "best" in row and row["label"] != row["best"] else [row["label"]]
    sure = _sure(row["status"], answer, ranked[0])
    return Prediction(row["path"], tuple(ranked), scores or None, sure=sure, group=group)


def _csv_score(label: str, probability: str, cosine: str) -> Score:
    return Score(label, _number(probability), _number(cosine))


def _number(given: Any) -> float:
    number = float(given.replace(",", ".") if isinstance(given, str) else given)
    if not math.isfinite(number):
        raise ValueError(f"the number {number}")
    return number


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"{type(given).__name__} in place of a text")
    return given


def _json_records(stream: IO[str], file: Path, run: RunInfo | None) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        try:
            if line.strip(f"{_MARK} \r\n"):
                yield _json_record(json.loads(line.removeprefix(_MARK)))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
            raise _damaged(file, number, exc) from exc


def _json_record(row: dict[str, Any]) -> Record:
    path = _text(row["path"])
    if row.get("path_bytes"):
        path = os.fsdecode(base64.b64decode(row["path_bytes"], validate=True))
    if row["status"] == "error":
        return Failure(path, str(row["error"]))
    ranked = tuple(_json_score(_text(score["label"]), score) for score in row["ranked"])
    scores = tuple(_json_score(label, score) for label, score in row.get("scores", {}).items())
    group = GroupScore(_text(row["group"]["name"]), _number(row["group"]["probability"])) if row.get("group") else None
    sure = (
        tuple(map(_text, row["labels"])) if "labels" in row else _sure(row["status"], [_text(row["label"])], ranked[0])
    )
    return Prediction(path, ranked, scores or None, sure=sure, group=group)


def _json_score(label: str, score: dict[str, Any]) -> Score:
    return Score(label, _number(score["probability"]), _number(score["cosine"]))


def _sure(status: str, answer: list[str], best: Score) -> tuple[str, ...] | None:
    """The labels of an answer; a person may have corrected it."""
    if status not in ("ok", "uncertain"):
        raise ValueError(f"the status {status!r}")
    if status == "uncertain":
        return ()
    return None if answer == [best.label] else tuple(answer)


def _damaged(file: Path, line: int, exc: Exception) -> InputError:
    cause = f"no {exc}" if isinstance(exc, KeyError) else exc
    return InputError(
        f"{_name(file)}, line {line}: not as clipcls classify writes it ({cause}); "
        "undo what changed the file, or classify again"
    )


def _base(run: RunInfo | None, records: Iterable[Record]) -> Path:
    here = Path.cwd()
    if run is None or not os.path.isdir(run.base):
        return here
    relative = [record.path for record in records if not os.path.isabs(record.path)]
    then = Path(run.base)
    return next((base for base in (then, here) if any(_there(base, path) for path in relative)), then)


def _as_named(record: Record, base: Path) -> Record:
    r"""The record with the bytes that its path stands for, where the name that is written ``\xNN`` is not there."""
    decoded = _ESCAPED.sub(lambda match: chr(0xDC00 + int(match[1], 16)), record.path)
    if decoded != record.path and not _there(base, record.path) and _there(base, decoded):
        return replace(record, path=decoded)
    return record


def _there(base: Path, path: str) -> bool:
    try:
        return os.path.lexists(os.path.join(base, path))
    except ValueError:  # a lone surrogate
        return False


def _name(path: Path) -> str:
    return printable(str(path))
