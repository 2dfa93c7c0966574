"""Traced models: what ONNX Runtime answers is what torch answers, torch is not imported, and nothing spoilt is used."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGES, ROOT, Terminal, within
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import CLIP, CONTEXT, HF_TEXT, make_model

from clipcls import load_prompts
from clipcls.encoders import file_digest, load_encoder
from clipcls.encoders.files import FACTS, GRAPHS, WEIGHTS
from clipcls.encoders.inputs import _CLEANINGS
from clipcls.encoders.locate import locate
from clipcls.encoders.onnx import OnnxEncoder
from clipcls.encoders.spec import STARTER_FOLDER, parse_spec
from clipcls.encoders.traced import TOKENS, read
from clipcls.errors import ModelError, OutOfMemory
from clipcls.records import TokenCount

PHOTOS = [IMAGES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")]
LABELS = ["猫", "coffee", "火箭", "elephant"]
PROMPTS = [
    *("a photo of a cat", "这是一张有关大象的照片", "猫", "", " a  b\tc\n", "Ｃａｔ，＆ &lt;cat&gt; cafe\u0301 ☃ 🚀"),
    *("\ud800", "a very long description of a picture " * 9, "一张很长很长的照片说明，" * 9),
    *("象" * count for count in (61, 62, 63, 90)),
]  # fmt: skip
"""In both languages, odd and plain, shorter and longer than the context."""


@pytest.fixture(scope="module")
def ours() -> OnnxEncoder:
    """The starter through ONNX Runtime."""
    encoder = load_encoder("starter")[0]
    assert isinstance(encoder, OnnxEncoder)
    return encoder


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The starter through torch."""
    from clipcls.encoders.openclip import OpenClipEncoder

    spec = parse_spec("starter")
    return OpenClipEncoder(spec, locate(spec), "cpu", "fp32", file_digest)


# The same answers.


def test_it_is_the_same_model(ours: OnnxEncoder, theirs: Any) -> None:
    assert ours.info == theirs.info
    assert (ours.image_size, ours.batch_size) == (theirs.image_size, theirs.batch_size)


def test_photographs_are_prepared_as_open_clip_does(ours: OnnxEncoder, theirs: Any) -> None:
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**theirs._model.visual.preprocess_cfg), is_train=False)
    photos = [Image.open(path) for path in PHOTOS]
    photos += [photos[0].crop(box) for box in ((0, 0, 33, 200), (0, 0, 201, 50), (0, 0, 260, 260), (9, 9, 10, 10))]
    batch = [ours.preprocess(photo) for photo in photos]
    assert {(pixels.shape, str(pixels.dtype)) for pixels in batch} == {((ours.image_size, ours.image_size, 3), "uint8")}
    expected = torch.stack([transform(photo) for photo in photos]).numpy()
    np.testing.assert_allclose(ours._pictures.stack(batch), expected, atol=1e-6, rtol=0)


def test_photographs_get_the_same_vectors_and_labels(ours: OnnxEncoder, theirs: Any) -> None:
    photos = [Image.open(path) for path in PHOTOS]
    images = [each.encode_images([each.preprocess(photo) for photo in photos]) for each in (ours, theirs)]
    texts = [each.encode_texts([f"a photo of {label}" for label in LABELS]) for each in (ours, theirs)]
    assert cosines(*images).min() >= 0.99999
    best = [(pictures @ labels.T).argmax(axis=1).tolist() for pictures, labels in zip(images, texts, strict=True)]
    assert best[0] == best[1] and best[0][1:] == [0, 1, 2]


def test_prompts_get_the_same_tokens_and_vectors(ours: OnnxEncoder, theirs: Any) -> None:
    templates = [*load_prompts("zh").templates, *load_prompts("imagenet-80").templates]
    prompts = [*PROMPTS, *(template.replace("{类别}", "大象").replace("{}", "cat") for template in templates)]
    assert ours.tokenize(prompts) == theirs.tokenize(prompts)
    assert {count.cut for count in ours.tokenize(PROMPTS)} == {True, False}
    ids, mask = ours._prompts.stack(ours._prompts.ids(prompts))
    assert ((ids == 1) == (mask == 0)).all()
    np.testing.assert_array_equal(ids, theirs._tokenizer(prompts)[:, : ids.shape[1]])
    assert cosines(ours.encode_texts(prompts), theirs.encode_texts(prompts)).min() >= 0.99999


def test_company_changes_no_vector(ours: OnnxEncoder) -> None:
    together = ours.encode_texts(PROMPTS * 2)
    alone = np.concatenate([ours.encode_texts([prompt]) for prompt in PROMPTS])
    np.testing.assert_allclose(together, np.tile(alone, (2, 1)), atol=1e-6, rtol=0)
    batch = [ours.preprocess(Image.open(path)) for path in PHOTOS[:3]]
    apart = np.concatenate([ours.encode_images([pixels]) for pixels in batch])
    np.testing.assert_allclose(ours.encode_images(batch), apart, atol=1e-6, rtol=0)


@given(st.text() | st.text("abC_ &;#<>gtlm'\"’“ﬁＡ，。 \t\x1b[m\u3000一龥丽\u0301â€™Ã©"))
def test_texts_are_cleaned_as_open_clip_does(text: str) -> None:
    from open_clip.tokenizer import get_clean_fn

    for name in ("whitespace", "lower", "canonicalize"):
        assert _CLEANINGS[name](text) == get_clean_fn(name)(text)


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    return (ours * theirs).sum(axis=1)


# A whole process.

REPORT = """
import json, sys
from clipcls.cli import run
code = run(sys.argv[1:])
peak = [int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")]
heavy = {"torch", "torchvision", "open_clip", "transformers", "timm", "huggingface_hub"} & set(sys.modules)
print(json.dumps([code, sorted(heavy), peak[0]]), file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_an_uncached_answer_needs_no_torch(here: Path, unmeasured: None) -> None:
    words = ["classify", str(IMAGES / "chelsea.jpg"), "--labels", "大象,冰箱,猫", "--no-cache"]
    with within(10):  # through torch it takes as long; benchmarks/starter.py holds the real bar
        done = subprocess.run(
            [sys.executable, "-c", REPORT, *words], capture_output=True, text=True, encoding="utf-8", timeout=300
        )
    code, heavy, megabytes = json.loads(done.stderr.splitlines()[-1])
    assert (code, heavy) == (0, []) and ",ok,猫," in done.stdout, done.stderr
    assert megabytes <= 400


# Which way a model goes.


@pytest.fixture
def through_torch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices for which the torch path was taken; nothing is loaded."""
    taken: list[str] = []
    monkeypatch.setattr(
        "clipcls.encoders.openclip.OpenClipEncoder", lambda spec, files, device, *rest: taken.append(device)
    )
    return taken


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_other_devices_are_torchs(device: str, through_torch: list[str]) -> None:
    load_encoder("starter", device=device)
    assert through_torch == [device]


def test_without_onnx_runtime_torch_answers(through_torch: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "clipcls.encoders.onnx")
    load_encoder("starter")
    assert through_torch == ["auto"]


@pytest.mark.parametrize("name", GRAPHS)
def test_without_either_graph_torch_answers(name: str, traced: Path, through_torch: list[str]) -> None:
    assert isinstance(load_encoder(str(traced), device="cpu")[0], OnnxEncoder)
    (traced / name).unlink()
    load_encoder(str(traced), device="cpu")
    assert through_torch == ["cpu"]


def test_links_as_in_a_hubs_cache_are_torchs(traced: Path, through_torch: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "snapshot"
    cache.mkdir()
    for file in traced.iterdir():
        (cache / file.name).symlink_to(file)
    load_encoder(str(cache))
    assert through_torch == ["auto"]
    (tmp_path / "link").symlink_to(traced)
    linked = load_encoder(str(tmp_path / "link"))[0]
    assert isinstance(linked, OnnxEncoder) and linked.encode_texts(["cat"]).shape == (1, linked.info.dim)


# Tracing, and what is spoilt afterwards.


@pytest.fixture(scope="module")
def recipe() -> Any:
    spec = importlib.util.spec_from_file_location("trace_recipe", ROOT / "recipes" / "starter" / "trace.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def once_traced(recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny traced model in single precision; not to be changed."""
    folder = make_model(tmp_path_factory.mktemp("traced") / "model", HF_TEXT, 5)
    recipe.trace(folder)  # compares it with torch, in a process of its own
    return folder


@pytest.fixture
def traced(once_traced: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(once_traced, tmp_path / "模 型"))


def test_tracing_again_writes_the_same_bytes(recipe: Any, once_traced: Path, traced: Path) -> None:
    recipe.trace(traced)
    for name in (*GRAPHS, FACTS, TOKENS):
        assert (traced / name).read_bytes() == (once_traced / name).read_bytes()
    assert read(STARTER_FOLDER).tokenizer == "tokenizer.json" and read(traced).tokenizer == TOKENS


@pytest.mark.parametrize("name", GRAPHS)
def test_the_starters_graphs_hold_no_weights_and_no_paths(name: str) -> None:
    content = (STARTER_FOLDER / name).read_bytes()
    assert len(content) < 1_000_000
    assert content.count(WEIGHTS.encode()) > 50
    for path in (str(ROOT), str(Path.home()), os.sep + "tmp", os.sep + "usr", "site-packages", ".py"):
        assert path.encode() not in content


def test_a_model_that_cannot_be_traced(recipe: Any, tmp_path: Path) -> None:
    config = json.loads(json.dumps(CLIP))
    config["model_cfg"]["vision_cfg"]["image_size"] = [32, 48]
    folder = make_model(tmp_path / "clip", config)
    with pytest.raises(ModelError, match="is not traced: its pictures are cut to an oblong"):
        recipe.trace(folder)
    assert not any((folder / name).exists() for name in (*GRAPHS, FACTS))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.pop("dim"),
        lambda f: f.update(surplus=1),
        lambda f: f["pictures"].update(resize="fold"),
        lambda f: f["pictures"].pop("mean"),
        lambda f: f["pictures"].update(interpolation="nearest"),
        lambda f: f["pictures"].update(size=32),
        lambda f: f["texts"].update(cleaning="none at all"),
        lambda f: f["texts"].update(context="24"),
        lambda f: f.update(tokenizer="elsewhere.json"),
        lambda f: f.update(dim="16"),
        lambda f: f.update(logit_scale="20"),
        lambda f: f.update(logit_bias=[]),
        lambda f: f["pictures"].update(size=[-1, -1]),
        lambda f: f["pictures"].update(size=[10**6, 10**6]),
        lambda f: f["pictures"].update(fill="grey"),
        lambda f: f["texts"].update(context=10**9, full=True),
        lambda f: f["texts"].update(dropped="x"),
        lambda f: f["texts"].update(first={"Chinese": 5}),
        lambda f: f["texts"].update(first=[5]),
    ],
)
def test_damaged_facts_are_refused(change: Callable[[Any], object], traced: Path) -> None:
    edit(traced / FACTS, change)
    assert f"delete {FACTS}" in refused(traced)


def test_facts_of_another_version_are_not_used(traced: Path, through_torch: list[str]) -> None:
    edit(traced / FACTS, lambda facts: facts.update(version=0))
    load_encoder(str(traced), device="cpu")
    assert through_torch == ["cpu"]


def edit(path: Path, change: Callable[[Any], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def refused(folder: Path) -> str:
    """The one line that both towers of a folder are refused with."""
    said = []
    for use in (
        lambda encoder: encoder.encode_texts(["cat"]),
        lambda encoder: encoder.encode_images([encoder.preprocess(Image.open(PHOTOS[0]))]),
    ):
        with pytest.raises(ModelError) as caught:
            use(load_encoder(str(folder), device="cpu")[0])
        said.append(str(caught.value))
    assert all("\n" not in message and len(message) < 700 and str(folder) in message for message in said)
    return said[0]


def other_weights(folder: Path) -> None:
    """The same layout, other numbers."""
    make_model(folder, HF_TEXT, 6)


def cut_weights(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1000])


def shifted_weights(folder: Path) -> None:
    """The same numbers at other offsets."""
    from safetensors.torch import load_file, save_file

    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"note": "a longer header"})


def rewrite_graphs(folder: Path, change: Callable[[bytes], bytes]) -> None:
    for name in GRAPHS:
        (folder / name).write_bytes(change((folder / name).read_bytes()))


def move_weights(location: Callable[[Path], str], **places: int) -> Callable[[Path], None]:
    """Have graphs look for their weights elsewhere: a copy of them lies above the folder."""

    def change(folder: Path) -> None:
        shutil.copy(folder / WEIGHTS, folder.parent)
        moved = {"location": location(folder)} | {name: str(place) for name, place in places.items()}

        def point(model: Any) -> None:
            for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
                entry.value = moved.get(entry.key, entry.value)

        edit_graphs(folder, point)

    return change


def answer_otherwise(kind: str, **options: Any) -> Callable[[Path], None]:
    """Have graphs put their answers through one more step, with themselves where it takes two."""

    def change(model: Any) -> None:
        from onnx import helper

        (output,) = model.graph.output
        inputs = [output.name] * (1 if kind == "ReduceSum" else 2)
        model.graph.node.append(helper.make_node(kind, inputs, ["otherwise"], **options))
        output.name = "otherwise"
        output.type.tensor_type.ClearField("shape")

    return lambda folder: edit_graphs(folder, change)


def edit_graphs(folder: Path, change: Callable[[Any], object]) -> None:
    import onnx

    for name in GRAPHS:
        model = onnx.load(folder / name, load_external_data=False)
        change(model)
        (folder / name).write_bytes(model.SerializeToString())


OTHER_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "other weights": (other_weights, "another model"),
    "shifted weights": (shifted_weights, "another model"),
    "another mean": (
        lambda f: edit(f / "open_clip_config.json", lambda c: c["preprocess_cfg"].update(mean=[0.4] * 3)),
        "another model",
    ),
    "another activation": (lambda f: edit(f / "config.json", lambda c: c.update(hidden_act="relu")), "another model"),
    "another token": (
        lambda f: edit(f / "tokenizer.json", lambda c: c["model"]["vocab"].update(狮=3)),
        "another model",
    ),
    "cut weights": (cut_weights, "another model"),
    "no tokenizer": (lambda f: (f / TOKENS).write_text("{"), "through ONNX Runtime"),
    "cut graphs": (lambda f: rewrite_graphs(f, lambda content: content[:-500]), "cannot be run"),
    "empty graphs": (lambda f: rewrite_graphs(f, lambda content: b""), "cannot be run"),
    "the starter's graphs": (
        lambda f: [shutil.copy(STARTER_FOLDER / name, f) for name in GRAPHS],
        "cannot be run",
    ),
    "weights above the folder": (move_weights(lambda f: f"../{WEIGHTS}"), "cannot be run"),
    "weights anywhere": (move_weights(lambda f: str(f.parent / WEIGHTS)), "cannot be run"),
    "weights without end": (move_weights(lambda f: "/dev/zero"), "cannot be run"),
    "weights behind the file's end": (move_weights(lambda f: WEIGHTS, offset=1 << 62), "cannot be run"),
    "another length": (lambda f: edit(f / FACTS, lambda facts: facts.update(dim=7)), "cannot be run"),
    "twice the numbers": (answer_otherwise("Concat", axis=1), "it gave"),
    "twice the rows": (answer_otherwise("Concat", axis=0), "it gave"),
    "one number": (answer_otherwise("ReduceSum", keepdims=0), "it gave"),
}


@pytest.mark.parametrize(("spoil", "reason"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_graphs_beside_what_they_were_not_traced_from(
    spoil: Callable[[Path], object], reason: str, traced: Path
) -> None:
    spoil(traced)
    assert reason in refused(traced)


def test_graphs_that_answer_zero_are_failures(traced: Path, here: Path, clipcls: Terminal) -> None:
    words = ("classify", PHOTOS[0], "--labels", "cat,dog", "--model", traced, "--no-cache", "--device", "cpu")
    text = (traced / "text.onnx").read_bytes()
    answer_otherwise("Sub")(traced)
    clipcls(*words, code=4)
    assert "gives no usable text embeddings" in clipcls.err and clipcls.err.count("\n") == 1
    (traced / "text.onnx").write_bytes(text)
    (row,) = clipcls.rows(*words, code=3)
    assert (row["status"], row["error"], row["label"]) == ("error", "the model gave no usable embedding for it", "")


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copyfile(source, target)


def cut(name: str, left: float) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).unlink()  # it is a link to the starter's own
        (folder / name).write_bytes(content[: int(len(content) * left)])

    return change


def swap(folder: Path) -> None:
    for name, other in ((GRAPHS[0], "x"), (GRAPHS[1], GRAPHS[0]), ("x", GRAPHS[1])):
        (folder / name).rename(folder / other)


STARTERS: dict[str, Callable[[Path], object]] = {
    "half the weights": cut(WEIGHTS, 0.5),
    "no weights": cut(WEIGHTS, 0),
    "all weights but the last": cut(WEIGHTS, 0.999),
    "half the image tower": cut("image.onnx", 0.5),
    "half the text tower": cut("text.onnx", 0.5),
    "half the tokenizer": cut("tokenizer.json", 0.5),
    "half the facts": cut(FACTS, 0.5),
    "half the configuration": cut("open_clip_config.json", 0.5),
    "half the text tower's configuration": cut("config.json", 0.5),
    "the towers swapped": swap,
}


@pytest.mark.parametrize("spoil", STARTERS.values(), ids=STARTERS)
def test_a_spoilt_copy_of_the_starter(spoil: Callable[[Path], object], clipcls: Terminal, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STARTER_FOLDER, tmp_path / "copy", copy_function=link_or_copy))
    spoil(folder)
    out = clipcls("classify", PHOTOS[0], "--labels", "cat,dog", "--model", folder, "--no-cache", code=4)
    assert out.count("\n") <= 1 and "ok" not in out  # there may be the head of a table
    (line,) = clipcls.err.splitlines()
    assert line.startswith("error: ") and str(folder) in line


def test_the_command_ends_with_one_line_and_code_4(traced: Path) -> None:
    rewrite_graphs(traced, lambda content: content[:-500])
    words = ["classify", str(PHOTOS[0]), "--labels", "cat,dog", "--model", str(traced), "--no-cache"]
    done = subprocess.run(
        [sys.executable, "-m", "clipcls", *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"error: {traced / 'text.onnx'} cannot be run") and done.stderr.count("\n") == 1


def test_memory_that_runs_out_is_told_apart(traced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def run(*_: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested b")

    encoder = load_encoder(str(traced))[0]
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
    with pytest.raises(OutOfMemory, match="--batch-size"):
        encoder.encode_texts(["cat"])


def test_a_tower_is_opened_when_it_is_needed(traced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    opened: list[str] = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, *a, **k: (opened.append(path.name), real(path, *a, **k))[1]
    )
    encoder = load_encoder(str(traced))[0]
    assert encoder.tokenize(["象" * CONTEXT]) == [TokenCount(CONTEXT, True)] and opened == []
    for _ in range(2):
        encoder.encode_texts(["cat"])
    assert opened == ["text.onnx"]
