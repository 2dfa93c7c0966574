"""``clipcls prompts`` and ``clipcls labels``: what they print, write and answer."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Terminal
from fakes import FakeDoor

from clipcls.labelfiles import load_labels
from clipcls.labels import label_set
from clipcls.library import set_names
from clipcls.promptfiles import load_prompts

Install = Callable[..., FakeDoor]


@pytest.fixture
def user(own_folders: Path) -> Path:
    folder = own_folders / "config" / "clipcls" / "prompts"
    (folder / "labels").mkdir(parents=True)
    return folder


# prompts list, show, path


def test_list_shows_which_set_wins(here: Path, user: Path, clipcls: Terminal) -> None:
    Path("prompts").mkdir()
    Path("prompts/zh.toml").write_text('language = "zh"\ndescription = "ours"\ntemplates = ["我{}", "{}"]', "utf-8")
    Path("prompts/labels.json").write_text('{"cat": ["a cat"], "dog": ["a dog"]}')
    (user / "zh.txt").write_text("{}")
    rows = clipcls.rows("prompts", "list")
    assert [(row["from"], row["when"], row["templates"]) for row in rows if row["name"] == "zh"][:2] == [
        ("project", "ours", "2"),
        ("user (hidden)", "", "1"),
    ]
    assert [row["from"] for row in rows if row["name"] == "zh"][2] == "shipped (hidden)"
    assert {row["name"] for row in rows} == set(set_names("prompts"))
    assert next(row["templates"] for row in rows if row["name"] == "labels") == "0 + 2 labels' own"
    assert clipcls.err == ""


def test_list_says_what_cannot_be_used(here: Path, clipcls: Terminal) -> None:
    Path("prompts").mkdir()
    Path("prompts/bad.toml").write_bytes(b"\0")
    row = next(row for row in clipcls.rows("prompts", "list") if row["name"] == "bad")
    assert row["when"].startswith("cannot be used: prompts/bad.toml: a binary file")


def test_show_counts_tokens(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    Path("a.txt").write_text("a {}\n" + "a " * 40 + "{}\n")
    rows = clipcls.rows("prompts", "show", "a.txt", "--labels", "ant|bee")
    assert [(row["prompt"][:8], row["tokens"], row["cut off"]) for row in rows] == [
        ("a ant", "5", ""),
        ("a a a a ", "77", "its end is not read"),
        ("a bee", "5", ""),
        ("a a a a ", "77", "its end is not read"),
    ]
    assert "a  2 templates" in clipcls.err


@pytest.mark.parametrize(
    ("wanted", "prompts"),
    [
        ("一张{label}的画", ["一张大象的画"]),
        ("a drawing of {类别}", ["a drawing of elephant"]),
        ("zh-plain", ["一张大象的照片"]),
        ("plain", ["elephant"]),
        ("own.json", ["a cat", "a dog"]),
    ],
)
def test_show_has_examples(fake: Install, here: Path, clipcls: Terminal, wanted: str, prompts: list[str]) -> None:
    fake()
    Path("own.json").write_text('{"cat": ["a cat"], "dog": ["a dog"]}')
    assert [row["prompt"] for row in clipcls.rows("prompts", "show", wanted)] == prompts


def test_show_takes_a_label_set(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    rows = clipcls.rows("prompts", "show", "plain", "--labels-file", "cifar-10")
    assert "airplane" in [row["prompt"] for row in rows]


def test_path_tells_a_sets_file_and_the_folders(here: Path, user: Path, clipcls: Terminal) -> None:
    assert clipcls("prompts", "path", "zh").strip() == str(ROOT / "prompts" / "zh.toml")
    assert clipcls("prompts", "path").splitlines() == [str(here / "prompts"), str(user), str(ROOT / "prompts")]
    clipcls("prompts", "path", "nothing", code=2)
    assert clipcls.err.startswith("error: no prompt set named 'nothing'")


# prompts new


def test_new_edit_check_use(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    assert clipcls("prompts", "new", "prompts/my own") == ""
    assert clipcls.err == (
        "wrote prompts/my own.toml; now edit it, check it with: clipcls prompts check 'prompts/my own.toml'\n"
    )
    clipcls("prompts", "check", "prompts/my own.toml")
    assert clipcls.out == "" and clipcls.err.endswith("1 file: 0 errors, 0 warnings\n")
    clipcls("prompts", "new", "prompts/my own", code=2)
    assert "prompts/my own.toml exists and stays as it is" in clipcls.err


def test_new_from_another(here: Path, clipcls: Terminal) -> None:
    clipcls("prompts", "new", "a.toml", "--from", "imagenet-7")
    assert load_prompts("a.toml").templates == load_prompts("imagenet-7").templates
    clipcls("prompts", "new", "b.toml", "--from", "nothing", code=2)
    assert not Path("b.toml").exists()


def test_a_new_set_where_nothing_can_be_written(here: Path, clipcls: Terminal) -> None:
    Path("file").touch()
    clipcls("prompts", "new", "file/a.toml", code=7)
    assert clipcls.err.startswith("error: file/a.toml cannot be written: ")


# prompts edit


def editor(monkeypatch: pytest.MonkeyPatch, code: str, variable: str = "EDITOR") -> None:
    script = Path("my editor.py")
    script.write_text(f"import sys\nfrom pathlib import Path\nfile = Path(sys.argv[-1])\n{code}\n")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv(variable, shlex.join([sys.executable, str(script), "--wait"]))


@pytest.mark.parametrize("variable", ["EDITOR", "VISUAL"])
@pytest.mark.parametrize(
    ("written", "code", "told"),
    [
        ("a {}", 0, "1 file: 0 errors, 0 warnings\n"),
        ("a {} {类别}", 0, "1 file: 0 errors, 1 warning\n"),
        ("a photo\\n｛", 2, "1 file: 3 errors, 0 warnings\n"),
    ],
)
def test_edit_checks_on_save(
    here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch, variable: str, written: str, code: int, told: str
) -> None:
    Path("a.txt").write_text("{}")
    editor(monkeypatch, f"file.write_text('{written}', 'utf-8')", variable)
    clipcls("prompts", "edit", "a.txt", code=code)
    assert clipcls.err.endswith(told) and Path("a.txt").read_text("utf-8") == written.replace("\\n", "\n")
    assert len(clipcls.out.splitlines()) == int(told[8]) + int(told[18])


def test_edit_takes_no_template(here: Path, clipcls: Terminal) -> None:
    clipcls("prompts", "edit", "a photo of", code=2)
    assert "'a photo of' has no place for the label: write {label} or {类别} into it" in clipcls.err


def test_edit_opens_the_set_that_wins(
    here: Path, user: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user / "zh.txt").write_text("{}")
    editor(monkeypatch, "file.write_text('mine {}')")
    clipcls("prompts", "edit", "zh")
    assert load_prompts("zh").templates == ("mine {}",)


def test_a_person_may_edit_again_until_it_is_right(
    here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Keyboard(io.StringIO):
        def isatty(self) -> bool:
            return True

    Path("a.txt").write_text("")
    editor(monkeypatch, "file.write_text(file.read_text() + ('{}' if file.read_text() else 'a '))")
    monkeypatch.setattr("sys.stdin", Keyboard("y\n"))
    clipcls("prompts", "edit", "a.txt")
    assert Path("a.txt").read_text() == "a {}" and "1 error, 0 warnings" in clipcls.err
    Path("a.txt").write_text("")
    monkeypatch.setattr("sys.stdin", Keyboard("n\n"))
    clipcls("prompts", "edit", "a.txt", code=2)
    assert Path("a.txt").read_text() == "a "


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("no-such-editor --wait", 2, "the editor 'no-such-editor --wait' cannot be started: [Errno 2] No such file"),
        ("vi 'unclosed", 2, "cannot be started: No closing quotation; set EDITOR to one that can"),
        (f"{shlex.quote(sys.executable)} -c 'raise SystemExit(3)'", 1, "failed with exit code 3"),
    ],
)
def test_an_editor_that_does_not_work(
    here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch, command: str, code: int, message: str
) -> None:
    Path("a.txt").write_text("{}")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", command)
    clipcls("prompts", "edit", "a.txt", code=code)
    assert message in clipcls.err and len(clipcls.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("zh", "zh comes with clipcls and stays as it is; clipcls prompts new prompts/zh.toml --from zh makes a copy"),
        ("no.toml", "no.toml: no such file; clipcls prompts new no.toml makes one"),
        ("nothing", "no prompt set named 'nothing'"),
    ],
)
def test_what_cannot_be_edited(
    here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch, wanted: str, message: str
) -> None:
    editor(monkeypatch, "raise SystemExit(9)")
    clipcls("prompts", "edit", wanted, code=2)
    assert message in clipcls.err


# prompts check


def test_check_tells_every_fault_of_every_file(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    Path("a.txt").write_text("a ant {}\n" + "a " * 40 + "{}\n")
    Path("b.json").write_text('{"x": ["{c}",\n"{c} {}"], "y": ["｛{c}"]}', "utf-8")
    out = clipcls("prompts", "check", "a.txt", "b.json#x", "zh", "-l", "ant,bee", code=0)
    assert [line.split(" ", 1)[0] for line in out.splitlines()] == ["a.txt:1:1:", "a.txt:2:1:", "b.json:2:6:"]
    assert clipcls.err.endswith("3 files: 0 errors, 3 warnings\n")
    out = clipcls("prompts", "check", "b.json#y", code=2)
    assert out == "b.json:2:19: error: a full-width brace ｛: write {类别} with plain braces\n"
    out = clipcls("--lang", "zh", "prompts", "check", "b.json#y", code=2)  # an editor reads the place and the severity
    assert out.startswith("b.json:2:19: error: 全角") and not re.search("[a-z]{3}", out[len("b.json:2:19: error") :])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9", "a.txt:1:4: error: not UTF-8, UTF-16 or GBK text; save the file as UTF-8 and try again"),
        ("a.toml", b"\x89PNG\0", "a.toml:1:1: error: a binary file, not text; name a text file of prompt templates"),
        ("a.json", b"[1", "a.json:1:3: error: not valid JSON: Expecting ',' delimiter"),
        (
            "a.toml",
            None,
            "a.toml:1:1: error: cannot read prompt templates from a.toml: Is a directory; name a text file",
        ),
        (
            "b.toml",
            None,
            "b.toml:1:1: error: cannot read prompt templates from b.toml: No such file or directory; name",
        ),
        ("c.txt", b"\x1b[1m\xe2\x80\xaea", r"c.txt:1:1: error: no place for the label: write {label} or {类别} into "),
    ],
)
def test_check_is_safe_on_any_file(
    fake: Install, here: Path, clipcls: Terminal, name: str, content: bytes | None, message: str
) -> None:
    fake()
    Path("a.toml").mkdir() if content is None else Path(name).write_bytes(content)
    out = clipcls("prompts", "check", name, code=2)
    assert out.startswith(message) and len(out.splitlines()) == 1 and "\x1b" not in out
    assert clipcls.err.endswith("1 file: 1 error, 0 warnings\n")


def test_check_reads_gbk_and_utf_16(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    Path("a.txt").write_bytes("一张{类别}的照片".encode("gbk"))
    Path("b.txt").write_bytes("一张{类别}的照片".encode("utf-16"))
    assert clipcls("prompts", "check", "a.txt", "b.txt") == ""


def test_check_goes_on_without_a_model(here: Path, clipcls: Terminal) -> None:
    Path("a.txt").write_text("{}")
    clipcls("prompts", "check", "a.txt", "--model", "hf-hub:no/thing")
    assert "warning: lengths are not checked: " in clipcls.err and "0 errors" in clipcls.err


def test_check_of_no_set_is_an_error(here: Path, clipcls: Terminal) -> None:
    clipcls("prompts", "check", "nothing", code=2)
    assert clipcls.err.startswith("error: no prompt set named 'nothing'")


# labels


def test_labels_list_shows_which_set_wins(here: Path, user: Path, clipcls: Terminal) -> None:
    (user / "labels" / "cifar-10.txt").write_text("a\n\n# b\nc\n")
    (user / "labels" / "bad.toml").write_text("labels = 3")
    (user / "prompts.toml").write_text("templates = ['{}']")
    rows = {(row["name"], row["from"]): row for row in clipcls.rows("labels", "list")}
    assert rows["cifar-10", "user"]["labels"] == "2"
    assert rows["cifar-10", "shipped (hidden)"]["labels"] == "10"
    assert rows["imagenet-1k-zh", "shipped"]["labels"] == "1000"
    assert rows["bad", "user"]["when"].startswith("cannot be used: ") and ("prompts", "user") not in rows


def test_labels_show_has_only_columns_that_say_something(here: Path, clipcls: Terminal) -> None:
    Path("a.txt").write_text("cat\ndog\ncat\n")
    assert clipcls("labels", "show", "a.txt") == "name\ncat\ndog\n"
    assert "dropped labels given more than once: cat" in clipcls.err


def test_what_labels_show_prints_is_a_file_of_the_same_labels(here: Path, clipcls: Terminal) -> None:
    Path("a.toml").write_text(
        '[[labels]]\nname = "大象"\nsynonyms = ["象", "elephant"]\ntemplates = ["a", "b"]\n'
        '[[labels]]\nname = "crane"\nid = "b"\ngroup = "birds"\ndisplay = "鹤"',
        "utf-8",
    )
    shown = clipcls("labels", "show", "a.toml")
    assert shown == "name,id,synonyms,display,templates,group\n大象,,象|elephant,,a|b,\ncrane,b,,鹤,,birds\n"
    for name in ("a.toml", "cifar-10-zh", "imagenet-1k-zh"):
        Path("b.csv").write_text(clipcls("labels", "show", name), "utf-8")
        assert load_labels("b.csv").labels == label_set(load_labels(name).labels)


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "no label set and no file named 'nothing'"),
        ("a.txt", b"# none", "a.txt: no labels in it"),
        ("a.txt", b"a\0", "a.txt: a binary file, not text; name a text file of labels"),
        ("a.csv", b'name\n"a', "a.csv, line 2: not valid CSV"),
        (
            "a.json",
            b'[{"name": "a", "display": "b"}, "b"]',
            "two labels would both be called 'b' in results; rename one",
        ),
    ],
)
def test_a_bad_label_set_is_one_line(
    fake: Install, here: Path, clipcls: Terminal, command: str, name: str, content: bytes | None, message: str
) -> None:
    fake()
    if content is not None:
        Path(name).write_bytes(content)
    clipcls("labels", command, name, code=2)
    assert clipcls.err.startswith("error: ") and message in clipcls.err and len(clipcls.err.splitlines()) == 1


def test_labels_check_tells_shared_names(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    Path("a.csv").write_text("name,id\ncrane|bird,1\ncrane,2\nred,\n")
    assert clipcls("labels", "check", "a.csv") == ""
    assert "warning: 'crane' stands for crane [1] and crane [2]\n" in clipcls.err
    assert clipcls.err.endswith("3 labels\n")


def test_labels_check_of_shipped_sets(fake: Install, here: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("labels", "check", "cifar-10")
    assert clipcls.err.endswith("10 labels\n") and os.listdir() == []
