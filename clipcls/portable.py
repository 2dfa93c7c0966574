"""References to images as text: kept in a plan today, opened by another process or after a crash tomorrow.

Not pickled: a plan lies in a folder that anybody may have written, and unpickling runs what is in it. Only functions of
``clipcls.sources`` and ``clipcls.video`` are called, which open files, with plain values and small records.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, EnumType
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any

from clipcls.records import FileStamp, ImageRef
from clipcls.sources.opening import refused
from clipcls.sources.remote import CHANGED

_MODULES = ("clipcls.sources", "clipcls.video", "clipcls.records")
_LARGEST = 1 << 63

Plain = Any
"""What JSON holds."""


def packed(ref: ImageRef) -> Plain:
    """A reference as JSON holds it.

    Raises:
        TypeError: it is opened by something else than a function of the sources, with plain arguments.
    """
    extra = {name: plain(value) for name, value in ref.extra.items()}
    stamp = ref.stat and [ref.stat.path, ref.stat.size, ref.stat.mtime_ns]
    return [ref.id, ref.base, stamp, _pack(ref.open), *([extra] if extra else [])]


def unpacked(data: Plain) -> ImageRef:
    """The reference that ``packed`` was given; its file's stamp is that of now.

    An old stamp would answer for what the file held then.

    Raises:
        ValueError: ``packed`` wrote nothing of the kind.
    """
    try:
        name, base, stamp, opening, *extra = data
        opens = _unpack(opening)
        if not callable(opens):
            raise ValueError(f"{opening!r} opens nothing")
        old = stamp and FileStamp(*stamp)
        new = old and _stamp_now(old)
        if old and new and _is_member(old.path) and new != old:
            return refused(name, base, CHANGED, *extra)
        return ImageRef(name, base, new or None, opens, *extra)
    except (TypeError, KeyError, ImportError, AttributeError) as exc:
        raise ValueError(f"not a reference to an image: {exc}") from exc


def plain(value: Any) -> Plain:
    """What an image carries along as a number, a text or a truth value; what is none of them as text."""
    if value is None or isinstance(value, bool):
        return value
    for exact in (float, str):
        if isinstance(value, exact):
            return exact(value)
    if isinstance(value, int):
        return int(value) if -_LARGEST <= value < _LARGEST else str(value)
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


def _stamp_now(old: FileStamp) -> FileStamp | None:
    """A file's stamp, or that of what lies in it: its path then ends in ``#`` and a mark."""
    whole, mark, _ = old.path.rpartition("#")
    for path in (old.path, *([whole] if mark else [])):
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(found.st_mode):
            return FileStamp(old.path, found.st_size if path == old.path else old.size, found.st_mtime_ns)
    return None


def _is_member(path: str) -> bool:
    """Whether a stamp is of what lies at some place of an archive, where another archive holds another thing."""
    return re.search(r"#\d+$", path) is not None and not os.path.lexists(path)


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
    if isinstance(value, Enum):
        return {"one": _name(type(value)), "of": value.name}
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "new": _name(type(value)),
            "named": _pack({each.name: getattr(value, each.name) for each in fields(value)}),
        }
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
    if "one" in data:
        return _known(data["one"], EnumType)[data["of"]]
    if "new" in data:
        return _known(data["new"], type)(**_unpack(data["named"]))
    function = _known(data["call"], FunctionType)
    args, named = _unpack(data["with"]), _unpack(data["named"])
    return partial(function, *args, **named) if args or named else function


def _name(named: Any) -> str:
    name = f"{getattr(named, '__module__', None)}:{getattr(named, '__qualname__', None)}"
    try:
        if _known(name, object) is named:
            return name
    except (ValueError, ImportError, AttributeError):
        pass
    raise TypeError(f"{named!r} is nothing of {' or '.join(_MODULES)}, so that no other process could call it")


def _known(name: str, kind: type) -> Any:
    """A function or class of the modules that are allowed, by its name."""
    module, _, attribute = name.partition(":")
    if any(module == known or module.startswith(known + ".") for known in _MODULES):
        found = getattr(import_module(module), attribute)
        is_data = not isinstance(found, type) or is_dataclass(found) or issubclass(found, Enum)
        if isinstance(found, kind) and getattr(found, "__module__", None) == module and is_data:
            return found
    raise ValueError(f"{name} opens no image")
