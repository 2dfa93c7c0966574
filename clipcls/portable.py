"""References to images as text: kept in a plan today, opened by another process or after a crash tomorrow.

Not pickled: a plan lies in a folder that anybody may have written, and unpickling runs what is in it. Only functions of
``clipcls.sources`` and ``clipcls.video`` are called, which open files.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any

from clipcls.records import FileStamp, ImageRef

_MODULES = ("clipcls.sources", "clipcls.video")
_LARGEST = 1 << 63

Plain = Any
"""What JSON holds."""


def packed(ref: ImageRef) -> Plain:
    """A reference as JSON holds it.

    Raises:
        TypeError: it is opened by something else than a function of the sources, with plain arguments.
    """
    extra = {name: plain(value) for name, value in ref.extra.items()}
    return [ref.id, ref.base, ref.stat and ref.stat.path, _pack(ref.open), *([extra] if extra else [])]


def unpacked(data: Plain) -> ImageRef:
    """The reference that ``packed`` was given; its file's stamp is that of now.

    Raises:
        ValueError: ``packed`` wrote nothing of the kind.
    """
    try:
        name, base, path, opening, *extra = data
        opens = _unpack(opening)
        if not callable(opens):
            raise ValueError(f"{opening!r} opens nothing")
        return ImageRef(name, base, None if path is None else _stamp(path), opens, *extra)
    except (TypeError, KeyError, ImportError, AttributeError) as exc:
        raise ValueError(f"not a reference to an image: {exc}") from exc


def plain(value: Any) -> Plain:
    """What an image carries along as a number, a text or a truth value; what is none of them as text."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -_LARGEST <= value < _LARGEST else str(value)
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of numpy's
        return plain(value.item())
    if isinstance(value, list | tuple | Mapping):
        return _json(value)
    return str(value)


def kind(value: Plain) -> str:
    """The name of the type of one of ``plain``'s values: bool, int, float or str."""
    return type(value).__name__


def common(one: str, other: str) -> str:
    """The type that holds the values of two; that of no value is empty."""
    if one == other or not (one and other):
        return one or other
    return "float" if {one, other} == {"int", "float"} else "str"


def as_kind(value: Plain, kind: str) -> Plain:
    """One of ``plain``'s values in a column of a type that ``common`` chose."""
    if value is None:
        return None
    if kind == "str":
        return value if isinstance(value, str) else _json(value)
    return float(value) if kind == "float" else value


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, default=str)


def _stamp(path: str) -> FileStamp | None:
    """A file's stamp as it is now, by the path that the old one had; a frame's path ends in a mark behind its video's.

    An old stamp would answer for what the file held then.
    """
    video, mark, _ = path.rpartition("#t=")
    for file in (path, *([video] if mark else [])):
        try:
            found = os.stat(file)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(found.st_mode):
            return FileStamp(path, found.st_size, found.st_mtime_ns)
    return None


def _pack(value: Any) -> Plain:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_pack(item) for item in value]
    if isinstance(value, Mapping):
        return {"map": [[_pack(key), _pack(item)] for key, item in value.items()]}
    if isinstance(value, partial):
        return {"call": _name(value.func), "with": _pack(value.args), "named": _pack(value.keywords)}
    return {"call": _name(value), "with": [], "named": _pack({})}


def _unpack(data: Plain) -> Any:
    if isinstance(data, list):
        return tuple(_unpack(item) for item in data)
    if not isinstance(data, dict):
        return data
    if "bytes" in data:
        return base64.b64decode(data["bytes"])
    if "map" in data:
        return {_unpack(key): _unpack(item) for key, item in data["map"]}
    function = _function(data["call"])
    args, named = _unpack(data["with"]), _unpack(data["named"])
    return partial(function, *args, **named) if args or named else function


def _name(function: Any) -> str:
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', None)}"
    try:
        if _function(name) is function:
            return name
    except (ValueError, ImportError, AttributeError):
        pass
    raise TypeError(f"{function!r} is no function of {' or '.join(_MODULES)}, so that no other process could call it")


def _function(name: str) -> FunctionType:
    module, _, attribute = name.partition(":")
    if not any(module == known or module.startswith(known + ".") for known in _MODULES):
        raise ValueError(f"{name} is no function that opens images")
    function = getattr(import_module(module), attribute)
    if not isinstance(function, FunctionType) or function.__module__ != module:
        raise ValueError(f"{name} is no function that opens images")
    return function
