from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Terminal
from fakes import FakeDoor, picture
from hypothesis import given
from hypothesis import strategies as st

from clipcls.errors import InputError
from clipcls.records import Failure, GroupScore, Prediction, Record, Score
from clipcls.results import is_results, read_results
from clipcls.sinks.cells import rounded, well_formed
from clipcls.sinks.rows import Layout, rows_for

LABELS = ("大象", "冰箱", "=蚂蚁")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NASTY_TEXT = st.text(st.sampled_from("ab'=+-@\t\r\n\"',;＝＋－＠#\\ é象\ufeff\u2028"))
TEXT = ANY_TEXT | NASTY_TEXT
NUMBER = st.floats(-1, 1)


def as_written(score: Score) -> Score:
    return Score(score.label, rounded(score.probability), rounded(score.cosine))


def as_read(record: Record) -> object:
    """What a record says, to the six decimals of a file."""
    if isinstance(record, Failure):
        return record
    group = record.group and (record.group.name, rounded(record.group.probability))
    scores = record.all_scores and tuple(map(as_written, record.all_scores))
    return record.path, tuple(map(as_written, record.ranked)), scores, record.labels, record.uncertain, group


@st.composite
def written(draw: st.DrawFn) -> tuple[Layout, list[Record]]:
    """A layout, and records as ``classify`` makes them for it."""
    names = draw(st.lists(TEXT.map(lambda text: text.replace("|", "!") or "x"), min_size=1, max_size=4, unique=True))
    multi, groups, unsure = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    layout = Layout(
        tuple(names),
        draw(st.integers(1, 5)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(TEXT) if unsure or multi else "",
        multi,
        groups,
        best=unsure or multi,
    )
    return layout, [_record(draw, layout) for _ in range(draw(st.integers(0, 3)))]


def _record(draw: st.DrawFn, layout: Layout) -> Record:
    path = draw(TEXT)
    if draw(st.booleans()):
        return Failure(path, draw(TEXT))
    scores = tuple(Score(name, draw(NUMBER), draw(NUMBER)) for name in layout.columns)
    ranked = tuple(draw(st.permutations(scores)))
    known = 1
    if layout.best:
        known = draw(st.integers(0, len(ranked) if layout.multi_label else 1))
    return Prediction(
        path,
        ranked[: layout.top_k],
        scores if layout.all_scores else None,
        sure=tuple(score.label for score in ranked[:known]),
        group=GroupScore(draw(TEXT), draw(NUMBER)) if layout.groups else None,
    )


@pytest.mark.parametrize("name", ["csv", "jsonl"])
@given(made=written())
def test_records_read_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, made: tuple[Layout, list[Record]]
) -> None:
    layout, records = made
    if name == "jsonl":
        layout = replace(layout, excel=False)
    file = tmp_path_factory.mktemp("written") / f"out.{name}"
    rows = rows_for(name, layout)  # type: ignore[arg-type]
    file.write_bytes((rows.head() + "".join(map(rows.row, records))).encode())
    read = read_results(file)
    assert read.run is None and read.base == Path.cwd()
    assert list(map(as_read, read.records)) == list(map(as_read, records))


@pytest.fixture
def images(here: Path, fake: Callable[..., FakeDoor]) -> Path:
    """A folder with a red, a green and a blue picture, and one that is none."""
    fake()
    for name, colour in {"红": (255, 0, 0), "绿": (0, 255, 0), "蓝": (0, 0, 255)}.items():
        picture(here / "图片" / f"{name}.png", colour)
    (here / "图片" / "坏.png").write_bytes(b"no picture")
    return here / "图片"


@pytest.mark.parametrize("name", ["结果.csv", "结果.jsonl", "结果.ndjson", "结果.CSV"])
@pytest.mark.parametrize("options", [(), ("-k", "3", "--all-scores", "--groups"), ("--threshold", "0.9"), ("--excel",)])
def test_what_classify_wrote(images: Path, clipcls: Terminal, name: str, options: tuple[str, ...]) -> None:
    if "--excel" in options and not name.lower().endswith("csv"):
        pytest.skip("for CSV only")
    Path("labels.csv").write_text("name,group\n红,暖\n绿,冷\n蓝,冷\n")
    clipcls("classify", "图片", "--labels-file", "labels.csv", "-o", name, *options, code=3)
    read = read_results(name)
    assert is_results(name) and read.base == Path.cwd() and read.run is not None and read.run.complete
    found = {record.path: record.labels if isinstance(record, Prediction) else record.error for record in read.records}
    assert {Path(path).stem: answer for path, answer in found.items() if "坏" not in path} == {
        colour: (colour,) for colour in "红绿蓝"
    }
    assert "cannot" in str(found["图片/坏.png"]) or "not" in str(found["图片/坏.png"])
    first = next(record for record in read.records if isinstance(record, Prediction))
    assert len(first.ranked) == (3 if "-k" in options else 1)
    assert (first.all_scores is not None and first.group is not None) == ("--groups" in options)


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_uncertain_and_several_labels(images: Path, clipcls: Terminal, name: str) -> None:
    words = ("classify", "图片/红.png", "-l", "红,绿,蓝", "-o", name, "--overwrite", "--unknown-label", "其他")
    clipcls(*words, "--margin", "1")
    (record,) = read_results(name).records
    assert isinstance(record, Prediction) and record.uncertain and record.top.label == "红"
    clipcls(*words, "--multi-label", "--threshold", "0")
    (record,) = read_results(name).records
    assert isinstance(record, Prediction) and record.labels[0] == "红" and set(record.labels) == {"红", "绿", "蓝"}
    assert record.sure == record.labels


def test_an_answer_that_a_person_corrected(images: Path, clipcls: Terminal) -> None:
    clipcls("classify", "图片/红.png", "-l", "红,绿", "-o", "out.csv", "--threshold", "0.1")
    text = Path("out.csv").read_text()
    # As Excel saves it where decimals have a comma.
    Path("out.csv").write_text("\ufeff" + text.replace("ok,红,红", "ok,绿,红").replace(",", ";").replace(".", ","))
    Path("out.csv").write_text(
        Path("out.csv").read_text().replace("红,png", "红.png").replace("\n", "\r\n"), newline=""
    )
    (record,) = read_results("out.csv").records
    assert isinstance(record, Prediction) and record.labels == ("绿",) and record.top.label == "红"
    assert 0.5 < record.top.probability <= 1


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_a_name_that_is_not_utf_8(here: Path, clipcls: Terminal, fake: Callable[..., FakeDoor], name: str) -> None:
    fake()
    odd = os.fsdecode(b"caf\xe9.png")
    picture(here / "red.png").rename(odd)
    picture(here / "lit\\xe9ral.png")
    clipcls("classify", ".", "-l", "red,blue", "-o", name)
    assert {record.path for record in read_results(name).records} == {odd, "lit\\xe9ral.png"}
    os.unlink(odd)
    gone = next(record.path for record in read_results(name).records if record.path.startswith("caf"))
    assert gone == (odd if name == "out.jsonl" else well_formed(odd))


def test_the_folder_that_paths_start_from(
    images: Path, clipcls: Terminal, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipcls("classify", "图片", "-l", "红,绿", "-o", "out.csv", code=3)
    then, file = Path.cwd(), Path("out.csv").absolute()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert read_results(file).base == then
    images.rename(elsewhere / "图片")
    assert read_results(file).base == elsewhere, "the images have moved"
    (elsewhere / "图片").rename(elsewhere / "away")
    assert read_results(file).base == then, "they are nowhere"
    run = json.loads(Path(f"{file}.run.json").read_text())
    Path(f"{file}.run.json").write_text(json.dumps(run | {"base": str(then / "gone")}))
    assert read_results(file).base == elsewhere


HEAD = "path,status,label,probability,cosine,error\n"
ROW = {"path": "a", "status": "ok", "label": "b", "ranked": [{"label": "b", "probability": 0.5, "cosine": 0.1}]}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("out.csv", None, "No such file"),
        ("out.txt", "", "a .csv or .jsonl file"),
        ("out.csv", "", "columns"),
        ("out.csv", "name,label\na.jpg,b\n", "columns"),
        ("out.csv", HEAD + "a.jpg,ok,b,0.5,0.1,\nb.jpg,ok,b,0.", "line 3"),
        ("out.csv", HEAD + 'a.jpg,ok,b,0.5,0.1,\n"b.jpg,ok,b\n', "line"),
        ("out.csv", HEAD + "a.jpg,ok,b,half,0.1,\n", "line 2"),
        ("out.csv", HEAD + "a.jpg,fine,b,0.5,0.1,\n", "'fine'"),
        ("out.csv", (HEAD + "象.jpg,ok,b,0.5,0.1,\n").encode("gbk"), "UTF-8"),
        ("out.jsonl", b"\xff\xfe\n", "UTF-8"),
        ("out.jsonl", "[]\n", "line 1"),
        ("out.jsonl", "{}\n", "no 'path'"),
        ("out.jsonl", json.dumps(ROW) + '\n{"path": "b', "line 2"),
        ("out.jsonl", json.dumps(ROW | {"path_bytes": "*"}) + "\n", "line 1"),
        ("out.jsonl", json.dumps(ROW | {"ranked": []}) + "\n", "line 1"),
        ("out.jsonl", json.dumps(ROW | {"ranked": None}) + "\n", "line 1"),
        ("out.jsonl", json.dumps(ROW | {"path": 5}) + "\n", "int in place of a text"),
        ("out.jsonl", json.dumps(ROW | {"label": None}) + "\n", "NoneType in place of a text"),
        ("out.jsonl", json.dumps(ROW).replace("0.5", "NaN") + "\n", "the number nan"),
        ("out.jsonl", json.dumps(ROW).replace("0.5", "9" * 400) + "\n", "too large"),
        ("out.jsonl", "[" * 100_000 + "\n", "line 1"),
        ("out.csv", HEAD + "a.jpg,ok,b,1e999,0.1,\n", "the number inf"),
        ("out.csv", HEAD.replace("error", "label_2,error") + "a.jpg,ok,b,0.5,0.1,c,\n", "no 'probability_2'"),
    ],
)
def test_what_is_no_result_file(here: Path, name: str, content: str | bytes | None, told: str) -> None:
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_results(name)
    assert name in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_run_file(images: Path, clipcls: Terminal) -> None:
    clipcls("classify", "图片/红.png", "-l", "红,绿", "-o", "out.csv")
    run = json.loads(Path("out.csv.run.json").read_text("utf-8"))
    bad = ({"base": 5}, {"top_k": "1"}, {"temperature": 1e999}, {"groups": [1]}, {"labels": 1})
    for text in ("{", "[]", "[" * 100_000, *(json.dumps(run | each) for each in bad)):
        Path("out.csv.run.json").write_text(text)
        with pytest.raises(InputError, match=r"out\.csv\.run\.json.*move it away"):
            read_results("out.csv")
    Path("out.csv.run.json").unlink()
    assert read_results("out.csv").run is None


def test_empty_lines_do_no_harm(here: Path) -> None:
    Path("out.csv").write_text(HEAD + "\na.jpg,ok,b,0.5,0.1,\n\n")
    Path("out.jsonl").write_text("\ufeff" + json.dumps(ROW) + "\n\n")
    assert len(read_results("out.csv").records) == len(read_results("out.jsonl").records) == 1


def test_names_of_result_files(here: Path) -> None:
    (here / "folder.csv").mkdir()
    assert is_results("a.csv") and is_results("a.JSONL") and is_results(Path("x/a.ndjson"))
    assert not any(map(is_results, ("a.png", "folder.csv", "a.csv.partial", "csv")))
