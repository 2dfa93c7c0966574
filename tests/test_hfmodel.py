"""Models for transformers: their scores are its pipeline's own, and a spoilt model is never used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGES, ROOT
from hub import Hub
from PIL import Image, ImageOps
from tiny import CONTEXT, FAMILIES, READER, make_hf_model

from clipcls.encoders import load_encoder
from clipcls.encoders.spec import ModelSpec
from clipcls.errors import ModelError
from clipcls.records import TokenCount
from clipcls.zeroshot import cosines, probabilities

LABELS = ["cat", "rocket", "大象", "a cup of coffee"]
TEMPLATE = "a photo of {}."
PHOTOS = [
    *(IMAGES / f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")),
    IMAGES / "odd/sideways.jpg",
]
CONTEXTS = dict.fromkeys(FAMILIES, CONTEXT) | {"siglip": 64, "siglip2": 64, "chinese_clip": 52}
Copied = Callable[..., Path]


def spec_of(given: str) -> ModelSpec:
    return ModelSpec(given, "hf", given.removeprefix("hf:"))


@pytest.fixture(autouse=True)
def known_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.encoders.parse_spec", spec_of)


@pytest.fixture(scope="session")
def hf_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the tiny models; not to be changed."""
    home = tmp_path_factory.mktemp("hf")
    return {family: make_hf_model(home / family, family, seed) for seed, family in enumerate(FAMILIES)}


@pytest.fixture
def copied(hf_models: dict[str, Path], tmp_path: Path) -> Copied:
    """Copies a tiny model, so that a test can spoil it."""

    def copy(family: str, to: str = "") -> Path:
        return Path(shutil.copytree(hf_models[family], tmp_path / (to or family)))

    return copy


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in PHOTOS]


def load(model: Path | str) -> Any:
    return load_encoder(f"hf:{model}", device="cpu")[0]


def embed(encoder: Any, pictures: Sequence[Image.Image]) -> np.ndarray:
    return encoder.encode_images([encoder.preprocess(picture) for picture in pictures])


# Numbers.


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_the_pipelines_own(
    family: str, hf_models: dict[str, Path], pictures: list[Image.Image]
) -> None:
    from transformers import pipeline

    own = pipeline("zero-shot-image-classification", model=str(hf_models[family]), device="cpu")
    answers = [own(picture, candidate_labels=LABELS, hypothesis_template=TEMPLATE) for picture in pictures]
    expected = [[{each["label"]: each["score"] for each in answer}[label] for label in LABELS] for answer in answers]
    encoder = load(hf_models[family])
    texts = encoder.encode_texts([TEMPLATE.replace("{}", label) for label in LABELS])
    info, scores = encoder.info, cosines(embed(encoder, pictures), texts)
    got = probabilities(scores, info.logit_scale, info.logit_bias, info.activation)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert [LABELS[row.argmax()] for row in got] == [answer[0]["label"] for answer in answers]
    assert np.ptp(got, axis=0).max() > 0.01  # the photographs do differ


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_keep_their_order_and_change_nothing(
    family: str, hf_models: dict[str, Path], pictures: list[Image.Image]
) -> None:
    encoder = load(hf_models[family])
    prompts = ["cat", "a photo of a rocket in the sky", "大象"]
    for encode, batch in ((lambda some: embed(encoder, some), pictures), (encoder.encode_texts, prompts)):
        together = encode(batch)
        assert together.dtype == np.float32 and together.shape == (len(batch), encoder.info.dim)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(encode(batch[::-1])[::-1], together, atol=1e-5)
        np.testing.assert_allclose(np.concatenate([encode([each]) for each in batch]), together, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit_the_context_is_cut_and_said_to_be(family: str, hf_models: dict[str, Path]) -> None:
    encoder, context = load(hf_models[family]), CONTEXTS[family]
    short, *long = "a cat", "red " * 40 + "cat", "red " * 40 + "dog", "dog " * 40
    counts = encoder.tokenize([short, *long])
    assert not counts[0].cut and counts[0].tokens < 10
    assert counts[1:] == [TokenCount(context, True)] * 3
    one, same, other = encoder.encode_texts(long)
    np.testing.assert_allclose(one, same, atol=1e-6)
    assert np.abs(one - other).max() > 1e-3
    assert encoder.tokenize([short, *long]) == counts  # encoding leaves no padding or truncation behind


def test_the_last_token_that_fits_is_not_cut(hf_models: dict[str, Path]) -> None:
    for family in ("chinese_clip", "metaclip_2"):
        context = CONTEXTS[family]
        counts = load(hf_models[family]).tokenize(["象" * (context - 2), "象" * (context - 1)])
        assert counts == [TokenCount(context, False), TokenCount(context, True)]


def test_chinese_clip_reads_what_cn_clip_reads(hf_models: dict[str, Path]) -> None:
    encoder = load(hf_models["chinese_clip"])
    curly, straight, other = encoder.encode_texts(["“Cat”的照片", '"cat"的照片', "cat的照片"])
    np.testing.assert_allclose(curly, straight, atol=1e-6)
    assert np.abs(curly - other).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_described_as_it_is(family: str, hf_models: dict[str, Path]) -> None:
    encoder = load(hf_models[family])
    info, sigmoid = encoder.info, "siglip" in family
    assert info.spec == f"hf:{hf_models[family]}"
    assert (info.precision, info.dim) == ("fp32", 32 if sigmoid else 24)
    assert info.logit_scale == pytest.approx(np.exp(3))
    assert (info.activation, info.logit_bias) == (("sigmoid", -2.0) if sigmoid else ("softmax", None))
    assert info.languages == (("zh",) if family == "chinese_clip" else ())
    assert encoder.image_size == (36 if "size" in FAMILIES[family][1] and "crop_size" in FAMILIES[family][1] else 32)


# Ways to write a model.


def save_bin(folder: Path, parts: int = 1) -> None:
    """Turn the weights into what older models have: pickled files, and an index if there are several."""
    import torch
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if parts == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    names = {key: f"pytorch_model-{i % parts + 1}.bin" for i, key in enumerate(state)}
    for name in set(names.values()):
        torch.save({key: state[key] for key in state if names[key] == name}, folder / name)
    index = {"metadata": {}, "weight_map": names}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("parts", [1, 3])
def test_pickled_weights(parts: int, copied: Copied, hf_models: dict[str, Path]) -> None:
    folder = copied("chinese_clip")
    save_bin(folder, parts)
    got, expected = (load(model).encode_texts(["猫"]) for model in (folder, hf_models["chinese_clip"]))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_weights_in_several_files(hf_models: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = make_hf_model(tmp_path / "model", "clip", 0, max_shard_size="40KB")
    encoder, watched = load_encoder(f"hf:{folder}", device="cpu")
    parts = {path.name for path in folder.glob("model-*.safetensors")}
    assert len(parts) > 1 and not (folder / "model.safetensors").exists()
    assert parts | {"model.safetensors.index.json"} <= {Path(stamp.path).name for stamp in watched}
    np.testing.assert_array_equal(embed(encoder, pictures), embed(load(hf_models["clip"]), pictures))


def test_half_precision_weights_are_computed_in_float32(copied: Copied, hf_models: dict[str, Path]) -> None:
    folder = copied("siglip")
    edit_weights(folder, lambda state: state.update({name: tensor.half() for name, tensor in state.items()}))
    edit(folder / "config.json", lambda table: table.update(dtype="float16"))
    got, expected = load(folder), load(hf_models["siglip"])
    np.testing.assert_allclose(got.encode_texts(["cat"]), expected.encode_texts(["cat"]), atol=5e-3)
    assert got.encode_texts(["cat"]).dtype == np.float32


def test_pictures_described_beside_texts(copied: Copied, pictures: list[Image.Image]) -> None:
    folder = copied("metaclip_2")
    old = folder / "preprocessor_config.json"
    expected = embed(load(folder), pictures)
    both = {"processor_class": "CLIPProcessor", "image_processor": json.loads(old.read_text(encoding="utf-8"))}
    (folder / "processor_config.json").write_text(json.dumps(both), encoding="utf-8")
    old.unlink()
    np.testing.assert_array_equal(embed(load(folder), pictures), expected)


def test_siglips_own_tokenizer_is_read_without_sentencepiece(copied: Copied, hf_models: dict[str, Path]) -> None:
    folder = copied("siglip")
    edit(folder / "tokenizer_config.json", lambda table: table.update(tokenizer_class="SiglipTokenizer"))
    np.testing.assert_array_equal(load(folder).encode_texts(["cat"]), load(hf_models["siglip"]).encode_texts(["cat"]))


def test_features_may_come_as_a_tensor(hf_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As they did before transformers 5."""
    encoder = load(hf_models["chinese_clip"])
    expected = encoder.encode_texts(["猫"])
    whole = encoder._model.get_text_features
    monkeypatch.setattr(encoder._model, "get_text_features", lambda **inputs: whole(**inputs).pooler_output)
    np.testing.assert_array_equal(encoder.encode_texts(["猫"]), expected)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "preprocessor_config.json", "vocab.txt", "tokenizer_config.json"]
)
def test_every_part_that_counts_is_part_of_the_fingerprint_and_watched(name: str, copied: Copied) -> None:
    folder = copied("chinese_clip")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    before, watched = load_encoder(f"hf:{folder}", device="cpu")
    assert load(folder).info.fingerprint == before.info.fingerprint
    assert str(folder / name) in {stamp.path for stamp in watched}
    if name == "model.safetensors":
        edit_weights(folder, lambda state: state["logit_scale"].fill_(2.0))
    elif name == "vocab.txt":
        (folder / name).write_text((folder / name).read_text(encoding="utf-8") + "狮\n", encoding="utf-8")
    else:
        edit(folder / name, lambda table: table.update(anything="else"))
    assert load(folder).info.fingerprint != before.info.fingerprint


def test_no_weights_are_made_up_before_they_are_loaded(hf_models: dict[str, Path]) -> None:
    import torch

    before = torch.get_rng_state()
    load(hf_models["metaclip_2"])
    assert torch.equal(torch.get_rng_state(), before)


# A spoilt model is never used.


def edit(path: Path, change: Callable[[Any], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[Any], object]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def set_config(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda table: table.update(settings))


def forget(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def spoil(name: str, value: float | None) -> Callable[[Path], None]:
    def change(state: Any) -> None:
        state.pop(name) if value is None else state[name].fill_(value)

    return lambda folder: edit_weights(folder, change)


def with_open_clip(folder: Path) -> None:
    (folder / "config.json").rename(folder / "open_clip_config.json")


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def split(shard: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "all.safetensors")
        index = {"metadata": {}, "weight_map": {"logit_scale": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    return change


def trapped(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(folder / "sprung"),)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"logit_scale": Trap()}, protocol=2))


CODE = {"auto_map": {"AutoModel": "trap.Model"}}
LAYER = "text_model.encoder.layers.1.mlp.fc1.weight"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "does not exist"),
    "no configuration": (forget("config.json"), "is no model for transformers, it holds no config.json: choose"),
    "open_clip's": (with_open_clip, "as an open_clip model it is written"),
    "not JSON": (write("config.json", b"{"), "config.json cannot be read"),
    "a list": (write("config.json", b"[]"), "it is no table"),
    "another type": (set_config(model_type="bert"), "of type 'bert', which transformers does not serve"),
    "no type": (set_config(model_type=None), "of type None"),
    "code": (set_config(**CODE), "code of its own, which is never run"),
    "code of the tokenizer": (
        lambda folder: edit(folder / "tokenizer_config.json", lambda table: table.update(CODE)),
        "tokenizer_config.json sets auto_map",
    ),
    "code of the processor": (
        lambda folder: edit(folder / "preprocessor_config.json", lambda table: table.update(CODE)),
        "preprocessor_config.json sets auto_map",
    ),
    "quantised": (set_config(quantization_config={"quant_method": "x"}), "quantised"),
    "weights elsewhere": (set_config(transformers_weights="../model.safetensors"), "a name of their own"),
    "an adapter": (write("adapter_config.json", b"{}"), "adapter"),
    "no preprocessing": (forget("preprocessor_config.json"), "holds no preprocessor_config.json"),
    "no such processor": (
        write("preprocessor_config.json", b'{"image_processor_type": "X", "size": 3}'),
        "cannot load",
    ),
    "pictures of another size": (
        lambda folder: edit(folder / "preprocessor_config.json", lambda table: table.update(do_center_crop=False)),
        "get them anew",
    ),
    "no tokenizer": (without_tokenizer, "holds no tokenizer"),
    "damaged tokenizer": (write("tokenizer.json", b"{}"), "cannot load the model"),
    "no weights": (forget("model.safetensors"), "holds no weights for transformers"),
    "damaged weights": (write("model.safetensors", b"not weights at all" * 99), "cannot load the model"),
    "code in the weights": (trapped, "hold code, which is never run"),
    "a missing tensor": (spoil(LAYER, None), f"its weights lack {LAYER}: they are another model's"),
    "no logit scale": (spoil("logit_scale", None), "its weights lack logit_scale"),
    "another shape": (set_config(projection_dim=5), "its weights have another shape than config.json says for "),
    "no numbers in the text tower": (spoil(LAYER, float("nan")), "give no numbers"),
    "no numbers in the image tower": (spoil("visual_projection.weight", float("nan")), "give no numbers"),
    "an impossible logit scale": (spoil("logit_scale", float("inf")), "no usable logit scale"),
    "a surplus layer": (
        lambda folder: edit(folder / "config.json", lambda table: table["text_config"].update(num_hidden_layers=1)),
        "its weights hold text_model.encoder.layers.1.layer_norm1.bias, a layer more than config.json says",
    ),
    "more layers than any": (
        lambda folder: edit(folder / "config.json", lambda table: table["text_config"].update(num_hidden_layers=10**5)),
        "config.json sets num_hidden_layers to 100000, which no model has",
    ),
    "pictures that fill the memory": (
        lambda folder: edit(
            folder / "preprocessor_config.json", lambda t: t["crop_size"].update(height=10**6, width=10**6)
        ),
        "preprocessor_config.json sets height to 1e+06, which no model has",
    ),
    "a header of 2^60 bytes": (
        write("model.safetensors", (1 << 60).to_bytes(8, "little") + b"{}"),
        "cannot load the model",
    ),
    "a part that is missing": (
        split("model-1.safetensors"),
        "names the weights model-1.safetensors, which are not there",
    ),
    "a part that is elsewhere": (split("../x.safetensors"), "it must name files beside it"),
    "a part that is the folder above": (split(".."), "it must name files beside it"),
    "a part that is a number": (split(5), "index"),
    "an index of nothing": (
        lambda folder: (split("x.bin")(folder), write("model.safetensors.index.json", b"{}")(folder)),
        "index",
    ),
}


@pytest.mark.parametrize(("change", "words"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_model_is_refused_in_one_line(change: Callable[[Path], object], words: str, copied: Copied) -> None:
    folder = copied("metaclip_2")
    change(folder)
    with pytest.raises(ModelError) as caught:
        load(folder)
    message = str(caught.value)
    assert words in message and str(folder) in message
    assert "\n" not in message and len(message) < 600
    assert caught.value.exit_code == 4
    assert not (folder / "sprung").exists()


def test_the_command_ends_with_one_line_and_code_4(copied: Copied) -> None:
    folder = copied("metaclip_2")
    trapped(folder)
    words = ["classify", str(IMAGES / "chelsea.jpg"), "--labels", "cat,dog", "--model", f"hf:{folder}"]
    done = subprocess.run([sys.executable, "-m", "clipcls", *words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: cannot load the model hf:") and done.stderr.count("\n") == 1
    assert not (folder / "sprung").exists()


def test_a_tokenizer_of_another_model(copied: Copied) -> None:
    folder = copied("metaclip_2")
    edit(folder / "tokenizer.json", lambda table: table["model"]["vocab"].update({"狮": 128}))
    encoder = load(folder)
    with pytest.raises(ModelError, match=f"{folder}: its tokenizer knows tokens"):
        encoder.encode_texts(["狮"])


def test_a_model_that_does_not_score_by_a_cosine(hf_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    forward = CLIPModel.forward

    def twice(self: Any, **inputs: Any) -> Any:
        out = forward(self, **inputs)
        out.logits_per_image = out.logits_per_image * 2
        return out

    monkeypatch.setattr(CLIPModel, "forward", twice)
    with pytest.raises(ModelError, match="models of type clip do not score pictures and texts by a cosine"):
        load(hf_models["clip"])
    monkeypatch.delattr(CLIPModel, "get_image_features")
    with pytest.raises(ModelError, match="by a cosine"):
        load(hf_models["clip"])


ALIGN = (
    {
        "projection_dim": 32,
        "temperature_init_value": 0.05,
        "text_config": READER | {"max_position_embeddings": CONTEXT},
        "vision_config": {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 32},
    },
    {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 32, "width": 32}},
)


def test_a_temperature_in_place_of_a_scale(
    tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "align", ALIGN)
    encoder = load(make_hf_model(tmp_path, "align"))
    assert encoder.info.logit_scale == pytest.approx(1 / 0.05)
    assert embed(encoder, pictures[:1]).shape == (1, encoder.info.dim)


def test_a_transformers_of_another_make_is_told(hf_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcls.encoders.hffiles._TABLE", "ELSEWHERE")
    with pytest.raises(ModelError, match=r"the installed transformers 5\S* is not understood, it has no ELSEWHERE"):
        load(hf_models["clip"])


# The hub, and no network.

EMBED = """
import json, socket, sys, threading
online, *models = sys.argv[1:]
def refuse(*args, **kwargs):
    print("asked for the network:", args, file=sys.stderr)
    raise OSError("no network")
if online == "no":
    socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
import clipcls.encoders as encoders
from clipcls.encoders.spec import ModelSpec
from clipcls.errors import ModelError
encoders.parse_spec = lambda given: ModelSpec(given, "hf", given.removeprefix("hf:"))
for model in models:
    try:
        encoder, _ = encoders.load_encoder(model, device="cpu")
        print(json.dumps([encoder.info.fingerprint, encoder.encode_texts(["a cat"]).tolist()]))
    except ModelError as exc:
        print(json.dumps(str(exc)))
assert not [each for each in threading.enumerate() if "conversion" in each.name]
"""


def in_a_process(home: Path, url: str, *models: str, online: bool) -> list[Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = kept | {"HF_ENDPOINT": url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EMBED, "yes" if online else "no", *models], env=environment,
        capture_output=True, text=True, encoding="utf-8", timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "network" not in done.stderr and "%" not in done.stderr  # no bars either
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_repositories_are_downloaded_once_and_need_no_network_then(
    hf_models: dict[str, Path], copied: Copied, tmp_path: Path
) -> None:
    old, parts = copied("chinese_clip"), make_hf_model(tmp_path / "parts", "clip", 3, max_shard_size="40KB")
    save_bin(old)
    folders = {"old": old, "parts": parts, "new": hf_models["siglip2"]}
    with Hub() as hub:
        for name, folder in folders.items():
            hub.push(f"tiny/{name}", folder)
        hub.push("tiny/code", {"config.json": json.dumps({"model_type": "mine"} | CODE).encode()})
        hub.push("tiny/open", {"open_clip_config.json": b"{}"})
        names = [f"hf:tiny/{name}" for name in (*folders, "code", "open")]
        *got, code, other = in_a_process(tmp_path / "home", hub.url, *names, online=True)
    assert "code of its own" in code and "tiny--code" in code
    assert other.endswith("as an open_clip model it is written hf-hub:tiny/open")
    again = in_a_process(
        tmp_path / "home", hub.url, *names[:3], *(f"hf:{folder}" for folder in folders.values()), online=False
    )
    for (fingerprint, vectors), (first, expected) in zip(again, [*got, *got], strict=True):
        assert fingerprint == first
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert not list(tmp_path.glob("home/hub/models--tiny--old/snapshots/*/*.safetensors"))  # none made of the .bin
