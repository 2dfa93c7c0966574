"""What the towers compute in: float32, half precision under autocast, or 8-bit integers on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from clipcls.encoders.devices import device_errors
from clipcls.errors import DeviceError
from clipcls.records import Precision

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMPERE = 8
"""The first generation of NVIDIA's cards that computes in bfloat16, by compute capability."""


def resolve_precision(asked: Precision | str, device: torch.device) -> Precision:
    """What a precision comes to on a device; ``auto`` is float32 on the CPU and the safest half on a CUDA card.

    Raises:
        DeviceError: the device has no such precision.
    """
    if asked == "auto":
        if device.type != "cuda":
            return "fp32"
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= _AMPERE else "fp16"
    if asked == "int8" and device.type != "cpu":
        raise DeviceError(f"int8 is for the CPU, not for {device.type}: use --precision auto or --device cpu")
    if asked == "fp16" and device.type == "cpu":
        raise DeviceError("fp16 is for a graphics card, not for the CPU: use --precision auto, bf16 or int8")
    return asked  # type: ignore[return-value]


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run a tower: without gradients, in the precision, with the device's failures told as such.

    Half precision is autocast's: weights stay float32, and what needs its range (norms, softmax) is computed in it.
    """
    half = _HALF.get(precision)
    with (
        torch.inference_mode(),
        device_errors(),
        torch.autocast(device.type, dtype=half, enabled=half is not None),
    ):
        yield


def quantize(model: Any) -> None:
    """Turn a model's linear layers, in place, to 8-bit weights and activations scaled batch by batch (dynamic).

    Raises:
        DeviceError: this build of torch cannot.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated in favour of a package of its own
            from torch.ao.nn.quantized.dynamic import Linear
            from torch.ao.quantization import quantize_dynamic

            quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
        for module in model.modules():
            if isinstance(module, Linear):
                # Where open_clip looks for what to cast its inputs to.
                vars(module)["int8_original_dtype"] = torch.float32
    except (ImportError, RuntimeError, AttributeError) as exc:
        raise DeviceError(f"this build of torch does not compute in int8: {exc}; use --precision auto") from exc
