"""Vision transformers whose last block works on the class token alone, since nothing else of what it makes is used.

Keys and values are still those of all tokens. Of a tower of 12 blocks that saves 7% (Dosovitskiy et al., "An Image is
Worth 16x16 Words", ICLR 2021, section 3.1: the class token's state after the last block is the image).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

from clipcls.encoders.graphs import attended

_POOLING_FIRST = frozenset({"clip", "chinese_clip", "altclip", "metaclip_2"})
"""transformers' models whose image is the class token."""


def of_open_clip(model: Any) -> None:
    """Change an open_clip model's image tower, if it is of this kind; for good."""
    tower = model.visual
    if isinstance(tower, VisionTransformer) and tower.attn_pool is None and tower.pool_type == "tok":
        block = tower.transformer.resblocks[-1]
        if type(block) is ResidualAttentionBlock:
            block.forward = partial(_open_clip_block, block)


def of_transformers(model: Any, kind: str) -> None:
    """Change a transformers model's image tower, if its ``model_type`` is of this kind; for good."""
    if kind in _POOLING_FIRST:
        layer = model.vision_model.encoder.layers[-1]
        layer.forward = partial(_transformers_layer, layer)


def _open_clip_block(block: Any, tokens: torch.Tensor, **_: Any) -> torch.Tensor:
    """[n, tokens, D] to [n, 1, D]."""
    normed = block.ln_1(tokens)
    mixed, _ = block.attn(normed[:, :1], normed, normed, need_weights=False)
    first = tokens[:, :1] + block.ls_1(mixed)
    made: torch.Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
    return made


def _transformers_layer(layer: Any, tokens: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """[n, tokens, D] to [n, 1, D]."""
    attention, normed = layer.self_attn, layer.layer_norm1(tokens)
    parts = attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed)
    first = tokens[:, :1] + attention.out_proj(attended(parts, attention.num_heads))
    made: torch.Tensor = first + layer.mlp(layer.layer_norm2(first))
    return made
