"""Text towers read no more tokens than they need, and answer as at the full length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from tiny import BERT, BPE_TEXT, CLIP, CONTEXT, HF_TEXT, SIGLIP, make_hf_model, make_model, make_nllb, random_weights

from clipcls.encoders import load_encoder
from clipcls.encoders.texttower import PROBES, _of_similar_length, ends

PROMPTS = ["a photo of a cat", "", "rocket", "a dog, " * 40, "象" * 5, "one two three four five six seven " * 3, "cat"]

CAUSAL = {
    "clip": CLIP,
    "custom text": {"model_cfg": CLIP["model_cfg"] | {"custom_text": True}},
    "eos": {"model_cfg": CLIP["model_cfg"] | {"text_cfg": BPE_TEXT | {"pool_type": "eos", "eos_id": 49407}}},
    "no eos": {"model_cfg": CLIP["model_cfg"] | {"text_cfg": BPE_TEXT | {"pool_type": "eos", "eos_id": 5}}},
}
HEEDING = {
    "siglip": SIGLIP,
    "not causal": {"model_cfg": CLIP["model_cfg"] | {"text_cfg": BPE_TEXT | {"no_causal_mask": True}}},
    "last": {"model_cfg": CLIP["model_cfg"] | {"text_cfg": BPE_TEXT | {"pool_type": "last"}}},
    "class token": {"model_cfg": CLIP["model_cfg"] | {"custom_text": True, "text_cfg": BPE_TEXT | {"embed_cls": True}}},
}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 128, "pad_token_id": 1}
MASKING = {
    "bert": (BERT, "mean_pooler"),
    "bert's first token": (BERT, "cls_pooler"),
    "xlm-roberta": (BERT | {"model_type": "xlm-roberta"}, "mean_pooler"),
    "roberta": (BERT | {"model_type": "roberta"}, "cls_last_hidden_state_pooler"),
    "mt5": (_T5 | {"model_type": "mt5"}, "mean_pooler"),
}
"""Hugging Face towers in open_clip models, by their configuration and open_clip's pooler."""


def make_masking(folder: Path, tower: dict[str, Any], pooler: str) -> Path:
    """An open_clip folder with such a tower."""
    from safetensors.torch import save_file

    text_cfg = HF_TEXT["model_cfg"]["text_cfg"] | {"hf_pooler_type": pooler}
    config = HF_TEXT | {"model_cfg": HF_TEXT["model_cfg"] | {"text_cfg": text_cfg}}
    make_model(folder, config)
    (folder / "config.json").write_text(json.dumps(tower), encoding="utf-8")
    save_file(random_weights(config, folder, 5), folder / "open_clip_model.safetensors")
    return folder


def load(model: Path | str) -> Any:
    return load_encoder(str(model), device="cpu")[0]


def shapes_read(encoder: Any, prompts: Sequence[str]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The vectors, and rows and columns of every batch of tokens that the text tower's first layer was given."""
    seen: list[tuple[int, int]] = []

    def note(_: Any, inputs: Any, kwargs: Any, __: Any) -> None:
        seen.append(tuple((inputs[0] if inputs else kwargs["input"]).shape))

    embedding = next(part for part in encoder._model.modules() if isinstance(part, torch.nn.Embedding))
    hook = embedding.register_forward_hook(note, with_kwargs=True)
    try:
        return encoder.encode_texts(prompts), seen
    finally:
        hook.remove()


def open_clips(folder: Path, prompts: Sequence[str]) -> np.ndarray:
    """What open_clip itself makes of prompts."""
    import open_clip

    with chdir(folder):  # where a text tower named . is looked for
        model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(list(prompts))
    with torch.no_grad():
        return model.encode_text(tokens, normalize=True).numpy()


def assert_each_alone_is_the_same(encoder: Any, prompts: Sequence[str], vectors: np.ndarray) -> None:
    for prompt, row in zip(prompts, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode_texts([prompt])[0], row, atol=1e-5)


# open_clip's models.


@pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL)
def test_padding_behind_the_pooled_token_is_cut(config: dict[str, Any], tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", config, 5)
    encoder = load(folder)
    got, seen = shapes_read(encoder, PROMPTS)
    np.testing.assert_allclose(got, open_clips(folder, PROMPTS), atol=1e-5)
    absent = config is CAUSAL["no eos"]  # open_clip then pools at the first token
    assert seen == ([(7, 1)] if absent else [(4, 7), (2, 23), (1, 77)])
    assert absent or np.abs(got[0] - got[2]).max() > 1e-3  # the prompts do differ
    assert_each_alone_is_the_same(encoder, PROMPTS, got)
    context = config["model_cfg"]["text_cfg"]["context_length"]
    assert len(getattr(encoder._model, "text", encoder._model).positional_embedding) == context


@pytest.mark.parametrize(("tower", "pooler"), MASKING.values(), ids=MASKING)
def test_masked_padding_is_cut(tower: dict[str, Any], pooler: str, tmp_path: Path) -> None:
    folder = make_masking(tmp_path / "model", tower, pooler)
    encoder = load(folder)
    got, seen = shapes_read(encoder, PROMPTS)
    np.testing.assert_allclose(got, open_clips(folder, PROMPTS), atol=1e-5)
    assert seen == [(5, 14), (2, CONTEXT)]
    assert np.abs(got[0] - got[2]).max() > 1e-3  # the prompts do differ
    assert_each_alone_is_the_same(encoder, PROMPTS, got)


def test_masked_padding_of_nllb_is_cut(tmp_path: Path) -> None:
    encoder = load(make_nllb(tmp_path / "model"))
    prompts = ["red car", "大象", "red car " * 9, "red", "cats", "大", "象"]
    got, seen = shapes_read(encoder, prompts)
    assert [rows for rows, _ in seen] == [6, 1]
    assert seen[0][1] < CONTEXT / 2
    whole = encoder._model.encode_text(encoder._tokens(prompts)["input_ids"], normalize=True)
    np.testing.assert_allclose(got, whole.numpy(), atol=1e-5)


def test_padding_in_front_is_not_cut(tmp_path: Path) -> None:
    folder = make_masking(tmp_path / "model", *MASKING["bert"])
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"padding_side": "left"}), encoding="utf-8")
    got, seen = shapes_read(load(folder), PROMPTS)
    np.testing.assert_allclose(got, open_clips(folder, PROMPTS), atol=1e-5)
    assert seen == [(len(PROMPTS), CONTEXT)]


@pytest.mark.parametrize("config", HEEDING.values(), ids=HEEDING)
def test_padding_that_counts_is_kept(config: dict[str, Any], tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", config, 5)
    got, seen = shapes_read(load(folder), PROMPTS)
    np.testing.assert_allclose(got, open_clips(folder, PROMPTS), atol=1e-5)
    assert seen == [(len(PROMPTS), config["model_cfg"]["text_cfg"]["context_length"])]


@pytest.mark.parametrize("error", [None, RuntimeError("The size of tensor a must match")], ids=["moved", "failed"])
@pytest.mark.parametrize("kind", ["causal", "masking"])
def test_padding_is_kept_where_the_cut_does_not_prove_true(
    kind: str, error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    causal = kind == "causal"
    whole = open_clip.CLIP if causal else open_clip.CustomTextCLIP
    context = 77 if causal else CONTEXT
    encode = whole.encode_text

    def heeds_padding(self: Any, tokens: Any, normalize: bool = False) -> Any:
        if error and tokens.shape[1] < context:
            raise error
        vectors = encode(self, tokens, normalize=normalize)
        vectors[:, 0] += 4e-5 * tokens.shape[1] / context
        return vectors

    monkeypatch.setattr(whole, "encode_text", heeds_padding)
    folder = make_model(tmp_path / "model", CLIP if causal else HF_TEXT, 5)
    _, seen = shapes_read(load(folder), PROMPTS)
    assert seen == [(len(PROMPTS), context)]


def test_a_pooler_that_takes_padding_in_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip.hf_model import MeanPooler

    monkeypatch.setattr(MeanPooler, "forward", lambda self, x, mask: x.last_hidden_state.mean(dim=1))
    folder = make_masking(tmp_path / "model", *MASKING["bert"])
    got, seen = shapes_read(load(folder), PROMPTS)
    np.testing.assert_allclose(got, open_clips(folder, PROMPTS), atol=1e-5)
    assert seen == [(len(PROMPTS), CONTEXT)]


def test_the_proof_reads_each_probe_once_at_the_full_length_and_once_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    seen: list[tuple[int, int]] = []
    encode = open_clip.CLIP.encode_text

    def note(self: Any, tokens: Any, **options: Any) -> Any:
        seen.append(tuple(tokens.shape))
        return encode(self, tokens, **options)

    monkeypatch.setattr(open_clip.CLIP, "encode_text", note)
    encoder = load(make_model(tmp_path / "model", CLIP, 5))
    short, longer = (count.tokens for count in encoder.tokenize(PROBES))
    assert seen == [(2, 77), (1, short), (1, longer)] and short < longer / 2 < 77 / 2
    seen.clear()
    load(make_model(tmp_path / "heeding", HEEDING["last"], 5))
    assert seen == [(1, 77)]


# Models for transformers.


def at_full_length(encoder: Any, prompts: Sequence[str], context: int) -> np.ndarray:
    tokens = encoder._tokenizer(
        encoder._clean(prompts), return_tensors="pt", padding="max_length", truncation=True, max_length=context
    )
    with torch.no_grad():
        features = encoder._model.get_text_features(**tokens).pooler_output
        return torch.nn.functional.normalize(features, dim=-1).numpy()


@pytest.mark.parametrize(
    ("family", "read"),
    [
        ("clip", [(5, 17), (2, 24)]),
        ("metaclip_2", [(5, 14), (2, 24)]),
        ("altclip", [(5, 14), (2, 24)]),
        ("chinese_clip", [(5, 14), (2, 52)]),
        ("siglip", [(7, 64)]),
        ("siglip2", [(7, 64)]),
    ],
)
def test_models_for_transformers_read_what_they_need(family: str, read: list[tuple[int, int]], tmp_path: Path) -> None:
    encoder = load(f"hf:{make_hf_model(tmp_path / family, family)}")
    got, seen = shapes_read(encoder, PROMPTS)
    assert seen == read
    np.testing.assert_allclose(got, at_full_length(encoder, PROMPTS, read[-1][1]), atol=1e-5)
    assert np.abs(got[0] - got[2]).max() > 1e-3  # the prompts do differ
    assert_each_alone_is_the_same(encoder, PROMPTS, got)


def test_a_model_for_transformers_that_looks_at_padding_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import ChineseCLIPModel

    features = ChineseCLIPModel.get_text_features

    def heeds_padding(self: Any, attention_mask: Any, **tokens: Any) -> Any:
        return features(self, attention_mask=torch.ones_like(attention_mask), **tokens)

    monkeypatch.setattr(ChineseCLIPModel, "get_text_features", heeds_padding)
    monkeypatch.setattr("clipcls.encoders.hfmodel.HFEncoder._prove", lambda *_: 24)
    encoder = load(f"hf:{make_hf_model(tmp_path / 'model', 'chinese_clip')}")
    got, seen = shapes_read(encoder, PROMPTS)
    assert seen == [(len(PROMPTS), 52)]
    assert_each_alone_is_the_same(encoder, PROMPTS, got)


# Batches.


def test_a_row_ends_at_the_last_token_that_is_used() -> None:
    assert ends(torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]])).tolist() == [2, 3, 1, 3]


@given(some.lists(some.integers(1, 77), max_size=64))
def test_batches_hold_every_row_once_and_little_padding(lengths: list[int]) -> None:
    batches = _of_similar_length(lengths)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for batch in batches:
        assert sum(lengths[batch[-1]] - lengths[row] for row in batch) <= 48
