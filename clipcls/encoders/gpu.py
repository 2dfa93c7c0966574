"""Whether this machine may have a graphics card that torch can use; told without torch, in milliseconds."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

_DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


@cache
def may_have_gpu() -> bool:
    """Whether NVIDIA's driver counts a card, or the machine is an Apple one with a GPU of its own."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        driver = ctypes.CDLL(_DRIVERS.get(sys.platform, ""))
        count = ctypes.c_int()
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
