"""The encoder on real, tiny open_clip models: its numbers are open_clip's own, and a spoilt model is never used."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGES, ROOT
from PIL import Image, ImageOps
from tiny import (
    BERT,
    BPE_TEXT,
    CLIP,
    CONTEXT,
    HF_TEXT,
    MODELS,
    make_model,
    make_models,
    random_weights,
    write_tokenizer,
)

from clipcls import Classifier, load_prompts
from clipcls.encoders import load_encoder, ondisk
from clipcls.encoders.spec import parse_spec
from clipcls.errors import DeviceError, ModelError, OutOfMemory
from clipcls.pipeline import Embedder
from clipcls.records import TokenCount
from clipcls.store import Store

LABELS = ["cat", "rocket", "大象", "a cup of coffee"]
PHOTOS = [IMAGES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")]
NAMES = list(MODELS)
Copied = Callable[..., Path]


class Reference:
    """What open_clip itself makes of a folder."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        with chdir(folder):  # where a text tower named . is looked for
            self.model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")

    def class_weights(self, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        from open_clip import build_zero_shot_classifier

        return build_zero_shot_classifier(self.model, self.tokenizer, labels, templates).T.numpy()

    def pixels(self, paths: Sequence[Path]) -> Any:
        import torch

        pictures = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
        return torch.stack([self.transform(picture) for picture in pictures])

    def image_vectors(self, paths: Sequence[Path]) -> Any:
        import torch

        with torch.no_grad():
            return self.model.encode_image(self.pixels(paths), normalize=True)

    def probabilities(self, paths: Sequence[Path], weights: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            logits = self.model.logit_scale.exp() * self.image_vectors(paths) @ torch.from_numpy(weights).T
            if self.model.logit_bias is None:
                return logits.softmax(dim=-1).numpy()
            return (logits + self.model.logit_bias).sigmoid().numpy()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the tiny models; not to be changed."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copied(tiny_models: dict[str, Path], tmp_path: Path) -> Copied:
    """Copies a tiny model, so that a test can spoil it."""

    def copy(name: str, to: str = "") -> Path:
        return Path(shutil.copytree(tiny_models[name], tmp_path / (to or name)))

    return copy


@pytest.fixture(scope="session")
def references(tiny_models: dict[str, Path]) -> dict[str, Reference]:
    return {name: Reference(folder) for name, folder in tiny_models.items()}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photographs as PNG, of which the decoder always sees every pixel."""
    folder = tmp_path_factory.mktemp("photos")
    for path in PHOTOS:
        Image.open(path).save(folder / f"{path.stem}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def load() -> Iterator[Callable[..., Classifier]]:
    """``Classifier.load`` on the CPU and without a cache, closed after the test."""
    opened: list[Classifier] = []

    def make(model: Path | str, **options: Any) -> Classifier:
        opened.append(Classifier.load(str(model), **({"device": "cpu", "cache": False} | options)))
        return opened[-1]

    yield make
    for classifier in opened:
        classifier.close()


Load = Callable[..., Classifier]


# Numbers.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompts", ["a photo of a {}.", "imagenet-80"])
def test_class_weights_are_open_clips(
    name: str, prompts: str, tiny_models: dict[str, Path], references: dict[str, Reference], load: Load, tmp_path: Path
) -> None:
    templates = load_prompts(prompts).templates
    assert len(templates) == (80 if prompts == "imagenet-80" else 1)
    head = load(tiny_models[name], cache=tmp_path / "cache").zero_shot(LABELS, prompts)
    expected = references[name].class_weights(LABELS, templates)
    np.testing.assert_allclose(head.weights, expected, atol=1e-5)
    again = load(tiny_models[name], cache=tmp_path / "cache").zero_shot(LABELS, prompts)
    np.testing.assert_array_equal(again.weights, head.weights)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_the_models_own(
    name: str, tiny_models: dict[str, Path], references: dict[str, Reference], load: Load, photos: list[Path]
) -> None:
    head = load(tiny_models[name]).zero_shot(LABELS, "imagenet-7")
    weights = references[name].class_weights(LABELS, load_prompts("imagenet-7").templates)
    expected = references[name].probabilities(photos, weights)
    records = list(head.classify(photos, all_scores=True))
    got = np.array([[score.probability for score in record.all_scores or ()] for record in records])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.ptp(got, axis=0).max() > 0.01  # the photographs do differ
    cosines = references[name].image_vectors(photos).numpy() @ head.weights.T
    got = np.array([[score.cosine for score in record.all_scores or ()] for record in records])
    np.testing.assert_allclose(got, cosines, atol=1e-5)


def test_jpegs_and_sideways_photographs_are_seen_as_open_clip_sees_them(
    tiny_models: dict[str, Path], references: dict[str, Reference], load: Load
) -> None:
    paths = [*PHOTOS, IMAGES / "odd" / "sideways.jpg"]  # too small to be decoded at a fraction for this model
    got = load(tiny_models["photo"]).embed_images(paths)
    np.testing.assert_allclose(got, references["photo"].image_vectors(paths), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_described_as_it_is(
    name: str, tiny_models: dict[str, Path], references: dict[str, Reference], load: Load
) -> None:
    info, model = load(tiny_models[name]).info, references[name].model
    assert info.spec == str(tiny_models[name])
    assert info.dim == MODELS[name]["model_cfg"]["embed_dim"]
    assert info.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert info.logit_bias == (-10.0 if name == "siglip" else None)
    assert info.activation == ("sigmoid" if name == "siglip" else "softmax")
    assert info.languages == (("en",) if name in ("clip", "photo") else ())
    assert info.precision == "fp32"


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_batch_size_changes_nothing(
    name: str, tiny_models: dict[str, Path], references: dict[str, Reference], load: Load, photos: list[Path]
) -> None:
    extra = [IMAGES / "odd" / name for name in ("palette.png", "grey16.png")]
    one, three, many = (load(tiny_models[name], batch_size=size).embed_images([*photos, *extra]) for size in (1, 3, 32))
    np.testing.assert_allclose(three, one, atol=1e-5)
    np.testing.assert_allclose(many, one, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_is_open_clips_to_the_last_bit(
    name: str,
    tiny_models: dict[str, Path],
    references: dict[str, Reference],
    photos: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder: Any = load_encoder(str(tiny_models[name]), device="cpu")[0]
    batch = [encoder.preprocess(Image.open(path)) for path in photos]
    size = MODELS[name]["model_cfg"]["vision_cfg"]["image_size"]
    assert {pixels.dtype for pixels in batch} == {np.dtype(np.uint8)}
    assert {pixels.shape for pixels in batch} == {(*(size if isinstance(size, list) else (size, size)), 3)}
    assert encoder.image_size == np.max(size)
    seen: list[Any] = []
    encode = encoder._model.encode_image
    monkeypatch.setattr(encoder._model, "encode_image", lambda x, **options: (seen.append(x), encode(x, **options))[1])
    encoder.encode_images(batch)
    np.testing.assert_allclose(seen[0], references[name].pixels(photos), atol=1e-6)


def test_tokens_are_counted_as_the_bpe_tokenizer_does(
    tiny_models: dict[str, Path], references: dict[str, Reference]
) -> None:
    encoder = load_encoder(str(tiny_models["clip"]), device="cpu")[0]
    prompts = ["a cat", "", "cat " * 75, "cat " * 76, "象" * 60]
    counts = encoder.tokenize(prompts)
    assert counts[:4] == [TokenCount(4, False), TokenCount(2, False), TokenCount(77, False), TokenCount(77, True)]
    assert counts[4] == TokenCount(77, True)
    end = 49407
    read = references["clip"].tokenizer(prompts)
    assert [count.tokens for count in counts] == [row.index(end) + 1 for row in read.tolist()]


@pytest.mark.parametrize("name", ["hf", "siglip"])
def test_tokens_are_counted_as_the_hugging_face_tokenizer_does(
    name: str, tiny_models: dict[str, Path], references: dict[str, Reference]
) -> None:
    encoder = load_encoder(str(tiny_models[name]), device="cpu")[0]
    prompts = ["一张大象的照片", "a cat", "", "象" * (CONTEXT - 2), "象" * (CONTEXT - 1), "A CAT, " * 9]
    counts = encoder.tokenize(prompts)
    assert counts[0] == TokenCount(9, False)
    assert counts[3:5] == [TokenCount(CONTEXT, False), TokenCount(CONTEXT, True)]
    assert counts[5].cut
    read = references[name].tokenizer(prompts)
    assert [count.tokens for count in counts] == (read != 1).sum(dim=1).tolist()
    encoder.encode_texts(prompts)
    assert encoder.tokenize(prompts) == counts  # encoding leaves no padding or truncation behind


@pytest.mark.parametrize(
    "config",
    [
        CLIP | {"preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "squash", "mean": 0, "std": 1}},
        {"model_cfg": CLIP["model_cfg"] | {"custom_text": True}},
        {"model_cfg": CLIP["model_cfg"] | {"nonscalar_logit_scale": True}},
        {"model_cfg": CLIP["model_cfg"] | {"text_cfg": BPE_TEXT | {"hf_model_name": None, "hf_tokenizer_name": None}}},
    ],
    ids=["mean 0", "custom text, no preprocessing given", "logit scale of one element", "names of null"],
)
def test_other_ways_to_write_a_model(config: dict[str, Any], load: Load, tmp_path: Path, photos: list[Path]) -> None:
    folder = make_model(tmp_path / "model", config, 7)
    reference = Reference(folder)
    head = load(folder).zero_shot(LABELS[:2], "a {}")
    np.testing.assert_allclose(head.weights, reference.class_weights(LABELS[:2], ["a {}"]), atol=1e-5)
    probabilities = [[s.probability for s in record.all_scores] for record in head.classify(photos, all_scores=True)]
    np.testing.assert_allclose(probabilities, reference.probabilities(photos, head.weights), atol=1e-5)


@pytest.mark.parametrize("weights", ["open_clip_pytorch_model.bin", "epoch_9.pth", "anything.safetensors"])
def test_every_kind_of_checkpoint(weights: str, load: Load, tmp_path: Path) -> None:
    with_usual_name = make_model(tmp_path / "usual", CLIP, 3)
    folder = make_model(tmp_path / "model", CLIP, 3, weights)
    got, expected = (load(model).embed_texts(["cat"]) for model in (folder, with_usual_name))
    np.testing.assert_array_equal(got, expected)


# How weights are loaded.

RESNET = {"model_cfg": CLIP["model_cfg"] | {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}}
"""A convolutional image tower."""


def weights_of(folder: Path | str) -> Any:
    """The model that an encoder has loaded."""
    encoder: Any = load_encoder(str(folder), device="cpu")[0]
    return encoder._model


def assert_same_weights(model: Any, expected: Any) -> None:
    """Parameters and buffers, those too that are in no checkpoint."""
    import torch

    for kind in ("named_parameters", "named_buffers"):
        got, wanted = dict(getattr(model, kind)()), dict(getattr(expected, kind)())
        assert got.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor), name


@pytest.mark.parametrize("name", NAMES)
def test_loaded_weights_are_those_that_open_clip_loads(
    name: str, tiny_models: dict[str, Path], references: dict[str, Reference]
) -> None:
    model = weights_of(tiny_models[name])
    assert_same_weights(model, references[name].model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_half_precision_weights_are_computed_in_float32(weights: str, copied: Copied) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = copied("hf")
    path = folder / "open_clip_model.safetensors"
    state = {name: tensor.half() for name, tensor in load_file(path).items()}
    path.unlink()
    (save_file if weights.endswith("safetensors") else torch.save)(state, folder / weights)
    model = weights_of(folder)
    assert_same_weights(model, Reference(folder).model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_positions_of_another_size_are_resized_as_by_open_clip(copied: Copied) -> None:
    folder = copied("clip")
    edit_config(folder, lambda c: c["model_cfg"]["vision_cfg"].update(image_size=48))
    edit_config(folder, lambda c: c["model_cfg"]["text_cfg"].update(context_length=40))
    model = weights_of(folder)
    assert len(model.visual.positional_embedding) == 10 and len(model.positional_embedding) == 40
    assert_same_weights(model, Reference(folder).model)


@pytest.mark.skipif(sys.platform != "linux", reason="tells what memory is mapped in a file of its own")
def test_weights_stay_in_their_file(tiny_models: dict[str, Path]) -> None:
    parameters = list(weights_of(tiny_models["clip"]).parameters())
    mapped = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(str(tiny_models["clip"] / "open_clip_model.safetensors")):
            start, end = line.split()[0].split("-")
            mapped.append(range(int(start, 16), int(end, 16)))
    assert all(any(parameter.data_ptr() in part for part in mapped) for parameter in parameters)


@pytest.mark.parametrize("name", ["clip", "hf"])
def test_no_weights_are_made_up_before_they_are_loaded(name: str, tiny_models: dict[str, Path]) -> None:
    """But the few that open_clip makes before it gives them to the model."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Dice(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func.overloadpacket.__name__ in ("normal_", "uniform_", "randn") and not out.is_meta:
                self.largest = max(self.largest, out.numel())
            return out

    with Dice() as own:
        Reference(tiny_models[name])
    with Dice() as ours:
        load_encoder(str(tiny_models[name]), device="cpu")
    assert ours.largest <= 32 * 32 < own.largest


@pytest.mark.parametrize("how", ["fails", "is left without some"])
def test_a_tower_that_computes_with_its_weights_while_it_is_built(
    how: str, tiny_models: dict[str, Path], references: dict[str, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    import torch

    build = open_clip.CLIP.__init__

    def compute(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        if how == "fails":
            self.scale = self.logit_scale.item()
        else:
            self.register_buffer("scale", torch.exp(self.logit_scale.detach()), persistent=False)

    monkeypatch.setattr(open_clip.CLIP, "__init__", compute)
    model = weights_of(tiny_models["clip"])
    assert float(model.scale) > 0
    del model.scale
    assert_same_weights(model, references["clip"].model)


def test_what_others_build_meanwhile_has_weights() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from torch.nn import Linear

    from clipcls.encoders.meta import awaiting_weights

    with pytest.raises(ValueError, match="so"), awaiting_weights(), ThreadPoolExecutor(1) as other:
        assert Linear(2, 2).weight.is_meta
        assert not other.submit(Linear, 2, 2).result().weight.is_meta
        raise ValueError("so")
    assert not Linear(2, 2).weight.is_meta


@pytest.mark.parametrize(("config", "ordered"), [(RESNET, True), (CLIP, False)], ids=["convolutions", "transformer"])
def test_a_graphics_card_gets_convolutions_in_its_order(
    config: dict[str, Any], ordered: bool, tmp_path: Path, photos: list[Path]
) -> None:
    import torch

    from clipcls.encoders.openclip import _order_channels

    folder = make_model(tmp_path / "model", config, 4)
    encoder: Any = load_encoder(str(folder), device="cpu")[0]
    _order_channels(encoder._model.visual)
    kernels = [part.weight for part in encoder._model.visual.modules() if isinstance(part, torch.nn.Conv2d)]
    assert any(not kernel.is_contiguous() for kernel in kernels) is ordered
    reference = Reference(folder)
    assert_same_weights(encoder._model, reference.model)
    got = encoder.encode_images([encoder.preprocess(Image.open(path)) for path in photos])
    np.testing.assert_allclose(got, reference.image_vectors(photos), atol=1e-6)
    assert np.abs(got[0] - got[1]).max() > 1e-3  # the photographs do differ


# No network.

LOAD_OFFLINE = """
import json, socket, sys
def refuse(*args, **kwargs):
    print("asked for the network:", args, file=sys.stderr)
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from clipcls import Classifier
for model in sys.argv[1:]:
    with Classifier.load(model, device="cpu", cache=False) as classifier:
        head = classifier.zero_shot(["猫", "cat", "rocket"])
        records = list(head.classify(["chelsea.jpg", "rocket.jpg"]))
        assert all(record.ok for record in records), records
        print(json.dumps([classifier.info.languages, [record.top.label for record in records]]))
"""


def test_models_in_folders_need_no_network(tiny_models: dict[str, Path], own_folders: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    models = [str(tiny_models["hf"]), str(tiny_models["siglip"]), "starter"]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_OFFLINE, *models], cwd=IMAGES, env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "asked for the network" not in done.stderr
    *_, starter = map(json.loads, done.stdout.splitlines())
    assert starter[0] == ["en", "zh"] and starter[1][0] in ("猫", "cat") and starter[1][1] == "rocket"
    assert not list((own_folders / "hub").glob("**/*"))


# A spoilt model is never used.


def edit_weights(folder: Path, **changes: Any) -> Path:
    """Replace tensors by name, ``.`` written ``__``; None removes one."""
    from safetensors.torch import load_file, save_file

    path = folder / "open_clip_model.safetensors"
    state = load_file(path)
    for name, tensor in changes.items():
        state.pop(name.replace("__", "."), None)
        if tensor is not None:
            state[name.replace("__", ".")] = tensor
    save_file(state, path)
    return folder


def edit_config(folder: Path, change: Callable[[Any], object]) -> Path:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def refused(load: Load, folder: Path, *words: str) -> str:
    """The one line that a model is refused with."""
    with pytest.raises(ModelError) as caught:
        load(folder).zero_shot(["cat", "dog"], "a {}")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for word in (str(folder), *words):
        assert word in message
    return message


@pytest.mark.parametrize(
    "name", ["visual.proj", "visual.conv1.weight", "logit_scale", "text_projection", "token_embedding.weight"]
)
def test_a_missing_tensor(name: str, load: Load, copied: Copied) -> None:
    refused(load, edit_weights(copied("clip"), **{name.replace(".", "__"): None}), "Missing key", name, "anew")


@pytest.mark.parametrize("name", ["text.transformer.embeddings.word_embeddings.weight", "text.proj.weight"])
def test_a_missing_tensor_of_a_hugging_face_tower(name: str, load: Load, copied: Copied) -> None:
    refused(load, edit_weights(copied("hf"), **{name.replace(".", "__"): None}), "Missing key", name)


def test_a_missing_logit_bias(load: Load, copied: Copied) -> None:
    refused(load, edit_weights(copied("siglip"), logit_bias=None), "no usable logit scale or bias")


def test_surplus_and_misshapen_tensors(load: Load, copied: Copied) -> None:
    import torch

    refused(load, edit_weights(copied("clip"), another=torch.zeros(2)), "Unexpected key", "another")
    refused(load, edit_weights(copied("hf"), text__proj__weight=torch.zeros(3, 3)), "size mismatch", "text.proj")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 100.0])  # 100 where ln 100 was meant overflows
def test_an_unusable_logit_scale(scale: float, load: Load, copied: Copied) -> None:
    import torch

    refused(load, edit_weights(copied("clip"), logit_scale=torch.tensor(scale)), "no usable logit scale")


def test_text_weights_that_are_no_numbers(load: Load, copied: Copied) -> None:
    import torch

    folder = edit_weights(copied("clip"), text_projection=torch.full((16, 24), torch.nan))
    refused(load, folder, "weights are damaged")


def test_image_weights_that_are_no_numbers(load: Load, copied: Copied, photos: list[Path]) -> None:
    import torch

    folder = edit_weights(copied("clip"), visual__proj=torch.full((32, 24), torch.nan))
    records = list(load(folder).zero_shot(["cat", "dog"], "a {}").classify(photos))
    assert [record.ok for record in records] == [False] * len(photos)
    assert {record.error for record in records} == {"the model gave no usable embedding for it"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"not weights at all" * 100,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 10**6) + b'{"logit_scale":',
    ],
    ids=["empty", "zeros", "garbage", "header of 2^60 bytes", "no tensors", "cut off"],
)
def test_a_file_that_is_no_checkpoint(content: bytes, load: Load, copied: Copied) -> None:
    folder = copied("clip")
    (folder / "open_clip_model.safetensors").write_bytes(content)
    refused(load, folder, "cannot load the model")
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(content)
    refused(load, folder, "cannot load the model")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path, function: Callable[..., object] = os.mkdir) -> None:
        self.path, self.function = path, function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, (str(self.path),)


@pytest.mark.parametrize("through_torch", [True, False])
def test_code_in_a_checkpoint_is_not_run(through_torch: bool, load: Load, copied: Copied, tmp_path: Path) -> None:
    import torch

    folder, trap = copied("clip"), tmp_path / "sprung"
    (folder / "open_clip_model.safetensors").unlink()
    path = folder / "open_clip_pytorch_model.bin"
    content = {"state_dict": {"logit_scale": Trap(trap)}}
    torch.save(content, path) if through_torch else path.write_bytes(pickle.dumps(content, protocol=2))
    refused(load, folder, "hold code, which is never run", ".safetensors")
    assert not trap.exists()


def test_code_is_not_run_after_a_type_error_either(load: Load, copied: Copied, tmp_path: Path) -> None:
    """open_clip loads once more, without ``weights_only``, after any TypeError, which a checkpoint can provoke."""
    import torch

    folder, trap = copied("clip"), tmp_path / "sprung"
    (folder / "open_clip_model.safetensors").unlink()
    provoke = Trap(tmp_path, torch._utils._rebuild_tensor_v2)  # takes more arguments than one
    torch.save([provoke, Trap(trap)], folder / "open_clip_pytorch_model.bin")
    refused(load, folder, "cannot load the model")
    assert not trap.exists()


def test_code_beside_a_tokenizer_is_not_run(load: Load, copied: Copied, tmp_path: Path) -> None:
    folder, trap = copied("hf"), tmp_path / "sprung"
    (folder / "trap.py").write_text(f"import os; os.mkdir({str(trap)!r})\nclass Tokenizer: pass\n", encoding="utf-8")
    settings = {"auto_map": {"AutoTokenizer": ["trap.Tokenizer", "trap.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    edit_config(folder, lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}))
    refused(load, folder, "cannot load the model")
    assert not trap.exists()


def test_a_folder_without_weights(load: Load, copied: Copied) -> None:
    folder = copied("clip")
    (folder / "open_clip_model.safetensors").unlink()
    refused(load, folder, "holds no weights", ".safetensors")
    (folder / "dangling.bin").symlink_to("nowhere")
    (folder / "folder.pth").mkdir()
    refused(load, folder, "holds no weights")


def test_a_folder_that_lacks_parts_of_its_text_tower(load: Load, copied: Copied) -> None:
    folder = copied("hf")
    (folder / "tokenizer.json").unlink()
    refused(load, folder, "holds no tokenizer")
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    refused(load, folder, "cannot load the model")
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": {}}), encoding="utf-8")
    refused(load, folder, "config.json", "text tower")
    (folder / "config.json").unlink()
    refused(load, folder, "config.json", "text tower")


def test_a_tokenizer_of_another_model(load: Load, copied: Copied) -> None:
    folder = copied("siglip")
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table["model"]["vocab"]["狮"] = 128
    path.write_text(json.dumps(table), encoding="utf-8")
    classifier = load(folder)
    classifier.zero_shot(["猫"], "{}")
    with pytest.raises(ModelError, match="tokenizer"):
        classifier.zero_shot(["狮"], "{}")


CONFIGS: dict[str, Callable[[Any], object]] = {
    "no embed_dim": lambda c: c["model_cfg"].pop("embed_dim"),
    "another embed_dim": lambda c: c["model_cfg"].update(embed_dim=7),
    "embed_dim in words": lambda c: c["model_cfg"].update(embed_dim="seven"),
    "more layers": lambda c: c["model_cfg"]["vision_cfg"].update(layers=3),
    "an unknown key": lambda c: c["model_cfg"]["text_cfg"].update(colour="red"),
    "no such timm model": lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="no_such_model"),
    "a bias that the weights lack": lambda c: c["model_cfg"].update(init_logit_bias=-10),
    "no such resize mode": lambda c: c["preprocess_cfg"].update(resize_mode="sideways"),
    "one mean too many": lambda c: c["preprocess_cfg"].update(mean=[0.5] * 4),
    "grey pictures": lambda c: c["preprocess_cfg"].update(mode="L"),
    "no such option of the tokenizer": lambda c: c["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"x": 1}),
    "an impossible tower name": lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="a/b/c"),
    "more layers than any": lambda c: c["model_cfg"]["text_cfg"].update(layers=100_000),
    "a mask that fills the memory": lambda c: c["model_cfg"]["text_cfg"].update(context_length=60_000),
    "pictures that fill the memory": lambda c: c["model_cfg"]["vision_cfg"].update(image_size=[32, 100_000]),
    "fewer layers": lambda c: c["model_cfg"]["vision_cfg"].update(layers=1),
    "a patch of nothing": lambda c: c["model_cfg"]["vision_cfg"].update(patch_size=0),
    "a tower name that is a number": lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name=5),
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_does_not_fit(change: Callable[[Any], object], load: Load, copied: Copied) -> None:
    with pytest.raises(ModelError) as caught:
        load(edit_config(copied("clip"), change)).zero_shot(["cat"], "a {}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_an_assertion_without_a_word(load: Load, copied: Copied) -> None:
    folder = edit_config(copied("clip"), lambda c: c["preprocess_cfg"].update(resize_mode="sideways"))
    refused(load, folder, "resize_mode in ('shortest', 'longest', 'squash')")


def test_a_context_longer_than_the_text_tower(load: Load, copied: Copied) -> None:
    folder = edit_config(copied("hf"), lambda c: c["model_cfg"]["text_cfg"].pop("context_length"))
    refused(load, folder, "cannot load the model")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("", "Expecting"),
        ("[" * 100_000, "recursion"),
        ("[1]", "is not an open_clip configuration"),
        ("{}", "model_cfg is missing"),
        ('{"model_cfg": 1}', "is not an open_clip configuration"),
        ('{"model_cfg": {"text_cfg": {}}}', "vision_cfg is missing"),
        ('{"model_cfg": {"text_cfg": [], "vision_cfg": {}}}', "must be tables"),
        ("\udcff", "is not an open_clip configuration"),
    ],
)
def test_a_configuration_that_is_none(content: str, reason: str, load: Load, copied: Copied) -> None:
    folder = copied("clip")
    (folder / "open_clip_config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(load, folder, "open_clip_config.json", reason)


NO_CONFIG: dict[str, bytes] = {"open_clip_config.json": b"{"}
HUGE_HEADER: dict[str, bytes] = {"open_clip_model.safetensors": struct.pack("<Q", 1 << 60) + b"{}"}


@pytest.mark.parametrize(("spoilt", "trace", "notices"), [(NO_CONFIG, "0", 0), (HUGE_HEADER, "1", 1)])
def test_the_command_ends_with_one_line_and_code_4(
    spoilt: dict[str, bytes], trace: str, notices: int, copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPCLS_TRACE", trace)
    folder = copied("clip")
    for name, content in spoilt.items():
        (folder / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "clipcls", "classify", str(PHOTOS[0]), "--labels", "cat,dog", "--model", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    *told, line = done.stderr.splitlines()
    assert line.startswith("error: ") and str(folder) in line
    assert len(told) == notices and all(each.startswith("preparing ") for each in told)
    assert str(folder) in done.stderr


# Which model it is.


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[Callable[[Path], Embedder]]:
    """Embedders that share one store."""
    opened: list[Embedder] = []

    def make(folder: Path) -> Embedder:
        opened.append(Embedder(str(folder), "cpu", Store.open(tmp_path / "store")))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def reverse_vocabulary(folder: Path) -> None:
    """The same tokenizer file, to the byte count, with the letters' numbers the other way round."""
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    numbers = table["model"]["vocab"]
    letters = [token for token in numbers if len(token) == 1 and token.isascii()]
    numbers |= dict(zip(letters, [numbers[token] for token in reversed(letters)], strict=True))
    path.write_text(json.dumps(table), encoding="utf-8")


CHANGES: dict[str, Callable[[Path], object]] = {
    "other weights": lambda folder: make_model(folder, HF_TEXT, 99),
    "other pixels": lambda folder: edit_config(folder, lambda c: c["preprocess_cfg"].update(mean=[0.4] * 3)),
    "another cut": lambda folder: edit_config(folder, lambda c: c["preprocess_cfg"].update(resize_mode="squash")),
    "another tokenizer": reverse_vocabulary,
    "another context": lambda folder: edit_config(
        folder, lambda c: c["model_cfg"]["text_cfg"].update(context_length=9)
    ),
    "another text tower": lambda folder: (folder / "config.json").write_text(
        json.dumps(BERT | {"hidden_act": "relu"}), encoding="utf-8"
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_is_another_model(
    change: Callable[[Path], object], embedder: Callable[[Path], Embedder], copied: Copied, photos: list[Path]
) -> None:
    from clipcls.sources import ImageSource

    def run() -> tuple[str, list[bool], np.ndarray]:
        each = embedder(folder)
        images = [image for block in each.images(ImageSource(photos)) for image in block]
        texts, _ = each.texts(["a cat"])
        return each.info.fingerprint, [image.cached for image in images], texts

    folder = copied("hf")
    before = run()
    warm = run()
    assert warm[0] == before[0] and warm[1] == [True] * 4
    change(folder)
    after = run()
    assert after[0] != before[0] and after[1] == [False] * 4
    elsewhere = Path(shutil.copytree(folder, folder.with_name("elsewhere")))
    fresh, _ = Embedder(str(elsewhere), "cpu").texts(["a cat"])
    np.testing.assert_array_equal(after[2], fresh)


def test_a_checkpoint_that_open_clip_prefers_takes_over(
    embedder: Callable[[Path], Embedder], copied: Copied, tmp_path: Path
) -> None:
    import torch

    folder = copied("clip")
    (folder / "open_clip_model.safetensors").rename(folder / "epoch_1.safetensors")
    before = embedder(folder)
    old, _ = before.texts(["cat"])
    torch.save(random_weights(CLIP, folder, 5), folder / "open_clip_pytorch_model.bin")
    after = embedder(folder)
    new, _ = after.texts(["cat"])
    assert after.info.fingerprint != before.info.fingerprint
    assert np.abs(new - old).max() > 0.1


def test_the_same_model_elsewhere_shares_its_vectors(
    embedder: Callable[[Path], Embedder], copied: Copied, photos: list[Path]
) -> None:
    from clipcls.sources import ImageSource

    first, second = embedder(copied("clip", "here")), embedder(copied("clip", "there"))
    for block in first.images(ImageSource(photos)):
        assert not any(image.cached for image in block)
    for block in second.images(ImageSource(photos)):
        assert all(image.cached for image in block)
    assert first.info.fingerprint == second.info.fingerprint
    assert first.info.spec != second.info.spec


# Architectures and tags, from a hub's cache on disk.


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes an architecture and a tag known to open_clip, its weights on disk as ``hf download`` leaves them."""
    import huggingface_hub
    import open_clip

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])

    def add(config: dict[str, Any], repo: str = "tiny/repo", seed: int = 0, arch: str = "tiny", **tag: Any) -> str:
        (tmp_path / f"{arch}.json").write_text(json.dumps(config["model_cfg"]), encoding="utf-8")
        open_clip.add_model_config(tmp_path / f"{arch}.json")
        tags = {"one": {"hf_hub": f"{repo}/"} | tag}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, arch, tags)
        if repo:
            on_disk(cache, repo, lambda folder: make_model(folder, config, seed))
        return f"{arch}/one"

    return add


def on_disk(cache: Path, repo: str, fill: Callable[[Path], object], commit: str = "a" * 40) -> Path:
    """Fill a repository of a hub's cache."""
    home = cache / "--".join(("models", *repo.split("/")))
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(commit, encoding="utf-8")
    (home / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    fill(home / "snapshots" / commit)
    return home / "snapshots" / commit


@pytest.mark.parametrize(
    ("architecture", "tag", "expected"),
    [
        ({}, {"quick_gelu": True}, True),
        ({}, {"quick_gelu": False}, False),
        ({}, {}, False),
        ({"quick_gelu": True}, {"quick_gelu": True}, True),
        ({"quick_gelu": True}, {"quick_gelu": False}, False),
        ({"quick_gelu": True}, {}, True),
    ],
)
def test_a_tag_gets_the_activation_it_was_trained_with(
    architecture: dict[str, Any],
    tag: dict[str, Any],
    expected: bool,
    register: Callable[..., str],
    load: Load,
    photos: list[Path],
) -> None:
    from open_clip.transformer import QuickGELU
    from torch.nn import GELU

    config = {"model_cfg": CLIP["model_cfg"] | architecture}
    model = register(config, **tag)
    encoder: Any = load_encoder(model, device="cpu")[0]
    kinds = {type(part) for part in encoder._model.modules()} & {GELU, QuickGELU}
    assert kinds == {QuickGELU if expected else GELU}
    vectors = load(model).embed_images(photos)
    other = load(register(config, **(tag | {"quick_gelu": not expected}))).embed_images(photos)
    assert np.abs(vectors - other).max() > 1e-4
    assert load(model).info.fingerprint != encoder.info.fingerprint


def test_a_tag_brings_its_own_preprocessing(register: Callable[..., str], tmp_path: Path, photos: list[Path]) -> None:
    tag = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear", "resize_mode": "squash"}
    encoder = load_encoder(register(CLIP, **tag), device="cpu")[0]
    folder = make_model(tmp_path / "folder", {"model_cfg": CLIP["model_cfg"], "preprocess_cfg": tag})
    got = encoder.encode_images([encoder.preprocess(Image.open(path)) for path in photos])
    np.testing.assert_allclose(got, Reference(folder).image_vectors(photos), atol=1e-5)
    assert encoder.info.languages == ("en",)


def test_a_downloaded_text_tower_is_found_offline(
    register: Callable[..., str], load: Load, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    """Only the files that exist are there, and nothing tells that the others do not."""
    import torch
    from safetensors.torch import load_file

    text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_model_name": "tiny/bert", "hf_tokenizer_name": "tiny/bert"}
    config = {"model_cfg": HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}}
    model = register(config, repo="", hf_hub="tiny/weights/open_clip_pytorch_model.bin")
    bert = on_disk(tmp_path / "hub", "tiny/bert", write_tokenizer)
    (bert / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    weights = on_disk(tmp_path / "hub", "tiny/weights", lambda folder: None)
    torch.save(load_file(tiny_models["hf"] / "open_clip_model.safetensors"), weights / "open_clip_pytorch_model.bin")
    got = load(model).zero_shot(LABELS, "zh").weights
    np.testing.assert_allclose(got, load(tiny_models["hf"]).zero_shot(LABELS, "zh").weights, atol=1e-6)


def test_a_moved_text_tower_is_another_model(
    register: Callable[..., str], embedder: Callable[..., Embedder], tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_model_name": "tiny/bert", "hf_tokenizer_name": "tiny/bert"}
    model = register({"model_cfg": HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}}, repo="", hf_hub="tiny/weights/")
    weights = on_disk(tmp_path / "hub", "tiny/weights", lambda folder: None)
    shutil.copy(tiny_models["hf"] / "open_clip_model.safetensors", weights)

    def fill(folder: Path) -> None:
        write_tokenizer(folder)
        (folder / "config.json").write_text(json.dumps(BERT), encoding="utf-8")

    on_disk(tmp_path / "hub", "tiny/bert", fill)
    before = embedder(model)
    old, _ = before.texts(["cat"])
    reverse_vocabulary(on_disk(tmp_path / "hub", "tiny/bert", fill, commit="b" * 40))
    after = embedder(model)
    new, _ = after.texts(["cat"])
    assert after.info.fingerprint != before.info.fingerprint
    assert np.abs(new - old).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("ViT-B32/openai", "did you mean ViT-B-32 or"),
        ("vit-b-32/openai", "did you mean ViT-B-32 or"),
        ("ViT-B-32/opneai", "no weights 'opneai' of ViT-B-32; did you mean openai?"),
        ("ViT-B-32/webli", "known are openai, laion400m_e31"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "write hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("tiny/one", "names no hub repository for tiny/one"),
        ("tiny/two", "no weights 'two' of tiny; did you mean twoo?"),
        ("bare/one", "known are none"),
    ],
)
def test_unknown_architectures_and_tags(
    model: str, answer: str, register: Callable[..., str], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    register(CLIP, repo="", arch="bare")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "bare", {})
    register(CLIP, repo="", hf_hub="")
    open_clip.pretrained._PRETRAINED["tiny"]["twoo"] = {}
    with pytest.raises(ModelError) as caught:
        _ = load(model).info
    assert answer in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ModelError) as without_loading:
        ondisk.parts(parse_spec(model))
    assert str(without_loading.value) == str(caught.value)


# Devices.


def test_a_device_that_is_not_there(tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(DeviceError, match="use --device cpu") as caught:
            load_encoder(str(tiny_models["clip"]), device=device)
        assert caught.value.exit_code == 5
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match="no device cuda:2: this machine has cuda:0 to cuda:1"):
        load_encoder(str(tiny_models["clip"]), device="cuda:2")


@pytest.mark.parametrize(
    ("cards", "apple", "device"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda"), (1, True, "cuda")]
)
def test_the_best_device_there_is(cards: int, apple: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from clipcls.encoders.devices import resolve_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert resolve_device("auto") == torch.device(device)


class Driver:
    """NVIDIA's, as far as a program asks it for cards."""

    def __init__(self, cards: int, fault: int = 0) -> None:
        self.cards, self.fault = cards, fault

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.fault

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.cards
        return 0


@pytest.mark.parametrize(
    ("system", "machine", "driver", "there"),
    [
        ("linux", "x86_64", Driver(2), True),
        ("linux", "x86_64", Driver(0), False),
        ("win32", "AMD64", Driver(1, fault=100), False),
        ("linux", "x86_64", object(), False),
        ("linux", "x86_64", None, False),
        ("darwin", "arm64", None, True),
        ("darwin", "x86_64", None, False),
    ],
)
def test_a_graphics_card_is_looked_for_without_torch(
    system: str, machine: str, driver: object, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipcls.encoders.gpu import may_have_gpu

    def load_library(name: str) -> object:
        if driver is None:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("ctypes.CDLL", load_library)
    may_have_gpu.cache_clear()
    try:
        assert may_have_gpu() is there
    finally:
        may_have_gpu.cache_clear()


def out_of_memory_errors() -> list[Exception]:
    return [
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 MB)"),
        MemoryError(),
    ]


@pytest.mark.parametrize("error", [*out_of_memory_errors(), None], ids=lambda error: str(error)[:24])
def test_batches_are_halved_until_they_fit(
    error: Exception | None,
    tiny_models: dict[str, Path],
    load: Load,
    photos: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import open_clip
    import torch

    expected = load(tiny_models["clip"]).embed_images(photos)
    error = error or torch.OutOfMemoryError("no")
    encode, sizes = open_clip.CLIP.encode_image, []

    def encode_image(self: Any, batch: Any, **options: Any) -> Any:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise error
        return encode(self, batch, **options)

    monkeypatch.setattr(open_clip.CLIP, "encode_image", encode_image)
    with caplog.at_level(logging.WARNING, "clipcls"):
        got = load(tiny_models["clip"], batch_size=4).embed_images(photos)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert "trying 1" in caplog.text
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_errors_of_the_device_and_of_the_model_are_told_apart(
    tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = load_encoder(str(tiny_models["clip"]), device="cpu")[0]

    def fail_with(error: Exception) -> None:
        def encode(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(encoder._model, "encode_text", encode)

    fail_with(RuntimeError("CUDA out of memory."))
    with pytest.raises(OutOfMemory, match="--batch-size"):
        encoder.encode_texts(["cat"])
    emptied: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: True)
        patch.setattr("torch.cuda.empty_cache", lambda: emptied.append(True))
        with pytest.raises(OutOfMemory):
            encoder.encode_texts(["cat"])
    assert emptied == [True]  # else what a large batch left would be missing for the smaller one
    fail_with(RuntimeError("CUDA error: no kernel image is available for execution on the device\nand more"))
    with pytest.raises(DeviceError, match=r"^the GPU failed: CUDA error: no kernel .*; use --device cpu$") as caught:
        encoder.encode_texts(["cat"])
    assert not isinstance(caught.value, OutOfMemory)
    fail_with(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        encoder.encode_texts(["cat"])


@pytest.mark.cuda
@pytest.mark.parametrize("name", [*NAMES, "starter"])
def test_cpu_and_gpu_agree(name: str, tiny_models: dict[str, Path], load: Load, photos: list[Path]) -> None:
    model = tiny_models.get(name, Path(name))
    cpu, gpu = (load(model, device=device) for device in ("cpu", "cuda"))
    assert cpu.info.fingerprint == gpu.info.fingerprint
    np.testing.assert_allclose(gpu.embed_images(photos), cpu.embed_images(photos), atol=2e-3)
    np.testing.assert_allclose(gpu.embed_texts(LABELS), cpu.embed_texts(LABELS), atol=1e-4)
