"""Text towers, spared the padding where nothing of it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.func import functional_call

Tokens = Mapping[str, torch.Tensor]
"""What a text tower takes, by name; ids are ``input_ids``. Each is int64 [n, tokens], padded at the end."""

PROBES = ("a photo of 大象 ☃", "这是一张有关大象的照片, a large elephant beside a small red fridge")
"""A short prompt and a longer one, with characters that are known, and unknown to most tokenizers."""

_PADDING = 48
"""Tokens of padding for which one batch takes as long as two batches without: each reads all the weights."""

_TOLERANCE = 1e-5
"""How far a coordinate of a unit vector may move when the padding is cut off: rounding, nothing else."""


class Reader(Protocol):
    """A text tower of a certain kind, and how much of its tokens it uses."""

    def lengths(self, tokens: Tokens) -> torch.Tensor | None:
        """How many tokens of each row count: int64 [n]; None where the tower looks at the padding."""
        ...

    def read(self, tokens: Tokens) -> torch.Tensor:
        """Embeddings of tokens, of which there may be fewer than the context: [n, D], unit rows."""
        ...


class TextTower:
    """A text tower on no more tokens than it needs.

    What stands behind the end of a prompt makes no difference to a tower that is causal and pools at that end, nor to
    one that masks padding; other towers, such as SigLIP's, were trained to look at it. Of which kind a tower is
    follows from its structure, which its reader knows, and then has to prove true.

    Args:
        reader: the tower.
        probes: the tokens of PROBES, padded.
    """

    def __init__(self, reader: Reader, probes: Tokens) -> None:
        self._reader = reader
        lengths = reader.lengths(probes)
        if lengths is None:
            probes = _part(probes, [0])  # the other has nothing to prove
        whole = reader.read(probes)
        self.dim = whole.shape[1]
        self.cuts = lengths is not None and self._is_proved(probes, lengths, whole)
        """Whether it makes no difference how far prompts are padded."""

    def embed(self, tokens: Tokens) -> torch.Tensor:
        """Embeddings of tokens, padded to the context; if it cuts, to any length: [n, D], unit rows."""
        lengths = self._reader.lengths(tokens) if self.cuts else None
        if lengths is None:
            return self._reader.read(tokens)
        counts: list[int] = lengths.tolist()
        batches = _of_similar_length(counts)
        # Of rows sorted by length the last is the longest.
        parts = [self._reader.read(_part(tokens, rows, counts[rows[-1]])) for rows in batches]
        order = torch.tensor([row for rows in batches for row in rows], device=lengths.device)
        return torch.cat(parts)[order.argsort()]

    def _is_proved(self, probes: Tokens, lengths: torch.Tensor, whole: torch.Tensor) -> bool:
        try:
            cut = [self._reader.read(_part(probes, [row], length)) for row, length in enumerate(lengths.tolist())]
        except RuntimeError:  # shapes that do not fit: a tower built in another way than today's
            return False
        return torch.allclose(torch.cat(cut), whole, rtol=0, atol=_TOLERANCE)


def _part(tokens: Tokens, rows: list[int], length: int | None = None) -> Tokens:
    return {name: values[rows, :length] for name, values in tokens.items()}


def _of_similar_length(lengths: Sequence[int]) -> list[list[int]]:
    """The rows in batches, each padded to its longest: shorter ones first, and little padding in any."""
    batches: list[list[int]] = []
    padding = longest = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches:
            padding += (lengths[row] - longest) * len(batches[-1])
        if not batches or padding > _PADDING:
            batches.append([])
            padding = 0
        batches[-1].append(row)
        longest = lengths[row]
    return batches


def reader_of(model: Any) -> Reader:
    """The text tower of an open_clip model."""
    from open_clip.hf_model import HFTextEncoder

    if _ignores_padding(model):
        return _Causal(model)
    if isinstance(getattr(model, "text", None), HFTextEncoder):
        return _Masking(model)
    return _OpenClip(model)


class _OpenClip(torch.nn.Module):
    """A tower that may look at everything, and takes no fewer tokens than the context."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.model.encode_text(ids, normalize=True)
        return vectors

    def read(self, tokens: Tokens) -> torch.Tensor:
        return self.forward(tokens["input_ids"])

    def lengths(self, tokens: Tokens) -> torch.Tensor | None:
        return None


class _Masking(_OpenClip):
    """A Hugging Face tower: what attends to padding is masked, and its pooler leaves padding out or takes the first."""

    def lengths(self, tokens: Tokens) -> torch.Tensor:
        return ends(tokens["input_ids"] != self.model.text.config.pad_token_id)


class _Causal(_OpenClip):
    """A tower in which no token sees a later one, and whose vector is the one at the end of the text."""

    def lengths(self, tokens: Tokens) -> torch.Tensor:
        _, tower, prefix = _tower(self.model)
        ids = tokens["input_ids"]
        marks = ids if getattr(tower, f"{prefix}pool_type") == "argmax" else ids == getattr(tower, f"{prefix}eos_id")
        return marks.int().argmax(dim=-1) + 1

    def read(self, tokens: Tokens) -> torch.Tensor:
        ids = tokens["input_ids"]
        path, tower, _ = _tower(self.model)
        length = ids.shape[1]
        # open_clip adds all positions and masks all of them, however many tokens it is given.
        cut = {
            f"model.{path}positional_embedding": tower.positional_embedding[:length],
            f"model.{path}attn_mask": tower.attn_mask[:length, :length],
        }
        vectors: torch.Tensor = functional_call(self, cut, (ids,))
        return vectors


def ends(used: torch.Tensor) -> torch.Tensor:
    """How many tokens of each row there are up to the last one that is used, and at least one: bool or int64 [n]."""
    places = torch.arange(1, used.shape[1] + 1, device=used.device)
    return (used.bool() * places).amax(dim=1).clamp(min=1)


def _tower(model: Any) -> tuple[str, Any, str]:
    """Path of open_clip's own text tower in the model, the tower, and what stands before the names of its settings."""
    from open_clip import CLIP

    return ("", model, "text_") if isinstance(model, CLIP) else ("text.", model.text, "")


def _ignores_padding(model: Any) -> bool:
    """Whether an open_clip model's text tower is open_clip's own, causal, and pools at the end of the text."""
    from open_clip import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if not isinstance(model, (CLIP, CustomTextCLIP)):
        return False
    _, tower, prefix = _tower(model)
    return (
        isinstance(tower, (CLIP, TextTransformer))
        and tower.attn_mask is not None  # causal
        and getattr(tower, "cls_emb", None) is None  # a class token stands behind the padding
        and getattr(tower, f"{prefix}pool_type") in ("argmax", "eos")
    )
