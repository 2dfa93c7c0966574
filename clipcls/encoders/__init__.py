"""Everything that computes embeddings: the only package that imports torch or ONNX Runtime, inside ``load_encoder``.

A folder that holds its towers' graphs is run by ONNX Runtime, and torch is not imported; any other model by torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipcls.encoders.spec import parse_spec

if TYPE_CHECKING:
    from clipcls.encoders.base import Encoder
    from clipcls.records import FileStamp

__all__ = ["file_digest", "load_encoder"]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_encoder(
    model: str, *, device: str = "auto", precision: str = "auto", digest: Callable[[Path], str] = file_digest
) -> tuple[Encoder, tuple[FileStamp, ...]]:
    """Load a model; the door that keeps torch out of everything that does not need it.

    A model with graphs for ONNX Runtime goes there unless a device or precision is asked for that torch alone has: to
    ask torch whether there is one takes longer than many an answer.

    Args:
        model: an alias or the name of an imported model, ``ARCH/TAG``, ``hf-hub:org/repo``, ``local-dir:FOLDER``,
            a folder, or ``hf:`` and a hub repository or folder for transformers.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16, fp16 or int8.
        digest: the SHA-256 of a file in hex; the caller may remember it.

    Returns:
        The encoder, and the files whose change means that the name stands for another model.

    Raises:
        ModelError: the model is unknown, cannot be downloaded, or its files do not fit each other.
        DeviceError: the device is missing, or has no such precision.
    """
    from clipcls.encoders.locate import locate

    spec = parse_spec(model)
    files = locate(spec)
    watched = files.watched()  # before the files are read, so that a change meanwhile is noticed

    if files.graphs and device in ("auto", "cpu") and precision in ("auto", "fp32"):
        with suppress(ImportError):  # not installed, or its libraries do not load on this system
            from clipcls.encoders.onnx import OnnxEncoder

            return OnnxEncoder(spec, files, digest), watched

    if spec.kind == "hf":
        from clipcls.encoders.hfmodel import HFEncoder

        return HFEncoder(spec, files, device, precision, digest), watched

    from clipcls.encoders.openclip import OpenClipEncoder

    return OpenClipEncoder(spec, files, device, precision, digest), watched
