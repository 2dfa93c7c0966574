"""What is traced of a model that torch has loaded: its two towers as modules, and the facts of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from clipcls.encoders import classtoken, openclip, texttower
from clipcls.encoders.hfmodel import HFEncoder
from clipcls.encoders.openclip import OpenClipEncoder
from clipcls.encoders.traced import Cleaning, PictureFacts, TextFacts
from clipcls.errors import ModelError

_BPE_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP's tokenizer takes for a word."""
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which transformers uses."""


@dataclass(frozen=True, slots=True)
class Towers:
    """What is traced; each module's attribute ``model`` is the model whose weights it uses."""

    image: torch.nn.Module
    text: torch.nn.Module
    masked: bool
    """Whether the text tower takes a mask besides the tokens."""
    pictures: PictureFacts
    texts: TextFacts
    tokenizer: Tokenizer


def of_open_clip(encoder: OpenClipEncoder) -> Towers:
    """The towers of an open_clip model, which is changed by it.

    Raises:
        ModelError: it has something that is not traced.
    """
    model = encoder._model
    cut = encoder._texts.cuts and texttower._ignores_padding(model)
    masked = isinstance(getattr(model, "text", None), HFTextEncoder)
    if masked:
        model.text.transformer.set_attn_implementation("eager")
    classtoken.of_open_clip(model)
    tokenizer, facts = _open_clip_texts(encoder, full=not encoder._texts.cuts)
    return Towers(
        _OpenClip(model, "encode_image"),
        _Cut(model) if cut else _OpenClip(model, "encode_text"),
        False,
        _open_clip_pictures(PreprocessCfg(**model.visual.preprocess_cfg)),
        facts,
        tokenizer,
    )


def of_transformers(encoder: HFEncoder) -> Towers:
    """The towers of a transformers model, which is changed by it.

    Raises:
        ModelError: it has something that is not traced.
    """
    encoder._model.set_attn_implementation("eager")
    classtoken.of_transformers(encoder._model, encoder._type)
    inputs = encoder._tokens(["a"])
    masked = "attention_mask" in inputs
    facts = TextFacts(
        cleaning="chinese_clip" if encoder._type == "chinese_clip" else "none",
        context=encoder._context,
        padding=int(encoder._tokenizer.pad_token_id or 0),
        full=not encoder._texts.cuts,
        dropped=None,
        first={},
    )
    image, text = _Features(encoder._model, "image"), _Features(encoder._model, "text")
    return Towers(image, text, masked, _hf_pictures(encoder._processor), facts, _backend(encoder._tokenizer))


class _OpenClip(torch.nn.Module):
    """One of open_clip's two methods, with unit vectors as its output."""

    def __init__(self, model: Any, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = getattr(self.model, self.method)(inputs, normalize=True)
        return vectors


class _Cut(_OpenClip):
    """A causal text tower on as many positions as it is given tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, "encode_text")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with _shortened(texttower._tower(self.model)[1], inputs.shape[1]):
            return super().forward(inputs)


@contextmanager
def _shortened(tower: Any, length: int) -> Iterator[None]:
    # Not torch.func.functional_call, which refuses to be traced.
    positions, mask = tower.positional_embedding, tower.attn_mask
    tower._parameters["positional_embedding"], tower._buffers["attn_mask"] = positions[:length], mask[:length, :length]
    try:
        yield
    finally:
        tower._parameters["positional_embedding"], tower._buffers["attn_mask"] = positions, mask


class _Features(torch.nn.Module):
    """One of transformers' two methods, with unit vectors as its output."""

    def __init__(self, model: Any, what: str) -> None:
        super().__init__()
        self.model, self.what = model, what

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if self.what == "image":
            features = self.model.get_image_features(pixel_values=inputs)
        else:
            features = self.model.get_text_features(
                input_ids=inputs, **({} if mask is None else {"attention_mask": mask})
            )
        rows = features if isinstance(features, torch.Tensor) else features.pooler_output
        return torch.nn.functional.normalize(rows.float(), dim=-1)


def _open_clip_texts(encoder: OpenClipEncoder, *, full: bool) -> tuple[Tokenizer, TextFacts]:
    tokenizer = encoder._tokenizer
    names: Mapping[str, Cleaning] = {
        "_clean_lower": "lower", "_clean_whitespace": "whitespace", "_clean_canonicalize": "canonicalize",
    }  # fmt: skip
    cleaning, context = names[tokenizer.clean_fn.__name__], int(tokenizer.context_length)
    if isinstance(tokenizer, SimpleTokenizer):
        if tokenizer.reduction_fn is not None:
            raise ModelError("its tokenizer leaves tokens out at random")
        return _bpe(tokenizer), TextFacts(cleaning, context, 0, full, None, {})
    assert isinstance(tokenizer, HFTokenizer)
    inner = tokenizer.tokenizer
    if tokenizer.tokenizer_mode:
        raise ModelError(f"its tokenizer works in the mode {tokenizer.tokenizer_mode!r}")
    first = {}
    if encoder._speaks:
        first = {script: int(inner.convert_tokens_to_ids(code)) for script, code in openclip._SOURCES.items()}
    dropped = int(inner.sep_token_id) if tokenizer.strip_sep_token else None
    return _backend(inner), TextFacts(cleaning, context, int(inner.pad_token_id), full, dropped, first)


def _backend(tokenizer: Any) -> Tokenizer:
    """What a transformers tokenizer leaves the work to."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("its tokenizer is written in Python")
    if tokenizer.padding_side != "right" or tokenizer.truncation_side != "right":
        raise ModelError("its tokenizer pads or cuts at the beginning")
    copy: Tokenizer = Tokenizer.from_str(backend.to_str())
    return copy


def _bpe(tokenizer: SimpleTokenizer) -> Tokenizer:
    """CLIP's own tokenizer, as the library tokenizers has it."""
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    fast = Tokenizer(models.BPE(vocab=tokenizer.encoder, merges=merges, end_of_word_suffix="</w>"))
    special = [token for token, _ in sorted(tokenizer.encoder.items(), key=lambda item: item[1])]
    special = special[-len(tokenizer.all_special_ids) :]
    fast.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_BPE_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    begin, end = special[:2]
    ends = [(token, tokenizer.encoder[token]) for token in (begin, end)]
    fast.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=ends)
    return fast


def _open_clip_pictures(cfg: PreprocessCfg) -> PictureFacts:
    height, width = cfg.size if isinstance(cfg.size, (tuple, list)) else (cfg.size, cfg.size)
    if cfg.resize_mode == "shortest" and height != width:
        raise ModelError("its pictures are cut to an oblong")
    return PictureFacts(
        (height, width),
        cfg.resize_mode,
        height,
        cfg.interpolation,
        cfg.fill_color,
        tuple(cfg.mean),
        tuple(cfg.std),
    )


def _hf_pictures(processor: Any) -> PictureFacts:
    """The facts of an image processor that resizes, cuts out, and normalises, and nothing else."""
    kind = type(processor).__name__
    size = dict(processor.size or {})
    edge, final = size.get("shortest_edge"), size
    if getattr(processor, "do_center_crop", None):
        final = dict(processor.crop_size)
    plain = processor.do_resize and processor.do_rescale and processor.do_normalize
    exact = abs(processor.rescale_factor * 255 - 1) < 1e-9 if plain else False
    if not exact or not {"height", "width"} <= final.keys() or getattr(processor, "do_pad", None):
        raise ModelError(f"its {kind} does something else to pictures than resize, cut and normalise them")
    if edge is None and final != size:
        raise ModelError(f"its {kind} cuts pictures out of squares")
    return PictureFacts(
        (int(final["height"]), int(final["width"])),
        "squash" if edge is None else "shortest",
        int(edge or 0),
        _INTERPOLATIONS[int(processor.resample)],  # type: ignore[arg-type]
        0,
        tuple(processor.image_mean),
        tuple(processor.image_std),
    )
