"""The command line in this process, with a fake model: flags in, records, messages and exit codes out."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Terminal
from fakes import FakeDoor, FakeEncoder, picture

from clipcls.encoders.spec import STARTER_FOLDER
from clipcls.errors import OutOfMemory

Install = Callable[..., FakeDoor]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def imgs(here: Path) -> Path:
    picture(here / "imgs" / "红.png", RED)
    picture(here / "imgs" / "sub" / "green.png", GREEN)
    picture(here / "imgs" / "zz.jpg", BLUE)
    return Path("imgs")


def test_ranks_labels_for_every_image(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    rows = clipcls.rows("classify", imgs, "--labels", "red，green、blue")
    assert [(row["path"], row["status"], row["label"]) for row in rows] == [
        ("imgs/sub/green.png", "ok", "green"),
        ("imgs/zz.jpg", "ok", "blue"),
        ("imgs/红.png", "ok", "red"),
    ]
    assert list(rows[0]) == ["path", "status", "label", "probability", "cosine", "error"]
    assert all(0.9 < float(row["probability"]) <= 1 and len(row["cosine"].split(".")[1]) == 6 for row in rows)
    assert "3 images, 0 failed" in clipcls.err and "0 from the cache" in clipcls.err


def test_chinese_labels_use_chinese_prompts_and_others_english(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    encoder = fake().encoder
    clipcls("classify", imgs, "--labels", "红色,green")
    assert "这是一张有关红色的照片" in encoder.texts and "a photo of a green" in encoder.texts
    assert not any("green" in text and "照片" in text for text in encoder.texts)


def test_prompts_may_be_a_name_a_file_and_a_template(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    encoder = fake().encoder
    Path("own.txt").write_text("the colour <label>\n", "utf-8")
    clipcls("classify", imgs, "-l", "red,blue", "-p", "plain", "-p", "own.txt", "-p", "one {c} wall")
    assert encoder.texts == ["red", "the colour red", "one red wall", "blue", "the colour blue", "one blue wall"]


def test_top_k_and_all_scores(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    rows = clipcls.rows("classify", imgs / "zz.jpg", "--labels", "red,green,blue", "--top-k", "2", "--all-scores")
    assert list(rows[0]) == (
        ["path", "status", "label", "probability", "cosine", "label_2", "probability_2", "cosine_2"]
        + [f"{what}:{label}" for what in ("probability", "cosine") for label in ("red", "green", "blue")]
        + ["error"]
    )
    assert rows[0]["cosine:blue"] == rows[0]["cosine"] and rows[0]["probability:blue"] == rows[0]["probability"]
    assert sum(float(rows[0][f"probability:{label}"]) for label in ("red", "green", "blue")) == pytest.approx(
        1, abs=3e-6
    )
    wide = clipcls.rows("classify", imgs / "zz.jpg", "--labels", "red,green", "--top-k", "9")
    assert "label_2" in wide[0] and "label_3" not in wide[0]


def test_labels_from_a_file_and_duplicates(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    Path("labels.txt").write_text("# colours\nred\nred\nblue\n", "utf-8")
    rows = clipcls.rows("classify", imgs / "红.png", "--labels", "green", "--labels-file", "labels.txt", "-k", "3")
    assert {rows[0][key] for key in ("label", "label_2", "label_3")} == {"green", "red", "blue"}
    assert "dropped labels given more than once: red" in clipcls.err


def test_one_bad_image_is_a_row_and_exit_code_3(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    (imgs / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (imgs / "empty.png").touch()
    rows = clipcls.rows("classify", imgs, "--labels", "red,blue", code=3)
    assert [row["status"] for row in rows] == ["error", "error", "ok", "ok", "ok"]
    assert rows[1]["error"] == "the file is empty" and rows[1]["label"] == ""
    assert "5 images, 2 failed" in clipcls.err
    clipcls.rows("classify", imgs, "--labels", "red,blue", code=3)
    assert "5 from the cache" in clipcls.err


def test_fresh_cached_and_uncached_runs_agree_to_the_byte(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    door = fake()
    words = ("classify", imgs, "--labels", "red,green,blue", "-k", "3", "--all-scores")
    fresh = clipcls(*words)
    loads = door.loads
    assert clipcls(*words) == fresh and door.loads == loads
    assert "3 from the cache" in clipcls.err
    assert clipcls(*words, "--no-cache", "--batch-size", "1") == fresh and door.loads == loads + 1
    assert "0 from the cache" in clipcls.err


def test_jsonl_nests_the_ranking(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    name = os.fsdecode(b"imgs/caf\xe9.png")
    picture(Path(name), GREEN)
    (imgs / "bad.jpg").touch()
    lines = clipcls("classify", imgs, "--labels", "红,绿", "-k", "2", "--format", "jsonl", code=3).splitlines()
    bad, odd, *rest = map(json.loads, lines)
    assert bad["status"] == "error" and bad["ranked"] == [] and bad["error"] == "the file is empty"
    assert odd["path"] == "imgs/caf\\xe9.png" and base64.b64decode(odd["path_bytes"]) == b"imgs/caf\xe9.png"
    assert [score["label"] for score in odd["ranked"]] == ["绿", "红"]
    assert all(record["path_bytes"] is None for record in rest) and '"红"' in lines[-1]


def test_a_table_can_be_asked_for(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    table = clipcls("classify", imgs, "--labels", "red,green", "--format", "table")
    assert "probability" in table.splitlines()[0] and "█" in table and "imgs/红.png" in table


def test_excel(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    picture(Path("=cmd.png"), RED)
    clipcls("classify", "=cmd.png", "--labels", "=red,-blue", "--excel", "-o", "out.csv")
    data = Path("out.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    row = next(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert (row["path"], row["label"]) == ("'=cmd.png", "'=red")


def test_output_file_and_its_run_file(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    assert clipcls("classify", imgs, "--labels", "red,蓝", "-p", "plain", "-o", "out.csv") == ""
    assert not Path("out.csv.partial").exists() and len(Path("out.csv").read_text("utf-8").splitlines()) == 4
    told = json.loads(Path("out.csv.run.json").read_text("utf-8"))
    assert told["complete"] and (told["images"], told["failed"]) == (3, 0)
    assert [label["name"] for label in told["labels"]] == ["red", "蓝"]
    assert told["prompts"] == [{"labels": ["red", "蓝"], "templates": ["{label}"]}]
    assert told["fingerprint"] == "oc1-fake" and told["logit_scale"] == 20.0 and told["base"] == str(Path.cwd())
    assert {"clipcls", "open_clip_torch", "torch"} <= set(told["versions"])


def test_an_existing_file_is_never_overwritten_silently(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    door = fake()
    Path("out.csv").write_text("mine")
    clipcls("classify", imgs, "--labels", "red,blue", "-o", "out.csv", code=7)
    assert "--overwrite" in clipcls.err and Path("out.csv").read_text() == "mine" and door.loads == 0
    clipcls("classify", imgs, "--labels", "red,blue", "-o", "out.csv", "--overwrite")
    assert Path("out.csv").read_text("utf-8").startswith("path,status")


class Cut(FakeEncoder):
    """Stops after some images, as a killed run would."""

    left = 5

    def encode_images(self, batch):  # type: ignore[no-untyped-def]
        self.left -= len(batch)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode_images(batch)


def test_a_cut_off_run_is_resumed(fake: Install, here: Path, clipcls: Terminal) -> None:
    for i in range(12):
        picture(here / "imgs" / f"{i:02}.png", (20 * i, 0, 90))
    (here / "imgs" / "03.png").write_bytes(b"")
    words = ("classify", "imgs", "--labels", "red,blue", "--batch-size", "2", "-o", "out.csv")
    fake(Cut())
    clipcls(*words, code=130)
    assert "out.csv.partial; the same command with --resume goes on" in clipcls.err
    with Path("out.csv.partial").open("a", encoding="utf-8") as partial:
        partial.write('imgs/04.png,ok,"re')
    fake()
    clipcls(*words, code=7)
    assert "--resume goes on with it, --overwrite starts over" in clipcls.err
    clipcls("classify", "imgs", "--labels", "red,green", "-o", "out.csv", "--resume", code=7)
    assert "labels: red, blue then, red, green now" in clipcls.err
    encoder = fake().encoder
    clipcls(*words, "--resume", code=3)
    assert "done before; " in clipcls.err and sum(encoder.image_batches) == 11 - 4
    resumed = Path("out.csv").read_text("utf-8")
    clipcls("classify", "imgs", "--labels", "red,blue", "-o", "whole.csv", code=3)
    assert resumed == Path("whole.csv").read_text("utf-8")
    clipcls(*words, "--resume", code=3)
    assert "nothing to do: the file is complete" in clipcls.err
    assert json.loads(Path("out.csv.run.json").read_text("utf-8"))["failed"] == 1


def test_a_path_that_comes_twice_is_resumed_by_number(
    fake: Install, imgs: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    lines = b"imgs/zz.jpg\nimgs/zz.jpg\n" + "imgs/红.png\n".encode() + b"imgs/zz.jpg\n"
    words = ("classify", "-", "--labels", "red,blue", "-o", "out.csv")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    clipcls(*words)
    whole = Path("out.csv").read_text("utf-8")
    Path("out.csv").rename("out.csv.partial")
    Path("out.csv.partial").write_text("".join(whole.splitlines(keepends=True)[:2]), "utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    clipcls(*words, "--resume")
    assert Path("out.csv").read_text("utf-8") == whole and "1 done before; 3 images" in clipcls.err


def test_another_choice_of_images_is_another_run(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("classify", imgs, "--labels", "red,blue", "-o", "out.csv", "--limit", "1")
    clipcls("classify", imgs, "--labels", "red,blue", "-o", "out.csv", "--resume", code=7)
    assert "limit: 1 then, None now" in clipcls.err


def test_a_giant_file_is_one_bad_row(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    with (imgs / "big.tif").open("wb") as file:
        file.truncate(3 << 40)
    rows = clipcls.rows("classify", imgs, "--labels", "red,blue", code=3)
    assert rows[0]["error"].startswith("3298.5 GB is too large for a picture (allow more: --max-pixels")
    assert len(rows) == 4


def test_stdin_lists_paths(fake: Install, imgs: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    fake()

    def piped(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    piped("imgs/zz.jpg\r\n\nimgs/红.png\nimgs/gone.png\n".encode())
    rows = clipcls.rows("classify", "-", "--labels", "red,blue", code=3)
    assert [(row["path"], row["label"]) for row in rows[:2]] == [("imgs/zz.jpg", "blue"), ("imgs/红.png", "red")]
    assert rows[2]["error"] == "cannot be read: No such file or directory"
    Path("a\nb.png").write_bytes((imgs / "红.png").read_bytes())
    piped(b"a\nb.png\0imgs/zz.jpg\0")
    rows = clipcls.rows("classify", "-", "-0", "--labels", "red,blue")
    assert [(row["path"], row["label"]) for row in rows] == [("a\nb.png", "red"), ("imgs/zz.jpg", "blue")]


def test_what_is_looked_at_can_be_chosen(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()

    def paths(*words: str) -> list[str]:
        return [row["path"] for row in clipcls.rows("classify", imgs, "--labels", "red,blue", *words)]

    assert paths("--no-recursive") == ["imgs/zz.jpg", "imgs/红.png"]
    assert paths("--include", "*.png") == ["imgs/sub/green.png", "imgs/红.png"]
    assert paths("--exclude", "sub") == ["imgs/zz.jpg", "imgs/红.png"]
    assert paths("--limit", "1") == ["imgs/sub/green.png"]


def test_camera_files_are_counted(
    fake: Install, imgs: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    monkeypatch.setattr("clipcls.sources.selection.find_spec", lambda name: None)
    for name in ("a.HEIC", "b.heic", "c.nef"):
        (imgs / name).write_bytes(b"?")
    assert len(clipcls.rows("classify", imgs, "--labels", "red,blue")) == 3
    assert "skipped 2 .heic, 1 .nef (pip install 'clipcls[camera]' reads them)" in clipcls.err
    for path in imgs.rglob("*.[pj]*g"):
        path.unlink()
    clipcls("classify", imgs, "--labels", "red,blue", code=3)
    assert "no images found in imgs; skipped 2 .heic" in clipcls.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["imgs"], 2, "no labels given: name at least one"),
        (["imgs", "--labels", " ，、,"], 2, "no labels given"),
        (["imgs", "--labels-file", "none.txt"], 2, "cannot read labels from none.txt"),
        (["imgs", "--labels", "a", "--prompts", "nope"], 2, "no prompt set named 'nope'"),
        (["imgs", "--labels", "a", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["imgs", "--labels", "a", "--format", "xml"], 2, "unknown format 'xml': use table, csv, jsonl"),
        (["imgs", "--labels", "a", "-o", "out.xlsx"], 2, "unknown suffix"),
        (["imgs", "--labels", "a", "-o", "out.jsonl", "--excel"], 2, "--excel is for CSV"),
        (["imgs", "--labels", "a", "--resume"], 2, "--overwrite and --resume are for a file"),
        (["imgs", "--labels", "a", "-o", "o.csv", "--resume", "--overwrite"], 2, "exclude each other"),
        (["imgz", "--labels", "a"], 3, "imgz"),
        (["empty", "--labels", "a"], 3, "no images found in empty"),
        (["imgs/*.bmp", "--labels", "a"], 3, "imgs/*.bmp"),
        (["imgs", "--labels", "a", "--model", "what"], 4, "unknown model 'what'"),
        (["imgs", "--labels", "a", "--model", ""], 4, "the model's name is empty"),
        (["imgs", "--labels", "a", "--model", "./nowhere"], 4, "no model folder nowhere"),
        (["imgs", "--labels", "a", "--model", "./empty"], 4, "holds no open_clip_config.json"),
        (["imgs", "--labels", "a", "-o", "no/such/out.csv"], 7, "there is no folder"),
        (["imgs", "--labels", "a", "-o", "empty.csv"], 7, "empty.csv is a folder"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    fake: Install, imgs: Path, clipcls: Terminal, words: list[str], code: int, message: str
) -> None:
    fake()
    Path("empty").mkdir()
    Path("empty.csv").mkdir()
    clipcls("classify", *words, code=code)
    (line,) = (line for line in clipcls.err.splitlines() if "using the built-in" not in line)
    assert line.startswith("error: ") and message in line


def test_flags_that_typer_refuses_exit_with_2(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    for words in (["--top-k", "0"], ["--batch-size", "0"], ["--nonsense"]):
        clipcls("classify", imgs, "--labels", "a", *words, code=2)


def test_an_unexpected_error_is_one_line(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    class Bug(FakeEncoder):
        def encode_images(self, batch):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("two\nlines")

    fake(Bug())
    clipcls("classify", imgs, "--labels", "a,b", code=1)
    assert "error: unexpected: ZeroDivisionError: two lines; run it again with --debug" in clipcls.err


def test_no_memory_for_one_image_exits_with_5(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    class Full(FakeEncoder):
        def encode_images(self, batch):  # type: ignore[no-untyped-def]
            raise OutOfMemory("out of memory: use a smaller --batch-size or --device cpu")

    fake(Full())
    clipcls("classify", imgs, "--labels", "a,b", code=5)
    assert "error: out of memory" in clipcls.err


def test_a_cache_that_cannot_be_used_does_not_stop_the_run(
    fake: Install, imgs: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    Path("file").write_text("no folder")
    monkeypatch.setenv("CLIPCLS_CACHE_DIR", str(Path("file/cache").absolute()))
    assert len(clipcls.rows("classify", imgs, "--labels", "red,blue")) == 3
    assert "this run keeps no embeddings" in clipcls.err
    clipcls("cache", "info", code=6)


def test_the_starter_says_what_it_is(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("classify", imgs, "--labels", "red,blue")
    assert len([line for line in clipcls.err.splitlines() if "starter" in line and "--model" in line]) == 1
    clipcls("classify", imgs, "--labels", "red,blue", "--quiet")
    assert clipcls.err == ""
    clipcls("classify", imgs, "--labels", "red,blue", "--model", "fake/one")
    assert "starter" not in clipcls.err
    clipcls("classify", imgs, "--labels", "red,blue", "--model", str(STARTER_FOLDER))
    assert "using the built-in starter model" in clipcls.err


def test_an_english_model_says_that_it_reads_no_chinese(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake(languages=("en",))
    clipcls("classify", imgs, "--labels", "红,green", "--model", "fake/one")
    assert "fake/one was trained on English" in clipcls.err and "红" in clipcls.err
    clipcls("classify", imgs, "--labels", "red,green", "--model", "fake/one")
    assert "trained on English" not in clipcls.err


def test_a_single_label_always_wins_and_that_is_said(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    assert {row["probability"] for row in clipcls.rows("classify", imgs, "--labels", "red")} == {"1.000000"}
    assert "with one label the probability is always 1" in clipcls.err


def test_long_prompts_are_reported_also_from_the_cache(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    for _ in range(2):
        clipcls("classify", imgs, "--labels", "red," + "very " * 20 + "blue", "-p", "plain")
        assert "1 of 2 prompts are longer than the model's 77 tokens" in clipcls.err


def test_settings_choose_the_model(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    Path("clipcls.toml").write_text('model = "other/one"\nprompts = "plain"\n')
    clipcls("classify", imgs, "--labels", "red,blue", "-o", "out.jsonl")
    told = json.loads(Path("out.jsonl.run.json").read_text("utf-8"))
    assert told["model"] == "other/one" and told["prompts"][0]["templates"] == ["{label}"]


def test_cache_commands(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("classify", imgs, "--labels", "red,blue", "-p", "plain")
    folder = clipcls("cache", "path").strip()
    assert folder == os.environ["CLIPCLS_CACHE_DIR"]
    info = clipcls("cache", "info")
    assert "3 image and 2 text embeddings" in info and "oc1-fake" in info and folder in info
    (imgs / "zz.jpg").unlink()
    assert "would drop 1 image and 0 text embeddings, 1 files" in clipcls("cache", "prune", "--dry-run")
    assert "dropped 1 image and 0 text embeddings" in clipcls("cache", "prune")
    clipcls("cache", "clear", code=2)
    assert "add --yes" in clipcls.err
    assert "deleted 2 image and 2 text embeddings" in clipcls("cache", "clear", "--yes")
    assert "0 image and 0 text embeddings" in clipcls("cache", "info")


def test_version_and_help(clipcls: Terminal) -> None:
    from clipcls import __version__

    assert clipcls("--version") == f"clipcls {__version__}\n"
    assert "classify" in clipcls("--help") and "--labels" in clipcls("classify", "--help")


def test_what_was_set_aside_is_told(own_folders: Path, clipcls: Terminal) -> None:
    aside = own_folders / "cache" / "embeddings.sqlite3.damaged-20200101-000000"
    aside.parent.mkdir()
    aside.touch()
    said = clipcls("cache", "info")
    assert f"set aside because it was damaged or newer: {aside} (clipcls cache clear deletes it)" in said
