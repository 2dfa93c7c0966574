"""Whole models: pulled from a hub over real HTTP, exported to a folder, imported from one."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import IMAGES, ROOT, Terminal
from hub import Fault, Hub
from huggingface_hub import constants
from test_hub import WEIGHTS, files, save_architecture
from tiny import CLIP, HF_TEXT, make_hf_model, make_model, make_models, write_tokenizer

from clipcls.cli import models, transfers

CONFIG = "open_clip_config.json"
MEGABYTE = 1_000_000

if not any(command.name == "import" for command in models.app.registered_commands):
    transfers.register(models.app)

CLI = """
import sys
from clipcls.cli import main, models, transfers
if not any(command.name == "import" for command in models.app.registered_commands):
    transfers.register(models.app)
main()
"""


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks, with a cache of its own and no waits between attempts."""
    import huggingface_hub as hf

    from clipcls.encoders import download
    from clipcls.encoders import hub as asked

    with Hub() as hub:
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            monkeypatch.setattr(hf.constants, name, value)
        monkeypatch.setattr(download, "_WAITS", (0, 0, 0, 0))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        asked._announce.cache_clear()
        yield hub
        hf.close_session()


def big(hub: Hub, repo: str = "tiny/big", size: int = 3 * MEGABYTE, seed: int = 0) -> dict[str, bytes]:
    """A repository with weights of some size, which nobody is going to load."""
    content = {CONFIG: json.dumps(CLIP).encode(), WEIGHTS: random.Random(seed).randbytes(size)}
    hub.push(repo, content)
    return content


def in_cache(home: Path) -> list[str]:
    """All that a cache holds but folders, by the names of repository and file."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_symlink() or path.is_file())


def check_whole(home: Path, content: dict[str, bytes], repo: str = "tiny/big") -> None:
    """Whether a cache holds a repository's files, and nothing else: no part of a file, no lock."""
    place = home / ("models--" + repo.replace("/", "--"))
    commit = (place / "refs" / "main").read_text()
    for name, expected in content.items():
        link = place / "snapshots" / commit / name
        assert link.is_symlink() and link.read_bytes() == expected
    assert len(in_cache(place)) == 1 + 2 * len(content), in_cache(place)
    assert in_cache(home) == [f"{place.name}/{name}" for name in in_cache(place)]


def process(home: Path, *words: str, code: str = CLI, **environment: str) -> subprocess.Popen[str]:
    """A command line in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_HOME": str(home), "PYTHONPATH": str(ROOT)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=IMAGES, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip


def pull_process(hub: Hub, home: Path, model: str = "hf-hub:tiny/big") -> subprocess.Popen[str]:
    return process(home, "models", "pull", model, HF_ENDPOINT=hub.url)


def over(run: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    with run:
        _, told = run.communicate(timeout=300)
    return run.returncode, told


# Killed, and cut off.


def kill_and_pull_again(hub: Hub, home: Path, point: int, content: dict[str, bytes]) -> int:
    """Kill a pull once so many bytes went out, and run it again: how many bytes went out twice."""
    hub.sent.clear()
    with pull_process(hub, home) as killed:
        hub.watch = lambda total: killed.kill() if total >= point else None
        killed.communicate(timeout=300)
    hub.watch = lambda total: None
    assert killed.returncode in (-9, 0), killed.returncode
    code, told = over(pull_process(hub, home))
    assert code == 0, told
    check_whole(home / "hub", content)
    return hub.total - sum(map(len, content.values()))


@pytest.mark.parametrize("kills", [pytest.param(3, id="some"), pytest.param(20, marks=pytest.mark.slow, id="many")])
def test_a_pull_that_is_killed_goes_on_where_it_was(hub: Hub, tmp_path: Path, kills: int) -> None:
    content = big(hub)
    random_points = random.Random(kills)
    points = [random_points.randint(1, sum(map(len, content.values()))) for _ in range(kills)]
    twice = [kill_and_pull_again(hub, tmp_path / str(i), point, content) for i, point in enumerate(points)]
    print("killed after", points, "bytes; sent twice", twice)
    assert max(twice) <= MEGABYTE


def test_a_pull_that_is_killed_when_all_is_there_asks_for_nothing_again(
    hub: Hub, clipcls: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcls.encoders import download

    class Killed(BaseException):
        pass

    def kill(what: Any, pointer: Path | None = None, *_: Any) -> None:
        if WEIGHTS in (pointer.name if pointer else what.name):
            raise Killed

    content = big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)
    for step in ("_check", "_link"):
        (link,) = tmp_path.rglob(WEIGHTS)
        link.resolve().unlink()
        hub.sent.clear()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(download, step, kill)
            clipcls("models", "pull", "hf-hub:tiny/big")
        clipcls("models", "pull", "hf-hub:tiny/big")
        assert hub.total == len(content[WEIGHTS])
        check_whole(tmp_path / "hub", content)


def test_cut_off_transfers_and_a_hub_that_stumbles_are_tried_again(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    hub.drops[WEIGHTS] = [50_000, 100_000, 1, 70_000, 30_000, 20_000, 10_000]  # more than would be tried in vain
    hub.stumbles = [Fault(503), Fault(429, wait="0"), Fault(500)]
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)
    assert hub.total == sum(map(len, content.values()))  # no byte twice


def test_a_hub_that_sends_no_parts_is_asked_for_the_whole(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    hub.ranges, hub.drops[WEIGHTS] = False, [500_000]
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)


def test_a_transfer_that_gets_nowhere_is_given_up_and_kept(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    hub.cuts[WEIGHTS] = 400_000
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    assert "run it again, and it goes on where it ended" in clipcls.err
    assert not list(tmp_path.rglob("*.safetensors"))
    (partial,) = tmp_path.rglob("*.clipcls-partial")
    assert partial.stat().st_size == 400_000
    hub.cuts.clear()
    hub.sent.clear()
    clipcls("models", "pull", "hf-hub:tiny/big")
    assert [(each.name, each.first) for each in hub.sent] == [(WEIGHTS, 400_000)]
    check_whole(tmp_path / "hub", content)


def test_a_part_that_was_not_asked_for_is_not_taken(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    hub.drops[WEIGHTS], hub.shift = [500_000], 1
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "cannot download", "it sent another part than the one asked for", "run it again")
    hub.shift = 0
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)


def test_two_pulls_at_once_share_one_download(hub: Hub, tmp_path: Path) -> None:
    content = big(hub, size=MEGABYTE)
    hub.pause = 0.02
    begun = threading.Event()
    hub.watch = lambda total: begun.set() if total > 100_000 else None
    first = pull_process(hub, tmp_path)
    assert begun.wait(30)
    second = pull_process(hub, tmp_path)
    (code, _), (second_code, told) = over(first), over(second)
    assert (code, second_code) == (0, 0), told
    assert "waiting for another program" in told
    check_whole(tmp_path / "hub", content)
    assert hub.total == sum(map(len, content.values()))


# What came is not what was meant.


def test_a_file_with_another_hash_is_thrown_away(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    hub.wrong[WEIGHTS] = content[WEIGHTS][:-1] + b"?"
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    (line,) = [line for line in clipcls.err.splitlines() if not line.startswith("getting")]
    for word in (WEIGHTS, "tiny/big", "SHA-256", "deleted", "mirror", "HF_ENDPOINT"):
        assert word in line
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.clipcls-partial"))
    hub.wrong.clear()
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)


def test_a_file_of_another_size_is_not_taken(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    hub.wrong[WEIGHTS] = content[WEIGHTS][:1000]
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "the transfer ended after 1000 of 3000000 bytes")
    hub.ranges, hub.wrong[WEIGHTS] = False, content[WEIGHTS] + b"?"
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "is longer than the 3,000,000 bytes that it can have")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not any(partial.stat().st_size for partial in tmp_path.rglob("*.clipcls-partial"))


@pytest.mark.parametrize("size", [1000, 3 * MEGABYTE, 4 * MEGABYTE])
def test_a_part_that_was_damaged_on_disk_is_found_out(hub: Hub, clipcls: Terminal, tmp_path: Path, size: int) -> None:
    content = big(hub)
    hub.cuts[WEIGHTS] = 0
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    (partial,) = tmp_path.rglob("*.clipcls-partial")
    partial.write_bytes(bytes(size))
    hub.cuts.clear()
    clipcls("models", "pull", "hf-hub:tiny/big", code=0 if size > 3 * MEGABYTE else 4)
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)


def test_a_server_that_is_no_hub(hub: Hub, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub._git_digest", lambda content: "../../escape")
    big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    assert "does not answer as a Hugging Face hub does" in clipcls.err


def promise(name: str, **headers: str | None) -> Callable[[Hub], None]:
    """Lie in the headers by which a hub describes a file."""
    said = {header.replace("_", "-"): text for header, text in headers.items()}
    return lambda hub: hub.lies.update({("HEAD", name): said})


def never_end(name: str, *, status: int = 200, **promised: str | None) -> Callable[[Hub], None]:
    """Send bytes as long as anybody takes them."""

    def change(hub: Hub) -> None:
        hub.endless.add(name)
        hub.wrong[name] = b" " * MEGABYTE
        hub.statuses[name] = status
        hub.lies["GET", name] = {"Content-Length": None}
        promise(name, **promised)(hub)

    return change


def unpack(name: str, **promised: str) -> Callable[[Hub], None]:
    """Send little that is much when it is unpacked, which nobody asked for."""

    def change(hub: Hub) -> None:
        hub.wrong[name] = gzip.compress(bytes(100 * MEGABYTE))
        hub.lies["GET", name] = {"Content-Encoding": "gzip"}
        promise(name, **promised)(hub)

    return change


NO_HUB, TOO_LONG = "does not answer as a Hugging Face hub does", "bytes that it can have"
LIES: dict[str, tuple[Callable[[Hub], None], str]] = {
    "a file of this machine": (promise(WEIGHTS, Location="file:///etc/passwd"), NO_HUB),
    "another protocol": (promise(WEIGHTS, Location="ftp://127.0.0.1/weights"), NO_HUB),
    "a commit above the cache": (promise(CONFIG, X_Repo_Commit="../../../x"), NO_HUB),
    "a name above the cache": (promise(WEIGHTS, X_Linked_Etag='"../../../x"'), NO_HUB),
    "no name": (promise(CONFIG, ETag=None), NO_HUB),
    "more than any disk": (promise(WEIGHTS, X_Linked_Size="9" * 30), "MB more"),
    "less than nothing": (promise(WEIGHTS, X_Linked_Size="-7"), TOO_LONG),
    "less than there is": (promise(WEIGHTS, X_Linked_Size="5"), f"the 5 {TOO_LONG}"),
    "a large configuration": (promise(CONFIG, Content_Length=str(10**9)), "transfer ended"),
    "endless weights": (never_end(WEIGHTS), f"the 3,000,000 {TOO_LONG}"),
    "weights of no size": (never_end(WEIGHTS, X_Linked_Size=None), f"the 200,000,000 {TOO_LONG}"),
    "endless configuration": (never_end(CONFIG, Content_Length="500"), f"the 500 {TOO_LONG}"),
    "configuration without end": (never_end(CONFIG, Content_Length=str(10**9)), f"the 200,000,000 {TOO_LONG}"),
    "an endless excuse": (never_end(WEIGHTS, status=403), "refuses it (403)"),
    "packed weights": (unpack(WEIGHTS), f"the 3,000,000 {TOO_LONG}"),
    "packed configuration": (unpack(CONFIG, Content_Length="500"), f"the 500 {TOO_LONG}"),
}


@pytest.mark.parametrize(("lie", "words"), LIES.values(), ids=LIES)
def test_a_hub_that_lies_fills_no_disk_and_writes_nowhere_else(
    lie: Callable[[Hub], None], words: str, hub: Hub, clipcls: Terminal, tmp_path: Path
) -> None:
    content = big(hub)
    lie(hub)
    before = set(tmp_path.parent.rglob("*"))
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    (line,) = [line for line in clipcls.err.splitlines() if not line.startswith("getting")]
    assert line.startswith("error: ") and words in line
    new = set(tmp_path.parent.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "hub") for path in new), new
    assert sum(path.stat().st_size for path in new if path.is_file()) <= 2 * sum(map(len, content.values()))
    hub.forget_lies()
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)


@pytest.mark.parametrize("config", [b"{", b"[" * 10**6, b"9" * 10**6, b"\xff\xfe", b"[]", b"null", b'{"model_cfg": 1}'])
def test_a_configuration_that_is_none(config: bytes, hub: Hub, clipcls: Terminal) -> None:
    hub.push("tiny/big", {CONFIG: config})
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, CONFIG, "is not an open_clip configuration")


@pytest.mark.parametrize("name", ["../../x", "/etc", "a/../../b", "..", "a/b/c"])
@pytest.mark.parametrize("key", ["hf_model_name", "hf_tokenizer_name"])
def test_a_configuration_that_names_other_places(
    key: str, name: str, hub: Hub, clipcls: Terminal, tmp_path: Path
) -> None:
    config = json.loads(json.dumps(CLIP))
    config["model_cfg"]["text_cfg"][key] = name
    hub.push("tiny/big", {CONFIG: json.dumps(config).encode()})
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, repr(name), "cannot be the name of a hub repository")
    assert all("tiny--big" in path for path in in_cache(tmp_path))
    assert {request.path.rpartition("/")[2] for request in hub.requests} == {CONFIG}


@pytest.mark.parametrize("shard", ["../../x.safetensors", "..", "/etc/passwd", "a/b.bin", "a\\b.bin", "C:x.bin", ""])
def test_an_index_that_names_other_places(shard: str, hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    folder = make_hf_model(tmp_path / "model", "clip")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"logit_scale": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    hub.push("tiny/parts", folder)
    clipcls("models", "pull", "hf:tiny/parts", code=4)
    said(clipcls, "model.safetensors.index.json", "it must name files beside it")
    assert all(name.startswith("models--tiny--parts/") for name in in_cache(tmp_path / "hub"))


def test_a_hub_that_names_no_commit_renews_nothing(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big")
    hub.repos["tiny/big"].main = "newest"
    for files_there in (content, {}):
        hub.repos["tiny/big"].commits["newest"] = files_there
        clipcls("models", "pull", "hf-hub:tiny/big", "--renew", code=4)
        said(clipcls, "does not answer as a Hugging Face hub does", "no proxy answers")
    check_whole(tmp_path / "hub", content)


def test_what_was_begun_of_a_version_left_behind_is_removed(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    content = big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big")
    stale = tmp_path / "hub" / "models--tiny--big" / "blobs" / ("0" * 64 + ".clipcls-partial")
    stale.write_bytes(b"begun")
    clipcls("models", "pull", "hf-hub:tiny/big")
    assert not stale.exists()
    check_whole(tmp_path / "hub", content)


# What goes wrong, each in one line with the next step.

REFUSALS = {
    "who are you": (Fault(401), ["401", "hf auth login", "HF_TOKEN", "models export"]),
    "forbidden": (Fault(403), ["403", "hf auth login", "HF_ENDPOINT"]),
    "gated": (Fault(403, "GatedRepo"), ["asks for consent", "hf auth login"]),
    "not there": (Fault(404, "RepoNotFound"), ["no model tiny/big", "hf auth login"]),
}


@pytest.mark.parametrize(("fault", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal(hub: Hub, clipcls: Terminal, fault: Fault, words: list[str]) -> None:
    hub.push("tiny/big", {CONFIG: b""}, fault)
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, *words)


def said(clipcls: Terminal, *words: str) -> None:
    *_, line = clipcls.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_no_network(hub: Hub, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    clipcls("models", "pull", "hf-hub:tiny/big", "--endpoint", "http://127.0.0.1:1", code=4)
    said(clipcls, "cannot download", "http://127.0.0.1:1", "--endpoint or HF_ENDPOINT", "models export and import")
    clipcls("models", "pull", "hf-hub:tiny/big", "--endpoint", "hf-mirror.com", code=2)
    said(clipcls, "hf-mirror.com", "write it like https://")
    monkeypatch.setattr(constants, "ENDPOINT", "hf-mirror.com")
    clipcls("models", "pull", "hf-hub:tiny/other", code=4)
    said(clipcls, "HF_ENDPOINT is no web address: hf-mirror.com", "write it like https://")
    assert hub.requests == []


def test_no_room(hub: Hub, clipcls: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    content = big(hub)
    with monkeypatch.context() as patch:
        patch.setattr("clipcls.encoders.download.shutil.disk_usage", lambda _: usage(0, 0, 2_000_000))
        clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "3.0 MB more", "2.0 MB left", "free some", "HF_HOME")
    assert not any(each.name == WEIGHTS for each in hub.sent)  # told before, and not when it is full
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)


def test_the_disk_fills_up(hub: Hub, clipcls: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = big(hub)

    def fill(repo: str, name: str, done: int, size: int | None) -> None:
        if done > MEGABYTE:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clipcls.encoders.download.tell", fill)
        clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "MB more", "free some", "HF_HOME")
    clipcls("models", "pull", "hf-hub:tiny/big")
    check_whole(tmp_path / "hub", content)
    assert hub.total < sum(map(len, content.values())) + MEGABYTE


def test_a_disk_that_fails(hub: Hub, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    big(hub)
    monkeypatch.setattr("clipcls.encoders.download.tell", fail)
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "cannot download", "Input/output error", "run it again")


def test_where_no_links_can_be_files_take_their_place(
    hub: Hub, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    content = big(hub)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        clipcls("models", "pull", "hf-hub:tiny/big")
    folder = Path(clipcls("models", "path", "hf-hub:tiny/big").strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    assert not any(path.is_symlink() for path in folder.iterdir())

    hub.push("tiny/linked", content)
    clipcls("models", "pull", "hf-hub:tiny/linked")
    folder = Path(clipcls("models", "path", "hf-hub:tiny/linked").strip())
    blob = (folder / WEIGHTS).resolve()
    (folder / WEIGHTS).unlink()
    monkeypatch.setattr(Path, "symlink_to", refuse)
    clipcls("models", "pull", "hf-hub:tiny/linked")
    assert not (folder / WEIGHTS).is_symlink() and (folder / WEIGHTS).read_bytes() == content[WEIGHTS]
    assert blob.read_bytes() == content[WEIGHTS]  # another link may lead to it


def test_whoever_waits_for_the_same_file_is_told(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from clipcls.encoders.download import _lock

    home, held, done = tmp_path / "hub" / "models--tiny--big", threading.Event(), threading.Event()

    def hold() -> None:
        with _lock(home, "etag"):
            held.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(30)
    with pytest.raises(TimeoutError), _lock(home, "etag", wait=False):
        pass
    threading.Timer(0.5, done.set).start()
    with caplog.at_level("INFO", "clipcls"), _lock(home, "etag"):
        assert "waiting for another program that downloads the same file" in caplog.messages
    other.join()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="another system's permissions")
def test_a_cache_that_cannot_be_written(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    big(hub)
    (tmp_path / "hub").write_text("a file")
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    said(clipcls, "cannot write", str(tmp_path / "hub"), "HF_HOME")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_a_hub_that_is_not_there_is_asked_once(
    hub: Hub, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("clipcls.encoders.download.time.sleep", waits.append)
    clipcls("models", "pull", "hf-hub:tiny/big", "--endpoint", endpoint, code=4)
    said(clipcls, f"{endpoint} cannot be reached")
    assert waits == []
    monkeypatch.setattr("clipcls.encoders.download._answered", {endpoint})
    clipcls("models", "pull", "hf-hub:tiny/big", code=4)
    assert len(waits) == 4  # it has answered before, and may again


def test_each_note_of_a_commit_is_drafted_apart_and_no_fresh_draft_is_swept(hub: Hub, tmp_path: Path) -> None:
    from clipcls.encoders.download import note_commit, sweep

    home = tmp_path / "hub" / "models--tiny--big"
    failed: list[Exception] = []

    def note() -> None:
        try:
            for _ in range(200):
                note_commit("tiny/big", "a" * 40)
                sweep(home)
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=note) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and (home / "refs" / "main").read_text() == "a" * 40
    assert in_cache(home) == ["refs/main"]
    fresh, old = (home / "blobs" / f"main.{name}.clipcls-partial" for name in ("fresh", "old"))
    for draft in (fresh, old):
        draft.write_text("a")
    os.utime(old, (0, 0))
    sweep(home)
    assert fresh.exists() and not old.exists()


# Renewed.


def test_a_model_is_renewed_when_it_is_asked_for(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    old = big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big")
    new = old | {CONFIG: json.dumps(CLIP | {"languages": ["en"]}).encode()}
    hub.push("tiny/big", new)
    hub.sent.clear()
    clipcls("models", "pull", "hf-hub:tiny/big")
    assert hub.total == 0
    for code, words in ((2, ("--offline",)), (4, ("--endpoint", "http://127.0.0.1:1"))):
        before = sorted((str(path), path.lstat().st_mtime_ns) for path in (tmp_path / "hub").rglob("*"))
        with pytest.MonkeyPatch.context() as patch:
            for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE", "HF_HUB_OFFLINE"):
                patch.setattr(f"huggingface_hub.constants.{name}", getattr(constants, name))
            clipcls("models", "pull", "hf-hub:tiny/big", "--renew", *words, code=code)
        said(clipcls, words[-1])
        assert sorted((str(path), path.lstat().st_mtime_ns) for path in (tmp_path / "hub").rglob("*")) == before
    clipcls("models", "pull", "hf-hub:tiny/big", "--renew")
    assert [each.name for each in hub.sent] == [CONFIG]  # the weights are the same
    folder = Path(clipcls("models", "path", "hf-hub:tiny/big").strip())
    assert {name: (folder / name).read_bytes() for name in new} == new
    clipcls("models", "pull", "hf-hub:tiny/big", "--renew")
    assert len(hub.sent) == 1


def test_all_repositories_of_a_model_are_renewed(
    hub: Hub, clipcls: Terminal, tiny_models: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    def named(tower: str) -> dict[str, bytes]:
        text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_model_name": tower, "hf_tokenizer_name": tower}
        config = {"model_cfg": HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}}
        return {CONFIG: json.dumps(config).encode(), WEIGHTS: b"weights"}

    words = files(tiny_models["hf"], "config.json", "tokenizer_config.json", "tokenizer.json")
    for tower in ("tiny/words", "tiny/others"):
        hub.push(tower, words)
        hub.push("tiny/it", named(tower))
        clipcls("models", "pull", "hf-hub:tiny/it", "--renew")
    # A new version of a repository that only the new configuration names.
    hub.push("tiny/it", named("tiny/words"))
    hub.push("tiny/words", words | {"vocab.txt": b"new"})
    clipcls("models", "pull", "hf-hub:tiny/it", "--renew")
    assert (_commit("tiny/it"), _commit("tiny/words")) == (hub.repos["tiny/it"].main, hub.repos["tiny/words"].main)
    # One that is gone stays.
    hub.repos["tiny/words"].fault = Fault(404, "RepoNotFound")
    clipcls("models", "pull", "hf-hub:tiny/it", "--renew")
    assert "tiny/words stays as it is" in caplog.text


def _commit(repo: str) -> str | None:
    from clipcls.encoders.ondisk import commit_on_disk

    return commit_on_disk(repo)


# Mirrors, tokens, no network wanted.


def test_offline_asks_nobody(hub: Hub, clipcls: Terminal) -> None:
    import huggingface_hub as hf

    big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big", "--offline", code=4)
    said(clipcls, "not on disk", "--offline", "models export")
    assert hub.requests == []
    hf.constants.HF_HUB_OFFLINE = False
    clipcls("models", "pull", "hf-hub:tiny/big")
    assert "2 files, 3.0 MB, of which 3.0 MB came" in clipcls.err
    hub.requests.clear()
    for words in ((), ("--offline",)):
        clipcls("models", "pull", "hf-hub:tiny/big", *words)
        assert "is on disk: 2 files, 3.0 MB" in clipcls.err
    assert hub.requests == []


@pytest.mark.parametrize("before", ["", "import huggingface_hub"], ids=["first", "late"])
def test_the_mirror_of_the_command_line(hub: Hub, tmp_path: Path, before: str) -> None:
    """Whoever imported huggingface_hub before; and another one is set in the environment, or offline by ``=0``."""
    content = big(hub, size=200_000)
    run = process(
        tmp_path, "models", "pull", "hf-hub:tiny/big", "--endpoint", hub.url + "/",
        code=f"{before}\n{CLI}", HF_ENDPOINT="http://127.0.0.1:1", HF_HUB_OFFLINE="0",
    )  # fmt: skip
    code, told = over(run)
    assert code == 0, told
    assert f"getting tiny/big from {hub.url}\n" in told
    check_whole(tmp_path / "hub", content)


def test_the_token_goes_to_the_hub_and_not_beyond(hub: Hub, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    big(hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    clipcls("models", "pull", "hf-hub:tiny/big")
    tokens = {(request.host.split(":")[0], request.token) for request in hub.requests}
    assert tokens == {("127.0.0.1", "Bearer hf_secret"), ("localhost", "")}
    assert not any("xet" in request.path for request in hub.requests)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    big(hub, size=MEGABYTE)
    hub.pause = 0.01
    ours, theirs = os.openpty()
    kept = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "TERM": "xterm"}
    words = [sys.executable, "-c", CLI, "models", "pull", "hf-hub:tiny/big"]
    with subprocess.Popen(words, env=kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}, stderr=theirs) as run:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65_536):
                seen += piece
        except OSError:  # the terminal has closed
            pass
        os.close(ours)
        assert run.wait(30) == 0
    for word in (WEIGHTS.encode(), b"/1.0 MB", b"MB/s", b"\xe2\x94\x81", b"of which 1.0 MB came"):
        assert word in seen


# Models of every kind: pulled, exported, used where sockets are forbidden, imported.

FORBID = """
import socket
def forbidden(*args, **kwargs):
    raise RuntimeError(f"the network was asked: {args}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = forbidden
"""

USE = """
import json, sys
from clipcls import Classifier
from clipcls.cli import run
found = {}
for name in json.loads(sys.argv[1]):
    with Classifier.load(name, device="cpu", cache=False) as classifier:
        texts = classifier.embed_texts(["cat", "大象"]).tolist()
        images = classifier.embed_images(["chelsea.jpg"]).tolist()
        found[name] = [texts, images, classifier.info.fingerprint]
    words = ["classify", "chelsea.jpg", "--labels", "cat,dog", "--device", "cpu", "--no-cache", "--model", name]
    assert run(words) == 0
print(json.dumps(found))
"""


def use(home: Path, names: list[str], before: str) -> dict[str, list[Any]]:
    """Each model's vectors and fingerprint, where no socket can be opened."""
    run = process(home, json.dumps(names), code=FORBID + before + USE, CLIPCLS_CACHE_DIR=str(home / "cache"))
    with run:
        out, told = run.communicate(timeout=600)
    assert run.returncode == 0, told
    return dict(json.loads(out.splitlines()[-1]))


def test_what_is_on_disk_opens_no_socket_and_an_export_is_the_same_model(
    hub: Hub, tiny_models: dict[str, Path], tmp_path: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    hub.push("tiny/clip", tiny_models["clip"])
    hub.push("tiny/siglip", tiny_models["siglip"])
    hub.push("tiny/bin", make_model(tmp_path / "bin", HF_TEXT, 7, "open_clip_pytorch_model.bin"))
    hub.push("bert", files(tiny_models["hf"], "config.json", "tokenizer_config.json", "tokenizer.json"))
    hub.push("tiny/transformers", make_hf_model(tmp_path / "transformers", "siglip"))
    # A tag whose text tower and tokenizer come from two other repositories.
    other = {"config.json": b'{"model_type": "bert"}'}
    hub.push("words", other | files(tiny_models["hf"], "tokenizer_config.json", "tokenizer.json"))
    text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_model_name": "bert", "hf_tokenizer_name": "words"}
    named = HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}
    path = save_architecture(tmp_path / "tiny-hf.json", {"model_cfg": named})
    tag = {"hf_hub": "tiny/bin/", "quick_gelu": True, "mean": [0.4] * 3, "std": [0.3] * 3, "interpolation": "bilinear"}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-hf", {"one": tag})
    open_clip.add_model_config(path)
    models = ["hf-hub:tiny/clip", "hf-hub:tiny/siglip", "tiny-hf/one", "hf:tiny/transformers"]
    folders = [str(tmp_path / "out" / str(i)) for i in range(len(models))]
    for model in models:
        clipcls("models", "pull", model)
    hub.requests.clear()
    for model, folder in zip(models, folders, strict=True):
        clipcls("models", "export", model, folder)
        assert f"--model {folder} takes it" in clipcls.err
    assert hub.requests == []
    told = json.loads((Path(folders[2]) / CONFIG).read_text())
    assert told["model_cfg"]["text_cfg"]["hf_model_name"] == "."
    assert told["model_cfg"]["quick_gelu"] is True and told["preprocess_cfg"]["mean"] == [0.4] * 3

    # huggingface_hub's cache as it is, an empty one for the folders.
    known = f"import open_clip\nopen_clip.add_model_config({path!r})\n"
    known += f"open_clip.pretrained._PRETRAINED['tiny-hf'] = {{'one': {tag!r}}}\n"
    cached = use(tmp_path, models, known)
    exported = use(tmp_path / "elsewhere", folders, "")
    for model, folder in zip(models, folders, strict=True):
        assert exported[folder] == cached[model], model
    assert len({found[2] for found in cached.values()}) == len(models)


def test_an_import_makes_a_name(hub: Hub, tiny_models: dict[str, Path], tmp_path: Path, clipcls: Terminal) -> None:
    from clipcls.encoders.spec import imported_folder

    whole = tmp_path / "whole"
    clipcls("models", "export", str(tiny_models["siglip"]), whole)
    clipcls("models", "import", whole, "--name", "mine")
    folder = imported_folder("mine")
    assert folder == tmp_path / "data" / "clipcls" / "models" / "mine"
    assert f"--model mine is this model now: 4 files, 0.3 MB in {folder}" in clipcls.err
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    assert not any(path.stat().st_nlink > 1 for path in folder.iterdir())
    clipcls("models", "import", whole, "--name", "mine", code=2)
    assert str(folder) in clipcls.err
    clipcls("models", "import", whole)
    assert imported_folder("whole") and not imported_folder("other") and not imported_folder("../models/mine")
    for name in ("starter", "a/b", "..", "", "-x"):
        clipcls("models", "import", whole, f"--name={name}", code=2)
    clipcls("models", "import", tmp_path / "none", code=3)
    assert hub.requests == []


def test_an_import_of_what_is_not_whole(
    hub: Hub, tiny_models: dict[str, Path], tmp_path: Path, clipcls: Terminal
) -> None:
    def reimport(name: str, *words: str) -> None:
        clipcls("models", "import", tmp_path / name, code=4)
        said(clipcls, *words)

    clipcls("models", "export", str(tiny_models["siglip"]), tmp_path / "damaged")
    weights = tmp_path / "damaged" / WEIGHTS
    content = weights.read_bytes()
    weights.unlink()
    reimport("damaged", WEIGHTS, "missing", "copy the folder again")
    weights.write_bytes(content[:-1])
    reimport("damaged", WEIGHTS, "damaged", "copy the folder again")
    (tmp_path / "lacking").mkdir()
    for name in (CONFIG, WEIGHTS):
        (tmp_path / "lacking" / name).write_bytes((tiny_models["siglip"] / name).read_bytes())
    reimport("lacking", "tokenizer of tiny/siglip", "models export")
    write_tokenizer(tmp_path / "lacking")
    clipcls("models", "import", tmp_path / "lacking")
    (tmp_path / "empty").mkdir()
    reimport("empty", CONFIG)
    for content, words in ((b"\xff\xfe", "SHA256SUMS cannot be read"), (b"\nwhat", "line 1: it is no line")):
        (tmp_path / "damaged" / "SHA256SUMS").write_bytes(content)
        reimport("damaged", words, "export")
    assert hub.requests == []
    assert [path.name for path in (tmp_path / "data/clipcls/models").iterdir()] == ["lacking"]


def test_an_export_never_overwrites_and_leaves_no_half_folder(
    hub: Hub, tiny_models: dict[str, Path], tmp_path: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(tiny_models["clip"])
    for full in (tmp_path / "full", tmp_path / "file"):
        full.mkdir() if full.name == "full" else full.write_text("mine")
        (tmp_path / "full" / "mine").write_text("mine")
        clipcls("models", "export", model, full, code=2)
        assert "stays as it is" in clipcls.err
    (tmp_path / "empty").mkdir()
    clipcls("models", "export", model, tmp_path / "empty")
    assert (tmp_path / "empty" / WEIGHTS).is_file()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clipcls.encoders.transfer.file_digest", full_disk)
        clipcls("models", "export", model, tmp_path / "new", code=7)
    assert "No space left" in clipcls.err and "free some room" in clipcls.err
    clipcls("models", "export", model, tmp_path / "file" / "new", code=7)
    assert "Not a directory" in clipcls.err and "choose a place" in clipcls.err and "room" not in clipcls.err
    (tmp_path / "disk").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("os.path.ismount", lambda path: True)
        clipcls("models", "export", model, tmp_path / "disk", code=7)
    assert f"{tmp_path / 'disk'} is a disk of its own: name a folder in it" in clipcls.err.replace("\n", " ")
    (tmp_path / "disk").rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", full_disk)
        clipcls("models", "export", model, tmp_path / "empty", code=7)
    said(clipcls, "cannot write", str(tmp_path / "empty"))
    assert {path.name for path in tmp_path.iterdir()} == {"full", "file", "empty"}


def test_an_export_goes_where_a_link_leads(
    hub: Hub, tiny_models: dict[str, Path], tmp_path: Path, clipcls: Terminal
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    clipcls("models", "export", str(tiny_models["clip"]), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target" / WEIGHTS).is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"link", "target"}


def test_an_export_is_nobody_elses(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    """Whoever writes to it changes neither the package nor the hub's cache; and what must go with a model does."""
    from clipcls.encoders.spec import STARTER_FOLDER

    clipcls("models", "export", "starter", tmp_path / "starter")
    copied = {path.name: path for path in (tmp_path / "starter").iterdir()}
    assert copied.keys() == {path.name for path in STARTER_FOLDER.iterdir()} | {"SHA256SUMS"}
    for name in ("LICENSE-e5.txt", "README.md", "image.onnx", WEIGHTS, "tokenizer.json"):
        assert copied[name].stat().st_nlink == 1 and not copied[name].is_symlink()
        assert copied[name].read_bytes() == (STARTER_FOLDER / name).read_bytes()
    big(hub)
    clipcls("models", "pull", "hf-hub:tiny/big")
    clipcls("models", "export", "hf-hub:tiny/big", tmp_path / "big")
    assert (tmp_path / "big" / WEIGHTS).stat().st_nlink == 1


def test_the_languages_go_with_a_model(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    from clipcls.pipeline import load_encoder

    clipcls("models", "export", "starter", tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / CONFIG).read_text())
    assert config["languages"] == ["en", "zh"]
    clipcls("models", "import", tmp_path / "mine")
    (starter, _), (mine, _) = (load_encoder(name, device="cpu") for name in ("starter", "mine"))
    assert mine.info.languages == ("en", "zh") and mine.info.fingerprint == starter.info.fingerprint
    hub.push("tiny/clip", {CONFIG: json.dumps(CLIP | {"languages": ["en", "zh"]}).encode(), WEIGHTS: b"weights"})
    assert located("hf-hub:tiny/clip") == ("en", "zh")
    for wrong in ("en", [1], ["e" * 50], {"en": 1}, None, [["en"]], []):
        (tmp_path / "mine" / CONFIG).write_text(json.dumps(config | {"languages": wrong}))
        assert located(str(tmp_path / "mine")) == ()


def located(model: str) -> tuple[str, ...]:
    from clipcls.encoders.locate import locate
    from clipcls.encoders.spec import parse_spec

    return locate(parse_spec(model)).languages


def test_imported_models_are_listed_used_and_removed(
    hub: Hub, clipcls: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcls.encoders.spec import imported_folder
    from clipcls.settings import user_file

    clipcls("models", "export", "starter", tmp_path / "mine")
    clipcls("models", "import", tmp_path / "mine")
    last = clipcls.rows("models", "list")[-1]
    assert [last[name] for name in ("name", "languages", "licence", "on disk")] == ["mine", "en zh", "", "yes"]
    listed = json.loads(clipcls("models", "list", "--json"))[-1]
    assert (listed["alias"], listed["languages"], listed["on_disk"]) == ("mine", ["en", "zh"], "yes")
    clipcls("models", "use", "mine")
    assert user_file().read_text("utf-8") == 'model = "mine"\n' and "warning" not in clipcls.err

    for name in ("starter", "other", str(tmp_path / "mine"), ".."):
        clipcls("models", "remove", name, "--yes", code=2)
        said(clipcls, f"{name!r} is not an imported model", "imported are: mine")
    clipcls("models", "remove", "mine", code=2)
    said(clipcls, "add --yes")
    folder = imported_folder("mine")
    assert folder
    monkeypatch.setattr("sys.stdin", Answering("n\n"))
    clipcls("models", "remove", "mine")
    assert folder.is_dir()
    monkeypatch.setattr("sys.stdin", Answering(""))
    clipcls("models", "remove", "mine", code=130)
    assert folder.is_dir()
    monkeypatch.setattr("sys.stdin", Answering("y\n"))
    with monkeypatch.context() as patch:
        patch.setattr("clipcls.encoders.transfer.shutil.rmtree", in_use)
        clipcls("models", "remove", "mine", "--yes", code=7)
    said(clipcls, f"cannot delete {folder}", "in use", "delete it by hand")
    clipcls("models", "remove", "mine")
    assert not folder.exists() and f"deleted {folder}" in clipcls.err
    assert clipcls.rows("models", "list")[-1]["name"] != "mine"


def in_use(*_: object) -> None:
    raise OSError("in use")


class Answering(io.StringIO):
    """Somebody at a terminal."""

    def isatty(self) -> bool:
        return True


def test_sums_as_sha256sum_writes_them_in_binary(hub: Hub, clipcls: Terminal, tmp_path: Path) -> None:
    clipcls("models", "export", "starter", tmp_path / "mine")
    sums = tmp_path / "mine" / "SHA256SUMS"
    lines = [line.split("  ") for line in sums.read_text().splitlines()]
    sums.write_text("".join(f"{digest.upper()} *{name}\n" for digest, name in lines))
    clipcls("models", "import", tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("changed")
    clipcls("models", "import", tmp_path / "mine", "--name", "other", code=4)
    said(clipcls, "README.md is damaged")


def test_the_starter_is_exported_with_its_graphs(hub: Hub, tmp_path: Path, clipcls: Terminal) -> None:
    from clipcls import Classifier
    from clipcls.encoders.onnx import OnnxEncoder
    from clipcls.pipeline import load_encoder

    clipcls("models", "export", "starter", tmp_path / "mine")
    encoder, _ = load_encoder(str(tmp_path / "mine"), device="cpu")
    assert isinstance(encoder, OnnxEncoder)
    with Classifier.load("starter", device="cpu", cache=False) as classifier:
        assert classifier.info.fingerprint == encoder.info.fingerprint
    assert hub.requests == []
