"""Tracing at first use: every kind of tower, what torch answers, where the weights lie, what is said of failures."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from conftest import IMAGES, Terminal
from onnxruntime import InferenceSession
from PIL import Image
from tiny import CLIP, FAMILIES, HF_TEXT, make_hf_model, make_model, make_models, make_nllb

from clipcls import Classifier
from clipcls.encoders import file_digest, graphs, load_encoder, towers, traced, tracing
from clipcls.encoders.agreement import Agreement, Measured
from clipcls.encoders.files import FACTS, GRAPHS
from clipcls.encoders.locate import locate
from clipcls.encoders.onnx import OnnxEncoder
from clipcls.encoders.spec import STARTER_FOLDER, parse_spec
from clipcls.errors import ModelError

PHOTOS = [IMAGES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")]
PROMPTS = [
    *("a cat", "猫", "这是一张有关大象的照片", "", "A photo of TWO dogs, isn't it?"),
    *("long " * 90, "кошка 12 ☃", "图中物体" * 9),
]
SOME = ["clip", "photo", "siglip", "hf", "nllb", "pickled", "half", "float8", *(f"hf_{family}" for family in FAMILIES)]
TRACED = [name for name in SOME if name != "hf_siglip2"]

# One process for all of them: importing torch and the rest takes longer than tracing a tiny model.
TRACE_ALL = """
import sys
from pathlib import Path
from clipcls.encoders import file_digest, traced, tracing
from clipcls.encoders.locate import locate
from clipcls.encoders.spec import parse_spec
home = Path(sys.argv[1])
for model in sys.argv[2:]:
    files = locate(parse_spec(model))
    fingerprint = files.fingerprint("fp32", file_digest)
    (home / fingerprint).mkdir(parents=True)
    sys.argv[1:] = [model, str(home / fingerprint), fingerprint, "fp32"]
    tracing.main()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Specs of a tiny model of every kind."""
    home = tmp_path_factory.mktemp("models")
    made: dict[str, Path] = make_models(home) | {"nllb": make_nllb(home / "nllb")}
    made["pickled"] = make_model(home / "pickled", CLIP, 7, weights="open_clip_pytorch_model.bin")
    made["half"] = make_model(home / "half", HF_TEXT, 8)
    store(made["half"], torch.float16)
    made["float8"] = make_model(home / "float8", HF_TEXT, 9)
    store(made["float8"], torch.float8_e4m3fn)
    return {name: str(path) for name, path in made.items()} | {
        f"hf_{family}": f"hf:{make_hf_model(home / f'hf_{family}', family)}" for family in FAMILIES
    }


@pytest.fixture(scope="module")
def home(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was traced of all of them."""
    folder = tmp_path_factory.mktemp("home") / "traced"
    subprocess.run([sys.executable, "-c", TRACE_ALL, str(folder), *models.values()], check=True, timeout=300)
    return folder


def store(folder: Path, kind: torch.dtype) -> None:
    """A model's matrices in fewer bits, and all else in half precision, as the starter has them."""
    from safetensors.torch import load_file, save_file

    path = folder / "open_clip_model.safetensors"
    state = load_file(path)
    save_file({name: each.to(kind if each.ndim == 2 else torch.float16) for name, each in state.items()}, path)


def through_torch(model: str) -> Any:
    return load_encoder(model, device="cpu")[0]


def fingerprint(model: str) -> str:
    return locate(parse_spec(model)).fingerprint("fp32", file_digest)


@pytest.mark.parametrize("name", TRACED)
def test_every_kind_of_tower_answers_as_through_torch(name: str, models: dict[str, str], home: Path) -> None:
    ours, theirs = load_encoder(models[name], traced=home)[0], through_torch(models[name])
    assert isinstance(ours, OnnxEncoder) and not isinstance(theirs, OnnxEncoder)
    assert ours.info == theirs.info and ours.image_size == theirs.image_size
    assert ours.tokenize(PROMPTS) == theirs.tokenize(PROMPTS)
    np.testing.assert_allclose(ours.encode_texts(PROMPTS), theirs.encode_texts(PROMPTS), atol=1e-5, rtol=0)
    photos = [Image.open(path).convert("RGB") for path in PHOTOS]
    photos += [photos[0].crop(box) for box in ((0, 0, 33, 200), (0, 0, 201, 50), (9, 9, 41, 41), (9, 9, 29, 30))]
    images = [each.encode_images([each.preprocess(photo) for photo in photos]) for each in (ours, theirs)]
    # transformers resizes tensors, not pictures, which may differ by one level of 256.
    np.testing.assert_allclose(*images, atol=2e-3 if name.startswith("hf_") else 2e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "block", "all_tokens"),
    [
        ("clip", "visual.transformer.resblocks", False),
        ("siglip", "visual.transformer.resblocks", True),  # it takes the mean of all
        ("hf_chinese_clip", "vision_model.encoder.layers", False),
        ("hf_siglip", "vision_model.encoder.layers", True),
    ],
)
def test_only_what_is_looked_at_is_computed(name: str, block: str, all_tokens: bool, models: dict[str, str]) -> None:
    encoder = through_torch(models[name])
    made = towers.of_transformers(encoder) if name.startswith("hf_") else towers.of_open_clip(encoder)
    seen: list[int] = []
    for each in encoder._model.get_submodule(block):
        each.mlp.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    with torch.no_grad():
        made.image(torch.zeros(1, 3, *made.pictures.size))
    assert len(seen) > 1 and min(seen[:-1]) == max(seen) > 1
    assert seen[-1] == (seen[0] if all_tokens else 1)


@pytest.mark.parametrize("name", ["clip", "siglip", "hf", "nllb", "hf_chinese_clip"])
def test_company_changes_no_vector(name: str, models: dict[str, str], home: Path) -> None:
    encoder = load_encoder(models[name], traced=home)[0]
    alone = np.concatenate([encoder.encode_texts([prompt]) for prompt in PROMPTS])
    np.testing.assert_allclose(encoder.encode_texts(PROMPTS), alone, atol=2e-6, rtol=0)


def test_short_prompts_cost_little_where_the_tower_allows(models: dict[str, str], home: Path) -> None:
    for name, length in {"clip": 4, "hf": 6, "siglip": 24}.items():
        encoder = load_encoder(models[name], traced=home)[0]
        assert isinstance(encoder, OnnxEncoder)
        ids, _ = encoder._prompts.stack(encoder._prompts.ids(["a cat"]))
        assert ids.shape == (1, length)


@pytest.mark.parametrize("name", ["clip", "nllb", "half", "hf_clip", "hf_altclip"])
def test_the_models_own_file_is_all_the_weights_there_are(name: str, models: dict[str, str], home: Path) -> None:
    folder = home / fingerprint(models[name])
    assert sum((folder / graph).stat().st_size for graph in GRAPHS) < 400_000
    assert not (folder / traced.OWN_WEIGHTS).exists()
    for path, link in traced.locations(locate(parse_spec(models[name]))).items():
        assert os.path.samefile(path, folder / link)


def test_a_pickle_is_converted_once(models: dict[str, str], home: Path) -> None:
    assert (home / fingerprint(models["pickled"]) / traced.OWN_WEIGHTS).is_file()


def test_what_cannot_be_traced_stays_on_torch_and_is_not_tried_again(
    models: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, clipcls: Terminal
) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert not isinstance(load_encoder(models["hf_siglip2"], traced=home)[0], OnnxEncoder)
    reason = traced.refusal(home, fingerprint(models["hf_siglip2"]))
    assert reason and "Siglip2ImageProcessor" in reason
    monkeypatch.setattr(traced, "_libraries", lambda: ["another"])
    assert traced.refusal(home, fingerprint(models["hf_siglip2"])) is None


# A whole process, at first use and afterwards.


def use(*words: str) -> tuple[set[str], str]:
    """What heavy packages a command imports, and all that it says on stderr, in a process of its own."""
    command = [sys.executable, "-X", "importtime", "-m", "clipcls", *words]
    environment = os.environ | {"CLIPCLS_TRACE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return imported & {"torch", "open_clip", "transformers", "onnx"}, done.stderr


def test_the_second_run_is_without_torch(models: dict[str, str], here: Path) -> None:
    words = ["classify", str(PHOTOS[1]), "--labels", "cat,dog", "--no-cache", "--model", models["clip"]]
    first, said = use(*words)
    assert first == set() and "preparing" in said
    second, said = use(*words)
    assert second == set() and "preparing" not in said


def test_a_trace_that_dies_costs_the_run_nothing(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with caplog.at_level(logging.WARNING, "clipcls"):
        encoder = load_encoder(models["clip"], traced=tmp_path)[0]
    assert not isinstance(encoder, OnnxEncoder)
    assert "runs through torch, which is slower to start: tracing ended with exit code 1" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_what_was_cut_off_is_swept(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    old, new = tmp_path / ".oc1-old.1", tmp_path / ".oc1-new.2"
    for draft in (old, new):
        draft.mkdir()
        (draft / GRAPHS[0]).touch()
    os.utime(old, (0, 0))
    load_encoder(models["clip"], traced=tmp_path)
    assert list(tmp_path.iterdir()) == [new]


def test_a_cache_that_cannot_be_written_costs_the_run_nothing(models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not isinstance(load_encoder(models["clip"], traced=tmp_path / "file" / "traced")[0], OnnxEncoder)


@pytest.fixture
def own_home(models: dict[str, str], home: Path, tmp_path: Path) -> Path:
    """A cache of a test's own, with what was traced of one model."""
    folder = tmp_path / "traced" / fingerprint(models["clip"])
    shutil.copytree(home / fingerprint(models["clip"]), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder.parent


def test_where_no_links_can_be_the_weights_are_mapped(
    models: dict[str, str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", link)
    encoder, theirs = load_encoder(models["clip"], traced=own_home)[0], through_torch(models["clip"])
    assert isinstance(encoder, OnnxEncoder)
    np.testing.assert_allclose(encoder.encode_texts(PROMPTS), theirs.encode_texts(PROMPTS), atol=1e-5, rtol=0)
    assert not list(own_home.glob("*/*.safetensors"))


def test_weights_on_another_disk_become_8_bit(models: dict[str, str]) -> None:
    shared = Path("/dev/shm")
    if not shared.exists() or shared.stat().st_dev == Path(models["clip"]).stat().st_dev:
        pytest.skip("no other disk here")
    with TemporaryDirectory(dir=shared) as elsewhere:
        spec = parse_spec(models["clip"])
        files = locate(spec)
        tracing.write(spec, files, through_torch(models["clip"]), "f", Path(elsewhere))
        tracing.in_8_bits(files, "f", Path(elsewhere))
        assert not list(Path(elsewhere).glob("*.safetensors"))
        assert all(InferenceSession(str(Path(elsewhere) / name)).get_inputs() for name in GRAPHS)


def test_nothing_in_the_current_folder_is_run(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx.py", "torch.py", "queue.py"):
        (tmp_path / name).write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_encoder(models["clip"], traced=tmp_path / "traced")[0], OnnxEncoder)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "told",
    [OSError(28, "No space left on device"), Exception("I/O error: No space left on device (os error 28)")],
    ids=["Python's", "Rust's"],
)
def test_a_full_disk_does_not_keep_a_model_from_being_traced_later(
    told: Exception,
    models: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise told

    monkeypatch.setattr(tracing, "trace", full)
    monkeypatch.setattr("sys.argv", ["-c", models["clip"], str(tmp_path), "f", "fp32"])
    with pytest.raises(SystemExit):
        tracing.main()
    assert "No space left on device" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_link_to_what_the_weights_once_were_is_renewed(
    models: dict[str, str], own_home: Path, tmp_path: Path
) -> None:
    wrong = own_home / fingerprint(models["clip"]) / "open_clip_model.safetensors"
    shutil.copyfile(Path(models["clip"]) / wrong.name, wrong)
    load_encoder(models["clip"], traced=own_home)
    assert os.path.samefile(wrong, Path(models["clip"]) / wrong.name)


@pytest.mark.parametrize("name", [*GRAPHS, FACTS])
def test_what_is_damaged_or_missing_in_the_cache_is_made_anew(
    name: str, models: dict[str, str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(traced, "_make", lambda spec, precision, fingerprint, folder: made.append(folder))
    path = own_home / fingerprint(models["clip"]) / name
    path.unlink()
    load_encoder(models["clip"], traced=own_home)
    assert made == [path.parent]


def traced_at_once(monkeypatch: pytest.MonkeyPatch, model: Path, **facts: Any) -> None:
    """Have the process that traces find all done, with facts of the test's."""

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        folder = words[-3]
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
        edited(Path(folder), FACTS, lambda table: table.update(facts))
        return subprocess.CompletedProcess(words, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)


def test_a_damaged_folder_in_the_cache_makes_way(
    models: dict[str, str], home: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_at_once(monkeypatch, home / fingerprint(models["clip"]))
    facts = own_home / fingerprint(models["clip"]) / FACTS
    facts.write_text("{", encoding="utf-8")
    assert isinstance(load_encoder(models["clip"], traced=own_home)[0], OnnxEncoder)
    assert traced.read(facts.parent).dim == 24


def test_a_processor_with_a_faster_precision_is_told_of(
    models: dict[str, str],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    traced_at_once(monkeypatch, home / fingerprint(models["clip"]), faster="bf16 is faster here")
    with caplog.at_level(logging.INFO, "clipcls"):
        load_encoder(models["clip"], traced=tmp_path / "traced")
    assert "bf16 is faster here" in caplog.messages


@pytest.mark.parametrize(
    ("pace", "same", "said"),
    [
        (1.0, 1.0, ""),
        (3.0, 0.9, ""),
        (3.0, 1.0, "on this processor --precision bf16 embeds 3.0 times as many images a second, with the same"),
    ],
)
def test_a_precision_is_worth_a_word_if_it_is_faster_and_as_good(
    pace: float, same: float, said: str, models: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = load_encoder(models["clip"], traced=home)[0], through_torch(models["clip"])

    def compared(exact: Measured, near: Measured, precision: str) -> Agreement:
        assert len(exact.images) == len(near.images) == 8 and theirs._precision == precision == "bf16"
        return Agreement(precision, 1.0, 1.0, 1.0, same, pace, 8)

    monkeypatch.setattr(tracing, "pace", lambda encoder: pace if encoder is theirs else 1.0)
    monkeypatch.setattr(tracing, "_PROBE_SECONDS", 0.0)  # one batch
    monkeypatch.setattr(tracing, "compared", compared)
    assert isinstance(ours, OnnxEncoder)
    told = tracing.faster(ours, theirs)
    assert told.startswith(said) and bool(told) is bool(said)


def test_answers_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = graphs.find_places

    def swapped(*arguments: Any) -> dict[str, graphs.Place]:
        places = find(*arguments)
        query, value = (f"text.transformer.encoder.layer.0.attention.self.{name}.weight" for name in ("query", "value"))
        return places | {query: places[value], value: places[query]}

    monkeypatch.setattr(graphs, "find_places", swapped)
    folder = make_model(tmp_path / "model", HF_TEXT, 5)
    (tmp_path / "out").mkdir()
    spec = parse_spec(str(folder))
    with pytest.raises(ModelError, match=r"its text tower disagrees with torch, cosine -?0\.\d+$"):
        tracing.trace(spec, locate(spec), "oc1-x", tmp_path / "out")


def test_tokens_that_are_counted_otherwise_are_refused() -> None:
    vectors = np.ones((1, 4), np.float32) / 2
    with pytest.raises(ModelError, match="its tokens are counted otherwise by the library tokenizers"):
        tracing.compare(tracing.Answers(vectors, vectors, [3]), tracing.Answers(vectors, vectors, [4]), 0.9)


def edited(folder: Path, name: str, change: Callable[[Any], object]) -> Path:
    table = json.loads((folder / name).read_text(encoding="utf-8"))
    change(table)
    (folder / name).write_text(json.dumps(table), encoding="utf-8")
    return folder


def texts(**settings: Any) -> Callable[[Path], Path]:
    """An open_clip model with other settings of its texts, on CLIP's own tokenizer or on another."""
    config = HF_TEXT if "tokenizer_mode" in settings else CLIP

    def make(folder: Path) -> Path:
        make_model(folder, config)
        if config is HF_TEXT:
            edited(folder, "tokenizer_config.json", lambda table: table.update(cls_token="<unk>"))
        return edited(folder, "open_clip_config.json", lambda table: table["model_cfg"]["text_cfg"].update(settings))

    return make


def family(name: str, file: str, **settings: Any) -> Callable[[Path], Path]:
    """A model for transformers with other settings."""
    return lambda folder: edited(make_hf_model(folder, name), file, lambda table: table.update(settings))


PICTURES = "preprocessor_config.json"
SQUARE, LARGER = ({"height": side, "width": side} for side in (32, 36))
UNTRACED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "tokens left out": (texts(tokenizer_kwargs={"reduction_mask": "random"}), "leaves tokens out at random"),
    "a mode": (texts(tokenizer_mode="clips"), "its tokenizer works in the mode 'clips'"),
    "padding in front": (family("siglip", "tokenizer_config.json", padding_side="left"), "at the beginning"),
    "cut in front": (family("metaclip_2", "tokenizer_config.json", truncation_side="left"), "at the beginning"),
    "plain numbers": (family("clip", PICTURES, do_normalize=False), "CLIPImageProcessor does something else"),
    "another scale": (family("clip", PICTURES, rescale_factor=1 / 127.5), "does something else to pictures"),
    "a cut square": (
        family("clip", PICTURES, size=LARGER, crop_size=SQUARE, do_center_crop=True),
        "cuts pictures out of squares",
    ),
}


@pytest.mark.parametrize(("make", "reason"), UNTRACED.values(), ids=UNTRACED)
def test_what_is_not_traced_is_said(make: Callable[[Path], Path], reason: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    spec = parse_spec(str(folder))
    files = locate(spec)
    with pytest.raises(ModelError, match=reason):
        tracing.write(spec, files, tracing._load(spec, files), "oc1-x", tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_tokenizer_in_python_is_not_traced() -> None:
    from transformers import CanineTokenizer

    with pytest.raises(ModelError, match="its tokenizer is written in Python"):
        towers._backend(CanineTokenizer())


def test_a_graph_that_holds_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_LARGEST", 1000)
    spec = parse_spec(str(make_model(tmp_path / "model", CLIP)))
    files = locate(spec)
    with pytest.raises(ModelError, match=r"its graph would take [\d,]+ bytes: it holds weights"):
        tracing.write(spec, files, tracing._load(spec, files), "oc1-x", tmp_path)


def attention(**settings: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.MultiheadAttention(8, 2, batch_first=True, **settings).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mask", [None, torch.ones(3, 3).triu(1).bool(), torch.ones(3, 3).triu(1) * -9.0])
@pytest.mark.parametrize("alone", [True, False])
def test_attention_is_written_out_as_torch_computes_it(bias: bool, mask: Any, alone: bool) -> None:
    module, (query, other) = attention(bias=bias), torch.randn(2, 2, 3, 8)
    words = (query, query, query) if alone else (query, other, other)
    with torch.no_grad():
        expected, _ = module(*words, need_weights=False, attn_mask=mask)
        with graphs._plainly():
            got, _ = module(*words, need_weights=False, attn_mask=mask)
    torch.testing.assert_close(got, expected)


def test_attention_of_another_kind_is_not_traced() -> None:
    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = attention(add_bias_kv=True)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.model(pixels, pixels, pixels)[0]

    with pytest.raises(ModelError, match="its attention is of a kind that is not traced"):
        graphs.export(Tower(), {"pixels": torch.zeros(2, 3, 8)}, tokens=False)


def test_a_model_that_is_not_there_ends_the_tracing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tracing", "ViT-B-32/none", str(tmp_path), "oc1-x", "fp32"])
    with pytest.raises(SystemExit) as caught:
        tracing.main()
    assert caught.value.code == 4
    assert capsys.readouterr().err.startswith("open_clip knows no weights 'none' of ViT-B-32; known are ")
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_may_be_told_not_to_trace(models: dict[str, str], tmp_path: Path) -> None:
    with Classifier.load(models["clip"], cache=tmp_path, trace=False) as classifier:
        classifier.embed_texts("a cat")
    assert not (tmp_path / "traced").exists()


def test_where_there_may_be_a_gpu_torch_is_asked(
    models: dict[str, str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Callable[..., object] | str] = []

    class Device:
        type = "cuda"

    monkeypatch.setattr("clipcls.encoders.may_have_gpu", lambda: True)
    monkeypatch.setattr("clipcls.encoders.devices.resolve_device", lambda device: asked.append(device) or Device)
    monkeypatch.setattr("clipcls.encoders.openclip.OpenClipEncoder", lambda *_: "torch")
    assert load_encoder(models["clip"], traced=own_home)[0] == "torch"  # type: ignore[comparison-overlap]
    assert isinstance(load_encoder("starter", traced=own_home)[0], OnnxEncoder) and asked == ["auto"]
    assert isinstance(load_encoder(models["clip"], device="cpu", traced=own_home)[0], OnnxEncoder)


# The commands.


@pytest.fixture
def tracing_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPCLS_TRACE", "1")


def test_the_commands_tell_trace_and_take_it_along(
    models: dict[str, str], own_folders: Path, tmp_path: Path, clipcls: Terminal, tracing_on: None
) -> None:
    model = models["clip"]
    assert "without torch: from its first use on" in clipcls("models", "info", model)
    clipcls("models", "trace", model)
    folder = own_folders / "cache" / "traced" / fingerprint(model)
    assert f"runs without torch: {folder}" in clipcls.err
    assert f"without torch: yes, traced in {folder}" in clipcls("models", "info", model)

    clipcls("models", "export", model, tmp_path / "out")
    assert {*GRAPHS, FACTS, traced.TOKENS} < {path.name for path in (tmp_path / "out").iterdir()}
    clipcls("models", "import", tmp_path / "out", "--name", "mine")
    shutil.rmtree(folder)
    theirs = through_torch(model)
    for name in (str(tmp_path / "out"), "mine"):
        encoder = load_encoder(name)[0]
        assert isinstance(encoder, OnnxEncoder) and encoder.info.fingerprint == theirs.info.fingerprint
        np.testing.assert_allclose(encoder.encode_texts(PROMPTS), theirs.encode_texts(PROMPTS), atol=1e-5, rtol=0)
    assert "without torch: yes, its graphs came with it" in clipcls("models", "info", "mine")


def test_int8_has_weights_of_its_own(
    models: dict[str, str], own_folders: Path, clipcls: Terminal, tracing_on: None
) -> None:
    clipcls("models", "trace", "starter")
    assert f"runs without torch: {STARTER_FOLDER}" in clipcls.err
    clipcls("models", "trace", models["photo"], "--int8")
    home = own_folders / "cache" / "traced"
    encoder, theirs = load_encoder(models["photo"], precision="int8", traced=home)[0], through_torch(models["photo"])
    assert isinstance(encoder, OnnxEncoder) and encoder.info.precision == "int8"
    assert encoder.info.fingerprint != theirs.info.fingerprint
    assert not list(home.glob("*/*.safetensors")) and not list(home.glob("*/plain*"))
    near = (encoder.encode_texts(PROMPTS) * theirs.encode_texts(PROMPTS)).sum(axis=1)
    assert 0.98 < near.min() < 0.999999


def test_what_cannot_be_traced_is_told(
    models: dict[str, str], home: Path, own_folders: Path, clipcls: Terminal, tracing_on: None
) -> None:
    shutil.copytree(
        home / fingerprint(models["hf_siglip2"]), own_folders / "cache" / "traced" / fingerprint(models["hf_siglip2"])
    )
    clipcls("models", "trace", models["hf_siglip2"], code=4)
    assert "runs through torch and not without: its Siglip2ImageProcessor" in clipcls.err
    assert "without torch: no, it cannot be traced" in clipcls("models", "info", models["hf_siglip2"])


def test_the_cache_tells_of_traced_models_and_drops_them(
    models: dict[str, str], home: Path, own_folders: Path, clipcls: Terminal
) -> None:
    shutil.copytree(home / fingerprint(models["clip"]), own_folders / "cache" / "traced" / "one")
    assert "1 models made ready to run without torch: " in clipcls("cache", "info")
    assert "and what 1 models need to run without torch" in clipcls("cache", "clear", "--yes")
    assert not (own_folders / "cache" / "traced").exists()
