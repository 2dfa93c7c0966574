from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcls.errors import OutputError, UsageError
from clipcls.records import Failure, Prediction, Record, Score
from clipcls.sinks import (
    Format,
    LabelInfo,
    LabelPrompts,
    ResultSink,
    RunInfo,
    check_output,
    open_sink,
    written_path,
)
from clipcls.sinks.cells import unprotect_cell
from clipcls.sinks.runinfo import differences, read_run, write_run

RUN = RunInfo(
    versions={"clipcls": "1.0"},
    model="starter",
    fingerprint="f1",
    precision="fp32",
    logit_scale=99.7,
    logit_bias=None,
    activation="softmax",
    labels=(LabelInfo("大象", "大象"), LabelInfo("冰箱", "冰箱")),
    prompts=(LabelPrompts(("大象",), ("一张{}的照片",)), LabelPrompts(("冰箱",), ("一张{}的照片",))),
    format="csv",
    base="/home/li",
    paths=("imgs",),
)
# Every kind of row that is hard to cut: line breaks and quotes in a field, several bytes a character, a formula.
RECORDS: list[Record] = [
    Prediction("a.jpg", (Score("大象", 0.75, 0.3),)),
    Failure('=b "2"\n,象.jpg', "no\r\npicture"),
    Prediction(os.fsdecode(b"caf\xe9.jpg"), (Score("冰箱", 0.5, -0.1),)),
]


def sink_for(output: Path, run: RunInfo = RUN, *, overwrite: bool = False, resume: bool = False) -> ResultSink:
    return open_sink(run, output, io.StringIO(), overwrite=overwrite, resume=resume)


def classify(output: Path, run: RunInfo = RUN, *, overwrite: bool = False, resume: bool = False) -> None:
    with sink_for(output, run, overwrite=overwrite, resume=resume) as sink:
        for record in RECORDS:
            if written_path(record.path) not in sink.done:
                sink.write(record)


def interrupt(output: Path, run: RunInfo = RUN, *, rows: int = 2, overwrite: bool = False) -> None:
    """A run that is cut off after some rows."""
    with pytest.raises(KeyboardInterrupt), sink_for(output, run, overwrite=overwrite) as sink:
        for record in RECORDS[:rows]:
            sink.write(record)
        raise KeyboardInterrupt


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def run_file(output: Path) -> Path:
    return output.with_name(output.name + ".run.json")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.csv"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# A whole run


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_whole_run(output: Path, kind: Format) -> None:
    run = replace(RUN, format=kind)
    with sink_for(output, run) as sink:
        assert sink.partial is None
        for record in RECORDS:
            sink.write(record)
        assert sink.partial == partial(output)
        assert not output.exists()
        assert partial(output).read_bytes().endswith(b"\n")
        assert not json.loads(run_file(output).read_text("utf-8"))["complete"]
    assert sink.partial is None
    assert names(output.parent) == {"out.csv", "out.csv.run.json"}
    assert b"\r\n" in output.read_bytes() or kind == "jsonl"
    kept = read_run(output)
    assert kept is not None and kept.finished is not None
    assert (kept.complete, kept.images, kept.failed) == (True, 3, 1)
    assert kept == replace(run, complete=True, images=3, failed=1, finished=kept.finished, created=kept.created)
    assert "大象" in run_file(output).read_text("utf-8")


def test_a_run_without_images_writes_the_header(output: Path) -> None:
    with sink_for(output):
        pass
    assert output.read_text("utf-8") == "path,status,label,probability,cosine,error\n"


def test_a_run_that_fails_before_its_first_row_leaves_nothing(output: Path) -> None:
    interrupt(output, rows=0)
    assert names(output.parent) == set()


def test_the_file_is_synced_before_it_is_moved(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        synced.append("folder" if folder else "rows" if os.fstat(fd).st_ino == rows else "run file")
        fsync(fd)

    sink = sink_for(output)
    with sink:
        sink.write(RECORDS[0])
        rows = partial(output).stat().st_ino
        monkeypatch.setattr(os, "fsync", watched)
    assert synced == ["rows", "run file", "folder", "folder"]


# What is refused


def test_an_existing_file_is_not_overwritten(output: Path) -> None:
    output.write_text("mine")
    with pytest.raises(OutputError, match=r"exists: --overwrite replaces it, --resume goes on") as caught:
        check_output(output)
    assert caught.value.exit_code == 7
    with pytest.raises(OutputError, match="exists"):
        sink_for(output)
    classify(output, overwrite=True)
    assert output.read_text("utf-8").startswith("path,")


def test_a_partial_file_is_not_overwritten(output: Path) -> None:
    interrupt(output)
    with pytest.raises(OutputError, match=r"out\.csv\.partial holds the rows .*--resume .*--overwrite"):
        check_output(output)
    check_output(output, resume=True)
    classify(output, overwrite=True)
    assert names(output.parent) == {"out.csv", "out.csv.run.json"}


def test_places_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*missing; create it first"):
        check_output(tmp_path / "missing" / "out.csv")
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="not an ordinary file"):
        check_output(Path(os.devnull), overwrite=True)
    with pytest.raises(OutputError, match="File name too long"):
        check_output(tmp_path / ("x" * 300 + ".csv"))
    with pytest.raises(UsageError, match="exclude each other"):
        check_output(tmp_path / "out.csv", overwrite=True, resume=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="cannot be written to"):
        check_output(tmp_path / "out.csv")


def test_a_link_that_leads_nowhere_is_not_lost(output: Path) -> None:
    output.symlink_to("elsewhere")
    with pytest.raises(OutputError):
        check_output(output, overwrite=True)
    assert output.is_symlink()


def test_messages_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        check_output(tmp_path / "a\nb\x1b" / "out.csv")
    assert "a\\x0ab\\x1b" in str(caught.value)


def test_a_file_that_appears_during_the_run_is_not_lost(output: Path) -> None:
    with pytest.raises(OutputError, match=r"move it away, then --resume"), sink_for(output) as sink:
        sink.write(RECORDS[0])
        output.write_text("theirs")
    assert output.read_text() == "theirs"
    assert sink.partial == partial(output)
    with pytest.raises(OutputError, match=r"move it away, then --resume"):
        sink_for(output, resume=True)
    output.unlink()
    classify(output, resume=True)
    assert output.exists()


def test_two_runs_at_once_do_not_mix(output: Path) -> None:
    second = sink_for(output)
    interrupt(output)
    with pytest.raises(OutputError, match=r"File exists; --resume goes on with .*\.partial"), second:
        second.write(RECORDS[0])


# Trouble on the way


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"out\.csv cannot be written: No space left on device; --resume goes on with .*out\.csv\.partial"
    with pytest.raises(OutputError, match=told), sink_for(output) as sink:
        sink.write(RECORDS[0])
        vars(sink)["_stream"].close()
        monkeypatch.setattr(sink, "_stream", Full())
        sink.write(RECORDS[1])
    assert sink.partial == partial(output)
    classify(output, resume=True)
    assert output.read_bytes().count(b"a.jpg") == 1


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    sink = sink_for(folder / "out.csv")
    folder.rmdir()
    with pytest.raises(OutputError, match="No such file"), sink:
        sink.write(RECORDS[0])


def test_an_interrupted_overwrite_keeps_the_earlier_file(output: Path) -> None:
    classify(output)
    before = output.read_bytes()
    interrupt(output, rows=1, overwrite=True)
    assert output.read_bytes() == before
    assert partial(output).exists()
    classify(output, resume=True)
    assert output.read_bytes() == before
    assert not partial(output).exists()


# Resuming


@pytest.mark.parametrize("settings", [{"format": "csv"}, {"format": "csv", "excel": True}, {"format": "jsonl"}])
def test_a_run_cut_at_any_byte_is_completed(output: Path, settings: dict[str, object]) -> None:
    run = replace(RUN, **settings)  # type: ignore[arg-type]
    classify(output, run)
    whole = output.read_bytes()
    for end in range(len(whole) + 1):
        output.unlink()
        partial(output).write_bytes(whole[:end])
        write_run(output, run)
        classify(output, run, resume=True)
        assert output.read_bytes() == whole
        kept = read_run(output)
        assert kept is not None and (kept.complete, kept.images, kept.failed) == (True, 3, 1)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True), st.booleans(), st.data())
def test_resume_writes_every_row_once(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], excel: bool, data: st.DataObject
) -> None:
    output = tmp_path_factory.mktemp("resume") / "out.csv"
    run = replace(RUN, excel=excel)
    with sink_for(output, run) as sink:
        for path in paths:
            sink.write(Failure(path, path))
    end = data.draw(st.integers(0, output.stat().st_size))
    partial(output).write_bytes(output.read_bytes()[:end])
    output.unlink()
    with sink_for(output, run, resume=True) as sink:
        for path in paths:
            if written_path(path) not in sink.done:
                sink.write(Failure(path, path))
    with output.open(encoding="utf-8-sig" if excel else "utf-8", newline="") as file:
        found = [row[0] for row in csv.reader(file)][1:]
    assert [unprotect_cell(path) if excel else path for path in found] == [written_path(path) for path in paths]


def test_resume_knows_what_is_done(output: Path) -> None:
    interrupt(output)
    sink = sink_for(output, resume=True)
    assert sink.done == {"a.jpg": 1, '=b "2"\n,象.jpg': 1}
    assert (sink.already_complete, sink.partial) == (False, partial(output))


def test_resume_without_an_earlier_run_starts_one(output: Path) -> None:
    classify(output, resume=True)
    assert output.exists()


def test_resume_of_a_whole_run_has_nothing_to_do(output: Path) -> None:
    classify(output)
    before = output.stat()
    with sink_for(output, resume=True) as sink:
        assert sink.already_complete
    assert output.stat() == before
    with pytest.raises(OutputError, match="complete already"), sink_for(output, resume=True) as sink:
        sink.write(RECORDS[0])
    assert output.stat() == before


def test_resume_needs_to_know_the_earlier_run(output: Path) -> None:
    interrupt(output)
    run_file(output).unlink()
    with pytest.raises(OutputError, match=r"nothing tells which run .*out\.csv\.partial is from; --overwrite"):
        sink_for(output, resume=True)
    run_file(output).write_text("{}")
    with pytest.raises(OutputError, match=r"run\.json is damaged or from another version"):
        sink_for(output, resume=True)
    run_file(output).write_text("[]")
    with pytest.raises(OutputError, match=r"run\.json is damaged or from another version"):
        sink_for(output, resume=True)
    partial(output).unlink()
    output.write_text("whose?")
    write_run(output, RUN)  # begun, but its partial file is gone
    with pytest.raises(OutputError, match=r"nothing tells which run .*out\.csv is from"):
        sink_for(output, resume=True)


def test_resume_refuses_another_run_and_says_why(output: Path) -> None:
    interrupt(output)
    ants = replace(RUN, labels=(LabelInfo("大象", "大象"), LabelInfo("蚂蚁", "蚂蚁")), top_k=2)
    with pytest.raises(OutputError) as caught:
        sink_for(output, ants, resume=True)
    assert "labels: 大象, 冰箱 then, 大象, 蚂蚁 now; top k: 1 then, 2 now. " in str(caught.value)
    assert partial(output).exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"versions": {}, "created": "", "images": 3, "model": "an alias"}, []),
        ({"fingerprint": "f2"}, ["model: starter fp32 (f1) then, starter fp32 (f2) now"]),
        ({"logit_bias": -10.0}, ["logit bias: None then, -10.0 now"]),
        ({"logit_scale": 100.0}, ["logit scale: 99.7 then, 100.0 now"]),
        ({"activation": "sigmoid"}, ["activation: softmax then, sigmoid now"]),
        ({"format": "jsonl"}, ["format: csv then, jsonl now"]),
        ({"excel": True, "all_scores": True}, ["all scores: False then, True now", "excel: False then, True now"]),
        ({"synonyms": "max"}, ["synonyms: mean then, max now"]),
        ({"background": ("天空", "墙")}, ["background: none then, 天空, 墙 now"]),
        ({"threshold": 0.5}, ["threshold: None then, 0.5 now"]),
        ({"margin": 0.1}, ["margin: 0.0 then, 0.1 now"]),
        ({"unknown_label": "其他"}, ["unknown label: none then, 其他 now"]),
        ({"multi_label": True}, ["multi label: False then, True now"]),
        ({"groups": ("动物", "家电")}, ["groups: none then, 动物, 家电 now"]),
        ({"base": "/b\n"}, ["base: /home/li then, /b\\x0a now"]),
        ({"paths": ()}, ["paths: imgs then, none now"]),
        (
            {"labels": (LabelInfo("大象", "大象 (a)", "a"), LabelInfo("冰箱", "冰箱"))},
            ["labels: 大象, 冰箱 then, 大象 (a), 冰箱 now"],
        ),
        (
            {"prompts": (LabelPrompts(("大象",), ("{}",)), LabelPrompts(("冰箱",), ("一张{}的照片",)))},
            ["prompts of 大象: 一张{}的照片 then, {} now"],
        ),
        ({"prompts": ()}, ["prompts of 大象 and 1 more: 一张{}的照片 then, none now"]),
    ],
)
def test_what_makes_two_runs_differ(changes: dict[str, object], told: list[str]) -> None:
    assert differences(RUN, replace(RUN, **changes)) == told  # type: ignore[arg-type]


def test_long_lists_are_shown_where_they_differ() -> None:
    many = tuple(f"p{i}" for i in range(100))
    (told,) = differences(replace(RUN, paths=many), replace(RUN, paths=(*many[:50], "new", *many[51:])))
    assert told == "paths: …, p50, p51, p52, p53, p54, … then, …, new, p51, p52, p53, p54, … now"
    (told,) = differences(replace(RUN, paths=many), replace(RUN, paths=many[:-1]))
    assert told == "paths: …, p95, p96, p97, p98, p99 then, …, p94, p95, p96, p97, p98 now"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("damage", [b"mine\n", b"\xff\n", b"a,b,c,d,e,f,g,h\n"])
def test_resume_refuses_a_file_that_somebody_changed(output: Path, kind: Format, damage: bytes) -> None:
    run = replace(RUN, format=kind)
    interrupt(output, run)
    written = partial(output).read_bytes()
    for changed in (written + damage, damage + written):
        partial(output).write_bytes(changed)
        with pytest.raises(OutputError, match=r"what stands at byte \d+ was not written by this command"):
            sink_for(output, run, resume=True)
        assert partial(output).read_bytes() == changed


def test_a_run_file_keeps_names_that_are_not_utf8(output: Path) -> None:
    run = replace(RUN, base=os.fsdecode(b"/caf\xe9"), paths=("象\n",))
    write_run(output, run)
    assert read_run(output) == run
    assert "\\udce9" in run_file(output).read_bytes().decode()


def test_a_run_file_keeps_the_rule(output: Path) -> None:
    run = replace(
        RUN, synonyms="max", background=("天空",), threshold=0.5, margin=0.1, unknown_label="?", groups=("动物", "")
    )
    write_run(output, run)
    assert read_run(output) == run and run.layout.groups and run.layout.unknown_label == "?"


def test_another_group_of_many_is_shown_where_it_differs() -> None:
    then = replace(RUN, groups=("a",) * 50)
    assert differences(then, replace(then, groups=("a",) * 49 + ("b",))) == [
        "groups: …, a, a, a, a, a then, …, a, a, a, a, b now"
    ]


@pytest.mark.parametrize("missing", ["background", "groups"])
def test_a_run_file_of_an_older_version_is_refused(output: Path, missing: str) -> None:
    interrupt(output)
    told = json.loads(run_file(output).read_text("utf-8"))
    del told[missing]
    run_file(output).write_text(json.dumps(told), "utf-8")
    with pytest.raises(OutputError, match=r"run\.json is damaged or from another version of clipcls; --overwrite"):
        sink_for(output, resume=True)


def test_there_is_no_run_file(output: Path) -> None:
    assert read_run(output) is None


# Several runs on one file, and ends at awkward moments


@pytest.mark.parametrize("flag", ["overwrite", "resume"])
def test_a_second_run_does_not_write_into_the_first_ones_rows(output: Path, flag: str) -> None:
    interrupt(output, rows=1)
    with sink_for(output, **{flag: True}) as first:
        first.write(RECORDS[0])
        with (
            pytest.raises(OutputError, match=r"another run is writing .*out\.csv"),
            sink_for(output, overwrite=True) as second,
        ):
            second.write(RECORDS[1])
    assert json.loads(run_file(output).read_text("utf-8"))["complete"]
    assert output.read_text("utf-8").count(written_path(RECORDS[0].path)) >= 1
    assert not partial(output).exists()


def test_until_it_is_replaced_a_file_keeps_its_own_run_file(output: Path) -> None:
    classify(output)
    told = run_file(output).read_text("utf-8")
    other = replace(RUN, top_k=1, labels=(LabelInfo("狗", "狗"),), prompts=())
    interrupt(output, other, rows=1, overwrite=True)
    assert run_file(output).read_text("utf-8") == told
    with pytest.raises(OutputError, match="labels: 狗 then"):
        sink_for(output, resume=True)
    with sink_for(output, other, resume=True) as sink:
        assert sink.done.total() == 1
    assert json.loads(run_file(output).read_text("utf-8"))["labels"][0]["name"] == "狗"
    assert names(output.parent) == {"out.csv", "out.csv.run.json"}


def test_a_run_file_of_rows_that_are_gone_is_not_believed(output: Path) -> None:
    other = replace(RUN, labels=(LabelInfo("狗", "狗"),), prompts=())
    classify(output)
    interrupt(output, other, rows=1, overwrite=True)
    for path in (output, partial(output)):
        path.unlink()
    interrupt(output)
    with pytest.raises(OutputError, match=r"labels: 大象, 冰箱 then, 狗 now"):
        sink_for(output, other, resume=True)
    classify(output, resume=True)
    assert names(output.parent) == {"out.csv", "out.csv.run.json"}


def test_an_end_just_before_the_move_is_made_up_for(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as cut:
        cut.setattr("clipcls.sinks.output.move", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            classify(output)
    assert partial(output).exists() and not output.exists()
    with sink_for(output, resume=True) as sink:
        assert sink.done.total() == len(RECORDS)
    assert output.exists() and names(output.parent) == {"out.csv", "out.csv.run.json"}


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_path_that_comes_twice_is_resumed_by_number(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt), sink_for(output) as sink:
        sink.write(RECORDS[0])
        sink.write(RECORDS[0])
        raise KeyboardInterrupt
    assert sink_for(output, resume=True).done == {written_path(RECORDS[0].path): 2}


def test_a_complete_list_from_stdin_cannot_be_resumed(output: Path) -> None:
    listed = replace(RUN, paths=("-",))
    classify(output, listed)
    with pytest.raises(OutputError, match="is complete, for whatever list was read then"):
        sink_for(output, listed, resume=True)
