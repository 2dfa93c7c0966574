"""What a person does: the installed command as a process, from any folder, piped, interrupted, twice at once."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import IMAGES, wait_for, within
from fakes import picture

from clipcls.cli.commands import COMMANDS, full_command
from clipcls.encoders.spec import STARTER_FOLDER

CLIPCLS = [str(Path(sys.executable).parent / "clipcls")]
FAKE = [sys.executable, str(Path(__file__).parent / "cli_with_fake.py")]
ZH = ["猫", "咖啡", "火箭"]
EN = ["cat", "coffee", "rocket"]


def clipcls(*words: str | Path, command: list[str] = CLIPCLS, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *map(str, words)], capture_output=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def rows(out: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out.decode("utf-8"), newline="")))


def python(code: str, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return clipcls(*words, command=[sys.executable, "-c", code])


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of somebody whose cache knows tests/images and both sets of labels."""
    environment = os.environ | {"CLIPCLS_CACHE_DIR": str(tmp_path_factory.mktemp("warm"))}
    for names in (ZH, EN):
        done = clipcls("classify", IMAGES, "--labels", ",".join(names), env=environment)
        assert done.returncode == 3, done.stderr.decode()
    return environment


@pytest.fixture
def known(warm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPCLS_CACHE_DIR", warm["CLIPCLS_CACHE_DIR"])


@pytest.mark.parametrize("names", [ZH, EN], ids=["zh", "en"])
def test_the_starter_knows_a_cat_a_coffee_and_a_rocket(known: None, here: Path, names: list[str]) -> None:
    done = clipcls("classify", IMAGES, "--labels", ",".join(names))
    found = {Path(row["path"]).stem: row["label"] for row in rows(done.stdout)}
    assert [found[stem] for stem in ("chelsea", "coffee", "rocket")] == names
    assert found["sideways"] == found["猫"] == names[0] and found["cmyk"] == names[1]
    assert done.returncode == 3, "truncated.jpg and empty.jpg cannot be read"
    assert found["truncated"] == found["empty"] == ""


def test_a_full_answer_comes_offline_without_a_socket(tmp_path: Path) -> None:
    done = python(
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from clipcls.cli import run\n"
        "raise SystemExit(run(sys.argv[1:]))",
        *("classify", IMAGES / "chelsea.jpg", "--labels", "老虎,猫,狗", "--no-cache"),
    )
    assert done.returncode == 0, done.stderr.decode()
    assert rows(done.stdout)[0]["label"] == "猫"


def test_help_and_a_cached_run_import_no_torch(known: None, here: Path) -> None:
    code = (
        "import sys\nfrom clipcls.cli import run\ncode = run(sys.argv[1:])\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'onnxruntime', 'tokenizers', 'huggingface_hub', 'PIL.Image'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\nraise SystemExit(code)"
    )
    assert python(code, "--help").returncode == 0
    assert python(code, "classify", "--help").returncode == 0
    done = python(code, "classify", IMAGES, "--labels", ",".join(ZH))
    assert done.returncode == 3 and b"12 from the cache" in done.stderr, done.stderr.decode()


def test_fresh_and_cached_output_are_the_same_bytes(known: None, here: Path) -> None:
    words = ("classify", IMAGES, "--labels", ",".join(ZH), "-k", "3", "--all-scores")
    cached = clipcls(*words)
    fresh = clipcls(*words, "--no-cache")
    assert cached.stdout == fresh.stdout and b" 12 from the cache" in cached.stderr
    assert b" 0 from the cache" in fresh.stderr


def test_python_dash_m_from_an_empty_folder(known: None, here: Path) -> None:
    done = clipcls("classify", IMAGES / "coffee.jpg", "-l", "猫,咖啡,火箭", command=[sys.executable, "-m", "clipcls"])
    assert done.returncode == 0 and rows(done.stdout)[0]["label"] == "咖啡"
    assert list(here.iterdir()) == []


def test_relative_and_chinese_paths(known: None, here: Path) -> None:
    folder = here / "我的 照片"
    folder.mkdir()
    (folder / "猫咪.jpg").write_bytes((IMAGES / "chelsea.jpg").read_bytes())
    done = clipcls("classify", "我的 照片", "--labels", "猫,咖啡,火箭", "-o", "结果.csv")
    assert done.returncode == 0 and done.stdout == b""
    assert rows(Path("结果.csv").read_bytes())[0]["path"] == "我的 照片/猫咪.jpg"


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "gbk"}])
def test_stdout_is_utf_8_in_every_locale(known: None, here: Path, locale: dict[str, str]) -> None:
    (here / "猫.jpg").write_bytes((IMAGES / "chelsea.jpg").read_bytes())
    done = clipcls("classify", ".", "--labels", "猫,咖啡,火箭", env=os.environ | locale)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)[0]["path"] == rows(done.stdout)[0]["label"] + ".jpg" == "猫.jpg"


def test_a_name_that_is_not_utf_8(known: None, here: Path) -> None:
    Path(os.fsdecode(b"caf\xe9.jpg")).write_bytes((IMAGES / "chelsea.jpg").read_bytes())
    assert rows(clipcls("classify", ".", "-l", "猫,咖啡,火箭").stdout)[0]["path"] == "caf\\xe9.jpg"
    listed = clipcls("classify", "-", "-l", "猫,咖啡,火箭", "-f", "jsonl", input=b"caf\xe9.jpg\n")
    assert json.loads(listed.stdout)["path_bytes"] == "Y2Fm6S5qcGc="


def test_head_ends_it_quietly(known: None, here: Path) -> None:
    Path("list").write_text(f"{IMAGES / 'chelsea.jpg'}\n" * 20_000)
    done = subprocess.run(
        f"{CLIPCLS[0]} classify - --labels 猫,咖啡,火箭 < list 2>err | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        timeout=300,
    )
    assert done.stdout.split() == [b"path,status,label,probability,cosine,error", b"0"]
    assert all(line.startswith("using the built-in starter") for line in Path("err").read_text().splitlines())


def test_nobody_to_read_from_the_start(known: None, here: Path) -> None:
    done = subprocess.run(
        f"{CLIPCLS[0]} classify {IMAGES} --labels 猫,咖啡,火箭 --quiet | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        timeout=300,
    )
    assert done.stdout in (b"0\n", b"3\n") and done.stderr == b""


HEEDS = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
"""A shell's background job, as these tests may be in, ignores Ctrl-C, and so would what it starts."""


def started(*words: str | Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [*FAKE, str(seconds), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=HEEDS)


def test_ctrl_c_ends_within_a_second_and_loses_nothing_that_was_done(here: Path) -> None:
    for i in range(12):
        picture(here / "imgs" / f"{i}.png", (20 * i, 0, 0))
    words = ("classify", "imgs", "-l", "red,blue", "-o", "out.csv", "--batch-size", "4")
    process = started(*words, seconds=4)
    wait_for(lambda: Path("out.csv.partial").exists())
    time.sleep(0.5)  # in the middle of the second batch
    with within(1):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and b"Traceback" not in err
    assert b"interrupted: 4 images" in err and b"out.csv.partial; the same command with --resume goes on" in err
    assert len(rows(Path("out.csv.partial").read_bytes())) == 4
    done = clipcls("0", *words, "--resume", command=FAKE)
    assert done.returncode == 0 and b"4 done before; 8 images" in done.stderr, done.stderr
    assert len({row["path"] for row in rows(Path("out.csv").read_bytes())}) == 12


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_shards_that_are_done(here: Path, by: signal.Signals) -> None:
    for i in range(200):
        picture(here / "imgs" / f"{i:03}.png", (i, 255 - i, 0))
    process = started("embed", "imgs", "-o", "out", "--shard-size", "8", "--no-cache", seconds=0.1)
    wait_for(lambda: Path("out/part-000001.parquet").exists())
    process.send_signal(by)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and b"interrupted: " in said
    assert b"the shards of out that are done stay; the same command with --resume goes on" in said
    done = clipcls("0", "embed", "imgs", "-o", "out", "--shard-size", "8", "--no-cache", "--resume", command=FAKE)
    assert done.returncode == 0 and b" done before; " in done.stderr


@pytest.mark.parametrize("graphs", [True, False], ids=["ONNX Runtime", "torch"])
def test_ctrl_c_ends_a_real_model_within_a_second(graphs: bool, here: Path) -> None:
    model = here / "model"  # torch runs what holds no graphs
    shutil.copytree(STARTER_FOLDER, model, ignore=None if graphs else shutil.ignore_patterns("*.onnx"))
    process = subprocess.Popen(
        [
            *CLIPCLS,
            "classify",
            "-",
            "-l",
            "猫,咖啡",
            "-f",
            "csv",
            "--no-cache",
            "--batch-size",
            "64",
            "--model",
            str(model),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=HEEDS,
    )
    assert process.stdin and process.stdout
    process.stdin.write(f"{IMAGES / 'coffee.jpg'}\n".encode() + os.fsencode(IMAGES / "chelsea.jpg") + b"\n")
    for i in range(190):
        process.stdin.write(os.fsencode(picture(here / f"{i}.png", (i, i, i), (900, 700))) + b"\n")
    process.stdin.close()
    process.stdin = None
    assert process.stdout.readline().startswith(b"path,") and process.stdout.readline()  # the second batch is under way
    with within(1):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130


def test_two_at_once_on_one_cache(here: Path) -> None:
    for i in range(120):
        picture(here / "imgs" / f"{i:03}.png", (2 * i, 255 - i, 0))
    words = ("classify", "imgs", "-l", "red,green,blue", "--batch-size", "8", "-f", "csv")
    pair = [started(*words, seconds=0.02) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    third = clipcls("0", *words, command=FAKE)
    assert outputs[0][0] == outputs[1][0] == third.stdout
    assert b"120 from the cache" in third.stderr and b"lock" not in outputs[0][1] + outputs[1][1]


def on_a_terminal(*words: str | Path, seconds: float) -> tuple[str, int]:
    """What the command shows on a terminal of 100 columns, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="100", LINES="30", TERM="xterm-256color")
        os.execv(FAKE[0], [*FAKE, str(seconds), *map(str, words)])
    shown = b""
    while select.select([terminal], [], [], 30)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError:
            break
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def screen_after(shown: str) -> list[str]:
    """The lines that stand on the screen in the end, by the few control sequences that a bar needs."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            pass
        elif token == "\x1b[1A":
            row = max(0, row - 1)
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b"):
            lines[row] += token
    return lines


def test_rows_on_a_terminal_are_whole_lines(here: Path) -> None:
    name = "a rather long name " * 8 + ".png"
    picture(here / name)
    shown, _ = on_a_terminal("classify", name, "-l", "red,blue", "-f", "csv", seconds=0.5)
    assert f"{name},ok,red," in shown


def test_standard_streams_may_be_closed(known: None, here: Path) -> None:
    words = f"{CLIPCLS[0]} classify {IMAGES / 'coffee.jpg'} -l 猫,咖啡,火箭"
    for closed in ("<&-", ">&-", "2>&-", ">&- 2>&- <&-"):
        done = subprocess.run(["bash", "-c", f"{words} {closed}"], capture_output=True, timeout=300)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, (closed, done.stderr)
        assert (b"coffee.jpg,ok" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_terminal_gets_a_table_and_a_progress_bar(here: Path) -> None:
    for i in range(6):
        picture(here / "imgs" / f"{i}.png", (255 - i, 0, 0))
    shown, code = on_a_terminal("classify", "imgs", "-l", "红,蓝", "--batch-size", "2", seconds=0.6)
    assert code == 0
    assert "probability" in shown and "imgs/0.png" in shown and "█" in shown
    assert "/6" in shown and "images/s" in shown, "the bar knows the total"
    assert "path,status" not in shown
    screen = screen_after(shown)
    assert [line.split()[0] for line in screen if line.strip()][:4] == [
        "using",
        "path",
        "imgs/0.png",
        "imgs/1.png",
    ]
    assert not any("/6" in line for line in screen), "the bar goes when the run is over"
    quiet, _ = on_a_terminal("classify", "imgs", "-l", "红,蓝", "--quiet", seconds=0.1)
    assert "images/s" not in quiet and "imgs/0.png" in quiet


def test_no_bar_and_no_table_when_piped(here: Path) -> None:
    picture(here / "a.png")
    done = clipcls("0.3", "classify", "a.png", "-l", "red,blue", command=FAKE)
    assert done.stdout.startswith(b"path,status") and b"\x1b[" not in done.stdout + done.stderr
    assert next(line for line in done.stderr.splitlines() if not line.startswith(b"using")).startswith(
        b"1 image, 0 failed"
    )


def test_a_traceback_only_with_debug(here: Path) -> None:
    plain = clipcls("classify", "nowhere", "-l", "a")
    assert plain.returncode == 3 and len(plain.stderr.splitlines()) == 1 and plain.stderr.startswith(b"error: ")
    debug = clipcls("classify", "nowhere", "-l", "a", "--debug")
    assert b"Traceback" in debug.stderr and debug.returncode == 3


def test_a_full_disk_is_one_line(here: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    picture(here / "a.png")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*FAKE, "0", "classify", "a.png", "-l", "red,blue"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 7 and b"Traceback" not in done.stderr, done.stderr
    assert b"No space left on device" in done.stderr


def test_each_line_on_the_help_page_begins_the_commands_own_help() -> None:
    for name, line in COMMANDS.items():
        assert full_command(name).help.startswith(line), name


def test_a_command_does_not_import_the_others() -> None:
    code = (
        "import sys\nfrom clipcls.cli import run\nrun(['cache', 'path'])\n"
        "print([name for name in sys.modules if name.startswith('clipcls.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "clipcls.cli.cache" in done.stdout and "classify" not in done.stdout and "models" not in done.stdout
