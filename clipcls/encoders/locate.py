"""Where a model's parts lie on disk, whatever kind of model it is."""

from __future__ import annotations

from clipcls.encoders.files import ModelFiles, locate_open_clip
from clipcls.encoders.hffiles import locate_hf
from clipcls.encoders.spec import ModelSpec


def locate(spec: ModelSpec) -> ModelFiles:
    """Find a model's files, downloading what is missing.

    Raises:
        ModelError: the model is unknown, incomplete, or cannot be downloaded.
    """
    return locate_hf(spec) if spec.kind == "hf" else locate_open_clip(spec)
