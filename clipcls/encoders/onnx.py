"""A traced open_clip folder behind the Encoder seam: ONNX Runtime and tokenizers; torch is never imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from safetensors import safe_open

from clipcls.cores import cores
from clipcls.encoders.base import Vectors, one_line, out_of_memory
from clipcls.encoders.files import FINGERPRINT_KEY, WEIGHTS, ModelFiles
from clipcls.encoders.inputs import Pictures, Pixels, Prompts
from clipcls.encoders.spec import ModelSpec
from clipcls.errors import ModelError
from clipcls.records import TokenCount

if TYPE_CHECKING:
    from PIL import Image

_PICTURES_AT_ONCE = 2
"""So few that what passes between the layers stays in the processor's caches; 8 take 1.3 times as long a picture."""
_TEXTS_AT_ONCE = 16
"""Of similar length, so that little is computed for padding, and few, so that memory stays small."""
_SILENT = 4
"""The level of log lines at which ONNX Runtime prints none: all that fails is raised as well."""
_ADVICE = "get the folder anew, or delete image.onnx and text.onnx from it to run it through torch"

onnxruntime.set_default_logger_severity(_SILENT)


class OnnxEncoder:
    """The two towers of a traced open_clip folder, in float32 on the CPU; a tower is opened when first used.

    Args:
        spec: the model, understood.
        files: its parts on disk, the graphs among them.
        digest: the SHA-256 of a file in hex; the caller may remember it.

    Raises:
        ModelError: the files are damaged, do not fit each other, or are of a kind that cannot be traced.
    """

    batch_size = 8

    def __init__(self, spec: ModelSpec, files: ModelFiles, digest: Callable[[Path], str]) -> None:
        assert files.graphs
        image, text = files.graphs
        try:
            self._pictures, self._prompts = Pictures(files), Prompts(files)
            scale, bias = _scale_and_bias(image.with_name(WEIGHTS))
            dim = int(files.model_cfg["embed_dim"])
        except Exception as exc:  # tokenizers and safetensors each have their own, and wrong types are many
            raise ModelError(f"cannot run {image.parent} through ONNX Runtime: {one_line(exc)}; {_ADVICE}") from exc
        self.info = files.describe(spec, digest, dim=dim, logit_scale=scale, logit_bias=bias)
        self.image_size = self._pictures.size
        self._image_tower, self._text_tower = (_Graph(path, self.info.fingerprint) for path in (image, text))

    def preprocess(self, image: Image.Image) -> Pixels:
        """The model's own resize and crop: uint8 [height, width, 3]."""
        return self._pictures.cut(image)

    def tokenize(self, prompts: Sequence[str]) -> list[TokenCount]:
        """How many tokens each prompt takes, and whether its end was cut off."""
        return [TokenCount(len(each), bool(each.overflowing)) for each in self._prompts.encode(prompts)]

    def encode_images(self, batch: Sequence[Pixels]) -> Vectors:
        """Embeddings of preprocessed images: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
            ModelError: the graph is damaged, or another model's.
        """
        starts = range(0, len(batch), _PICTURES_AT_ONCE)
        some = (self._pictures.stack(batch[start : start + _PICTURES_AT_ONCE]) for start in starts)
        return np.concatenate([self._image_tower.run(pixels) for pixels in some])

    def encode_texts(self, prompts: Sequence[str]) -> Vectors:
        """Embeddings of prompts: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
            ModelError: the graph is damaged, or another model's.
        """
        encodings = self._prompts.encode(prompts)
        by_length = sorted(range(len(encodings)), key=lambda i: len(encodings[i]))
        vectors = np.empty((len(encodings), self.info.dim), np.float32)
        for start in range(0, len(by_length), _TEXTS_AT_ONCE):
            some = by_length[start : start + _TEXTS_AT_ONCE]
            vectors[some] = self._text_tower.run(self._prompts.stack([encodings[i] for i in some]))
        return vectors


class _Graph:
    """One tower; it runs only beside the model that it was traced from."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint

    def run(self, inputs: Any) -> Vectors:
        """The embeddings of a batch: float32 [n, D], unit rows."""
        try:
            session = self._session
            (vectors,) = session.run(None, {session.get_inputs()[0].name: inputs})
        except ModelError:
            raise
        except Exception as exc:  # ONNX Runtime's own have no base class
            if smaller := out_of_memory(exc):
                raise smaller from exc
            raise ModelError(f"{self._path} cannot be run: {one_line(exc)}; {_ADVICE}") from exc
        return np.asarray(vectors, np.float32)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = cores()
        # Threads that spin while they wait take the loaders' cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        if session.get_modelmeta().custom_metadata_map.get(FINGERPRINT_KEY) != self._fingerprint:
            raise ModelError(f"{self._path} was traced from another model than lies beside it: {_ADVICE}")
        return session


def _scale_and_bias(weights: Path) -> tuple[float, float | None]:
    """The checkpoint's logit scale, exponentiated, in float32, and its logit bias if it has one."""
    with safe_open(weights, framework="numpy") as file:
        scale = np.exp(file.get_tensor("logit_scale").astype(np.float64)).astype(np.float32)
        bias = file.get_tensor("logit_bias") if "logit_bias" in file.keys() else None  # noqa: SIM118
    return scale.item(), None if bias is None else bias.astype(np.float32).item()
