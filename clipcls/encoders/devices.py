"""Devices: which one to use, and what it looks like when one fails or runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipcls.encoders.base import out_of_memory
from clipcls.errors import DeviceError


def resolve_device(asked: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` stands for here.

    Raises:
        DeviceError: this machine, or this build of torch, does not have it.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if asked == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(asked)
    if device.type == "cuda" and not cuda:
        raise DeviceError("no CUDA device: torch sees none (a driver or a CUDA build is missing); use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= cuda:
        raise DeviceError(f"no device {asked}: this machine has cuda:0 to cuda:{cuda - 1}")
    if device.type == "mps" and not mps:
        raise DeviceError("no MPS device: it needs an Apple GPU and macOS; use --device cpu")
    return device


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A batch on its way from this machine's memory to the device."""
    if device.type != "cuda":
        return values.to(device)
    # Pinned, the copy is the card's own business, and what follows is handed to it meanwhile.
    return values.pin_memory().to(device, non_blocking=True)


@contextmanager
def device_errors() -> Iterator[None]:
    """Turn every way in which torch says that memory ran out into OutOfMemory, and a failing GPU into DeviceError."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if smaller := out_of_memory(exc, torch.OutOfMemoryError):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise smaller from exc
        if "cuda error" in str(exc).lower():
            raise DeviceError(f"the GPU failed: {str(exc).splitlines()[0]}; use --device cpu") from exc
        raise
