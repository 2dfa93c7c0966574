"""Everything that computes embeddings: the only package that imports torch or ONNX Runtime, inside ``load_encoder``.

On the CPU a model is traced once, and from then on ONNX Runtime answers and torch is not imported; on a graphics card,
and for models that cannot be traced, torch does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipcls.encoders.gpu import may_have_gpu
from clipcls.encoders.spec import parse_spec

if TYPE_CHECKING:
    from clipcls.encoders.base import Encoder
    from clipcls.encoders.files import ModelFiles
    from clipcls.encoders.spec import ModelSpec
    from clipcls.records import FileStamp, Precision

__all__ = ["file_digest", "load_encoder"]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_encoder(
    model: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    digest: Callable[[Path], str] = file_digest,
    traced: Path | None = None,
) -> tuple[Encoder, tuple[FileStamp, ...]]:
    """Load a model; the door that keeps torch out of everything that does not need it.

    Args:
        model: an alias or the name of an imported model, ``ARCH/TAG``, ``hf-hub:org/repo``, ``local-dir:FOLDER``,
            a folder, or ``hf:`` and a hub repository or folder for transformers.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16, fp16 or int8.
        digest: the SHA-256 of a file in hex; the caller may remember it.
        traced: the folder that keeps what is traced of models; None traces none, and only models that come with their
            graphs do without torch.

    Returns:
        The encoder, and the files whose change means that the name stands for another model.

    Raises:
        ModelError: the model is unknown, cannot be downloaded, or its files do not fit each other.
        DeviceError: the device is missing, or has no such precision.
    """
    from clipcls.encoders.locate import locate

    # torch's threads spin while they wait, which can halve the speed where something else needs a core. It reads this
    # when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spec = parse_spec(model)
    files = locate(spec)
    watched = files.watched()  # before the files are read, so that a change meanwhile is noticed

    if precision in ("auto", "fp32", "int8") and _on_cpu(spec, device):
        kind: Precision = "int8" if precision == "int8" else "fp32"
        with suppress(ImportError):  # not installed, or its libraries do not load on this system
            if encoder := _traced(spec, files, kind, digest, traced):
                return encoder, watched

    if spec.kind == "hf":
        from clipcls.encoders.hfmodel import HFEncoder

        return HFEncoder(spec, files, device, precision, digest), watched

    from clipcls.encoders.openclip import OpenClipEncoder

    return OpenClipEncoder(spec, files, device, precision, digest), watched


def _on_cpu(spec: ModelSpec, device: str) -> bool:
    """Whether the CPU is to compute; torch is asked only where there may be something better."""
    if device != "auto" or spec.is_starter:  # to ask torch takes longer than the starter's answer
        return device in ("auto", "cpu")
    if not may_have_gpu():
        return True

    from clipcls.encoders.devices import resolve_device

    return resolve_device(device).type == "cpu"


def _traced(
    spec: ModelSpec, files: ModelFiles, precision: Precision, digest: Callable[[Path], str], home: Path | None
) -> Encoder | None:
    """A model through ONNX Runtime; None where that cannot be."""
    import onnxruntime  # noqa: F401 - before a model is traced for it

    from clipcls.encoders import traced

    fingerprint = files.fingerprint(traced.NAMES[precision], digest)
    found = None
    if files.traced and precision == "fp32":
        with suppress(traced.OutdatedError):
            found = traced.read(files.traced)
    if found is None and home:
        found = traced.ready(spec, files, precision, fingerprint, home)
    if found is None:
        return None

    from clipcls.encoders.onnx import OnnxEncoder

    return OnnxEncoder(spec, files, found, fingerprint, precision)
