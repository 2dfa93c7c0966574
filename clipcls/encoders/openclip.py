"""Any open_clip model behind the Encoder seam."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2

from clipcls.encoders.base import Preparation, Vectors, unfit
from clipcls.encoders.devices import device_errors, resolve_device, upload
from clipcls.encoders.files import ModelFiles
from clipcls.encoders.meta import awaiting_weights, lacks_weights
from clipcls.encoders.precision import computing, quantize, resolve_precision
from clipcls.encoders.spec import ModelSpec
from clipcls.encoders.texttower import PROBES, TextTower, Tokens, reader_of
from clipcls.errors import ClipclsError, ModelError
from clipcls.labels import script
from clipcls.records import Precision, TokenCount

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

_SOURCES = {
    **{"Latin": "eng_Latn", "Chinese": "zho_Hans", "Japanese": "jpn_Jpan", "Hangul": "kor_Hang"},
    **{"Cyrillic": "rus_Cyrl", "Greek": "ell_Grek", "Arabic": "arb_Arab", "Hebrew": "heb_Hebr"},
    **{"Devanagari": "hin_Deva", "Thai": "tha_Thai"},
}
"""NLLB's name for the language that a prompt's script tells: it embeds the same words differently by language."""


class OpenClipEncoder:
    """The two towers of an open_clip model.

    Args:
        spec: the model, understood.
        files: its parts on disk.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16, fp16 or int8.
        digest: the SHA-256 of a file in hex; the caller may remember it.

    Raises:
        ModelError: the files are no model, or do not fit each other.
        DeviceError: the device is missing, or has no such precision.
    """

    def __init__(
        self, spec: ModelSpec, files: ModelFiles, device: str, precision: str, digest: Callable[[Path], str]
    ) -> None:
        self._device = resolve_device(device)
        wanted = resolve_precision(precision, self._device)
        self._precision: Precision = "fp32"  # until all is proved
        # On a CPU larger batches only take memory: a convolutional tower is twice as fast with 4 or 8 as with 32.
        self.batch_size = 8 if self._device.type == "cpu" else 64
        try:
            with device_errors():
                self._model = _create(files).eval().requires_grad_(False).to(self._device)
            if self._device.type == "cuda":
                _order_channels(self._model.visual)
            self._tokenizer = _tokenizer(files)
            self._speaks = files.by_source_language
            self._prepare_images()
            with computing(self._precision, self._device):
                # A tokenizer and a text tower that do not fit each other fail here.
                self._texts = TextTower(reader_of(self._model), self._tokens(PROBES))
            bias = self._model.logit_bias
            self.info = files.describe(
                spec,
                files.fingerprint(wanted, digest),
                dim=self._texts.dim,
                logit_scale=self._model.logit_scale.exp().item(),
                logit_bias=None if bias is None else bias.item(),
                precision=wanted,
            )
            if wanted == "int8":
                quantize(self._model)
            self._precision = wanted
        except ClipclsError:
            raise
        except Exception as exc:
            # open_clip, torch, transformers and safetensors each fail in their own way on files that do not fit.
            raise ModelError(f"cannot load the model {spec.given}: {unfit(exc)}") from exc

    def preprocess(self, image: Image.Image) -> Pixels:
        """The model's own resize and crop: uint8 [height, width, 3]."""
        return _cut(self._geometry, image)

    def preparation(self) -> Preparation:
        """The same, without the towers."""
        return Preparation(self.image_size, partial(_cut, self._geometry))

    def tokenize(self, prompts: Sequence[str]) -> list[TokenCount]:
        """How many tokens each prompt takes, and whether its end was cut off."""
        tokenizer, limit = self._tokenizer, self._tokenizer.context_length
        if isinstance(tokenizer, SimpleTokenizer):
            lengths = [len(tokenizer.encode(prompt)) + 2 for prompt in prompts]  # begin and end marks
        else:
            cleaned = [tokenizer.clean_fn(prompt) for prompt in prompts]
            lengths = [len(ids) for ids in tokenizer.tokenizer(cleaned, verbose=False).input_ids]
        return [TokenCount(min(length, limit), length > limit) for length in lengths]

    def encode_images(self, batch: Sequence[Pixels]) -> Vectors:
        """Embeddings of preprocessed images: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
        """
        with computing(self._precision, self._device):
            # The permuted is not copied: convolutions like the channels last in memory.
            pixels = upload(torch.from_numpy(np.stack(batch)), self._device).permute(0, 3, 1, 2)
            # What torchvision's ToTensor and Normalize do to one picture, done to the batch in one step.
            inputs = torch.addcmul(self._offset, pixels.float(), self._scale)
            return _to_numpy(self._model.encode_image(inputs, normalize=True))

    def encode_texts(self, prompts: Sequence[str]) -> Vectors:
        """Embeddings of prompts: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
        """
        with computing(self._precision, self._device):
            return _to_numpy(self._texts.embed(self._tokens(prompts)))

    def _tokens(self, prompts: Sequence[str]) -> Tokens:
        """Token ids, padded to the context length: int64 [n, context length]."""
        ids = self._ids(prompts)
        if int(ids.max()) >= getattr(self._model, "text", self._model).vocab_size:
            raise ModelError("the tokenizer knows tokens that the text tower does not: it is another model's")
        return {"input_ids": ids.to(self._device)}

    def _ids(self, prompts: Sequence[str]) -> torch.Tensor:
        if not self._speaks:
            ids: torch.Tensor = self._tokenizer(list(prompts))
            return ids
        rows = []
        for prompt in prompts:
            # Not open_clip's set_language: transformers 5 takes that back when it is next called.
            self._tokenizer.tokenizer.src_lang = _SOURCES.get(script(prompt), _SOURCES["Latin"])
            rows.append(self._tokenizer([prompt]))
        return torch.cat(rows)

    def _prepare_images(self) -> None:
        """Split the model's own transform: geometry on the picture, numbers on the batch."""
        cfg = PreprocessCfg(**self._model.visual.preprocess_cfg)
        *self._geometry, _to_tensor, _normalize = image_transform_v2(cfg, is_train=False).transforms
        mean, std = (
            torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (_normalize.mean, _normalize.std)
        )
        self._scale, self._offset = (each.float().to(self._device) for each in (1 / (255 * std), -mean / std))
        self.image_size = int(np.max(cfg.size))


def _cut(geometry: Sequence[Callable[[Any], Any]], image: Image.Image) -> Pixels:
    for step in geometry:
        image = step(image)
    return np.asarray(image)


def _create(files: ModelFiles) -> Any:
    overrides: dict[str, Any] = {}
    if files.text_folder:
        # The name in a text tower's configuration would be looked up on the hub.
        text_cfg = copy.deepcopy(files.model_cfg["text_cfg"])
        overrides["text_cfg"] = text_cfg | {"hf_model_name": str(files.text_folder), "hf_model_pretrained": False}
    if files.weights_by_name:
        overrides |= {
            "pretrained": str(files.weights[0]),
            "force_preprocess_cfg": files.preprocess_cfg,
            "quick_gelu": files.model_cfg["quick_gelu"],
        }
    create = partial(open_clip.create_model, files.name, require_pretrained=True, weights_only=True, **overrides)
    with warnings.catch_warnings():
        # About the architecture's own activation, which the override above has put right.
        warnings.filterwarnings("ignore", message="QuickGELU mismatch")
        try:
            with awaiting_weights():
                model = create(device=None)  # what has no numbers cannot be moved to one
            if not lacks_weights(model):
                return model
        except RuntimeError as exc:  # a tower computes with its weights while it is built
            # Where the checkpoint does not fit, it fits no better with numbers in memory, which may be very many.
            if "loading state_dict" in str(exc) and "exception occurred" not in str(exc):
                raise
        return create()


def _order_channels(tower: torch.nn.Module) -> None:
    """Lay the weights of a convolutional tower in the order of the pixels that it is given, channels last.

    A graphics card's tensor cores compute in it; on a CPU nothing is gained, and weights would leave their file.
    """
    if sum(isinstance(part, torch.nn.Conv2d) for part in tower.modules()) > 1:  # one cuts out a transformer's patches
        tower.to(memory_format=torch.channels_last)


def _tokenizer(files: ModelFiles) -> Any:
    text_cfg = files.model_cfg["text_cfg"]
    context_length = text_cfg.get("context_length", 77)
    options = text_cfg.get("tokenizer_kwargs") or {}
    if files.tokenizer_folder is None:
        return SimpleTokenizer(context_length=context_length, **options)
    return HFTokenizer(
        str(files.tokenizer_folder),
        context_length=context_length,
        tokenizer_mode=text_cfg.get("tokenizer_mode"),
        # Whatever the configuration says, code that comes with a model is never run.
        **(options | {"trust_remote_code": False}),
    )


def _to_numpy(vectors: torch.Tensor) -> Vectors:
    if vectors.dtype != torch.float32:  # unit length to the precision that they were computed in
        vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
    return np.ascontiguousarray(vectors.cpu().numpy())
