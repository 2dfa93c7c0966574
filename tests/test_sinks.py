from __future__ import annotations

import base64
import csv
import errno
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from clipcls.errors import OutputError, UsageError
from clipcls.records import Failure, GroupScore, Prediction, Record, Score
from clipcls.sinks import LabelInfo, LabelPrompts, RunInfo, choose_format, open_sink, written_path
from clipcls.sinks.cells import printable, protect_cell, rounded, unprotect_cell, well_formed
from clipcls.sinks.rows import CsvRows, JsonlRows, Layout, rows_for
from clipcls.sinks.stream import StreamSink
from clipcls.sinks.table import TableSink

LABELS = ("大象", "冰箱", "蚂蚁")
# NUL is the one character that no file name can hold and not every reader gives back.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NASTY_TEXT = st.text(st.sampled_from("ab'=+-@\t\r\n\"',;＝＋－＠|#\\ é象\ufeff\u2028"))
TEXT = ANY_TEXT | NASTY_TEXT
TRIGGERS = tuple("=+-@\t\r＝＋－＠")


def prediction(path: str, labels: tuple[str, ...] = LABELS, top_k: int = 1) -> Prediction:
    scores = tuple(Score(label, 1 / (2 + i), 0.3 - i / 10) for i, label in enumerate(labels))
    return Prediction(path, scores[:top_k], scores)


def csv_text(records: list[Record], layout: Layout) -> str:
    rows = CsvRows(layout)
    return rows.head() + "".join(map(rows.row, records))


def csv_cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


# Cells


@given(TEXT)
def test_protecting_a_cell_is_undone_and_leaves_no_trigger(cell: str) -> None:
    protected = protect_cell(cell)
    assert not protected.startswith(TRIGGERS)
    assert unprotect_cell(protected) == cell


@pytest.mark.parametrize(
    ("cell", "protected"),
    [
        ("=1+1", "'=1+1"),
        ("a;=1", "a;'=1"),
        ("a;'=\t-", "a;''=\t'-"),
        ("'=1", "''=1"),
        ("＝1", "'＝1"),
        ("'quoted'", "'quoted'"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_protected_cells(cell: str, protected: str) -> None:
    assert protect_cell(cell) == protected
    assert unprotect_cell(protected) == cell


def test_ill_formed_text_is_escaped() -> None:
    assert well_formed(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert well_formed("a\ud800b\0") == "a\\ud800b\\x00"
    assert well_formed("大象\n\x1b") == "大象\n\x1b"
    assert printable("a\x1b[31m\n\x9b\u202eb") == "a\\x1b[31m\\x0a\\x9b\\u202eb"
    assert written_path(os.fsdecode(b"\xff")) == "\\xff"


@given(st.floats(-1, 1))
def test_numbers_are_never_a_negative_zero(number: float) -> None:
    assert f"{rounded(number):.6f}" != "-0.000000"
    assert str(rounded(number)) != "-0.0"
    assert rounded(number) == pytest.approx(number, abs=6e-7)


# CSV


def test_csv_columns() -> None:
    layout = Layout(LABELS, top_k=2, all_scores=True)
    text = csv_text([prediction("a.jpg", top_k=2), Failure("b.jpg", "cut off, at byte 7")], layout)
    assert text == (
        "path,status,label,probability,cosine,label_2,probability_2,cosine_2,"
        "probability:大象,probability:冰箱,probability:蚂蚁,cosine:大象,cosine:冰箱,cosine:蚂蚁,error\n"
        "a.jpg,ok,大象,0.500000,0.300000,冰箱,0.333333,0.200000,"
        "0.500000,0.333333,0.250000,0.300000,0.200000,0.100000,\n"
        'b.jpg,error,,,,,,,,,,,,,"cut off, at byte 7"\n'
    )


def test_csv_lists_no_more_labels_than_there_are() -> None:
    (header, row) = csv_cells(csv_text([prediction("a", top_k=3)], Layout(LABELS, top_k=9)))
    assert header[-3:] == ["probability_3", "cosine_3", "error"]
    assert len(row) == len(header)


def test_csv_refuses_a_record_that_does_not_fit_its_header() -> None:
    with pytest.raises(ValueError, match="3 cells of scores where the header has 6"):
        CsvRows(Layout(LABELS, top_k=2)).row(prediction("a", top_k=1))


def test_csv_never_writes_a_negative_zero() -> None:
    record = Prediction("a", (Score("x", 0.0, -1e-9),))
    assert csv_text([record], Layout(("x",))).endswith("a,ok,x,0.000000,0.000000,\n")


@given(TEXT, TEXT, TEXT, st.booleans(), st.booleans())
def test_csv_reads_back(path: str, label: str, error: str, excel: bool, all_scores: bool) -> None:
    layout = Layout((label, label + "2"), 2, all_scores, excel)
    text = csv_text([prediction(path, (label, "other"), 2), Failure(path, error)], layout)
    assert text.startswith("\ufeff") == excel
    header, good, bad = csv_cells(text.removeprefix("\ufeff"))
    if excel:
        assert not any(cell.startswith(TRIGGERS) for cell in [*header, good[0], good[2], good[5], bad[0], bad[-1]])
        header, good, bad = ([unprotect_cell(cell) for cell in row] for row in (header, good, bad))
    assert (good[0], good[1], good[2], good[5], good[-1]) == (path, "ok", label, "other", "")
    assert (bad[0], bad[1], set(bad[2:-1]), bad[-1]) == (path, "error", {""}, error)
    assert [float(good[i]) for i in (3, 4, 6, 7)] == [0.5, 0.3, 0.333333, 0.2]
    if all_scores:
        assert header[8:12] == [f"{score}:{c}" for score in ("probability", "cosine") for c in layout.columns]


def test_numbers_for_excel_stay_numbers() -> None:
    record = Prediction("-a.jpg", (Score("=x", 0.5, -0.25),))
    assert csv_text([record], Layout(("=x",), excel=True)).endswith("'-a.jpg,ok,'=x,0.500000,-0.250000,\n")


@pytest.mark.parametrize("row", ["a,ok\n", 'a,ok,x,1,2,"\n', 'a,ok,"x"y,1,2,\n'])
def test_csv_knows_a_foreign_row(row: str) -> None:
    with pytest.raises(ValueError):
        CsvRows(Layout(LABELS)).read(row)


# JSON Lines


def test_jsonl_objects() -> None:
    rows = JsonlRows(Layout(LABELS, top_k=2, all_scores=True))
    good = rows.row(prediction("大.jpg", top_k=2))
    assert "大.jpg" in good
    ranked = [
        {"label": "大象", "probability": 0.5, "cosine": 0.3},
        {"label": "冰箱", "probability": 0.333333, "cosine": 0.2},
    ]
    assert json.loads(good) == {
        "path": "大.jpg",
        "path_bytes": None,
        "status": "ok",
        **ranked[0],
        "ranked": ranked,
        "scores": {
            "大象": {"probability": 0.5, "cosine": 0.3},
            "冰箱": {"probability": 0.333333, "cosine": 0.2},
            "蚂蚁": {"probability": 0.25, "cosine": 0.1},
        },
        "error": None,
    }
    assert json.loads(rows.row(Failure("b", "broken"))) == {
        "path": "b",
        "path_bytes": None,
        "status": "error",
        "label": None,
        "probability": None,
        "cosine": None,
        "ranked": [],
        "scores": {},
        "error": "broken",
    }
    assert "scores" not in json.loads(JsonlRows(Layout(LABELS)).row(prediction("a")))


@given(TEXT, TEXT, TEXT)
def test_jsonl_reads_back(path: str, label: str, error: str) -> None:
    rows = JsonlRows(Layout((label,)))
    good, bad = rows.row(prediction(path, (label,))), rows.row(Failure(path, error))
    assert good.index("\n") == len(good) - 1
    assert (json.loads(good)["path"], json.loads(good)["label"], json.loads(bad)["error"]) == (path, label, error)
    assert (rows.read(good), rows.read(bad)) == ((path, True), (path, False))


def test_a_name_that_is_not_utf8() -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    shown = json.loads(JsonlRows(Layout(LABELS)).row(Failure(name, f"no {name}")))
    assert (shown["path"], shown["error"]) == ("caf\\xe9.jpg", "no caf\\xe9.jpg")
    assert base64.b64decode(shown["path_bytes"]) == b"caf\xe9.jpg"
    assert csv_text([Failure(name, name)], Layout(LABELS)).endswith("caf\\xe9.jpg,error,,,,caf\\xe9.jpg\n")


@pytest.mark.parametrize("row", ["{}\n", "[]\n", '{"path": 1, "status": "ok"}\n', "nonsense\n"])
def test_jsonl_knows_a_foreign_row(row: str) -> None:
    with pytest.raises(ValueError):
        JsonlRows(Layout(LABELS)).read(row)


# Answers beyond one label


def answered(path: str, sure: tuple[str, ...], group: str = "", top_k: int = 1) -> Prediction:
    plain = prediction(path, top_k=top_k)
    return Prediction(path, plain.ranked, plain.all_scores, sure=sure, group=GroupScore(group, 0.75) if group else None)


def test_csv_of_uncertain_images_and_groups() -> None:
    layout = Layout(LABELS, top_k=2, all_scores=True, groups=True, unknown_label="其他")
    records = [answered("a", ("大象",), "动物", 2), answered("b", (), "动物", 2), Failure("c", "cut off")]
    assert csv_text(records, layout) == (
        "path,status,label,probability,cosine,label_2,probability_2,cosine_2,group,group_probability,"
        "probability:大象,probability:冰箱,probability:蚂蚁,cosine:大象,cosine:冰箱,cosine:蚂蚁,error\n"
        "a,ok,大象,0.500000,0.300000,冰箱,0.333333,0.200000,动物,0.750000,"
        "0.500000,0.333333,0.250000,0.300000,0.200000,0.100000,\n"
        "b,uncertain,其他,0.500000,0.300000,冰箱,0.333333,0.200000,动物,0.750000,"
        "0.500000,0.333333,0.250000,0.300000,0.200000,0.100000,\n"
        "c,error,,,,,,,,,,,,,,,cut off\n"
    )


def test_several_labels_share_a_cell() -> None:
    layout = Layout(LABELS, multi_label=True)
    records = [answered("a", ("大象", "冰箱")), answered("b", ("大象",)), answered("c", ())]
    cells = csv_cells(csv_text(records, layout))
    assert [row[:3] for row in cells[1:]] == [["a", "ok", "大象|冰箱"], ["b", "ok", "大象"], ["c", "uncertain", ""]]


@pytest.mark.parametrize(
    ("changes", "record", "shown"),
    [
        ({}, answered("a", ()), {"status": "uncertain", "label": None, "probability": 0.5, "cosine": 0.3}),
        ({"unknown_label": "?"}, answered("a", ()), {"status": "uncertain", "label": "?"}),
        ({"multi_label": True}, answered("a", ("大象", "冰箱")), {"label": "大象|冰箱", "labels": ["大象", "冰箱"]}),
        ({"multi_label": True, "unknown_label": "?"}, answered("a", ()), {"label": "?", "labels": []}),
        ({"multi_label": True, "groups": True}, Failure("a", "x"), {"label": None, "labels": [], "group": None}),
        ({"groups": True}, answered("a", ("大象",), "动物"), {"group": {"name": "动物", "probability": 0.75}}),
    ],
)
def test_jsonl_of_uncertain_images_several_labels_and_groups(
    changes: dict[str, object], record: Record, shown: dict[str, object]
) -> None:
    rows = JsonlRows(Layout(LABELS, **changes))  # type: ignore[arg-type]
    found = json.loads(rows.row(record))
    assert {key: found[key] for key in shown} == shown
    assert [score["label"] for score in found["ranked"]] == ([] if isinstance(record, Failure) else ["大象"])
    assert rows.read(rows.row(record)) == ("a", record.ok)


def test_a_record_without_the_group_that_its_header_names_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells of scores where the header has 5"):
        CsvRows(Layout(LABELS, groups=True)).row(prediction("a"))


@given(TEXT, TEXT, TEXT, TEXT, st.booleans(), st.booleans())
def test_answers_read_back(path: str, unknown: str, group: str, label: str, excel: bool, sure: bool) -> None:
    layout = Layout((label, label + "2"), 1, False, excel, unknown_label=unknown, groups=True)
    record = Prediction(path, (Score(label, 0.5, 0.25),), sure=(label,) if sure else (), group=GroupScore(group, 0.125))
    text = csv_text([record], layout)
    header, row = csv_cells(text.removeprefix("\ufeff"))
    if excel:
        assert not any(row[header.index(name)].startswith(TRIGGERS) for name in ("path", "label", "group"))
        row = [unprotect_cell(cell) for cell in row]
    expected = (path, "ok" if sure else "uncertain", label if sure and label else unknown, 0.5, 0.25, group, 0.125, "")
    assert (*row[:3], float(row[3]), float(row[4]), row[5], float(row[6]), row[7]) == expected
    assert CsvRows(layout).read(text.removeprefix(CsvRows(layout).head())) == (path, True)
    told = json.loads(JsonlRows(layout).row(record))
    assert (told["path"], told["label"] or "", told["group"]["name"]) == (path, expected[2], group)


# Streams


def run(kind: str, **changes: object) -> RunInfo:
    settings: dict[str, object] = {
        "versions": {},
        "model": "starter",
        "fingerprint": "f",
        "precision": "fp32",
        "logit_scale": 100.0,
        "logit_bias": None,
        "activation": "softmax",
        "labels": tuple(LabelInfo(name, name) for name in LABELS),
        "prompts": tuple(LabelPrompts((name,), ("{}",)) for name in LABELS),
        "base": "/",
        "paths": ("imgs",),
    }
    return RunInfo(format=kind, **settings | changes)  # type: ignore[arg-type]


class Recorder(io.StringIO):
    """Keeps how much had been written at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[int] = []

    def flush(self) -> None:
        self.flushed.append(len(self.getvalue()))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "table"])
def test_a_reader_of_a_stream_waits_for_nothing(kind: str) -> None:
    stream = Recorder()
    with open_sink(run(kind), None, stream) as sink:
        assert (sink.done, sink.already_complete, sink.partial) == (Counter(), False, None)
        for path in ("a.jpg", "b.jpg"):
            sink.write(prediction(path))
            assert path in stream.getvalue()
            assert stream.flushed[-1] == len(stream.getvalue())
    assert not stream.closed


@pytest.mark.parametrize("kind", ["csv", "jsonl", "table"])
def test_a_stream_that_fails(kind: str) -> None:
    class Failing(io.StringIO):
        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.error = error

        def write(self, text: str) -> int:
            if text:
                raise self.error
            return 0

    full = Failing(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OutputError, match="No space left on device"), open_sink(run(kind), None, full) as sink:
        sink.write(prediction("a"))
    gone = Failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    with pytest.raises(BrokenPipeError), open_sink(run(kind), None, gone) as sink:
        sink.write(prediction("a"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "table"])
def test_a_reader_that_goes_away(kind: str) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8", newline="") as stream, open_sink(run(kind), None, stream) as sink:
        sink.write(prediction("a"))
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            sink.write(prediction("b"))
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), writer)  # as a command line does, so that closing is quiet


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output() -> None:
    stream = Path("/dev/full").open("w", encoding="utf-8", newline="")  # noqa: SIM115 (closing it fails)
    with pytest.raises(OutputError, match="No space left"), StreamSink(stream, rows_for("csv", Layout(LABELS))):
        pass
    with pytest.raises(OSError, match="No space left"):
        stream.close()


# Tables


def table(records: list[Record], layout: Layout, width: int = 80, *, color: bool = False) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=color, color_system="standard" if color else None, legacy_windows=False
    )
    with TableSink(console, layout) as sink:
        for record in records:
            sink.write(record)
    return stream.getvalue()


def test_table_rows() -> None:
    text = table([prediction("a.jpg"), Failure("b.jpg", "cut off")], Layout(LABELS))
    heading, good, bad = text.splitlines()
    assert heading.split() == ["path", "label", "probability", "cosine"]
    assert good.split() == ["a.jpg", "大象", "50.00%", "0.3000", "██████"]
    assert bad.split() == ["b.jpg", "cut", "off"]


def test_table_in_the_persons_language() -> None:
    words = {"path": "路径", "label": "标签", "probability": "概率", "cosine": "余弦", "cut off": "不完整"}
    stream = io.StringIO()
    with TableSink(Console(file=stream, width=80), Layout(LABELS), lambda text: words.get(text, text)) as sink:
        sink.write(prediction("a.jpg"))
        sink.write(Failure("b.jpg", "cut off"))
    heading, good, bad = stream.getvalue().splitlines()
    assert heading.split() == ["路径", "标签", "概率", "余弦"] and bad.split() == ["b.jpg", "不完整"]
    ends = [cell_len(line.partition(word)[0] + word) for line, word in ((heading, "余弦"), (good, "0.3000"))]
    assert ends[0] == ends[1]


def test_table_of_several_labels_names_the_path_once() -> None:
    lines = table([prediction("a.jpg", top_k=2), prediction("b.jpg", top_k=2)], Layout(LABELS, top_k=2)).splitlines()
    assert [line.split()[0] for line in lines] == ["path", "a.jpg", "冰箱", "b.jpg", "冰箱"]
    every = table([prediction("a.jpg")], Layout(LABELS, all_scores=True)).splitlines()
    assert [line.split()[:2] for line in every[1:]] == [["a.jpg", "大象"], ["冰箱", "33.33%"], ["蚂蚁", "25.00%"]]


def test_all_scores_of_a_table_come_best_first() -> None:
    scores = (Score("x", 0.1, 0.1), Score("y", 0.9, 0.9), Score("z", 0.1, 0.1))
    lines = table([Prediction("a", scores[1:2], scores)], Layout(("x", "y", "z"), all_scores=True)).splitlines()
    assert [line.split()[0 if i else 1] for i, line in enumerate(lines[1:])] == ["y", "x", "z"]


@pytest.mark.parametrize("width", [20, 40, 72, 80, 300])
@given(path=TEXT, label=TEXT)
def test_table_columns_are_straight(width: int, path: str, label: str) -> None:
    layout = Layout((label, "other"))
    lines = table([prediction(path, (label,)), prediction("a", ("other",))], layout, width).split("\n")
    assert len(lines) == 4 and lines[3] == ""
    places = [cell_len(line[: re.search(r" *50\.00%", line).end()]) for line in lines[1:3]]  # type: ignore[union-attr]
    assert places[0] == places[1]
    if width >= 72:
        assert all(cell_len(line) <= width for line in lines)


def test_a_table_of_uncertain_images() -> None:
    lines = table([answered("a.jpg", ("大象",)), answered("b.jpg", ())], Layout(LABELS)).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["a.jpg", "大象", "50.00%"], ["b.jpg", "?大象", "50.00%"]]
    assert lines[1].index("大象") == lines[2].index("大象")
    named = table([answered("b.jpg", ())], Layout(LABELS, unknown_label="none of these")).splitlines()
    assert named[1].split()[:6] == ["b.jpg", "none", "of", "these", "(大象)", "50.00%"]
    dim = table([answered("b.jpg", ())], Layout(LABELS), color=True)
    assert "\x1b[2m大象" in dim and "\x1b[1m大象" in table([answered("a", ("大象",))], Layout(LABELS), color=True)


def test_a_table_of_several_labels_an_image() -> None:
    records = [answered("a.jpg", ("大象", "冰箱")), answered("b.jpg", ())]
    lines = table(records, Layout(LABELS, multi_label=True)).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["大象|冰箱", "?大象"]


def test_the_first_line_of_all_scores_is_the_answers_also_in_a_tie() -> None:
    scores = (Score("x", 0.5, 0.3), Score("y", 0.5, 0.3 + 1e-12))
    lines = table([Prediction("a", scores[:1], scores, sure=("x",))], Layout(("x", "y"), all_scores=True)).splitlines()
    assert [line.split()[0 if i else 1] for i, line in enumerate(lines[1:])] == ["x", "y"]


@pytest.mark.parametrize("width", [4, 20, 40, 72, 80, 100, 300])
@pytest.mark.parametrize("label", ["大象", "很长的标签" * 9])
def test_groups_stand_in_a_straight_column(width: int, label: str) -> None:
    records = [
        Prediction("a.jpg", (Score(name, share, 0.3), Score("b", 0.1, 0.1)), group=GroupScore(group, share))
        for name, share, group in ((label, 0.25, "动物"), ("b", 1.0, "很长的组" * 9))
    ]
    text = table(records, Layout((label, "b"), top_k=2, groups=True), width)
    heading, first, second, third, fourth = text.splitlines()
    assert heading.endswith("  group") and "25% " in first and "100%" in third and third.endswith("…")
    starts = ((heading, "group"), (first, "25% "), (third, "100% "))
    assert len({cell_len(line[: line.rindex(start)]) for line, start in starts}) == 1
    assert second.split()[:2] == fourth.split()[:2] == ["b", "10.00%"]
    if width >= 72:
        assert all(cell_len(line) <= width for line in text.splitlines())


def test_long_names_are_shortened() -> None:
    (_, good) = table([prediction("很长的文件夹名字/" * 20 + "大象.jpg")], Layout(LABELS), 80).splitlines()
    assert good.startswith("…") and "大象.jpg  大象" in good
    (_, good) = table([prediction("a", ("很长的标签" * 20,))], Layout(("很长的标签" * 20,)), 80).splitlines()
    assert re.search(r"很长的标签很长的标 ?…", good)


def test_a_table_runs_neither_markup_nor_control_characters() -> None:
    nasty = "[red]x[/red]:smile:\x1b]0;title\x07\n\x9b31m\u202e"
    shown = "[red]x[/red]:smile:\\x1b]0;title\\x07\\x0a\\x9b31m\\u202e"
    text = table([prediction(nasty, (nasty,)), Failure(nasty, nasty)], Layout((nasty,)), 300)
    assert text.count(shown) == 4
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert len(text.splitlines()) == 3
    assert "caf\\xe9" in table([Failure(os.fsdecode(b"caf\xe9"), "x")], Layout(LABELS))


def test_failures_are_red() -> None:
    assert "\x1b[31mcut off\x1b[0m" in table([Failure("a", "cut off")], Layout(LABELS), color=True)
    assert "\x1b" not in table([Failure("a", "cut off")], Layout(LABELS))


# Choosing


@pytest.mark.parametrize(
    ("asked", "output", "kind"),
    [
        (None, None, "table"),
        ("csv", None, "csv"),
        (None, "a.csv", "csv"),
        (None, "a.JSONL", "jsonl"),
        (None, "a.ndjson", "jsonl"),
        ("jsonl", "a.csv", "jsonl"),
        ("csv", "results", "csv"),
    ],
)
def test_choose_format(asked: str | None, output: str | None, kind: str) -> None:
    assert choose_format(asked, Path(output) if output else None) == kind  # type: ignore[arg-type]


def test_formats_that_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"out\.txt: unknown suffix; use one of \.csv, \.jsonl, \.ndjson"):
        choose_format(None, Path("out.txt"))
    with pytest.raises(UsageError, match="a table is for the terminal"):
        choose_format("table", Path("a.csv"))
    with pytest.raises(UsageError, match="a table is for the terminal"):
        open_sink(run("table"), Path("a.csv"), io.StringIO(), resume=True)
    with pytest.raises(UsageError, match="name it with --output"):
        open_sink(run("csv"), None, io.StringIO(), resume=True)
    with pytest.raises(ValueError, match="not a row format"):
        rows_for("table", Layout(LABELS))


def test_only_the_table_imports_rich() -> None:
    code = "import sys, clipcls.sinks; print(*{'rich', 'numpy', 'PIL', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
