"""What the towers compute in; on the CPU, since most machines that run this have nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import IMAGES, Terminal
from fakes import FakeDoor, picture
from PIL import Image
from tiny import make_hf_model, make_models

from clipcls import Classifier
from clipcls.encoders import load_encoder
from clipcls.encoders.onnx import OnnxEncoder
from clipcls.encoders.openclip import OpenClipEncoder
from clipcls.encoders.precision import computing, resolve_precision
from clipcls.errors import DeviceError, UsageError
from clipcls.settings import Settings

PROMPTS = ["a photo of a cat", "一张大象的照片", "ants", "a fridge, open"]
LEAST = {"bf16": 0.995, "int8": 0.98}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    return make_models(home) | {"chinese_clip": make_hf_model(home / "chinese_clip", "chinese_clip")}


@pytest.mark.parametrize(
    ("asked", "device", "capability", "used"),
    [
        ("auto", "cpu", None, "fp32"),
        ("auto", "cuda", (8, 0), "bf16"),
        ("auto", "cuda", (9, 0), "bf16"),
        ("auto", "cuda", (7, 5), "fp16"),
        ("auto", "mps", None, "fp32"),
        ("fp32", "cuda", (9, 0), "fp32"),
        ("bf16", "cpu", None, "bf16"),
        ("int8", "cpu", None, "int8"),
    ],
)
def test_what_a_precision_comes_to(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: str, capability: object, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision(asked, torch.device(device)) == used


@pytest.mark.parametrize(("asked", "device"), [("int8", "cuda"), ("int8", "mps"), ("fp16", "cpu")])
def test_a_precision_that_a_device_has_not(asked: str, device: str) -> None:
    with pytest.raises(DeviceError, match=f"{asked} is for .*use --precision auto"):
        resolve_precision(asked, torch.device(device))


def test_a_torch_without_8_bit_products_is_told(
    models: dict[str, Path], here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(*_: object, **__: object) -> None:
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine")

    monkeypatch.setattr("torch.ao.quantization.quantize_dynamic", no_engine)
    words = ["--labels", "cat,dog", "--model", models["clip"], "--precision", "int8", "--no-cache"]
    clipcls("classify", IMAGES / "chelsea.jpg", *words, code=5)
    *_, line = clipcls.err.splitlines()
    assert "this build of torch does not compute in int8: Didn't find engine" in line
    assert line.endswith("use --precision auto")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["clip", "siglip", "hf", "chinese_clip"])
def test_other_precisions_give_nearly_the_same_under_another_fingerprint(
    models: dict[str, Path], name: str, precision: str
) -> None:
    spec = f"hf:{models[name]}" if name == "chinese_clip" else str(models[name])
    pictures = sorted(IMAGES.glob("*.jpg"))
    found: list[Any] = []
    for asked in ("fp32", precision):
        with Classifier.load(spec, device="cpu", precision=asked, cache=False) as classifier:
            found.append((classifier.embed_texts(PROMPTS), classifier.embed_images(pictures), classifier.info))
    (texts, images, whole), (near_texts, near_images, near) = found
    assert near.precision == precision and near.fingerprint != whole.fingerprint
    for exact, close in ((texts, near_texts), (images, near_images)):
        assert np.linalg.norm(close, axis=1) == pytest.approx(1, abs=1e-5)
        cosines = (exact * close).sum(axis=1)
        assert LEAST[precision] < cosines.min() and not np.array_equal(exact, close)


def test_autocast_is_on_only_for_half_precision() -> None:
    for precision, on in (("fp32", False), ("int8", False), ("bf16", True)):
        with computing(precision, torch.device("cpu")):  # type: ignore[arg-type]
            assert torch.is_autocast_enabled("cpu") is on
            assert torch.is_inference_mode_enabled()


def test_the_starter_leaves_onnx_runtime_only_for_a_precision_that_it_has_not() -> None:
    for precision, kind in (("auto", OnnxEncoder), ("fp32", OnnxEncoder), ("bf16", OpenClipEncoder)):
        assert isinstance(load_encoder("starter", precision=precision)[0], kind)


def test_auto_and_fp32_on_the_cpu_share_their_embeddings(models: dict[str, Path], here: Path) -> None:
    picture(here / "a.png")
    for asked in ("auto", "fp32"):
        with Classifier.load(str(models["clip"]), device="cpu", precision=asked, cache="cache") as classifier:
            (found,) = classifier.zero_shot("cat,dog").classify("a.png")
            assert found.cached is (asked == "fp32")


def test_what_a_precision_came_to_is_remembered(fake: Callable[..., FakeDoor], here: Path, clipcls: Terminal) -> None:
    door = fake()
    picture(here / "a.png")
    for _ in range(2):
        clipcls("classify", "a.png", "-l", "red,blue", "--precision", "bf16")
    assert door.loads == 1
    clipcls("classify", "a.png", "-l", "red,blue")
    assert door.loads == 2


def test_an_unknown_precision(clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp8': use auto, fp32, bf16, fp16, int8"):
        Settings(precision="fp8")
    monkeypatch.setenv("CLIPCLS_PRECISION", "half")
    clipcls("classify", ".", "-l", "a,b", code=2)
    assert "CLIPCLS_PRECISION: unknown precision 'half'" in clipcls.err


def test_a_gpus_precision_on_the_cpu_is_exit_code_5(models: dict[str, Path], here: Path, clipcls: Terminal) -> None:
    picture(here / "a.png")
    clipcls("classify", "a.png", "-l", "a,b", "-m", models["clip"], "--precision", "fp16", "--device", "cpu", code=5)
    assert "fp16 is for a graphics card, not for the CPU" in clipcls.err


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-4), ("bf16", 2e-2), ("auto", 2e-2)])
def test_a_gpu_answers_as_the_cpu_does(models: dict[str, Path], here: Path, precision: str, within: float) -> None:
    dice = np.random.default_rng(0)
    for at in range(1000):
        Image.fromarray(dice.integers(0, 256, (7, 7, 3), np.uint8)).resize((224, 224)).save(f"{at:03}.png")
    found = []
    for device, asked in (("cpu", "fp32"), ("cuda", precision)):
        with Classifier.load(str(models["photo"]), device=device, precision=asked, cache=False) as classifier:
            records = classifier.zero_shot("cat,dog,elephant,fridge").classify(".", all_scores=True)
            found.append(np.array([[score.probability for score in record.all_scores] for record in records]))
    cpu, gpu = found
    assert np.abs(cpu - gpu).max() < within
    lead = np.diff(np.sort(cpu, axis=1)[:, -2:], axis=1)[:, 0]
    sure = lead > 2 * within  # a nearer tie may fall either way
    assert (cpu.argmax(axis=1) == gpu.argmax(axis=1))[sure].all()


def test_how_near_int8_comes_is_measured(models: dict[str, Path], clipcls: Terminal) -> None:
    told = clipcls("models", "info", models["photo"], "--precision", "int8").splitlines()[-1]
    assert told.startswith("int8 against fp32: cosine of images at least 0.9")
    same = clipcls("models", "info", models["clip"], "--precision", "fp32", "--device", "cpu").splitlines()[-1]
    assert same.startswith(
        "fp32 against fp32: cosine of images at least 1.0000 (1.0000 less their mean), of texts 1.0000"
    )
    assert "the same best label for 100.0% of 200 pictures" in same
