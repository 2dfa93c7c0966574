"""open_clip's text towers, spared the padding where nothing of it is used."""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch.func import functional_call

_SPAN = 16
"""Prompts whose lengths in tokens fall into the same span of so many are embedded together: a long prompt does not
pad out short ones, and batches stay large, as a matrix product likes them."""

_TOLERANCE = 1e-5
"""How far a coordinate of a unit vector may move when the padding is cut off: rounding, nothing else."""


class TextTower(torch.nn.Module):
    """``encode_text`` of an open_clip model, on no more tokens than it needs.

    A causal tower that pools at the end of the text never looks at the padding behind it. Whether a tower is such a
    one is read from its structure, and then has to prove true.

    Args:
        model: the whole open_clip model.
        probe: token ids of a short prompt, padded, on which the proof is made: int64 [1, context length].
    """

    def __init__(self, model: Any, probe: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self._cuts = _ignores_padding(model) and self._is_proved(probe)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """What open_clip itself makes of token ids of the full length: unit rows."""
        vectors: torch.Tensor = self.model.encode_text(tokens, normalize=True)
        return vectors

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of padded token ids, int64 [n, context length]: [n, D], unit rows."""
        if not self._cuts:
            return self.forward(tokens)
        lengths = self._lengths(tokens)
        spans = lengths // _SPAN
        groups = [torch.where(spans == span)[0] for span in sorted(set(spans.tolist()))]
        parts = [self._embed_cut(tokens[rows], int(lengths[rows].max())) for rows in groups]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def _lengths(self, tokens: torch.Tensor) -> torch.Tensor:
        """How many tokens of each row count, up to and with the one that is pooled."""
        _, tower, prefix = _tower(self.model)
        at_end = tokens == getattr(tower, f"{prefix}eos_id")
        marks = tokens if getattr(tower, f"{prefix}pool_type") == "argmax" else at_end.int()
        return marks.argmax(dim=-1) + 1

    def _embed_cut(self, tokens: torch.Tensor, length: int) -> torch.Tensor:
        path, tower, _ = _tower(self.model)
        # open_clip adds all positions and masks all of them, however many tokens it is given.
        cut = {
            f"model.{path}positional_embedding": tower.positional_embedding[:length],
            f"model.{path}attn_mask": tower.attn_mask[:length, :length],
        }
        vectors: torch.Tensor = functional_call(self, cut, (tokens[:, :length],))
        return vectors

    def _is_proved(self, probe: torch.Tensor) -> bool:
        whole = self.forward(probe)
        try:
            cut = self._embed_cut(probe, int(self._lengths(probe)))
        except RuntimeError:  # shapes that do not fit: a tower built in another way than today's
            return False
        return torch.allclose(cut, whole, rtol=0, atol=_TOLERANCE)


def _tower(model: Any) -> tuple[str, Any, str]:
    """Path of the text tower in the model, the tower, and what stands before the names of its settings."""
    return ("", model, "text_") if isinstance(model, CLIP) else ("text.", model.text, "")


def _ignores_padding(model: Any) -> bool:
    if not isinstance(model, (CLIP, CustomTextCLIP)):
        return False
    _, tower, prefix = _tower(model)
    return (
        isinstance(tower, (CLIP, TextTransformer))
        and tower.attn_mask is not None  # causal
        and getattr(tower, "cls_emb", None) is None  # a class token stands behind the padding
        and getattr(tower, f"{prefix}pool_type") in ("argmax", "eos")
    )
