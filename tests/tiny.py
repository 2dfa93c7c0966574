"""Tiny open_clip models with random weights, made at test time: ordinary open_clip folders.

torch and open_clip are imported when the first model is made, not with this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Config = dict[str, Any]

VISION: Config = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2}
BPE_TEXT: Config = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
HALF: Config = {"mean": [0.5] * 3, "std": [0.5] * 3}

CONTEXT = 24
"""Tokens that the models with a Hugging Face tokenizer read; letters and Chinese characters take one each."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
_CHARACTERS = "一张有关的照片图中物体大象冰箱蚂蚁猫狗红绿蓝"

CLIP: Config = {
    "model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": BPE_TEXT},
    "preprocess_cfg": {"interpolation": "bicubic", "resize_mode": "shortest"},
}
"""Softmax, CLIP's own tokenizer, shortest side and crop."""

PHOTO: Config = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": VISION | {"image_size": 224, "patch_size": 56},
        "text_cfg": BPE_TEXT,
        "quick_gelu": True,
    },
    "preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "longest", "fill_color": 90},
}
"""As many pixels as common models, the whole picture on a coloured ground, QuickGELU."""

SIGLIP: Config = {
    "model_cfg": {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "init_logit_scale": 4.0,
        "custom_text": True,
        "vision_cfg": VISION | {"image_size": [48, 32], "pool_type": "avg"},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 128,
            "width": 16,
            "heads": 2,
            "layers": 2,
            "no_causal_mask": True,
            "pool_type": "last",
            "hf_tokenizer_name": "tiny/siglip",
            "tokenizer_kwargs": {"clean": "canonicalize"},
        },
    },
    "preprocess_cfg": HALF | {"interpolation": "bicubic", "resize_mode": "squash"},
}
"""Sigmoid, squash, mean and deviation 0.5, a picture that is higher than wide, a Hugging Face tokenizer alone."""

HF_TEXT: Config = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": VISION,
        "text_cfg": {
            "hf_model_name": ".",
            "hf_tokenizer_name": ".",
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            "context_length": CONTEXT,
        },
    },
    "preprocess_cfg": HALF,
}
"""Softmax, a Hugging Face text tower and tokenizer, as in the starter."""

BERT: Config = {
    "model_type": "bert",
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

_SIDE = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}

MODELS = {"clip": CLIP, "photo": PHOTO, "siglip": SIGLIP, "hf": HF_TEXT}


def make_model(folder: Path, config: Config, seed: int = 0, weights: str = "open_clip_model.safetensors") -> Path:
    """Write an open_clip folder whose weights come from the seed."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    text_cfg = config["model_cfg"]["text_cfg"]
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    if text_cfg.get("hf_tokenizer_name"):
        write_tokenizer(folder)
    if text_cfg.get("hf_model_name"):
        (folder / "config.json").write_text(json.dumps(BERT), encoding="utf-8")
    state = random_weights(config, folder, seed)
    if weights.endswith(".safetensors"):
        save_file(state, folder / weights)
    else:
        torch.save(state, folder / weights)
    return folder


def random_weights(config: Config, text_folder: Path, seed: int = 0) -> dict[str, Any]:
    """A checkpoint that fits the configuration; spread out, so that different inputs get different embeddings."""
    import open_clip
    import torch

    model_cfg = json.loads(json.dumps(config["model_cfg"]))
    custom = model_cfg.pop("custom_text", False)
    text_cfg = model_cfg["text_cfg"]
    if "hf_model_name" in text_cfg:
        custom = True
    if text_cfg.get("hf_model_name"):
        text_cfg |= {"hf_model_name": str(text_folder), "hf_model_pretrained": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model_cfg)
        state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
        for name, tensor in state.items():
            if tensor.ndim > 1:
                tensor.copy_(torch.randn_like(tensor) * (0.2 if "embedding" in name else tensor.shape[-1] ** -0.5))
    return state


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of one token a character, like the starter's in every other respect."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_CHARACTERS]
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def make_nllb(folder: Path) -> Path:
    """An open_clip folder whose text tower and tokenizer are NLLB's."""
    from safetensors.torch import save_file
    from transformers import NllbTokenizer

    folder.mkdir(parents=True)
    config = json.loads(json.dumps(HF_TEXT))
    config["model_cfg"]["text_cfg"]["hf_pooler_type"] = "cls_pooler"
    sides = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in _SIDE.items()}
    tower = {"model_type": "m2m_100", "vocab_size": 512, "d_model": 32, "max_position_embeddings": 64} | sides
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *_LETTERS, *_CHARACTERS, "eng_Latn", "zho_Hans"]
    NllbTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(tower), encoding="utf-8")
    save_file(random_weights(config, folder), folder / "open_clip_model.safetensors")
    return folder


def make_models(home: Path) -> dict[str, Path]:
    """An open_clip folder for each of MODELS."""
    return {name: make_model(home / name, config, seed) for seed, (name, config) in enumerate(MODELS.items())}


# Models for transformers.

_TOWER: Config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_EYES: Config = _TOWER | {"image_size": 32, "patch_size": 8}
READER: Config = _TOWER | {"vocab_size": 128, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_PROJECTED: Config = {"projection_dim": 24, "logit_scale_init_value": 3.0}
_SQUARE: Config = {"size": {"height": 32, "width": 32}}
_CROPPED: Config = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}

FAMILIES: dict[str, tuple[Config, Config]] = {
    "clip": (
        _PROJECTED
        | {"text_config": READER | {"max_position_embeddings": CONTEXT, "projection_dim": 24}, "vision_config": _EYES},
        {"image_processor_type": "CLIPImageProcessor"} | _CROPPED,
    ),
    "siglip": (
        {"text_config": READER | {"max_position_embeddings": 64}, "vision_config": _EYES},
        {"image_processor_type": "SiglipImageProcessor", "resample": 3} | _SQUARE,
    ),
    "siglip2": (
        {
            "text_config": READER | {"max_position_embeddings": 64},
            "vision_config": _TOWER | {"num_patches": 16, "patch_size": 8},
        },
        {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16},
    ),
    "altclip": (
        _PROJECTED
        | {
            "text_config": READER | {"max_position_embeddings": CONTEXT + 2, "project_dim": 24},
            "vision_config": _EYES,
        },
        {"image_processor_type": "CLIPImageProcessor", "resample": 2} | _CROPPED,
    ),
    "chinese_clip": (
        _PROJECTED
        | {
            "text_config": _TOWER | {"vocab_size": 128, "pad_token_id": 0, "max_position_embeddings": 64},
            "vision_config": _EYES,
        },
        {"image_processor_type": "ChineseCLIPImageProcessor", "do_center_crop": False} | _SQUARE,
    ),
    "metaclip_2": (
        _PROJECTED
        | {"text_config": READER | {"max_position_embeddings": CONTEXT, "projection_dim": 24}, "vision_config": _EYES},
        {"image_processor_type": "CLIPImageProcessor"} | _CROPPED,
    ),
}
"""By transformers' types of model their configuration and what they do to pictures: squares, crops, patches."""


def make_hf_model(folder: Path, family: str, seed: int = 0, **saved: Any) -> Path:
    """Write a transformers folder whose weights come from the seed; ``saved`` goes to ``save_pretrained``."""
    import torch
    from transformers import AutoConfig, AutoModelForZeroShotImageClassification

    config, pictures = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForZeroShotImageClassification.from_config(AutoConfig.for_model(family, **config))
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if tensor.ndim > 1:
                    tensor.copy_(torch.randn_like(tensor) * (0.2 if "embedding" in name else tensor.shape[-1] ** -0.5))
            if "siglip" in family:
                model.logit_scale.fill_(3.0)
                model.logit_bias.fill_(-2.0)
    model.save_pretrained(folder, **saved)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures), encoding="utf-8")
    write_hf_tokenizer(folder, family)
    return folder


def write_hf_tokenizer(folder: Path, family: str) -> None:
    """A tokenizer of the family's own kind, one token a character."""
    if family == "clip":
        from transformers import CLIPTokenizer

        marks = {"<|startoftext|>": 0, "<|pad|>": 1, "<|endoftext|>": 2}
        pieces = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
        vocabulary = marks | {piece: i for i, piece in enumerate(pieces, len(marks))}
        CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CONTEXT).save_pretrained(folder)
    elif family == "siglip2":
        from transformers import Siglip2Tokenizer

        marks = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
        vocabulary = {piece: i for i, piece in enumerate([*marks, "▁", *_LETTERS, *_CHARACTERS])}
        options = {"padding_side": "right", "model_input_names": ["input_ids"]}
        Siglip2Tokenizer(vocab=vocabulary, merges=[], **options).save_pretrained(folder)
    elif family == "chinese_clip":  # as its authors wrote it: a vocabulary and nothing else
        marks = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", '"', "“", "”")
        pieces = [*marks, *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_CHARACTERS]
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    else:
        write_tokenizer(folder)
        if family == "siglip":
            path = folder / "tokenizer_config.json"
            settings = json.loads(path.read_text(encoding="utf-8")) | {"model_input_names": ["input_ids"]}
            path.write_text(json.dumps(settings), encoding="utf-8")
