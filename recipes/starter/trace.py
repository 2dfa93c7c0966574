"""Write a model's towers as ONNX graphs that hold no weights: ``python recipes/starter/trace.py FOLDER``.

FOLDER is an open_clip folder whose text tower and tokenizer are Hugging Face's. It receives ``image.onnx`` and
``text.onnx``, of under 1 MB each, whose initialisers are places in ``open_clip_model.safetensors``. Each graph carries
the fingerprint of the model that it was traced from, and clipcls runs it beside no other. A fresh process compares the
graphs with torch; where they disagree, they are deleted and the exit code is 4.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from clipcls.encoders import file_digest
from clipcls.encoders.files import FINGERPRINT_KEY, GRAPHS, WEIGHTS
from clipcls.encoders.locate import locate
from clipcls.encoders.onnx import OnnxEncoder
from clipcls.encoders.openclip import OpenClipEncoder
from clipcls.encoders.spec import parse_spec
from clipcls.errors import ClipclsError, ModelError

TYPES = {
    "F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT, "I64": TensorProto.INT64, "F8_E4M3": TensorProto.UINT8,
}  # fmt: skip
"""ONNX Runtime looks nothing up in tables of float8; their bytes it does, and then what each byte means."""
STORED = ".stored"
"""What is added to the name of numbers that are still as small as the file has them."""
FLOAT8 = "float8"
"""The table of what the 256 bytes of float8 (e4m3) mean."""
LARGEST = 1_000_000
LEAST_COSINE = 0.99999
SIZES = ((400, 300), (300, 401), (64, 64), (31, 90))
PROMPTS = (
    *("a photo of a cat", "这是一张有关大象的照片", "猫", "", "A CAT，Ｃａｔ &amp; cafe\u0301 ☃ 🚀", "a  cup\tof tea"),
    *("a very long description of a picture " * 12, "一张很长很长的照片说明，" * 12),
)  # fmt: skip


class Place(NamedTuple):
    """Where a tensor lies in a safetensors file, in bytes."""

    type: int
    shape: list[int]
    offset: int
    length: int


class Tower(torch.nn.Module):
    """One tower with unit vectors as its output; ``encode`` is the name of open_clip's method."""

    def __init__(self, model: Any, encode: str) -> None:
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = getattr(self.model, self.encode)(inputs, normalize=True)
        return vectors


def trace(folder: Path) -> None:
    """Write both graphs of an open_clip folder and compare them with torch.

    Raises:
        ModelError: the folder holds no model that can be traced, or the graphs give other answers than torch.
    """
    graphs = [folder / name for name in GRAPHS]
    for path in graphs:
        path.unlink(missing_ok=True)
    try:
        for path, graph in zip(graphs, towers(folder), strict=True):
            content = graph.SerializeToString(deterministic=True)
            if len(content) >= LARGEST:
                raise ModelError(f"{path} would take {len(content)} bytes: it holds weights")
            path.write_bytes(content)
        # In a fresh process, since tracing leaves the model changed.
        check = [sys.executable, __file__, "--check", str(folder)]
        done = subprocess.run(check, stderr=subprocess.PIPE, encoding="utf-8")
        if done.returncode:
            raise ModelError((done.stderr.splitlines() or ["the comparison ended without a word"])[-1])
    except BaseException:
        for path in graphs:
            path.unlink(missing_ok=True)
        raise


def towers(folder: Path) -> Iterator[onnx.ModelProto]:
    """The graphs of the image and the text tower."""
    spec = parse_spec(str(folder))
    files = locate(spec)
    if files.text_folder != folder.absolute() or files.tokenizer_folder != folder.absolute():
        raise ModelError(f"{folder} holds no Hugging Face text tower and tokenizer of its own, hence nothing to trace")
    places = places_in(folder / WEIGHTS)
    encoder = OpenClipEncoder(spec, files, "cpu", "fp32", file_digest)
    model = encoder._model
    model.text.transformer.set_attn_implementation("eager")
    height, width = encoder.preprocess(Image.new("RGB", (64, 64))).shape[:2]
    pixels, ids = torch.zeros(2, 3, height, width), encoder._tokenizer(list(PROMPTS[:2]))
    for encode, name, example, axes in (
        ("encode_image", "pixels", pixels, {0: "n"}),
        ("encode_text", "ids", ids, {0: "n", 1: "tokens"}),
    ):
        graph = export(Tower(model, encode), name, example, axes)
        point_to_weights(graph.graph, places)
        graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = encoder.info.dim
        helper.set_model_props(graph, {FINGERPRINT_KEY: encoder.info.fingerprint})
        yield graph


def places_in(path: Path) -> dict[str, Place]:
    """Where the tensors of a safetensors file lie, by name."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    if unknown := {tensor["dtype"] for tensor in header.values()} - set(TYPES):
        raise ModelError(f"{path} holds numbers as {', '.join(sorted(unknown))}; store them as F16, F32 or F8_E4M3")
    places = {}
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        places[name] = Place(TYPES[tensor["dtype"]], tensor["shape"], 8 + size + begin, end - begin)
    return places


def export(tower: Tower, name: str, example: torch.Tensor, axes: dict[int, str]) -> onnx.ModelProto:
    """A tower as a graph; since nothing is folded, parameters keep their names."""
    file = io.BytesIO()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether the graph is right is for the comparison to say
            torch.onnx.export(
                tower.eval(), (example,), file, dynamo=False, opset_version=20, do_constant_folding=False,
                input_names=[name], output_names=["vectors"], dynamic_axes={name: axes, "vectors": {0: "n"}},
            )  # fmt: skip
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return onnx.load_from_string(file.getvalue())


def point_to_weights(graph: onnx.GraphProto, places: dict[str, Place]) -> None:
    """Put places in the weights file where the initialisers are, and cast to float32 what is stored in less.

    Tables that are only looked up are cast after the look-up: all of a vocabulary would take time and memory.
    """
    small: dict[str, int] = {}
    external = []
    for tensor in graph.initializer:
        place = places.get(tensor.name.removeprefix("model."))
        if place is None or place.shape != list(tensor.dims):
            raise ModelError(f"the graph needs {tensor.name}, which {WEIGHTS} does not hold in this shape")
        if place.type in (TensorProto.FLOAT16, TensorProto.UINT8):
            small[tensor.name] = place.type
        external.append(pointer(tensor.name + STORED * (tensor.name in small), place))
    used_whole = {name for node in graph.node for i, name in enumerate(node.input) if node.op_type != "Gather" or i > 0}
    if TensorProto.UINT8 in small.values():
        external.append(meaning_of_bytes())
    nodes = [node for name in sorted(small.keys() & used_whole) for node in widened(name, small[name])]
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in small.keys() - used_whole:
            nodes += widened(node.output[0], small[node.input[0]])
            node.input[0] += STORED
            node.output[0] += STORED
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(external)
    graph.node.extend(nodes)


def widened(name: str, stored: int) -> list[onnx.NodeProto]:
    """Nodes that make float32 of numbers stored in half precision, or of the bytes of float8."""
    if stored == TensorProto.FLOAT16:
        return [helper.make_node("Cast", [name + STORED], [name], to=TensorProto.FLOAT)]
    return [
        helper.make_node("Cast", [name + STORED], [name + ".bytes"], to=TensorProto.INT32),
        helper.make_node("Gather", [FLOAT8, name + ".bytes"], [name]),
    ]


def meaning_of_bytes() -> TensorProto:
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return numpy_helper.from_array(values.numpy(), FLOAT8)


def pointer(name: str, place: Place) -> TensorProto:
    external = TensorProto.EXTERNAL
    tensor = TensorProto(name=name, dims=place.shape, data_type=place.type, data_location=external)
    for key, value in (("location", WEIGHTS), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def check(folder: Path) -> None:
    """Compare both towers, the tokenizers and the preprocessing with torch's, open_clip's and transformers'.

    Raises:
        ModelError: they differ.
    """
    spec = parse_spec(str(folder))
    files = locate(spec)
    ours, theirs = OnnxEncoder(spec, files, file_digest), OpenClipEncoder(spec, files, "cpu", "fp32", file_digest)
    same_scale = np.isclose(ours.info.logit_scale, theirs.info.logit_scale, rtol=1e-6)
    if not same_scale or replace(ours.info, logit_scale=theirs.info.logit_scale) != theirs.info:
        raise ModelError(f"{folder}: {ours.info} is not {theirs.info}")
    if ours.tokenize(PROMPTS) != theirs.tokenize(PROMPTS):
        raise ModelError(f"{folder}: tokenizers counts other tokens than transformers")
    pictures = [picture(size) for size in SIZES]
    batch = [ours.preprocess(each) for each in pictures]
    if not np.array_equal(batch, [theirs.preprocess(each) for each in pictures]):
        raise ModelError(f"{folder}: the pictures are prepared otherwise than open_clip does")
    for what, got, expected in (
        ("image", ours.encode_images(batch), theirs.encode_images(batch)),
        ("text", ours.encode_texts(PROMPTS), theirs.encode_texts(PROMPTS)),
    ):
        cosine = float((got * expected).sum(axis=1).min())
        if not cosine >= LEAST_COSINE:
            raise ModelError(f"{folder}: {what}.onnx disagrees with torch, cosine {cosine:.6f}")
        print(f"{what}.onnx agrees with torch, cosine {cosine:.7f} or more")


def picture(size: tuple[int, int]) -> Image.Image:
    """Coloured clouds, the same at every call."""
    noise = np.random.default_rng(size).integers(0, 256, (9, 7, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="only compare the graphs that are there")
    options = parser.parse_args()
    try:
        (check if options.check else trace)(options.folder)
    except ClipclsError as exc:
        print(exc, file=sys.stderr)
        raise SystemExit(exc.exit_code) from exc


if __name__ == "__main__":
    main()
