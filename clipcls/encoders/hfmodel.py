"""Any model that transformers serves for zero-shot image classification, behind the Encoder seam.

Only files of a local folder are read, no code that comes with a model is run, and weights that are missing are never
made up.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForZeroShotImageClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from clipcls.encoders.base import Preparation, Vectors, unfit
from clipcls.encoders.devices import device_errors, resolve_device, upload
from clipcls.encoders.files import ModelFiles
from clipcls.encoders.precision import computing, quantize, resolve_precision
from clipcls.encoders.spec import ModelSpec
from clipcls.encoders.texttower import PROBES, TextTower, Tokens, ends
from clipcls.errors import ClipclsError, ModelError
from clipcls.records import Precision, TokenCount

if TYPE_CHECKING:
    from PIL import Image

Inputs = dict[str, torch.Tensor]

# Of a model whose weights are pickled, transformers asks the hub for a converted copy, in a thread of its own. It does
# not for a local folder, and must not if that ever changes.
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
# Bars and warnings on stderr; what matters of them is raised below.
hf_logging.disable_progress_bar()
if "TRANSFORMERS_VERBOSITY" not in os.environ:
    hf_logging.set_verbosity_error()

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_PROOF = 77
"""Tokens to which prompts are padded, at most, to see whether that changes their vectors: a context may be long."""
_TOLERANCE = 1e-4
"""How far a cosine may be from the one that the whole model computes: rounding, nothing else."""

_LAYER = re.compile(r"\blayers?\.\d+\.")
"""In the name of a tensor: it belongs to one of a tower's layers."""
_NO_COSINE = "models of type {} do not score pictures and texts by a cosine: choose another model"

_CONTEXTS = {"chinese_clip": 52, "siglip": 64, "siglip2": 64}
"""Tokens that a type of model was trained on, where its text tower has room for more."""
_LANGUAGES = {"chinese_clip": ("zh",)}
_QUOTES = str.maketrans("“”", '""')


class HFEncoder:
    """The two towers of a transformers model.

    Args:
        spec: the model, understood.
        files: its parts on disk.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16, fp16 or int8.
        digest: the SHA-256 of a file in hex; the caller may remember it.

    Raises:
        ModelError: the files are no such model, or do not fit each other.
        DeviceError: the device is missing, or has no such precision.
    """

    def __init__(
        self, spec: ModelSpec, files: ModelFiles, device: str, precision: str, digest: Callable[[Path], str]
    ) -> None:
        self._device = resolve_device(device)
        wanted = resolve_precision(precision, self._device)
        self._precision: Precision = "fp32"  # until all is proved
        self.batch_size = 8 if self._device.type == "cpu" else 64
        self._given, self._type = spec.given, files.model_cfg["model_type"]
        try:
            with device_errors():
                self._model = _load(files).to(self._device)
            self._processor = AutoImageProcessor.from_pretrained(files.name, **_LOCAL)
            self.image_size = _image_size(self._processor)
            self._tokenizer = _tokenizer(files)
            self._context = _context(self._model, self._tokenizer, self._type)
            with computing(self._precision, self._device):
                probes = self._padded(PROBES, min(self._context, _PROOF))
                self._texts = TextTower(_Reader(self._model, self._type), probes)
            scale, bias = _scale(self._model), getattr(self._model, "logit_bias", None)
            bias = None if bias is None else bias.item()
            dim = self._prove(scale, bias or 0.0)
            self.info = files.describe(
                spec,
                files.fingerprint(wanted, digest),
                dim=dim,
                logit_scale=scale,
                logit_bias=bias,
                precision=wanted,
                languages=_LANGUAGES.get(self._type, ()),
            )
            if wanted == "int8":
                quantize(self._model)
            self._precision = wanted
        except ClipclsError:
            raise
        except Exception as exc:
            # transformers, torch, tokenizers and safetensors each fail in their own way on files that do not fit.
            reason = str(exc) if isinstance(exc, _UnfitError) else unfit(exc)
            raise ModelError(f"cannot load the model {spec.given}: {reason}") from exc

    def preprocess(self, image: Image.Image) -> Inputs:
        """What the model's own image processor makes of a picture: float32 ``pixel_values`` and what belongs to them.

        Not cut into geometry and numbers: processors differ in their steps, and some give masks and shapes as well.
        """
        return _prepared(self._processor, image)

    def preparation(self) -> Preparation:
        """The same, without the towers."""
        return Preparation(self.image_size, partial(_prepared, self._processor))

    def tokenize(self, prompts: Sequence[str]) -> list[TokenCount]:
        """How many tokens each prompt takes, and whether its end was cut off."""
        limit = self._context
        lengths = [len(ids) for ids in self._tokenizer(self._clean(prompts), verbose=False).input_ids]
        return [TokenCount(min(length, limit), length > limit) for length in lengths]

    def encode_images(self, batch: Sequence[Inputs]) -> Vectors:
        """Embeddings of preprocessed images: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
        """
        with computing(self._precision, self._device):
            return _to_numpy(_unit_rows(self._model.get_image_features(**self._stack(batch))))

    def encode_texts(self, prompts: Sequence[str]) -> Vectors:
        """Embeddings of prompts: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
        """
        with computing(self._precision, self._device):
            return _to_numpy(self._texts.embed(self._tokens(prompts)))

    def _clean(self, prompts: Sequence[str]) -> list[str]:
        if self._type != "chinese_clip":
            return list(prompts)
        return [prompt.lower().translate(_QUOTES) for prompt in prompts]  # as cn_clip does, which trained them

    def _tokens(self, prompts: Sequence[str]) -> Tokens:
        """Token ids and what belongs to them, padded as far as the text tower needs it: int64 [n, tokens]."""
        return self._padded(prompts, None if self._texts.cuts else self._context)

    def _padded(self, prompts: Sequence[str], length: int | None) -> Tokens:
        """The same, padded to a length; None pads to the longest."""
        options = {"padding": "max_length" if length else True, "max_length": length or self._context}
        tokens = self._tokenizer(self._clean(prompts), return_tensors="pt", truncation=True, **options)
        if int(tokens["input_ids"].max()) >= self._model.config.text_config.vocab_size:
            raise ModelError(
                f"cannot use the model {self._given}: its tokenizer knows tokens that its text tower does not, "
                f"so it is another model's: get them anew"
            )
        return {name: values.to(self._device) for name, values in tokens.items()}

    def _stack(self, batch: Sequence[Inputs]) -> Inputs:
        stacked = {name: torch.stack([each[name] for each in batch]) for name in batch[0]}
        return {name: upload(values, self._device) for name, values in stacked.items()}

    def _prove(self, scale: float, bias: float) -> int:
        """Length of an embedding, after a proof that scoring embeddings gives the model's own score.

        Not every model is two towers and a cosine.
        """
        from PIL import Image

        picture = self.preprocess(Image.linear_gradient("L").convert("RGB"))
        image, text = self.encode_images([picture]), self.encode_texts(PROBES[:1])
        with computing(self._precision, self._device):
            whole = self._model(**self._tokens(PROBES[:1]), **self._stack([picture])).logits_per_image.item()
        if not (np.isfinite(image).all() and np.isfinite(text).all()):
            raise _UnfitError("its weights are damaged, they give no numbers: get them anew")
        if abs(scale * float(image[0] @ text[0]) + bias - whole) > _TOLERANCE * max(scale, 1):
            raise _UnfitError(_NO_COSINE.format(self._type))
        return int(image.shape[1])


class _UnfitError(Exception):
    """What is wrong with a model, said as a person needs it."""


def _prepared(processor: Any, image: Image.Image) -> Inputs:
    prepared = processor(images=image, return_tensors="pt")
    return {name: values[0] for name, values in prepared.items()}


def _load(files: ModelFiles) -> Any:
    model, report = AutoModelForZeroShotImageClassification.from_pretrained(
        files.name,
        dtype=torch.float32,
        use_safetensors=files.weights[0].suffix == ".safetensors",  # else weights_only keeps code from being run
        ignore_mismatched_sizes=True,  # to be told of them below, by name
        output_loading_info=True,
        **_LOCAL,
    )
    if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features")):
        raise _UnfitError(_NO_COSINE.format(files.model_cfg["model_type"]))
    # transformers fills what does not fit with random numbers. Whole numbers are positions, which it counts itself.
    state = model.state_dict()
    shapes = {name: "have another shape than config.json says for" for name, *_ in report["mismatched_keys"]}
    lacks = {n: "lack" for n in report["missing_keys"] if n not in state or state[n].is_floating_point()}
    for name, fault in sorted((lacks | shapes).items()):
        raise _UnfitError(f"its weights {fault} {name}: they are another model's or damaged, get them anew")
    # Checkpoints come with positions and poolers that nobody needs; but a tower without some of its layers answers too.
    if surplus := sorted(filter(_LAYER.search, report["unexpected_keys"])):
        raise _UnfitError(f"its weights hold {surplus[0]}, a layer more than config.json says: get the two anew")
    return model.eval().requires_grad_(False)


def _tokenizer(files: ModelFiles) -> Any:
    folder, kind = files.tokenizer_folder, AutoTokenizer
    assert folder
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    if named == "SiglipTokenizer" and (folder / "tokenizer.json").is_file():
        kind = PreTrainedTokenizerFast  # the other needs sentencepiece, for the same rules
    return kind.from_pretrained(str(folder), **_LOCAL)


def _context(model: Any, tokenizer: Any, kind: str) -> int:
    """How many tokens of a prompt are read."""
    text_cfg = model.config.text_config
    room = [int(text_cfg.max_position_embeddings)]
    for name, part in model.named_modules():
        if name.startswith("text") and "position_embedding" in name and getattr(part, "padding_idx", None) is not None:
            room.append(part.num_embeddings - part.padding_idx - 1)  # where counting starts after the padding's place
    return int(min(_CONTEXTS.get(kind, tokenizer.model_max_length), *room))


def _image_size(processor: Any) -> int:
    """Shorter side in pixels that pictures are resized to; where it depends on the picture, that of a square."""
    size = processor.size or {}
    sides = [side for name in ("shortest_edge", "height", "width") if (side := size.get(name))]
    return int(max(sides)) if sides else round(processor.patch_size * processor.max_num_patches**0.5)


def _scale(model: Any) -> float:
    if hasattr(model, "logit_scale"):
        return float(model.logit_scale.exp())
    return 1 / float(model.temperature)  # ALIGN


class _Reader:
    """The text tower of a transformers model."""

    def __init__(self, model: Any, kind: str) -> None:
        self._model, self._looks_at_padding = model, "siglip" in kind

    def lengths(self, tokens: Tokens) -> torch.Tensor | None:
        """How many tokens of each row are no padding: int64 [n]; None where padding is looked at, or not marked."""
        mask = tokens.get("attention_mask")
        return None if self._looks_at_padding or mask is None else ends(mask)

    def read(self, tokens: Tokens) -> torch.Tensor:
        """Embeddings of tokens: [n, D], unit rows."""
        return _unit_rows(self._model.get_text_features(**tokens))


def _unit_rows(features: Any) -> torch.Tensor:
    """Some releases of transformers give a tensor, others an object around it."""
    rows = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(rows.float(), dim=-1)


def _to_numpy(vectors: torch.Tensor) -> Vectors:
    return np.ascontiguousarray(vectors.cpu().numpy())
