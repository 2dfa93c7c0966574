"""Everything that computes embeddings: the only package that imports torch, and only inside ``load_encoder``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
    model: str, *, device: str = "auto", digest: Callable[[Path], str] = file_digest
) -> tuple[Encoder, tuple[FileStamp, ...]]:
    """Load a model; the door that keeps torch out of everything that does not need it.

    Args:
        model: ``starter``, ``ARCH/TAG``, ``hf-hub:org/repo``, ``local-dir:FOLDER`` or a folder.
        device: auto, cpu, cuda, cuda:N or mps.
        digest: the SHA-256 of a file in hex; the caller may remember it.

    Returns:
        The encoder, and the files whose change means that the name stands for another model.

    Raises:
        ModelError: the model is unknown, cannot be downloaded, or its files do not fit each other.
        DeviceError: the device is missing.
    """
    from clipcls.encoders.files import locate

    spec = parse_spec(model)
    files = locate(spec)
    watched = files.watched()  # before the files are read, so that a change meanwhile is noticed

    from clipcls.encoders.openclip import OpenClipEncoder

    return OpenClipEncoder(spec, files, device, digest), watched
