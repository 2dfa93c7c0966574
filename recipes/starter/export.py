"""The finished towers as an ordinary open_clip folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import e5
import image_tower
import torch
from concepts import DIM
from image_head import Head
from safetensors.torch import save_file
from text_tower import TextTower
from tokenizers import Tokenizer
from torch import Tensor
from vocabulary import CONTEXT

SMALL_FLOAT = torch.float8_e4m3fn
"""Of the word embeddings: they came from 4 bits, and cost twice the bytes in half precision."""


def write(folder: Path, trunk: torch.nn.Module, head: Head, tower: TextTower, scale: float) -> None:
    """Write configuration, weights and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items() if "classifier" not in key}
    tensors |= {f"visual.head.mlp.{key}": value for key, value in head.state_dict().items()}
    tensors |= {f"text.transformer.{key}": value for key, value in _text(tower).items()}
    tensors |= {"text.proj.weight": tower.projection.weight, "logit_scale": torch.tensor(math.log(scale))}
    packed = {key: _packed(key, value) for key, value in sorted(tensors.items()) if "position_ids" not in key}
    save_file(packed, path := folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors' own is 600
    layers = len(tower.bert.encoder.layer)
    _write(folder / "open_clip_config.json", _open_clip_config(layers, tower.tokenizer.get_vocab_size()))
    _write(folder / "config.json", _bert_config(tower))
    _write_tokenizer(folder, tower.tokenizer)


def _text(tower: TextTower) -> dict[str, Tensor]:
    """The BERT's tensors, with the centre moved into the last bias, and word embeddings that float8 holds well.

    The embeddings' LayerNorm takes away any common factor of words, positions and types.
    """
    tensors = {key: value.detach().clone() for key, value in tower.bert.state_dict().items()}
    tensors[f"encoder.layer.{len(tower.bert.encoder.layer) - 1}.output.LayerNorm.bias"] -= tower.centre.detach()
    words = tensors["embeddings.word_embeddings.weight"]
    factor = 2.0 ** round(math.log2(1 / words.std().item()))
    for name in ("word", "position", "token_type"):
        tensors[f"embeddings.{name}_embeddings.weight"] *= factor
    return tensors


def _packed(key: str, value: Tensor) -> Tensor:
    value = value.detach().contiguous()
    if not value.is_floating_point():
        return value
    packed = value.to(SMALL_FLOAT if "word_embeddings" in key else torch.float16)
    if not torch.isfinite(packed.float()).all():
        raise ValueError(f"{key} holds numbers that {packed.dtype} cannot")
    return packed


def _open_clip_config(layers: int, pieces: int) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": DIM,
            "vision_cfg": {
                "timm_model_name": image_tower.ARCH,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "timm_proj_bias": True,
                "timm_drop": 0.0,
                "timm_drop_path": None,
                "image_size": image_tower.SIZE,
            },
            "text_cfg": {
                "hf_model_name": ".",
                "hf_tokenizer_name": ".",
                "hf_proj_type": "linear",
                "hf_pooler_type": "mean_pooler",
                "hf_model_pretrained": False,
                "context_length": CONTEXT,
                "vocab_size": pieces,
                "width": e5.WIDTH,
                "heads": e5.HEADS,
                "layers": layers,
            },
        },
        "preprocess_cfg": {
            "size": [image_tower.SIZE, image_tower.SIZE],
            "mode": "RGB",
            "mean": [image_tower.MEAN] * 3,
            "std": [image_tower.STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
            "fill_color": 0,
        },
    }


def _bert_config(tower: TextTower) -> dict[str, Any]:
    own = tower.bert.config
    kept = (
        "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings",
        "type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id",
    )  # fmt: skip
    return {"architectures": ["BertModel"]} | {key: getattr(own, key) for key in kept}


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_truncation()
    (folder / "tokenizer.json").write_text(
        json.dumps(json.loads(plain.to_str()), ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
    special = {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>",
        "sep_token": "</s>", "mask_token": "<mask>",
    }  # fmt: skip
    _write(folder / "special_tokens_map.json", special)
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT}
    _write(folder / "tokenizer_config.json", own | {"clean_up_tokenization_spaces": False} | special)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
