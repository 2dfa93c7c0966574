"""A traced model behind the Encoder seam: ONNX Runtime and tokenizers; torch is never imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from clipcls.cores import cores
from clipcls.encoders.base import Preparation, Vectors, one_line, out_of_memory
from clipcls.encoders.files import FINGERPRINT_KEY, GRAPHS, ModelFiles
from clipcls.encoders.inputs import Pictures, Pixels, Prompts
from clipcls.encoders.spec import ModelSpec
from clipcls.encoders.traced import PLACES, Traced, locations
from clipcls.errors import ModelError
from clipcls.records import Precision, TokenCount

if TYPE_CHECKING:
    from PIL import Image

_PICTURES_AT_ONCE = 2
"""So few that what passes between the layers stays in the processor's caches; 8 take 1.3 times as long a picture."""
_TEXTS_AT_ONCE = 16
"""Of similar length, so that little is computed for padding, and few, so that memory stays small."""
_SILENT = 4
"""The level of log lines at which ONNX Runtime prints none: all that fails is raised as well."""
_ADVICE = "get the folder anew, or delete traced.json from it to run it through torch"

onnxruntime.set_default_logger_severity(_SILENT)


class OnnxEncoder:
    """The two towers of a traced model on the CPU; a tower is opened when first used.

    Args:
        spec: the model, understood.
        files: its parts on disk.
        traced: its graphs, and what else it takes.
        fingerprint: the model's in this precision.
        precision: what the graphs compute in, fp32 or int8.

    Raises:
        ModelError: the files are damaged, or do not fit each other.
    """

    def __init__(
        self, spec: ModelSpec, files: ModelFiles, traced: Traced, fingerprint: str, precision: Precision = "fp32"
    ) -> None:
        try:
            self._pictures = Pictures(traced.pictures)
            self._prompts = Prompts(traced.texts, traced.folder / traced.tokenizer)
        except Exception as exc:  # tokenizers has its own, and wrong types are many
            raise ModelError(f"cannot run {traced.folder} through ONNX Runtime: {one_line(exc)}; {_ADVICE}") from exc
        self.info = files.describe(
            spec,
            fingerprint,
            dim=traced.dim,
            logit_scale=traced.logit_scale,
            logit_bias=traced.logit_bias,
            precision=precision,
            languages=traced.languages,
        )
        self.image_size = self._pictures.size
        self.batch_size = max(8, _PICTURES_AT_ONCE * cores())
        self._image_tower, self._text_tower = (
            _Graph(traced.folder / name, files, fingerprint, traced.dim) for name in GRAPHS
        )

    def preprocess(self, image: Image.Image) -> Pixels:
        """The model's own resize and crop: uint8 [height, width, 3]."""
        return self._pictures.cut(image)

    def preparation(self) -> Preparation:
        """The same, without the towers."""
        return Preparation(self.image_size, self._pictures.cut)

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
        some = [self._pictures.stack(batch[start : start + _PICTURES_AT_ONCE]) for start in starts]
        return np.concatenate(self._image_tower.run([(pixels,) for pixels in some]))

    def encode_texts(self, prompts: Sequence[str]) -> Vectors:
        """Embeddings of prompts: float32 [n, D], unit rows.

        Raises:
            OutOfMemory: the batch did not fit.
            ModelError: the graph is damaged, or another model's.
        """
        rows = self._prompts.ids(prompts)
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        some = [by_length[start : start + _TEXTS_AT_ONCE] for start in range(0, len(rows), _TEXTS_AT_ONCE)]
        found = self._text_tower.run([self._prompts.stack([rows[i] for i in piece]) for piece in some])
        vectors = np.empty((len(rows), self.info.dim), np.float32)
        for rows_there, part in zip(some, found, strict=True):
            vectors[rows_there] = part
        return vectors


class _Graph:
    """One tower; it runs only beside the model that it was traced from."""

    def __init__(self, path: Path, files: ModelFiles, fingerprint: str, dim: int) -> None:
        self._path, self._files, self._fingerprint, self._dim = path, files, fingerprint, dim
        self._session: onnxruntime.InferenceSession | None = None
        self._pool = ThreadPoolExecutor(1)

    def run(self, pieces: Sequence[Sequence[Any]]) -> list[Vectors]:
        """The embeddings of some batches: float32 [n, D] each, unit rows; of a batch's inputs it takes what it needs.

        Batches side by side, each on one core, take less time than one after the other on all cores: 0.6 to 0.9 of
        it, by the tower. Where the first call has fewer batches than there are cores, the others help with each.
        """
        try:
            if self._session is None:
                at_once = max(1, min(len(pieces), cores()))
                self._session = self._open(cores() - at_once + 1)
                self._pool = ThreadPoolExecutor(at_once, "clipcls-graph")
            return list(self._pool.map(partial(self._one, self._session), pieces))
        except ModelError:
            raise
        except Exception as exc:  # ONNX Runtime's own have no base class
            if smaller := out_of_memory(exc):
                raise smaller from exc
            raise ModelError(f"{self._path} cannot be run: {one_line(exc)}; {_ADVICE}") from exc

    def _one(self, session: onnxruntime.InferenceSession, inputs: Sequence[Any]) -> Vectors:
        names = [node.name for node in session.get_inputs()]
        (vectors,) = session.run(None, dict(zip(names, inputs, strict=False)))
        if np.shape(vectors) != (len(inputs[0]), self._dim):
            raise ValueError(f"it gave {np.shape(vectors)} numbers instead of {(len(inputs[0]), self._dim)}")
        return np.asarray(vectors, np.float32)

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        """The tower's session, in which as many threads work at one batch."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the loaders' cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        mapped = self._weights_elsewhere()
        if mapped:
            options.add_external_initializers(list(mapped), list(mapped.values()))
        session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        if session.get_modelmeta().custom_metadata_map.get(FINGERPRINT_KEY) != self._fingerprint:
            raise ModelError(f"{self._path} was traced from another model than lies beside it: {_ADVICE}")
        return session

    def _weights_elsewhere(self) -> dict[str, onnxruntime.OrtValue]:
        """What the graph names of files that could not be put beside it, mapped into memory."""
        folder = self._path.parent
        away = {name: path for path, name in locations(self._files).items() if not (folder / name).exists()}
        if not away or not (folder / PLACES).exists():  # an int8 graph has weights of its own
            return {}
        places = json.loads((folder / PLACES).read_text(encoding="utf-8"))[self._path.name]
        return {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(
                np.memmap(away[file], dtype, "c", offset, tuple(shape))  # copy on write: nothing is ever written
            )
            for name, (file, dtype, shape, offset) in places.items()
            if file in away
        }
