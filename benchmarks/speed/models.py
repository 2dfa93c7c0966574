"""Folders of models with random weights; a process of its own: ``models.py open_clip|transformers NAME FOLDER``.

Their answers are noise, their work is that of trained weights.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

WEIGHTS = "open_clip_model.safetensors"


def open_clip_folder(architecture: str, folder: Path) -> None:
    """An ordinary open_clip folder."""
    import open_clip
    import torch
    from safetensors.torch import save_model

    logging.disable()  # open_clip's warning of what is meant here
    torch.manual_seed(0)
    model = open_clip.create_model(architecture)
    save_model(model, str(folder / WEIGHTS))
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": model.visual.preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")


def transformers_folder(architecture: str, folder: Path) -> None:
    """The same towers for transformers, with random weights of their own."""
    import open_clip
    import torch
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    cfg = open_clip.get_model_config(architecture)
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    shared = {"hidden_act": "gelu", "projection_dim": cfg["embed_dim"]}
    config = CLIPConfig(
        projection_dim=cfg["embed_dim"],
        vision_config=_shape(vision, vision["width"] // 64)
        | shared
        | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
        text_config=_shape(text, text["heads"])
        | shared
        | {"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"]}
        | {"bos_token_id": text["vocab_size"] - 2, "eos_token_id": text["vocab_size"] - 1},
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": vision["image_size"]}, crop_size=vision["image_size"]).save_pretrained(
        folder
    )
    own = SimpleTokenizer()
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): number for piece, number in own.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=text["context_length"]).save_pretrained(folder)


def _shape(cfg: dict[str, Any], heads: int) -> dict[str, int]:
    width = cfg["width"]
    sizes = {"hidden_size": width, "intermediate_size": 4 * width}
    return sizes | {"num_hidden_layers": cfg["layers"], "num_attention_heads": heads}


if __name__ == "__main__":
    kind, architecture, folder = sys.argv[1:]
    makers = {"open_clip": open_clip_folder, "transformers": transformers_folder}
    makers[kind](architecture, Path(folder))
