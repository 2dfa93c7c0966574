"""Models from a Hugging Face hub, over real HTTP from a hub on this machine.

In processes of their own, since huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import IMAGES, ROOT
from hub import Fault, Hub
from tiny import CLIP, HF_TEXT, SIGLIP, make_model, make_models

from clipcls import Classifier

WEIGHTS = "open_clip_model.safetensors"

PROBE = """
import json, sys, time
time.sleep = lambda seconds: None  # between attempts
tags, cache, *jobs = json.loads(sys.argv[1])
if tags:
    import open_clip
    for arch, (path, tag) in tags.items():
        open_clip.add_model_config(path)
        open_clip.pretrained._PRETRAINED[arch] = {"one": tag}
from clipcls import Classifier, ClipclsError
def ask(model):
    try:
        with Classifier.load(model, device="cpu", cache=cache) as classifier:
            head = classifier.zero_shot(["cat", "rocket", "大象"], "一张{}的照片")
            records = list(head.classify(["chelsea.jpg", "rocket.jpg"], all_scores=True))
            scores = [[score.probability for score in record.all_scores] for record in records]
            return {"scores": scores, "cached": [r.cached for r in records], "fingerprint": classifier.info.fingerprint}
    except ClipclsError as exc:
        return {"error": str(exc), "code": exc.exit_code}
def download(repo, *files):
    from clipcls.encoders.hub import hf
    hf.constants.HF_HUB_DISABLE_XET = True  # the hub of the tests has none
    for name in files:
        hf.hf_hub_download(repo, name, force_download=True)
print(json.dumps([ask(job) if isinstance(job, str) else download(*job) for job in jobs]))
"""


class Person:
    """Somebody with a home folder of their own and a hub to ask."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.home = home
        self.tags: dict[str, tuple[str, dict[str, Any]]] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self.environment = kept | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home / "hub"),
            "HF_HUB_DISABLE_TELEMETRY": "1",  # as the command line does
            "CLIPCLS_CACHE_DIR": str(home / "cache"),
            "PYTHONPATH": str(ROOT),
        }

    def ask(self, *jobs: Any, cache: bool = False) -> list[Any]:
        """What the library answers for each model, in one process; a list names a repository and files to download."""
        done = self._run("-c", PROBE, json.dumps([self.tags, cache, *jobs]))
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def command(self, model: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """``clipcls classify``, less the waits between attempts."""
        code = "import sys, time; time.sleep = lambda seconds: None; from clipcls.cli import main; sys.exit(main())"
        arguments = ["classify", "chelsea.jpg", "--labels", "cat,dog", "--device", "cpu", "--model", model]
        return self._run("-c", code, *arguments, **environment)

    def _run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=IMAGES, env=self.environment | environment,
            capture_output=True, text=True, encoding="utf-8", timeout=600,
        )  # fmt: skip


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def person(hub: Hub, tmp_path: Path) -> Person:
    return Person(hub, tmp_path)


def files(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def save_architecture(path: Path, config: dict[str, Any]) -> str:
    path.write_text(json.dumps(config["model_cfg"]), encoding="utf-8")
    return str(path)


def test_every_kind_of_model_is_downloaded_once_and_is_what_the_folder_holds(
    hub: Hub, person: Person, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("clip", "siglip", "hf"):
        hub.push(f"tiny/{name}", tiny_models[name])
    # Made for transformers too: its config.json describes both towers; and its text tower is elsewhere.
    text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_model_name": "bert", "hf_tokenizer_name": "bert"}
    named = HF_TEXT | {"model_cfg": HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}}
    own = {"config.json": b'{"model_type": "clip", "text_config": {}}', "model.safetensors": b"in another format"}
    own |= {"open_clip_config.json": json.dumps(named).encode()} | files(tiny_models["hf"], WEIGHTS)
    hub.push("tiny/named", own)
    hub.push("bert", files(tiny_models["hf"], "config.json", "tokenizer_config.json", "tokenizer.json"))
    hub.push("tiny/bin", {"pytorch_model.safetensors": (tiny_models["clip"] / WEIGHTS).read_bytes()})
    for name, config, repo in (
        ("clip", CLIP, "tiny/bin/pytorch_model.bin"),
        ("siglip", SIGLIP, "tiny/siglip/"),
        ("hf", named, "tiny/hf/"),
    ):
        architecture = save_architecture(tmp_path / f"tiny-{name}.json", config)
        person.tags[f"tiny-{name}"] = (architecture, {"hf_hub": repo} | config["preprocess_cfg"])
    folders = [str(tiny_models[name]) for name in ("clip", "siglip", "hf")]
    models = ["hf-hub:tiny/clip", "hf-hub:tiny/siglip", "hf-hub:tiny/hf", "hf-hub:tiny/named"]
    models += ["tiny-clip/one", "tiny-siglip/one", "tiny-hf/one"]

    cold = person.ask(*folders, *models)
    assert [answer.get("error") for answer in cold] == [None] * 10
    clip, siglip, hf, *downloaded = [answer["scores"] for answer in cold]
    for scores, expected in zip(downloaded, [clip, siglip, hf, hf, clip, siglip, hf], strict=True):
        assert scores == [pytest.approx(row, abs=1e-6) for row in expected]
    assert cold[3]["fingerprint"] == cold[0]["fingerprint"]

    # Nobody else asks, neither open_clip nor transformers; no file twice, none for nothing, none round the mirror.
    assert len({request.client for request in hub.requests}) == 1
    asked = [request for request in hub.requests if "/large/" not in request.path]
    assert all("/resolve/" in request.path for request in asked)
    assert not any(request.path.endswith("/model.safetensors") for request in asked)
    assert len(set(asked)) == len(asked)

    hub.requests.clear()
    assert person.ask(*models) == cold[3:]
    assert hub.requests == []


TROUBLES: dict[str, tuple[str, list[str], Fault | None]] = {
    "no such repository": ("hf-hub:tiny/none", ["no model tiny/none", "hf auth login"], None),
    "private": ("hf-hub:tiny/it", ["no model tiny/it", "private", "hf auth login"], Fault(401, "RepoNotFound")),
    "gated": ("hf-hub:tiny/it", ["asks for consent", "/tiny/it", "hf auth login"], Fault(403, "GatedRepo", "Gated")),
    "forbidden": ("hf-hub:tiny/it", ["cannot download", "403", "HF_ENDPOINT"], Fault(403)),
    "server error": ("hf-hub:tiny/it", ["cannot download", "500", "HF_ENDPOINT"], Fault(500)),
    "no open_clip model": ("hf-hub:tiny/other", ["tiny/other holds no open_clip_config.json"], None),
    "no weights": ("hf-hub:tiny/bare", ["tiny/bare holds no open_clip weights", WEIGHTS], None),
    "no tokenizer": ("hf-hub:tiny/mute", ["tiny/siglip, whose tokenizer the model needs, holds none"], None),
    "a tower of no known type": (
        "hf-hub:tiny/odd",
        ["cannot build a text tower", "the hub repository tiny/words"],
        None,
    ),
    "no name": ("hf-hub:tiny/--x..y", ["'tiny/--x..y'", "ORGANISATION/REPOSITORY"], None),
}


@pytest.mark.parametrize(("model", "words", "fault"), TROUBLES.values(), ids=TROUBLES)
def test_trouble_with_the_hub_is_told_in_one_line(
    model: str, words: list[str], fault: Fault | None, hub: Hub, person: Person, tiny_models: dict[str, Path]
) -> None:
    hub.push("tiny/it", tiny_models["clip"], fault)
    hub.push("tiny/other", {"config.json": b"{}"})
    hub.push("tiny/bare", files(tiny_models["clip"], "open_clip_config.json"))
    hub.push("tiny/siglip", {"config.json": b"{}"})
    hub.push("tiny/mute", files(tiny_models["siglip"], "open_clip_config.json", WEIGHTS))
    text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_model_name": "tiny/words"}
    config = {"model_cfg": HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}}
    hub.push("tiny/odd", {"open_clip_config.json": json.dumps(config).encode()})
    hub.push("tiny/words", {"config.json": b'{"model_type": "mine"}'})
    told(person.command(model), *words)


def told(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Whether a command ended with one clear line and exit code 4, after saying whom it asks."""
    assert (done.returncode, done.stdout) == (4, "")
    *asked, line = done.stderr.splitlines()
    assert all(re.fullmatch(r"getting \S+ from http://\S+", notice) for notice in asked), done.stderr
    assert line.startswith("error: "), done.stderr
    for word in words:
        assert word in line


def test_no_hub_within_reach(hub: Hub, person: Person) -> None:
    closed = "http://127.0.0.1:1"
    told(
        person.command("hf-hub:tiny/it", HF_ENDPOINT=closed),
        closed,
        "cannot download",
        "cannot be reached",
        "HF_ENDPOINT",
    )
    told(person.command("hf-hub:tiny/it", HF_HUB_OFFLINE="1"), "not on disk", "HF_HUB_OFFLINE is set", "models export")
    assert hub.requests == []


def test_a_download_that_was_cut_off_is_made_up_for(hub: Hub, person: Person, tiny_models: dict[str, Path]) -> None:
    """From the commit that it began with: the configuration on disk does not fit the weights of the next."""
    hub.push("tiny/siglip", tiny_models["siglip"])
    hub.cuts[WEIGHTS] = 50_000
    told(person.command("hf-hub:tiny/siglip"), "cannot download", WEIGHTS, "run it again")
    assert not list((person.home / "hub").rglob("*.safetensors"))
    hub.push("tiny/siglip", tiny_models["clip"])
    hub.cuts.clear()
    done = person.command("hf-hub:tiny/siglip")
    assert done.returncode == 0, done.stderr
    weights = [each for each in hub.sent if each.name == WEIGHTS]
    assert weights[0].first == 0 and weights[-1].first == 50_000  # it went on where it ended
    assert sum(each.count for each in weights) == (tiny_models["siglip"] / WEIGHTS).stat().st_size
    assert "Traceback" not in done.stderr and "%" not in done.stderr  # no progress bar where nobody watches
    with Classifier.load(str(tiny_models["siglip"]), device="cpu", cache=False) as classifier:
        (expected,) = classifier.zero_shot(["cat", "dog"]).classify([IMAGES / "chelsea.jpg"])
    (row,) = csv.DictReader(done.stdout.splitlines())
    assert expected.ok and row["label"] == expected.top.label
    assert float(row["probability"]) == pytest.approx(expected.top.probability, abs=1e-4)


def test_a_commit_that_is_gone(hub: Hub, person: Person, tiny_models: dict[str, Path]) -> None:
    begun = hub.push("tiny/siglip", tiny_models["siglip"])
    hub.cuts[WEIGHTS] = 50_000
    person.command("hf-hub:tiny/siglip")
    begun.commits.clear()
    hub.push("tiny/siglip", tiny_models["clip"])
    told(person.command("hf-hub:tiny/siglip"), "no longer has the version", "delete", "models--tiny--siglip")


def test_a_repository_that_moved_on_gives_other_vectors_once_it_is_downloaded_again(
    hub: Hub, person: Person, tmp_path: Path
) -> None:
    model, everything = "hf-hub:tiny/it", ["tiny/it", "open_clip_config.json", WEIGHTS]
    hub.push("tiny/it", make_model(tmp_path / "first", CLIP, 1))
    person.ask(everything)
    hub.push("tiny/it", make_model(tmp_path / "second", CLIP, 2))
    hub.requests.clear()
    folders = [str(tmp_path / "first"), str(tmp_path / "second")]
    before, warm, first, _, after, second = person.ask(
        model, model, folders[0], everything, model, folders[1], cache=True
    )
    assert [answer["cached"][0] for answer in (before, warm, first, after, second)] == [False, True, True, False, True]
    assert before["scores"] == warm["scores"] == first["scores"]
    assert after["scores"] == second["scores"] != first["scores"]
    assert after["fingerprint"] != before["fingerprint"]
    assert [request.path.split("/")[-1] for request in hub.requests if request.method == "HEAD"] == everything[1:]
