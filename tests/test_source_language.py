"""NLLB embeds the same words differently by the language that they are said to be in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import make_nllb

from clipcls import Classifier
from clipcls.encoders import load_encoder

PROMPTS = ["大象", "a photo", "一张红的照片", "12", "a 大象"]
SOURCES = ["zho_Hans", "eng_Latn", "zho_Hans", "eng_Latn", "zho_Hans"]


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nllb(tmp_path_factory.mktemp("nllb") / "model")


def test_every_prompt_is_read_in_the_language_of_its_script(nllb: Path) -> None:
    import open_clip
    import torch

    encoder: Any = load_encoder(str(nllb), device="cpu")[0]
    found = encoder.encode_texts(PROMPTS)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{nllb}")
    rows = []
    for prompt, source in zip(PROMPTS, SOURCES, strict=True):
        tokenizer.tokenizer.src_lang = source
        with torch.inference_mode():
            rows.append(encoder._model.encode_text(tokenizer([prompt]), normalize=True).numpy()[0])
    assert np.abs(found - np.stack(rows)).max() < 1e-5


def test_the_language_makes_a_difference_here(nllb: Path) -> None:
    import open_clip

    tokenizer = open_clip.get_tokenizer(f"local-dir:{nllb}")
    ids = []
    for source in ("eng_Latn", "zho_Hans"):
        tokenizer.tokenizer.src_lang = source
        ids.append(tokenizer(["大象"])[0].tolist())
    assert ids[0][1:] == ids[1][1:] and ids[0] != ids[1]


def test_embeddings_of_one_language_for_all_are_not_used_any_more(nllb: Path, tmp_path: Path) -> None:
    with Classifier.load(str(nllb), device="cpu", cache=tmp_path) as classifier:
        fingerprint = classifier.info.fingerprint
    config = nllb / "config.json"
    whole = config.read_text("utf-8")
    config.write_text(json.dumps(json.loads(whole) | {"model_type": "bert"}), "utf-8")
    try:
        from clipcls.encoders import file_digest
        from clipcls.encoders.locate import locate
        from clipcls.encoders.spec import parse_spec

        files = locate(parse_spec(str(nllb)))
        assert not files.by_source_language and files.fingerprint("fp32", file_digest) != fingerprint
    finally:
        config.write_text(whole, "utf-8")
