"""A tower as an ONNX graph that holds no weights, but says where in which safetensors file they are."""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812

from clipcls.encoders.traced import OWN_WEIGHTS
from clipcls.errors import ModelError

_TYPES = {
    "F64": TensorProto.DOUBLE,
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "I64": TensorProto.INT64,
    "I32": TensorProto.INT32,
    "BOOL": TensorProto.BOOL,
    "F8_E4M3": TensorProto.UINT8,
}
"""ONNX Runtime looks nothing up in tables of float8; their bytes it does, and then what each byte means."""
_SMALL = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8)
"""What is stored in less than the towers compute in."""
_NUMPY: dict[int, str] = {
    TensorProto.FLOAT: "<f4",
    TensorProto.FLOAT16: "<f2",
    TensorProto.UINT8: "u1",
    TensorProto.INT64: "<i8",
}
_STORED = ".stored"
"""What is added to the name of numbers that are still as small as the file has them."""
_FLOAT8 = "float8"
"""The table of what the 256 bytes of float8 (e4m3) mean."""
_MODULE = "model."
"""What the exporter puts before a weight's name: the attribute of the traced module that holds the model."""
_LARGEST = 2_000_000
"""Bytes of a graph; one that is larger holds weights."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in a safetensors file, in bytes."""

    file: str
    type: int
    shape: list[int]
    offset: int
    length: int


def places_in(path: Path, name: str) -> dict[str, Place]:
    """Where the tensors of a safetensors file lie, by name.

    Args:
        path: the file.
        name: what it is called beside the graph.
    """
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    places = {}
    for tensor, said in header.items():
        if said["dtype"] in _TYPES:
            begin, end = said["data_offsets"]
            places[tensor] = Place(name, _TYPES[said["dtype"]], said["shape"], 8 + size + begin, end - begin)
    return places


def export(tower: torch.nn.Module, inputs: Mapping[str, torch.Tensor], tokens: bool) -> onnx.ModelProto:
    """A tower as a graph whose weights are inputs by their own names.

    Args:
        tower: a module whose attribute ``model`` holds the weights.
        inputs: an example of each input, for whose first axis any length is accepted afterwards.
        tokens: whether the second axis may be of any length too.
    """
    file = io.BytesIO()
    axes = {name: {0: "n", 1: "tokens"} if tokens else {0: "n"} for name in inputs}
    with _plainly(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether the graph is right is for the comparison to say
        torch.onnx.export(
            tower.eval(), tuple(inputs.values()), cast(Any, file), dynamo=False, opset_version=20,
            do_constant_folding=False, export_params=False, input_names=list(inputs), output_names=["vectors"],
            dynamic_axes=axes | {"vectors": {0: "n"}},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def point_to_weights(
    graph: onnx.GraphProto, inputs: Mapping[str, torch.Tensor], places: Mapping[str, Place]
) -> dict[str, list[object]]:
    """Make initialisers of the weights among a graph's inputs, and cast to float32 what is stored in less.

    Tables that are only looked up are cast after the look-up: all of a vocabulary would take time and memory.

    Returns:
        By each initialiser's name the file, numpy type, shape and offset of its numbers.

    Raises:
        ModelError: there is no place for a weight.
    """
    named = [node.name for node in graph.input if node.name not in inputs]
    found = {name: places[name.removeprefix(_MODULE)] for name in named}
    small = {name: place.type for name, place in found.items() if place.type in _SMALL}
    graph.initializer.extend(_pointer(name + _STORED * (name in small), place) for name, place in found.items())
    if TensorProto.UINT8 in small.values():
        graph.initializer.append(_meaning_of_bytes())
    used_whole = {name for node in graph.node for i, name in enumerate(node.input) if node.op_type != "Gather" or i > 0}
    nodes = [node for name in sorted(small.keys() & used_whole) for node in _widened(name, small[name])]
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Gather" and node.input[0] in small.keys() - used_whole:
            nodes += _widened(node.output[0], small[node.input[0]])
            node.input[0] += _STORED
            node.output[0] += _STORED
    kept = [node for node in graph.input if node.name in inputs]
    del graph.input[:], graph.node[:]
    graph.input.extend(kept)
    graph.node.extend(nodes)
    return {
        name + _STORED * (name in small): [place.file, _NUMPY[place.type], place.shape, place.offset]
        for name, place in found.items()
        if place.type in _NUMPY
    }


def content(model: onnx.ModelProto, dim: int, properties: dict[str, str]) -> bytes:
    """A graph as a file's bytes, the same for the same model.

    Raises:
        ModelError: it holds weights.
    """
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = dim
    helper.set_model_props(model, properties)
    data: bytes = model.SerializeToString(deterministic=True)
    if len(data) >= _LARGEST:
        raise ModelError(f"its graph would take {len(data):,} bytes: it holds weights")
    return data


def find_places(state: Mapping[str, torch.Tensor], files: Mapping[Path, str], folder: Path) -> dict[str, Place]:
    """Where each weight lies in a model's files; what they do not hold goes into a file of its own beside the graphs.

    They do not hold what was resized, or came out of a pickle.

    Args:
        state: the weights in use, by name.
        files: the model's safetensors files, and what each is called beside the graphs.
        folder: where the graphs go.
    """
    there = {name: (path, place) for path, file in files.items() for name, place in places_in(path, file).items()}
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, (_, place) in there.items():
        by_shape.setdefault(tuple(place.shape), []).append(name)
    opened: dict[Path, Any] = {path: safe_open(path, framework="pt") for path in files}
    found: dict[str, Place] = {}
    own = {}
    for name, tensor in state.items():
        # Under its own name, else under one that the weights had before the model was built of them.
        alike = sorted(by_shape.get(tuple(tensor.shape), ()), key=lambda other: other != name)
        for other in alike:
            path, place = there[other]
            if torch.equal(opened[path].get_tensor(other).to(tensor.dtype), tensor):
                found[name] = place
                break
        else:
            own[name] = tensor
    return found | (_saved(own, folder) if own else {})


def quantize(path: Path, properties: dict[str, str]) -> None:
    """Turn a graph's products to 8-bit weights, and inputs scaled batch by batch (dynamic), with weights of its own."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_name(f"plain.{path.name}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Weights in float32 and nothing in their way, which is what the quantiser knows how to read.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(plain)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{plain.name}.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    path.unlink()
    quantize_dynamic(
        plain,
        path,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,
    )
    model = onnx.load(path, load_external_data=False)
    helper.set_model_props(model, properties)
    path.write_bytes(model.SerializeToString(deterministic=True))
    for left in path.parent.glob(f"{plain.name}*"):
        left.unlink()


def _saved(weights: Mapping[str, torch.Tensor], folder: Path) -> dict[str, Place]:
    path = folder / OWN_WEIGHTS
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}, path)
    return places_in(path, OWN_WEIGHTS)


def _widened(name: str, stored: int) -> list[onnx.NodeProto]:
    """Nodes that make float32 of numbers stored in half precision, or of the bytes of float8."""
    if stored != TensorProto.UINT8:
        return [helper.make_node("Cast", [name + _STORED], [name], to=TensorProto.FLOAT)]
    return [
        helper.make_node("Cast", [name + _STORED], [name + ".bytes"], to=TensorProto.INT32),
        helper.make_node("Gather", [_FLOAT8, name + ".bytes"], [name]),
    ]


def _meaning_of_bytes() -> TensorProto:
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return numpy_helper.from_array(values.numpy(), _FLOAT8)


def _pointer(name: str, place: Place) -> TensorProto:
    external = TensorProto.EXTERNAL
    tensor = TensorProto(name=name, dims=place.shape, data_type=place.type, data_location=external)
    for key, value in (("location", place.file), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


@contextmanager
def _plainly() -> Iterator[None]:
    """Attention and linear layers as the exporter writes them best.

    torch's own attention is fused, and the exporter puts fixed lengths into what it makes of it. A linear layer over
    three axes becomes a product with a transposed copy of the weights, which takes a tower half as long again to open.
    """
    attention, linear = torch.nn.MultiheadAttention.forward, F.linear
    fused = torch.backends.mha.get_fastpath_enabled()

    def flat(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if inputs.dim() != 3:
            return linear(inputs, weight, bias)
        rows = linear(inputs.reshape(-1, weight.shape[1]), weight, bias)
        return rows.reshape(inputs.shape[0], -1, weight.shape[0])

    torch.backends.mha.set_fastpath_enabled(False)
    torch.nn.MultiheadAttention.forward, F.linear = _attention, flat  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.MultiheadAttention.forward, F.linear = attention, linear  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fused)


def _attention(
    self: torch.nn.MultiheadAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """``torch.nn.MultiheadAttention.forward`` for what CLIP's towers ask of it."""
    if not self.batch_first or self.in_proj_weight is None or key_padding_mask is not None or self.bias_k is not None:
        raise ModelError("its attention is of a kind that is not traced")
    if query is key:
        parts = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
    else:
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weights = self.in_proj_weight.chunk(3)
        parts = tuple(F.linear(*each) for each in zip((query, key, value), weights, biases, strict=True))
    return self.out_proj(attended(parts, self.num_heads, attn_mask)), None


def attended(parts: Sequence[torch.Tensor], heads: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Scaled dot-product attention of several heads (Vaswani et al., "Attention Is All You Need", 2017, section 3.2).

    Args:
        parts: queries, keys and values: [n, tokens, D].
        heads: how many share D.
        mask: what must not be looked at, as bool, or what is added to the scores.

    Returns:
        [n, queries, D].
    """
    width = int(parts[-1].shape[-1])  # a number and not part of the graph
    split = (each.reshape(each.shape[0], -1, heads, width // heads).transpose(1, 2) for each in parts)
    queries, keys, values = split
    scores = (queries * (width // heads) ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(mask, -np.inf) if mask.dtype == torch.bool else scores + mask
    mixed: torch.Tensor = (scores.softmax(-1) @ values).transpose(1, 2)
    return mixed.reshape(mixed.shape[0], -1, width)
